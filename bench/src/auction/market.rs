//! A synthetic second-price market of one day, for each plan its own stream of auctions.
//!
//! An auction has a true value (click rate x conversion rate x order value), a prediction of it (the truth with noise and
//! a bias), and the highest bid of the others, which grows with the value (others see it too) and moves threefold over the
//! day. The plan bids through the server's own pricing and control loop; it wins if it bids at least the price, and pays
//! the price. Conversions come minutes to hours later. Nothing but the observations that a live server has reaches the
//! policy.

use longbow::auction::pace::{ControlLoop, Outcomes, PlanOutcome, PlanTotals};
use longbow::auction::price::{self, Market, PriceInput};
use longbow::auction::slot::{Slot, Terms};
use longbow::catalog::{Catalog, CatalogHandle, Change};
use longbow::ids::Id;
use longbow::money::{Currency, FxTable, Micros};
use longbow::plans::{Goal, Item, Plan, PlanState, PolicyKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, LogNormal, Poisson};
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY: i64 = 86_400;
const START: i64 = 1_700_006_400; // a midnight, UTC
const UNIT: f64 = 1e6;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MarketOptions {
    /// The policy of every plan.
    pub(crate) policy: PolicyKind,
    /// Seed of everything.
    pub(crate) seed: u64,
    /// Plans.
    pub(crate) plans: u32,
    /// Control ticks in the day.
    pub(crate) ticks: u32,
    /// Mean number of auctions of a plan in a tick.
    pub(crate) auctions_per_tick: u32,
    /// Predictions are the truth times this, with noise.
    pub(crate) prediction_bias: f64,
}

/// One plan's day, in currency units.
#[derive(Clone, Debug)]
pub(crate) struct PlanResult {
    pub(crate) name: String,
    pub(crate) budget: f64,
    pub(crate) target: f64,
    pub(crate) spent: f64,
    /// Order value of the conversions that came of this day's impressions.
    pub(crate) order_value: f64,
    /// Expected order value of the impressions won: `order_value` without its luck.
    pub(crate) value: f64,
    /// Expected order value under the best constant multiplier that keeps budget and target.
    pub(crate) hindsight_value: f64,
    pub(crate) last_multiplier: f64,
}

impl PlanResult {
    /// Realised return over target; 1 where nothing was spent.
    pub(crate) fn roi_ratio(&self) -> f64 {
        if self.spent > 0.0 { self.order_value / self.spent / self.target } else { 1.0 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Auction {
    p_click: f64,
    p_conversion: f64,
    predicted_click: f64,
    order_value: Micros,
    price: Micros,
}

impl Auction {
    /// True expected order value, currency units.
    fn value(&self) -> f64 {
        self.p_click * self.p_conversion * units(self.order_value)
    }
}

/// One plan's auctions by tick, and the luck of each impression.
struct Stream {
    ticks: Vec<Vec<Auction>>,
    target: f64,
    budget: Micros,
}

#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^53")]
fn units(amount: Micros) -> f64 {
    amount.0 as f64 / UNIT
}

#[expect(clippy::cast_possible_truncation, reason = "amounts far below 2^63")]
fn micros(units: f64) -> Micros {
    Micros((units * UNIT) as i64)
}

/// Runs every plan through its day.
pub(crate) fn run(options: &MarketOptions) -> anyhow::Result<Vec<PlanResult>> {
    let mut streams = Vec::new();
    for plan in 0..options.plans {
        streams.push(stream(options, plan)?);
    }
    let catalog = catalog(options, &streams)?;
    let mut day = Day::new(options, &catalog, streams.len());
    for tick in 0..options.ticks {
        day.tick(tick, &streams)?;
    }
    day.deliver(i64::MAX);
    let mut results = Vec::new();
    for (index, stream) in (0u32..).zip(&streams) {
        let plan = &day.plans[index as usize];
        results.push(PlanResult {
            name: format!("plan-{index}"),
            budget: units(stream.budget),
            target: stream.target,
            spent: units(plan.spent),
            order_value: units(day.outcomes.of(index).order_value),
            value: plan.value,
            hindsight_value: hindsight(stream),
            last_multiplier: plan.multiplier,
        });
    }
    Ok(results)
}

/// Traffic and price level over the day: more of both in the evening, prices threefold between trough and peak.
fn day_shape(share: f64) -> (f64, f64) {
    let wave = ((share - 0.85) * std::f64::consts::TAU).cos(); // 1 at 20:24, -1 at 8:24
    (1.0 + 0.6 * wave, 3f64.sqrt().powf(wave))
}

fn stream(options: &MarketOptions, plan: u32) -> anyhow::Result<Stream> {
    let mut rng = StdRng::seed_from_u64(options.seed ^ u64::from(plan) << 32);
    let target = rng.random_range(1.5..6.0);
    let click = LogNormal::new((0.02f64).ln(), 0.7)?;
    let conversion = LogNormal::new((0.05f64).ln(), 0.5)?;
    let order = LogNormal::new((40.0f64).ln(), 0.4)?;
    let noise = LogNormal::new(-0.045, 0.3)?; // mean 1
    // Others bid around this share of our value at target, so that some plans find cheap and some find dear markets.
    let level = 0.5 * 8f64.powf(rng.random_range(0.0..1.0));
    let others = LogNormal::new(0.0, 0.6)?;
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
                // Others share half of what we know of the impression.
                let common = (p_click * p_conversion * 1000.0).powf(0.5) / 1000.0 * 40.0 / target;
                let price = micros(common * level * dearness * others.sample(&mut rng));
                let predicted_click = (p_click * noise.sample(&mut rng) * options.prediction_bias).min(1.0);
                Auction { p_click, p_conversion, predicted_click, order_value, price }
            })
            .collect();
        for auction in &auctions {
            if auction.value() / target >= units(auction.price) {
                spend_at_value += units(auction.price);
            }
        }
        ticks.push(auctions);
    }
    // From a budget that binds hard to one that the market cannot take.
    let tightness = 0.1 * 100f64.powf(rng.random_range(0.0..1.0));
    Ok(Stream { ticks, target, budget: micros((spend_at_value * tightness).max(1.0)) })
}

fn catalog(options: &MarketOptions, streams: &[Stream]) -> anyhow::Result<Arc<Catalog>> {
    let handle = CatalogHandle::new();
    let item = Item {
        id: Id::from("item"),
        title: String::new(),
        categories: Vec::new(),
        price_micros: Micros::ZERO,
        url: String::new(),
        image_url: String::new(),
        vector: Vec::new(),
    };
    let plans = streams.iter().enumerate().map(|(index, stream)| {
        Change::Plan(Plan {
            id: Id::from(format!("plan-{index}").as_str()),
            name: String::new(),
            advertiser: Id::from("advertiser"),
            domain: "shop.example".into(),
            seat: None,
            deals: Vec::new(),
            budget_micros: stream.budget,
            currency: Currency::USD,
            goal: Goal::Roi { target: stream.target },
            max_bid_micros: micros(100.0),
            starts_at: START,
            ends_at: START + DAY,
            state: PlanState::Active,
            policy: options.policy,
            items: vec![Id::from("item")],
        })
    });
    handle.apply([Change::Item(item)].into_iter().chain(plans).collect())?;
    Ok(handle.snapshot())
}

#[derive(Clone, Debug, Default)]
struct PlanDay {
    spent: Micros,
    value: f64,
    multiplier: f64,
}

/// The day while it runs.
struct Day<'a> {
    options: &'a MarketOptions,
    catalog: &'a Catalog,
    control: ControlLoop,
    outcomes: Outcomes,
    plans: Vec<PlanDay>,
    /// Conversions to come: when, and whose.
    late: BTreeMap<(i64, u64), (u32, Micros)>,
    luck: StdRng,
    fx: FxTable,
}

impl<'a> Day<'a> {
    fn new(options: &'a MarketOptions, catalog: &'a Catalog, plans: usize) -> Self {
        Self {
            options,
            catalog,
            control: ControlLoop::new(),
            outcomes: Outcomes::new(),
            plans: vec![PlanDay::default(); plans],
            late: BTreeMap::new(),
            luck: StdRng::seed_from_u64(!options.seed),
            fx: FxTable::default(),
        }
    }

    fn tick(&mut self, tick: u32, streams: &[Stream]) -> anyhow::Result<()> {
        let now = START + DAY * i64::from(tick) / i64::from(self.options.ticks);
        self.deliver(now);
        let (plans, outcomes) = (&self.plans, &self.outcomes);
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds")]
        let controls = self.control.tick(now as f64, self.catalog, |slot, plan| PlanTotals {
            spent: plans[slot as usize].spent,
            free: Micros(plan.budget_micros.0 - plans[slot as usize].spent.0),
            results: outcomes.of(slot),
        });
        let (terms, slot) = (Terms::default(), Slot::default());
        let market = Market::new(&terms, &slot, &self.fx).map_err(|reason| anyhow::anyhow!("no market: {reason}"))?;
        let delay = Exp::new(1.0 / 1800.0)?;
        for (plan, stream) in (0u32..).zip(streams) {
            let Some(entry) = self.catalog.plan(plan) else { continue };
            let day = &mut self.plans[plan as usize];
            day.multiplier = controls.multiplier(plan);
            for auction in &stream.ticks[tick as usize] {
                let input = PriceInput {
                    plan: &entry.record,
                    p_click: auction.predicted_click,
                    p_conversion: auction.p_conversion,
                    order_value: auction.order_value,
                    multiplier: day.multiplier,
                    free: Micros(stream.budget.0 - day.spent.0),
                    shading: 1.0,
                };
                let Ok(priced) = price::bid(&input, &market) else { continue };
                if priced.price < auction.price {
                    continue;
                }
                day.spent.0 += auction.price.0;
                day.value += auction.value();
                self.outcomes.record(plan, PlanOutcome::Impression(priced.value));
                if self.luck.random_bool(auction.p_click) && self.luck.random_bool(auction.p_conversion) {
                    #[expect(clippy::cast_possible_truncation, reason = "a delay of hours")]
                    let at = now + delay.sample(&mut self.luck) as i64;
                    self.late.insert((at, self.luck.random()), (plan, auction.order_value));
                }
            }
        }
        Ok(())
    }

    /// Reports the conversions that happened before `until`.
    fn deliver(&mut self, until: i64) {
        let still_to_come = self.late.split_off(&(until, 0));
        for (plan, value) in std::mem::replace(&mut self.late, still_to_come).into_values() {
            self.outcomes.record(plan, PlanOutcome::Conversion(value));
        }
    }
}

/// Expected value under the best constant multiplier: it stops at the budget and must meet the target in expectation.
fn hindsight(stream: &Stream) -> f64 {
    let mut best = 0.0f64;
    for step in 0..=140 {
        let multiplier = (-2.0 + 0.05 * f64::from(step)).exp();
        let (mut spent, mut value) = (0.0, 0.0);
        for auction in stream.ticks.iter().flatten() {
            let predicted = auction.predicted_click * auction.p_conversion * units(auction.order_value);
            let price = units(auction.price);
            if predicted / stream.target * multiplier >= price && spent + price <= units(stream.budget) {
                spent += price;
                value += auction.value();
            }
        }
        if spent == 0.0 || value / spent >= stream.target {
            best = best.max(value);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(policy: PolicyKind) -> MarketOptions {
        MarketOptions { policy, seed: 7, plans: 8, ticks: 144, auctions_per_tick: 150, prediction_bias: 1.0 }
    }

    #[test]
    fn same_seed_same_day_and_never_over_budget() {
        for policy in [PolicyKind::Fixed, PolicyKind::Pid] {
            let (a, b) = (run(&options(policy)).unwrap(), run(&options(policy)).unwrap());
            for (a, b) in a.iter().zip(&b) {
                assert_eq!((a.spent, a.value, a.order_value), (b.spent, b.value, b.order_value));
                assert!(a.spent <= a.budget, "{a:?}");
            }
        }
    }
}
