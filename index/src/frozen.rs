//! The part of an index that does not change: vectors by row, the slot of each row, and the inverted lists over them.

use crate::codes::Codes;
use crate::lists::{BuildOptions, Lists};
use crate::rows::{Rows, normalise};
use crate::{Bitmap, IndexError, tune};
use std::ops::Range;

/// Stands for "this slot has no row".
pub(crate) const NO_ROW: u32 = u32::MAX;

/// Slots that one word of a set stands for.
const SLOTS_A_WORD: usize = 64;

/// Items as they were when this part was built. Liveness is kept outside, by the snapshot.
#[derive(Debug)]
pub(crate) struct Frozen {
    rows: Rows,
    codes: Codes,
    /// Slot of each row, ascending.
    slots: Vec<u32>,
    /// Row of each slot, or [`NO_ROW`].
    row_of: Vec<u32>,
    /// Rows before each word of a set of slots, and after the last.
    rows_before: Vec<u32>,
    /// Inverted lists over all rows; absent for the exact kind and for few items.
    lists: Option<Lists>,
}

impl Frozen {
    /// From unit vectors and their slots (distinct, ascending, one for each row).
    pub(crate) fn new(rows: Rows, slots: Vec<u32>, lists: Option<Lists>) -> Self {
        debug_assert!(rows.len() == slots.len() && slots.is_sorted_by(|a, b| a < b));
        let mut row_of = vec![NO_ROW; slots.last().map_or(0, |&slot| slot as usize + 1)];
        for (row, &slot) in (0_u32..).zip(&slots) {
            row_of[slot as usize] = row;
        }
        let codes = Codes::of(&rows);
        let mut rows_before = vec![0_u32; row_of.len().div_ceil(SLOTS_A_WORD) + 1];
        slots.iter().for_each(|&slot| rows_before[slot as usize / SLOTS_A_WORD + 1] += 1);
        for word in 1..rows_before.len() {
            rows_before[word] += rows_before[word - 1];
        }
        Self { rows, codes, slots, row_of, rows_before, lists }
    }

    /// From unit vectors and their slots, with lists trained, filled and tuned as `options` say.
    pub(crate) fn build(rows: Rows, slots: Vec<u32>, options: &BuildOptions<'_>) -> Result<Self, IndexError> {
        let lists = Lists::build(&rows, &slots, options)?;
        let mut frozen = Self::new(rows, slots, lists);
        if let (Some(lists), Some(recall_min)) = (frozen.lists(), options.recall_min) {
            let tuned = tune::tune(&frozen, lists, recall_min, options)?;
            if let Some(lists) = &mut frozen.lists {
                lists.set_tuned(tuned);
            }
        }
        Ok(frozen)
    }

    /// Without items.
    pub(crate) fn empty(dim: usize) -> Self {
        Self::new(Rows::with_capacity(dim, 0), Vec::new(), None)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The same rows, coded.
    pub(crate) fn codes(&self) -> &Codes {
        &self.codes
    }

    pub(crate) fn slots(&self) -> &[u32] {
        &self.slots
    }

    pub(crate) fn lists(&self) -> Option<&Lists> {
        self.lists.as_ref()
    }

    /// The row of `slot`, or [`NO_ROW`].
    #[inline]
    pub(crate) fn row_of(&self, slot: u32) -> u32 {
        self.row_of.get(slot as usize).copied().unwrap_or(NO_ROW)
    }

    /// The rows of the slots in some words of a set. Rows are in the order of slots, so they lie together.
    #[inline]
    pub(crate) fn rows_in(&self, words: Range<usize>) -> Range<u32> {
        let last = self.rows_before.len() - 1;
        self.rows_before[words.start.min(last)]..self.rows_before[words.end.min(last)]
    }

    /// All slots, as a set.
    pub(crate) fn all(&self) -> Bitmap {
        let mut all = Bitmap::with_slots(self.row_of.len());
        all.extend(self.slots.iter().copied());
        all
    }
}

/// Items given in any order, made ready to freeze: unit vectors in ascending order of slot.
///
/// `vectors` holds `dim` entries for each slot, in the order of `slots`.
pub(crate) fn arrange(
    dim: usize,
    slots: &[u32],
    vectors: &[f32],
    slots_max: u32,
) -> Result<(Rows, Vec<u32>), IndexError> {
    if Some(vectors.len()) != slots.len().checked_mul(dim) {
        return Err(IndexError::Dimension {
            what: format!("a build of {} items", slots.len()),
            expected: slots.len().saturating_mul(dim),
            found: vectors.len(),
        });
    }
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_unstable_by_key(|&index| slots[index]);
    let mut rows = Rows::with_capacity(dim, slots.len());
    let mut sorted: Vec<u32> = Vec::with_capacity(slots.len());
    let mut unit = Vec::with_capacity(dim);
    for index in order {
        let slot = slots[index];
        if slot > slots_max {
            return Err(IndexError::SlotRange { slot, max: slots_max });
        }
        if sorted.last() == Some(&slot) {
            return Err(IndexError::DuplicateSlot { slot });
        }
        unit.clear();
        normalise(slot, &vectors[index * dim..][..dim], dim, &mut unit)?;
        rows.push(&unit);
        sorted.push(slot);
    }
    Ok((rows, sorted))
}
