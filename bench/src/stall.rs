//! The stall command: what thousands of connections that never finish a request do to the latency of good ones.

mod crowd;

use crate::client::Target;
use crate::load::open_loop::Figures;
use crate::load::phase::{self, COLUMNS, Offer, Phase};
use crate::load::traffic::Recipe;
use crate::out;
use anyhow::{Context, bail};
use crowd::Crowd;
use serde::Serialize;
use std::net::SocketAddr;

/// Files of this process beside the stalled connections.
const FILES_KEPT: u64 = 512;

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
    /// How often before, during and after follow each other; figures are medians, maxima are of all rounds
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

impl StallArgs {
    fn check(&self) -> anyhow::Result<()> {
        if let Some(files) = longbow::runtime::raise_file_limit()
            && files < u64::from(self.connections) + FILES_KEPT
        {
            bail!("--connections {}: the limit of open files is {files}; raise it with ulimit -n", self.connections);
        }
        Ok(())
    }
}

/// Runs the command.
pub(crate) fn run(args: &StallArgs) -> anyhow::Result<()> {
    args.check()?;
    let target = Target::parse(&args.url)?;
    let address: SocketAddr = std::net::ToSocketAddrs::to_socket_addrs(&target.authority)?
        .next()
        .with_context(|| format!("--url {}: no address", args.url))?;
    let offer = Offer { target: &target, recipe: &args.recipe, rate: args.rate, seconds: args.seconds };
    offer.check(0.5)?;
    offer.measure(0)?;
    let (mut before, mut during, mut after) = (Vec::new(), Vec::new(), Vec::new());
    let (mut open_min, mut ended) = (usize::MAX, 0);
    for round in 1..=u64::from(args.rounds) {
        before.push(offer.measure(round)?);
        let crowd = Crowd::gather(address, args.connections, args.per_address)?;
        let at_start = crowd.open();
        during.push(offer.measure(round)?);
        open_min = open_min.min(at_start).min(crowd.open());
        ended += crowd.leave();
        after.push(offer.measure(round)?);
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
    phase::judge(report.ratio_p99, args.ratio_max)
}

fn show(report: &Report) {
    out::line("");
    out::table(&COLUMNS, &[report.before.row("before"), report.during.row("during"), report.after.row("after")]);
    out::line(format!(
        "at least {} stalled connections were open, the server ended {}; p50 x {:.2}, p99 x {:.2}",
        report.open_min, report.ended_by_server, report.ratio_p50, report.ratio_p99
    ));
}
