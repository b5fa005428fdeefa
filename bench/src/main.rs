//! `longbow-bench`: load, replay and kernel benches. Every command prints a table; with `--json` the last line is one
//! JSON object with the same figures.

mod attention;
mod auction;
mod client;
mod clock;
mod creative;
mod diagnose;
mod encoder;
mod index;
mod ipinyou;
mod latency;
mod load;
mod out;
mod plot;
mod reload;
mod replay;
mod soak;
mod stall;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Measures Longbow: its request path under load, recorded traffic, and its parts alone.
#[derive(Parser)]
#[command(
    name = "longbow-bench",
    version,
    about,
    after_help = "Every command takes --json and then ends with one line of its figures."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bidding policies against a synthetic market: value, budget, return
    Auction(auction::AuctionArgs),
    /// The creative stage's model on public problems: composed creatives, mushrooms
    Creative(creative::CreativeArgs),
    /// Open-loop load (Poisson arrivals, latency from the scheduled start), one rate or a sweep to the knee
    Load(load::LoadArgs),
    /// Planted faults: does "why did my return change?" name the cause, and nothing else?
    Diagnose(diagnose::DiagnoseArgs),
    /// Retrieval: recall and latency of each kind of index under filters, and while items change
    Index(index::IndexArgs),
    /// Attention kernels: a whole history, candidates, an append, beside a matrix product
    Attention(attention::AttentionArgs),
    /// The whole encoder on one user: cold, warm, against the length, and its allocations
    Encoder(encoder::EncoderArgs),
    /// Single requests of users with long histories, cold and warm, by stage
    Latency(latency::LatencyArgs),
    /// Sends recorded requests (JSONL, or bid log lines) and counts the answers
    Replay(replay::ReplayArgs),
    /// Requests with and without a model reload in progress, in turn
    Reload(reload::ReloadArgs),
    /// Load, events and catalogue changes for a while: does the server's memory stay flat?
    Soak(soak::SoakArgs),
    /// Holds thousands of stalled connections open and measures what that does to good requests
    Stall(stall::StallArgs),
}

fn main() -> ExitCode {
    // The server's printer: a mistake of the user is told in words, without a backtrace whatever the environment says.
    run(Cli::parse().command).map_or_else(
        |error| {
            out::fault(&format!("{error:#}"));
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Auction(args) => auction::run(&args),
        Command::Diagnose(args) => diagnose::run(&args),
        Command::Creative(args) => creative::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Index(args) => index::run(&args),
        Command::Attention(args) => attention::run(&args),
        Command::Encoder(args) => encoder::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Stall(args) => stall::run(&args),
    }
}
