//! What each plan's ads brought: counters that events add to and the control tick reads.

use crate::auction::counters::Counters;
use crate::catalog::Catalog;
use crate::ids::{Id, PlanSlot};
use crate::money::Micros;
use crate::plans::{Goal, Plan};
use serde::{Deserialize, Serialize};

/// One attributed result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanOutcome {
    /// An ad was shown and paid for; with its predicted value ([`crate::auction::price::Priced::value`]), or zero if that
    /// is not known any more.
    Impression(Micros),
    /// An ad was clicked.
    Click,
    /// A conversion with its order value, micros of the plan's currency.
    Conversion(Micros),
}

/// Results of one plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanResults {
    /// Impressions.
    pub impressions: u64,
    /// Clicks.
    pub clicks: u64,
    /// Conversions.
    pub conversions: u64,
    /// Sum of order values, micros of the plan's currency.
    pub order_value: Micros,
    /// Sum of the predicted values of the impressions, micros of the plan's currency.
    #[serde(default)]
    pub expected: Micros,
}

impl PlanResults {
    /// The results that a goal counts: clicks for a cost per click, else conversions.
    #[must_use]
    pub fn counted(&self, goal: &Goal) -> u64 {
        match goal {
            Goal::Cpc { .. } => self.clicks,
            Goal::Roi { .. } | Goal::Cpa { .. } => self.conversions,
        }
    }

    /// The spend that these results justify under a plan's goal, rounded down: order value net of costs / target,
    /// conversions x target or clicks x target.
    #[must_use]
    pub fn earned(&self, plan: &Plan) -> Micros {
        let times = |count: u64, each: Micros| {
            Micros(i64::try_from(i128::from(count) * i128::from(each.0)).unwrap_or(i64::MAX))
        };
        match plan.goal {
            Goal::Roi { target } if target > 0.0 => {
                let net = plan.strategy.net(self.order_value, self.conversions);
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "a figure for the controller, not a payment; `as` saturates"
                )]
                Micros((net.0 as f64 / target).floor() as i64)
            }
            Goal::Roi { .. } => Micros::ZERO,
            Goal::Cpa { target_micros } => times(self.conversions, target_micros),
            Goal::Cpc { target_micros } => times(self.clicks, target_micros),
        }
    }
}

/// Saved results by plan id, for the store.
pub type OutcomeState = Vec<(Id, PlanResults)>;

/// An amount as a count; a negative one, which no caller should report, as 0.
fn unsigned(amount: Micros) -> u64 {
    u64::try_from(amount.0).unwrap_or(0)
}

/// Results of all plans; lock-free to add to and to read.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Impressions, clicks, conversions, order value, expected value.
    counters: Counters<5>,
}

impl Outcomes {
    /// No results yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one result.
    pub fn record(&self, plan: PlanSlot, outcome: PlanOutcome) {
        let amounts = match outcome {
            PlanOutcome::Impression(expected) => [1, 0, 0, 0, unsigned(expected)],
            PlanOutcome::Click => [0, 1, 0, 0, 0],
            PlanOutcome::Conversion(value) => [0, 0, 1, unsigned(value), 0],
        };
        self.counters.add(plan, amounts);
    }

    /// Results of a plan.
    #[must_use]
    pub fn of(&self, plan: PlanSlot) -> PlanResults {
        let [impressions, clicks, conversions, order_value, expected] = self.counters.read(plan);
        let money = |sum: u64| Micros(i64::try_from(sum).unwrap_or(i64::MAX));
        let (order_value, expected) = (money(order_value), money(expected));
        PlanResults { impressions, clicks, conversions, order_value, expected }
    }

    /// Results of every plan in `catalog` that has any.
    #[must_use]
    pub fn save(&self, catalog: &Catalog) -> OutcomeState {
        let all = catalog.plans().map(|(slot, entry)| (entry.record.id.clone(), self.of(slot)));
        all.filter(|(_, results)| *results != PlanResults::default()).collect()
    }

    /// Puts saved results back; plans that are no longer in `catalog` are left out.
    pub fn restore(&self, catalog: &Catalog, state: &OutcomeState) {
        for (id, results) in state {
            if let Some(slot) = catalog.plan_slot(id) {
                let PlanResults { impressions, clicks, conversions, order_value, expected } = *results;
                let money = [unsigned(order_value), unsigned(expected)];
                self.counters.set(slot, [impressions, clicks, conversions, money[0], money[1]]);
            }
        }
    }
}
