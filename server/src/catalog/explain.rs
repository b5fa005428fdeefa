//! The rules of a request once more, one record at a time: why each plan was filtered, and the final check of a bid.
//!
//! Nothing here reads the indexes that [`Catalog::eligible`] uses, so each checks the other.

use super::filter::deal_admits;
use super::fit::fits;
use super::{Catalog, PlanSet, category, covers, with_ancestors};
use crate::auction::NoBidReason;
use crate::auction::slot::{Slot, Terms};
use crate::ids::{CreativeSlot, ItemSlot, PlanSlot};
use crate::plans::{Item, Plan, PlanState};

/// A plan and, if it may not answer, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// The plan.
    pub plan: PlanSlot,
    /// `None` when at least one of its items may answer.
    pub reason: Option<NoBidReason>,
}

/// A decided bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The plan that pays.
    pub plan: PlanSlot,
    /// The item shown.
    pub item: ItemSlot,
    /// The creative; `None` only for a feed.
    pub creative: Option<CreativeSlot>,
    /// Deal bought through: position in the slot's list.
    pub deal: Option<usize>,
}

impl Catalog {
    /// What became of every plan at the filters, at `now` (Unix seconds). Walks every record: for a person who asks or
    /// a sampled log, not for each request.
    #[must_use]
    pub fn explain(&self, terms: &Terms, slot: &Slot, live: &PlanSet, now: i64) -> Vec<Filtered> {
        self.plans()
            .map(|(plan, _)| Filtered { plan, reason: self.explain_plan(terms, slot, live, (plan, now)).err() })
            .collect()
    }

    fn explain_plan(
        &self,
        terms: &Terms,
        slot: &Slot,
        live: &PlanSet,
        (plan, now): (PlanSlot, i64),
    ) -> Result<(), NoBidReason> {
        let entry = self.plan(plan).ok_or(NoBidReason::NotFound)?;
        check_schedule(&entry.record, now)?;
        if plan >= live.known {
            return Err(NoBidReason::AwaitingControl);
        }
        if !live.plans.get(plan) {
            return Err(NoBidReason::BudgetExhausted);
        }
        check_plan(&entry.record, terms, slot)?;
        let generic = self.fitting(terms, slot, plan, None);
        let mut best = generic.err().unwrap_or(NoBidReason::NoCreativeFits);
        for &item in &*entry.items {
            let record = &self.item(item).ok_or(NoBidReason::NotFound)?.record;
            let fit = generic.or_else(|_| self.fitting(terms, slot, plan, Some(item)));
            match fit.and_then(|()| check_categories(record, terms)) {
                Ok(()) => return Ok(()),
                Err(reason) => best = best.max(reason),
            }
        }
        Err(best)
    }

    /// Whether a creative of `plan` fits: those for any item, or those for exactly `item`. The reason is the one of the
    /// creative that came furthest.
    fn fitting(&self, terms: &Terms, slot: &Slot, plan: PlanSlot, item: Option<ItemSlot>) -> Result<(), NoBidReason> {
        if slot.imp_id.is_empty() {
            return Ok(());
        }
        let list = self.plan(plan).map_or(&[][..], |entry| &entry.creatives);
        let own = list.iter().filter_map(|&slot| self.creative(slot)).filter(|creative| creative.item == item);
        let mut best = NoBidReason::NoCreativeFits;
        for creative in own {
            match fits(&creative.record, slot, terms) {
                Ok(()) => return Ok(()),
                Err(reason) => best = best.max(reason),
            }
        }
        Err(best)
    }

    /// Checks one decided bid from the records alone, without indexes or caches: run on every result, so that no stale
    /// or wrong set can put a forbidden ad on a page. Price and budget are the pricing stage's and the ledger's to hold.
    ///
    /// # Errors
    /// The rule that the bid breaks.
    pub fn final_check(&self, terms: &Terms, slot: &Slot, bid: Decided, now: i64) -> Result<(), NoBidReason> {
        let plan = self.plan(bid.plan).ok_or(NoBidReason::NotFound)?;
        check_schedule(&plan.record, now)?;
        check_plan(&plan.record, terms, slot)?;
        let item = self.item(bid.item).ok_or(NoBidReason::NotFound)?;
        if plan.items.binary_search(&bid.item).is_err() {
            return Err(NoBidReason::ItemNotInPlan);
        }
        check_categories(&item.record, terms)?;
        if let Some(creative) = bid.creative {
            let creative = self.creative(creative).ok_or(NoBidReason::NotFound)?;
            if creative.plan != bid.plan || creative.item.is_some_and(|only| only != bid.item) {
                return Err(NoBidReason::ItemNotInPlan);
            }
            fits(&creative.record, slot, terms)?;
        } else if !slot.imp_id.is_empty() {
            return Err(NoBidReason::NoCreativeFits);
        }
        match bid.deal.map(|position| slot.deals.get(position)) {
            None if slot.private_auction => Err(NoBidReason::DealRequired),
            None => Ok(()),
            Some(deal) => {
                deal.filter(|deal| deal_admits(deal, &plan.record)).map(|_| ()).ok_or(NoBidReason::DealRequired)
            }
        }
    }
}

fn check_schedule(plan: &Plan, now: i64) -> Result<(), NoBidReason> {
    if plan.state == PlanState::Paused {
        Err(NoBidReason::Paused)
    } else if (plan.starts_at..plan.ends_at).contains(&now) {
        Ok(())
    } else {
        Err(NoBidReason::OutOfSchedule)
    }
}

fn check_plan(plan: &Plan, terms: &Terms, slot: &Slot) -> Result<(), NoBidReason> {
    let named = |seats: &[String]| plan.seat.as_ref().is_some_and(|own| seats.contains(own));
    if !terms.seats_allowed.is_empty() && !named(&terms.seats_allowed) {
        return Err(NoBidReason::SeatNotAllowed);
    }
    if named(&terms.seats_blocked) {
        return Err(NoBidReason::SeatBlocked);
    }
    if terms.blocked_domains.iter().any(|blocked| covers(blocked, &plan.domain)) {
        return Err(NoBidReason::DomainBlocked);
    }
    if slot.private_auction && !slot.deals.iter().any(|deal| deal_admits(deal, plan)) {
        return Err(NoBidReason::DealRequired);
    }
    Ok(())
}

fn check_categories(item: &Item, terms: &Terms) -> Result<(), NoBidReason> {
    let within = |own: &str, list: &[String]| {
        let own = category(own);
        list.iter().map(|listed| category(listed)).any(|listed| with_ancestors(&own).any(|part| part == listed))
    };
    if item.categories.iter().any(|own| within(own, &terms.blocked_categories)) {
        return Err(NoBidReason::CategoryBlocked);
    }
    let allowed = &terms.allowed_categories;
    if !allowed.is_empty() && (item.categories.is_empty() || !item.categories.iter().all(|own| within(own, allowed))) {
        return Err(NoBidReason::CategoryNotAllowed);
    }
    Ok(())
}
