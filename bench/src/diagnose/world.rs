//! A plan's day in a market of several channels and creatives: second prices, or first prices with the server's own shading. Only what
//! a server counts leaves it.

use super::Prices;
use super::faults::{Change, Fault};
use longbow::auction::diagnose::{ChannelFigures, CreativeFigures, Period};
use longbow::auction::price::Steps;
use longbow::auction::shade::{Shading, WinRates};
use longbow::money::Micros;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Gamma, LogNormal};

const HOUR_S: f64 = 3_600.0;
pub(super) const CHANNELS: [&str; 5] = ["news", "games", "weather", "sport", "music"];
pub(super) const CREATIVES: [&str; 4] = ["red", "blue", "green", "gold"];

/// The truth of one day.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    /// Share of all auctions, by channel.
    pub(super) traffic: [f64; 5],
    /// Price level of the others, by channel, micros.
    pub(super) level: [f64; 5],
    /// Click rate of a channel over that of the others.
    pub(super) clicks: [f64; 5],
    /// Share of impressions, by creative.
    pub(super) shown: [f64; 4],
    /// Click rate, by creative.
    pub(super) click_rate: [f64; 4],
    /// Orders a click.
    pub(super) conversion: f64,
    /// Mean order value, micros.
    pub(super) order: f64,
    /// Predicted order value of an auction, micros; its mean over auctions.
    pub(super) worth: f64,
    pub(super) target: f64,
    pub(super) multiplier: f64,
    /// Highest bid, micros.
    pub(super) max_bid: f64,
    /// What is made of the share that shading offers (first prices): 1 as it was learned.
    pub(super) offer: fn(f64) -> f64,
    /// Budget, micros for each auction on offer.
    pub(super) budget: f64,
    /// Hours [from, to) in which it was paused.
    pub(super) paused: (u32, u32),
    /// The hour in which the schedule ends.
    pub(super) ends: u32,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            traffic: [0.34, 0.26, 0.18, 0.14, 0.08],
            level: [1_900.0, 1_500.0, 1_700.0, 2_300.0, 1_600.0],
            clicks: [1.0, 0.7, 1.1, 1.3, 0.9],
            shown: [0.4, 0.3, 0.2, 0.1],
            click_rate: [0.040, 0.030, 0.034, 0.028],
            conversion: 0.12,
            order: 1_400_000.0,
            worth: 5_400.0,
            target: 3.0,
            multiplier: 1.0,
            max_bid: 1e9,
            offer: |share| share,
            budget: f64::INFINITY,
            paused: (0, 0),
            ends: 24,
        }
    }
}

/// How much is simulated, and in which market.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Auctions on offer in a day.
    pub(super) auctions: u32,
    pub(super) prices: Prices,
    /// The winner pays its own bid, and bids are shaded.
    pub(super) first_price: bool,
}

/// What is learned of first prices.
#[derive(Default)]
struct Shades {
    rates: WinRates,
    table: Shading,
}

/// More traffic in the evening.
fn shape(hour: u32) -> f64 {
    1.0 + 0.6 * ((f64::from(hour) / 24.0 - 0.85) * std::f64::consts::TAU).cos()
}

/// A day before the fault and a day with it.
pub(super) fn two_days(fault: &Fault, seed: u64, size: Size) -> anyhow::Result<(Period, Period)> {
    let sound = Truth::default();
    let mut broken = sound.clone();
    // A fault that is a change of the first day too (a budget that was there) says so.
    let mut first = sound;
    for change in &fault.changes {
        match change {
            Change::Before(apply) => apply(&mut first),
            Change::After(apply) => apply(&mut broken),
        }
    }
    let mut shades = Shades::default();
    if size.first_price {
        // A day that nobody looks at teaches the win rates.
        day(&first, seed.wrapping_mul(2).wrapping_add(1 << 40), size, &mut shades)?;
    }
    let before = day(&first, seed.wrapping_mul(2), size, &mut shades)?;
    let after = day(&broken, seed.wrapping_mul(2).wrapping_add(1), size, &mut shades)?;
    Ok((before, after))
}

fn pick(weights: &[f64], at: f64) -> usize {
    let mut left = at * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return index;
        }
    }
    weights.len() - 1
}

fn day(truth: &Truth, seed: u64, size: Size, shades: &mut Shades) -> anyhow::Result<Period> {
    let Size { auctions, prices, .. } = size;
    let mut rng = StdRng::seed_from_u64(seed);
    let predicted = LogNormal::new(-0.18, 0.6)?; // mean 1
    let (lognormal, gamma) = (LogNormal::new(0.0, 0.6)?, Gamma::new(3.0, 0.4)?);
    let order = LogNormal::new(-0.08, 0.4)?; // mean 1
    // Days differ a little for no reason.
    let mood = LogNormal::new(0.0, 0.02)?.sample(&mut rng);
    let mut period = Period {
        seconds: 24.0 * HOUR_S,
        target_factor: 1.0 / truth.target,
        multiplier: truth.multiplier,
        max_bid: truth.max_bid,
        budget: if truth.budget.is_finite() { truth.budget * f64::from(auctions) } else { 0.0 },
        channels: CHANNELS.iter().map(|name| channel(name)).collect(),
        ..Period::default()
    };
    let budget = truth.budget * f64::from(auctions);
    let mut spent = 0.0;
    for hour in 0..24 {
        if (truth.paused.0..truth.paused.1).contains(&hour) {
            period.paused_seconds += HOUR_S;
            continue;
        }
        if hour >= truth.ends {
            period.off_seconds += HOUR_S;
            continue;
        }
        shades.table = shades.rates.shading(CHANNELS.len());
        for (at, share) in truth.traffic.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of auctions")]
            let count = (f64::from(auctions) / 24.0 * shape(hour) * share * mood).round() as u32;
            for number in 0..count {
                if spent >= budget {
                    // The rest of the hour passes without a bid, in step with the other channels to come.
                    let left = f64::from(count - number) / f64::from(count.max(1));
                    period.exhausted_seconds += HOUR_S * left * share / truth.traffic.iter().sum::<f64>();
                    break;
                }
                let value = truth.worth * predicted.sample(&mut rng) / truth.target;
                let steps = steps(truth, value, size.first_price.then_some((&shades.table, at)));
                let others = match prices {
                    Prices::Lognormal => lognormal.sample(&mut rng),
                    Prices::Gamma => gamma.sample(&mut rng),
                };
                let price = truth.level[at] * others;
                let sale = order.sample(&mut rng) * truth.order;
                spent += auction(&mut period.channels[at], truth, (at, steps, price, sale), (size, shades, &mut rng));
            }
        }
    }
    Ok(period)
}

/// How a bid comes about, as in the server.
fn steps(truth: &Truth, value: f64, shading: Option<(&Shading, usize)>) -> Steps {
    #[expect(clippy::cast_possible_truncation, reason = "prices of a few thousand micros")]
    let money = |amount: f64| Micros(amount as i64);
    let wanted = value * truth.multiplier;
    let affordable = wanted.min(truth.max_bid);
    let share = shading.map_or(1.0, |(table, group)| (truth.offer)(table.share(group, affordable)));
    Steps {
        value: money(value),
        wanted: money(wanted),
        affordable: money(affordable),
        offered: money(affordable * share),
    }
}

#[expect(clippy::cast_precision_loss, reason = "prices of a few thousand micros")]
fn float(amount: Micros) -> f64 {
    amount.0 as f64
}

fn channel(name: &str) -> ChannelFigures {
    let creative = |name: &&str| CreativeFigures { name: (*name).to_owned(), ..CreativeFigures::default() };
    let creatives = CREATIVES.iter().map(creative).collect();
    ChannelFigures { name: name.to_owned(), creatives, ..ChannelFigures::default() }
}

/// One auction; what it cost.
fn auction(
    seen: &mut ChannelFigures,
    truth: &Truth,
    (at, steps, price, sale): (usize, Steps, f64, f64),
    (size, shades, rng): (Size, &mut Shades, &mut StdRng),
) -> f64 {
    let bid = float(steps.offered);
    seen.chances += 1.0;
    seen.bids += 1.0;
    seen.bid_sum += bid;
    seen.own.note(steps);
    if size.first_price {
        shades.rates.record(at, bid, bid >= price);
    }
    let price = if size.first_price && bid >= price { bid } else { price };
    if bid < price {
        return 0.0;
    }
    seen.wins += 1.0;
    seen.winning_bid_sum += bid;
    seen.winning_ln_sum += bid.ln();
    seen.spend += price;
    seen.spend_squares += price * price;
    let creative = pick(&truth.shown, rng.random());
    seen.creatives[creative].shown += 1.0;
    if rng.random::<f64>() < truth.click_rate[creative] * truth.clicks[at] {
        seen.creatives[creative].clicks += 1.0;
        if rng.random::<f64>() < truth.conversion {
            seen.conversions += 1.0;
            seen.value += sale;
            seen.value_squares += sale * sale;
        }
    }
    price
}
