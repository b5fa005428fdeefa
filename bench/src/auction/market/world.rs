//! The auctions of a synthetic market: for each plan a stream of its own, day after day.

use super::{MarketOptions, Scenario, micros, units};
use longbow::auction::normal_cdf;
use longbow::auction::slot::{CHANNELS, Channel};
use longbow::money::Micros;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal, Poisson};

/// Bidders who compete for an impression beside the plan.
const OTHERS: usize = 3;
/// When a shock comes, as a share of the day.
pub(super) const SHOCK_AT: f64 = 0.5;
/// What a shock does to the others' bids.
const SHOCK: f64 = 1.3;
/// What predictions are times the truth in each channel, where there are several.
const CHANNEL_BIAS: [f64; CHANNELS] = [1.0, 1.4, 0.7, 1.0];
/// Level of the others' bids in each channel.
const CHANNEL_LEVEL: [f64; CHANNELS] = [1.0, 0.8, 1.0, 1.3];

#[derive(Clone, Copy, Debug)]
pub(super) struct Auction {
    pub(super) p_click: f64,
    pub(super) p_conversion: f64,
    pub(super) predicted_click: f64,
    pub(super) order_value: Micros,
    /// Highest bid of the others.
    pub(super) price: Micros,
    pub(super) channel: Channel,
}

impl Auction {
    /// True expected order value, currency units.
    pub(super) fn value(&self) -> f64 {
        self.p_click * self.p_conversion * units(self.order_value)
    }

    /// What the plan takes it to be worth at its target, currency units.
    pub(super) fn predicted(&self, target: f64) -> f64 {
        self.predicted_click * self.p_conversion * units(self.order_value) / target
    }
}

/// What does not change from day to day.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanWorld {
    number: u32,
    pub(super) target: f64,
    /// Level of the others' bids against the plan's value at its target.
    level: f64,
    /// Budget against what bidding the value would spend.
    tightness: f64,
}

/// One plan's day.
pub(super) struct Stream {
    pub(super) ticks: Vec<Vec<Auction>>,
    pub(super) budget: Micros,
}

/// Traffic and price level over the day: more of both in the evening, prices threefold between trough and peak.
fn day_shape(share: f64) -> (f64, f64) {
    let wave = ((share - 0.85) * std::f64::consts::TAU).cos(); // 1 at 20:24, -1 at 8:24
    (1.0 + 0.6 * wave, 3f64.sqrt().powf(wave))
}

/// The plans of a seed.
pub(super) fn plans(options: &MarketOptions) -> Vec<PlanWorld> {
    let one = |number: u32| {
        let mut rng = StdRng::seed_from_u64(options.seed.wrapping_mul(0x9e37_79b9) ^ u64::from(number) << 32);
        let target = rng.random_range(1.5..6.0);
        // Some plans find cheap markets and some find dear ones.
        let level = 0.35 * 8f64.powf(rng.random_range(0.0..1.0));
        let draw: f64 = rng.random_range(0.0..1.0);
        let tightness = match options.scenario {
            Scenario::Budget => 0.05 * 10f64.powf(draw),
            Scenario::Return => 5.0 * 4f64.powf(draw),
            // From a budget that binds hard to one that the market cannot take.
            _ => 0.1 * 100f64.powf(draw),
        };
        PlanWorld { number, target, level, tightness }
    };
    (0..options.plans).map(one).collect()
}

/// How the others' bids move over a day beyond its usual shape: one factor for each tick.
fn moves(options: &MarketOptions, judged: bool, rng: &mut StdRng) -> Vec<f64> {
    let mut drift = 0.0_f64;
    let per_tick = 0.5 / f64::from(options.ticks).sqrt();
    (0..options.ticks)
        .map(|tick| {
            let share = f64::from(tick) / f64::from(options.ticks);
            drift += per_tick * rng.random_range(-1.732..1.732);
            match options.scenario {
                Scenario::Shock if judged && share >= SHOCK_AT => SHOCK,
                Scenario::Drift if judged => drift.exp(),
                _ => 1.0,
            }
        })
        .collect()
}

/// One plan's auctions on a day. Shocks and drift come on the judged day only, the same for every plan.
pub(super) fn stream(options: &MarketOptions, plan: &PlanWorld, day: u32, judged: bool) -> anyhow::Result<Stream> {
    let moves = moves(options, judged, &mut StdRng::seed_from_u64(options.seed ^ 0x5eed_0000 ^ u64::from(day)));
    let seed = options.seed ^ u64::from(plan.number) << 32 ^ u64::from(day + 1) << 56;
    let mut rng = StdRng::seed_from_u64(seed);
    let click = LogNormal::new((0.02f64).ln(), 0.7)?;
    let conversion = LogNormal::new((0.05f64).ln(), 0.5)?;
    let order = LogNormal::new((40.0f64).ln(), 0.4)?;
    let noise = LogNormal::new(-0.045, 0.3)?; // mean 1
    let others = LogNormal::new(-0.4, 0.6)?;
    let mut ticks = Vec::new();
    let mut spend_at_value = 0.0;
    for tick in 0..options.ticks {
        let (traffic, dearness) = day_shape(f64::from(tick) / f64::from(options.ticks));
        let count = Poisson::new(f64::from(options.auctions_per_tick) * traffic)?.sample(&mut rng);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a Poisson count")]
        let auctions: Vec<Auction> = (0..count as usize)
            .map(|_| {
                let p_click = click.sample(&mut rng).min(0.5);
                let p_conversion = conversion.sample(&mut rng).min(0.5);
                let order_value = micros(order.sample(&mut rng));
                // The others know half of what we know of the impression.
                let common = (p_click * p_conversion * 1000.0).powf(0.5) / 1000.0 * 40.0 / plan.target;
                let best = (0..OTHERS).map(|_| others.sample(&mut rng)).fold(0.0, f64::max);
                let noise = noise.sample(&mut rng);
                let channel = match options.scenario {
                    Scenario::Channels => Channel::ALL[rng.random_range(0..CHANNELS)],
                    _ => Channel::Exchange,
                };
                let (bias, level) = match options.scenario {
                    Scenario::Channels => (CHANNEL_BIAS[channel as usize], CHANNEL_LEVEL[channel as usize]),
                    _ => (1.0, 1.0),
                };
                let price = micros(common * plan.level * level * dearness * moves[tick as usize] * best);
                let predicted_click = (p_click * noise * options.prediction_bias * bias).min(1.0);
                Auction { p_click, p_conversion, predicted_click, order_value, price, channel }
            })
            .collect();
        for auction in &auctions {
            if auction.value() / plan.target >= units(auction.price) {
                spend_at_value += units(auction.price);
            }
        }
        ticks.push(auctions);
    }
    Ok(Stream { ticks, budget: micros((spend_at_value * plan.tightness).max(1.0)) })
}

/// Outcome of one constant multiplier over a day, stopping at the budget: (spent, true value), currency units.
pub(super) fn constant(stream: &Stream, target: f64, multiplier: f64) -> (f64, f64) {
    let (mut spent, mut value) = (0.0, 0.0);
    for auction in stream.ticks.iter().flatten() {
        let price = units(auction.price);
        if auction.predicted(target) * multiplier >= price && spent + price <= units(stream.budget) {
            spent += price;
            value += auction.value();
        }
    }
    (spent, value)
}

/// How likely a constant multiplier is to miss the target by more than `share` by the conversions that come: each auction won brings its
/// order with its own probability (the sum is taken as normal).
pub(super) fn miss_chance(stream: &Stream, target: f64, multiplier: f64, share: f64) -> f64 {
    let (mut spent, mut value, mut variance) = (0.0, 0.0, 0.0);
    for auction in stream.ticks.iter().flatten() {
        let price = units(auction.price);
        if auction.predicted(target) * multiplier >= price && spent + price <= units(stream.budget) {
            let p = auction.p_click * auction.p_conversion;
            spent += price;
            value += auction.value();
            variance += p * (1.0 - p) * units(auction.order_value).powi(2);
        }
    }
    if variance <= 0.0 { 0.0 } else { normal_cdf(((1.0 - share) * target * spent - value) / variance.sqrt()) }
}

/// The best constant multiplier in hindsight that keeps budget and target: (multiplier, value). Up to the noise of single
/// auctions it is the optimum of the whole day: the multiplier is the linear program's dual.
pub(super) fn hindsight(stream: &Stream, target: f64) -> (f64, f64) {
    let mut best = (0.1, 0.0);
    for step in 0..=200 {
        let multiplier = (-2.0 + 0.02 * f64::from(step)).exp();
        let (spent, value) = constant(stream, target, multiplier);
        if (spent == 0.0 || value / spent >= target) && value > best.1 {
            best = (multiplier, value);
        }
    }
    best
}
