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

mod arms;
mod cell;
mod channels;
mod controls;
pub mod horizon;
mod mpc;
mod outcomes;
mod pid;
mod profile;
mod response;
pub mod rl;
mod schedule;

pub use arms::{ArmFigures, Trial};
pub use cell::{CELLS, Cell, CellResults};
pub use channels::{ChannelSeen, NO_FACTORS};
pub use controls::{ControlLoop, Controls, ControlsHandle, PlanTotals, SavedControls};
pub use mpc::{Forecast, Mpc};
pub use outcomes::{OutcomeState, Outcomes, PlanOutcome, PlanResults, SavedResults};
pub use pid::{Gains, Pid, U_MAX, U_MIN};
pub use profile::{PARTS, Profile};
pub use response::{Response, SPREAD, TickSeen};
pub use schedule::{DayShape, NO_END};

use crate::auction::slot::CHANNELS;
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
    /// Impressions bought.
    pub impressions: u64,
    /// Predicted `earned` of the impressions bought so far; 0 if it is not known, then `earned` alone steers.
    pub expected: Micros,
    /// First second of the plan.
    pub starts_at: i64,
    /// End of the plan; [`NO_END`] or later means that there is no schedule to keep.
    pub ends_at: i64,
    /// What may be spent in all by `period_ends_at`: a day's share on top of the earlier days', or the whole budget.
    pub allowance: Micros,
    /// End of the period that `allowance` is for: the end of the plan, or of one day.
    pub period_ends_at: i64,
    /// The same money and results by channel.
    pub channels: [ChannelSeen; CHANNELS],
}

impl PlanObservation {
    /// Budget left that may be planned with, micros.
    #[expect(clippy::cast_precision_loss, reason = "a controller needs no exact money; it moves none")]
    #[must_use]
    pub fn left(&self) -> f64 {
        (self.budget.0.min(self.allowance.0) as f64 - self.spent.0 as f64).max(0.0)
    }
}

/// What all plans share at a tick.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// The day's traffic and prices.
    pub profile: &'a Profile,
    /// Mean threshold of the plans that are known: where a new plan's belief begins.
    pub threshold: f64,
    /// Results of all plans over what was predicted of them.
    pub record: f64,
    /// The same of each channel, over `record`.
    pub channels: [f64; CHANNELS],
    /// The offline-trained policy, if one is loaded.
    pub policy: Option<&'a rl::RlPolicy>,
}

/// A policy's decision until the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Multiplies the predicted value.
    pub multiplier: f64,
    /// Multiplies that once more in each channel.
    #[serde(default = "no_factors")]
    pub channels: [f64; CHANNELS],
    /// What the policy expects, if it forecasts.
    #[serde(default)]
    pub forecast: Option<Forecast>,
}

impl Default for Control {
    fn default() -> Self {
        Self { multiplier: 1.0, channels: NO_FACTORS, forecast: None }
    }
}

impl Control {
    /// One multiplier in every channel.
    #[must_use]
    pub fn everywhere(multiplier: f64) -> Self {
        Self { multiplier, ..Self::default() }
    }
}

fn no_factors() -> [f64; CHANNELS] {
    NO_FACTORS
}

/// Decides one plan's control. Each plan has a policy value of its own, which carries its state from tick to tick.
pub trait Policy {
    /// The control from `now` (Unix seconds, fractions allowed) on, given what was observed up to `now`.
    fn update(&mut self, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) -> Control;
}

/// Multiplier 1, always: the predicted value is the bid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fixed;

impl Policy for Fixed {
    fn update(&mut self, _seen: &PlanObservation, _now: f64, _outlook: &Outlook<'_>) -> Control {
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
    /// [`Mpc`].
    Mpc(Box<Mpc>),
}

impl AnyPolicy {
    /// A fresh policy of a kind.
    #[must_use]
    pub fn new(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Fixed => Self::Fixed(Fixed),
            PolicyKind::Pid => Self::Pid(Box::default()),
            PolicyKind::Mpc => Self::Mpc(Box::new(Mpc::new(false))),
            PolicyKind::MpcRl => Self::Mpc(Box::new(Mpc::new(true))),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        match self {
            Self::Fixed(_) => PolicyKind::Fixed,
            Self::Pid(_) => PolicyKind::Pid,
            Self::Mpc(policy) if policy.is_learned() => PolicyKind::MpcRl,
            Self::Mpc(_) => PolicyKind::Mpc,
        }
    }
}

impl AnyPolicy {
    /// Goes on from `seen` although it did not come about by bidding: an experiment began or ended.
    fn rebase(&mut self, seen: &PlanObservation) {
        match self {
            Self::Fixed(_) => {}
            // Its memory is a few minutes long.
            Self::Pid(policy) => **policy = Pid::default(),
            Self::Mpc(policy) => policy.rebase(seen),
        }
    }
}

impl Policy for AnyPolicy {
    fn update(&mut self, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) -> Control {
        match self {
            Self::Fixed(policy) => policy.update(seen, now, outlook),
            Self::Pid(policy) => policy.update(seen, now, outlook),
            Self::Mpc(policy) => policy.update(seen, now, outlook),
        }
    }
}
