//! Model predictive control of a plan's multiplier.
//!
//! Each tick learns how spend and value answer to the multiplier in each channel ([`super::Response`]), lays that over the traffic and prices that
//! the plan's remaining time will bring ([`Profile`]), and solves both constraints anew for a multiplier that is constant
//! until the end: one that spends what is left, and one at which the whole plan, past included, meets its return. The
//! smaller is taken ("min pacing"). A constant multiplier is the optimum of the relaxed problem (a linear program: the
//! multiplier is the budget's dual), so nothing is gained by planning a path of multipliers.
//!
//! Safe by construction: the model's curves only grow; a plan without impressions keeps a cautious multiplier and creeps up; a
//! multiplier moves at most [`STEP_MAX`] in a tick; past the end of the plan's money the ledger refuses.

use super::channels::{ChannelMemory, factors};
use super::profile::LEVELS;
use super::rl::Features;
use super::{Control, Outlook, PlanObservation, Policy};
use super::{NO_END, U_MAX, U_MIN};
use crate::auction::normal::cdf;
use crate::auction::slot::CHANNELS;
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
/// The goal is missed by more than this where it counts: the plan's return by what really came.
const MISS: f64 = 0.05;
/// Variance of one result's worth, with that of their number (Poisson): orders differ by a factor of about 1.5.
const RESULT_NOISE: f64 = 1.2;
/// Share of a new tick in the forecast's running error.
const ERROR_NEW: f64 = 0.1;

/// What the plan is expected to do by its end, and how well earlier ticks were forecast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Total spend at the end, micros.
    pub spend: f64,
    /// Value earned at the end over spend at the end: 1 meets the goal exactly.
    pub return_ratio: f64,
    /// How likely the return that really comes is to be no more than 5% below the goal, luck of the results still to come included;
    /// absent until there is a result. With few results no multiplier makes it certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_chance: Option<f64>,
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
    exponent: f64,
    #[serde(default)]
    channels: [ChannelMemory; CHANNELS],
    forecast: Forecast,
    /// Forecast spend and value of a unit of traffic in the tick that runs.
    promised: [f64; 2],
}

impl Memory {
    /// The exponent that holds, in every channel.
    fn control(&self) -> Control {
        let known = self.channels.iter().any(|channel| channel.response.is_some());
        Control {
            multiplier: self.exponent.exp(),
            channels: self.channels.map(|channel| channel.shift.exp()),
            forecast: known.then_some(self.forecast),
        }
    }
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

/// Spend of the time ahead, all channels together.
fn spend_ahead(channels: &[ChannelMemory; CHANNELS], ahead: &Ahead, exponent: f64) -> f64 {
    let of = |channel: &ChannelMemory| {
        ahead.iter().map(|(hours, level)| hours * channel.spend(exponent, *level)).sum::<f64>()
    };
    channels.iter().map(of).sum::<f64>()
}

/// The same with the predicted value, this corrected by the channels' factors.
fn ahead_of(channels: &[ChannelMemory; CHANNELS], ahead: &Ahead, exponent: f64) -> [f64; 2] {
    let of = |channel: &ChannelMemory| {
        ahead.iter().map(|(hours, level)| hours * channel.value(exponent, *level)).sum::<f64>()
    };
    [spend_ahead(channels, ahead, exponent), channels.iter().map(of).sum::<f64>()]
}

/// Where an excess that grows from below 0 to above becomes 0 in `[low, high]`; `low` if it is positive everywhere, `high` if
/// nowhere. False position with the Illinois rule, every fourth step a halving: about eight evaluations where the excess is near a
/// line, as logarithms of spend are, and never far from halving where it jumps. Only excesses within 3 tell how far off.
fn root(mut low: f64, mut high: f64, excess: impl Fn(f64) -> f64) -> f64 {
    let excess = |u: f64| excess(u).clamp(-3.0, 3.0);
    let mut above = excess(high);
    if above <= 0.0 {
        return high;
    }
    let mut below = excess(low);
    if below >= 0.0 {
        return low;
    }
    let mut kept = 0;
    for step in 0..40 {
        let halve = step % 4 == 3;
        let at = if halve { f64::midpoint(low, high) } else { (low * above - high * below) / (above - below) };
        let now = excess(at);
        if now.abs() < 1e-3 || high - low < 1e-3 {
            return at;
        }
        if now < 0.0 {
            (low, below) = (at, now);
            if kept < 0 {
                above /= 2.0;
            }
            kept = -1;
        } else {
            (high, above) = (at, now);
            if kept > 0 {
                below /= 2.0;
            }
            kept = 1;
        }
    }
    low
}

/// Logarithm of an amount, finite for none.
fn log(amount: f64) -> f64 {
    amount.max(1e-100).ln()
}

/// Both constraints of the rest of a plan.
struct Problem<'a> {
    channels: &'a [ChannelMemory; CHANNELS],
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
        let left = log(self.left);
        let budget = root(U_MIN, U_MAX, |u| log(spend_ahead(self.channels, &self.ahead, u)) - left);
        // Below the record every purchase adds to the surplus; above, each costs more than it earns.
        let earn = self.record / (1.0 + RETURN_SLACK);
        let fair = earn.ln().clamp(U_MIN, U_MAX);
        let returns = root(fair, U_MAX, |u| {
            let [spend, value] = ahead_of(self.channels, &self.ahead, u);
            log(spend) - log(earn * value + self.surplus)
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

/// Standard deviation of results of `worth` that are still to come: few and dear ones are mostly luck.
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn noise(seen: &PlanObservation, worth: f64) -> f64 {
    if seen.results == 0 {
        return 0.0;
    }
    let each = float(seen.earned) / seen.results as f64;
    (RESULT_NOISE * each * worth.max(0.0)).sqrt()
}

/// How likely a plan is to keep its goal but for [`MISS`], with so much earned and to come, for a total spend.
fn chance(seen: &PlanObservation, (came, to_come): (f64, f64), spend: f64) -> Option<f64> {
    let noise = noise(seen, to_come);
    (noise > 0.0).then(|| cdf((came + to_come - (1.0 - MISS) * spend) / noise))
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

    /// Takes `seen` as what was there at the last tick: for results that came or went by a change of accounting, from which there is
    /// nothing to learn.
    pub(super) fn rebase(&mut self, seen: &PlanObservation) {
        if let Some(memory) = &mut self.memory {
            for (channel, seen) in memory.channels.iter_mut().zip(&seen.channels) {
                channel.rebase(seen);
            }
        }
    }

    /// Takes in what happened since the last tick.
    fn learn(memory: &mut Memory, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) {
        let hours = (now - memory.at) / 3_600.0;
        let level = outlook.profile.price_level(f64::midpoint(memory.at, now));
        let traffic = outlook.profile.traffic(memory.at, now);
        let mut sums = [0.0; 2];
        let known = memory.channels.iter().any(|channel| channel.response.is_some());
        for (channel, seen) in memory.channels.iter_mut().zip(&seen.channels) {
            let tick = channel.tick(seen, memory.exponent, traffic, level);
            sums = [sums[0] + tick.spend, sums[1] + channel.shift.exp() * tick.value];
            channel.learn(&tick, seen, hours, outlook.threshold);
        }
        if known {
            let promised = memory.promised.map(|rate| rate * traffic);
            let error = |new: f64, old: f64| (new.max(1.0) / old.max(1.0)).ln().abs().min(2.0);
            let forecast = &mut memory.forecast;
            forecast.spend_error += ERROR_NEW * (error(sums[0], promised[0]) - forecast.spend_error);
            forecast.value_error += ERROR_NEW * (error(sums[1], promised[1]) - forecast.value_error);
            forecast.record = [forecast.record[0] + promised[0], forecast.record[1] + sums[0]];
        }
        memory.at = now;
    }

    /// Exponent until the next tick.
    fn plan(&self, memory: &mut Memory, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) -> f64 {
        if memory.channels.iter().all(|channel| channel.response.is_none()) {
            return (memory.exponent + CREEP).min(1.0);
        }
        for (channel, factor) in memory.channels.iter_mut().zip(factors(seen, outlook)) {
            channel.shift = factor.ln();
        }
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
        let (endless, end) = (seen.period_ends_at >= NO_END, seen.period_ends_at as f64);
        let until = if endless { now + ENDLESS_S } else { end };
        let record = record_of(seen, outlook.record);
        let expected = if seen.expected > Micros::ZERO { record * float(seen.expected) } else { float(seen.earned) };
        let problem = Problem {
            channels: &memory.channels,
            ahead: outlook.profile.ahead(now, until),
            left: if endless { f64::MAX } else { seen.left() },
            surplus: expected / (1.0 + RETURN_SLACK) - float(seen.spent),
            record,
        };
        let ([budget, returns], ahead) = (problem.solve(), problem.ahead);
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
        let [more_spend, more_value] = ahead_of(&memory.channels, &ahead, exponent);
        let more_spend_capped = more_spend.min((float(seen.budget) - float(seen.spent)).max(0.0));
        let share = if more_spend > 0.0 { more_spend_capped / more_spend } else { 0.0 };
        forecast.spend = float(seen.spent) + more_spend_capped;
        let earned = expected + record * more_value * share;
        forecast.return_ratio = if forecast.spend > 0.0 { earned / forecast.spend } else { 1.0 };
        // What was bought and has not brought its results yet is taken to bring them.
        let to_come = (earned - float(seen.earned)).max(0.0);
        forecast.return_chance = chance(seen, (float(seen.earned), to_come), forecast.spend);
        exponent.clamp(memory.exponent - STEP_MAX, memory.exponent + STEP_MAX).clamp(U_MIN, U_MAX)
    }

    /// What all plans may learn of the last tick: the surprise in traffic and price, the mean threshold, and how certain they are.
    #[must_use]
    pub fn surprise(&self) -> Option<([f64; 2], f64, f64)> {
        let (mut sums, mut threshold, mut total, mut best) = ([0.0; 2], 0.0, 0.0, 0.0_f64);
        for response in self.memory.as_ref()?.channels.iter().filter_map(|channel| channel.response.as_ref()) {
            let certainty = 1.0 / (1.0 + 25.0 * (response.variance[0] + response.variance[1]));
            sums = [sums[0] + certainty * response.surprise[0], sums[1] + certainty * response.surprise[1]];
            threshold += certainty * response.threshold;
            total += certainty;
            best = best.max(certainty);
        }
        (total > 0.0).then(|| (sums.map(|sum| sum / total), threshold / total, best))
    }
}

impl Features {
    fn of(seen: &PlanObservation, memory: &Memory, now: f64, gap: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
        let (start, end) = (seen.starts_at as f64, seen.ends_at as f64);
        let time_left = ((end - now) / (end - start).max(1.0)).clamp(0.0, 1.0);
        let left = ((float(seen.budget) - float(seen.spent)) / float(seen.budget).max(1.0)).clamp(0.0, 1.0);
        // How sure the surest channel's price is.
        let variances = memory.channels.iter().filter_map(|channel| channel.response).map(|of| of.variance[1]);
        let sd = variances.fold(1.0, f64::min).max(0.0).sqrt();
        let record = memory.forecast.record;
        let drift = ((record[1] + 1.0) / (record[0] + 1.0)).ln().clamp(-2.0, 2.0);
        Self([time_left, left, sd, drift, gap.clamp(-2.0, 2.0), memory.forecast.spend_error])
    }
}

impl Policy for Mpc {
    fn update(&mut self, seen: &PlanObservation, now: f64, outlook: &Outlook<'_>) -> Control {
        let Some(mut memory) = self.memory else {
            let memory = Memory {
                at: now,
                exponent: START,
                channels: seen.channels.each_ref().map(ChannelMemory::new),
                forecast: Forecast { return_ratio: 1.0, ..Forecast::default() },
                promised: [0.0; 2],
            };
            self.memory = Some(memory);
            return memory.control();
        };
        if now <= memory.at {
            return memory.control();
        }
        Self::learn(&mut memory, seen, now, outlook);
        memory.exponent = self.plan(&mut memory, seen, now, outlook);
        let level = outlook.profile.price_level(now);
        memory.promised = [0.0; 2];
        for channel in &memory.channels {
            memory.promised[0] += channel.spend(memory.exponent, level);
            memory.promised[1] += channel.value(memory.exponent, level);
        }
        self.memory = Some(memory);
        memory.control()
    }
}

#[cfg(test)]
mod tests;
