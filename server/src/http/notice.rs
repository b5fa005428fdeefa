//! `GET /notice/{win,billing,loss,impression,click}`: signed reports on bids that were made.

use super::notices::{Claim, NoticeError, NoticeKind};
use super::respond::{self, Fault};
use super::{Request, Response};
use crate::app::App;
use crate::auction::choose::{Outcome, Sight};
use crate::auction::pace::PlanOutcome;
use crate::catalog::Catalog;
use crate::ids::{Id, PlanSlot};
use crate::ledger::{self, BidId, SettleError, Settled, Settlement, Timing};
use crate::meters::NoticeOutcome;
use crate::money::Micros;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue, LOCATION};

/// A transparent pixel: the body of an impression notice.
const PIXEL: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// Answers a notice. Every notice may be repeated: the second time changes nothing.
pub async fn handle(app: &App, request: Request) -> Response {
    let Some(kind) = NoticeKind::from_path(request.path()) else {
        return Fault::not_found("such notice").respond(request.endpoint);
    };
    let now = app.clock.seconds();
    let notice = match app.signer.verify(kind, request.uri.query().unwrap_or_default(), now) {
        Ok(notice) => notice,
        // A win that comes after the window is still a win: it is charged, late, as long as the ledger remembers enough to
        // charge it once. A late click still leads somewhere.
        Err(NoticeError::Expired { notice, .. }) if kind.charges() || kind == NoticeKind::Click => *notice,
        Err(error) => return refused(app, kind, &error).respond(request.endpoint),
    };
    let claim = &notice.claim;
    let (outcome, answer) = if claim.test {
        (NoticeOutcome::Noted, Ok(()))
    } else {
        match kind {
            NoticeKind::Win | NoticeKind::Billing => {
                let settled = settle(app, kind, claim, notice.price.unwrap_or(claim.cap)).await;
                if notice.several { flagged(claim, settled) } else { settled }
            }
            NoticeKind::Loss => release(app, claim),
            NoticeKind::Impression | NoticeKind::Click => (seen(app, kind, claim), Ok(())),
        }
    };
    app.meters.notices.of(kind.into(), outcome).increment(1);
    match answer {
        Ok(()) => answer_of(app, kind, claim),
        Err(fault) => fault.respond(request.endpoint),
    }
}

fn refused(app: &App, kind: NoticeKind, error: &NoticeError) -> Fault {
    if *error == NoticeError::FromFuture && kind.charges() {
        // A genuine win, and one of two clocks is wrong: the exchange must not drop it, so no 410.
        app.meters.notices.of(kind.into(), NoticeOutcome::OutOfWindow).increment(1);
        return Fault::unavailable(format!("{error}; send the notice again"), app.config.http.retry_after_s);
    }
    let (outcome, status) = match error {
        NoticeError::UnknownKey | NoticeError::BadSignature => (NoticeOutcome::BadSignature, StatusCode::FORBIDDEN),
        NoticeError::Expired { .. } | NoticeError::FromFuture => (NoticeOutcome::OutOfWindow, StatusCode::GONE),
        NoticeError::Price { .. } | NoticeError::Currency { .. } => (NoticeOutcome::BadPrice, StatusCode::BAD_REQUEST),
        NoticeError::Malformed { .. } => (NoticeOutcome::Malformed, StatusCode::BAD_REQUEST),
    };
    app.meters.notices.of(kind.into(), outcome).increment(1);
    let text = error.to_string();
    match text.split_once(": ") {
        Some((field, fault)) if status == StatusCode::BAD_REQUEST => Fault::invalid(field, fault),
        _ => Fault::new(status, "notice_refused", text),
    }
}

/// Where a claim's plan stands today.
fn plan_of(catalog: &Catalog, claim: &Claim<'_>) -> Option<PlanSlot> {
    catalog.plan_slot(&Id::from(&*claim.plan))
}

/// What the claim says was shown, if its creative is still here.
fn sight_of(app: &App, catalog: &Catalog, claim: &Claim<'_>) -> Option<Sight> {
    let sight = Sight::find(catalog, &claim.creative)?;
    Some(Sight { user: claim.user, now_s: app.clock.seconds(), ..sight })
}

/// Charges a win or billing notice. The answer leaves when the charge is on disk.
async fn settle(app: &App, kind: NoticeKind, claim: &Claim<'_>, price: Micros) -> (NoticeOutcome, Result<(), Fault>) {
    let plan = Id::from(&*claim.plan);
    let catalog = app.catalog.snapshot();
    let Some(account) = app.ledger.account(&plan) else {
        return (NoticeOutcome::Unknown, Err(Fault::not_found("such plan")));
    };
    // At the rate of the bid: the plan may be gone by now, and today's rates are others.
    let (price, bid_amount) = (claim.charge(price), claim.hold);
    let notice = if kind == NoticeKind::Win { ledger::Notice::Win } else { ledger::Notice::Billing };
    let bid = BidId::parse(&claim.bid);
    app.shades.won(bid);
    let settlement = Settlement { account, bid, notice, price, bid_amount, issued_at: claim.time_s };
    match app.ledger.settle(settlement).await {
        Ok(Settled::Charged { timing }) => {
            if let Some(slot) = catalog.plan_slot(&plan) {
                app.outcomes.record(slot, app.predicted.of(bid).cell, PlanOutcome::Paid(price));
                app.report_win(&catalog, slot, claim, (price, bid_amount));
            }
            if timing == Timing::OnTime {
                return (NoticeOutcome::Settled, Ok(()));
            }
            tracing::warn!(plan = %plan, bid = %claim.bid, ?timing, price = price.0, "charged late");
            (NoticeOutcome::Late, Ok(()))
        }
        Ok(Settled::Duplicate { .. }) => (NoticeOutcome::Duplicate, Ok(())),
        Ok(Settled::Noted) => (NoticeOutcome::Noted, Ok(())),
        Err(SettleError::Busy) => {
            let fault = Fault::overloaded("the ledger is busy; send the notice again", app.config.http.retry_after_s);
            (NoticeOutcome::Failed, Err(fault))
        }
        Err(SettleError::TooOld(_)) => {
            (NoticeOutcome::OutOfWindow, Err(Fault::new(StatusCode::GONE, "notice_refused", "the bid is too old")))
        }
        Err(error @ (SettleError::BadPrice(_) | SettleError::PriceAboveBid { .. })) => {
            (NoticeOutcome::BadPrice, Err(Fault::invalid("price", error.to_string())))
        }
        Err(SettleError::UnknownAccount) => (NoticeOutcome::Unknown, Err(Fault::not_found("such plan"))),
        // Logged when it happened.
        Err(SettleError::Poisoned(_)) => {
            let fault =
                Fault::unavailable("the ledger cannot write; send the notice again", app.config.http.retry_after_s);
            (NoticeOutcome::Failed, Err(fault))
        }
    }
}

/// Slots that sell several impressions for one price are not bid for, so the exchange bills otherwise than it asked: more was spent
/// than the ledger charges.
fn flagged(
    claim: &Claim<'_>,
    (outcome, answer): (NoticeOutcome, Result<(), Fault>),
) -> (NoticeOutcome, Result<(), Fault>) {
    if !matches!(outcome, NoticeOutcome::Settled | NoticeOutcome::Late) {
        return (outcome, answer);
    }
    tracing::warn!(
        plan = %claim.plan, bid = %claim.bid,
        "the exchange bills another number of impressions (AUCTION_MULTIPLIER) than the one that was bid for and charged"
    );
    (NoticeOutcome::Multiplied, answer)
}

fn release(app: &App, claim: &Claim<'_>) -> (NoticeOutcome, Result<(), Fault>) {
    let Some(account) = app.ledger.account(&Id::from(&*claim.plan)) else {
        return (NoticeOutcome::Unknown, Err(Fault::not_found("such plan")));
    };
    match app.ledger.release(account, BidId::parse(&claim.bid)) {
        Some(_) => (NoticeOutcome::Released, Ok(())),
        None => (NoticeOutcome::Duplicate, Ok(())),
    }
}

/// Counts an impression or a click, once for each bid.
fn seen(app: &App, kind: NoticeKind, claim: &Claim<'_>) -> NoticeOutcome {
    let bid = BidId::parse(&claim.bid);
    if !app.seen.first(kind, bid) {
        return NoticeOutcome::Duplicate;
    }
    let catalog = app.catalog.snapshot();
    let expected = app.predicted.of(bid);
    let (of_creative, of_plan) = match kind {
        NoticeKind::Click => (Outcome::Click, PlanOutcome::Click),
        _ => (Outcome::Impression, PlanOutcome::Impression(expected.value)),
    };
    let sight = sight_of(app, &catalog, claim);
    let creative = sight.as_ref().map(|sight| sight.creative);
    if let Some(sight) = sight {
        app.chooser.record(&catalog, sight, of_creative);
    }
    match plan_of(&catalog, claim) {
        Some(plan) => {
            app.outcomes.record(plan, expected.cell, of_plan);
            app.report_result(Some(bid), plan, creative, of_plan);
            NoticeOutcome::Settled
        }
        None => NoticeOutcome::Unknown,
    }
}

fn answer_of(app: &App, kind: NoticeKind, claim: &Claim<'_>) -> Response {
    let mut response = match kind {
        NoticeKind::Win | NoticeKind::Billing | NoticeKind::Loss => respond::no_content(),
        NoticeKind::Impression => respond::with_type(StatusCode::OK, "image/gif", PIXEL),
        NoticeKind::Click => landing(app, claim),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Sends a click to the item's page. The page comes from the catalogue, never from the URL, so that nobody can make the server
/// redirect elsewhere.
fn landing(app: &App, claim: &Claim<'_>) -> Response {
    let catalog = app.catalog.snapshot();
    let entry = catalog.item_slot(&Id::from(&*claim.item)).and_then(|slot| catalog.item(slot));
    let url = entry.map(|entry| entry.record.url.as_str()).filter(|url| !url.is_empty());
    match url.and_then(|url| HeaderValue::from_str(url).ok()) {
        Some(url) => {
            let mut response = respond::empty(StatusCode::FOUND);
            response.headers_mut().insert(LOCATION, url);
            response
        }
        None => Fault::new(StatusCode::GONE, "gone", "the advertised item is no longer here").json(),
    }
}
