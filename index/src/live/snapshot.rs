//! One consistent state of a live index, and the search over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::frozen::Frozen;
use crate::lists::Probe;
use crate::live::delta::Delta;
use crate::plan::{Effort, Method, choose};
use crate::query::check_query;
use crate::rows::pad;
use crate::scan::{Picked, Scan, scan_frozen};
use crate::topk::TopK;
use crate::{Bitmap, Hits, IndexError, Query};

/// What a search sees. Cheap to clone; a published one never changes.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) frozen: Arc<Frozen>,
    /// Slots of the frozen part that are still valid: neither removed nor replaced since.
    pub(crate) alive: Arc<Bitmap>,
    /// How many those are.
    pub(crate) alive_count: usize,
    pub(crate) delta: Delta,
    /// Counts frozen parts: raised by each merge.
    pub(crate) generation: u64,
    /// Counts changes taken.
    pub(crate) changes: u64,
    pub(crate) frozen_at: Instant,
    /// When the oldest change that is not merged yet was made.
    pub(crate) unmerged_since: Option<Instant>,
}

/// Whether the plan or the full scan answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Planned,
    Exact,
}

/// Counts of how searches were answered.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Queries answered from the lists.
    pub(crate) lists: AtomicU64,
    /// Queries answered by scoring every eligible item.
    pub(crate) exact: AtomicU64,
    /// Queries where the lists gave too few, so that the exact scan had to answer.
    pub(crate) fallbacks: AtomicU64,
}

impl Snapshot {
    /// Without changes yet.
    pub(crate) fn new(frozen: Frozen, dim: usize) -> Self {
        let alive = frozen.all();
        Self {
            alive_count: frozen.len(),
            frozen: Arc::new(frozen),
            alive: Arc::new(alive),
            delta: Delta::new(dim),
            generation: 0,
            changes: 0,
            frozen_at: Instant::now(),
            unmerged_since: None,
        }
    }

    /// Items alive.
    pub(crate) fn len(&self) -> usize {
        self.alive_count + self.delta.items()
    }

    /// Frozen rows that are no longer valid.
    pub(crate) fn dead(&self) -> usize {
        self.frozen.len() - self.alive_count
    }

    pub(crate) fn search(
        &self,
        queries: &[Query<'_>],
        way: Way,
        effort: Effort,
        counters: &Counters,
    ) -> Result<Vec<Hits>, IndexError> {
        let masks = self.masks(queries)?;
        let mut tops = Vec::with_capacity(queries.len());
        let mut open = Vec::with_capacity(queries.len());
        let mut padded = Vec::with_capacity(queries.len());
        for (query, mask) in queries.iter().zip(&masks.of) {
            // Nothing is wanted: nothing is searched.
            let idle = query.k == 0;
            padded.push(pad(query.vector));
            let mut top = TopK::new(query.k);
            let (mask, eligible) = masks.get(*mask, self);
            let one = One { query: &padded[padded.len() - 1], k: query.k, mask, eligible };
            let answered = idle || way == Way::Planned && self.search_lists(&one, effort, &mut top, counters)?;
            open.push(!answered);
            tops.push(top);
        }
        let mut scans: Vec<Scan<'_>> = tops
            .iter_mut()
            .zip(padded.iter().zip(&masks.of))
            .zip(&open)
            .filter(|(_, open)| **open)
            .map(|((top, (query, mask)), _)| {
                let (mask, eligible) = masks.get(*mask, self);
                Scan { query, mask, eligible, top }
            })
            .collect();
        counters.exact.fetch_add(scans.len() as u64, Ordering::Relaxed);
        scan_frozen(&self.frozen, &mut scans);
        for ((top, query), padded) in tops.iter_mut().zip(queries).zip(&padded) {
            self.delta.scan(padded, query.eligible, top);
        }
        Ok(tops.into_iter().map(TopK::into_hits).collect())
    }

    /// The best `k` of the named items that are alive, by exact scores; `query` is padded.
    pub(crate) fn best_of(&self, query: &[f32], k: usize, slots: &[u32]) -> Hits {
        let (mut top, mut picked, mut late) = (TopK::new(k), Picked::default(), Bitmap::new());
        for slots in slots.chunks(Picked::CAPACITY) {
            picked.clear();
            for &slot in slots {
                if self.alive.get(slot) {
                    picked.add(slot, self.frozen.row_of(slot));
                } else {
                    late.set(slot);
                }
            }
            picked.score_into(query, self.frozen.rows(), &mut top);
        }
        if !late.is_empty() {
            self.delta.scan(query, Some(&late), &mut top);
        }
        top.into_hits()
    }

    /// Tries the lists; true when `top` then holds as many of the frozen items as there can be.
    fn search_lists(
        &self,
        one: &One<'_>,
        effort: Effort,
        top: &mut TopK,
        counters: &Counters,
    ) -> Result<bool, IndexError> {
        let One { query, k, mask, eligible } = *one;
        let Some(lists) = self.frozen.lists() else { return Ok(false) };
        let Method::Lists { nprobe, fetch } = choose(lists.shape(), effort, eligible, k) else { return Ok(false) };
        lists.search(&self.frozen, &Probe { query, mask, eligible, nprobe, fetch }, top)?;
        if top.settle() < k.min(eligible) {
            top.reset();
            counters.fallbacks.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        counters.lists.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Checks the queries and builds, once for each distinct filter, the set of frozen slots it leaves.
    fn masks<'a>(&self, queries: &[Query<'a>]) -> Result<Masks<'a>, IndexError> {
        let mut masks = Masks { of: Vec::with_capacity(queries.len()), built: Vec::new() };
        for (index, query) in queries.iter().enumerate() {
            check_query(index, query, self.frozen.rows().dim())?;
            let Some(eligible) = query.eligible else {
                masks.of.push(None);
                continue;
            };
            let known = masks.built.iter().position(|(filter, ..)| std::ptr::eq(*filter, eligible));
            let place = known.unwrap_or_else(|| {
                let mut mask = eligible.clone();
                mask.and(&self.alive);
                let count = mask.count();
                masks.built.push((eligible, mask, count));
                masks.built.len() - 1
            });
            masks.of.push(Some(place));
        }
        Ok(masks)
    }
}

/// One query over the frozen part.
struct One<'a> {
    /// Padded.
    query: &'a [f32],
    k: usize,
    /// The slots it may return.
    mask: &'a Bitmap,
    /// How many those are.
    eligible: usize,
}

/// The frozen slots each query may return.
struct Masks<'a> {
    /// For each query its place in `built`; none where no filter was given.
    of: Vec<Option<usize>>,
    /// Filter, the frozen slots it leaves, how many.
    built: Vec<(&'a Bitmap, Bitmap, usize)>,
}

impl Masks<'_> {
    fn get<'b>(&'b self, place: Option<usize>, snapshot: &'b Snapshot) -> (&'b Bitmap, usize) {
        match place {
            None => (&snapshot.alive, snapshot.alive_count),
            Some(place) => (&self.built[place].1, self.built[place].2),
        }
    }
}
