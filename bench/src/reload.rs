//! The reload command: what loading and switching a model does to the latency of requests.

use crate::client::{Connection, Target};
use crate::load::open_loop::{self, Figures, Run};
use crate::load::traffic::{Recipe, Source};
use crate::out;
use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longest wait for a load.
const PATIENCE: Duration = Duration::from_secs(660);
/// Rest between two phases, so that what one leaves behind is not measured in the next.
const REST: Duration = Duration::from_millis(500);
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

/// One phase over all rounds; times in milliseconds.
#[derive(Serialize)]
struct Phase {
    requests: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// Highest of all rounds.
    max_ms: f64,
    bid_share: f64,
    refused_share: f64,
    error_share: f64,
    late_share: f64,
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

impl Phase {
    fn of(rounds: &[Figures]) -> Self {
        let of = |pick: fn(&Figures) -> f64| out::median(rounds.iter().map(pick).collect());
        Self {
            requests: rounds.iter().map(|figures| figures.requests).sum(),
            p50_ms: of(|f| f.p50_ms),
            p99_ms: of(|f| f.p99_ms),
            max_ms: rounds.iter().map(|figures| figures.max_ms).fold(0.0, f64::max),
            bid_share: of(|f| f.bid_share),
            refused_share: of(|f| f.refused_share),
            error_share: of(|f| f.error_share),
            late_share: of(|f| f.late_share),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let percent = |share: f64| format!("{:.2}", share * 100.0);
        let mut row = vec![name.to_owned(), self.requests.to_string()];
        row.extend([self.p50_ms, self.p99_ms, self.max_ms].map(|ms| format!("{ms:.2}")));
        row.extend([self.bid_share, self.refused_share, self.error_share, self.late_share].map(percent));
        row
    }
}

impl ReloadArgs {
    fn check(&self) -> anyhow::Result<()> {
        for (name, value, low, high) in [("--rate", self.rate, 0.1, 1e6), ("--seconds", self.seconds, 2.0, 3600.0)] {
            if !(low..=high).contains(&value) {
                bail!("{name} {value}: must be from {low} to {high}");
            }
        }
        Ok(())
    }

    fn measure(&self, target: &Target, round: u64) -> anyhow::Result<Figures> {
        let run = Run {
            target: target.clone(),
            rate: self.rate,
            length: Duration::from_secs_f64(self.seconds),
            connections: 64,
            timeout: Duration::from_secs(5),
            deadline: Duration::from_millis(self.recipe.tmax_ms.into()),
            seed: self.recipe.seed + round,
        };
        // The same requests in both phases of a round: only the reload differs.
        open_loop::run(run, Source::new(&self.recipe.with_seed(self.recipe.seed + round))?)
    }

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
    fn measure_with(&self, public: &Target, admin: &Target, round: u64) -> anyhow::Result<(Figures, f64)> {
        let (figures, seconds) = std::thread::scope(|scope| {
            let switch = scope.spawn(|| self.switch(admin, round % 2 == 1));
            let figures = self.measure(public, round);
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
    args.check()?;
    let (public, admin) = (Target::parse(&args.url)?, Target::parse(&args.admin).context("--admin")?);
    args.measure(&public, 0)?;
    let (mut without, mut with, mut load_seconds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=u64::from(args.rounds) {
        std::thread::sleep(REST);
        let quiet = args.measure(&public, round)?;
        std::thread::sleep(REST);
        let (busy, seconds) = args.measure_with(&public, &admin, round)?;
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
    match args.ratio_max {
        Some(most) if report.ratio_p99 > most => bail!("p99 grew by {:.2}, more than {most}", report.ratio_p99),
        _ => Ok(()),
    }
}

fn show(report: &Report) {
    out::line("");
    out::table(
        &["reload", "requests", "p50 ms", "p99", "max", "200 %", "refused %", "errors %", "late %"],
        &[report.without.row("without"), report.with.row("with")],
    );
    out::line(format!("p50 x {:.2}, p99 x {:.2}", report.ratio_p50, report.ratio_p99));
}
