//! The catalogue at start: records from the store into a snapshot and the ledger.

use crate::catalog::{ApplyError, Catalog, CatalogHandle, Change};
use crate::ids::Id;
use crate::ledger::Ledger;
use crate::money::Micros;
use crate::plans::{Creative, Item, Plan};
use crate::store::{CatalogKind, CatalogStore};
use anyhow::{Context, bail};
use std::path::Path;

/// Records that a start may set aside; with more, something else is wrong.
const ASIDE_MAX: usize = 100;

/// Reads every record. One that the others do not bear is set aside with an error in the log and stays in the store, so that one bad
/// record does not keep the server from starting.
pub(super) fn load(store: &CatalogStore) -> anyhow::Result<CatalogHandle> {
    let catalog = CatalogHandle::new();
    let mut changes: Vec<Change> = read::<Item>(store, CatalogKind::Item)?.into_iter().map(Change::Item).collect();
    changes.extend(read::<Plan>(store, CatalogKind::Plan)?.into_iter().map(Change::Plan));
    changes.extend(read::<Creative>(store, CatalogKind::Creative)?.into_iter().map(Change::Creative));
    let refused = catalog.check(&changes).refused;
    if refused.len() > ASIDE_MAX {
        let first = refused.into_iter().next().context("no fault")?;
        return Err(first).context("the stored catalogue does not fit together");
    }
    // From the end, so that places stay right.
    for ApplyError { index, error } in refused.into_iter().rev() {
        let change = changes.remove(index);
        tracing::error!(record = change.name(), %error, "a stored record was set aside: write it again or delete it");
    }
    catalog.apply(changes)?;
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

/// Holds a ledger to what the data directory is known to have done.
///
/// # Errors
/// It knows no account where a server has served plans: its file was lost, and every budget would begin with nothing spent.
pub(super) fn expect_ledger(catalog: &Catalog, ledger: &Ledger, dir: &Path) -> anyhow::Result<()> {
    if catalog.plans().next().is_none() || ledger.accounts().next().is_some() {
        return Ok(());
    }
    bail!(
        "{} is missing or empty, but plans of this data directory have been served: restore the file from a backup. To begin with \
         nothing spent instead, remove {} (the model that serves is then chosen anew, by model.path)",
        dir.join("ledger.redb").display(),
        dir.join("models").join("current").display()
    )
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
        let outcomes = ledger.set_budgets(chunk.to_vec()).await.context("grant budgets")?;
        for (plan, error) in chunk.iter().zip(outcomes).filter_map(|((plan, _), outcome)| Some((plan, outcome.err()?)))
        {
            tracing::error!(%plan, %error, "the budget of this plan differs from its record");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CatalogRecord;
    use serde_json::json;

    #[tokio::test]
    async fn a_record_that_the_others_do_not_bear_is_set_aside_and_stays_in_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = CatalogStore::open(dir.path()).unwrap();
        let plan = |id: &str, item: &str| {
            json!({"id": id, "advertiser": "a", "domain": "shop.example", "budget_micros": 1_000_000, "max_bid_micros": 1_000,
                   "goal": {"roi": {"target": 2.0}}, "items": [item]})
        };
        let record = |kind, id: &str, json: serde_json::Value| CatalogRecord {
            kind,
            id: Id::from(id),
            json: json.to_string().into(),
        };
        store
            .put_many(vec![
                record(CatalogKind::Item, "1", json!({"id": "1"})),
                record(CatalogKind::Plan, "bad", plan("bad", "gone")),
                record(CatalogKind::Plan, "good", plan("good", "1")),
            ])
            .await
            .unwrap();
        let catalog = load(&store).unwrap().snapshot();
        assert_eq!(catalog.counts(), (1, 1, 0));
        assert!(catalog.plan_slot(&Id::from("good")).is_some() && catalog.plan_slot(&Id::from("bad")).is_none());
        let mut kept = Vec::new();
        store.load_all(CatalogKind::Plan, &mut |id, _| kept.push(id.to_owned())).unwrap();
        assert_eq!(kept, ["bad", "good"]);
    }
}
