//! Counters by slot that requests read and events add to without a lock.

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CHUNK: usize = 1024;

type Row<const N: usize> = [AtomicU64; N];
type Chunks<const N: usize> = Vec<Arc<Vec<Row<N>>>>;

/// `N` counters for each slot. Grows when a slot beyond its end is added to; never shrinks.
#[derive(Debug)]
pub(super) struct Counters<const N: usize> {
    chunks: ArcSwap<Chunks<N>>,
    /// Held only to append chunks.
    growth: Mutex<()>,
}

/// A steady view for several reads.
pub(super) struct View<const N: usize>(Guard<Arc<Chunks<N>>>);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self { chunks: ArcSwap::default(), growth: Mutex::new(()) }
    }
}

fn row<const N: usize>(chunks: &Chunks<N>, slot: u32) -> Option<&Row<N>> {
    let slot = slot as usize;
    chunks.get(slot / CHUNK).map(|chunk| &chunk[slot % CHUNK])
}

impl<const N: usize> Counters<N> {
    pub(super) fn view(&self) -> View<N> {
        View(self.chunks.load())
    }

    pub(super) fn read(&self, slot: u32) -> [u64; N] {
        self.view().read(slot)
    }

    pub(super) fn add(&self, slot: u32, amounts: [u64; N]) {
        self.add_from(slot, 0, &amounts);
    }

    /// Adds to the counters of a slot from position `first` on.
    pub(super) fn add_from(&self, slot: u32, first: usize, amounts: &[u64]) {
        self.with(slot, |row| {
            for (counter, &amount) in row.iter().skip(first).zip(amounts) {
                if amount > 0 {
                    // A counter that has seen 2^64 stays there instead of starting anew.
                    let _ = counter
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old.saturating_add(amount)));
                }
            }
        });
    }

    /// Replaces a row: for restoring a saved state.
    pub(super) fn set(&self, slot: u32, values: [u64; N]) {
        self.with(slot, |row| {
            for (counter, value) in row.iter().zip(values) {
                counter.store(value, Ordering::Relaxed);
            }
        });
    }

    /// Applies `change` to every counter; additions made meanwhile are kept.
    pub(super) fn map(&self, change: impl Fn(u64) -> u64) {
        for counter in self.chunks.load().iter().flat_map(|chunk| chunk.iter()).flatten() {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(change(old)));
        }
    }

    fn with(&self, slot: u32, act: impl Fn(&Row<N>)) {
        if let Some(row) = row(&self.chunks.load(), slot) {
            return act(row);
        }
        let _turn = self.growth.lock();
        let mut chunks = Chunks::clone(&self.chunks.load());
        while chunks.len() <= slot as usize / CHUNK {
            chunks.push(Arc::new((0..CHUNK).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect()));
        }
        if let Some(row) = row(&chunks, slot) {
            act(row);
        }
        self.chunks.store(Arc::new(chunks));
    }
}

impl<const N: usize> View<N> {
    pub(super) fn read(&self, slot: u32) -> [u64; N] {
        row(&self.0, slot).map_or([0; N], |row| std::array::from_fn(|i| row[i].load(Ordering::Relaxed)))
    }
}
