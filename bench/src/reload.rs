//! The reload command: what loading and switching a model does to the latency of requests.

use crate::client::{Connection, Target};
use crate::load::open_loop::Figures;
use crate::load::phase::{self, COLUMNS, Offer, Phase};
use crate::load::traffic::Recipe;
use crate::out;
use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longest wait for a load.
const PATIENCE: Duration = Duration::from_secs(660);
/// Requests run before the load begins, so that it falls into a steady stream.
const LEAD: Duration = Duration::from_secs(1);

/// Measures requests with and without a model reload in progress, in turn.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  longbow-bench reload --bundle other --rate 80 --seconds 20 --rounds 4 --json\n\n\
    The server serves one bundle and has another in its model directory: it is loaded in odd rounds, and in even ones the first is\n\
    gone back to. A phase must be longer than a load. Caches should be warm: the first phase warms them and is not counted.")]
pub(crate) struct ReloadArgs {
    /// Public port; a machine of your own, as this changes what it serves
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Admin port
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    admin: String,
    /// Name of the other bundle in the server's model directory
    #[arg(long)]
    bundle: String,
    /// Requests a second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds of each phase
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
    /// How often a phase without and one with a reload follow each other; figures are medians, maxima are of all rounds
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=50))]
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
    rate: f64,
    rounds: u8,
    /// From the order to the switch, by round.
    load_seconds: Vec<f64>,
    without: Phase,
    with: Phase,
    ratio_p50: f64,
    ratio_p99: f64,
}

impl ReloadArgs {
    /// Has the server change its model; seconds until it serves.
    fn switch(&self, admin: &Target, there: bool) -> anyhow::Result<f64> {
        std::thread::sleep(LEAD);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (path, body) = if there {
            ("/v1/models?wait=true", Bytes::from(json!({ "path": self.bundle }).to_string()))
        } else {
            ("/v1/models/rollback?wait=true", Bytes::new())
        };
        let began = Instant::now();
        let mut connection = Connection::new(admin.clone());
        let answer = runtime.block_on(connection.send(Method::POST, path, body, PATIENCE))?;
        if answer.status != 200 {
            bail!("POST {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        serde_json::from_slice::<Value>(&answer.body).context("the answer of the admin port")?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// A phase with a load in it, and the seconds that the load took.
    fn measure_with(&self, offer: &Offer<'_>, admin: &Target, round: u64) -> anyhow::Result<(Figures, f64)> {
        let (figures, seconds) = std::thread::scope(|scope| {
            let switch = scope.spawn(|| self.switch(admin, round % 2 == 1));
            let figures = offer.measure(round);
            (figures, switch.join())
        });
        let seconds = seconds.map_err(|_| anyhow::anyhow!("the thread that asks for the load panicked"))??;
        if LEAD.as_secs_f64() + seconds > self.seconds {
            bail!("the load took {seconds:.1} s, longer than the phase: raise --seconds");
        }
        Ok((figures?, seconds))
    }
}

/// Runs the command.
pub(crate) fn run(args: &ReloadArgs) -> anyhow::Result<()> {
    let (public, admin) = (Target::parse(&args.url)?, Target::parse(&args.admin).context("--admin")?);
    let offer = Offer { target: &public, recipe: &args.recipe, rate: args.rate, seconds: args.seconds };
    offer.check(2.0)?;
    offer.measure(0)?;
    let (mut without, mut with, mut load_seconds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=u64::from(args.rounds) {
        let quiet = offer.measure(round)?;
        let (busy, seconds) = args.measure_with(&offer, &admin, round)?;
        out::line(format!(
            "round {round}: p99 {:.2} ms without, {:.2} ms with a reload of {seconds:.1} s",
            quiet.p99_ms, busy.p99_ms
        ));
        without.push(quiet);
        with.push(busy);
        load_seconds.push(seconds);
    }
    let (without, with) = (Phase::of(&without), Phase::of(&with));
    let report = Report {
        rate: args.rate,
        rounds: args.rounds,
        load_seconds,
        ratio_p50: with.p50_ms / without.p50_ms,
        ratio_p99: with.p99_ms / without.p99_ms,
        without,
        with,
    };
    show(&report);
    out::json(args.json, &report)?;
    phase::judge(report.ratio_p99, args.ratio_max)
}

fn show(report: &Report) {
    out::line("");
    out::table(&COLUMNS, &[report.without.row("without"), report.with.row("with a reload")]);
    out::line(format!("p50 x {:.2}, p99 x {:.2}", report.ratio_p50, report.ratio_p99));
}
