//! Why was there no bid: the whole decision of a request again, with the reason of every plan. Nothing is held or counted.

use super::bid::{Decision, Mode, decide};
use super::{Asked, Subject};
use crate::app::App;
use crate::auction::NoBidReason;
use crate::auction::choose::Choice;
use crate::deadline::Deadline;
use crate::http::openrtb::BidRequest;
use crate::ids::Id;
use crate::meters::{Label, StageTimes};
use crate::money::Currency;
use crate::plans::Plan;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time that an explanation may take: it is asked by a person, not by an auction.
const TIME: Duration = Duration::from_secs(5);
/// Plans listed for each slot at most, those that came farthest first; all are counted.
const PLANS_MAX: usize = 1_000;

/// What became of a request.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Auction id.
    pub auction: String,
    /// What would be bid.
    pub bids: Vec<ExplainedBid>,
    /// The reason under which the request is counted if nothing is bid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_bid: Option<&'static str>,
    /// A part of the server that could not do its work for this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Form of the history that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<&'static str>,
    /// By slot.
    pub imps: Vec<ExplainedSlot>,
    /// Milliseconds by stage.
    pub stages: String,
}

/// A bid that would be made.
#[derive(Debug, Serialize)]
pub struct ExplainedBid {
    imp: String,
    plan: Id,
    item: Id,
    creative: Id,
    /// What it was chosen from; the highest `sampled` wins.
    creatives: Vec<ExplainedCreative>,
    price_cpm: f64,
    currency: Currency,
    floor_cpm: f64,
    value_micros: i64,
    click: f64,
    conversion: f64,
    multiplier: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deal: Option<String>,
}

/// A creative that might have been shown.
#[derive(Debug, Serialize)]
pub struct ExplainedCreative {
    id: Id,
    /// Elements of its best composition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elements: Vec<Id>,
    impressions: f64,
    clicks: f64,
    /// Expected click rate for anybody, and its standard deviation.
    expected: f64,
    deviation: f64,
    /// What the user having seen it before leaves, 0 to 1.
    fatigue: f64,
    /// Its click rate in this draw for this user, with what exploring it is worth.
    sampled: f64,
}

/// Reasons for one slot.
#[derive(Debug, Serialize)]
pub struct ExplainedSlot {
    imp: String,
    /// Forms of the slot that cannot be filled, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unusable: Vec<String>,
    /// Number of plans by reason.
    counts: BTreeMap<&'static str, usize>,
    /// Each plan that does not bid, by id, and why.
    plans: BTreeMap<Id, &'static str>,
    /// Plans that were asked for and are not listed, as there are too many.
    #[serde(skip_serializing_if = "is_zero")]
    unlisted: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Which plans' reasons an explanation lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Plans of one advertiser.
    pub advertiser: Option<&'a Id>,
    /// One plan.
    pub plan: Option<&'a Id>,
}

impl Wanted<'_> {
    fn admits(&self, plan: &Plan) -> bool {
        self.advertiser.is_none_or(|owner| *owner == plan.advertiser) && self.plan.is_none_or(|id| *id == plan.id)
    }
}

/// Explains a request.
pub async fn explain(app: &App, request: &BidRequest, wanted: Wanted<'_>) -> Explanation {
    let started = Instant::now();
    let mut times = StageTimes::from(started);
    let subject = request.user.for_history().map_or(Subject::Unknown, |user| Subject::Known(Id::from(user)));
    let query_time = app.clock.seconds();
    let asked = Asked { subject, query_time, deadline: Deadline::after(started, TIME) };
    let outcome = decide(app, request, &asked, Mode { traced: true, hold: false }, &mut times).await;
    let imps = slots(app, request, outcome.as_ref().ok(), (wanted, query_time));
    let auction = request.terms.auction_id.clone();
    let stages = times.header();
    match outcome {
        Ok(decision) => {
            let bids = decision.bids.iter().filter_map(|won| bid(app, request, &decision, won)).collect();
            let no_bid = decision.bids.is_empty().then(|| decision.no_bid.name());
            let history = decision.degrade.map(crate::batch::Degrade::as_str);
            Explanation { auction, bids, no_bid, stopped: None, history, imps, stages }
        }
        Err(stop) => {
            let no_bid = Some(stop.no_bid().name());
            Explanation {
                auction,
                bids: Vec::new(),
                no_bid,
                stopped: Some(stop.to_string()),
                history: None,
                imps,
                stages,
            }
        }
    }
}

fn bid(app: &App, request: &BidRequest, decision: &Decision, won: &super::bid::Won) -> Option<ExplainedBid> {
    let catalog = &decision.catalog;
    let slot = request.slots.get(won.slot)?;
    Some(ExplainedBid {
        imp: slot.imp_id.clone(),
        plan: catalog.plan(won.plan)?.record.id.clone(),
        item: catalog.item(won.item)?.record.id.clone(),
        creative: catalog.creative(won.creative)?.record.id.clone(),
        creatives: won.rivals.iter().filter_map(|choice| creative(app, decision, choice)).collect(),
        price_cpm: won.priced.price.as_cpm(),
        currency: won.priced.currency,
        floor_cpm: won.priced.floor.as_cpm(),
        value_micros: won.priced.value.0,
        click: won.prediction.click,
        conversion: won.prediction.conversion,
        multiplier: app.controls.load().multiplier_in(won.plan, won.cell),
        deal: won.priced.deal.and_then(|at| slot.deals.get(at)).map(|deal| deal.id.clone()),
    })
}

fn creative(app: &App, decision: &Decision, choice: &Choice) -> Option<ExplainedCreative> {
    let entry = decision.catalog.creative(choice.creative)?;
    let elements = entry.tree.as_deref().map(|tree| tree.elements(&choice.composition).cloned().collect());
    let seen = app.chooser.seen(choice.creative);
    let &Choice { expected, deviation, fatigue, sampled, .. } = choice;
    Some(ExplainedCreative {
        id: entry.record.id.clone(),
        elements: elements.unwrap_or_default(),
        impressions: seen.impressions,
        clicks: seen.clicks,
        expected,
        deviation,
        fatigue,
        sampled,
    })
}

fn slots(
    app: &App,
    request: &BidRequest,
    decision: Option<&Decision>,
    (wanted, now): (Wanted<'_>, i64),
) -> Vec<ExplainedSlot> {
    let catalog = decision.map_or_else(|| app.catalog.snapshot(), |decision| decision.catalog.clone());
    let controls = app.controls.load();
    let mut out = Vec::with_capacity(request.slots.len());
    for (position, slot) in request.slots.iter().enumerate() {
        let of_slot = request.unusable.iter().filter(|unusable| unusable.imp_id == slot.imp_id);
        let unusable = of_slot.map(|unusable| format!("{}: {}", unusable.form, unusable.why)).collect();
        let mut explained = ExplainedSlot {
            imp: slot.imp_id.clone(),
            unusable,
            counts: BTreeMap::new(),
            plans: BTreeMap::new(),
            unlisted: 0,
        };
        let mut listed = Vec::new();
        for filtered in catalog.explain(&request.terms, slot, &controls.live, now) {
            let bids =
                decision.is_some_and(|d| d.bids.iter().any(|won| won.slot == position && won.plan == filtered.plan));
            if bids {
                continue;
            }
            let later = decision.and_then(|d| d.reasons.by_plan()?.get(&filtered.plan).copied());
            let insecure = slot.secure && !app.secure();
            let reason = match filtered.reason {
                Some(reason) => reason,
                None if insecure => NoBidReason::NotSecure,
                None => later.unwrap_or(NoBidReason::NotRetrieved),
            };
            *explained.counts.entry(reason.as_str()).or_default() += 1;
            if let Some(entry) = catalog.plan(filtered.plan)
                && wanted.admits(&entry.record)
            {
                // Those that passed the filters say most.
                listed.push((filtered.reason.is_some(), entry.record.id.clone(), reason.as_str()));
            }
        }
        listed.sort_by_key(|(filtered, _, _)| *filtered);
        explained.unlisted = listed.len().saturating_sub(PLANS_MAX);
        explained.plans = listed.into_iter().take(PLANS_MAX).map(|(_, id, reason)| (id, reason)).collect();
        out.push(explained);
    }
    out
}
