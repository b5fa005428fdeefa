//! Who bids in the recorded days.

use super::super::served::{Bought, Served};
use super::super::value_iteration::Scaled;
use super::{Day, DayPlan, Played};
use clap::ValueEnum;
use longbow::auction::pace::horizon::{DayPath, Grid, Horizon, Planner, TickPath};
use longbow::plans::PolicyKind;

/// How far a multiplier may go above the target: the score falls with the square of the cost per action, so that
/// buying beyond the target pays until the last conversion costs half as much again; 1.7 leaves room for forecasts.
const LIMIT: f64 = 1.7;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DayPolicy {
    /// Multiplier = target, always
    Fixed,
    /// The server's PID
    Pid,
    /// Dual descent on the budget: after each tick against the mean spend of what is left
    Dual,
    /// The multiplier that was best on the learned days
    Linear,
    /// Value iteration over the learned days' prices (RLB)
    Rlb,
    /// The server's model predictive control, which learns from its own wins
    Served,
    /// A forecast from the learned days moved to today's levels, re-solved each tick
    Forecast,
    /// Stochastic model predictive control over the learned days
    Mpc,
    /// The best constant multiplier in hindsight
    Hindsight,
}

/// What a bidder knows before a tick.
pub(super) struct Tick<'a> {
    pub(super) number: usize,
    /// Share of the day that is over.
    pub(super) share: f64,
    pub(super) values: &'a [f64],
    /// The tick before's costs.
    pub(super) costs: Option<&'a [f64]>,
    pub(super) played: Played,
    pub(super) left: f64,
}

pub(super) trait Bidder {
    /// The multiplier of a tick.
    fn tick(&mut self, tick: &Tick<'_>) -> f64;

    /// The multiplier of the next auction, where it is not the tick's.
    fn auction(&mut self, _left: f64, _value: f64) -> Option<f64> {
        None
    }
}

/// Always the same.
pub(super) struct Constant(pub(super) f64);

impl Bidder for Constant {
    fn tick(&mut self, _tick: &Tick<'_>) -> f64 {
        self.0
    }
}

/// Dual descent on the budget.
struct Dual {
    multiplier: f64,
    limit: f64,
    ticks: f64,
    /// Money left before the last tick.
    before: f64,
}

impl Bidder for Dual {
    #[expect(clippy::cast_precision_loss, reason = "a tick's number")]
    fn tick(&mut self, tick: &Tick<'_>) -> f64 {
        if tick.number > 0 {
            let wanted = self.before / (self.ticks - tick.number as f64 + 1.0);
            let error = ((wanted - (self.before - tick.left)) / wanted.max(1e-9)).clamp(-1.0, 1.0);
            self.multiplier = (self.multiplier * (0.1 * error).exp()).min(self.limit);
        }
        self.before = tick.left;
        self.multiplier
    }
}

/// A planner over the learned days.
struct Planned<'a> {
    planner: Planner<'a>,
    /// Whether only the forecast decides.
    forecast: bool,
}

fn log_mean(numbers: &[f64]) -> f64 {
    super::mean(numbers.iter().copied()).max(1e-12).ln()
}

impl Bidder for Planned<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a count of auctions")]
    fn tick(&mut self, tick: &Tick<'_>) -> f64 {
        if let Some(costs) = tick.costs {
            self.planner.see(log_mean(costs));
        }
        let levels = (log_mean(tick.values), (tick.values.len().max(1) as f64).ln());
        if self.forecast {
            self.planner.forecast_multiplier(tick.number, levels, tick.left)
        } else {
            self.planner.multiplier(tick.number, levels, tick.left)
        }
    }
}

/// Value iteration, no bid beyond the limit.
struct ByTable {
    table: Scaled,
    limit: f64,
    seen: usize,
}

impl Bidder for ByTable {
    fn tick(&mut self, _tick: &Tick<'_>) -> f64 {
        self.limit
    }

    fn auction(&mut self, left: f64, value: f64) -> Option<f64> {
        self.seen += 1;
        Some(self.table.multiplier(self.seen - 1, left, value).min(self.limit))
    }
}

/// A policy of the server.
struct OfServer {
    served: Served,
    target: f64,
}

impl OfServer {
    /// One that has gone through the learned days, plan by plan.
    fn learn(kind: PolicyKind, learn: &[&Day]) -> Served {
        let mut served = Served::new(kind);
        for plan in learn.iter().flat_map(|day| &day.plans) {
            served.begin(plan.budget);
            let mut bidder = Self { served, target: plan.target };
            super::play(plan, &mut bidder);
            served = bidder.served;
        }
        served
    }
}

impl Bidder for OfServer {
    fn tick(&mut self, tick: &Tick<'_>) -> f64 {
        let Played { value, spent, impressions } = tick.played;
        let bought = Bought { spent, expected: value * self.target, impressions, results: value };
        self.served.multiplier(tick.share, bought) * self.target
    }
}

/// What a policy takes from the learned days.
pub(super) struct Learned<'a> {
    policy: DayPolicy,
    days: &'a [&'a Day],
    horizon: Option<Horizon>,
    served: Option<Served>,
}

impl<'a> Learned<'a> {
    /// Learns. Of the judged days only budgets and targets are read, which a bidder knows beforehand.
    pub(super) fn new(policy: DayPolicy, learn: &'a [&'a Day], judge: &[&Day]) -> anyhow::Result<Self> {
        let horizon = match policy {
            DayPolicy::Forecast | DayPolicy::Mpc => Some(horizon(learn, judge)?),
            _ => None,
        };
        let served = match policy {
            DayPolicy::Pid => Some(Served::new(PolicyKind::Pid)),
            DayPolicy::Served => Some(OfServer::learn(PolicyKind::Mpc, learn)),
            _ => None,
        };
        Ok(Self { policy, days: learn, horizon, served })
    }

    /// Plays a plan's day; `number` is its position among the day's plans.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a day")]
    pub(super) fn play(&self, plan: &DayPlan, number: usize) -> Played {
        let (target, limit) = (plan.target, LIMIT * plan.target);
        match (self.policy, &self.horizon, &self.served) {
            (DayPolicy::Mpc | DayPolicy::Forecast, Some(horizon), _) => {
                let planner = Planner::new(horizon, limit);
                super::play(plan, &mut Planned { planner, forecast: self.policy == DayPolicy::Forecast })
            }
            (_, _, Some(served)) => {
                let mut served = served.clone();
                served.begin(plan.budget);
                super::play(plan, &mut OfServer { served, target })
            }
            (DayPolicy::Dual, ..) => {
                let ticks = plan.ticks.len() as f64;
                super::play(plan, &mut Dual { multiplier: target, limit, ticks, before: plan.budget })
            }
            (DayPolicy::Linear, ..) => super::play(plan, &mut Constant(self.linear(plan))),
            (DayPolicy::Rlb, ..) => {
                let same = self.days.iter().filter_map(|day| day.plans.get(number));
                let auctions: Vec<(f64, f64)> = same.flat_map(|plan| plan.ticks.iter().flatten().copied()).collect();
                let table = Scaled::learn(&auctions, self.days.len(), plan.budget);
                super::play(plan, &mut ByTable { table, limit, seen: 0 })
            }
            (DayPolicy::Hindsight, ..) => super::play(plan, &mut Constant(super::best_constant(plan).1)),
            _ => super::play(plan, &mut Constant(target)),
        }
    }

    /// The constant multiplier that would have brought most on the learned days, with this plan's money and target.
    fn linear(&self, plan: &DayPlan) -> f64 {
        let all = || self.days.iter().flat_map(|day| &day.plans);
        let total = |multiplier: f64| {
            let one = |other: &DayPlan| {
                super::play_with(&other.ticks, plan.budget, &mut Constant(multiplier)).score(plan.target)
            };
            all().map(one).sum::<f64>()
        };
        let grid = (-30..=15).map(|i| (0.05 * f64::from(i)).exp() * plan.target);
        grid.map(|m| (m, total(m))).fold((plan.target, 0.0), |best, new| if new.1 > best.1 { new } else { best }).0
    }
}

fn horizon(learn: &[&Day], judge: &[&Day]) -> anyhow::Result<Horizon> {
    let plans = || learn.iter().chain(judge).flat_map(|day| &day.plans);
    let low = plans().map(|plan| plan.target).fold(f64::INFINITY, f64::min);
    let high = plans().map(|plan| plan.target).fold(0.0, f64::max);
    let budget = plans().map(|plan| plan.budget).fold(0.0, f64::max);
    let grid = Grid::between(low * 0.28, high * 3.0);
    let path = |plan: &DayPlan| DayPath { ticks: plan.ticks.iter().map(|tick| TickPath::of(tick, &grid)).collect() };
    let days = learn.iter().map(|day| day.plans.iter().map(path).collect()).collect();
    Horizon::learn(days, grid, budget).map_err(anyhow::Error::msg)
}
