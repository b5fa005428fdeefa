//! Bidding under a budget and a return target, against markets that answer back.

mod market;

use crate::out;
use anyhow::ensure;
use clap::{Args, Subcommand, ValueEnum};
use longbow::plans::PolicyKind;
use market::{MarketOptions, PlanResult};
use serde::Serialize;

/// Judges the bidding policies: what a budget brings, and whether budget and return target hold.
#[derive(Args)]
#[command(
    after_help = "Example:\n  longbow-bench auction market --policy pid --seed 1 --json\n\nRuns plans of many budgets and targets through a day of second-price auctions and compares the value they get\nwith the best constant multiplier in hindsight."
)]
pub(crate) struct AuctionArgs {
    #[command(subcommand)]
    command: AuctionCommand,
}

#[derive(Subcommand)]
enum AuctionCommand {
    /// A seeded synthetic market: prices move over the day, conversions are rare and late
    Market(MarketArgs),
}

#[derive(Args)]
struct MarketArgs {
    /// The policy under test
    #[arg(long, value_enum, default_value_t = PolicyChoice::Pid)]
    policy: PolicyChoice,
    /// Seed of the market
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plans
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    plans: u32,
    /// Control ticks in the day
    #[arg(long, default_value_t = 288, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    ticks: u32,
    /// Auctions for each plan in a tick, on average
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    auctions: u32,
    /// Predictions are this factor times the truth (1 is calibrated)
    #[arg(long, default_value_t = 1.0)]
    bias: f64,
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
}

/// The figures of a run.
#[derive(Serialize)]
struct Figures {
    policy: &'static str,
    seed: u64,
    plans: usize,
    /// Expected order value bought, in currency units, all plans together.
    value: f64,
    /// Mean over plans of spend / budget.
    spend_ratio: f64,
    /// Mean over plans of (earned / spent), from the conversions that came.
    roi_ratio: f64,
    /// Plans whose realised return stays below 95% of the target.
    below_target: usize,
    /// Plans that spent more than their budget: always 0.
    over_budget: usize,
    /// Value as a share of what the best constant multiplier in hindsight gets under the same rules.
    hindsight_share: f64,
    /// The same where a plan below its return target is marked down by (return / target) squared.
    hindsight_share_marked: f64,
}

/// Runs the command.
pub(crate) fn run(args: &AuctionArgs) -> anyhow::Result<()> {
    match &args.command {
        AuctionCommand::Market(args) => run_market(args),
    }
}

fn run_market(args: &MarketArgs) -> anyhow::Result<()> {
    ensure!(args.bias > 0.0 && args.bias <= 100.0, "--bias must be above 0 and at most 100");
    let options = MarketOptions {
        policy: match args.policy {
            PolicyChoice::Fixed => PolicyKind::Fixed,
            PolicyChoice::Pid => PolicyKind::Pid,
        },
        seed: args.seed,
        plans: args.plans,
        ticks: args.ticks,
        auctions_per_tick: args.auctions,
        prediction_bias: args.bias,
    };
    let results = market::run(&options)?;
    let rows: Vec<Vec<String>> = results.iter().map(row).collect();
    out::table(
        &["plan", "budget", "target", "spent/budget", "earned/spent", "value", "hindsight", "share", "multiplier"],
        &rows,
    );
    let figures = figures(args, &results);
    out::line(format!(
        "{} plans: spent {:.3} of budget, earned {:.3} of spend, {} below target, {:.3} of the value of the best constant ({:.3} marked down for missed targets)",
        figures.plans,
        figures.spend_ratio,
        figures.roi_ratio,
        figures.below_target,
        figures.hindsight_share,
        figures.hindsight_share_marked
    ));
    out::json(args.json, &figures)
}

fn row(result: &PlanResult) -> Vec<String> {
    vec![
        result.name.clone(),
        format!("{:.2}", result.budget),
        format!("{:.2}", result.target),
        format!("{:.3}", result.spent / result.budget),
        format!("{:.3}", result.roi_ratio()),
        format!("{:.0}", result.value),
        format!("{:.0}", result.hindsight_value),
        format!("{:.3}", result.value / result.hindsight_value.max(1e-9)),
        format!("{:.2}", result.last_multiplier),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts of plans")]
fn figures(args: &MarketArgs, results: &[PlanResult]) -> Figures {
    let mean = |of: &dyn Fn(&PlanResult) -> f64| results.iter().map(of).sum::<f64>() / results.len() as f64;
    let hindsight: f64 = results.iter().map(|r| r.hindsight_value).sum::<f64>().max(1e-9);
    let marked: f64 = results.iter().map(|r| r.value * r.roi_ratio().min(1.0).powi(2)).sum();
    Figures {
        policy: match args.policy {
            PolicyChoice::Fixed => "fixed",
            PolicyChoice::Pid => "pid",
        },
        seed: args.seed,
        plans: results.len(),
        value: results.iter().map(|r| r.value).sum(),
        spend_ratio: mean(&|r| r.spent / r.budget),
        roi_ratio: mean(&PlanResult::roi_ratio),
        below_target: results.iter().filter(|r| r.roi_ratio() < 0.95).count(),
        over_budget: results.iter().filter(|r| r.spent > r.budget).count(),
        hindsight_share: results.iter().map(|r| r.value).sum::<f64>() / hindsight,
        hindsight_share_marked: marked / hindsight,
    }
}
