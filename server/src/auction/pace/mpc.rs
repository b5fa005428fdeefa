//! Model predictive control of a plan's multiplier.
//!
//! Each tick learns how spend and value answer to the multiplier ([`Response`]), lays that over the traffic and prices that
//! the plan's remaining time will bring ([`Profile`]), and solves both constraints anew for a multiplier that is constant
//! until the end: one that spends what is left, and one at which the whole plan, past included, meets its return. The
//! smaller is taken ("min pacing"). A constant multiplier is the optimum of the relaxed problem (a linear program: the
//! multiplier is the budget's dual), so nothing is gained by planning a path of multipliers.
//!
//! Safe by construction: the model's curves only grow; a plan without impressions keeps a cautious multiplier and creeps up; a
//! multiplier moves at most [`STEP_MAX`] in a tick; past the end of the plan's money the ledger refuses.

use super::profile::LEVELS;
use super::rl::Features;
use super::{Control, Outlook, PlanObservation, Policy, Response, TickSeen};
use super::{NO_END, U_MAX, U_MIN};
use crate::money::Micros;
use serde::{Deserialize, Serialize};

/// Exponent before the first impression: a third below the value, because an unknown market is more often met too high.
const START: f64 = -0.4;
/// Furthest that the exponent moves in a tick.
const STEP_MAX: f64 = 0.7;
/// Rise in each tick without any impression yet.
const CREEP: f64 = 0.15;
/// Horizon of a plan without an end.
const ENDLESS_S: f64 = 86_400.0;
/// Results that weigh as much as the record of all plans together: few results are mostly luck.
const PRIOR_RESULTS: f64 = 300.0;
/// Return aimed at above the target: forecasts err, and past the target nothing makes up for it.
const RETURN_SLACK: f64 = 0.05;
/// Share of a new tick in the forecast's running error.
const ERROR_NEW: f64 = 0.1;

/// What the plan is expected to do by its end, and how well earlier ticks were forecast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Total spend at the end, micros.
    pub spend: f64,
    /// Value earned at the end over spend at the end: 1 meets the goal exactly.
    pub return_ratio: f64,
    /// Multiplier that the budget alone would take, and the one that the return alone would take.
    pub multipliers: [f64; 2],
    /// Running mean of |ln(spend / forecast spend)| of single ticks.
    pub spend_error: f64,
    /// Running mean of |ln(value / forecast value)| of single ticks.
    pub value_error: f64,
    /// Sum of forecast spend over the ticks so far, and what was spent in them, micros.
    pub record: [f64; 2],
    /// What a learned policy sees.
    pub state: Features,
    /// What the learned policy added to the exponent.
    pub adjusted: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Memory {
    at: f64,
    spent: Micros,
    expected: Micros,
    impressions: u64,
    exponent: f64,
    response: Option<Response>,
    forecast: Forecast,
    /// Forecast spend and value of a unit of traffic in the tick that runs.
    promised: [f64; 2],
}

/// The policy; its state is a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mpc {
    memory: Option<Memory>,
    /// Whether the learned policy may move the multiplier (`mpc+rl`).
    #[serde(default)]
    learned: bool,
}

#[expect(clippy::cast_precision_loss, reason = "a controller needs no exact money; it moves none")]
fn float(amount: Micros) -> f64 {
    amount.0 as f64
}

/// Remaining traffic at one level of prices: average hours, level.
type Ahead = [(f64, f64); LEVELS];

fn spend_at(response: &Response, ahead: &Ahead, exponent: f64) -> f64 {
    ahead.iter().map(|&(hours, level)| hours * response.spend(exponent, level)).sum()
}

fn value_at(response: &Response, ahead: &Ahead, exponent: f64) -> f64 {
    ahead.iter().map(|&(hours, level)| hours * response.value(exponent, level)).sum()
}

/// Largest exponent in `[low, high]` with `excess <= 0`, for an excess that grows; `low` if it is positive everywhere.
fn largest(low: f64, high: f64, excess: impl Fn(f64) -> f64) -> f64 {
    if excess(high) <= 0.0 {
        return high;
    }
    let (mut low, mut high) = (low, high);
    for _ in 0..12 {
        let middle = f64::midpoint(low, high);
        if excess(middle) <= 0.0 { low = middle } else { high = middle }
    }
    low
}

/// Both constraints of the rest of a plan.
struct Problem<'a> {
    response: &'a Response,
    ahead: Ahead,
    /// Budget left.
    left: f64,
    /// Earned so far less spent so far.
    surplus: f64,
    /// What one unit of predicted value has turned out to be worth.
    record: f64,
}

impl Problem<'_> {
    /// Exponents that spend the budget and that meet the return.
    fn solve(&self) -> [f64; 2] {
        let budget = largest(U_MIN, U_MAX, |u| spend_at(self.response, &self.ahead, u) - self.left);
        // Below the record every purchase adds to the surplus; above, each costs more than it earns.
        let fair = (self.record / (1.0 + RETURN_SLACK)).ln().clamp(U_MIN, U_MAX);
        let earn = self.record / (1.0 + RETURN_SLACK);
        let returns = largest(fair, U_MAX, |u| {
            spend_at(self.response, &self.ahead, u) - earn * value_at(self.response, &self.ahead, u) - self.surplus
        });
        [budget, returns]
    }
}

/// What predicted value has turned out to be worth: results over predictions, pulled to `others` (the same of all plans
/// together) by the weight of [`PRIOR_RESULTS`] results. Even unbiased predictions have a record below 1: what is won is won more
/// often where the prediction erred upwards.
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn record_of(seen: &PlanObservation, others: f64) -> f64 {
    let (earned, expected) = (float(seen.earned), float(seen.expected));
    if expected <= 0.0 || seen.results == 0 {
        return others;
    }
    let weight = PRIOR_RESULTS * earned / seen.results as f64;
    ((earned + weight * others) / (expected + weight)).clamp(0.1, 10.0)
}

impl Mpc {
    /// A fresh policy; `learned` lets the offline-trained policy move the multiplier inside the solver's band.
    #[must_use]
    pub fn new(learned: bool) -> Self {
        Self { memory: None, learned }
    }

    /// True for `mpc+rl`.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        self.learned
    }

    /// The belief about the plan's market, once there is one.
    #[must_use]
    pub fn response(&self) -> Option<&Response> {
        self.memory.as_ref()?.response.as_ref()
    }

    /// Takes in what happened since the last tick.
    #[expect(clippy::cast_precision_loss, reason = "counts of impressions")]
    fn learn(memory: &mut Memory, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) {
        let hours = (now - memory.at) / 3_600.0;
        let middle = f64::midpoint(memory.at, now);
        let tick = TickSeen {
            exponent: memory.exponent,
            traffic: outlook.profile.traffic(memory.at, now),
            price_level: outlook.profile.price_level(middle),
            impressions: seen.impressions.saturating_sub(memory.impressions) as f64,
            value: (float(seen.expected) - float(memory.expected)).max(0.0),
            spend: (float(seen.spent) - float(memory.spent)).max(0.0),
        };
        if let Some(response) = &mut memory.response {
            let promised = memory.promised.map(|rate| rate * tick.traffic);
            let error = |new: f64, old: f64| (new.max(1.0) / old.max(1.0)).ln().abs().min(2.0);
            let forecast = &mut memory.forecast;
            forecast.spend_error += ERROR_NEW * (error(tick.spend, promised[0]) - forecast.spend_error);
            forecast.value_error += ERROR_NEW * (error(tick.value, promised[1]) - forecast.value_error);
            forecast.record = [forecast.record[0] + promised[0], forecast.record[1] + tick.spend];
            response.learn(&tick, hours);
        } else if tick.impressions >= 1.0 && tick.value > 0.0 && tick.spend > 0.0 && tick.traffic > 0.0 {
            memory.response = Some(Response::first(&tick, outlook.threshold));
        }
        memory.at = now;
        memory.spent = seen.spent;
        memory.expected = seen.expected;
        memory.impressions = seen.impressions;
    }

    /// Exponent until the next tick.
    fn plan(&self, memory: &mut Memory, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) -> f64 {
        let Some(response) = memory.response else {
            return (memory.exponent + CREEP).min(1.0);
        };
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
        let (endless, end) = (seen.period_ends_at >= NO_END, seen.period_ends_at as f64);
        let until = if endless { now + ENDLESS_S } else { end };
        let record = record_of(seen, outlook.record);
        let expected = if seen.expected > Micros::ZERO { record * float(seen.expected) } else { float(seen.earned) };
        let problem = Problem {
            response: &response,
            ahead: outlook.profile.ahead(now, until),
            left: if endless { f64::MAX } else { seen.left() },
            surplus: expected / (1.0 + RETURN_SLACK) - float(seen.spent),
            record,
        };
        let [budget, returns] = problem.solve();
        let mut exponent = budget.min(returns);
        memory.forecast.state = Features::of(seen, memory, now, budget - returns);
        memory.forecast.adjusted = match outlook.policy {
            // Up to the return's multiplier and no further.
            Some(policy) if self.learned => policy.adjust(&memory.forecast.state).min(returns - exponent),
            _ => 0.0,
        };
        exponent += memory.forecast.adjusted;
        let forecast = &mut memory.forecast;
        forecast.multipliers = [budget.exp(), returns.exp()];
        let (more_spend, more_value) =
            (spend_at(&response, &problem.ahead, exponent), value_at(&response, &problem.ahead, exponent));
        let more_spend_capped = more_spend.min((float(seen.budget) - float(seen.spent)).max(0.0));
        let share = if more_spend > 0.0 { more_spend_capped / more_spend } else { 0.0 };
        forecast.spend = float(seen.spent) + more_spend_capped;
        let earned = expected + record * more_value * share;
        forecast.return_ratio = if forecast.spend > 0.0 { earned / forecast.spend } else { 1.0 };
        exponent.clamp(memory.exponent - STEP_MAX, memory.exponent + STEP_MAX).clamp(U_MIN, U_MAX)
    }

    /// What the shared profile may learn from the last tick: when it began, the surprise, and how certain.
    #[must_use]
    pub fn surprise(&self) -> Option<([f64; 2], f64)> {
        let response = self.response()?;
        let certainty = 1.0 / (1.0 + 25.0 * (response.variance[0] + response.variance[1]));
        Some((response.surprise, certainty))
    }
}

impl Features {
    fn of(seen: &PlanObservation, memory: &Memory, now: f64, gap: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
        let (start, end) = (seen.starts_at as f64, seen.ends_at as f64);
        let time_left = ((end - now) / (end - start).max(1.0)).clamp(0.0, 1.0);
        let left = ((float(seen.budget) - float(seen.spent)) / float(seen.budget).max(1.0)).clamp(0.0, 1.0);
        let sd = memory.response.map_or(1.0, |response| response.variance[1].max(0.0).sqrt());
        let record = memory.forecast.record;
        let drift = ((record[1] + 1.0) / (record[0] + 1.0)).ln().clamp(-2.0, 2.0);
        Self([time_left, left, sd.min(1.0), drift, gap.clamp(-2.0, 2.0), memory.forecast.spend_error])
    }
}

impl Policy for Mpc {
    fn update(&mut self, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) -> Control {
        let Some(mut memory) = self.memory else {
            self.memory = Some(Memory {
                at: now,
                spent: seen.spent,
                expected: seen.expected,
                impressions: seen.impressions,
                exponent: START,
                response: None,
                forecast: Forecast { return_ratio: 1.0, ..Forecast::default() },
                promised: [0.0; 2],
            });
            return Control { multiplier: START.exp(), forecast: None };
        };
        if now <= memory.at {
            return Control { multiplier: memory.exponent.exp(), forecast: memory.response.map(|_| memory.forecast) };
        }
        Self::learn(&mut memory, seen, now, outlook);
        memory.exponent = self.plan(&mut memory, seen, now, outlook);
        if let Some(response) = memory.response {
            let level = outlook.profile.price_level(now);
            memory.promised = [response.spend(memory.exponent, level), response.value(memory.exponent, level)];
        }
        self.memory = Some(memory);
        Control { multiplier: memory.exponent.exp(), forecast: memory.response.map(|_| memory.forecast) }
    }
}
