//! Explanations of bid requests, users, and the audit log.

use super::audit::Call;
use super::desk::{Desk, forbidden};
use super::tokens::{Caller, Role};
use super::{CatalogAdmin, records};
use crate::app::App;
use crate::http::openrtb;
use crate::http::respond::{self, Fault, Response};
use crate::http::{Request, path_id};
use crate::ids::Id;
use crate::pipeline::explain::{Wanted, explain};
use crate::reports::RecentBid;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

/// Entries of the audit log in one answer.
const AUDIT_MAX: usize = 1_000;

/// `POST /openrtb2/bid?explain=1`.
pub(super) async fn explain_body<C: CatalogAdmin>(
    desk: &Desk<C>,
    caller: &Caller,
    mut request: Request,
) -> Result<Response, Fault> {
    if caller.role == Role::Ingest {
        return Err(forbidden("the role ingest explains nothing"));
    }
    if request.method != Method::POST {
        return Err(Fault::method(&request.method, "POST"));
    }
    if request.query("explain").as_deref() != Some("1") {
        let fault = "this port does not bid; add ?explain=1 to learn what would be bid and why";
        return Err(Fault::invalid("explain", fault));
    }
    let app = desk.rooms()?;
    let bytes = request.bytes(app.config.http.body_bytes_max).await.map_err(|error| error.fault())?;
    let bid_request = openrtb::parse(&bytes).map_err(|bad| Fault::invalid(bad.field, bad.fault))?;
    let plan = request.query("plan").map(|plan| Id::from(&*plan));
    let wanted = Wanted { advertiser: caller.owner(), plan: plan.as_ref() };
    let mut told = serde_json::to_value(Box::pin(explain(app, &bid_request, wanted)).await).unwrap_or_default();
    keep_own(app, caller, &mut told);
    Ok(respond::json(StatusCode::OK, &told))
}

/// Leaves only what concerns the caller's plans in an explanation.
fn keep_own(app: &App, caller: &Caller, told: &mut Value) {
    let Some(owner) = caller.owner() else { return };
    let catalog = app.catalog.snapshot();
    let own = |plan: &str| {
        let entry = catalog.plan_slot(&Id::from(plan)).and_then(|slot| catalog.plan(slot));
        entry.is_some_and(|entry| entry.record.advertiser == *owner)
    };
    if let Some(bids) = told["bids"].as_array_mut() {
        bids.retain(|bid| bid["plan"].as_str().is_some_and(own));
    }
    for slot in told["imps"].as_array_mut().into_iter().flatten() {
        if let Some(slot) = slot.as_object_mut() {
            // Counts speak of everyone's plans.
            slot.remove("counts");
            if let Some(plans) = slot.get_mut("plans").and_then(Value::as_object_mut) {
                plans.retain(|plan, _| own(plan));
            }
        }
    }
}

/// What was answered to a recent request, by auction, request or bid id, and what would be answered now, with every plan's reason.
pub(super) async fn explain_recent<C: CatalogAdmin>(desk: &Desk<C>, caller: &Caller, id: &str) -> Result<Value, Fault> {
    if caller.role == Role::Ingest {
        return Err(forbidden("the role ingest explains nothing"));
    }
    let app = desk.rooms()?;
    let unknown = || {
        let message =
            "no recent bid request has this auction id, request id or bid id; the last thousand are remembered";
        Fault::new(StatusCode::NOT_FOUND, "not_found", message)
    };
    let recent: RecentBid = app.reports.recent(id).ok_or_else(unknown)?;
    let request = openrtb::parse(&recent.body).map_err(|bad| Fault::invalid(bad.field, bad.fault))?;
    let wanted = Wanted { advertiser: caller.owner(), ..Wanted::default() };
    let mut now = serde_json::to_value(Box::pin(explain(app, &request, wanted)).await).unwrap_or_default();
    keep_own(app, caller, &mut now);
    let bids: Vec<Value> = recent
        .bids
        .iter()
        .map(|bid| {
            let id = format!("{:032x}", bid.bid);
            json!({ "bid": id, "plan": bid.plan, "item": bid.item, "creative": bid.creative, "price_cpm": bid.price_cpm })
        })
        .collect();
    let mut answered = json!({ "bids": bids });
    keep_own(app, caller, &mut answered);
    Ok(json!({
        "auction": recent.auction,
        "request": recent.request,
        "at": recent.at,
        "stages": recent.times.header(),
        "answered": answered["bids"],
        "no_bid": recent.no_bid,
        "now": now,
    }))
}

/// `GET /v1/requests`: the newest requests that can be explained.
pub(super) fn recent<C: CatalogAdmin>(desk: &Desk<C>, caller: &Caller, request: &Request) -> Result<Response, Fault> {
    if !matches!(caller.role, Role::Operator | Role::Read) {
        return Err(forbidden("the list of requests is for operators and readers"));
    }
    let limit = records::limit(request, AUDIT_MAX)?;
    let list = desk.rooms()?.reports.recent_ids(limit);
    let rows: Vec<Value> =
        list.into_iter().map(|(auction, told)| json!({ "auction": auction, "outcome": told })).collect();
    Ok(respond::json(StatusCode::OK, &json!({ "requests": rows })))
}

/// `GET, DELETE /v1/users/{id}`: reading is for operators and readers, forgetting for operators.
pub(super) async fn of_user<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    user: &str,
    request: Request,
) -> Result<Response, Fault> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    if !matches!((&call.caller.role, reads), (Role::Operator, _) | (Role::Read, true)) {
        return Err(forbidden("users are for operators; readers may look"));
    }
    let user = path_id(user)?;
    let deletes = request.method == Method::DELETE;
    if deletes {
        desk.may_audit()?;
    }
    let response = desk.app.other(request).await;
    if deletes && response.status().is_success() {
        // Who was forgotten must not be kept by the log: a hash tells it to those who know the id.
        let hash = format!("{:032x}", crate::pipeline::user_key(&Id::from(&*user)));
        desk.audited(call, "users.forget".to_owned(), &hash, (None, None));
    }
    Ok(response)
}

/// `GET /v1/audit`.
pub(super) fn audit<C: CatalogAdmin>(desk: &Desk<C>, caller: &Caller, request: &Request) -> Result<Response, Fault> {
    if caller.role != Role::Operator {
        return Err(forbidden("the audit log is for operators"));
    }
    let limit = records::limit(request, AUDIT_MAX)?;
    let entries = desk.audit.newest(limit).map_err(|error| {
        tracing::error!(%error, "the audit log cannot be read");
        Fault::unavailable("the audit log cannot be read; the log has the details", 1)
    })?;
    Ok(respond::json(StatusCode::OK, &json!({ "entries": entries })))
}
