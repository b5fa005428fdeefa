//! Control of every plan's bids: spend against its schedule, return against its goal.
//!
//! A control tick (seconds apart, beside the requests) turns what each plan has spent and earned into a multiplier
//! ([`ControlLoop::tick`]) and publishes [`Controls`], which requests read without waiting. The arithmetic is pure: time,
//! balances and results are passed in.
//!
//! "Earned" makes the three goals one: it is the spend that the results so far justify. For a return goal that is order
//! value / target, for a cost per conversion conversions x target, for a cost per click clicks x target. A plan meets its
//! goal while `earned >= spent`. "Expected" is the same from predictions: the sum of [`super::price::Priced::value`] over
//! the impressions bought. It is known at once and has no luck in it, but may be biased.

mod controls;
mod outcomes;
mod pid;
mod schedule;

pub use controls::{ControlLoop, Controls, ControlsHandle, PlanTotals, SavedControls};
pub use outcomes::{OutcomeState, Outcomes, PlanOutcome, PlanResults};
pub use pid::{Gains, Pid, U_MAX, U_MIN};
pub use schedule::{DayShape, NO_END};

use crate::money::Micros;
use crate::plans::PolicyKind;
use serde::{Deserialize, Serialize};

/// What a policy sees of its plan. Amounts are totals since the plan began, micros of the plan's currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanObservation {
    /// Whole budget.
    pub budget: Micros,
    /// Spent.
    pub spent: Micros,
    /// Spend that the results so far justify (see the module's text).
    pub earned: Micros,
    /// Results that `earned` counts: conversions, or clicks for a cost per click.
    pub results: u64,
    /// Predicted `earned` of the impressions bought so far; 0 if it is not known, then `earned` alone steers.
    pub expected: Micros,
    /// First second of the plan.
    pub starts_at: i64,
    /// End of the plan; [`NO_END`] or later means that there is no schedule to keep.
    pub ends_at: i64,
}

/// A policy's decision until the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Multiplies the predicted value.
    pub multiplier: f64,
}

impl Default for Control {
    fn default() -> Self {
        Self { multiplier: 1.0 }
    }
}

/// Decides one plan's control. Each plan has a policy value of its own, which carries its state from tick to tick.
pub trait Policy {
    /// The control from `now` (Unix seconds, fractions allowed) on, given what was observed up to `now`.
    fn update(&mut self, seen: &PlanObservation, now: f64) -> Control;
}

/// Multiplier 1, always: the predicted value is the bid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fixed;

impl Policy for Fixed {
    fn update(&mut self, _seen: &PlanObservation, _now: f64) -> Control {
        Control::default()
    }
}

/// The policies there are, as the store keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnyPolicy {
    /// [`Fixed`].
    Fixed(Fixed),
    /// [`Pid`].
    Pid(Box<Pid>),
}

impl AnyPolicy {
    /// A fresh policy of a kind.
    #[must_use]
    pub fn new(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Fixed => Self::Fixed(Fixed),
            PolicyKind::Pid => Self::Pid(Box::default()),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        match self {
            Self::Fixed(_) => PolicyKind::Fixed,
            Self::Pid(_) => PolicyKind::Pid,
        }
    }
}

impl Policy for AnyPolicy {
    fn update(&mut self, seen: &PlanObservation, now: f64) -> Control {
        match self {
            Self::Fixed(policy) => policy.update(seen, now),
            Self::Pid(policy) => policy.update(seen, now),
        }
    }
}
