//! `longbow-bench encoder`: the whole encoder on one user: cold, warm, against the length of the history, and what it allocates.

mod profile;
mod user;

use std::alloc::System;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use longbow_kernels::{Engine, Isa, KvFormat};
use longbow_model::{Advance, CpuEncoder, Encoder, Finish, Score, UserState};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::clock::Clock;
use crate::out;
use crate::plot::Plot;
use profile::Split;
use user::User;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Lengths of the curve.
const LENGTHS: [usize; 6] = [500, 1_000, 2_000, 5_000, 10_000, 20_000];
/// From here on the curve is taken as a power of the length.
const SLOPE_FROM: usize = 2_000;

/// Measures the encoder alone: a history encoded cold, a warm request behind it, both against the length.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  longbow-bench encoder\n  longbow-bench encoder --n 10000 --curve --plot bench/encoder.svg --json\n  longbow-bench encoder --dtype bf16 --threads 1\n  longbow-bench encoder --profile --threads 1 --cpu-time"
)]
pub(crate) struct EncoderArgs {
    /// Events in the history.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    n: u32,
    /// Events that arrive before a warm request.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    new: u32,
    /// Candidates to score.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    candidates: u32,
    /// Width of a row.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=1_024))]
    width: u32,
    /// Layers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    layers: u32,
    /// Heads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    heads: u32,
    /// Width of a head.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    dim: u32,
    /// Numbers that keys and values are kept in: f32 or bf16.
    #[arg(long, default_value_t = KvFormat::F32)]
    dtype: KvFormat,
    /// Threads (0: one for each core).
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Instruction set, as of `attention` (default: the best this machine has).
    #[arg(long)]
    isa: Option<Isa>,
    /// Count the calling thread's CPU time (with --threads 1): for a machine that others use too.
    #[arg(long)]
    cpu_time: bool,
    /// Rounds; medians are reported.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Tell where the microseconds of a warm request go, stage by stage.
    #[arg(long)]
    profile: bool,
    /// Measure lengths from 500 to 20,000 too.
    #[arg(long)]
    curve: bool,
    /// Draw that curve to this SVG file.
    #[arg(long, requires = "curve")]
    plot: Option<PathBuf>,
    /// Print one JSON object with the figures as the last line.
    #[arg(long)]
    json: bool,
}

/// Milliseconds of one request by stage.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
struct Stages {
    advance_ms: f64,
    finish_ms: f64,
    score_ms: f64,
}

impl Stages {
    fn total(&self) -> f64 {
        self.advance_ms + self.finish_ms + self.score_ms
    }
}

/// One length.
#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Point {
    n: usize,
    cold: Stages,
    warm: Stages,
}

/// Calls of the allocator in one warm request.
#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Allocations {
    advance: usize,
    finish: usize,
    score: usize,
    bytes: usize,
}

#[derive(Debug, serde::Serialize)]
struct Figures {
    isa: String,
    dtype: String,
    threads: usize,
    width: u32,
    layers: u32,
    heads: u32,
    dim: u32,
    new: u32,
    candidates: u32,
    at: Point,
    cold_over_warm: f64,
    cold_over_warm_without_scoring: f64,
    state_bytes: usize,
    allocations: Allocations,
    profile: Vec<profile::Row>,
    curve: Vec<Point>,
    slope_cold: Option<f64>,
    slope_warm: Option<f64>,
}

/// An encoder and one user of it.
struct Bench<'a> {
    args: &'a EncoderArgs,
    clock: Clock,
    encoder: CpuEncoder,
    user: User,
    /// Of the last request.
    split: Split,
}

fn millis(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64() * 1e3
}

fn medians(list: &[Stages]) -> Stages {
    let of = |pick: fn(&Stages) -> f64| out::median(list.iter().map(pick).collect());
    Stages { advance_ms: of(|s| s.advance_ms), finish_ms: of(|s| s.finish_ms), score_ms: of(|s| s.score_ms) }
}

impl Bench<'_> {
    /// One request on the first `n` events; also counts what it allocates, and where its time goes if the encoder is watched.
    fn request(&mut self, state: &mut UserState, n: usize) -> anyhow::Result<(Stages, Allocations)> {
        self.encoder.take_stages();
        let (window, items) = (self.user.window(n), self.user.items());
        let query_time = self.user.time_after(n);
        let mut region = Region::new(ALLOCATOR);
        let mut bytes = 0;
        let mut calls = |region: &mut Region<'_, System>| {
            let change = region.change_and_reset();
            bytes += change.bytes_allocated;
            change.allocations + change.reallocations
        };
        let start = self.clock.now();
        self.encoder.advance(&mut [Advance { state: &mut *state, window, items, rows_max: usize::MAX }])?;
        let (advance_ms, advance) = (millis(start, self.clock.now()), calls(&mut region));
        self.split.stages[0] = self.encoder.take_stages();
        let start = self.clock.now();
        let encoded = self.encoder.finish(&[Finish { state: &*state, window, items, query_time }])?;
        let (finish_ms, finish) = (millis(start, self.clock.now()), calls(&mut region));
        self.split.stages[1] = self.encoder.take_stages();
        let start = self.clock.now();
        let job = Score { encoded: &encoded[0], items, candidates: self.user.candidates() };
        let scores = self.encoder.score(&[job])?;
        let (score_ms, score) = (millis(start, self.clock.now()), calls(&mut region));
        self.split.stages[2] = self.encoder.take_stages();
        self.split.whole = [advance_ms, finish_ms, score_ms].map(|ms| Duration::from_secs_f64(ms / 1e3));
        anyhow::ensure!(scores[0].len() == self.user.candidates().len(), "a score for each candidate");
        Ok((Stages { advance_ms, finish_ms, score_ms }, Allocations { advance, finish, score, bytes }))
    }

    /// Medians at one length, and what the last warm request allocated and its state holds.
    fn at(&mut self, n: usize, rounds: u32) -> anyhow::Result<(Point, Allocations, usize)> {
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        let new = self.args.new as usize;
        let mut last = (Allocations { advance: 0, finish: 0, score: 0, bytes: 0 }, 0);
        for _ in 0..rounds {
            let mut state = self.encoder.new_state();
            cold.push(self.request(&mut state, n)?.0);
            // The first of them meets buffers that are still growing.
            for after in 1..=4 {
                let (stages, allocations) = self.request(&mut state, n + after * new)?;
                if after > 1 {
                    warm.push(stages);
                    last = (allocations, state.bytes());
                }
            }
        }
        Ok((Point { n, cold: medians(&cold), warm: medians(&warm) }, last.0, last.1))
    }
}

impl Bench<'_> {
    /// Where the time of warm requests at the asked length goes.
    fn profile(&mut self) -> anyhow::Result<Vec<profile::Row>> {
        let clock = self.clock;
        self.encoder.watch(Box::new(move || clock.now()));
        let (n, new) = (self.args.n as usize, self.args.new as usize);
        let mut splits = Vec::new();
        let mut full = self.encoder.new_state();
        self.request(&mut full, n)?;
        for _ in 0..self.args.rounds {
            let mut state = full.clone();
            for after in 1..=4 {
                self.request(&mut state, n + after * new)?;
                if after > 1 {
                    splits.push(self.split);
                }
            }
        }
        Ok(profile::rows(&splits))
    }
}

/// The power of the length that the times follow: least squares in logarithms from `SLOPE_FROM` on.
#[expect(clippy::cast_precision_loss, reason = "lengths are small")]
fn slope(points: &[Point], of: impl Fn(&Point) -> f64) -> Option<f64> {
    let logs: Vec<(f64, f64)> =
        points.iter().filter(|p| p.n >= SLOPE_FROM).map(|p| ((p.n as f64).ln(), of(p).ln())).collect();
    let count = logs.len() as f64;
    let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), l| (x + l.0 / count, y + l.1 / count));
    let (up, down) =
        logs.iter().fold((0.0, 0.0), |(up, down), l| (up + (l.0 - x) * (l.1 - y), down + (l.0 - x).powi(2)));
    (logs.len() > 1).then(|| up / down)
}

fn measure(args: &EncoderArgs) -> anyhow::Result<Figures> {
    let engine = Arc::new(Engine::new(args.threads, args.isa).context("starting the kernels")?);
    let longest = if args.curve { LENGTHS[LENGTHS.len() - 1].max(args.n as usize) } else { args.n as usize };
    let user = User::new(args, longest + 5 * args.new as usize)?;
    let (isa, threads) = (engine.isa().to_string(), engine.threads());
    let clock = Clock::new(args.cpu_time, threads)?;
    let encoder = CpuEncoder::new(Arc::clone(user.model()), engine).keeping(args.dtype);
    let mut bench = Bench { args, clock, encoder, user, split: Split::default() };
    bench.at(1_000.min(args.n as usize), 1)?;
    let (at, allocations, state_bytes) = bench.at(args.n as usize, args.rounds)?;
    let profile = if args.profile { bench.profile()? } else { Vec::new() };
    let mut curve = Vec::new();
    if args.curve {
        for n in LENGTHS {
            curve.push(bench.at(n, args.rounds.div_ceil(2))?.0);
        }
    }
    Ok(Figures {
        isa,
        dtype: args.dtype.to_string(),
        threads,
        width: args.width,
        layers: args.layers,
        heads: args.heads,
        dim: args.dim,
        new: args.new,
        candidates: args.candidates,
        at,
        cold_over_warm: at.cold.total() / at.warm.total(),
        cold_over_warm_without_scoring: (at.cold.advance_ms + at.cold.finish_ms)
            / (at.warm.advance_ms + at.warm.finish_ms),
        state_bytes,
        allocations,
        profile,
        slope_cold: slope(&curve, |p| p.cold.advance_ms + p.cold.finish_ms),
        slope_warm: slope(&curve, |p| p.warm.total()),
        curve,
    })
}

/// Measures and prints a table, and with `--json` one JSON object after it.
///
/// # Errors
/// When the instruction set is not available or the plot cannot be written.
pub(crate) fn run(args: &EncoderArgs) -> anyhow::Result<()> {
    let f = measure(args)?;
    out::line(format!(
        "{} {} on {} threads, {} layers of H={} d={}, rows of {}; {} new events, {} candidates; medians, ms",
        f.isa, f.dtype, f.threads, f.layers, f.heads, f.dim, f.width, f.new, f.candidates
    ));
    let row = |name: String, s: &Stages| {
        let cell = |x: f64| format!("{x:.3}");
        vec![name, cell(s.advance_ms), cell(s.finish_ms), cell(s.score_ms), cell(s.total())]
    };
    let points: Vec<&Point> = std::iter::once(&f.at).chain(&f.curve).collect();
    let rows: Vec<Vec<String>> = points
        .iter()
        .flat_map(|p| [row(format!("{} cold", p.n), &p.cold), row(format!("{} warm", p.n), &p.warm)])
        .collect();
    out::table(&["", "advance", "finish", "score", "total"], &rows);
    out::line(format!(
        "cold / warm: {:.1}; without scoring: {:.1}",
        f.cold_over_warm, f.cold_over_warm_without_scoring
    ));
    let a = &f.allocations;
    out::line(format!(
        "allocations of a warm request: {} in advance, {} in finish, {} in score, {} bytes; the state holds {} bytes",
        a.advance, a.finish, a.score, a.bytes, f.state_bytes
    ));
    if !f.profile.is_empty() {
        profile::show(&f.profile, args.n);
    }
    if let (Some(cold), Some(warm)) = (f.slope_cold, f.slope_warm) {
        out::line(format!("time grows as n^{cold:.2} cold and n^{warm:.2} warm, from {SLOPE_FROM} events on"));
    }
    if let Some(path) = &args.plot {
        length_curve(&f.curve).draw(path)?;
    }
    out::json(args.json, &f)
}

/// Time over the length of the history.
#[expect(clippy::cast_precision_loss, reason = "lengths are small")]
fn length_curve(points: &[Point]) -> Plot<'static> {
    let line = |name, pick: fn(&Point) -> f64| (name, points.iter().map(|p| (p.n as f64, pick(p))).collect());
    Plot {
        title: "Encoder time against the length of the history",
        across: "events",
        across_log: true,
        lines: vec![
            line("warm: encode and score", |p| p.warm.total()),
            line("warm: encode the new events", |p| p.warm.advance_ms + p.warm.finish_ms),
            line("cold: encode all", |p| p.cold.advance_ms + p.cold.finish_ms),
        ],
        bound_ms: None,
    }
}
