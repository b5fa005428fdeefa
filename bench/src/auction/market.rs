//! A synthetic market of some days, for each plan its own stream of auctions.
//!
//! An auction has a true value (click rate x conversion rate x order value), a prediction of it (the truth with noise and
//! a bias), and the highest bid of three others, which grows with the value (others see it too) and moves threefold over the
//! day. The plan bids through the server's own pricing and control loop; it wins if it bids at least the price, and pays
//! the price (its own bid in a first-price market). Conversions come minutes to hours later. Nothing but the observations that a
//! live server has reaches the policy. Days before the judged one teach it the shape of the day; each day has its own plans.

mod constants;
mod day;
mod world;

pub(crate) use constants::MarketKind;

use super::value_iteration::Scaled;
use day::Day;
use longbow::auction::pace::rl::{Features, RlPolicy};
use longbow::money::Micros;
use longbow::plans::PolicyKind;
use std::sync::Arc;

const UNIT: f64 = 1e6;
const DAY_S: i64 = 86_400;
const START: i64 = 1_700_006_400; // a midnight, UTC

/// What happens in the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Prices as on the days before; budgets from tight to loose
    Forecast,
    /// Budgets that bind, the return target does not
    Budget,
    /// Return targets that bind, budgets do not
    Return,
    /// Half way through the day all others bid 1.3 times as much
    Shock,
    /// Prices wander over the day, half as much again or a third less by its end
    Drift,
    /// First-price auctions
    FirstPrice,
    /// Four channels: predictions are too high in one and too low in another, prices differ
    Channels,
}

/// Who sets the multipliers.
#[derive(Clone, Debug)]
pub(crate) enum Bidder {
    /// The server's control loop.
    Server(PolicyKind, Option<Arc<RlPolicy>>),
    /// Dual descent on the budget, the multiplier never above 1: the return then holds by itself.
    Dual,
    /// The best constant multiplier of the day before.
    Linear,
    /// Value iteration over the prices of the day before (RLB), no bid above the value: the return then holds by itself.
    Rlb,
    /// The best constant multiplier of the day itself: what no policy can know.
    Hindsight,
    /// One multiplier for all plans.
    Constant(f64),
}

/// What a run does with what it could know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Whether first-price bids are shaded.
    pub(crate) shaded: bool,
    /// Whether the policy is told the channel of what it bought.
    pub(crate) channels: bool,
}

impl Default for Told {
    fn default() -> Self {
        Self { shaded: true, channels: true }
    }
}

/// Which market.
#[derive(Clone, Debug)]
pub(crate) struct MarketOptions {
    pub(crate) market: MarketKind,
    pub(crate) scenario: Scenario,
    /// Seed of everything.
    pub(crate) seed: u64,
    /// Plans.
    pub(crate) plans: u32,
    /// Control ticks in the day.
    pub(crate) ticks: u32,
    /// Mean number of auctions of a plan in a tick.
    pub(crate) auctions_per_tick: u32,
    /// Days before the judged one.
    pub(crate) days_before: u32,
    /// Predictions are the truth times this, with noise.
    pub(crate) prediction_bias: f64,
}

/// One plan's judged day, in currency units.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlanResult {
    pub(crate) name: String,
    pub(crate) budget: f64,
    pub(crate) target: f64,
    pub(crate) spent: f64,
    /// Order value of the conversions that came of this day's impressions.
    pub(crate) order_value: f64,
    /// Number of those conversions.
    pub(crate) conversions: u64,
    /// Expected order value of the impressions won: `order_value` without its luck.
    pub(crate) value: f64,
    /// Expected order value under the best constant multiplier that keeps budget and target.
    pub(crate) hindsight_value: f64,
    /// How likely that multiplier is to miss the target by more than 5% by the conversions that come.
    pub(crate) hindsight_miss: f64,
    pub(crate) wins: u64,
    pub(crate) multiplier: f64,
    /// By tick.
    pub(crate) path: Vec<TickResult>,
}

/// One tick of a plan, in currency units since the day began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TickResult {
    pub(crate) spent: f64,
    pub(crate) value: f64,
    /// Logarithm of the tick's spend over what was forecast of it; NaN without a forecast.
    pub(crate) surprise: f64,
    /// What the learned policy saw before the tick, and what it added to the exponent; `None` without a forecast.
    pub(crate) step: Option<(Features, f64)>,
}

impl PlanResult {
    /// Realised return over target; 1 where nothing was spent.
    pub(crate) fn roi_ratio(&self) -> f64 {
        if self.spent > 0.0 { self.order_value / self.spent / self.target } else { 1.0 }
    }

    /// The same from expected order values.
    pub(crate) fn expected_ratio(&self) -> f64 {
        if self.spent > 0.0 { self.value / self.spent / self.target } else { 1.0 }
    }
}

#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^53")]
pub(super) fn units(amount: Micros) -> f64 {
    amount.0 as f64 / UNIT
}

#[expect(clippy::cast_possible_truncation, reason = "amounts far below 2^63")]
pub(super) fn micros(units: f64) -> Micros {
    Micros((units * UNIT) as i64)
}

/// The auctions of every plan and day, and what the best constant multiplier gets of the last day. The same for every bidder.
pub(crate) struct World {
    options: MarketOptions,
    plans: Vec<world::PlanWorld>,
    /// The last is judged.
    days: Vec<Vec<world::Stream>>,
    /// For each plan: its multiplier and value.
    best: Vec<(f64, f64)>,
}

impl World {
    pub(crate) fn new(options: &MarketOptions) -> anyhow::Result<Self> {
        let mut world = Self::without_best(options)?;
        world.best = match options.scenario {
            Scenario::FirstPrice => world.best_at_first_price()?,
            _ => world.days.last().map_or_else(Vec::new, |day| best(&world.plans, day)),
        };
        Ok(world)
    }

    /// A world in which nobody asks for the best multipliers.
    pub(crate) fn without_best(options: &MarketOptions) -> anyhow::Result<Self> {
        let plans = world::plans(options);
        let streams = |day: u32| {
            let judged = day == options.days_before;
            plans.iter().map(|plan| world::stream(options, plan, day, judged)).collect::<anyhow::Result<Vec<_>>>()
        };
        let days = (0..=options.days_before).map(streams).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { options: options.clone(), plans, days, best: Vec::new() })
    }

    /// The same at first prices, where what a multiplier costs depends on the shading: played at each of a few constants.
    fn best_at_first_price(&self) -> anyhow::Result<Vec<(f64, f64)>> {
        let mut best = vec![(0.1, 0.0); self.plans.len()];
        for step in -10..=8 {
            let multiplier = (0.15 * f64::from(step)).exp();
            for (plan, best) in run(self, &Bidder::Constant(multiplier), Told::default())?.iter().zip(&mut best) {
                if plan.expected_ratio() >= 1.0 && plan.value > best.1 {
                    *best = (multiplier, plan.value);
                }
            }
        }
        Ok(best)
    }
}

fn best(plans: &[world::PlanWorld], day: &[world::Stream]) -> Vec<(f64, f64)> {
    day.iter().zip(plans).map(|(stream, plan)| world::hindsight(stream, plan.target)).collect()
}

/// Runs the days before and then the judged day of every plan.
pub(crate) fn run(world: &World, bidder: &Bidder, told: Told) -> anyhow::Result<Vec<PlanResult>> {
    let mut market = day::MarketRun::new(&world.options, bidder, told)?;
    for (number, day) in (0..).zip(&world.days) {
        let judged = number == world.options.days_before;
        let given = given(world, bidder, judged);
        let mut today = Day::new(&mut market, &world.plans, day, number, given)?;
        for tick in 0..world.options.ticks {
            today.tick(tick)?;
        }
        let results = today.finish(if judged { &world.best } else { &[] });
        if judged {
            return Ok(results);
        }
    }
    anyhow::bail!("there was no day to judge")
}

/// What a bidder outside the server's control loop knows of a day when it begins. On the days before the judged one, which are
/// there for the loop and the shading to learn from, it bids its values.
fn given(world: &World, bidder: &Bidder, judged: bool) -> day::Given {
    let constants = |of: &[(f64, f64)]| day::Given::Multipliers(of.iter().map(|best| best.0).collect());
    let mut last = world.days.iter().rev();
    let (today, before) = (last.next(), last.next());
    match (bidder, today.zip(before)) {
        (Bidder::Constant(multiplier), _) => day::Given::Multipliers(vec![*multiplier; world.plans.len()]),
        (Bidder::Hindsight, _) if judged => constants(&world.best),
        (Bidder::Linear, Some((_, before))) if judged => constants(&best(&world.plans, before)),
        (Bidder::Rlb, Some((today, before))) if judged => {
            let streams = today.iter().zip(before).zip(&world.plans);
            day::Given::Tables(streams.map(|((today, before), plan)| table(today, before, plan)).collect())
        }
        _ => day::Given::Nothing,
    }
}

/// A plan's table from the prices of the day before; of today only the budget is read.
fn table(today: &world::Stream, before: &world::Stream, plan: &world::PlanWorld) -> Scaled {
    let seen = before.ticks.iter().flatten();
    let auctions: Vec<(f64, f64)> = seen.map(|of| (of.predicted(plan.target), units(of.price))).collect();
    Scaled::learn(&auctions, 1, units(today.budget))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(scenario: Scenario) -> MarketOptions {
        MarketOptions {
            scenario,
            seed: 7,
            plans: 6,
            ticks: 48,
            auctions_per_tick: 60,
            days_before: 1,
            prediction_bias: 1.0,
            market: MarketKind::Base,
        }
    }

    #[test]
    fn same_seed_same_day_and_never_over_budget() {
        let server = |kind| Bidder::Server(kind, None);
        let bidders = [
            server(PolicyKind::Fixed),
            server(PolicyKind::Pid),
            server(PolicyKind::Mpc),
            Bidder::Dual,
            Bidder::Linear,
            Bidder::Rlb,
            Bidder::Constant(9.0),
        ];
        for scenario in [Scenario::Shock, Scenario::FirstPrice] {
            let world = || World::new(&options(scenario)).unwrap();
            let worlds = [world(), world()];
            for bidder in &bidders {
                let [a, b] = worlds.each_ref().map(|world| run(world, bidder, Told::default()).unwrap());
                for (a, b) in a.iter().zip(&b) {
                    assert_eq!((a.spent, a.value, a.order_value), (b.spent, b.value, b.order_value));
                    assert!(a.spent <= a.budget, "{bidder:?}: {} of {}", a.spent, a.budget);
                }
            }
        }
    }

    #[test]
    fn hindsight_keeps_both_constraints_and_is_hard_to_beat() {
        let world = World::new(&options(Scenario::Forecast)).unwrap();
        let results = run(&world, &Bidder::Hindsight, Told::default()).unwrap();
        for plan in &results {
            assert!(plan.expected_ratio() >= 0.999, "{}", plan.expected_ratio());
            assert!(
                (plan.value / plan.hindsight_value - 1.0).abs() < 0.02,
                "replayed through the server's own pricing"
            );
        }
        let total = |of: fn(&PlanResult) -> f64| results.iter().map(of).sum::<f64>();
        let mpc = run(&world, &Bidder::Server(PolicyKind::Mpc, None), Told::default()).unwrap();
        assert!(mpc.iter().map(|plan| plan.value).sum::<f64>() < 1.02 * total(|plan| plan.hindsight_value));
    }

    #[test]
    fn large_is_the_same_market_with_forty_times_the_results() {
        let sums = |market| {
            let world = World::without_best(&MarketOptions { market, ..options(Scenario::Drift) }).unwrap();
            let seen = || world.days[1].iter().flat_map(|stream| stream.ticks.iter().flatten());
            let sum = |of: fn(&world::Auction) -> f64| seen().map(of).sum::<f64>();
            let count = sum(|_| 1.0);
            let each = [sum(world::Auction::value), sum(|of| units(of.price))].map(|sum| sum / count);
            (count, sum(|of| of.p_click * of.p_conversion), each)
        };
        let (base, large) = (sums(MarketKind::Base), sums(MarketKind::Large));
        assert!((large.0 / base.0 / 4.0 - 1.0).abs() < 0.02, "{base:?} {large:?}");
        assert!((large.1 / base.1 / 40.0 - 1.0).abs() < 0.05, "{base:?} {large:?}");
        for (base, large) in base.2.iter().zip(&large.2) {
            assert!((large / base - 1.0).abs() < 0.05, "an auction is worth and costs as much: {base} {large}");
        }
    }

    #[test]
    fn luck_is_the_impressions_own() {
        let conversions = |scenario| {
            let world = World::new(&options(scenario)).unwrap();
            let auctions =
                |stream: &world::Stream| stream.ticks.iter().flatten().map(|a| a.conversion).collect::<Vec<_>>();
            let lucky = world.days[1].iter().map(auctions).collect::<Vec<_>>();
            let won = |m| run(&world, &Bidder::Constant(m), Told::default()).unwrap();
            (lucky, won(0.6), won(9.0))
        };
        let (forecast, few, all) = conversions(Scenario::Forecast);
        assert_eq!(conversions(Scenario::Shock).0, forecast, "other prices, the same luck");
        let count = |plan: &[Option<i32>]| plan.iter().filter(|conversion| conversion.is_some()).count() as u64;
        assert!(forecast.iter().map(|plan| count(plan)).sum::<u64>() > 5);
        for ((plan, few), all) in forecast.iter().zip(few).zip(all) {
            assert!(few.conversions <= count(plan) && all.conversions <= count(plan), "nobody gets more than there is");
        }
        assert_ne!(forecast[0], forecast[1], "each plan has its own");
    }
}
