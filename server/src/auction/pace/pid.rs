//! PID control of a plan's multiplier.
//!
//! Two controllers run side by side and the smaller multiplier wins ("min pacing": a budget and a return each give a
//! linear bid, and the tighter one binds):
//!
//! - **spend**: the spend rate follows what is left of the budget over what is left of the plan's time;
//! - **return**: `earned / spent` is held at 1 or above. Conversions are few and late, so what the impressions bought are
//!   predicted to earn stands in for what they earned, corrected by how earlier predictions turned out
//!   ([`Evidence`]).
//!
//! Both act on *relative* errors in [-1, 1] and in time units of their own filters, so one set of gains serves plans of
//! any size, currency and length, and the interval between ticks does not matter. The actuator is exponential,
//! `multiplier = exp(u)` with `u` clamped to [-2, 5]. (Shape and clamp as in the published feedback controllers for
//! display bidding; their gains, P 5e-4, I 1e-6, D 1e-4, act on absolute eCPC errors of one data set and do not carry
//! over to relative errors.)

use super::schedule::{DayShape, NO_END};
use super::{Control, Outlook, PlanObservation, Policy};
use crate::money::Micros;
use serde::{Deserialize, Serialize};

/// Lowest exponent: at the least, a plan bids 0.14 of its value.
pub const U_MIN: f64 = -2.0;
/// Highest exponent: at the most, 148 times its value (and never above its `max_bid_micros`).
pub const U_MAX: f64 = 5.0;
/// How far the controller that does not bind may run ahead of the one that does.
const LEAD: f64 = 0.5;
/// Number of results that count as much as the belief that predictions are right.
const PRIOR_RESULTS: f64 = 10.0;
/// Before the first result, one is taken to earn this share of the budget.
const PRIOR_SHARE: f64 = 0.02;

/// Gains of one controller, for errors in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    /// Proportional.
    pub p: f64,
    /// Integral, for each filter time of full error.
    pub i: f64,
    /// Derivative, for each filter time.
    pub d: f64,
}

/// One PID controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Loop {
    integral: f64,
    last_error: f64,
}

impl Loop {
    /// The exponent after an `error` that lasted `share` of a filter time; `extra` is added to the proportional part.
    fn step(&mut self, gains: Gains, error: f64, share: f64) -> f64 {
        self.integral = (self.integral + gains.i * error * share).clamp(U_MIN, U_MAX);
        let slope = if share > 0.0 { (error - self.last_error) / share } else { 0.0 };
        self.last_error = error;
        gains.p * error + self.integral + gains.d * slope.clamp(-1.0, 1.0)
    }

    /// Keeps the integral from running away while the controller has no say.
    fn hold_to(&mut self, exponent: f64, limit: f64) {
        self.integral -= (exponent - limit).max(0.0).min(self.integral - U_MIN);
    }
}

/// What the controller remembers between ticks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Memory {
    at: f64,
    spent: Micros,
    evidence: f64,
    /// Filtered spend, micros a second.
    rate: f64,
    /// Spend and evidence of earnings of the recent past, exponentially forgotten.
    recent_spent: f64,
    recent_earned: f64,
    control: Control,
}

/// The PID policy; see the module's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pid {
    spend_gains: Gains,
    return_gains: Gains,
    shape: DayShape,
    spend: Loop,
    returns: Loop,
    memory: Option<Memory>,
}

impl Default for Pid {
    fn default() -> Self {
        Self::new(Gains { p: 0.4, i: 0.6, d: 0.02 }, Gains { p: 1.0, i: 0.35, d: 0.0 }, DayShape::default())
    }
}

/// What the money spent is believed to have earned, and how much belief the figure needs.
struct Evidence {
    earned: f64,
    /// Earnings and spend that are added to both sides of a ratio, so that a few results decide nothing.
    weight: f64,
}

impl Evidence {
    /// Predicted earnings times `(earned + weight) / (expected + weight)`, the record of the predictions pulled to 1 by
    /// the weight of [`PRIOR_RESULTS`]; without predictions, the earnings themselves.
    #[expect(clippy::cast_precision_loss, reason = "a controller needs no exact counts")]
    fn of(seen: &PlanObservation) -> Self {
        let (earned, expected) = (float(seen.earned), float(seen.expected));
        let one = if seen.results > 0 { earned / seen.results as f64 } else { PRIOR_SHARE * float(seen.budget) };
        let weight = (PRIOR_RESULTS * one).max(1.0);
        if expected <= 0.0 {
            return Self { earned, weight };
        }
        let record = ((earned + weight) / (expected + weight)).clamp(0.1, 10.0);
        // Predictions are believed for the noise they take away; the prior of the ratio can be small.
        Self { earned: expected * record, weight: weight / PRIOR_RESULTS }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a controller needs no exact money; it moves none")]
fn float(amount: Micros) -> f64 {
    amount.0 as f64
}

impl Pid {
    /// A controller at multiplier 1 with gains for spend and for return.
    #[must_use]
    pub fn new(spend_gains: Gains, return_gains: Gains, shape: DayShape) -> Self {
        Self { spend_gains, return_gains, shape, spend: Loop::default(), returns: Loop::default(), memory: None }
    }

    /// Wanted spend rate at `now`, micros a second; `None` if the plan has no end.
    fn wanted_rate(&self, seen: &PlanObservation, now: f64) -> Option<f64> {
        if seen.period_ends_at >= NO_END {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
        let left = self.shape.integral(now, seen.period_ends_at as f64);
        let free = seen.left();
        Some(if left > 0.0 { free * self.shape.weight(now) / left } else { 0.0 })
    }

    /// Filter times in seconds for spend and for return: a part of the plan's time, within bounds, and
    /// never shorter than the tick.
    fn filter_times(seen: &PlanObservation, now: f64, dt: f64) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
        let left = (seen.ends_at as f64 - now).max(0.0);
        let left = if seen.ends_at >= NO_END { 86_400.0 } else { left };
        ((left / 48.0).clamp(10.0, 900.0).max(dt), (left / 24.0).clamp(30.0, 3_600.0).max(dt))
    }
}

impl Policy for Pid {
    fn update(&mut self, seen: &PlanObservation, now: f64, _outlook: &Outlook<'_>) -> Control {
        let Some(mut memory) = self.memory else {
            let control = Control::default();
            self.memory = Some(Memory {
                at: now,
                spent: seen.spent,
                evidence: Evidence::of(seen).earned,
                rate: self.wanted_rate(seen, now).unwrap_or(0.0),
                recent_spent: 0.0,
                recent_earned: 0.0,
                control,
            });
            return control;
        };
        let dt = now - memory.at;
        if dt <= 0.0 {
            return memory.control;
        }
        let (spend_time, return_time) = Self::filter_times(seen, now, dt);
        let new_spend = (float(seen.spent) - float(memory.spent)).max(0.0);
        let keep = (-dt / spend_time).exp();
        memory.rate = keep * memory.rate + (1.0 - keep) * new_spend / dt;
        let u_spend = self.wanted_rate(seen, now).map(|wanted| {
            let error = if wanted > 0.0 { ((wanted - memory.rate) / wanted).clamp(-1.0, 1.0) } else { -1.0 };
            self.spend.step(self.spend_gains, error, dt / spend_time)
        });

        let keep = (-dt / return_time).exp();
        let evidence = Evidence::of(seen);
        memory.recent_spent = keep * memory.recent_spent + new_spend;
        memory.recent_earned = keep * memory.recent_earned + (evidence.earned - memory.evidence).max(0.0);
        let error =
            |earned: f64, spent: f64| ((earned + evidence.weight) / (spent + evidence.weight)).ln().clamp(-1.0, 1.0);
        let recent = error(memory.recent_earned, memory.recent_spent);
        let total = error(evidence.earned, float(seen.spent));
        // The integral settles the going rate at 1; the proportional part on the total repays what was lost before.
        let u_return = self.returns.step(Gains { p: 0.0, ..self.return_gains }, recent, dt / return_time)
            + self.return_gains.p * total.min(0.0);

        let u = u_spend.unwrap_or(U_MAX).min(u_return).clamp(U_MIN, U_MAX);
        if let Some(u_spend) = u_spend {
            self.spend.hold_to(u_spend, u + LEAD);
        }
        self.returns.hold_to(u_return, u + LEAD);
        memory.control = Control::everywhere(u.exp());
        memory.at = now;
        memory.spent = seen.spent;
        memory.evidence = evidence.earned;
        self.memory = Some(memory);
        memory.control
    }
}
