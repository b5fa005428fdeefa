//! Items that came after the frozen part was built: few, searched exactly, shared between snapshots chunk by chunk.

use std::sync::Arc;

use crate::Bitmap;
use crate::rows::Rows;
use crate::scan::Picked;
use crate::topk::TopK;

/// Rows a chunk holds: what one change copies at most.
const CHUNK: usize = 64;
/// Stands in a row that holds no item.
const EMPTY: u32 = u32::MAX;

/// New items by place. Cloning shares the chunks; a change copies the one it touches if a snapshot still sees it.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    dim: usize,
    chunks: Vec<Arc<Chunk>>,
    /// Places handed out, whether they hold an item or not.
    places: usize,
    items: usize,
}

#[derive(Clone, Debug)]
struct Chunk {
    rows: Rows,
    slots: Vec<u32>,
}

impl Delta {
    pub(crate) fn new(dim: usize) -> Self {
        Self { dim, chunks: Vec::new(), places: 0, items: 0 }
    }

    /// Items held.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Places handed out.
    pub(crate) fn places(&self) -> usize {
        self.places
    }

    /// Adds an item at a new place and gives the place.
    pub(crate) fn push(&mut self, slot: u32, unit: &[f32]) -> usize {
        if self.places.is_multiple_of(CHUNK) {
            let rows = Rows::with_capacity(self.dim, CHUNK);
            self.chunks.push(Arc::new(Chunk { rows, slots: Vec::with_capacity(CHUNK) }));
        }
        let chunk = Arc::make_mut(&mut self.chunks[self.places / CHUNK]);
        chunk.rows.push(unit);
        chunk.slots.push(slot);
        self.places += 1;
        self.items += 1;
        self.places - 1
    }

    /// Puts an item at a place handed out before, over what it held.
    pub(crate) fn put(&mut self, place: usize, slot: u32, unit: &[f32]) {
        let chunk = Arc::make_mut(&mut self.chunks[place / CHUNK]);
        chunk.rows.replace(place % CHUNK, unit);
        self.items += usize::from(chunk.slots[place % CHUNK] == EMPTY);
        chunk.slots[place % CHUNK] = slot;
    }

    /// Takes the item at `place` away.
    pub(crate) fn take(&mut self, place: usize) {
        let chunk = Arc::make_mut(&mut self.chunks[place / CHUNK]);
        self.items -= usize::from(chunk.slots[place % CHUNK] != EMPTY);
        chunk.slots[place % CHUNK] = EMPTY;
    }

    /// The unit vector at `place`.
    pub(crate) fn row(&self, place: usize) -> &[f32] {
        self.chunks[place / CHUNK].rows.row(place % CHUNK)
    }

    /// The items: slot and place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.slots.iter())
            .enumerate()
            .filter(|&(_, &slot)| slot != EMPTY)
            .map(|(place, &slot)| (slot, place))
    }

    /// Scores the items that may be returned.
    pub(crate) fn scan(&self, query: &[f32], eligible: Option<&Bitmap>, top: &mut TopK) {
        const { assert!(CHUNK <= Picked::CAPACITY) };
        if self.items == 0 {
            return;
        }
        let mut picked = Picked::default();
        for chunk in &self.chunks {
            picked.clear();
            for (row, &slot) in (0_u32..).zip(&chunk.slots) {
                if slot != EMPTY && eligible.is_none_or(|set| set.get(slot)) {
                    picked.add(slot, row);
                }
            }
            picked.score_into(query, &chunk.rows, top);
        }
    }
}
