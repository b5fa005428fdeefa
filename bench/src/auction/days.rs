//! Days of a public auction simulator, replayed: a policy learns from some and is judged on others.
//!
//! Before a tick the bidder knows its values; it sets one multiplier; it wins where multiplier x value reaches the cost,
//! pays the cost, and stops at the budget; after the tick it sees the tick's costs. Score: value x min(1, (target / cost per
//! action) squared). The costs of a tick reach the policy only after the tick: the replay hands them over.

use super::npz;
use crate::out;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use longbow::auction::pace::horizon::{DayPath, Grid, Horizon, Planner, TickPath};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How far a multiplier may go above the target: the score falls with the square of the cost per action, so that
/// buying beyond the target pays until the last conversion costs half as much again; 1.7 leaves room for forecasts.
const LIMIT: f64 = 1.7;
/// Ticks of a day at most.
const TICKS_MAX: usize = 1_440;

#[derive(Args)]
pub(super) struct DaysArgs {
    /// Days to learn from (.npz)
    #[arg(long, num_args = 1.., required = true)]
    learn: Vec<PathBuf>,
    /// Days to be judged on
    #[arg(long, num_args = 1.., required = true)]
    judge: Vec<PathBuf>,
    /// The policy
    #[arg(long, value_enum, default_value_t = DayPolicy::Mpc)]
    policy: DayPolicy,
    /// Judge each learned day by the others too (they are never judged by themselves)
    #[arg(long)]
    cross: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DayPolicy {
    /// Multiplier = target, always
    Fixed,
    /// Dual descent on the budget: after each tick against the mean spend of what is left
    Dual,
    /// A forecast from the learned days moved to today's levels, re-solved each tick
    Forecast,
    /// Stochastic model predictive control over the learned days
    Mpc,
}

/// One day: for each plan and tick its auctions.
struct Day {
    name: String,
    plans: Vec<DayPlan>,
}

struct DayPlan {
    budget: f64,
    target: f64,
    /// (value, cost) by tick.
    ticks: Vec<Vec<(f64, f64)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Played {
    value: f64,
    spent: f64,
}

impl Played {
    fn score(&self, target: f64) -> f64 {
        if self.value <= 0.0 {
            return 0.0;
        }
        let cpa = self.spent / self.value;
        self.value * if cpa > target { (target / cpa).powi(2) } else { 1.0 }
    }
}

#[derive(Serialize)]
struct Figures {
    policy: String,
    learned: usize,
    judged: Vec<DayFigures>,
    mean_score: f64,
    spend_ratio: f64,
    cpa_ratio: f64,
    share_of_best_constant: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cross_share: Option<f64>,
}

#[derive(Clone, Serialize)]
struct DayFigures {
    day: String,
    mean_score: f64,
    /// Mean of spend / budget.
    spend_ratio: f64,
    /// Mean of cost per action / target.
    cpa_ratio: f64,
    best_constant: f64,
    share_of_best_constant: f64,
    scores: Vec<f64>,
}

/// Runs the command.
pub(super) fn run(args: &DaysArgs) -> anyhow::Result<()> {
    for day in &args.judge {
        ensure!(!args.learn.contains(day), "{} is both learned and judged: that would be look-ahead", day.display());
    }
    let read = |paths: &[PathBuf]| paths.iter().map(|path| read_day(path)).collect::<anyhow::Result<Vec<Day>>>();
    let (learn, judge) = (read(&args.learn)?, read(&args.judge)?);
    let judged = judge_days(&learn.iter().collect::<Vec<_>>(), &judge.iter().collect::<Vec<_>>(), args.policy)?;
    let mut cross = Vec::new();
    if args.cross {
        for (at, day) in learn.iter().enumerate() {
            let others: Vec<&Day> = learn.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, day)| day).collect();
            cross.extend(judge_days(&others, &[day], args.policy)?);
        }
    }
    let rows = judged.iter().map(|day| row(day, "judged")).chain(cross.iter().map(|day| row(day, "left out")));
    out::table(
        &["day", "", "score", "best constant", "share", "spent/budget", "cpa/target"],
        &rows.collect::<Vec<_>>(),
    );
    let figures = Figures {
        policy: format!("{:?}", args.policy).to_lowercase(),
        learned: learn.len(),
        mean_score: mean(judged.iter().map(|day| day.mean_score)),
        spend_ratio: mean(judged.iter().map(|day| day.spend_ratio)),
        cpa_ratio: mean(judged.iter().map(|day| day.cpa_ratio)),
        share_of_best_constant: mean(judged.iter().map(|day| day.share_of_best_constant)),
        cross_share: args.cross.then(|| mean(cross.iter().map(|day| day.share_of_best_constant))),
        judged,
    };
    out::json(args.json, &figures)
}

fn row(day: &DayFigures, kind: &str) -> Vec<String> {
    let mut cells = vec![day.day.clone(), kind.to_owned()];
    let numbers = [day.mean_score, day.best_constant, day.share_of_best_constant, day.spend_ratio, day.cpa_ratio];
    cells.extend(numbers.map(|x| format!("{x:.3}")));
    cells
}

#[expect(clippy::cast_precision_loss, reason = "counts of plans and days")]
fn mean(numbers: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = numbers.clone().count().max(1) as f64;
    numbers.sum::<f64>() / count
}

fn judge_days(learn: &[&Day], judge: &[&Day], policy: DayPolicy) -> anyhow::Result<Vec<DayFigures>> {
    let horizon = match policy {
        DayPolicy::Forecast | DayPolicy::Mpc => Some(learned(learn, judge)?),
        DayPolicy::Fixed | DayPolicy::Dual => None,
    };
    let figures = judge.iter().map(|day| {
        let played: Vec<Played> = day.plans.iter().map(|plan| play_policy(plan, policy, horizon.as_ref())).collect();
        let scores: Vec<f64> = played.iter().zip(&day.plans).map(|(p, plan)| p.score(plan.target)).collect();
        let mean_score = mean(scores.iter().copied());
        let best_constant = mean(day.plans.iter().map(best_constant));
        let ratio = |p: &Played, plan: &DayPlan| if p.value > 0.0 { p.spent / p.value / plan.target } else { 0.0 };
        DayFigures {
            day: day.name.clone(),
            mean_score,
            spend_ratio: mean(played.iter().zip(&day.plans).map(|(p, plan)| p.spent / plan.budget)),
            cpa_ratio: mean(played.iter().zip(&day.plans).map(|(p, plan)| ratio(p, plan))),
            best_constant,
            share_of_best_constant: mean_score / best_constant.max(1e-12),
            scores,
        }
    });
    Ok(figures.collect())
}

/// What the learned days teach. Of the judged days only budgets and targets are read, which a bidder knows beforehand.
fn learned(learn: &[&Day], judge: &[&Day]) -> anyhow::Result<Horizon> {
    let plans = || learn.iter().chain(judge).flat_map(|day| &day.plans);
    let low = plans().map(|plan| plan.target).fold(f64::INFINITY, f64::min);
    let high = plans().map(|plan| plan.target).fold(0.0, f64::max);
    let budget = plans().map(|plan| plan.budget).fold(0.0, f64::max);
    let grid = Grid::between(low * 0.28, high * 3.0);
    let path = |plan: &DayPlan| DayPath { ticks: plan.ticks.iter().map(|tick| TickPath::of(tick, &grid)).collect() };
    let days = learn.iter().map(|day| day.plans.iter().map(path).collect()).collect();
    Horizon::learn(days, grid, budget).map_err(anyhow::Error::msg)
}

/// Plays a day. `choose` is asked before each tick with the tick's values and the money left, and told the costs after it.
fn play(plan: &DayPlan, mut choose: impl FnMut(usize, &[f64], f64, Option<&[f64]>) -> f64) -> Played {
    let mut played = Played::default();
    let mut costs: Vec<f64> = Vec::new();
    for (tick, auctions) in plan.ticks.iter().enumerate() {
        let values: Vec<f64> = auctions.iter().map(|auction| auction.0).collect();
        let left = plan.budget - played.spent;
        let multiplier = choose(tick, &values, left, (tick > 0).then_some(&costs));
        for &(value, cost) in auctions {
            if multiplier * value >= cost {
                if played.spent + cost > plan.budget {
                    // At the budget the tick is over.
                    break;
                }
                played.spent += cost;
                played.value += value;
            }
        }
        costs = auctions.iter().map(|auction| auction.1).collect();
    }
    played
}

fn log_mean(numbers: &[f64]) -> f64 {
    mean(numbers.iter().copied()).max(1e-12).ln()
}

#[expect(clippy::cast_precision_loss, reason = "counts of auctions")]
fn play_policy(plan: &DayPlan, policy: DayPolicy, horizon: Option<&Horizon>) -> Played {
    let ticks = plan.ticks.len();
    match (policy, horizon) {
        (DayPolicy::Mpc | DayPolicy::Forecast, Some(horizon)) => {
            let mut planner = Planner::new(horizon, LIMIT * plan.target);
            play(plan, |tick, values, left, costs| {
                if let Some(costs) = costs {
                    planner.see(log_mean(costs));
                }
                let levels = (log_mean(values), (values.len().max(1) as f64).ln());
                if policy == DayPolicy::Mpc {
                    planner.multiplier(tick, levels, left)
                } else {
                    planner.forecast_multiplier(tick, levels, left)
                }
            })
        }
        (DayPolicy::Dual, _) => {
            let (mut multiplier, mut before) = (plan.target, plan.budget);
            play(plan, |tick, _, left, costs| {
                if costs.is_some() {
                    let wanted = before / (ticks - tick + 1) as f64;
                    let error = ((wanted - (before - left)) / wanted.max(1e-9)).clamp(-1.0, 1.0);
                    multiplier = (multiplier * (0.1 * error).exp()).min(LIMIT * plan.target);
                }
                before = left;
                multiplier
            })
        }
        _ => play(plan, |_, _, _, _| plan.target),
    }
}

/// Score of the best constant multiplier, by a grid of 1% steps.
fn best_constant(plan: &DayPlan) -> f64 {
    let steps = -150..=150;
    steps
        .map(|i| (0.01 * f64::from(i)).exp() * plan.target)
        .fold(0.0, |best, m| f64::max(best, play(plan, |_, _, _, _| m).score(plan.target)))
}

fn read_day(path: &Path) -> anyhow::Result<Day> {
    let arrays = npz::read(path)?;
    let get = |name: &str| arrays.get(name).with_context(|| format!("{} has no array `{name}`", path.display()));
    let (value, cost, tick) = (get("value")?, get("least_winning_cost")?, get("tick")?);
    let (budget, target) = (get("budget")?, get("cpa_target")?);
    let (auctions, plans) = (tick.data.len(), budget.data.len());
    ensure!(
        value.shape == [auctions, plans] && cost.data.len() == auctions && target.data.len() == plans && auctions > 0,
        "{}: the arrays' shapes do not match",
        path.display()
    );
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a tick's number; `as` saturates")]
    let tick_of: Vec<usize> = tick.data.iter().map(|&t| t as usize).collect();
    let ticks = tick_of.iter().max().map_or(0, |last| last + 1);
    ensure!(ticks <= TICKS_MAX, "{}: more than {TICKS_MAX} ticks", path.display());
    let plans = (0..plans)
        .map(|plan| {
            let mut by_tick = vec![Vec::new(); ticks];
            for (auction, &tick) in tick_of.iter().enumerate() {
                by_tick[tick].push((value.data[auction * budget.data.len() + plan], cost.data[auction]));
            }
            DayPlan { budget: budget.data[plan], target: target.data[plan], ticks: by_tick }
        })
        .collect();
    let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Day { name, plans })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(day: u32) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bidding/auction-days");
        root.join(format!("day-{day}.npz"))
    }

    #[test]
    fn learnt_on_five_real_days_it_reaches_the_bound_on_the_sixth_and_no_budget_is_broken() {
        let Ok(days) = (0..6).map(|day| read_day(&shared(day))).collect::<Result<Vec<_>, _>>() else {
            println!("skipped: ../shared is absent");
            return;
        };
        let (learn, judge): (Vec<&Day>, Vec<&Day>) = (days[..5].iter().collect(), vec![&days[5]]);
        let figures = judge_days(&learn, &judge, DayPolicy::Mpc).unwrap().remove(0);
        assert!(figures.share_of_best_constant >= 0.93, "{}", figures.share_of_best_constant);
        assert!(figures.spend_ratio <= 1.0);
        let fixed = judge_days(&learn, &judge, DayPolicy::Fixed).unwrap().remove(0);
        assert!((fixed.mean_score - 7.18).abs() < 0.01, "published for the same rules: 7.18");
    }

    #[test]
    fn a_policy_sees_no_cost_before_its_tick_is_over() {
        let ticks = vec![vec![(1.0, 5.0)], vec![(1.0, 6.0)], vec![(1.0, 7.0)]];
        let plan = DayPlan { budget: 100.0, target: 10.0, ticks };
        let mut told = Vec::new();
        play(&plan, |_, _, _, costs| {
            told.push(costs.map(<[f64]>::to_vec));
            1.0
        });
        assert_eq!(told, [None, Some(vec![5.0]), Some(vec![6.0])]);
    }
}
