//! The auctions of a synthetic market: for each plan a stream of its own, day after day.

use super::constants::{Constants, Spread};
use super::{MarketOptions, Scenario, micros, units};
use longbow::auction::normal_cdf;
use longbow::auction::slot::{CHANNELS, Channel};
use longbow::money::Micros;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, LogNormal, Poisson};

/// When a shock comes, as a share of the day.
pub(super) const SHOCK_AT: f64 = 0.5;
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
    /// Seconds until the conversion that this impression brings to whoever wins it; `None` for most.
    pub(super) conversion: Option<i32>,
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
fn moves(options: &MarketOptions, made: &Constants, judged: bool, rng: &mut StdRng) -> Vec<f64> {
    let mut drift = 0.0_f64;
    let per_tick = made.drift / f64::from(options.ticks).sqrt();
    (0..options.ticks)
        .map(|tick| {
            let share = f64::from(tick) / f64::from(options.ticks);
            drift += per_tick * rng.random_range(-1.732..1.732);
            match options.scenario {
                Scenario::Shock if judged && share >= SHOCK_AT => made.shock,
                Scenario::Drift if judged => drift.exp(),
                _ => 1.0,
            }
        })
        .collect()
}

fn log_normal(Spread(median, spread): Spread) -> anyhow::Result<LogNormal<f64>> {
    Ok(LogNormal::new(median.ln(), spread)?)
}

/// Draws of one auction.
struct Draws {
    click: LogNormal<f64>,
    conversion: LogNormal<f64>,
    order: LogNormal<f64>,
    noise: LogNormal<f64>,
    others: LogNormal<f64>,
    delay: Exp<f64>,
}

impl Draws {
    fn new(made: &Constants) -> anyhow::Result<Self> {
        Ok(Self {
            click: log_normal(made.click)?,
            conversion: log_normal(made.conversion)?,
            order: log_normal(made.order)?,
            noise: LogNormal::new(-made.noise * made.noise / 2.0, made.noise)?, // mean 1
            others: LogNormal::new(made.other.0, made.other.1)?,
            delay: Exp::new(1.0 / made.delay_s)?,
        })
    }

    /// Whether an impression brings a conversion, and after how many seconds. Luck has a stream of its own for each plan and day, read
    /// for every auction whoever wins it: two policies that win the same impression get the same of it, and other prices leave the
    /// luck as it is.
    #[expect(clippy::cast_possible_truncation, reason = "a delay of hours; `as` saturates")]
    fn result(&self, p_click: f64, p_conversion: f64, luck: &mut StdRng) -> Option<i32> {
        let converts = luck.random_bool(p_click * p_conversion);
        converts.then(|| self.delay.sample(luck) as i32)
    }
}

/// One plan's auctions on a day. Shocks and drift come on the judged day only, the same for every plan.
pub(super) fn stream(options: &MarketOptions, plan: &PlanWorld, day: u32, judged: bool) -> anyhow::Result<Stream> {
    let made = Constants::of(options.market);
    let day_key = u64::from(day);
    let moves = moves(options, &made, judged, &mut StdRng::seed_from_u64(options.seed ^ 0x5eed_0000 ^ day_key));
    let seed = options.seed ^ u64::from(plan.number) << 32 ^ (day_key + 1) << 56;
    let (mut rng, mut luck) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(!seed));
    let draws = Draws::new(&made)?;
    let mut ticks = Vec::new();
    let mut spend_at_value = 0.0;
    for tick in 0..options.ticks {
        let (traffic, dearness) = made.at(f64::from(tick) / f64::from(options.ticks));
        let mean = f64::from(options.auctions_per_tick) * made.auctions * traffic;
        let level = plan.level * dearness * moves[tick as usize];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a Poisson count")]
        let count = Poisson::new(mean)?.sample(&mut rng) as usize;
        let one = |_| auction(options, &made, &draws, (plan.target, level), [&mut rng, &mut luck]);
        let auctions: Vec<Auction> = (0..count).map(one).collect();
        for auction in &auctions {
            if auction.value() / plan.target >= units(auction.price) {
                spend_at_value += units(auction.price);
            }
        }
        ticks.push(auctions);
    }
    Ok(Stream { ticks, budget: micros((spend_at_value * plan.tightness).max(1.0)) })
}

fn auction(
    options: &MarketOptions,
    made: &Constants,
    draws: &Draws,
    (target, level): (f64, f64),
    [rng, luck]: [&mut StdRng; 2],
) -> Auction {
    let p_click = draws.click.sample(rng).min(0.5);
    let p_conversion = draws.conversion.sample(rng).min(0.5);
    let order_value = micros(draws.order.sample(rng));
    // The others know a part of what we know of the impression.
    let common = (p_click * p_conversion / made.rate() * 1000.0).powf(made.common) / 1000.0 * 40.0 / target;
    let best = (0..made.others).map(|_| draws.others.sample(rng)).fold(0.0, f64::max);
    let noise = draws.noise.sample(rng);
    let channel = match options.scenario {
        Scenario::Channels => Channel::ALL[rng.random_range(0..CHANNELS)],
        _ => Channel::Exchange,
    };
    let (bias, dear) = match options.scenario {
        Scenario::Channels => (CHANNEL_BIAS[channel as usize], CHANNEL_LEVEL[channel as usize]),
        _ => (1.0, 1.0),
    };
    Auction {
        p_click,
        p_conversion,
        predicted_click: (p_click * noise * options.prediction_bias * bias).min(1.0),
        order_value,
        price: micros(common * level * dear * best),
        channel,
        conversion: draws.result(p_click, p_conversion, luck),
    }
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
