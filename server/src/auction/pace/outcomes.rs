//! What each plan's ads brought: counters that events add to and the control tick reads.

use super::{CELLS, Cell, CellResults};
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
    /// The ledger was charged for an ad.
    Paid(Micros),
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
    /// Sum of the charges counted here. Of the plan as a whole the ledger knows better: this divides it among its parts.
    #[serde(default)]
    pub paid: Micros,
}

impl PlanResults {
    /// Sum of both.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        let money = |a: Micros, b: Micros| Micros(a.0.saturating_add(b.0));
        Self {
            impressions: self.impressions.saturating_add(other.impressions),
            clicks: self.clicks.saturating_add(other.clicks),
            conversions: self.conversions.saturating_add(other.conversions),
            order_value: money(self.order_value, other.order_value),
            expected: money(self.expected, other.expected),
            paid: money(self.paid, other.paid),
        }
    }

    /// What came on top of `earlier`.
    #[must_use]
    pub fn since(self, earlier: &Self) -> Self {
        let money = |a: Micros, b: Micros| Micros(a.0.saturating_sub(b.0).max(0));
        Self {
            impressions: self.impressions.saturating_sub(earlier.impressions),
            clicks: self.clicks.saturating_sub(earlier.clicks),
            conversions: self.conversions.saturating_sub(earlier.conversions),
            order_value: money(self.order_value, earlier.order_value),
            expected: money(self.expected, earlier.expected),
            paid: money(self.paid, earlier.paid),
        }
    }

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

/// Results of a plan as the store keeps them: their sum, and the cells that have any.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedResults {
    /// All of them; where there are no cells (an older state) they are the first cell's.
    #[serde(flatten)]
    pub total: PlanResults,
    /// By position of the cell.
    #[serde(default)]
    pub cells: Vec<(usize, PlanResults)>,
}

/// Saved results by plan id, for the store.
pub type OutcomeState = Vec<(Id, SavedResults)>;

/// An amount as a count; a negative one, which no caller should report, as 0.
fn unsigned(amount: Micros) -> u64 {
    u64::try_from(amount.0).unwrap_or(0)
}

/// Counters of a cell: impressions, clicks, conversions, order value, expected value, paid.
const KINDS: usize = 6;

/// Results of all plans; lock-free to add to and to read.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// [`KINDS`] for each cell.
    counters: Counters<{ KINDS * CELLS }>,
}

impl Outcomes {
    /// No results yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one result of a cell.
    pub fn record(&self, plan: PlanSlot, cell: Cell, outcome: PlanOutcome) {
        let amounts = match outcome {
            PlanOutcome::Impression(expected) => [1, 0, 0, 0, unsigned(expected), 0],
            PlanOutcome::Click => [0, 1, 0, 0, 0, 0],
            PlanOutcome::Conversion(value) => [0, 0, 1, unsigned(value), 0, 0],
            PlanOutcome::Paid(price) => [0, 0, 0, 0, 0, unsigned(price)],
        };
        self.counters.add_from(plan, cell.index() * KINDS, &amounts);
    }

    /// Results of a plan.
    #[must_use]
    pub fn of(&self, plan: PlanSlot) -> PlanResults {
        self.cells(plan).total()
    }

    /// Results of a plan by cell.
    #[must_use]
    pub fn cells(&self, plan: PlanSlot) -> CellResults {
        let counts = self.counters.read(plan);
        let money = |sum: u64| Micros(i64::try_from(sum).unwrap_or(i64::MAX));
        let cell = |cell: usize| {
            let of = &counts[cell * KINDS..];
            PlanResults {
                impressions: of[0],
                clicks: of[1],
                conversions: of[2],
                order_value: money(of[3]),
                expected: money(of[4]),
                paid: money(of[5]),
            }
        };
        CellResults(std::array::from_fn(cell))
    }

    /// Results of every plan in `catalog` that has any.
    #[must_use]
    pub fn save(&self, catalog: &Catalog) -> OutcomeState {
        let none = PlanResults::default();
        let of = |slot| {
            let cells = self.cells(slot);
            let some = cells.0.into_iter().enumerate().filter(|(_, cell)| *cell != none).collect();
            SavedResults { total: cells.total(), cells: some }
        };
        let all = catalog.plans().map(|(slot, entry)| (entry.record.id.clone(), of(slot)));
        all.filter(|(_, results)| results.total != none).collect()
    }

    /// Puts saved results back; plans that are no longer in `catalog` are left out.
    pub fn restore(&self, catalog: &Catalog, state: &OutcomeState) {
        for (id, saved) in state {
            let Some(slot) = catalog.plan_slot(id) else { continue };
            let mut counts = [0; KINDS * CELLS];
            // An older state counted no charges; the ledger's spend is then the first cell's by what was expected there.
            let older = [(0, PlanResults { paid: saved.total.expected, ..saved.total })];
            let cells = if saved.cells.is_empty() { &older[..] } else { &saved.cells };
            for (cell, results) in cells.iter().filter(|(cell, _)| *cell < CELLS) {
                let PlanResults { impressions, clicks, conversions, order_value, expected, paid } = *results;
                let of = [impressions, clicks, conversions, unsigned(order_value), unsigned(expected), unsigned(paid)];
                counts[cell * KINDS..][..KINDS].copy_from_slice(&of);
            }
            self.counters.set(slot, counts);
        }
    }
}
