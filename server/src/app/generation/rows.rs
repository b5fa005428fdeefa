//! Which row of a model's item table stands for which slot of the catalogue.
//!
//! An item whose id is a whole number from 1 to the model's number of items is the model's row of that number (the public
//! data sets' convention); every other item gets a row of its own, made from its content vector. So one catalogue serves
//! under any model, and two models need not agree on a single row.

use crate::catalog::Catalog;
use crate::ids::{ItemKey, ItemRow, ItemSlot};
use crate::plans::{FieldError, Item};
use arc_swap::ArcSwap;
use longbow_model::{ItemTable, Model};
use std::sync::Arc;

/// Slots of one chunk: what a change copies at most.
const CHUNK: usize = 1024;

/// Row by slot; clones share their chunks.
#[derive(Clone, Debug, Default)]
pub struct RowMap {
    /// Row 0 stands for none.
    chunks: Vec<Arc<Vec<ItemRow>>>,
}

impl RowMap {
    /// The row of a slot, if it has one.
    #[must_use]
    pub fn get(&self, slot: ItemSlot) -> Option<ItemRow> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK).map(|chunk| chunk[slot % CHUNK]).filter(|&row| row != 0)
    }

    /// Gives a slot its row.
    pub fn put(&mut self, slot: ItemSlot, row: ItemRow) {
        let slot = slot as usize;
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push(Arc::new(vec![0; CHUNK]));
        }
        Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK] = row;
    }
}

/// The rows of a generation. Readers never wait; there is one writer at a time (the catalogue's).
#[derive(Debug)]
pub struct ItemRows {
    table: Arc<ArcSwap<ItemTable>>,
    map: ArcSwap<RowMap>,
    /// Rows of the model itself, padding included.
    own: ItemRow,
}

/// Rows on their way in: seen by nobody before [`ItemRows::publish`].
#[derive(Debug)]
pub struct RowsDraft {
    table: ItemTable,
    map: RowMap,
    own: ItemRow,
    changed: bool,
}

impl RowsDraft {
    /// The model's own rows, and no slot yet.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let table = ItemTable::new(model);
        // Limits of the model keep this far below 2^32.
        let own = ItemRow::try_from(table.rows()).unwrap_or(ItemRow::MAX);
        Self { table, map: RowMap::default(), own, changed: true }
    }

    /// Gives the item in `slot` its row, unless it has one.
    ///
    /// # Errors
    /// The model does not know the item, and there is no content vector that it can make a row of.
    pub fn give(&mut self, slot: ItemSlot, key: ItemKey, item: &Item) -> Result<(), FieldError> {
        if self.map.get(slot).is_none() {
            self.give_anew(slot, key, item)?;
        }
        Ok(())
    }

    /// The same for a slot that another item may have been meant for before.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub fn give_anew(&mut self, slot: ItemSlot, key: ItemKey, item: &Item) -> Result<(), FieldError> {
        let row = match own_row(self.own, key) {
            Some(row) => row,
            None if item.vector.is_empty() => {
                let width = self.table.content_dim();
                let fault = format!("is missing: the model does not know this item, so it needs {width} numbers");
                return Err(FieldError::new("vector", fault));
            }
            None => self.table.append(&item.vector).map_err(|error| FieldError::new("vector", error.to_string()))?,
        };
        self.map.put(slot, row);
        self.changed = true;
        Ok(())
    }

    /// Gives every item of a catalogue its row.
    ///
    /// # Errors
    /// The first item that the model cannot serve, by id.
    pub fn give_all(&mut self, catalog: &Catalog) -> anyhow::Result<()> {
        for (slot, entry) in catalog.items() {
            self.give(slot, entry.key, &entry.record).map_err(|error| super::of_item(&entry.record.id, &error))?;
        }
        Ok(())
    }

    /// The table so far.
    #[must_use]
    pub fn table(&self) -> &ItemTable {
        &self.table
    }

    /// The row of a slot so far.
    #[must_use]
    pub fn row(&self, slot: ItemSlot) -> Option<ItemRow> {
        self.map.get(slot)
    }

    /// Ready to be read.
    #[must_use]
    pub fn finish(self) -> ItemRows {
        let Self { table, map, own, .. } = self;
        ItemRows { table: Arc::new(ArcSwap::from_pointee(table)), map: ArcSwap::from_pointee(map), own }
    }
}

fn own_row(own: ItemRow, key: ItemKey) -> Option<ItemRow> {
    ItemRow::try_from(key.0).ok().filter(|row| (1..own).contains(row))
}

impl ItemRows {
    /// A copy to change.
    #[must_use]
    pub fn draft(&self) -> RowsDraft {
        let (table, map) = (ItemTable::clone(&self.table.load()), RowMap::clone(&self.map.load()));
        RowsDraft { table, map, own: self.own, changed: false }
    }

    /// Makes a draft of these rows current.
    pub fn publish(&self, draft: RowsDraft) {
        if draft.changed {
            // In this order: whoever finds a row in the map finds it in the table.
            self.table.store(Arc::new(draft.table));
            self.map.store(Arc::new(draft.map));
        }
    }

    /// The live table.
    #[must_use]
    pub fn table(&self) -> &Arc<ArcSwap<ItemTable>> {
        &self.table
    }

    /// The rows of slots; `None` if one has none.
    #[must_use]
    pub fn rows(&self, slots: &[ItemSlot]) -> Option<Vec<ItemRow>> {
        let map = self.map.load();
        slots.iter().map(|&slot| map.get(slot)).collect()
    }

    /// Row by item key, for histories: the model's own row, else that of the catalogue's item, else one of the model's rows
    /// chosen by hash (the hashing trick of ranking models), so that unknown items still tell users apart and the same item
    /// always reads the same.
    pub fn by_key<'a>(&self, catalog: &'a Catalog) -> impl Fn(ItemKey) -> ItemRow + 'a {
        let (map, own) = (self.map.load_full(), self.own);
        move |key| {
            let served = || catalog.slot_of(key).and_then(|slot| map.get(slot));
            own_row(own, key).or_else(served).unwrap_or_else(|| {
                let spread = key.0.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                ItemRow::try_from(spread % u64::from(own.max(2) - 1)).unwrap_or(0) + 1
            })
        }
    }

    /// The rows as they are now, for many look-ups.
    #[must_use]
    pub fn view(&self) -> RowsView {
        // In this order: a row in the map is in a table read after it.
        let map = self.map.load_full();
        RowsView { map, table: self.table.load_full() }
    }
}

/// [`ItemRows`] at one moment.
#[derive(Debug)]
pub struct RowsView {
    map: Arc<RowMap>,
    table: Arc<ItemTable>,
}

impl RowsView {
    /// Width of a row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.table.dim()
    }

    /// The row of a slot.
    #[must_use]
    pub fn row(&self, slot: ItemSlot) -> Option<ItemRow> {
        self.map.get(slot)
    }

    /// Writes the normalised row of a slot to `out`: what the index holds. False where the slot has no row.
    pub fn normalised(&self, slot: ItemSlot, out: &mut [f32]) -> bool {
        self.row(slot).is_some_and(|row| self.table.normalised(row, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogHandle, Change};
    use longbow_model::{Config, Seed};

    fn model(items: usize) -> Model {
        let config: Config = serde_json::from_value(serde_json::json!({
            "max_sequence_len": 8, "max_output_len": 1, "embedding_dim": 4, "item_embedding_dim": 4,
            "action_embedding_dim": 0, "num_actions": 0, "num_blocks": 1, "num_heads": 1, "attention_dim": 4,
            "linear_dim": 4, "num_items": items, "num_time_buckets": 8, "normalization": "rel_bias"
        }))
        .unwrap();
        Model::seeded(config, &Seed { seed: 1, content_dim: Some(3), head_hidden: 4 }).unwrap()
    }

    fn item(id: &str, vector: &[f32]) -> Item {
        serde_json::from_value(serde_json::json!({ "id": id, "price_micros": 1, "vector": vector })).unwrap()
    }

    #[test]
    fn ids_within_the_model_are_its_rows_and_others_come_from_content() {
        let handle = CatalogHandle::new();
        let content = [0.5, -0.25, 1.0];
        handle
            .apply(vec![
                Change::Item(item("shoe", &content)),
                Change::Item(item("7", &[])),
                Change::Item(item("12", &content)),
            ])
            .unwrap();
        let catalog = handle.snapshot();
        let slot = |id: &str| catalog.item_slot(&id.into()).unwrap();
        let mut draft = RowsDraft::new(&model(10));
        draft.give_all(&catalog).unwrap();
        assert_eq!((slot("shoe"), draft.row(slot("shoe"))), (1, Some(11)), "the first row after the model's own");
        assert_eq!(draft.row(slot("7")), Some(7));
        assert_eq!(draft.row(slot("12")), Some(12));
        let rows = draft.finish();
        let by_key = rows.by_key(&catalog);
        assert_eq!(by_key(ItemKey(3)), 3, "an item that only the model knows");
        assert_eq!(by_key(ItemKey::parse("shoe").unwrap()), 11);
        assert!((1..=10).contains(&by_key(ItemKey(-8_991_000_000_000_000_001))), "row 0 is padding");

        // A larger model takes the same catalogue: item 12 is now one of its own.
        let mut larger = RowsDraft::new(&model(20));
        larger.give_all(&catalog).unwrap();
        assert_eq!(larger.row(slot("12")), Some(12));
        assert_eq!(larger.row(slot("shoe")), Some(21));
        // A smaller one lacks item 7, which brings no content vector.
        let fault = RowsDraft::new(&model(5)).give_all(&catalog).unwrap_err().to_string();
        assert!(fault.contains("item `7`") && fault.contains("3 numbers"), "{fault}");
    }

    #[test]
    fn a_draft_is_seen_only_when_it_is_published() {
        let rows = RowsDraft::new(&model(10)).finish();
        let mut draft = rows.draft();
        let new = item("new", &[1.0, 0.0, 0.0]);
        draft.give(5_000, ItemKey::parse("new").unwrap(), &new).unwrap();
        assert_eq!(rows.view().row(5_000), None);
        rows.publish(draft);
        assert_eq!((rows.view().row(5_000), rows.rows(&[5_000, 4_999])), (Some(11), None));
        assert!(rows.view().normalised(5_000, &mut [0.0; 4]) && !rows.view().normalised(1, &mut [0.0; 4]));
        let wrong = item("wide", &[1.0; 4]);
        assert_eq!(rows.draft().give(9, ItemKey(-5), &wrong).unwrap_err().field, "vector");
    }
}
