//! Bidding under a budget and a return target: recorded days, a recorded campaign, and a market of our own.

mod chart;
mod days;
mod ipinyou;
mod market;
mod npz;
mod report;
mod train;
mod value_iteration;

use clap::{Args, Subcommand};

/// Judges the bidding policies: what a budget brings, and whether budget and return target hold.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  longbow-bench auction days --learn day-0.npz day-1.npz day-2.npz --judge day-5.npz --policy mpc --json\n  longbow-bench auction ipinyou ipinyou-2997 --json\n  longbow-bench auction market --policy mpc --scenario shock --json"
)]
pub(crate) struct AuctionArgs {
    #[command(subcommand)]
    command: AuctionCommand,
}

#[derive(Subcommand)]
enum AuctionCommand {
    /// Days of a public auction simulator: learn from some, be judged on others
    Days(days::DaysArgs),
    /// A real campaign (iPinYou) by the published rules of 1,000-auction episodes
    Ipinyou(ipinyou::IpinyouArgs),
    /// A seeded synthetic market: prices move over the day, conversions are rare and late
    Market(report::MarketArgs),
    /// Trains the policy that moves the solver's multiplier (mpc+rl) and writes its file
    TrainPolicy(train::TrainArgs),
}

/// Runs the command.
pub(crate) fn run(args: &AuctionArgs) -> anyhow::Result<()> {
    match &args.command {
        AuctionCommand::Days(args) => days::run(args),
        AuctionCommand::Ipinyou(args) => ipinyou::run(args),
        AuctionCommand::Market(args) => report::run(args),
        AuctionCommand::TrainPolicy(args) => train::run(args),
    }
}

/// The market that figures are stated for.
fn market_options(seed: u64) -> market::MarketOptions {
    market::MarketOptions {
        scenario: market::Scenario::Forecast,
        seed,
        plans: 20,
        ticks: 96,
        auctions_per_tick: 300,
        days_before: 2,
        prediction_bias: 1.0,
        shaded: true,
        channels_told: true,
    }
}
