//! The catalogue as the admin port changes it: one writer keeps snapshot, item rows, index, ledger and store in step.
//!
//! Order of a write: every check, budget (ledger), store, snapshot, index. What is refused changes nothing, and nobody sees what is not
//! durable. A crash in between leaves at most a budget that differs from its plan's; the start sets it right.

mod record;

use super::{App, Generation, RowsDraft};
use crate::admin::{
    Balance, CatalogAdmin, CatalogError, IfMatch, Kind, Listing, Page, WriteMode, Written, merge_patch,
};
use crate::catalog::{ApplyError, Catalog, Change, ChangeError};
use crate::http::{Request, Response};
use crate::ids::{Id, ItemKey, ItemSlot, PlanSlot};
use crate::ledger::BudgetError;
use crate::money::{FxTable, Micros};
use crate::plans::{Creative, FieldError, Item, Plan};
use crate::store::{CatalogKind, CatalogRecord, CatalogStore};
use record::Record;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Implements [`CatalogAdmin`] over the rooms of an [`App`].
pub struct Records {
    app: Arc<App>,
    store: Arc<CatalogStore>,
}

/// The change that brings an item in, with its row in `draft`: an item that is new gets the slot `next`, which is then taken.
///
/// # Errors
/// The model cannot serve the item, or its content vector differs from the one that it is served by.
fn item_change(
    catalog: &Catalog,
    draft: &mut RowsDraft,
    next: &mut ItemSlot,
    item: Item,
) -> Result<Change, FieldError> {
    let key = ItemKey::parse(item.id.as_str()).ok_or_else(|| FieldError::new("id", "is no identifier"))?;
    if let Some(slot) = catalog.slot_of(key) {
        let served = catalog.item(slot).map(|entry| &entry.record.vector);
        if served.is_some_and(|vector| *vector != item.vector) {
            let fault = "cannot change while the item is served: user states were computed with it; use a new id";
            return Err(FieldError::new("vector", fault));
        }
        match served {
            Some(_) => draft.give(slot, key, &item)?,
            // Deleted before, and back with a content vector that may be another.
            None => draft.give_anew(slot, key, &item)?,
        }
        return Ok(Change::Item(item));
    }
    // A slot that was meant for an item which was then refused may have a row: it is replaced.
    draft.give_anew(*next, key, &item)?;
    *next += 1;
    Ok(Change::ItemAt(item, *next - 1))
}

/// The change that brings a plan in.
///
/// # Errors
/// No bid could be made in its currency.
fn plan_change(fx: &FxTable, plan: Plan) -> Result<Change, FieldError> {
    if !fx.knows(plan.currency) {
        let fault = format!("has no rate: set currencies.rates.{0} = (US dollars for one {0})", plan.currency);
        return Err(FieldError::new("currency", fault));
    }
    Ok(Change::Plan(plan))
}

fn refused(error: ChangeError) -> FieldError {
    match error {
        ChangeError::Invalid(error) => error,
        other => FieldError::new("id", other.to_string()),
    }
}

impl Records {
    /// The catalogue of `app`, with its durable records in `store`.
    #[must_use]
    pub fn new(app: Arc<App>, store: Arc<CatalogStore>) -> Self {
        Self { app, store }
    }

    /// Writes checked records; a bad one does not stop the others. One result for each, in order.
    async fn write(&self, records: Vec<Record>) -> Result<Vec<Result<(), FieldError>>, CatalogError> {
        let mut results: Vec<Result<(), FieldError>> = Vec::new();
        results.resize_with(records.len(), || Ok(()));
        let generation = self.app.generation();
        let (draft, mut changes) = self.changes(&generation, &records, &mut results);
        self.keep_sound(&mut changes, &mut results);
        let before = self.set_budgets(&records, &mut results).await?;
        changes.retain(|(place, _)| results[*place].is_ok());
        // Once more: a creative may name a plan whose budget was refused.
        self.keep_sound(&mut changes, &mut results);
        let durable: Vec<CatalogRecord> = (records.iter().zip(&results))
            .filter(|(_, result)| result.is_ok())
            .map(|(record, _)| record.to_durable())
            .collect();
        if let Err(error) = self.store.put_many(durable).await {
            self.restore_budgets(before).await;
            return Err(CatalogError::Unavailable(error.to_string()));
        }
        // Before the catalogue: whoever finds the item there finds its row.
        generation.rows.publish(draft);
        self.publish(changes.into_iter().map(|(_, change)| change).collect())?;
        Ok(results)
    }

    /// The changes that records mean, each with its place, and the item rows that they need.
    fn changes(
        &self,
        generation: &Generation,
        records: &[Record],
        results: &mut [Result<(), FieldError>],
    ) -> (RowsDraft, Vec<(usize, Change)>) {
        let catalog = self.app.catalog.snapshot();
        let (mut draft, mut next) = (generation.rows.draft(), catalog.item_slots());
        let mut changes = Vec::with_capacity(records.len());
        for (place, record) in records.iter().enumerate() {
            let change = match record.clone() {
                Record::Item(item) => item_change(&catalog, &mut draft, &mut next, item),
                Record::Plan(plan) => plan_change(&self.app.fx, plan),
                Record::Creative(creative) => Ok(Change::Creative(creative)),
            };
            match change {
                Ok(change) => changes.push((place, change)),
                Err(error) => results[place] = Err(error),
            }
        }
        (draft, changes)
    }

    /// Takes out each change that breaks a rule of the catalogue; what is left can be applied as a whole.
    fn keep_sound(&self, changes: &mut Vec<(usize, Change)>, results: &mut [Result<(), FieldError>]) {
        let all: Vec<Change> = changes.iter().map(|(_, change)| change.clone()).collect();
        for ApplyError { index, error } in self.app.catalog.check(&all).refused {
            results[changes[index].0] = Err(refused(error));
        }
        changes.retain(|(place, _)| results[*place].is_ok());
    }

    /// Grants the budgets of plans where they change, all in one commit; gives what was granted before. A budget that the ledger
    /// refuses is the record's fault, not the server's.
    async fn set_budgets(
        &self,
        records: &[Record],
        results: &mut [Result<(), FieldError>],
    ) -> Result<Vec<(Id, Micros)>, CatalogError> {
        let (mut places, mut budgets, mut before) = (Vec::new(), Vec::new(), Vec::new());
        let mut latest: HashMap<&Id, Option<Micros>> = HashMap::new();
        for (place, record) in records.iter().enumerate().filter(|(place, _)| results[*place].is_ok()) {
            let Record::Plan(plan) = record else { continue };
            let granted = latest.entry(&plan.id).or_insert_with(|| self.granted(&plan.id));
            if granted.replace(plan.budget_micros) != Some(plan.budget_micros) {
                places.push(place);
                budgets.push((plan.id.clone(), plan.budget_micros));
            }
        }
        for (plan, _) in &budgets {
            before.extend(self.granted(plan).map(|granted| (plan.clone(), granted)));
        }
        if budgets.is_empty() {
            return Ok(before);
        }
        let outcomes = self.app.ledger.set_budgets(budgets).await.map_err(|error| match error {
            BudgetError::Busy => CatalogError::Overloaded,
            error => CatalogError::Unavailable(error.to_string()),
        })?;
        let told = places.into_iter().zip(outcomes).filter_map(|(place, outcome)| Some((place, outcome.err()?)));
        for (place, error) in told {
            if !matches!(error, BudgetError::BelowCommitted { .. } | BudgetError::BadAmount { .. }) {
                self.restore_budgets(before).await;
                return Err(CatalogError::Unavailable(error.to_string()));
            }
            let text = error.to_string();
            let fault = text.strip_prefix("budget_micros: ").unwrap_or(&text);
            results[place] = Err(FieldError::new("budget_micros", fault));
        }
        Ok(before)
    }

    /// The budget that the ledger knows for a plan.
    fn granted(&self, plan: &Id) -> Option<Micros> {
        let account = self.app.ledger.account(plan)?;
        Some(self.app.ledger.balance(account)?.granted)
    }

    /// Takes granted budgets back after a write that failed as a whole. What cannot be taken back is logged: the start of the
    /// server brings budgets in step with the records.
    async fn restore_budgets(&self, before: Vec<(Id, Micros)>) {
        for (plan, granted) in before {
            if let Err(error) = self.app.ledger.set_budget(&plan, granted).await {
                tracing::error!(%plan, %error, "a budget was granted for a plan that could not be written");
            }
        }
    }

    /// Publishes changes that were checked and are durable, and brings index, accounts and gauges in step.
    fn publish(&self, changes: Vec<Change>) -> Result<(), CatalogError> {
        if changes.is_empty() {
            return Ok(());
        }
        // Checked in the same turn of writing: a fault here is one of the server.
        let applied = self.app.catalog.apply(changes).map_err(|error| CatalogError::Unavailable(error.to_string()))?;
        let catalog = self.app.catalog.snapshot();
        self.app.accounts.refresh(&catalog, &self.app.ledger);
        self.app.show_counts(&catalog);
        let slots = applied.items.iter().chain(&applied.items_removed).copied();
        self.app.generation().follow(&catalog, slots).map_err(CatalogError::Unavailable)
    }

    fn read(&self, kind: Kind, id: &Id) -> Option<Value> {
        let catalog = self.app.catalog.snapshot();
        let record = match kind {
            Kind::Items => Record::Item(Item::clone(&catalog.item(catalog.item_slot(id)?)?.record)),
            Kind::Plans => Record::Plan(Plan::clone(&catalog.plan(catalog.plan_slot(id)?)?.record)),
            Kind::Creatives => Record::Creative(Creative::clone(&catalog.creative(catalog.creative_slot(id)?)?.record)),
        };
        Some(record.to_value())
    }

    async fn put_one(
        &self,
        kind: Kind,
        id: &str,
        record: Value,
        (mode, if_match): (WriteMode, &IfMatch),
    ) -> Result<Written, CatalogError> {
        let stands = self.read(kind, &Id::from(id));
        if !if_match.allows(stands.as_ref()) {
            return Err(CatalogError::Changed);
        }
        let exists = stands.is_some();
        if exists && mode == WriteMode::Create {
            return Err(CatalogError::Exists);
        }
        let record = Record::checked(kind, record, self.dimension(), &self.app.catalog.snapshot())?;
        let written = record.to_value();
        match self.write(vec![record]).await?.pop() {
            Some(Err(error)) => Err(error.into()),
            _ => Ok(Written { record: written, created: !exists }),
        }
    }

    /// A plan's money, in memory: no disk is asked.
    fn money(&self, catalog: &Catalog, plan: &Id) -> Option<Balance> {
        let entry = catalog.plan(catalog.plan_slot(plan)?)?;
        let balance = self.app.ledger.balance(self.app.ledger.account(plan)?)?;
        Some(Balance {
            plan: plan.to_string(),
            currency: entry.record.currency,
            granted_micros: balance.granted,
            spent_micros: balance.spent,
            held_micros: balance.held,
            free_micros: balance.free,
            late_micros: balance.late,
        })
    }

    fn dimension(&self) -> usize {
        self.app.generation().content_dim
    }
}

fn durable_kind(kind: Kind) -> CatalogKind {
    match kind {
        Kind::Items => CatalogKind::Item,
        Kind::Plans => CatalogKind::Plan,
        Kind::Creatives => CatalogKind::Creative,
    }
}

/// Ids of a kind, in no order: only plans of `owner` and their creatives, if there is one; items are everyone's.
fn ids_of<'c>(catalog: &'c Catalog, kind: Kind, owner: Option<&Id>) -> Vec<&'c Id> {
    let owned = |plan: PlanSlot| {
        owner.is_none_or(|owner| catalog.plan(plan).is_some_and(|entry| entry.record.advertiser == *owner))
    };
    match kind {
        Kind::Items => catalog.items().map(|(_, entry)| &entry.record.id).collect(),
        Kind::Plans => catalog.plans().filter(|(slot, _)| owned(*slot)).map(|(_, entry)| &entry.record.id).collect(),
        Kind::Creatives => {
            catalog.creatives().filter(|(_, entry)| owned(entry.plan)).map(|(_, entry)| &entry.record.id).collect()
        }
    }
}

/// The ids of a page, in order; where the next page begins, if there is one; and how many ids there are in all.
fn part<'c>(mut ids: Vec<&'c Id>, page: &Page) -> (Vec<&'c Id>, Option<String>, usize) {
    let total = ids.len();
    if let Some(after) = &page.after {
        ids.retain(|id| id.as_str() > after.as_str());
    }
    ids.sort_unstable();
    let more = ids.len() > page.limit;
    ids.truncate(page.limit);
    let next = ids.last().filter(|_| more).map(|id| id.to_string());
    (ids, next, total)
}

impl CatalogAdmin for Records {
    async fn list(&self, kind: Kind, page: Page) -> Result<Listing, CatalogError> {
        let catalog = self.app.catalog.snapshot();
        let (ids, next, total) = part(ids_of(&catalog, kind, page.owner.as_ref()), &page);
        let records = ids.into_iter().filter_map(|id| self.read(kind, id)).collect();
        Ok(Listing { records, next, total })
    }

    async fn get(&self, kind: Kind, id: &str) -> Result<Value, CatalogError> {
        self.read(kind, &Id::from(id)).ok_or(CatalogError::NotFound)
    }

    async fn put(
        &self,
        kind: Kind,
        id: &str,
        record: Value,
        how: (WriteMode, &IfMatch),
    ) -> Result<Written, CatalogError> {
        let _turn = self.app.writing.lock().await;
        self.put_one(kind, id, record, how).await
    }

    async fn patch(&self, kind: Kind, id: &str, patch: Value, if_match: &IfMatch) -> Result<Written, CatalogError> {
        let _turn = self.app.writing.lock().await;
        let mut record = self.read(kind, &Id::from(id)).ok_or(CatalogError::NotFound)?;
        merge_patch(&mut record, &patch);
        self.put_one(kind, id, record, (WriteMode::Upsert, if_match)).await
    }

    async fn delete(&self, kind: Kind, id: &str, if_match: &IfMatch) -> Result<(), CatalogError> {
        let _turn = self.app.writing.lock().await;
        let id = Id::from(id);
        let stands = self.read(kind, &id).ok_or(CatalogError::NotFound)?;
        if !if_match.allows(Some(&stands)) {
            return Err(CatalogError::Changed);
        }
        let change = match kind {
            Kind::Items => Change::DeleteItem(id.clone()),
            Kind::Plans => Change::DeletePlan(id.clone()),
            Kind::Creatives => Change::DeleteCreative(id.clone()),
        };
        let before = self.app.catalog.snapshot();
        let changes = vec![change];
        let checked = self.app.catalog.check(&changes);
        if let Some(ApplyError { error, .. }) = checked.refused.into_iter().next() {
            return Err(match error {
                ChangeError::NotFound { .. } => CatalogError::NotFound,
                ChangeError::Invalid(error) => CatalogError::Conflict(error.fault),
                other => CatalogError::Conflict(other.to_string()),
            });
        }
        // A plan takes its creatives along.
        let mut gone = vec![(durable_kind(kind), id)];
        let creatives = checked.applied.creatives_removed.iter().filter_map(|&slot| before.creative(slot));
        gone.extend(creatives.map(|entry| (CatalogKind::Creative, entry.record.id.clone())));
        gone.dedup();
        self.store.delete(gone).await.map_err(|error| CatalogError::Unavailable(error.to_string()))?;
        self.publish(changes)
    }

    async fn import(&self, kind: Kind, values: Vec<Value>) -> Result<Vec<Result<(), FieldError>>, CatalogError> {
        let _turn = self.app.writing.lock().await;
        let (dimension, catalog) = (self.dimension(), self.app.catalog.snapshot());
        let parsed: Vec<Result<Record, FieldError>> =
            values.into_iter().map(|value| Record::checked(kind, value, dimension, &catalog)).collect();
        let mut results: Vec<Result<(), FieldError>> =
            parsed.iter().map(|record| record.as_ref().map(|_| ()).map_err(Clone::clone)).collect();
        let places: Vec<usize> = (0..results.len()).filter(|&place| results[place].is_ok()).collect();
        let written = self.write(parsed.into_iter().flatten().collect()).await?;
        for (place, result) in places.into_iter().zip(written) {
            results[place] = result;
        }
        Ok(results)
    }

    async fn balance(&self, plan: &str) -> Result<Balance, CatalogError> {
        self.money(&self.app.catalog.snapshot(), &Id::from(plan)).ok_or(CatalogError::NotFound)
    }

    async fn balances(&self, page: Page) -> Result<Listing<Balance>, CatalogError> {
        let catalog = self.app.catalog.snapshot();
        let (ids, next, total) = part(ids_of(&catalog, Kind::Plans, page.owner.as_ref()), &page);
        let records = ids.into_iter().filter_map(|id| self.money(&catalog, id)).collect();
        Ok(Listing { records, next, total })
    }

    fn app(&self) -> Option<&App> {
        Some(&self.app)
    }

    async fn other(&self, request: Request) -> Response {
        super::extras::handle(&self.app, request).await
    }
}
