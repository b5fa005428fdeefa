//! A synthetic market of some days, for each plan its own stream of auctions.
//!
//! An auction has a true value (click rate x conversion rate x order value), a prediction of it (the truth with noise and
//! a bias), and the highest bid of three others, which grows with the value (others see it too) and moves threefold over the
//! day. The plan bids through the server's own pricing and control loop; it wins if it bids at least the price, and pays
//! the price (its own bid in a first-price market). Conversions come minutes to hours later. Nothing but the observations that a
//! live server has reaches the policy. Days before the judged one teach it the shape of the day; each day has its own plans.

mod day;
mod world;

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
    /// The best constant multiplier of the day itself: what no policy can know.
    Hindsight,
    /// One multiplier for all plans.
    Constant(f64),
}

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct MarketOptions {
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
    /// Whether first-price bids are shaded.
    pub(crate) shaded: bool,
    /// Whether the policy is told the channel of what it bought.
    pub(crate) channels_told: bool,
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

/// Runs the days before and then the judged day of every plan.
pub(crate) fn run(options: &MarketOptions, bidder: &Bidder) -> anyhow::Result<Vec<PlanResult>> {
    let plans = world::plans(options);
    let mut market = day::MarketRun::new(options, bidder)?;
    let mut before: Option<Vec<world::Stream>> = None;
    for day in 0..=options.days_before {
        let judged = day == options.days_before;
        let streams =
            plans.iter().map(|plan| world::stream(options, plan, day, judged)).collect::<anyhow::Result<Vec<_>>>()?;
        let given = given(bidder, &plans, before.as_deref(), &streams);
        let mut today = Day::new(&mut market, &plans, &streams, day, given)?;
        for tick in 0..options.ticks {
            today.tick(tick)?;
        }
        let results = today.finish();
        if judged {
            return Ok(results);
        }
        before = Some(streams);
    }
    anyhow::bail!("there was no day to judge")
}

/// Constant multipliers of the bidders that have them.
fn given(
    bidder: &Bidder,
    plans: &[world::PlanWorld],
    before: Option<&[world::Stream]>,
    today: &[world::Stream],
) -> Option<Vec<f64>> {
    let best = |streams: &[world::Stream]| {
        streams.iter().zip(plans).map(|(stream, plan)| world::hindsight(stream, plan.target).0).collect::<Vec<_>>()
    };
    match bidder {
        Bidder::Server(..) | Bidder::Dual => None,
        Bidder::Constant(multiplier) => Some(vec![*multiplier; plans.len()]),
        Bidder::Linear => Some(before.map_or_else(|| vec![1.0; plans.len()], best)),
        Bidder::Hindsight => Some(best(today)),
    }
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
            shaded: true,
            channels_told: true,
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
            Bidder::Constant(9.0),
        ];
        for scenario in [Scenario::Shock, Scenario::FirstPrice] {
            for bidder in &bidders {
                let (a, b) = (run(&options(scenario), bidder).unwrap(), run(&options(scenario), bidder).unwrap());
                for (a, b) in a.iter().zip(&b) {
                    assert_eq!((a.spent, a.value, a.order_value), (b.spent, b.value, b.order_value));
                    assert!(a.spent <= a.budget, "{bidder:?}: {} of {}", a.spent, a.budget);
                }
            }
        }
    }

    #[test]
    fn hindsight_keeps_both_constraints_and_is_hard_to_beat() {
        let results = run(&options(Scenario::Forecast), &Bidder::Hindsight).unwrap();
        for plan in &results {
            assert!(plan.expected_ratio() >= 0.999, "{}", plan.expected_ratio());
            assert!(
                (plan.value / plan.hindsight_value - 1.0).abs() < 0.02,
                "replayed through the server's own pricing"
            );
        }
        let total = |of: fn(&PlanResult) -> f64| results.iter().map(of).sum::<f64>();
        let mpc = run(&options(Scenario::Forecast), &Bidder::Server(PolicyKind::Mpc, None)).unwrap();
        assert!(mpc.iter().map(|plan| plan.value).sum::<f64>() < 1.02 * total(|plan| plan.hindsight_value));
    }
}
