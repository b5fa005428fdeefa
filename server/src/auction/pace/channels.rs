//! One optimisation over all channels of a plan.
//!
//! A plan has one budget and one return, so one dual price of money: in every channel the last unit of *true* value must cost the
//! same. A channel's predictions may be too high or too low, though, or its results may come less often than they say. If
//! a unit of predicted value has turned out to be worth `q_c` there, the optimum bids `a q_c / q` times the prediction, with `a` the
//! plan's multiplier and `q` its record over all channels. Each channel has response curves of its own; both constraints are
//! solved on their sum for the one `a`. Nobody sets a split: money goes where the curves and the records send it.

use super::{Outlook, PlanObservation, Response, TickSeen};
use crate::auction::slot::CHANNELS;
use crate::money::Micros;
use serde::{Deserialize, Serialize};

/// Results that weigh as much as what all plans together show.
const PRIOR_RESULTS: f64 = 300.0;
/// Furthest that a channel's multiplier lies from the plan's, as a factor and its inverse.
const FACTOR_MAX: f64 = 2.0;

/// Every channel at the plan's multiplier.
pub const NO_FACTORS: [f64; CHANNELS] = [1.0; CHANNELS];

/// Money and results of a plan (or of one arm of it) in one channel; the terms are those of [`PlanObservation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelSeen {
    /// Impressions bought.
    pub impressions: u64,
    /// Spent.
    pub spent: Micros,
    /// Predicted value of the impressions.
    pub expected: Micros,
    /// Spend that the results justify.
    pub earned: Micros,
}

#[expect(clippy::cast_precision_loss, reason = "a controller needs no exact money; it moves none")]
fn float(amount: Micros) -> f64 {
    amount.0 as f64
}

/// What each channel's predicted value has turned out to be worth against the plan's average: results over predictions, pulled to
/// what all plans show of the channel. Weighted by predicted value they average to 1.
#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(super) fn factors(seen: &PlanObservation, outlook: &Outlook<'_>) -> [f64; CHANNELS] {
    let used = seen.channels.iter().filter(|channel| channel.expected.0 > 0).count();
    if used == 0 {
        return NO_FACTORS;
    }
    let (earned, expected) = (float(seen.earned), float(seen.expected));
    let known = seen.results > 0 && earned > 0.0 && expected > 0.0;
    let average = if known { earned / expected } else { 1.0 };
    // Predicted value of so many results.
    let weight = if known { PRIOR_RESULTS * expected / seen.results as f64 } else { 0.0 };
    let raw: [f64; CHANNELS] = std::array::from_fn(|c| {
        let (channel, prior) = (&seen.channels[c], outlook.channels[c]);
        if weight > 0.0 {
            (float(channel.earned) / average + weight * prior) / (float(channel.expected) + weight)
        } else {
            prior
        }
    });
    let total: f64 = seen.channels.iter().map(|channel| float(channel.expected)).sum();
    let mean = seen.channels.iter().zip(raw).map(|(channel, r)| float(channel.expected) * r).sum::<f64>() / total;
    raw.map(|r| {
        let factor = r / mean;
        if factor.is_finite() { factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX) } else { 1.0 }
    })
}

/// What is known of one channel between ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ChannelMemory {
    spent: Micros,
    expected: Micros,
    impressions: u64,
    pub(super) response: Option<Response>,
    /// Logarithm of the channel's factor while the tick ran.
    pub(super) shift: f64,
}

impl ChannelMemory {
    pub(super) fn new(seen: &ChannelSeen) -> Self {
        let ChannelSeen { impressions, spent, expected, .. } = *seen;
        Self { spent, expected, impressions, response: None, shift: 0.0 }
    }

    /// What came since the tick before.
    #[expect(clippy::cast_precision_loss, reason = "counts of impressions")]
    pub(super) fn tick(&self, seen: &ChannelSeen, exponent: f64, traffic: f64, price_level: f64) -> TickSeen {
        TickSeen {
            exponent: exponent + self.shift,
            traffic,
            price_level,
            impressions: seen.impressions.saturating_sub(self.impressions) as f64,
            value: (float(seen.expected) - float(self.expected)).max(0.0),
            spend: (float(seen.spent) - float(self.spent)).max(0.0),
        }
    }

    /// Learns from a tick that lasted `hours`; `threshold` is where a new channel's belief begins.
    pub(super) fn learn(&mut self, tick: &TickSeen, seen: &ChannelSeen, hours: f64, threshold: f64) {
        if let Some(response) = &mut self.response {
            response.learn(tick, hours);
        } else if tick.impressions >= 1.0 && tick.value > 0.0 && tick.spend > 0.0 && tick.traffic > 0.0 {
            self.response = Some(Response::first(tick, threshold));
        }
        self.rebase(seen);
    }

    /// Takes `seen` as what was there at the last tick.
    pub(super) fn rebase(&mut self, seen: &ChannelSeen) {
        (self.spent, self.expected, self.impressions) = (seen.spent, seen.expected, seen.impressions);
    }

    /// Spend in a unit of traffic at the plan's exponent; none while nothing is known of the channel.
    pub(super) fn spend(&self, exponent: f64, level: f64) -> f64 {
        self.response.as_ref().map_or(0.0, |response| response.spend(exponent + self.shift, level))
    }

    /// Predicted value won, corrected by the channel's factor.
    pub(super) fn value(&self, exponent: f64, level: f64) -> f64 {
        self.response.as_ref().map_or(0.0, |response| self.shift.exp() * response.value(exponent + self.shift, level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auction::pace::{NO_END, Profile};

    fn seen(channels: [ChannelSeen; CHANNELS], results: u64) -> PlanObservation {
        let sum = |of: fn(&ChannelSeen) -> i64| Micros(channels.iter().map(of).sum());
        PlanObservation {
            budget: Micros(1),
            spent: sum(|c| c.spent.0),
            earned: sum(|c| c.earned.0),
            results,
            impressions: channels.iter().map(|c| c.impressions).sum(),
            expected: sum(|c| c.expected.0),
            starts_at: 0,
            ends_at: NO_END,
            allowance: Micros(1),
            period_ends_at: NO_END,
            channels,
        }
    }

    fn channel(expected: i64, earned: i64) -> ChannelSeen {
        ChannelSeen { impressions: 1, spent: Micros(1), expected: Micros(expected), earned: Micros(earned) }
    }

    #[test]
    fn factors_follow_the_record_of_each_channel_and_average_to_one() {
        let profile = Profile::default();
        let outlook = Outlook { profile: &profile, threshold: 0.0, record: 1.0, channels: NO_FACTORS, policy: None };
        let none = ChannelSeen::default();
        let one = factors(&seen([channel(1_000_000, 700_000), none, none, none], 5_000), &outlook);
        assert_eq!(one[0], 1.0, "a plan in one channel bids its multiplier");
        let two = [channel(1_000_000, 600_000), channel(1_000_000, 1_400_000), none, none];
        let sure = factors(&seen(two, 1_000_000), &outlook);
        assert!((sure[0] - 0.6).abs() < 0.01 && (sure[1] - 1.4).abs() < 0.01, "{sure:?}");
        assert!(((sure[0] + sure[1]) / 2.0 - 1.0).abs() < 1e-9);
        let unsure = factors(&seen(two, 30), &outlook);
        assert!((0.9..1.0).contains(&unsure[0]), "30 results are mostly luck: {unsure:?}");
        let others = Outlook { channels: [0.6, 1.4, 1.0, 1.0], ..outlook };
        let told = factors(&seen(two, 30), &others);
        assert!(told[0] < 0.65 && told[1] > 1.35, "but other plans know the channels: {told:?}");
        let wild = factors(&seen([channel(1_000_000, 0), channel(1, i64::MAX / 2), none, none], u64::MAX), &outlook);
        assert!(wild.iter().all(|f| (1.0 / FACTOR_MAX..=FACTOR_MAX).contains(f)), "{wild:?}");
    }
}
