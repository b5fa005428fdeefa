//! What shapes a plan's bids beside its budget and goal: day shares, costs of orders, an experiment.

use super::{Experiment, FieldError};
use crate::money::Micros;
use serde::{Deserialize, Serialize};

/// A cost that every order carries: commission, returns, insurance, the goods themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostItem {
    /// Shown to people, for example `commission`.
    pub name: String,
    /// Share of the order value, 0 to 1.
    #[serde(default)]
    pub share: f64,
    /// Micros of the plan's currency for each order.
    #[serde(default)]
    pub order_micros: Micros,
}

/// What else shapes a plan's bids; all of it optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// Share of the budget for each day of the plan (24 hours from `starts_at`), cumulative: what a day leaves, later days
    /// may spend. Empty: no day has a bound of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub day_shares: Vec<f64>,
    /// Costs of an order. Returns are counted net of them: with a cost of goods among them, on the margin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<CostItem>,
    /// A second policy for a part of the users, to compare with the plan's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
}

/// Most days with a share of their own.
pub const DAY_SHARES_MAX: usize = 366;
/// Most cost items of a plan.
pub const COSTS_MAX: usize = 64;

impl Strategy {
    /// What is left of order values after the costs, micros, rounded down; never negative. `orders` is how many they are.
    #[must_use]
    pub fn net(&self, order_value: Micros, orders: u64) -> Micros {
        if self.costs.is_empty() {
            return order_value;
        }
        let share: f64 = self.costs.iter().map(|cost| cost.share).sum();
        let each = self.costs.iter().fold(0_i64, |sum, cost| sum.saturating_add(cost.order_micros.0));
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a value, not a payment; `as` saturates"
        )]
        let kept = (order_value.0 as f64 * (1.0 - share)).floor() as i64;
        Micros(kept.saturating_sub(each.saturating_mul(i64::try_from(orders).unwrap_or(i64::MAX))).max(0))
    }

    /// Checks shares, costs and the experiment.
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        self.experiment.map_or(Ok(()), |experiment| experiment.validate())?;
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let days = &self.day_shares;
        if days.len() > DAY_SHARES_MAX || !days.iter().all(|x| share(*x)) || days.iter().sum::<f64>() > 1.0 + 1e-9 {
            return Err(FieldError::new(
                "strategy.day_shares",
                format!("must be at most {DAY_SHARES_MAX} numbers from 0 to 1 that sum to at most 1"),
            ));
        }
        let costs = &self.costs;
        let sound = costs.iter().all(|cost| share(cost.share) && cost.order_micros.0 >= 0);
        if costs.len() > COSTS_MAX || !sound || costs.iter().map(|cost| cost.share).sum::<f64>() >= 1.0 {
            return Err(FieldError::new(
                "strategy.costs",
                format!("must be at most {COSTS_MAX} items whose shares sum to below 1, none negative"),
            ));
        }
        Ok(())
    }
}
