//! The one state that writers share, behind a lock that searches never take.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::frozen::Frozen;
use crate::live::Snapshot;

/// What the writers share.
#[derive(Debug)]
pub(super) struct Writer {
    /// The state being written; published by cloning (all parts are behind `Arc`).
    pub(super) now: Snapshot,
    /// Where each new item lies in the delta.
    pub(super) places: HashMap<u32, usize>,
    /// Places in the delta whose item was removed.
    free: Vec<usize>,
    /// Slots changed since the running merge began; none while no merge runs.
    pub(super) touched: Option<HashSet<u32>>,
    pub(super) merges: u64,
    pub(super) merge_failures: u64,
    pub(super) merge_error: Option<String>,
    /// No merge is started by itself before this many changes: a failing build is not repeated at every write.
    pub(super) merge_after_changes: u64,
}

impl Writer {
    pub(super) fn new(now: Snapshot) -> Self {
        Self {
            places: now.delta.iter().collect(),
            now,
            free: Vec::new(),
            touched: None,
            merges: 0,
            merge_failures: 0,
            merge_error: None,
            merge_after_changes: 0,
        }
    }

    /// A merge ended without a result.
    pub(super) fn failed(&mut self, cause: String, pause: usize) {
        self.merge_failures += 1;
        self.merge_error = Some(cause);
        self.merge_after_changes = self.now.changes + pause as u64;
    }

    /// Whether `slot` can be put without a new place, or there is one.
    pub(super) fn has_room_for(&self, slot: u32, max: usize) -> bool {
        self.places.contains_key(&slot) || !self.free.is_empty() || self.now.delta.places() < max
    }

    /// True if the item was not there.
    pub(super) fn put(&mut self, slot: u32, unit: &[f32]) -> bool {
        let was_frozen = self.forget_frozen(slot);
        self.note(slot);
        if let Some(&place) = self.places.get(&slot) {
            self.now.delta.put(place, slot, unit);
            return false;
        }
        let place = match self.free.pop() {
            Some(place) => {
                self.now.delta.put(place, slot, unit);
                place
            }
            None => self.now.delta.push(slot, unit),
        };
        self.places.insert(slot, place);
        !was_frozen
    }

    /// True if the item was there.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        let was_frozen = self.forget_frozen(slot);
        let place = self.places.remove(&slot);
        if let Some(place) = place {
            self.now.delta.take(place);
            self.free.push(place);
        }
        let was_there = was_frozen || place.is_some();
        if was_there {
            self.note(slot);
        }
        was_there
    }

    /// Marks the frozen row of `slot` as no longer valid; true if it was.
    fn forget_frozen(&mut self, slot: u32) -> bool {
        if !self.now.alive.get(slot) {
            return false;
        }
        Arc::make_mut(&mut self.now.alive).clear(slot);
        self.now.alive_count -= 1;
        true
    }

    fn note(&mut self, slot: u32) {
        self.now.changes += 1;
        self.now.unmerged_since.get_or_insert_with(Instant::now);
        if let Some(touched) = &mut self.touched {
            touched.insert(slot);
        }
    }

    /// Takes up a frozen part built from an earlier state: what changed since then stays in the delta.
    pub(super) fn adopt(&mut self, frozen: Frozen, generation: u64, began: Instant) {
        let touched = self.touched.take().unwrap_or_default();
        let mut next = Snapshot::new(frozen, self.now.frozen.rows().dim());
        let mut places = HashMap::with_capacity(touched.len());
        let mut dead = 0;
        let alive = Arc::make_mut(&mut next.alive);
        for slot in touched {
            dead += usize::from(alive.clear(slot));
            if let Some(&place) = self.places.get(&slot) {
                places.insert(slot, next.delta.push(slot, self.now.delta.row(place)));
            }
        }
        next.alive_count -= dead;
        next.generation = generation;
        next.changes = self.now.changes;
        // The time of each change is not kept: those left came after the merge began.
        next.unmerged_since = (dead > 0 || next.delta.items() > 0).then_some(began);
        self.now = next;
        self.places = places;
        self.free.clear();
    }
}
