//! Bidding under a budget and a return target: recorded days, a recorded campaign, and a market of our own.

mod chart;
mod days;
mod figures;
mod ipinyou;
mod market;
mod npz;
mod report;
mod served;
mod train;
mod value_iteration;

use clap::{Args, Subcommand, ValueEnum};

/// Judges the bidding policies: what a budget brings, and whether budget and return target hold.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  longbow-bench auction days --learn day-0.npz day-1.npz day-2.npz --judge day-5.npz --policy mpc --json\n  longbow-bench auction ipinyou ipinyou-2997 --json\n  longbow-bench auction market --policy mpc --scenario shock --json\n  longbow-bench auction market --policy mpc --market large --scenario all --json\n  longbow-bench auction market --policy all --scenario all --plot bench/pacing.svg --json"
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
        market: market::MarketKind::Base,
        scenario: market::Scenario::Forecast,
        seed,
        plans: 20,
        ticks: 96,
        auctions_per_tick: 300,
        days_before: 2,
        prediction_bias: 1.0,
    }
}

/// Some choices of an option.
#[derive(Clone, Debug)]
struct Several<T>(Vec<T>);

/// Reads names with commas between them, or `all`.
fn several<T: ValueEnum>(text: &str) -> Result<Several<T>, String> {
    if text == "all" {
        return Ok(Several(T::value_variants().to_vec()));
    }
    let one = |name: &str| {
        T::from_str(name, false).map_err(|_| {
            let names: Vec<String> = T::value_variants().iter().map(name_of).collect();
            format!("`{name}` is none of {}, all", names.join(", "))
        })
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(Several)
}

/// What a choice is called on the command line.
fn name_of<T: ValueEnum>(choice: &T) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_choices_are_read_and_a_wrong_one_is_named() {
        let names = |text| several::<market::Scenario>(text).map(|some| some.0.iter().map(name_of).collect::<Vec<_>>());
        assert_eq!(names("shock,first-price").unwrap(), ["shock", "first-price"]);
        assert_eq!(names("all").unwrap().len(), 7);
        let fault = names("shock,storm").unwrap_err();
        assert!(fault.contains("`storm`") && fault.contains("drift"), "{fault}");
    }
}
