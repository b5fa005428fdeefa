//! The stall command: what thousands of connections that never finish a request do to the latency of good ones.

mod crowd;

use crate::client::Target;
use crate::load::open_loop::{self, Figures, Run};
use crate::load::traffic::{Recipe, Source};
use crate::out;
use anyhow::{Context, bail};
use crowd::Crowd;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// Files of this process beside the stalled connections.
const FILES_KEPT: u64 = 512;
/// Rest between two phases, so that what one leaves behind is not measured in the next.
const REST: Duration = Duration::from_millis(500);

/// Measures good requests before, while and after many stalled connections are open.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  longbow-bench stall --url http://127.0.0.1:8080 --connections 10000 --rate 80 --json\n\n\
    A third of the connections is silent, a third stops in a header, a third stops in a body. Those that the server ends are\n\
    opened again at once. To a loopback server they come from many 127.x addresses."
)]
pub(crate) struct StallArgs {
    /// Server; a machine of your own, as this attacks it
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Stalled connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// Stalled connections from one address
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    per_address: u32,
    /// Good requests a second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds of each phase
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// How often before, during and after follow each other; figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// End with exit code 1 if the 99th percentile grows by more than this factor
    #[arg(long)]
    ratio_max: Option<f64>,
    #[command(flatten)]
    recipe: Recipe,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// One phase: medians over the rounds, in milliseconds.
#[derive(Debug, Serialize)]
struct Phase {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    bid_share: f64,
    refused_share: f64,
    error_share: f64,
}

#[derive(Serialize)]
struct Report {
    connections: u32,
    rate: f64,
    before: Phase,
    during: Phase,
    after: Phase,
    /// Fewest stalled connections open in any `during`.
    open_min: usize,
    /// Stalled connections that the server ended, and that were opened again.
    ended_by_server: u64,
    ratio_p50: f64,
    ratio_p99: f64,
}

impl Phase {
    fn of(rounds: &[Figures]) -> Self {
        let of = |pick: fn(&Figures) -> f64| out::median(rounds.iter().map(pick).collect());
        Self {
            p50_ms: of(|f| f.p50_ms),
            p99_ms: of(|f| f.p99_ms),
            max_ms: of(|f| f.max_ms),
            bid_share: of(|f| f.bid_share),
            refused_share: of(|f| f.refused_share),
            error_share: of(|f| f.error_share),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let percent = |share: f64| format!("{:.2}", share * 100.0);
        let mut row = vec![name.to_owned()];
        row.extend([self.p50_ms, self.p99_ms, self.max_ms].map(|ms| format!("{ms:.2}")));
        row.extend([self.bid_share, self.refused_share, self.error_share].map(percent));
        row
    }
}

impl StallArgs {
    fn check(&self) -> anyhow::Result<()> {
        for (name, value, low, high) in [("--rate", self.rate, 0.1, 1e6), ("--seconds", self.seconds, 0.5, 3600.0)] {
            if !(low..=high).contains(&value) {
                bail!("{name} {value}: must be from {low} to {high}");
            }
        }
        if let Some(files) = longbow::runtime::raise_file_limit()
            && files < u64::from(self.connections) + FILES_KEPT
        {
            bail!("--connections {}: the limit of open files is {files}; raise it with ulimit -n", self.connections);
        }
        Ok(())
    }

    fn measure(&self, target: &Target, round: u64) -> anyhow::Result<Figures> {
        std::thread::sleep(REST);
        let run = Run {
            target: target.clone(),
            rate: self.rate,
            length: Duration::from_secs_f64(self.seconds),
            connections: 64,
            timeout: Duration::from_secs(5),
            deadline: Duration::from_millis(self.recipe.tmax_ms.into()),
            seed: self.recipe.seed + round,
        };
        // The same requests in every phase: only the crowd differs.
        open_loop::run(run, Source::new(&self.recipe)?)
    }
}

/// Runs the command.
pub(crate) fn run(args: &StallArgs) -> anyhow::Result<()> {
    args.check()?;
    let target = Target::parse(&args.url)?;
    let address: SocketAddr = std::net::ToSocketAddrs::to_socket_addrs(&target.authority)?
        .next()
        .with_context(|| format!("--url {}: no address", args.url))?;
    args.measure(&target, 0)?;
    let (mut before, mut during, mut after) = (Vec::new(), Vec::new(), Vec::new());
    let (mut open_min, mut ended) = (usize::MAX, 0);
    for round in 1..=u64::from(args.rounds) {
        before.push(args.measure(&target, round)?);
        let crowd = Crowd::gather(address, args.connections, args.per_address)?;
        let at_start = crowd.open();
        during.push(args.measure(&target, round)?);
        open_min = open_min.min(at_start).min(crowd.open());
        ended += crowd.leave();
        after.push(args.measure(&target, round)?);
        let p99 = |phase: &[Figures]| phase.last().map_or(0.0, |figures| figures.p99_ms);
        out::line(format!(
            "round {round}: p99 {:.2} ms, with {at_start} stalled {:.2} ms, then {:.2} ms",
            p99(&before),
            p99(&during),
            p99(&after)
        ));
    }
    let (before, during, after) = (Phase::of(&before), Phase::of(&during), Phase::of(&after));
    let report = Report {
        connections: args.connections,
        rate: args.rate,
        ratio_p50: during.p50_ms / before.p50_ms,
        ratio_p99: during.p99_ms / before.p99_ms,
        open_min,
        ended_by_server: ended,
        before,
        during,
        after,
    };
    show(&report);
    out::json(args.json, &report)?;
    match args.ratio_max {
        Some(most) if report.ratio_p99 > most => bail!("p99 grew by {:.2}, more than {most}", report.ratio_p99),
        _ => Ok(()),
    }
}

fn show(report: &Report) {
    out::line("");
    out::table(
        &["medians", "p50 ms", "p99", "max", "200 %", "refused %", "errors %"],
        &[report.before.row("before"), report.during.row("during"), report.after.row("after")],
    );
    out::line(format!(
        "at least {} stalled connections were open, the server ended {}; p50 x {:.2}, p99 x {:.2}",
        report.open_min, report.ended_by_server, report.ratio_p50, report.ratio_p99
    ));
}
