//! Every way to read or change a record, with the rights of the caller and the audit log: the one door behind the records' routes, the
//! MCP tools and the console. For an advertiser, plans and creatives of others do not exist.

use super::audit::{Audit, Call};
use super::mcp::Confirmations;
use super::tags::IfMatch;
use super::tokens::{Caller, Role, Tokens};
use super::{Balance, CatalogAdmin, CatalogError, Kind, Listing, Page, WriteMode, Written};
use crate::app::App;
use crate::config::Config;
use crate::http::respond::Fault;
use crate::ids::Id;
use crate::meters::{Label as _, Meters};
use hyper::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the routes and the MCP server share.
pub(super) struct Desk<C> {
    pub(super) app: Arc<C>,
    pub(super) config: Arc<Config>,
    pub(super) meters: Arc<Meters>,
    pub(super) tokens: Tokens,
    pub(super) audit: Audit,
    pub(super) confirmations: Confirmations,
}

/// Why a reader's change is refused.
pub(super) const READ_ONLY: &str = "the role read changes nothing";

/// 403 for a role that may not do this.
pub(super) fn forbidden(what: &str) -> Fault {
    Fault::new(StatusCode::FORBIDDEN, "forbidden", what)
}

/// What is another's is not there.
fn gone() -> Fault {
    CatalogError::NotFound.fault()
}

impl<C: CatalogAdmin> Desk<C> {
    /// Unix seconds.
    pub(super) fn now(&self) -> i64 {
        self.app.app().map_or_else(
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed()),
            |app| app.clock.seconds(),
        )
    }

    /// The rooms behind the records.
    pub(super) fn rooms(&self) -> Result<&App, Fault> {
        self.app.app().ok_or_else(|| Fault::unavailable("still starting; see /readyz", 1))
    }

    /// To be asked before anything is changed: 503 where the audit log has not what was changed before.
    pub(super) fn may_audit(&self) -> Result<(), Fault> {
        self.audit.settle().map_err(|owing| Fault::unavailable(owing.to_string(), self.config.http.retry_after_s))
    }

    /// Writes one line of the audit log.
    pub(super) fn audited(&self, call: &Call<'_>, action: String, id: &str, change: (Option<&Value>, Option<&Value>)) {
        self.audit.write(call.entry(self.now(), action, id, change));
    }

    /// A part of a list.
    pub(super) async fn list(&self, caller: &Caller, kind: Kind, page: Page) -> Result<Listing, Fault> {
        may_read(caller, kind)?;
        let page = Page { owner: caller.owner().cloned(), ..page };
        self.app.list(kind, page).await.map_err(|error| error.fault())
    }

    /// One record.
    pub(super) async fn get(&self, caller: &Caller, kind: Kind, id: &str) -> Result<Value, Fault> {
        may_read(caller, kind)?;
        let record = self.app.get(kind, id).await.map_err(|error| error.fault())?;
        if self.owns(caller, kind, &record).await { Ok(record) } else { Err(gone()) }
    }

    /// A plan's money.
    pub(super) async fn balance(&self, caller: &Caller, plan: &str) -> Result<Balance, Fault> {
        may_read(caller, Kind::Plans)?;
        if caller.owner().is_some() {
            self.get(caller, Kind::Plans, plan).await?;
        }
        self.app.balance(plan).await.map_err(|error| error.fault())
    }

    /// The money of many plans.
    pub(super) async fn balances(&self, caller: &Caller, page: Page) -> Result<Listing<Balance>, Fault> {
        may_read(caller, Kind::Plans)?;
        let page = Page { owner: caller.owner().cloned(), ..page };
        self.app.balances(page).await.map_err(|error| error.fault())
    }

    /// Creates or replaces a record.
    pub(super) async fn put(
        &self,
        call: &Call<'_>,
        kind: Kind,
        (id, mut record): (&str, Value),
        (mode, if_match): (WriteMode, &IfMatch),
    ) -> Result<Written, Fault> {
        may_write(call.caller, kind)?;
        self.may_audit()?;
        let before = self.app.get(kind, id).await.ok();
        if let (Some(before), WriteMode::Upsert) = (&before, mode) {
            self.may_change(call.caller, kind, id, before).await?;
        }
        self.claim(call.caller, kind, &mut record).await?;
        let written = self.app.put(kind, id, record, (mode, if_match)).await.map_err(|error| error.fault())?;
        let action = format!("{}.{}", kind.name(), if written.created { "create" } else { "replace" });
        self.audited(call, action, id, (before.as_ref().filter(|_| !written.created), Some(&written.record)));
        Ok(written)
    }

    /// Changes fields of a record.
    pub(super) async fn patch(
        &self,
        call: &Call<'_>,
        kind: Kind,
        (id, patch): (&str, Value),
        if_match: &IfMatch,
    ) -> Result<Written, Fault> {
        may_write(call.caller, kind)?;
        self.may_audit()?;
        let before = self.app.get(kind, id).await.map_err(|error| error.fault())?;
        self.may_change(call.caller, kind, id, &before).await?;
        let mut after = before.clone();
        super::merge_patch(&mut after, &patch);
        self.claim(call.caller, kind, &mut after).await?;
        let written = self.app.patch(kind, id, patch, if_match).await.map_err(|error| error.fault())?;
        self.audited(call, format!("{}.change", kind.name()), id, (Some(&before), Some(&written.record)));
        Ok(written)
    }

    /// Removes a record.
    pub(super) async fn delete(&self, call: &Call<'_>, kind: Kind, id: &str, if_match: &IfMatch) -> Result<(), Fault> {
        may_write(call.caller, kind)?;
        self.may_audit()?;
        let before = self.app.get(kind, id).await.map_err(|error| error.fault())?;
        self.may_change(call.caller, kind, id, &before).await?;
        self.app.delete(kind, id, if_match).await.map_err(|error| error.fault())?;
        self.audited(call, format!("{}.delete", kind.name()), id, (Some(&before), None));
        Ok(())
    }

    /// True if a record is there for this caller. Items are the marketplace's products: everyone sees them.
    async fn owns(&self, caller: &Caller, kind: Kind, record: &Value) -> bool {
        let Some(owner) = caller.owner() else { return true };
        match kind {
            Kind::Items => true,
            Kind::Plans => record["advertiser"].as_str() == Some(owner.as_str()),
            Kind::Creatives => self.owns_plan(owner, &record["plan"]).await,
        }
    }

    async fn owns_plan(&self, owner: &Id, plan: &Value) -> bool {
        let Some(plan) = plan.as_str() else { return false };
        let record = self.app.get(Kind::Plans, plan).await;
        record.is_ok_and(|record| record["advertiser"].as_str() == Some(owner.as_str()))
    }

    /// Refuses a change to what is another's: as if it were not there, except items, which everyone can see.
    async fn may_change(&self, caller: &Caller, kind: Kind, id: &str, before: &Value) -> Result<(), Fault> {
        if !self.owns(caller, kind, before).await {
            return Err(gone());
        }
        let (Some(owner), Kind::Items) = (caller.owner(), kind) else { return Ok(()) };
        let catalog = self.rooms()?.catalog.snapshot();
        let entry = catalog.item_slot(&Id::from(id)).and_then(|slot| catalog.item(slot));
        let sellers: Vec<_> =
            entry.iter().flat_map(|entry| entry.plans.iter()).filter_map(|&plan| catalog.plan(plan)).collect();
        if !sellers.is_empty() && sellers.iter().all(|plan| plan.record.advertiser == *owner) {
            return Ok(());
        }
        Err(forbidden("an item can be changed by an advertiser only if all plans that sell it are theirs"))
    }

    /// Makes sure that what an advertiser writes is theirs; fills the advertiser in where it was left out.
    async fn claim(&self, caller: &Caller, kind: Kind, record: &mut Value) -> Result<(), Fault> {
        let Some(owner) = caller.owner() else { return Ok(()) };
        match kind {
            Kind::Items => Ok(()),
            Kind::Plans => {
                let Value::Object(fields) = record else { return Ok(()) };
                let written = fields.entry("advertiser").or_insert_with(|| owner.as_str().into());
                if written.as_str() == Some(owner.as_str()) {
                    return Ok(());
                }
                Err(Fault { field: Some("advertiser".to_owned()), ..forbidden("must be your own id, or left out") })
            }
            Kind::Creatives => {
                if self.owns_plan(owner, &record["plan"]).await {
                    return Ok(());
                }
                Err(Fault::invalid("plan", "there is no such plan of yours"))
            }
        }
    }
}

fn may_read(caller: &Caller, kind: Kind) -> Result<(), Fault> {
    match (&caller.role, kind) {
        (Role::Ingest, Kind::Plans | Kind::Creatives) => Err(forbidden("the role ingest reads and writes items only")),
        _ => Ok(()),
    }
}

fn may_write(caller: &Caller, kind: Kind) -> Result<(), Fault> {
    match (&caller.role, kind) {
        (Role::Read, _) => Err(forbidden(READ_ONLY)),
        (Role::Ingest, Kind::Plans | Kind::Creatives) => Err(forbidden("the role ingest reads and writes items only")),
        _ => Ok(()),
    }
}
