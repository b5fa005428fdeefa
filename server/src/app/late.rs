//! The admin port answers health and metrics from the first moment; records are there once everything is loaded.

use super::{App, Records};
use crate::admin::{Balance, CatalogAdmin, CatalogError, IfMatch, Kind, Listing, Page, WriteMode, Written};
use crate::http::respond::Fault;
use crate::http::{Request, Response};
use crate::plans::FieldError;
use serde_json::Value;
use std::sync::OnceLock;

/// A catalogue that is filled in when it is loaded; until then every call is answered "unavailable".
#[derive(Default)]
pub(super) struct LateRecords(OnceLock<Records>);

impl LateRecords {
    /// Fills it; only the first call counts.
    pub(super) fn fill(&self, records: Records) {
        let _ = self.0.set(records);
    }

    fn ready(&self) -> Result<&Records, CatalogError> {
        self.0.get().ok_or_else(|| CatalogError::Unavailable("still starting; see /readyz".to_owned()))
    }
}

impl CatalogAdmin for LateRecords {
    async fn list(&self, kind: Kind, page: Page) -> Result<Listing, CatalogError> {
        self.ready()?.list(kind, page).await
    }
    async fn get(&self, kind: Kind, id: &str) -> Result<Value, CatalogError> {
        self.ready()?.get(kind, id).await
    }
    async fn put(
        &self,
        kind: Kind,
        id: &str,
        record: Value,
        how: (WriteMode, &IfMatch),
    ) -> Result<Written, CatalogError> {
        self.ready()?.put(kind, id, record, how).await
    }
    async fn patch(&self, kind: Kind, id: &str, patch: Value, if_match: &IfMatch) -> Result<Written, CatalogError> {
        self.ready()?.patch(kind, id, patch, if_match).await
    }
    async fn delete(&self, kind: Kind, id: &str, if_match: &IfMatch) -> Result<(), CatalogError> {
        self.ready()?.delete(kind, id, if_match).await
    }
    async fn import(&self, kind: Kind, records: Vec<Value>) -> Result<Vec<Result<(), FieldError>>, CatalogError> {
        self.ready()?.import(kind, records).await
    }
    async fn balance(&self, plan: &str) -> Result<Balance, CatalogError> {
        self.ready()?.balance(plan).await
    }
    async fn balances(&self, page: Page) -> Result<Listing<Balance>, CatalogError> {
        self.ready()?.balances(page).await
    }
    fn app(&self) -> Option<&App> {
        self.0.get().and_then(CatalogAdmin::app)
    }
    async fn other(&self, request: Request) -> Response {
        match self.ready() {
            Ok(records) => records.other(request).await,
            Err(error) => Fault::json(error.fault()),
        }
    }
}
