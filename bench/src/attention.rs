//! `longbow-bench attention`: how fast the attention kernels are, beside our own matrix product on the same cores.

mod world;

use std::time::Duration;

use anyhow::Context;
use longbow_kernels::{Engine, Isa, KvFormat, Linear, MatrixMut, MatrixRef, PackedMatrix, Shape};

use crate::clock::Clock;
use crate::out;
use world::World;

/// Rows, inner size and columns of the matrix product that the attention is compared with.
const PRODUCT: (usize, usize, usize) = (4096, 256, 256);

/// Measure attention: one user's whole history, candidates against it, an append of one row, and an sgemm.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  longbow-bench attention --n 10000 --heads 2 --dim 32\n  longbow-bench attention --dtype bf16\n  longbow-bench attention --isa avx2 --threads 1 --json"
)]
pub(crate) struct AttentionArgs {
    /// Events in the history.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) n: u32,
    /// Heads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) heads: u32,
    /// Width of a head, for queries, keys and values alike.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) dim: u32,
    /// Candidate rows.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) candidates: u32,
    /// Threads (0: one for each core).
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Numbers that keys and values are kept in: f32 or bf16.
    #[arg(long, default_value_t = KvFormat::F32)]
    pub(crate) dtype: KvFormat,
    /// Leave the bias out: what it costs.
    #[arg(long)]
    pub(crate) no_bias: bool,
    /// Instruction set: portable, avx2, avx512, avx512bf16, amx, or amx-model (AMX in plain code: slow) (default: the best this
    /// machine has).
    #[arg(long)]
    pub(crate) isa: Option<Isa>,
    /// Rounds; each runs every measurement once, so that slow spells of the machine hit all of them.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,
    /// Count the calling thread's CPU time (with --threads 1): for a machine that others use too.
    #[arg(long)]
    pub(crate) cpu_time: bool,
    /// Print one JSON object with the figures as the last line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Seconds of each round of one measurement.
#[derive(Default)]
struct Series(Vec<Duration>);

impl Series {
    fn time(&mut self, clock: &Clock, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let start = clock.now();
        work()?;
        self.0.push(clock.now().saturating_sub(start));
        Ok(())
    }

    /// The fastest round: on a shared machine the nearest to what the cores do when nobody else has them.
    fn best_s(&self) -> f64 {
        self.0.iter().min().map_or(f64::NAN, Duration::as_secs_f64)
    }

    fn median_s(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
    }
}

/// The figures of one run.
#[derive(Debug, serde::Serialize)]
struct Figures {
    isa: String,
    dtype: String,
    threads: usize,
    biased: bool,
    n: u32,
    heads: u32,
    dim: u32,
    causal_ms: f64,
    causal_one_thread_ms: f64,
    gflops: f64,
    sgemm_ms: f64,
    sgemm_gflops: f64,
    ratio: f64,
    best_causal_ms: f64,
    best_gflops: f64,
    best_sgemm_gflops: f64,
    candidates: u32,
    candidates_ms: f64,
    candidates_gflops: f64,
    append_one_row_ms: f64,
    append_gflops: f64,
}

fn measure(args: &AttentionArgs) -> anyhow::Result<Figures> {
    let engine = Engine::new(args.threads, args.isa).context("starting the kernels")?;
    let single = Engine::new(1, args.isa)?;
    let clock = Clock::new(args.cpu_time, engine.threads())?;
    let (n, d, heads) = (args.n as usize, args.dim as usize, args.heads as usize);
    let mut world = World::new(Shape { heads, d_qk: d, d_v: d }, n, args.candidates as usize, args.dtype)?;
    world.biased = !args.no_bias;
    let (m, k, cols) = PRODUCT;
    let (a, b, mut c) = (vec![0.5_f32; m * k], vec![0.25_f32; k * cols], vec![0.0_f32; m * cols]);
    let (a, b) = (MatrixRef::dense(&a, m, k)?, PackedMatrix::new(MatrixRef::dense(&b, k, cols)?));
    let b = Linear { weight: &b, bias: None };
    let (mut causal, mut one_thread, mut candidates, mut append, mut product) =
        (Series::default(), Series::default(), Series::default(), Series::default(), Series::default());
    world.attend(&engine, Some(n))?;
    for _ in 0..args.rounds {
        causal.time(&clock, || world.attend(&engine, Some(n)))?;
        product.time(&clock, || Ok(engine.linear(a, b, MatrixMut::dense(&mut c, m, cols)?)?))?;
        candidates.time(&clock, || world.attend(&engine, None))?;
        append.time(&clock, || world.attend(&engine, Some(1)))?;
        one_thread.time(&clock, || world.attend(&single, Some(n)))?;
    }
    let pairs = |queries: u32, keys: f64| f64::from(queries) * keys * f64::from(args.heads * args.dim);
    let causal_flops = 4.0 * pairs(args.n, f64::from(args.n) / 2.0);
    let gflops = causal_flops / causal.median_s() / 1e9;
    let product_flops = 2.0 * 4096.0 * 256.0 * 256.0;
    let sgemm_gflops = product_flops / product.median_s() / 1e9;
    Ok(Figures {
        isa: engine.isa().to_string(),
        dtype: args.dtype.to_string(),
        threads: engine.threads(),
        biased: !args.no_bias,
        n: args.n,
        heads: args.heads,
        dim: args.dim,
        causal_ms: causal.median_s() * 1e3,
        causal_one_thread_ms: one_thread.median_s() * 1e3,
        gflops,
        sgemm_ms: product.median_s() * 1e3,
        sgemm_gflops,
        ratio: gflops / sgemm_gflops,
        best_causal_ms: causal.best_s() * 1e3,
        best_gflops: causal_flops / causal.best_s() / 1e9,
        best_sgemm_gflops: product_flops / product.best_s() / 1e9,
        candidates: args.candidates,
        candidates_ms: candidates.median_s() * 1e3,
        candidates_gflops: 4.0 * pairs(args.candidates, f64::from(args.n)) / candidates.median_s() / 1e9,
        append_one_row_ms: append.median_s() * 1e3,
        append_gflops: 4.0 * pairs(1, f64::from(args.n)) / append.median_s() / 1e9,
    })
}

/// Measures and prints a small table, and with `--json` one JSON object after it.
///
/// # Errors
/// When the instruction set is not available or the output cannot be written.
pub(crate) fn run(args: &AttentionArgs) -> anyhow::Result<()> {
    let f = measure(args)?;
    out::line(format!(
        "{} {} on {} threads, a history of {} events, H={} d={}, medians of {} rounds",
        f.isa, f.dtype, f.threads, f.n, f.heads, f.dim, args.rounds
    ));
    let row = |name: &str, ms: f64, gflops: f64| vec![name.to_owned(), format!("{ms:.3}"), format!("{gflops:.1}")];
    out::table(
        &["", "ms", "GFLOP/s"],
        &[
            row("causal", f.causal_ms, f.gflops),
            row("causal, fastest round", f.best_causal_ms, f.best_gflops),
            row("causal, one thread", f.causal_one_thread_ms, f.gflops * f.causal_ms / f.causal_one_thread_ms),
            row(&format!("{} candidates", f.candidates), f.candidates_ms, f.candidates_gflops),
            row("append of one row", f.append_one_row_ms, f.append_gflops),
            row("sgemm 4096x256x256 (ours, packed)", f.sgemm_ms, f.sgemm_gflops),
            row("sgemm, fastest round", f.sgemm_ms * f.sgemm_gflops / f.best_sgemm_gflops, f.best_sgemm_gflops),
        ],
    );
    out::line(format!("attention / sgemm: {:.2}", f.ratio));
    out::json(args.json, &f)
}
