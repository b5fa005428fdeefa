//! `POST /openrtb2/bid`: an exchange offers impressions.

use super::openrtb::{self, BidRequest};
use super::respond::{self, Fault, header_text};
use super::routes::timed;
use super::{Request, Response};
use crate::app::App;
use crate::deadline::Deadline;
use crate::ids::Id;
use crate::meters::{NoBid, Stage, StageTimes};
use crate::pipeline::bid::{Decision, Mode, decide};
use crate::pipeline::{Asked, Stop, Subject, dress};
use crate::reports::{AnsweredBid, RecentBid};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use std::time::{Duration, Instant};

/// Answers a bid request: 200 with bids, 204 without, 400 for a request that breaks the specification.
pub async fn handle(app: &App, mut request: Request) -> Response {
    let mut times = StageTimes::from(request.arrived);
    let response = answer(app, &mut request, &mut times).await.unwrap_or_else(|fault| fault.respond(request.endpoint));
    timed(app, response, &mut times)
}

async fn answer(app: &App, request: &mut Request, times: &mut StageTimes) -> Result<Response, Fault> {
    request.expect_json()?;
    let version = request.header("x-openrtb-version").map(str::to_owned);
    openrtb::check_version(version.as_deref()).map_err(|bad| Fault::invalid(bad.field, bad.fault))?;
    let bytes = request.bytes(app.config.http.body_bytes_max).await.map_err(|error| error.fault())?;
    let bid_request = openrtb::parse(&bytes).map_err(|bad| Fault::invalid(bad.field, bad.fault))?;
    let kept = RecentBid::keeps(&bytes).then(|| Bytes::copy_from_slice(&bytes));
    drop(bytes);
    for (kind, count) in bid_request.tally.counts() {
        app.meters.leniencies.of(kind).increment(u64::from(count));
    }
    times.end(Stage::Parse, Instant::now());
    let mut bids = Vec::new();
    let outcome = bid(app, &bid_request, request.arrived, (times, &mut bids)).await;
    let reason = outcome.as_ref().err().copied();
    let mut response = outcome.unwrap_or_else(|reason| no_bid(app, reason));
    if let Some(body) = kept {
        app.report_answer(request, &bid_request, (body, times.clone()), (bids, reason));
    }
    if let Ok(version) = HeaderValue::from_str(version.as_deref().unwrap_or("2.6")) {
        response.headers_mut().insert("x-openrtb-version", version);
    }
    Ok(response)
}

/// The time an answer has: `tmax`, bounded, less what the network takes.
fn deadline(app: &App, tmax_ms: Option<u32>, arrived: Instant) -> Result<Deadline, NoBid> {
    let auction = &app.config.auction;
    let tmax = tmax_ms.map_or(auction.tmax_default_ms, u64::from).min(auction.tmax_max_ms);
    let left = tmax.saturating_sub(auction.network_margin_ms);
    if left < auction.tmax_min_ms {
        return Err(NoBid::TooLittleTime);
    }
    Ok(Deadline::after(arrived, Duration::from_millis(left)))
}

async fn bid(
    app: &App,
    request: &BidRequest,
    arrived: Instant,
    (times, told): (&mut StageTimes, &mut Vec<AnsweredBid>),
) -> Result<Response, NoBid> {
    if app.ledger.poisoned().is_some() {
        return Err(NoBid::LedgerPoisoned);
    }
    let deadline = deadline(app, request.tmax_ms, arrived)?;
    let subject = match request.user.for_history() {
        Some(user) => Subject::Known(Id::from(user)),
        None => Subject::Unknown,
    };
    let asked = Asked { subject, query_time: app.clock.seconds(), deadline };
    let mode = Mode { traced: app.sample_no_bid(), hold: !request.terms.test };
    // The answer leaves at the deadline whatever the stages are doing.
    let decided = tokio::time::timeout_at(deadline.0.into(), decide(app, request, &asked, mode, times)).await;
    let decision = match decided.map_err(|_| Stop::Deadline).and_then(|result| result) {
        Ok(decision) => decision,
        Err(stop) => {
            if let Stop::Failed(fault) = &stop {
                tracing::error!(auction = request.terms.auction_id, fault, "a bid request failed");
            }
            return Err(stop.no_bid());
        }
    };
    for (reason, count) in decision.reasons.counts() {
        app.meters.plans_filtered.of(reason).increment(u64::from(count));
    }
    if decision.bids.is_empty() {
        trace(app, request, &decision);
        return Err(decision.no_bid);
    }
    let body = dress::write(app, request, &decision).map_err(|fault| {
        tracing::error!(auction = request.terms.auction_id, fault, "a bid could not be written");
        NoBid::Failed
    })?;
    *told = app.report_bids(request, &decision);
    times.end(Stage::Record, Instant::now());
    if !request.terms.test {
        app.meters.bids.increment(decision.bids.len() as u64);
    }
    Ok(respond::json_bytes(StatusCode::OK, body))
}

/// Logs the farthest reason of each plan, for the sampled share of requests.
fn trace(app: &App, request: &BidRequest, decision: &Decision) {
    let Some(plans) = decision.reasons.by_plan() else { return };
    app.meters.no_bid_traces.increment(1);
    let mut list: Vec<String> = plans
        .iter()
        .filter_map(|(&plan, reason)| Some(format!("{}={reason}", decision.catalog.plan(plan)?.record.id)))
        .collect();
    list.sort_unstable();
    list.truncate(50);
    tracing::info!(
        auction = request.terms.auction_id,
        reason = %decision.no_bid,
        plans = list.join(" "),
        "no bid (sampled)"
    );
}

fn no_bid(app: &App, reason: NoBid) -> Response {
    app.meters.no_bids.of(reason).increment(1);
    let mut response = respond::no_content();
    // For people who try: an exchange ignores it.
    response.headers_mut().insert("x-longbow-no-bid", header_text(&reason.to_string()));
    response
}
