//! The engine: instruction set, threads, and the attention calls.

mod isa;

use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::tile::{self, Cut, Tile};
use crate::{CandidateSeq, CausalSeq, KernelError, MatrixMut, Scoring, Shape, ffi, portable};

pub use isa::Isa;

/// Below this many multiply-adds in all, waking other threads costs more than it saves (about 30 us of one core).
const INLINE_COST: usize = 1 << 20;

/// Runs kernels on its own threads with one instruction set. Calls block; several calls at once share the threads.
#[derive(Debug)]
pub struct Engine {
    isa: Isa,
    threads: usize,
    pool: Option<rayon::ThreadPool>,
}

impl Engine {
    /// Starts `threads` threads (0: one for each core this process may use). `isa` overrides the detected instruction
    /// set. With one thread everything runs on the caller's.
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
        let pool = if threads > 1 {
            let built = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|i| format!("kernel-{i}"))
                .build()
                .map_err(|e| KernelError::Threads { threads, reason: e.to_string() })?;
            Some(built)
        } else {
            None
        };
        Ok(Self { isa, threads, pool })
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
        let wholes = seqs.iter_mut().filter(|s| s.q.rows() > 0).map(tile::causal_tile).collect();
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
        let mut wholes = Vec::with_capacity(seqs.len());
        for seq in seqs.iter() {
            seq.check(&shape, scoring)?;
        }
        for seq in seqs.iter_mut().filter(|s| s.q.rows() > 0) {
            let keys = seq.kv.iter().map(|b| b.k.rows()).sum();
            wholes.push(tile::candidate_tile(seq, keys));
        }
        self.attend(shape, scoring, wholes)
    }

    /// Cuts whole sequences into tiles and runs them, dearest first.
    fn attend(&self, shape: Shape, scoring: &Scoring<'_>, wholes: Vec<Tile<'_>>) -> Result<(), KernelError> {
        let cuts: Vec<Cut> = wholes.iter().map(|w| Cut::new(w.q.rows(), w.keys.len())).collect();
        let width = shape.v_width();
        let partial_rows: usize =
            wholes.iter().zip(&cuts).filter(|(_, c)| c.ranges > 1).map(|(w, c)| w.q.rows() * c.ranges).sum();
        let mut sums = vec![0.0_f32; partial_rows * width];
        let mut split = Vec::new();
        let mut tiles = Vec::with_capacity(wholes.len());
        let mut rest = MatrixMut::dense(&mut sums, partial_rows, width)?;
        for (whole, cut) in wholes.into_iter().zip(cuts) {
            if cut.ranges > 1 {
                let (mine, tail) = rest.split_rows(whole.q.rows() * cut.ranges);
                rest = tail;
                tile::cut_keys(&whole, cut, mine, &mut tiles);
                split.push((whole.out, cut.ranges));
            } else {
                tile::cut_rows(whole, cut, &mut tiles);
            }
        }
        tiles.sort_by_key(|t| std::cmp::Reverse(t.cost(shape)));
        let cost = tiles.iter().map(|t| t.cost(shape)).sum();
        self.run(cost, tiles, |tile| self.tile(shape, scoring, tile))?;
        add_up(split, &sums, width);
        Ok(())
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
    pub(crate) fn run<T: Send>(
        &self,
        cost: usize,
        tasks: Vec<T>,
        work: impl Fn(T) -> Result<(), KernelError> + Sync,
    ) -> Result<(), KernelError> {
        match &self.pool {
            // `par_bridge` hands tasks out one by one, so the dearest start first whatever thread takes them.
            Some(pool) if tasks.len() > 1 && cost > INLINE_COST => {
                pool.install(|| tasks.into_iter().par_bridge().try_for_each(&work))
            }
            _ => tasks.into_iter().try_for_each(work),
        }
    }
}

/// Adds the sums of the key ranges into the outputs, in order of the ranges.
fn add_up(split: Vec<(MatrixMut<'_>, usize)>, sums: &[f32], width: usize) {
    let mut at = 0;
    for (mut out, ranges) in split {
        let rows = out.rows();
        for r in 0..rows {
            let row = out.row_mut(r);
            row.copy_from_slice(&sums[(at + r) * width..][..width]);
            for range in 1..ranges {
                for (o, &s) in row.iter_mut().zip(&sums[(at + range * rows + r) * width..][..width]) {
                    *o += s;
                }
            }
        }
        at += rows * ranges;
    }
}
