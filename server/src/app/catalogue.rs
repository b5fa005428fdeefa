//! The catalogue at start: records from the store into snapshot, item table, index and ledger; and the index in step with changes.

use super::App;
use super::records::item_change;
use crate::catalog::{Applied, Catalog, CatalogHandle, CatalogOptions, Change};
use crate::config;
use crate::ids::{Id, ItemKey, ItemSlot};
use crate::ledger::Ledger;
use crate::money::Micros;
use crate::plans::{Creative, Item, Plan};
use crate::store::{CatalogKind, CatalogStore};
use anyhow::{Context, bail};
use longbow_index::{IndexOptions, Kind, LiveIndex};
use longbow_model::{ItemTable, Model};
use std::sync::Arc;

/// Below this many items every search is exact under `index.kind = "auto"`: lists would not be faster.
const AUTO_LISTS_ITEMS_MIN: usize = 20_000;

/// What the records become.
pub(super) struct Loaded {
    pub(super) catalog: CatalogHandle,
    pub(super) items: ItemTable,
    pub(super) index: LiveIndex,
}

/// Reads every record. An item whose id is a whole number from 1 to the model's number of items is the model's row of that
/// number (the public data sets' convention); every other item needs a content vector.
pub(super) fn load(store: &CatalogStore, model: &Model, config: &config::Index) -> anyhow::Result<Loaded> {
    let mut table = ItemTable::new(model);
    let model_rows = ItemSlot::try_from(table.rows()).context("the model has more items than slots")?;
    let known = (1..model_rows).map(|row| (ItemKey(i64::from(row)), row));
    let options = CatalogOptions { item_dimension: table.content_dim(), first_new_item: model_rows };
    let catalog = CatalogHandle::new(options, known)?;
    let empty = catalog.snapshot();
    let mut changes = Vec::new();
    for item in read::<Item>(store, CatalogKind::Item)? {
        let id = item.id.clone();
        changes.push(item_change(&empty, &mut table, item).with_context(|| format!("stored item `{id}`"))?);
    }
    changes.extend(read::<Plan>(store, CatalogKind::Plan)?.into_iter().map(Change::Plan));
    changes.extend(read::<Creative>(store, CatalogKind::Creative)?.into_iter().map(Change::Creative));
    catalog.apply(changes).context("the stored catalogue does not fit together")?;
    let index = index(&catalog.snapshot(), &table, config)?;
    Ok(Loaded { catalog, items: table, index })
}

fn read<T: serde::de::DeserializeOwned>(store: &CatalogStore, kind: CatalogKind) -> anyhow::Result<Vec<T>> {
    let mut records = Vec::new();
    let mut fault = None;
    store.load_all(kind, &mut |id, json| match serde_json::from_slice(json) {
        Ok(record) => records.push(record),
        Err(error) => fault = Some(format!("stored record `{id}` of {kind:?}: {error}")),
    })?;
    match fault {
        Some(fault) => bail!(fault),
        None => Ok(records),
    }
}

/// Builds the index over the items present. Rows are normalised: an inner product is a cosine.
fn index(catalog: &Catalog, table: &ItemTable, config: &config::Index) -> anyhow::Result<LiveIndex> {
    let (count, _, _) = catalog.counts();
    let lists = u32::try_from(config.lists)?;
    let ivf = Kind::IvfFlat { nlist: lists };
    let kind = match config.kind {
        config::IndexKind::Auto if count < AUTO_LISTS_ITEMS_MIN => Kind::Exact,
        config::IndexKind::Auto | config::IndexKind::Ivf => ivf,
        config::IndexKind::Exact => Kind::Exact,
        config::IndexKind::IvfPq => {
            let dim = u32::try_from(table.dim())?;
            if !dim.is_multiple_of(2) {
                bail!("index.kind \"ivfpq\" needs an even item dimension, the model has {dim}; use \"ivf\"");
            }
            Kind::IvfPq { nlist: lists, m: dim / 2 }
        }
    };
    let mut options = IndexOptions::new(table.dim(), kind);
    options.nprobe = config.probes;
    #[expect(clippy::cast_possible_truncation, reason = "a share between 0.5 and 1")]
    let recall_min = config.recall_min as f32;
    options.recall_min = recall_min;
    options.merge_rows = config.rebuild_delta_max.min(options.delta_rows_max);
    options.build_threads = u16::try_from(crate::runtime::cores())?;
    let mut slots = Vec::with_capacity(count);
    let mut vectors = vec![0.0; count * table.dim()];
    for ((slot, _), row) in catalog.items().zip(vectors.chunks_exact_mut(table.dim())) {
        if !table.normalised(slot, row) {
            bail!("item slot {slot} has no row in the item table");
        }
        slots.push(slot);
    }
    Ok(LiveIndex::build(options, &slots, &vectors)?)
}

/// Gives every plan its account and its budget.
pub(super) async fn grant_budgets(catalog: &Catalog, ledger: &Ledger) -> anyhow::Result<()> {
    let budgets: Vec<(Id, Micros)> = catalog
        .plans()
        .filter(|(_, entry)| {
            let account = ledger.account(&entry.record.id);
            let granted = account.and_then(|account| ledger.balance(account)).map(|balance| balance.granted);
            granted != Some(entry.record.budget_micros)
        })
        .map(|(_, entry)| (entry.record.id.clone(), entry.record.budget_micros))
        .collect();
    for chunk in budgets.chunks(1_000) {
        ledger.set_budgets(chunk.to_vec()).await.context("grant budgets")?;
    }
    Ok(())
}

/// The middle of all items present, normalised: where a user without a history looks.
pub(super) fn everyman(catalog: &Catalog, table: &ItemTable) -> Box<[f32]> {
    let mut sum = vec![0.0_f32; table.dim()];
    let mut row = vec![0.0_f32; table.dim()];
    for (slot, _) in catalog.items() {
        if table.normalised(slot, &mut row) {
            sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 1e-6 {
        sum.iter_mut().for_each(|x| *x /= length);
    } else if let Some(first) = sum.first_mut() {
        *first = 1.0;
    }
    sum.into()
}

impl App {
    /// Brings the index in step with a change of the catalogue.
    pub(super) fn index_items(&self, catalog: &Catalog, applied: &Applied) -> Result<(), String> {
        let table = Arc::clone(&self.items.load());
        let mut row = vec![0.0; table.dim()];
        for &slot in &applied.items_removed {
            self.index.remove(slot).map_err(|error| error.to_string())?;
        }
        for &slot in applied.items.iter().filter(|&&slot| catalog.item(slot).is_some()) {
            if table.normalised(slot, &mut row) && !self.index.contains(slot) {
                self.index.put(slot, &row).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}
