//! The command line: arguments to settings to a running command, and its exit code.
//!
//! Exit codes: 0 done, 1 the command found a fault (a golden file over the tolerance, a broken machine, a server that
//! could not start), 64 wrong arguments or settings.

pub mod bundle;
pub mod client;
mod dataset;
pub mod doctor;
mod eval;
pub mod golden;
mod import;
pub mod models;
pub mod out;
pub mod serve;

pub use serve::ServeArgs;

use crate::runtime::EXIT_USAGE;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// A latency-focused ranking and bidding server: bid requests in, priced and dressed bids out.
#[derive(Debug, Parser)]
#[command(
    name = "longbow",
    version,
    about,
    after_help = "Start with `longbow demo`. With --json the last line printed is one JSON object with the figures."
)]
pub struct Cli {
    /// Print the figures as one JSON object on the last line
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a marketplace of items, plans, creatives and users in an empty data directory, and serves it
    #[command(after_help = serve::DEMO_EXAMPLE)]
    Demo(ServeArgs),
    /// Serves a data directory that holds a catalogue and a model
    #[command(after_help = serve::SERVE_EXAMPLE)]
    Serve(ServeArgs),
    /// Checks encoders against golden files: model, inputs and the outputs of the public reference code
    #[command(after_help = golden::EXAMPLE)]
    Golden(golden::GoldenArgs),
    /// Reads histories from a file of a public data set, or of event lines, and hands them to a server
    #[command(after_help = crate::import::EXAMPLE)]
    Import(crate::import::ImportArgs),
    /// Measures the quality of a running server's rankings and predictions by users whose next events and clicks are known
    #[command(after_help = crate::eval::EXAMPLE)]
    Eval(crate::eval::EvalArgs),
    /// Writes users of the demo world to a file: histories, what came next, and impressions with what became of them
    #[command(after_help = crate::demo::DATASET_EXAMPLE)]
    Dataset(crate::demo::WorldArgs),
    /// Makes a bundle of a bare model file: hashes, features, a self-check
    #[command(after_help = bundle::EXAMPLE)]
    Bundle(bundle::BundleArgs),
    /// Lists the models of a running server, has it load another one while it serves, or go back to the one before
    #[command(after_help = models::EXAMPLE)]
    Models(models::ModelsArgs),
    /// Says what this machine has for the server, what it lacks, and how to mend that
    #[command(after_help = doctor::EXAMPLE)]
    Doctor(ServeArgs),
    /// Prints the effective settings as a file that can be read back, secrets left out
    #[command(after_help = serve::CONFIG_EXAMPLE)]
    Config(ServeArgs),
}

/// Runs the command line of this process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => run(&cli),
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to do if the terminal is gone.
            let _ = error.print();
            if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) }
        }
    }
}

fn run(cli: &Cli) -> ExitCode {
    let result = match &cli.command {
        Command::Demo(args) => return serve::demo(args, cli.json),
        Command::Serve(args) => return serve::serve(args, cli.json),
        Command::Eval(args) => eval::run(args, cli.json),
        Command::Dataset(args) => dataset::run(args, cli.json),
        Command::Golden(args) => golden::run(args, cli.json),
        Command::Import(args) => import::run(args, cli.json),
        Command::Bundle(args) => bundle::run(args, cli.json),
        Command::Models(args) => models::run(args, cli.json),
        Command::Doctor(args) => match args.settings() {
            Ok(config) => doctor::run(&config, cli.json),
            Err(code) => return code,
        },
        Command::Config(args) => match args.settings() {
            Ok(config) => serve::show(&config, cli.json),
            Err(code) => return code,
        },
    };
    result.unwrap_or_else(|error| {
        out::fault(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}
