//! What requests, notices and the control tick tell the reports.

use super::App;
use crate::auction::choose::Sight;
use crate::auction::pace::{Controls, PlanOutcome};
use crate::auction::price::Steps;
use crate::auction::select::Candidate;
use crate::catalog::Catalog;
use crate::http::Request;
use crate::http::notices::Claim;
use crate::http::openrtb::{BidRequest, Context};
use crate::ids::{CreativeSlot, Id, PlanSlot};
use crate::ledger::BidId;
use crate::meters::{Label as _, NoBid, StageTimes};
use crate::money::Micros;
use crate::pipeline::bid::{Decision, Reasons};
use crate::plans::{Plan, PlanState};
use crate::reports::{AnsweredBid, Fact, Live, Outcome, RecentBid, Setting};
use bytes::Bytes;

/// Longest name of a channel; the rest is cut off.
const CHANNEL_BYTES_MAX: usize = 64;

/// Where an ad is seen, for reports: the app's bundle, the site's domain, else the publisher.
fn channel(context: &Context) -> Id {
    let names = [&context.app_bundle, &context.site_domain, &context.publisher];
    let name = names.into_iter().flatten().map(String::as_str).find(|name| !name.is_empty());
    let name = name.unwrap_or(crate::reports::OTHER_CHANNEL);
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= CHANNEL_BYTES_MAX).last();
    Id::from(&name[..end.unwrap_or(0)])
}

impl App {
    /// Plans that had a priced candidate.
    pub(crate) fn report_chances(&self, request: &BidRequest, priced: &[Candidate], reasons: &Reasons) {
        let below = reasons.below_floor().iter().map(|&(plan, steps)| (plan, steps, false));
        let above = priced.iter().map(|c| (c.plan, c.priced.steps(), true));
        let mut plans: Vec<(PlanSlot, Steps, bool)> = above.chain(below).collect();
        // The highest bid of each plan comes first and stays; one that reached its floor before one that did not.
        plans.sort_unstable_by_key(|&(plan, steps, reached)| (plan, std::cmp::Reverse((reached, steps.offered))));
        plans.dedup_by_key(|&mut (plan, ..)| plan);
        if !plans.is_empty() {
            let fact = Fact::Chances { channel: channel(&request.context), plans: plans.into() };
            self.reports.note(self.clock.seconds(), fact);
        }
    }

    /// Bids that are about to be answered.
    pub(crate) fn report_bids(&self, request: &BidRequest, decision: &Decision) -> Vec<AnsweredBid> {
        let channel = channel(&request.context);
        let catalog = &decision.catalog;
        let mut told = Vec::with_capacity(decision.bids.len());
        for won in &decision.bids {
            if !request.terms.test {
                let fact = Fact::Bid {
                    channel: channel.clone(),
                    bid: won.bid_id.0,
                    plan: won.plan,
                    creative: won.creative,
                    amount: won.priced.hold,
                };
                self.reports.note(self.clock.seconds(), fact);
            }
            let (Some(plan), Some(item), Some(creative)) =
                (catalog.plan(won.plan), catalog.item(won.item), catalog.creative(won.creative))
            else {
                continue;
            };
            told.push(AnsweredBid {
                bid: won.bid_id.0,
                plan: plan.record.id.clone(),
                item: item.record.id.clone(),
                creative: creative.record.id.clone(),
                price_cpm: won.priced.price.as_cpm(),
            });
        }
        told
    }

    /// An answered request.
    pub(crate) fn report_answer(
        &self,
        request: &Request,
        bid_request: &BidRequest,
        (body, times): (Bytes, StageTimes),
        (bids, no_bid): (Vec<AnsweredBid>, Option<NoBid>),
    ) {
        self.reports.answered(RecentBid {
            at: self.clock.seconds(),
            auction: bid_request.terms.auction_id.clone(),
            request: request.id.as_str().to_owned(),
            body,
            times,
            bids,
            no_bid: no_bid.map(|reason| reason.name()),
        });
    }

    /// A charged impression: what was charged and what was bid, in the plan's currency.
    pub(crate) fn report_win(
        &self,
        catalog: &Catalog,
        plan: PlanSlot,
        claim: &Claim<'_>,
        (price, amount): (Micros, Micros),
    ) {
        let creative = Sight::find(catalog, &claim.creative).map(|sight| sight.creative);
        let bid = BidId::parse(&claim.bid).0;
        self.reports.note(self.clock.seconds(), Fact::Win { bid, plan, creative, price, amount });
    }

    /// A result of an ad.
    pub(crate) fn report_result(
        &self,
        bid: Option<BidId>,
        plan: PlanSlot,
        creative: Option<CreativeSlot>,
        outcome: PlanOutcome,
    ) {
        let outcome = match outcome {
            PlanOutcome::Impression(_) => Outcome::Impression,
            PlanOutcome::Click => Outcome::Click,
            PlanOutcome::Conversion(value) => Outcome::Conversion(value),
            // Told by `report_win`, with the bid.
            PlanOutcome::Paid(_) => return,
        };
        let fact = Fact::Result { bid: bid.map(|bid| bid.0), plan, creative, outcome };
        self.reports.note(self.clock.seconds(), fact);
    }

    /// Folds what came since the last tick and writes down how every plan stands.
    pub(super) fn report_tick(&self, catalog: &Catalog, controls: &Controls) {
        self.reports.settle(catalog);
        let now = self.clock.seconds();
        let plans = catalog.plans().map(|(slot, entry)| {
            let plan = &*entry.record;
            let setting = Setting {
                at: now,
                budget: plan.budget_micros,
                goal: plan.goal.clone(),
                max_bid: plan.max_bid_micros,
                live: live(plan, controls.live.plans.get(slot), now),
            };
            (plan.id.clone(), setting, controls.multiplier(slot))
        });
        self.reports.tick(now, plans);
    }
}

fn live(plan: &Plan, on: bool, now: i64) -> Live {
    match plan.state {
        PlanState::Paused => Live::Paused,
        PlanState::Active if !(plan.starts_at..plan.ends_at).contains(&now) => Live::Off,
        PlanState::Active if on => Live::On,
        PlanState::Active => Live::Exhausted,
    }
}
