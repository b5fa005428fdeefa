//! The creative stage's model on public problems: which of 200 composed creatives to show, and the mushroom bandit.

mod composed;
mod mushroom;

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Judges the creative stage's model: what its choices earn against the best choice in hindsight.
#[derive(Args)]
#[command(
    after_help = "Example:\n  longbow-bench creative composed ../shared/data/creative/ctr_online.txt --json\n\nNo command shows the model anything but outcomes of what it chose."
)]
pub(crate) struct CreativeArgs {
    #[command(subcommand)]
    command: CreativeCommand,
}

#[derive(Subcommand)]
enum CreativeCommand {
    /// Composed creatives with known click rates: lines of id, elements, click rate. Clicks are told in batches
    Composed(ComposedArgs),
    /// The mushroom bandit: eat or not, from what it looks like
    Mushroom(MushroomArgs),
}

#[derive(Args)]
struct ComposedArgs {
    /// Lines of id, element numbers, click rate
    file: PathBuf,
    /// Impressions of a run
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    impressions: u64,
    /// Impressions between two reports of clicks
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    batch: u64,
    /// Tell impressions only with the clicks of their batch, not at once
    #[arg(long)]
    impressions_late: bool,
    /// Runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct MushroomArgs {
    /// The data set as published: class, then one letter for each of 22 features
    file: PathBuf,
    /// Contexts of a run
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    contexts: u32,
    /// Runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &CreativeArgs) -> anyhow::Result<()> {
    match &args.command {
        CreativeCommand::Composed(args) => composed::run(args),
        CreativeCommand::Mushroom(args) => mushroom::run(args),
    }
}

/// Mean and standard deviation.
#[expect(clippy::cast_precision_loss, reason = "a handful of runs")]
fn mean_and_deviation(figures: &[f64]) -> (f64, f64) {
    let count = figures.len().max(1) as f64;
    let mean = figures.iter().sum::<f64>() / count;
    let variance = figures.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}
