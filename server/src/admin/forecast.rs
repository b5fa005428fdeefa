//! The dry run of a plan: what a budget and a target would bring, from the figures of plans like it. Pure.
//!
//! Each plan of the sample is taken as it ran lately: its chances a day, and for each channel a market fitted to how often it won and
//! at what price ([`crate::auction::diagnose::market`]). The new goal moves the bid; the market answers with another win rate and price.
//! If that would spend more than the budget, the bid is lowered until it does not, as the controller would do it. Clicks and orders
//! per impression are taken to stay as they are.

use crate::auction::diagnose::Period;
use crate::auction::diagnose::market::Market;
use crate::auction::diagnose::own::Spread;
use crate::money::Micros;
use crate::plans::Goal;
use crate::reports::factor;
use serde::Serialize;

const DAY: f64 = 86_400.0;
/// Traffic and prices of the coming days differ from the last ones by this much (standard deviation of the logarithm).
const COMING_NOISE: f64 = 0.15;
/// From the middle to either end of the range, in standard deviations: 80% of cases lie within.
const RANGE_SIGMAS: f64 = 1.2816;
/// Days shown as a series at most.
const SERIES_MAX: u32 = 62;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) budget: Micros,
    pub(super) goal: Goal,
    pub(super) max_bid: Option<Micros>,
    pub(super) days: f64,
}

/// One plan of the sample.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) period: Period,
}

/// A figure with its range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Range {
    /// One in ten comes out lower.
    pub(super) low: f64,
    /// The middle.
    pub(super) expected: f64,
    /// One in ten comes out higher.
    pub(super) high: f64,
}

/// Spend up to the end of a day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Point {
    day: f64,
    spend_micros: Range,
}

/// What may be expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Outlook {
    /// Over all days, micros.
    pub(super) spend_micros: Range,
    /// Over all days, micros.
    pub(super) order_value_micros: Range,
    /// Order value over spend; absent without spend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) return_on_spend: Option<Range>,
    pub(super) impressions: Range,
    pub(super) clicks: Range,
    pub(super) conversions: Range,
    /// Share of the present bid that keeps the budget; 1 if the budget does not bind.
    pub(super) bid_share: f64,
    /// Spend day by day: the band.
    pub(super) series: Vec<Point>,
}

/// One plan's figures a day under other controls.
#[derive(Clone, Copy, Debug, Default)]
struct Daily {
    spend: f64,
    value: f64,
    wins: f64,
    clicks: f64,
    conversions: f64,
}

fn daily(base: &Base, change: f64, max_bid: Option<f64>) -> Daily {
    let mut sum = Daily::default();
    let a_day = DAY / base.period.live_seconds().max(3_600.0);
    for channel in &base.period.channels {
        let Some(seen) = channel.auctions(base.period.multiplier) else { continue };
        let market = Market::fit(&seen, seen.others());
        let bid = seen.own.amount();
        let changed = (bid * change).min(max_bid.unwrap_or(f64::INFINITY)).max(1e-9);
        let own = Spread { mean: seen.own.mean + (changed / bid).ln(), ..seen.own };
        let more = (market.ln_win_rate(own) - market.ln_win_rate(seen.own)).exp();
        let dearer = (market.ln_price(own) - market.ln_price(seen.own)).exp();
        let wins = (channel.wins * more).min(channel.chances) * a_day;
        let each = |count: f64| wins * count / channel.wins;
        sum.spend += wins * seen.price * dearer;
        sum.value += each(channel.value);
        sum.clicks += each(channel.clicks());
        sum.conversions += each(channel.conversions);
        sum.wins += wins;
    }
    sum
}

/// A plan of the sample under the new goal and budget: its figures a day, and the share of the bid that keeps the budget.
fn under(base: &Base, ask: &Ask) -> (Daily, f64) {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (budget, max_bid) = (ask.budget.0 as f64, ask.max_bid.map(|bid| bid.0 as f64));
    let change = factor(&ask.goal) / base.period.target_factor.max(1e-12);
    let limit = budget / ask.days;
    let full = daily(base, change, max_bid);
    if full.spend <= limit {
        return (full, 1.0);
    }
    // Spend grows with the bid: the share that spends the budget is found by halving.
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if daily(base, change * middle, max_bid).spend > limit { high = middle } else { low = middle }
    }
    (daily(base, change * low, max_bid), low)
}

/// What may be expected of `ask`, from a sample of plans; `None` if the sample bought nothing.
pub(super) fn outlook(ask: &Ask, sample: &[Base]) -> Option<Outlook> {
    let runs: Vec<(Daily, f64)> =
        sample.iter().map(|base| under(base, ask)).filter(|(day, _)| day.wins > 0.0).collect();
    if runs.is_empty() {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of plans")]
    let plans = runs.len() as f64;
    let mean = |of: fn(&Daily) -> f64| runs.iter().map(|(day, _)| of(day)).sum::<f64>() / plans * ask.days;
    // Between plans, and of one plan between periods.
    let spread_of = |of: fn(&Daily) -> f64, counted: f64| {
        let logs: Vec<f64> = runs.iter().map(|(day, _)| of(day)).filter(|x| *x > 0.0).map(f64::ln).collect();
        #[expect(clippy::cast_precision_loss, reason = "a count of plans")]
        let count = logs.len().max(1) as f64;
        let middle = logs.iter().sum::<f64>() / count;
        let between = logs.iter().map(|log| (log - middle).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        (between + COMING_NOISE * COMING_NOISE + 1.0 / counted.max(0.5)).sqrt()
    };
    let range = |of: fn(&Daily) -> f64, counted: f64| {
        let (expected, spread) = (mean(of), spread_of(of, counted));
        Range {
            low: expected * (-RANGE_SIGMAS * spread).exp(),
            expected,
            high: expected * (RANGE_SIGMAS * spread).exp(),
        }
    };
    let (clicks, orders) = (mean(|d| d.clicks), mean(|d| d.conversions));
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let budget = ask.budget.0 as f64;
    let kept = |range: Range| Range { high: range.high.min(budget), expected: range.expected.min(budget), ..range };
    let spend = kept(range(|d| d.spend, f64::INFINITY));
    let value = range(|d| d.value, orders);
    let return_on_spend = (spend.expected > 0.0).then(|| {
        let expected = value.expected / spend.expected;
        let spread = spread_of(|d| if d.spend > 0.0 { d.value / d.spend } else { 0.0 }, orders);
        Range {
            low: expected * (-RANGE_SIGMAS * spread).exp(),
            expected,
            high: expected * (RANGE_SIGMAS * spread).exp(),
        }
    });
    Some(Outlook {
        spend_micros: spend,
        order_value_micros: value,
        return_on_spend,
        impressions: range(|d| d.wins, f64::INFINITY),
        clicks: range(|d| d.clicks, clicks),
        conversions: range(|d| d.conversions, orders),
        bid_share: runs.iter().map(|(_, share)| share).sum::<f64>() / plans,
        series: series(ask.days, spend, budget),
    })
}

/// Spend in equal parts over the days; the range widens as fast as the spend.
fn series(days: f64, spend: Range, budget: f64) -> Vec<Point> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let points = days.ceil().clamp(1.0, f64::from(SERIES_MAX)) as u32;
    (0..=points)
        .map(|at| {
            let share = f64::from(at) / f64::from(points);
            let part = |amount: f64| (amount * share).min(budget);
            let spend_micros = Range { low: part(spend.low), expected: part(spend.expected), high: part(spend.high) };
            Point { day: days * share, spend_micros }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auction::diagnose::{ChannelFigures, CreativeFigures};

    fn base(target: f64) -> Base {
        let channel = ChannelFigures {
            name: "a".to_owned(),
            chances: 100_000.0,
            bids: 100_000.0,
            bid_sum: 100_000.0 * 2_000.0,
            wins: 30_000.0,
            winning_bid_sum: 30_000.0 * 2_400.0,
            spend: 30_000.0 * 1_200.0,
            conversions: 60.0,
            value: 60.0 * 2_000_000.0,
            creatives: vec![CreativeFigures { name: "k".to_owned(), shown: 30_000.0, clicks: 900.0 }],
            ..ChannelFigures::default()
        };
        let period = Period {
            seconds: DAY,
            target_factor: 1.0 / target,
            multiplier: 1.0,
            channels: vec![channel],
            ..Period::default()
        };
        Base { period }
    }

    fn ask(budget: i64, target: f64) -> Ask {
        Ask { budget: Micros(budget), goal: Goal::Roi { target }, max_bid: None, days: 7.0 }
    }

    #[test]
    fn the_same_controls_bring_the_same_figures() {
        let outlook = outlook(&ask(i64::MAX / 2, 3.0), &[base(3.0)]).unwrap();
        assert!((outlook.spend_micros.expected / (7.0 * 36e6) - 1.0).abs() < 1e-6, "{outlook:?}");
        assert!((outlook.return_on_spend.unwrap().expected - 120.0 / 36.0).abs() < 1e-6);
        assert!(outlook.return_on_spend.unwrap().low < 3.0 && outlook.return_on_spend.unwrap().high > 3.6);
        assert!((outlook.bid_share - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_higher_target_buys_less_at_a_better_return_and_a_budget_binds() {
        let bases = [base(3.0)];
        let at = |budget, target| outlook(&ask(budget, target), &bases).unwrap();
        let (low, high) = (at(i64::MAX / 2, 2.0), at(i64::MAX / 2, 5.0));
        assert!(low.spend_micros.expected > high.spend_micros.expected);
        assert!(low.return_on_spend.unwrap().expected < high.return_on_spend.unwrap().expected);
        let bound = at(70_000_000, 3.0);
        assert!((bound.spend_micros.expected / 70e6 - 1.0).abs() < 1e-3 && bound.spend_micros.high <= 70e6);
        assert!(bound.bid_share < 1.0);
        assert!(bound.return_on_spend.unwrap().expected > 120.0 / 36.0, "the dearest auctions are left out");
        assert_eq!(bound.series.len(), 8);
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        assert!(outlook(&ask(1, 3.0), &[]).is_none());
        assert!(outlook(&ask(1, 3.0), &[Base { period: Period::default() }]).is_none());
    }
}
