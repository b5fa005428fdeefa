//! The load command: one rate, or a sweep that climbs until the server no longer holds its latency bound.

pub(crate) mod open_loop;
pub(crate) mod phase;
pub(crate) mod traffic;

use crate::client::Target;
use crate::out;
use crate::plot::Plot;
use anyhow::bail;
use open_loop::{Figures, Run};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use traffic::{Recipe, Source};

/// Share of failed requests in the first step above which nothing was measured.
const ERRORS_MAX: f64 = 0.5;
/// Most steps of one sweep.
const STEPS_MAX: usize = 40;

/// Offers load on a schedule that never waits for answers.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  longbow-bench load --rate 100 --seconds 10\n  longbow-bench load --rate 500,750,1000,2000 --tmax-ms 30,200 --connections 1024\n  longbow-bench load --traffic openrtb --sweep 50 --p99-ms 50 --plot load.svg --json\n  longbow-bench load --requests requests.jsonl --rate 200"
)]
pub(crate) struct LoadArgs {
    /// Server to load; a machine of your own, as this offers real load
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    #[command(flatten)]
    recipe: Recipe,
    /// Requests a second; one run for each of several (500,750,1000,2000)
    #[arg(long, value_delimiter = ',', default_value = "100", conflicts_with = "sweep")]
    rate: Vec<f64>,
    /// First rate of a sweep, which climbs by --factor until the knee is passed
    #[arg(long)]
    sweep: Option<f64>,
    /// Step of the sweep
    #[arg(long, default_value_t = 1.4)]
    factor: f64,
    /// Seconds for each rate
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds of unmeasured load before the first rate
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// The knee is the last rate whose 99th percentile stays under this, with under 1% refused, late or failed
    #[arg(long, default_value_t = 50.0)]
    p99_ms: f64,
    /// Connections
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Writes the latency curve as SVG
    #[arg(long)]
    plot: Option<PathBuf>,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    traffic: String,
    p99_bound_ms: f64,
    knee_rps: Option<f64>,
    steps: Vec<Figures>,
}

impl LoadArgs {
    fn check(&self) -> anyhow::Result<()> {
        for (name, value, low, high) in [
            ("--rate", self.rate.iter().copied().fold(f64::INFINITY, f64::min), 0.1, 1e6),
            ("--rate", self.rate.iter().copied().fold(0.0, f64::max), 0.1, 1e6),
            ("--sweep", self.sweep.unwrap_or(1.0), 0.1, 1e6),
            ("--factor", self.factor, 1.01, 10.0),
            ("--seconds", self.seconds, 0.5, 3600.0),
            ("--warmup", self.warmup, 0.0, 600.0),
        ] {
            if !(low..=high).contains(&value) {
                bail!("{name} {value}: must be from {low} to {high}");
            }
        }
        Ok(())
    }

    fn step(&self, target: &Target, rate: f64, seconds: f64, seed: u64) -> anyhow::Result<Figures> {
        let run = Run {
            target: target.clone(),
            rate,
            length: Duration::from_secs_f64(seconds),
            connections: self.connections,
            timeout: Duration::from_secs(5),
            seed,
        };
        open_loop::run(run, Source::new(&self.recipe)?)
    }

    fn holds(&self, step: &Figures) -> bool {
        step.p99_ms <= self.p99_ms && step.refused_share + step.error_share + step.late_share < 0.01
    }
}

/// Runs the command.
pub(crate) fn run(args: &LoadArgs) -> anyhow::Result<()> {
    args.check()?;
    let target = Target::parse(&args.url)?;
    let first = args.sweep.unwrap_or_else(|| args.rate.first().copied().unwrap_or(1.0));
    if args.warmup > 0.0 {
        args.step(&target, first, args.warmup, args.recipe.seed ^ 0x5EED)?;
    }
    let mut report = Report {
        traffic: format!("{:?}", args.recipe.traffic).to_lowercase(),
        p99_bound_ms: args.p99_ms,
        knee_rps: None,
        steps: Vec::new(),
    };
    let rates: Vec<f64> = match args.sweep {
        Some(_) => std::iter::successors(Some(first), |rate| Some(rate * args.factor)).take(STEPS_MAX).collect(),
        None => args.rate.clone(),
    };
    for (step, rate) in rates.into_iter().enumerate() {
        let figures = args.step(&target, rate, args.seconds, args.recipe.seed + step as u64)?;
        let failed = match figures.error_share {
            share if share > 0.0 => format!(", {:.1}% failed (not in the percentiles)", share * 100.0),
            _ => String::new(),
        };
        let (p50, p99) = (figures.p50_ms, figures.p99_ms);
        out::line(format!("{rate:.0} requests/s offered: p50 {p50:.2} ms, p99 {p99:.2} ms{failed}"));
        let holds = args.holds(&figures);
        report.steps.push(figures);
        if holds {
            report.knee_rps = Some(rate);
        }
        if args.sweep.is_some() && !holds {
            break;
        }
    }
    tell(args, &report);
    if let Some(path) = &args.plot {
        latency_curve(&report.steps, args.p99_ms).draw(path)?;
        out::line(format!("plot: {}", path.display()));
    }
    out::json(args.json, &report)?;
    // A run that hardly anybody answered measured nothing.
    if let Some(step) = report.steps.first().filter(|step| step.error_share > ERRORS_MAX) {
        bail!("{:.0}% of the requests to {} failed: is the server up?", step.error_share * 100.0, args.url);
    }
    Ok(())
}

/// The report for a person: a table, and what stands out.
fn tell(args: &LoadArgs, report: &Report) {
    let rows: Vec<Vec<String>> = report.steps.iter().map(row).collect();
    out::line("");
    out::table(
        &[
            "offered/s",
            "requests",
            "p50 ms",
            "p90",
            "p99",
            "p99.9",
            "max",
            "goodput/s",
            "served p99",
            "refused p99",
            "200 %",
            "204 %",
            "refused %",
            "errors %",
            "late %",
            "client p99",
        ],
        &rows,
    );
    for step in report.steps.iter().filter(|step| step.served_share_by_tmax_ms.len() > 1) {
        let shares =
            step.served_share_by_tmax_ms.iter().map(|(tmax, share)| format!("tmax {tmax}: {:.1}%", share * 100.0));
        let shares: Vec<String> = shares.collect();
        out::line(format!("served in time at {:.0}/s: {}", step.offered_rps, shares.join(", ")));
    }
    if let Some(last) = report.steps.last().filter(|last| !last.stages_p50_ms.is_empty()) {
        let stages: Vec<String> = last.stages_p50_ms.iter().map(|(name, ms)| format!("{name} {ms:.3}")).collect();
        out::line(format!("stages at {:.0}/s, median ms: {}", last.offered_rps, stages.join(", ")));
    }
    if args.sweep.is_some() {
        match report.knee_rps {
            Some(knee) => out::line(format!("knee: {knee:.0} requests/s at p99 <= {} ms", args.p99_ms)),
            None => out::line(format!("no rate held p99 <= {} ms: start the sweep lower", args.p99_ms)),
        }
    }
}

/// Percentiles over the offered rate, with the latency bound.
fn latency_curve(steps: &[Figures], bound_ms: f64) -> Plot<'static> {
    let line = |name, pick: fn(&Figures) -> f64| (name, steps.iter().map(|s| (s.offered_rps, pick(s))).collect());
    Plot {
        title: "Latency from the scheduled arrival",
        across: "offered requests/s",
        across_log: false,
        lines: vec![line("p50", |s| s.p50_ms), line("p99", |s| s.p99_ms), line("p99.9", |s| s.p999_ms)],
        bound_ms: Some(bound_ms),
    }
}

fn row(figures: &Figures) -> Vec<String> {
    let percent = |share: f64| format!("{:.2}", share * 100.0);
    let ms = |value: f64| format!("{value:.2}");
    vec![
        format!("{:.0}", figures.offered_rps),
        figures.requests.to_string(),
        ms(figures.p50_ms),
        ms(figures.p90_ms),
        ms(figures.p99_ms),
        ms(figures.p999_ms),
        ms(figures.max_ms),
        format!("{:.0}", figures.goodput_rps),
        ms(figures.served_p99_ms),
        ms(figures.refused_p99_ms),
        percent(figures.bid_share),
        percent(figures.no_bid_share),
        percent(figures.refused_share),
        percent(figures.error_share),
        percent(figures.late_share),
        ms(figures.send_delay_p99_ms),
    ]
}
