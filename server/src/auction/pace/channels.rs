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
/// Impressions after which a belief learns, and the hours after which it learns from fewer. The logarithm of what a few impressions brought is
/// biased, and so is silence in a second in which nothing was due: the server ticks every second.
const LEARN_IMPRESSIONS: f64 = 100.0;
const LEARN_HOURS: f64 = 0.25;
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
    /// What came since the belief last learned.
    #[serde(default)]
    held: Held,
}

/// Ticks that are learned from as one. Traffic, impressions and money are sums, the exponent and the level of prices too, times traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Held {
    hours: f64,
    exponent: f64,
    traffic: f64,
    price_level: f64,
    impressions: f64,
    value: f64,
    spend: f64,
}

impl Held {
    fn add(&mut self, tick: &TickSeen, hours: f64) {
        self.hours += hours;
        self.exponent += tick.traffic * tick.exponent;
        self.traffic += tick.traffic;
        self.price_level += tick.traffic * tick.price_level;
        self.impressions += tick.impressions;
        self.value += tick.value;
        self.spend += tick.spend;
    }

    /// Them as one tick and its hours, once they are enough to learn from.
    fn take(&mut self) -> Option<(TickSeen, f64)> {
        // A tick of LEARN_HOURS is enough although times are rounded.
        if self.traffic <= 0.0 || (self.impressions < LEARN_IMPRESSIONS && self.hours < LEARN_HOURS - 1e-6) {
            return None;
        }
        let Self { hours, exponent, traffic, price_level, impressions, value, spend } = std::mem::take(self);
        let (exponent, price_level) = (exponent / traffic, price_level / traffic);
        Some((TickSeen { exponent, traffic, price_level, impressions, value, spend }, hours))
    }
}

impl ChannelMemory {
    pub(super) fn new(seen: &ChannelSeen) -> Self {
        let ChannelSeen { impressions, spent, expected, .. } = *seen;
        Self { spent, expected, impressions, ..Self::default() }
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

    /// Learns from a tick that lasted `hours`; `threshold` is where a new channel's belief begins. The first impressions are learned from at
    /// once, later ones when there are enough.
    pub(super) fn learn(&mut self, tick: &TickSeen, seen: &ChannelSeen, hours: f64, threshold: f64) {
        if let Some(response) = &mut self.response {
            self.held.add(tick, hours);
            response.surprise = [0.0; 2];
            if let Some((ticks, hours)) = self.held.take() {
                response.learn(&ticks, hours);
            }
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

    #[test]
    fn many_short_ticks_teach_what_one_long_tick_does() {
        let start = ChannelSeen { impressions: 50, spent: Micros(50_000), expected: Micros(60_000), earned: Micros(0) };
        let begun = || {
            let mut channel = ChannelMemory::new(&ChannelSeen::default());
            let tick = channel.tick(&start, -0.2, 0.3, 0.1);
            channel.learn(&tick, &start, 0.25, 0.0);
            channel
        };
        let (mut long, mut short) = (begun(), begun());
        let grown = |by: i64| ChannelSeen {
            impressions: start.impressions + u64::try_from(by).unwrap(),
            spent: Micros(start.spent.0 + 1_300 * by),
            expected: Micros(start.expected.0 + 1_250 * by),
            earned: Micros(0),
        };
        let tick = long.tick(&grown(60), -0.2, 0.3, 0.1);
        long.learn(&tick, &grown(60), 0.25, 0.0);
        for second in 1..=900_u32 {
            let seen = grown(i64::from(second / 15)); // an impression every 15 seconds
            let tick = short.tick(&seen, -0.2, 0.3 / 900.0, 0.1);
            short.learn(&tick, &seen, 0.25 / 900.0, 0.0);
        }
        let [a, b] = [long, short].map(|channel| channel.response.unwrap());
        assert!((a.offer - b.offer).abs() < 1e-6 && (a.threshold - b.threshold).abs() < 1e-6, "{a:?} {b:?}");
        assert!((a.variance[0] - b.variance[0]).abs() < 1e-6, "{a:?} {b:?}");
    }
}
