//! The engine: instruction set, threads, and the attention calls.

mod isa;

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use crate::ffi::Crew;
use crate::tile::{self, Cut, Tile};
use crate::{CandidateSeq, CausalSeq, KernelError, MatrixMut, Scoring, Shape, ffi, portable};

pub use isa::Isa;

/// Below this many multiply-adds in all, waking other threads costs more than it saves (about 20 us of one core).
const INLINE_COST: usize = 1 << 20;

/// Runs kernels on its own threads with one instruction set. Calls block; while one call has the threads, others run on their
/// caller's.
pub struct Engine {
    isa: Isa,
    threads: usize,
    crew: Option<Crew>,
}

/// Lists of an attention call, kept by the calling thread: after its largest call nothing is allocated.
#[derive(Default)]
struct Lists {
    tiles: Vec<Tile<'static>>,
    split: Vec<(Tile<'static>, Cut)>,
    sums: Vec<f32>,
}

thread_local! {
    static LISTS: Cell<Lists> = Cell::default();
}

/// An empty list with the memory of `list`: the two types differ in lifetimes only, so the memory fits.
pub fn recycle<T, U>(mut list: Vec<T>) -> Vec<U> {
    list.clear();
    list.into_iter().filter_map(|_| None).collect()
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("isa", &self.isa).field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts `threads` threads (0: one for each core this process may use), the caller's being one of them. `isa` overrides
    /// the detected instruction set.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] when this machine lacks `isa`, [`KernelError::Threads`] when threads cannot start.
    pub fn new(threads: usize, isa: Option<Isa>) -> Result<Self, KernelError> {
        let isa = match isa {
            Some(wanted) => wanted.require()?,
            None => Isa::detect(),
        };
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        };
        let start = |helpers| Crew::new(helpers).map_err(|e| KernelError::Threads { threads, reason: e.to_string() });
        let crew = if threads > 1 { Some(start(threads - 1)?) } else { None };
        Ok(Self { isa, threads, crew })
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads in use.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Attention of history rows over the history, for a batch of users of any lengths. Overwrites each `out`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when lengths do not fit; nothing is written then.
    pub fn causal(&self, shape: Shape, scoring: &Scoring<'_>, seqs: &mut [CausalSeq<'_>]) -> Result<(), KernelError> {
        shape.check()?;
        scoring.check()?;
        for seq in seqs.iter() {
            seq.check(&shape, scoring)?;
        }
        let wholes = seqs.iter_mut().filter(|s| s.q.rows() > 0).map(tile::causal_tile);
        self.attend(shape, scoring, wholes)
    }

    /// Attention of candidate rows over the history and themselves, for a batch of users. Overwrites each `out`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when lengths do not fit; nothing is written then.
    pub fn candidates(
        &self,
        shape: Shape,
        scoring: &Scoring<'_>,
        seqs: &mut [CandidateSeq<'_>],
    ) -> Result<(), KernelError> {
        shape.check()?;
        scoring.check()?;
        for seq in seqs.iter() {
            seq.check(&shape, scoring)?;
        }
        let wholes = seqs.iter_mut().filter(|s| s.q.rows() > 0).map(tile::candidate_tile);
        self.attend(shape, scoring, wholes)
    }

    /// Cuts whole sequences into tiles and runs them, dearest first.
    fn attend<'s>(
        &self,
        shape: Shape,
        scoring: &Scoring<'_>,
        wholes: impl Iterator<Item = Tile<'s>>,
    ) -> Result<(), KernelError> {
        let Lists { tiles, split, mut sums } = LISTS.take();
        let (mut tiles, mut split) = (recycle(tiles), recycle(split));
        // Sequences that are cut along their keys wait at the end of the list until their sums have room.
        for whole in wholes {
            let cut = Cut::new(whole.q.rows(), whole.keys.len(), whole.format());
            if cut.ranges > 1 { split.push((whole, cut)) } else { tile::cut_rows(whole, cut, &mut tiles) }
        }
        let width = shape.v_width();
        let rows: usize = split.iter().map(|(whole, cut): &(Tile<'_>, Cut)| whole.q.rows() * cut.ranges).sum();
        if sums.len() < rows * width {
            sums.resize(rows * width, 0.0);
        }
        let mut rest = MatrixMut::dense(&mut sums, rows, width)?;
        for (whole, cut) in &split {
            let (mine, tail) = rest.split_rows(whole.q.rows() * cut.ranges);
            rest = tail;
            tile::cut_keys(whole, *cut, mine, &mut tiles);
        }
        tiles.sort_unstable_by_key(|t| std::cmp::Reverse(t.cost(shape)));
        let cost = tiles.iter().map(|t| t.cost(shape)).sum();
        let result = self.run(cost, tiles.drain(..), |tile| self.tile(shape, scoring, tile));
        let tiles = recycle(tiles);
        if result.is_ok() {
            add_up(&mut split, &sums, width);
        }
        LISTS.set(Lists { tiles, split: recycle(split), sums });
        result
    }

    fn tile(&self, shape: Shape, scoring: &Scoring<'_>, mut tile: Tile<'_>) -> Result<(), KernelError> {
        match self.isa {
            Isa::Portable => {
                portable::attend(shape, scoring, &mut tile);
                Ok(())
            }
            native => ffi::attend(native, shape, scoring, &mut tile),
        }
    }

    /// Runs `work` on every task, in order of the list, on all threads when `cost` (multiply-adds) is worth it.
    pub(crate) fn run<T>(
        &self,
        cost: usize,
        mut tasks: impl Iterator<Item = T> + Send,
        work: impl Fn(T) -> Result<(), KernelError> + Sync,
    ) -> Result<(), KernelError> {
        let Some(crew) = self.crew.as_ref().filter(|_| cost > INLINE_COST) else { return tasks.try_for_each(work) };
        // Tasks are handed out one by one, so the dearest start first whatever thread takes them.
        let (tasks, failed) = (Mutex::new(tasks), Mutex::new(None));
        crew.run(&|| {
            loop {
                let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(task) = task else { break };
                if let Err(e) = work(task) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// Adds the sums of the key ranges into the outputs, in order of the ranges.
fn add_up(split: &mut [(Tile<'_>, Cut)], sums: &[f32], width: usize) {
    let mut at = 0;
    for (whole, cut) in split {
        let rows = whole.q.rows();
        for r in 0..rows {
            let row = whole.out.row_mut(r);
            row.copy_from_slice(&sums[(at + r) * width..][..width]);
            for range in 1..cut.ranges {
                for (o, &s) in row.iter_mut().zip(&sums[(at + range * rows + r) * width..][..width]) {
                    *o += s;
                }
            }
        }
        at += rows * cut.ranges;
    }
}
