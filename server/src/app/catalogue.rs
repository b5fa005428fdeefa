//! The catalogue at start: records from the store into a snapshot and the ledger.

use crate::catalog::{Catalog, CatalogHandle, Change};
use crate::ids::Id;
use crate::ledger::Ledger;
use crate::money::Micros;
use crate::plans::{Creative, Item, Plan};
use crate::store::{CatalogKind, CatalogStore};
use anyhow::{Context, bail};

/// Reads every record.
pub(super) fn load(store: &CatalogStore) -> anyhow::Result<CatalogHandle> {
    let catalog = CatalogHandle::new();
    let mut changes: Vec<Change> = read::<Item>(store, CatalogKind::Item)?.into_iter().map(Change::Item).collect();
    changes.extend(read::<Plan>(store, CatalogKind::Plan)?.into_iter().map(Change::Plan));
    changes.extend(read::<Creative>(store, CatalogKind::Creative)?.into_iter().map(Change::Creative));
    catalog.apply(changes).context("the stored catalogue does not fit together")?;
    Ok(catalog)
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
