//! `auction market`: runs a policy through a scenario over several seeds and says what it brought.

use super::chart;
use super::market::{self, Bidder, MarketOptions, PlanResult, Scenario};
use crate::out;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use longbow::auction::pace::rl::RlPolicy;
use longbow::plans::PolicyKind;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A tick is back on its path when the median plan's spend is this near to what was forecast of it.
const ON_PATH: f64 = 0.1;

#[derive(Args)]
pub(super) struct MarketArgs {
    /// The policy under test
    #[arg(long, value_enum, default_value_t = PolicyChoice::Mpc)]
    policy: PolicyChoice,
    /// What happens in the market
    #[arg(long, value_enum, default_value_t = Scenario::Forecast)]
    scenario: Scenario,
    /// File of the trained policy (for mpc+rl)
    #[arg(long)]
    policy_file: Option<PathBuf>,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    seeds: u32,
    /// Plans
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    plans: u32,
    /// Control ticks in the day
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    ticks: u32,
    /// Auctions for each plan in a tick, on average
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    auctions: u32,
    /// Days before the judged one
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=30))]
    days_before: u32,
    /// Predictions are this factor times the truth (1 is calibrated)
    #[arg(long, default_value_t = 1.0)]
    bias: f64,
    /// Draws spend and return over the day of the first seed (SVG)
    #[arg(long)]
    plot: Option<PathBuf>,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyChoice {
    /// Bid the predicted value
    Fixed,
    /// PID on spend and return
    Pid,
    /// Model predictive control
    Mpc,
    /// The same, moved by a trained policy
    #[value(name = "mpc+rl")]
    MpcRl,
    /// Dual descent on the budget
    Dual,
    /// The best constant multiplier of the day before
    Linear,
    /// The best constant multiplier in hindsight
    Hindsight,
}

/// The figures of a run, means over seeds unless they are counts.
#[derive(Serialize)]
struct Figures {
    policy: String,
    scenario: String,
    seeds: u32,
    plans: usize,
    /// Value over what the best constant multiplier in hindsight gets, all plans of a seed together.
    hindsight_share: f64,
    /// Lowest and highest of the seeds.
    hindsight_share_range: [f64; 2],
    /// The same where a plan below its return target is marked down by (return / target) squared.
    hindsight_share_marked: f64,
    spend_ratio: f64,
    /// Mean over plans of expected value / spend / target.
    return_ratio: f64,
    /// Share of plans whose expected return misses the target by more than 5%.
    missed: f64,
    /// The same by the conversions that came, luck included.
    missed_with_luck: f64,
    /// The same of the best constant multiplier in hindsight: what the luck of so few conversions costs whoever knows everything else.
    missed_with_luck_in_hindsight: f64,
    /// Share of plans for which that multiplier misses by more than 5% in over 2% of cases: no multiplier that earns as much can promise
    /// the target.
    beyond_promise: f64,
    /// Plans that spent more than their budget: always 0.
    over_budget: usize,
    /// Shock only: ticks until spend is back within 10% of its forecast for the median plan; mean over seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_ticks: Option<f64>,
    /// First price only: what shading saves of the spend for as many wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    shading_saves: Option<f64>,
    /// Channels only: the share of hindsight of the same policy when it is not told the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    hindsight_share_untold: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &MarketArgs) -> anyhow::Result<()> {
    ensure!(args.bias > 0.0 && args.bias <= 100.0, "--bias must be above 0 and at most 100");
    let bidder = bidder(args)?;
    let mut all = Vec::new();
    for seed in args.seed..args.seed + u64::from(args.seeds) {
        all.push(market::run(&options(args, seed), &bidder)?);
    }
    out::table(
        &["plan", "budget", "target", "spent/budget", "return/target", "with luck", "value", "hindsight", "share", "x"],
        &all[0].iter().map(row).collect::<Vec<_>>(),
    );
    let figures = figures(args, &all)?;
    out::line(format!(
        "{} seeds of {} plans: {:.3} of the value of the best constant ({:.3} marked down for missed targets), spent {:.3} of budget, \
         returned {:.3} of target, {:.3} of plans missed it by more than 5%, {} over budget",
        figures.seeds,
        figures.plans,
        figures.hindsight_share,
        figures.hindsight_share_marked,
        figures.spend_ratio,
        figures.return_ratio,
        figures.missed,
        figures.over_budget
    ));
    if let Some(path) = &args.plot {
        chart::day(path, &format!("{} on {}", figures.policy, figures.scenario), &all[0])?;
    }
    out::json(args.json, &figures)
}

fn options(args: &MarketArgs, seed: u64) -> MarketOptions {
    MarketOptions {
        scenario: args.scenario,
        plans: args.plans,
        ticks: args.ticks,
        auctions_per_tick: args.auctions,
        days_before: args.days_before,
        prediction_bias: args.bias,
        ..super::market_options(seed)
    }
}

fn bidder(args: &MarketArgs) -> anyhow::Result<Bidder> {
    let learned = match (&args.policy_file, args.policy) {
        (Some(path), _) => Some(Arc::new(read_policy(path)?)),
        (None, PolicyChoice::MpcRl) => anyhow::bail!("mpc+rl needs --policy-file; make one with auction train-policy"),
        (None, _) => None,
    };
    Ok(match args.policy {
        PolicyChoice::Fixed => Bidder::Server(PolicyKind::Fixed, None),
        PolicyChoice::Pid => Bidder::Server(PolicyKind::Pid, None),
        PolicyChoice::Mpc => Bidder::Server(PolicyKind::Mpc, None),
        PolicyChoice::MpcRl => Bidder::Server(PolicyKind::MpcRl, learned),
        PolicyChoice::Dual => Bidder::Dual,
        PolicyChoice::Linear => Bidder::Linear,
        PolicyChoice::Hindsight => Bidder::Hindsight,
    })
}

fn read_policy(path: &Path) -> anyhow::Result<RlPolicy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let policy: RlPolicy = serde_json::from_str(&text).with_context(|| format!("{} is no policy", path.display()))?;
    policy.check().map_err(|fault| anyhow::anyhow!("{}: {fault}", path.display()))
}

fn row(result: &PlanResult) -> Vec<String> {
    vec![
        result.name.clone(),
        format!("{:.2}", result.budget),
        format!("{:.2}", result.target),
        format!("{:.3}", result.spent / result.budget),
        format!("{:.3}", result.expected_ratio()),
        format!("{:.3}", result.roi_ratio()),
        format!("{:.0}", result.value),
        format!("{:.0}", result.hindsight_value),
        format!("{:.3}", result.value / result.hindsight_value.max(1e-9)),
        format!("{:.2}", result.multiplier),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts of plans and seeds")]
fn figures(args: &MarketArgs, all: &[Vec<PlanResult>]) -> anyhow::Result<Figures> {
    let plans: Vec<&PlanResult> = all.iter().flatten().collect();
    let mean = |of: &dyn Fn(&PlanResult) -> f64| plans.iter().map(|plan| of(plan)).sum::<f64>() / plans.len() as f64;
    let share = |of: &dyn Fn(&PlanResult) -> f64| -> Vec<f64> {
        let one = |seed: &Vec<PlanResult>| {
            seed.iter().map(of).sum::<f64>() / seed.iter().map(|plan| plan.hindsight_value).sum::<f64>().max(1e-9)
        };
        all.iter().map(one).collect()
    };
    let average = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
    let shares = share(&|plan| plan.value);
    let flag = |yes: bool| f64::from(u8::from(yes));
    let shock = args.scenario == Scenario::Shock && plans.iter().any(|p| p.path.iter().any(|t| t.surprise.is_finite()));
    Ok(Figures {
        policy: args.policy.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
        scenario: args.scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
        seeds: args.seeds,
        plans: all[0].len(),
        hindsight_share: average(&shares),
        hindsight_share_range: [
            shares.iter().copied().fold(f64::INFINITY, f64::min),
            shares.iter().copied().fold(0.0, f64::max),
        ],
        hindsight_share_marked: average(&share(&|plan| plan.value * plan.expected_ratio().min(1.0).powi(2))),
        spend_ratio: mean(&|plan| plan.spent / plan.budget),
        return_ratio: mean(&PlanResult::expected_ratio),
        missed: mean(&|plan| flag(plan.expected_ratio() < 0.95)),
        missed_with_luck: mean(&|plan| flag(plan.roi_ratio() < 0.95)),
        missed_with_luck_in_hindsight: mean(&|plan| plan.hindsight_miss),
        beyond_promise: mean(&|plan| flag(plan.hindsight_miss > 0.02)),
        over_budget: plans.iter().filter(|plan| plan.spent > plan.budget).count(),
        recovery_ticks: shock.then(|| average(&all.iter().map(|seed| recovery(seed)).collect::<Vec<_>>())),
        shading_saves: if args.scenario == Scenario::FirstPrice { Some(shading_saves(args)?) } else { None },
        hindsight_share_untold: if args.scenario == Scenario::Channels { Some(untold(args)?) } else { None },
    })
}

/// Ticks after the shock until the median plan spends what was forecast of the tick.
#[expect(clippy::cast_precision_loss, reason = "ticks of a day")]
fn recovery(plans: &[PlanResult]) -> f64 {
    let ticks = plans[0].path.len();
    let from = ticks.div_ceil(2);
    let off = |tick: usize| {
        let mut surprises: Vec<f64> = plans.iter().map(|p| p.path[tick].surprise).filter(|s| s.is_finite()).collect();
        surprises.sort_by(f64::total_cmp);
        surprises.get(surprises.len() / 2).is_none_or(|median| median.abs() > ON_PATH)
    };
    (from..ticks).take_while(|&tick| off(tick)).count() as f64
}

/// Share of hindsight when every impression is booked on one channel.
#[expect(clippy::cast_precision_loss, reason = "a count of seeds")]
fn untold(args: &MarketArgs) -> anyhow::Result<f64> {
    let (bidder, seeds) = (bidder(args)?, args.seed..args.seed + u64::from(args.seeds));
    let mut sum = 0.0;
    for seed in seeds.clone() {
        let plans = market::run(&MarketOptions { channels_told: false, ..options(args, seed) }, &bidder)?;
        let total = |of: fn(&PlanResult) -> f64| plans.iter().map(of).sum::<f64>();
        sum += total(|plan| plan.value) / total(|plan| plan.hindsight_value).max(1e-9);
    }
    Ok(sum / seeds.count().max(1) as f64)
}

/// What shading saves: the spend of plain bids at the value, against shaded bids whose multiplier is raised until they win as
/// many impressions.
fn shading_saves(args: &MarketArgs) -> anyhow::Result<f64> {
    let (mut plain, mut shaded) = (0.0, 0.0);
    for seed in args.seed..args.seed + u64::from(args.seeds.min(10)) {
        let options = MarketOptions { plans: args.plans.min(8), ..options(args, seed) };
        let total = |shaded: bool, multiplier: f64| {
            let results = market::run(&MarketOptions { shaded, ..options.clone() }, &Bidder::Constant(multiplier))?;
            let wins: u64 = results.iter().map(|plan| plan.wins).sum();
            anyhow::Ok((wins, results.iter().map(|plan| plan.spent).sum::<f64>()))
        };
        let (wins, spent) = total(false, 1.0)?;
        let (mut low, mut high) = (0.0, 3.0);
        for _ in 0..8 {
            let middle = f64::midpoint(low, high);
            if total(true, f64::exp(middle))?.0 >= wins { high = middle } else { low = middle }
        }
        plain += spent;
        shaded += total(true, f64::exp(high))?.1;
    }
    Ok(1.0 - shaded / plain)
}
