//! The one writable place of the catalogue.

use super::change::{Applied, ApplyError, Change, Draft};
use super::{Catalog, ChangeError};
use crate::ids::{ItemKey, ItemSlot};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::sync::Arc;

/// Settings of a catalogue.
#[derive(Clone, Copy, Debug)]
pub struct CatalogOptions {
    /// The model's item dimension: length of every item's content vector.
    pub item_dimension: usize,
    /// First slot for items that the model does not know: the number of rows of its item table. At least 1.
    pub first_new_item: ItemSlot,
}

/// The current catalogue: readers take a snapshot without waiting, writers take turns.
#[derive(Debug)]
pub struct CatalogHandle {
    current: ArcSwap<Catalog>,
    /// Held by writers only, while they build the next snapshot.
    writer: Mutex<()>,
    options: CatalogOptions,
}

impl CatalogHandle {
    /// An empty catalogue. `known` are the items that the model was trained with and their rows: an item of such a key
    /// gets that row as its slot, and histories may name it without it being in the catalogue.
    ///
    /// # Errors
    /// A row of 0 (padding), a row at or above `first_new_item`, or one claimed by two keys.
    pub fn new(
        options: CatalogOptions,
        known: impl IntoIterator<Item = (ItemKey, ItemSlot)>,
    ) -> Result<Self, ChangeError> {
        let mut catalog = Catalog { next_item: options.first_new_item.max(1), ..Catalog::default() };
        for (key, row) in known {
            if row == 0 || row >= options.first_new_item {
                return Err(ChangeError::BadSlot {
                    slot: row,
                    fault: "a known item's row must be 1 or more and below first_new_item",
                });
            }
            if catalog.key_of(row).is_some_and(|owner| owner != key) {
                return Err(ChangeError::BadSlot { slot: row, fault: "two known items claim this row" });
            }
            catalog.keys.put(row, key);
            catalog.slots.insert(key, row);
        }
        Ok(Self { current: ArcSwap::from_pointee(catalog), writer: Mutex::new(()), options })
    }

    /// The current snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// Applies changes in order, all or none, and publishes the result as the next version.
    ///
    /// # Errors
    /// The first change that breaks a rule, with its position; nothing is published then.
    pub fn apply(&self, changes: Vec<Change>) -> Result<Applied, ApplyError> {
        let _turn = self.writer.lock();
        let before = self.current.load_full();
        let mut draft = Draft::new(Catalog::clone(&before), self.options.item_dimension);
        for (index, change) in changes.into_iter().enumerate() {
            draft.change(change).map_err(|error| ApplyError { index, error })?;
        }
        let (catalog, applied) = draft.finish();
        self.current.store(Arc::new(catalog));
        Ok(applied)
    }
}
