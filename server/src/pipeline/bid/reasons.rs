//! Why candidates of a bid request were turned down.

use crate::auction::NoBidReason;
use crate::auction::price::Steps;
use crate::ids::PlanSlot;
use crate::meters::NoBid;
use std::collections::HashMap;

/// Reasons met on the way: counts for meters and, if asked for, the farthest reason of each plan.
#[derive(Clone, Debug)]
pub struct Reasons {
    counts: [u32; NoBidReason::ALL.len()],
    below_floor: Vec<(PlanSlot, Steps)>,
    by_plan: Option<HashMap<PlanSlot, NoBidReason>>,
}

impl Reasons {
    /// Counts only, or with a trace by plan.
    #[must_use]
    pub fn new(traced: bool) -> Self {
        Self { counts: [0; NoBidReason::ALL.len()], below_floor: Vec::new(), by_plan: traced.then(HashMap::new) }
    }

    pub(super) fn note(&mut self, plan: Option<PlanSlot>, reason: NoBidReason) {
        self.counts[reason.index()] += 1;
        if let (Some(plan), Some(trace)) = (plan, &mut self.by_plan) {
            let farthest = trace.entry(plan).or_insert(reason);
            *farthest = reason.max(*farthest);
        }
    }

    /// Reasons that occurred, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (NoBidReason, u32)> + '_ {
        NoBidReason::ALL.iter().map(|&reason| (reason, self.counts[reason.index()])).filter(|&(_, count)| count > 0)
    }

    /// The farthest reason of each plan that met one, if traced.
    #[must_use]
    pub fn by_plan(&self) -> Option<&HashMap<PlanSlot, NoBidReason>> {
        self.by_plan.as_ref()
    }

    /// Plans whose price did not reach the floor, for each candidate once, with what they would have offered without one.
    #[must_use]
    pub fn below_floor(&self) -> &[(PlanSlot, Steps)] {
        &self.below_floor
    }

    pub(super) fn note_below_floor(&mut self, found: Option<(PlanSlot, Steps)>) {
        self.below_floor.extend(found);
    }

    fn had(&self, reason: NoBidReason) -> bool {
        self.counts[reason.index()] > 0
    }

    /// The label of a request whose every candidate was turned down, from what happened most often last on the way.
    pub(super) fn no_bid(&self) -> NoBid {
        if self.had(NoBidReason::LedgerRefused) || self.had(NoBidReason::PoolRefilling) {
            NoBid::NotHeld
        } else if self.had(NoBidReason::BudgetExhausted) {
            NoBid::BudgetExhausted
        } else if self.had(NoBidReason::BelowFloor) {
            NoBid::BelowFloor
        } else {
            NoBid::LowValue
        }
    }
}
