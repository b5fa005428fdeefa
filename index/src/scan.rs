//! Exact search: every eligible row is scored, in blocks that stay in the core's cache while all queries of a call pass over them.

use crate::frozen::{Frozen, NO_ROW};
use crate::rows::Rows;
use crate::topk::TopK;
use crate::{Bitmap, ffi};

/// Rows scored by one call, and the words of a bitmap that cover as many slots.
const BLOCK: usize = 256;
const BLOCK_WORDS: usize = BLOCK / 64;

/// One query on its way through a scan.
pub(crate) struct Scan<'a> {
    /// Padded like the rows.
    pub(crate) query: &'a [f32],
    /// Slots that may be returned; every one of them is alive in the part that is scanned.
    pub(crate) mask: &'a Bitmap,
    /// Where hits go.
    pub(crate) top: &'a mut TopK,
}

/// Scores every slot of each query's mask among the frozen items.
pub(crate) fn scan_frozen(frozen: &Frozen, scans: &mut [Scan<'_>]) {
    let words = scans.iter().map(|scan| scan.mask.words().len()).max().unwrap_or(0);
    let mut picked = Picked::default();
    for block in (0..words).step_by(BLOCK_WORDS) {
        for scan in scans.iter_mut() {
            picked.clear();
            for slot in scan.mask.iter_words(block, block + BLOCK_WORDS) {
                let row = frozen.row_of(slot);
                if row != NO_ROW {
                    picked.add(slot, row);
                }
            }
            picked.score_into(scan.query, frozen.rows(), scan.top);
        }
    }
}

/// Up to one block of rows to be scored, with the slots they stand for.
pub(crate) struct Picked {
    slots: [u32; BLOCK],
    rows: [u32; BLOCK],
    scores: [f32; BLOCK],
    len: usize,
}

impl Default for Picked {
    fn default() -> Self {
        Self { slots: [0; BLOCK], rows: [0; BLOCK], scores: [0.0; BLOCK], len: 0 }
    }
}

impl Picked {
    /// Rows one fill can hold.
    pub(crate) const CAPACITY: usize = BLOCK;

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a row; at most [`CAPACITY`](Self::CAPACITY) between two clears.
    #[inline]
    pub(crate) fn add(&mut self, slot: u32, row: u32) {
        self.slots[self.len] = slot;
        self.rows[self.len] = row;
        self.len += 1;
    }

    /// Scores the rows picked and offers them to `top`.
    pub(crate) fn score_into(&mut self, query: &[f32], rows: &Rows, top: &mut TopK) {
        if self.len == 0 {
            return;
        }
        ffi::score(query, rows, &self.rows[..self.len], &mut self.scores);
        for (&score, &slot) in self.scores[..self.len].iter().zip(&self.slots) {
            top.push(score, slot);
        }
    }
}
