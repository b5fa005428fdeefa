//! `auction market`: runs policies through scenarios over several seeds and says what each brought.

use super::chart::{self, Bar, Way};
use super::figures::{self, Figures};
use super::market::{self, Bidder, MarketKind, MarketOptions, PlanResult, Scenario, Told, World};
use super::{Several, name_of, several};
use crate::out;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use longbow::auction::pace::rl::RlPolicy;
use longbow::plans::PolicyKind;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Plans and seeds that shading is measured on, at most: it takes ten runs each.
const SHADING_PLANS: u32 = 8;
const SHADING_SEEDS: u32 = 10;

#[derive(Args)]
pub(super) struct MarketArgs {
    /// Policies under test, with commas between them, or `all`
    #[arg(long, value_parser = several::<PolicyChoice>, default_value = "mpc")]
    policy: Several<PolicyChoice>,
    /// What happens in the market: scenarios with commas between them, or `all`
    #[arg(long, value_parser = several::<Scenario>, default_value = "forecast")]
    scenario: Several<Scenario>,
    /// The market's constants
    #[arg(long, value_enum, default_value_t = MarketKind::Base)]
    market: MarketKind,
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
    /// Draws the share of the optimum, and spend and return over the day of the first seed (SVG)
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
    /// Dual descent on the budget
    Dual,
    /// The best constant multiplier of the day before
    Linear,
    /// Value iteration over the prices of the day before
    Rlb,
    /// Model predictive control
    Mpc,
    /// The same, moved by a trained policy
    #[value(name = "mpc+rl")]
    MpcRl,
    /// The best constant multiplier in hindsight
    Hindsight,
}

/// What several runs print at their end.
#[derive(Serialize)]
struct Rows {
    rows: Vec<Figures>,
}

/// Runs the command.
pub(super) fn run(args: &MarketArgs) -> anyhow::Result<()> {
    ensure!(args.bias > 0.0 && args.bias <= 100.0, "--bias must be above 0 and at most 100");
    let mut policies = args.policy.0.clone();
    if policies.len() > 1 && args.policy_file.is_none() {
        policies.retain(|policy| *policy != PolicyChoice::MpcRl); // `all` is what can run
    }
    let bidders: Vec<(PolicyChoice, Bidder)> =
        policies.iter().map(|&policy| Ok((policy, bidder(args, policy)?))).collect::<anyhow::Result<_>>()?;
    let (mut rows, mut days) = (Vec::new(), Vec::new());
    for &scenario in &args.scenario.0 {
        let all = play(args, scenario, &bidders)?;
        for ((policy, bidder), results) in bidders.iter().zip(&all) {
            rows.push(row(args, scenario, (*policy, bidder), results)?);
        }
        if days.is_empty() || scenario == Scenario::Shock {
            let first = all.into_iter().map(|mut seeds| seeds.swap_remove(0));
            let names = policies.iter().map(name_of);
            days = names.zip(first).map(|(name, plans)| Way { name, plans, scenario: name_of(&scenario) }).collect();
        }
    }
    if let [way] = &days[..] {
        out::table(
            &[
                "plan",
                "budget",
                "target",
                "spent/budget",
                "return/target",
                "with luck",
                "value",
                "hindsight",
                "share",
                "x",
            ],
            &way.plans.iter().map(plan_row).collect::<Vec<_>>(),
        );
    }
    out::table(
        &["scenario", "policy", "share", "marked", "spent", "return", "missed", "with luck", "results", "over", ""],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    );
    if let Some(path) = &args.plot {
        let bar =
            |row: &Figures| Bar { group: row.scenario.clone(), name: row.policy.clone(), height: row.hindsight_share };
        chart::market(path, &rows.iter().map(bar).collect::<Vec<_>>(), &days)?;
    }
    match &rows[..] {
        [one] => out::json(args.json, one),
        _ => out::json(args.json, &Rows { rows }),
    }
}

/// Every bidder's results, seed by seed, in the same worlds.
fn play(
    args: &MarketArgs,
    scenario: Scenario,
    bidders: &[(PolicyChoice, Bidder)],
) -> anyhow::Result<Vec<Vec<Vec<PlanResult>>>> {
    let mut all = vec![Vec::new(); bidders.len()];
    for seed in seeds(args) {
        let world = World::new(&options(args, scenario, seed))?;
        for ((_, bidder), results) in bidders.iter().zip(&mut all) {
            results.push(market::run(&world, bidder, Told::default())?);
        }
        out::progress(format!("{}: seed {seed}", name_of(&scenario)));
    }
    Ok(all)
}

fn seeds(args: &MarketArgs) -> std::ops::Range<u64> {
    args.seed..args.seed + u64::from(args.seeds)
}

fn options(args: &MarketArgs, scenario: Scenario, seed: u64) -> MarketOptions {
    MarketOptions {
        market: args.market,
        scenario,
        plans: args.plans,
        ticks: args.ticks,
        auctions_per_tick: args.auctions,
        days_before: args.days_before,
        prediction_bias: args.bias,
        ..super::market_options(seed)
    }
}

fn bidder(args: &MarketArgs, policy: PolicyChoice) -> anyhow::Result<Bidder> {
    let learned = match (&args.policy_file, policy) {
        (Some(path), PolicyChoice::MpcRl) => Some(Arc::new(read_policy(path)?)),
        (None, PolicyChoice::MpcRl) => anyhow::bail!("mpc+rl needs --policy-file; make one with auction train-policy"),
        _ => None,
    };
    Ok(match policy {
        PolicyChoice::Fixed => Bidder::Server(PolicyKind::Fixed, None),
        PolicyChoice::Pid => Bidder::Server(PolicyKind::Pid, None),
        PolicyChoice::Mpc => Bidder::Server(PolicyKind::Mpc, None),
        PolicyChoice::MpcRl => Bidder::Server(PolicyKind::MpcRl, learned),
        PolicyChoice::Dual => Bidder::Dual,
        PolicyChoice::Linear => Bidder::Linear,
        PolicyChoice::Rlb => Bidder::Rlb,
        PolicyChoice::Hindsight => Bidder::Hindsight,
    })
}

fn read_policy(path: &Path) -> anyhow::Result<RlPolicy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let policy: RlPolicy = serde_json::from_str(&text).with_context(|| format!("{} is no policy", path.display()))?;
    policy.check().map_err(|fault| anyhow::anyhow!("{}: {fault}", path.display()))
}

/// One policy's figures in one scenario. What shading saves and what the channels bring is said of mpc, or of the one policy asked for.
fn row(
    args: &MarketArgs,
    scenario: Scenario,
    (policy, bidder): (PolicyChoice, &Bidder),
    results: &[Vec<PlanResult>],
) -> anyhow::Result<Figures> {
    let more = policy == PolicyChoice::Mpc || args.policy.0.len() == 1;
    Ok(Figures {
        policy: name_of(&policy),
        scenario: name_of(&scenario),
        market: name_of(&args.market),
        seed: args.seed,
        shading_saves: if more && scenario == Scenario::FirstPrice { Some(shading_saves(args)?) } else { None },
        hindsight_share_untold: if more && scenario == Scenario::Channels { Some(untold(args, bidder)?) } else { None },
        ..figures::of(scenario, results)
    })
}

fn cells(row: &Figures) -> Vec<String> {
    let three = |x: f64| format!("{x:.3}");
    let shares = [row.hindsight_share, row.hindsight_share_marked, row.spend_ratio, row.return_ratio, row.missed];
    let more =
        [("back in", row.recovery_ticks), ("shading saves", row.shading_saves), ("untold", row.hindsight_share_untold)];
    let more = more.iter().filter_map(|(name, figure)| figure.map(|figure| format!("{name} {figure:.3}")));
    let mut cells = vec![row.scenario.clone(), row.policy.clone()];
    cells.extend(shares.map(three));
    cells.extend([three(row.missed_with_luck), format!("{:.0}", row.conversions), row.over_budget.to_string()]);
    cells.push(more.collect::<Vec<_>>().join(", "));
    cells
}

fn plan_row(result: &PlanResult) -> Vec<String> {
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

/// Share of hindsight when every impression is booked on one channel.
#[expect(clippy::cast_precision_loss, reason = "a count of seeds")]
fn untold(args: &MarketArgs, bidder: &Bidder) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for seed in seeds(args) {
        let world = World::new(&options(args, Scenario::Channels, seed))?;
        let plans = market::run(&world, bidder, Told { channels: false, ..Told::default() })?;
        sum += figures::share(&plans, &|plan| plan.value);
    }
    Ok(sum / seeds(args).count().max(1) as f64)
}

/// What shading saves: the spend of plain bids at the value, against shaded bids whose multiplier is raised until they win as
/// many impressions.
fn shading_saves(args: &MarketArgs) -> anyhow::Result<f64> {
    let (mut plain, mut shaded) = (0.0, 0.0);
    for seed in seeds(args).take(SHADING_SEEDS as usize) {
        let few = args.plans.min(SHADING_PLANS);
        // The best constant in hindsight is not asked for.
        let world = World::without_best(&MarketOptions { plans: few, ..options(args, Scenario::FirstPrice, seed) })?;
        let total = |shaded: bool, multiplier: f64| {
            let results = market::run(&world, &Bidder::Constant(multiplier), Told { shaded, ..Told::default() })?;
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
