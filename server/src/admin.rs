//! The port of the people who run the server: health, metrics, settings, and the records of the catalogue.
//!
//! It runs on a thread of its own ([`crate::runtime::serve_on_thread`]), so that scrapes and imports never stand in the way
//! of bids. What is behind the records is a [`CatalogAdmin`].

mod audit;
mod console;
mod desk;
mod forecast;
mod guard;
mod import;
pub(crate) mod learned;
mod mcp;
pub(crate) mod models;
mod openapi;
mod plans;
mod records;
mod requests;
mod routes;
mod tags;
mod tokens;

pub use audit::{Audit, AuditError};
pub use openapi::OPENAPI;
pub use records::merge_patch;
pub use routes::Admin;
pub use tags::{IfMatch, tag_of};
pub use tokens::{Caller, Role, TokenError, Tokens};

use crate::app::App;
use crate::http::respond::Fault;
use crate::http::{Request, Response};
use crate::ids::Id;
use crate::meters::Records;
use crate::money::{Currency, Micros};
use crate::plans::FieldError;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::Value;
use std::future::Future;

/// A kind of record.
pub type Kind = Records;

/// Which part of a list is wanted, in the order of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only records whose id is greater than this.
    pub after: Option<String>,
    /// Records at most.
    pub limit: usize,
    /// Only plans of this advertiser, and creatives of such plans; items have no owner.
    pub owner: Option<Id>,
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listing<R = Value> {
    /// The records, by id.
    pub records: Vec<R>,
    /// Pass it as `after` for the next part; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// All records of the kind that are there for whom the page is for.
    pub total: usize,
}

/// Whether a write may replace a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The id must be new.
    Create,
    /// New or not.
    Upsert,
}

/// A record as it now stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The record with every default filled in.
    pub record: Value,
    /// True if its id was new.
    pub created: bool,
}

/// A plan's money: `granted = spent + held + free`, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// The plan.
    pub plan: String,
    /// Currency of the figures.
    pub currency: Currency,
    /// Budget given.
    pub granted_micros: Micros,
    /// Spent for good.
    pub spent_micros: Micros,
    /// Held by bids without a notice yet.
    pub held_micros: Micros,
    /// Left.
    pub free_micros: Micros,
    /// The part of `spent_micros` that was charged after its hold had expired.
    pub late_micros: Micros,
}

/// Why a record could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A field breaks a rule.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// No record of this id.
    #[error("there is no record with this id")]
    NotFound,
    /// Creating an id that exists.
    #[error("a record with this id exists; PUT replaces it")]
    Exists,
    /// The record is not the version that the change was made from.
    #[error("the record is not (or no longer) as if-match or if-none-match has it: read it again, and change that")]
    Changed,
    /// Other records stand in the way: an item that a plan still sells, for example.
    #[error("{0}")]
    Conflict(String),
    /// The queue of changes is full.
    #[error("too many changes at once; try again")]
    Overloaded,
    /// Changes cannot be stored now (disk fault, draining).
    #[error("{0}")]
    Unavailable(String),
}

impl CatalogError {
    /// The fault as an answer.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let text = self.to_string();
        match self {
            Self::Invalid(error) => Fault::invalid(error.field.clone(), error.fault.clone()),
            Self::NotFound => Fault::new(StatusCode::NOT_FOUND, "not_found", text),
            Self::Exists => Fault::new(StatusCode::CONFLICT, "exists", text),
            Self::Changed => Fault::new(StatusCode::PRECONDITION_FAILED, "changed", text),
            Self::Conflict(_) => Fault::new(StatusCode::CONFLICT, "conflict", text),
            Self::Overloaded => Fault::overloaded(text, 1),
            Self::Unavailable(_) => Fault::unavailable(text, 1),
        }
    }
}

/// The catalogue and the ledger as the admin port sees them. A write that returned is durable.
pub trait CatalogAdmin: Send + Sync + 'static {
    /// Records of a kind, by id.
    fn list(&self, kind: Kind, page: Page) -> impl Future<Output = Result<Listing, CatalogError>> + Send;

    /// One record.
    fn get(&self, kind: Kind, id: &str) -> impl Future<Output = Result<Value, CatalogError>> + Send;

    /// Writes a record whose `id` field is `id`. The condition is looked at in the same step, here and below.
    fn put(
        &self,
        kind: Kind,
        id: &str,
        record: Value,
        how: (WriteMode, &IfMatch),
    ) -> impl Future<Output = Result<Written, CatalogError>> + Send;

    /// Changes fields of a record ([`merge_patch`], RFC 7396) in one step.
    fn patch(
        &self,
        kind: Kind,
        id: &str,
        patch: Value,
        if_match: &IfMatch,
    ) -> impl Future<Output = Result<Written, CatalogError>> + Send;

    /// Removes a record.
    fn delete(&self, kind: Kind, id: &str, if_match: &IfMatch)
    -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Upserts records in one durable step; one result for each, in order. A bad record does not stop the others.
    fn import(
        &self,
        kind: Kind,
        records: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Result<(), FieldError>>, CatalogError>> + Send;

    /// A plan's money.
    fn balance(&self, plan: &str) -> impl Future<Output = Result<Balance, CatalogError>> + Send;

    /// The money of many plans, by id.
    fn balances(&self, page: Page) -> impl Future<Output = Result<Listing<Balance>, CatalogError>> + Send;

    /// The rooms behind the records: reports, explanations, controls. `None` where there are only records.
    fn app(&self) -> Option<&App> {
        None
    }

    /// Any other path of the port. Host, origin and token have been checked.
    fn other(&self, request: Request) -> impl Future<Output = Response> + Send {
        let response = Fault::not_found(&format!("`{}`", request.path())).json();
        std::future::ready(response)
    }
}
