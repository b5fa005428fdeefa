//! The factors of one channel: by how much the logarithm of each changed, and how much of that may be luck.

use super::bids::auctions;
use super::{Cause, ChannelFigures, CreativeFigures, Period};

/// Traffic differs this much from one day to the next without a reason (standard deviation of the logarithm).
const TRAFFIC_NOISE: f64 = 0.05;
/// Channels with fewer conversions in both periods together are taken as one.
const CHANNEL_CONVERSIONS_MIN: f64 = 12.0;
/// Stands for no event at all where a logarithm is needed.
const HALF: f64 = 0.5;
/// The channels that are taken together.
pub(super) const REST: &str = "other channels";

/// One channel in both periods.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    pub(super) before: ChannelFigures,
    pub(super) after: ChannelFigures,
}

/// A change of one factor.
pub(super) struct Step {
    pub(super) cause: Cause,
    pub(super) name: Option<String>,
    /// Change of the logarithm.
    pub(super) change: f64,
    /// Variance of that by luck.
    pub(super) variance: f64,
    /// Factor of order value.
    pub(super) in_value: bool,
    /// Factor of spend.
    pub(super) in_spend: bool,
}

fn add(into: &mut ChannelFigures, from: &ChannelFigures) {
    into.chances += from.chances;
    into.bids += from.bids;
    into.bid_sum += from.bid_sum;
    into.own.add(&from.own);
    into.wins += from.wins;
    into.winning_bid_sum += from.winning_bid_sum;
    into.winning_ln_sum += from.winning_ln_sum;
    into.spend += from.spend;
    into.spend_squares += from.spend_squares;
    into.conversions += from.conversions;
    into.value += from.value;
    into.value_squares += from.value_squares;
    for creative in &from.creatives {
        match into.creatives.iter_mut().find(|own| own.name == creative.name) {
            Some(own) => {
                own.shown += creative.shown;
                own.clicks += creative.clicks;
            }
            None => into.creatives.push(creative.clone()),
        }
    }
}

/// Channels of both periods side by side. Those too small to speak for themselves are one, unless they came or went.
pub(super) fn pair_channels(before: &Period, after: &Period) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (later, channels) in [(false, &before.channels), (true, &after.channels)] {
        for channel in channels {
            let at = pairs.iter().position(|pair| pair.before.name == channel.name).unwrap_or_else(|| {
                let mut pair = Pair::default();
                pair.before.name.clone_from(&channel.name);
                pair.after.name.clone_from(&channel.name);
                pairs.push(pair);
                pairs.len() - 1
            });
            let side = if later { &mut pairs[at].after } else { &mut pairs[at].before };
            add(side, channel);
        }
    }
    let rate = |chances: f64, period: &Period| chances / period.live_seconds().max(1.0);
    let speaks = |pair: &Pair| {
        let enough = pair.before.conversions + pair.after.conversions >= CHANNEL_CONVERSIONS_MIN;
        let (a, b) = (rate(pair.before.chances, before), rate(pair.after.chances, after));
        let came_or_went = a.min(b) < 0.2 * a.max(b) && pair.before.chances + pair.after.chances >= 200.0;
        enough || (came_or_went && before.live_seconds() > 0.0 && after.live_seconds() > 0.0)
    };
    let (mut kept, small): (Vec<Pair>, Vec<Pair>) = pairs.into_iter().partition(speaks);
    if !small.is_empty() {
        let mut rest = Pair::default();
        rest.before.name = REST.to_owned();
        rest.after.name = REST.to_owned();
        for pair in small {
            add(&mut rest.before, &pair.before);
            add(&mut rest.after, &pair.after);
        }
        kept.push(rest);
    }
    kept
}

/// Change of the logarithm of `count / base`; no change where a side has no base or neither has a count.
pub(super) fn ratio(count: [f64; 2], base: [f64; 2]) -> f64 {
    if base[0] <= 0.0 || base[1] <= 0.0 || (count[0] <= 0.0 && count[1] <= 0.0) {
        return 0.0;
    }
    let some = |count: f64| if count > 0.0 { count } else { HALF };
    (some(count[1]) / base[1]).ln() - (some(count[0]) / base[0]).ln()
}

/// Variance of the logarithm of two counts.
pub(super) fn luck(a: f64, b: f64) -> f64 {
    1.0 / a.max(HALF) + 1.0 / b.max(HALF)
}

/// Variance of the logarithm of a mean, from a sum and a sum of squares.
pub(super) fn luck_of_mean(sum: f64, squares: f64, count: f64) -> f64 {
    if count < 1.0 || sum <= 0.0 {
        return 1.0;
    }
    let mean = sum / count;
    ((squares / count) / (mean * mean) - 1.0).clamp(0.01, 100.0) / count
}

/// `(b - a) / ln(b / a)`.
pub(super) fn log_mean(a: f64, b: f64) -> f64 {
    if a <= 0.0 || b <= 0.0 {
        return 0.0;
    }
    // The logarithm of 1 + x itself would lose the digits of amounts that are nearly the same.
    let x = (b - a) / a;
    if x.abs() < 1e-9 { 0.5 * (a + b) } else { (b - a) / x.ln_1p() }
}

/// Every factor of a channel.
pub(super) fn steps_of(pair: &Pair, before: &Period, after: &Period) -> Vec<Step> {
    let mut steps = time_live(before, after);
    let (a, b) = (&pair.before, &pair.after);
    let live = [before.live_seconds(), after.live_seconds()];
    steps.push(Step {
        cause: Cause::Traffic,
        name: Some(a.name.clone()),
        change: ratio([a.chances, b.chances], live),
        variance: luck(a.chances, b.chances) + 2.0 * TRAFFIC_NOISE * TRAFFIC_NOISE,
        in_value: true,
        in_spend: true,
    });
    auctions(&mut steps, pair, before, after);
    clicks(&mut steps, pair);
    steps.push(Step {
        cause: Cause::ConversionRate,
        name: None,
        change: ratio([a.conversions, b.conversions], [a.clicks(), b.clicks()]),
        variance: luck(a.conversions, b.conversions),
        in_value: true,
        in_spend: false,
    });
    let orders = [a.conversions, b.conversions];
    steps.push(Step {
        cause: Cause::OrderValue,
        name: None,
        change: if a.value > 0.0 && b.value > 0.0 { ratio([a.value, b.value], orders) } else { 0.0 },
        variance: luck_of_mean(a.value, a.value_squares, orders[0]) + luck_of_mean(b.value, b.value_squares, orders[1]),
        in_value: true,
        in_spend: false,
    });
    steps
}

/// Pauses, an empty budget, the schedule: shares of time, split by how much each changed.
fn time_live(before: &Period, after: &Period) -> Vec<Step> {
    let share = |seconds: f64, period: &Period| seconds / period.seconds;
    let live = [share(before.live_seconds(), before), share(after.live_seconds(), after)];
    if live[0] <= 0.0 && live[1] <= 0.0 {
        return Vec::new();
    }
    let mean = log_mean(live[0].max(1e-6), live[1].max(1e-6));
    let step = |cause, of: fn(&Period) -> f64| Step {
        cause,
        name: None,
        change: (share(of(before), before) - share(of(after), after)) / mean,
        variance: 1e-6,
        in_value: true,
        in_spend: true,
    };
    vec![
        step(Cause::Pause, |p| p.paused_seconds),
        step(Cause::Budget, |p| p.exhausted_seconds),
        step(Cause::Schedule, |p| p.off_seconds),
    ]
}

/// The click rate: every creative's own rate, and which creatives were shown.
fn clicks(steps: &mut Vec<Step>, pair: &Pair) {
    let (a, b) = (&pair.before, &pair.after);
    let shown = |channel: &ChannelFigures| channel.creatives.iter().map(|c| c.shown).sum::<f64>();
    let (shown, clicks) = ([shown(a), shown(b)], [a.clicks(), b.clicks()]);
    // The chain goes over paid impressions; creatives are shown as often, unless a notice was lost.
    let whole = ratio(clicks, [a.wins, b.wins]);
    let mut rest = whole;
    let mut luck_of_mix = 0.0;
    if shown.iter().chain(&clicks).all(|count| *count > 0.0) {
        let rates = [clicks[0] / shown[0], clicks[1] / shown[1]];
        let mean = log_mean(rates[0], rates[1]);
        for (name, then, now) in both(a, b) {
            let share = 0.5 * (then.shown / shown[0] + now.shown / shown[1]);
            // A creative that was not shown in one period had no other rate there: it comes or goes by the mix.
            if then.shown <= 0.0 || now.shown <= 0.0 {
                continue;
            }
            let (then_rate, now_rate) = (then.clicks / then.shown, now.clicks / now.shown);
            let change = share * (now_rate - then_rate) / mean;
            let of = |c: &CreativeFigures| c.clicks.max(HALF) / (c.shown * c.shown);
            let variance = share * share * (of(&then) + of(&now)) / (mean * mean);
            rest -= change;
            let middle = 0.5 * (then_rate + now_rate) / mean;
            luck_of_mix += middle * middle * share * (1.0 / shown[0] + 1.0 / shown[1]);
            steps.push(Step {
                cause: Cause::ClickRate,
                name: Some(name),
                change,
                variance,
                in_value: true,
                in_spend: false,
            });
        }
    }
    let one_sided = clicks[0] <= 0.0 || clicks[1] <= 0.0;
    let variance = if one_sided { luck(clicks[0], clicks[1]) } else { luck_of_mix + luck_of_new(a, b, shown) };
    steps.push(Step {
        cause: if one_sided { Cause::ClickRate } else { Cause::CreativeMix },
        name: None,
        change: rest,
        variance: variance + 1e-4,
        in_value: true,
        in_spend: false,
    });
}

/// Luck in the clicks of creatives that came or went: it lands in the mix.
fn luck_of_new(a: &ChannelFigures, b: &ChannelFigures, shown: [f64; 2]) -> f64 {
    let lone = both(a, b).into_iter().filter(|(_, then, now)| then.shown <= 0.0 || now.shown <= 0.0);
    let clicks = [a.clicks(), b.clicks()];
    lone.map(|(_, then, now)| {
        let side = usize::from(then.shown <= 0.0);
        let own = if side == 0 { then } else { now };
        let share = own.shown / shown[side];
        share * own.clicks.max(HALF) / (clicks[side] * clicks[side])
    })
    .sum()
}

/// Creatives of both sides by name.
fn both(a: &ChannelFigures, b: &ChannelFigures) -> Vec<(String, CreativeFigures, CreativeFigures)> {
    let find = |channel: &ChannelFigures, name: &str| {
        channel.creatives.iter().find(|c| c.name == name).cloned().unwrap_or_default()
    };
    let mut names: Vec<&String> = a.creatives.iter().chain(&b.creatives).map(|c| &c.name).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| (name.clone(), find(a, name), find(b, name))).collect()
}
