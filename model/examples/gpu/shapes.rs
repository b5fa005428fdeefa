//! Fresh random shapes against f64: attention in every form, and the top-k.

use std::sync::Arc;

use longbow_kernels::cuda::{Ask, CudaEngine, Form, ItemSearch, K_MAX, Precision};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Failure;
use crate::table::{guarded, passed, row};
use crate::world::{Shape, World};

/// The shapes of one kernel, of which the table shows the worst and every one that fails.
#[derive(Default)]
struct Worst {
    shapes: usize,
    failed: usize,
    /// Error over that of plain bf16.
    ratio: f64,
    what: String,
}

pub(crate) fn run(engine: &Arc<CudaEngine>, small: bool, seed: u64) -> Result<bool, Failure> {
    let forms: &[Form] = if engine.form() == Form::Sm90 { &[Form::Sm90, Form::Sm80] } else { &[Form::Sm80] };
    let lengths: &[usize] =
        if small { &[1, 65, 200] } else { &[1, 2, 63, 64, 65, 127, 129, 500, 1000, 2049, 4096, 16_384] };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pass = true;
    for &form in forms {
        for head_dim in [32, 64, 128] {
            for (causal, bias) in [(true, true), (true, false), (false, true), (false, false)] {
                let mut worst = Worst::default();
                for &keys in lengths {
                    let jobs = if keys > 4096 { 1 } else { rng.random_range(1..4) };
                    let heads = 128 / head_dim * rng.random_range(1..3);
                    let candidates = rng.random_range(1..300);
                    let shape = Shape { jobs, keys, heads, head_dim, causal, bias, ragged: true, candidates };
                    attention(engine, shape, form, rng.random(), &mut worst)?;
                }
                pass &= worst.failed == 0;
                let kind = if causal { "history" } else { "candidates" };
                let bias = if bias { "bias" } else { "plain" };
                row(
                    "shapes",
                    format!("{kind} {form:?} d{head_dim} {bias}: {} shapes, seed {seed}", worst.shapes),
                    format!("{} failed; worst {:.2} of bf16's error", worst.failed, worst.ratio),
                    &worst.what,
                    "2x bf16",
                    passed(worst.failed == 0),
                );
            }
        }
    }
    let tops: &[usize] = if small { &[1000] } else { &[1, 1000, 100_000, 1_000_003] };
    for &rows in tops {
        for precision in [Precision::Bf16, Precision::Int8] {
            let what = format!("top of {rows} x 128 {precision:?}");
            pass &= guarded("shapes", what, || top_k(engine, (rows, precision), &mut rng));
        }
    }
    Ok(pass)
}

fn attention(engine: &CudaEngine, shape: Shape, form: Form, seed: u64, worst: &mut Worst) -> Result<(), Failure> {
    let what = format!("{} x {} keys, h{}", shape.jobs, shape.keys, shape.heads);
    let world = World::new(engine, shape, seed)?;
    // Poisoned: every byte 0xff is a NaN, so what a kernel leaves out shows.
    engine.device().fill(&world.out, world.out.len(), 0xff)?;
    world
        .start(engine, form)
        .and_then(|()| engine.device().synchronize())
        .map_err(|e| format!("{form:?} {what}: {e}"))?;
    let (found, plain) = world.errors(engine, 12 * shape.jobs, seed)?;
    worst.shapes += 1;
    if found > 2.0 * plain + 1e-6 {
        worst.failed += 1;
        let kind = if shape.causal { "history" } else { "candidates" };
        let what = format!("{kind} {form:?} d{} {what}, bias {}, seed {seed}", shape.head_dim, shape.bias);
        row("shapes", what, format!("error {found:.2e}"), format!("bf16 {plain:.2e}"), "2x bf16", "FAIL");
    }
    // Of the smallest shapes rounding is all there is: nothing to divide by.
    let ratio = found / plain.max(1e-6);
    if ratio >= worst.ratio {
        (worst.ratio, worst.what) = (ratio, what);
    }
    Ok(())
}

fn top_k(engine: &CudaEngine, (rows, precision): (usize, Precision), rng: &mut StdRng) -> Result<bool, Failure> {
    let dim = 128;
    let k = rng.random_range(1..=K_MAX);
    let vectors: Vec<f32> = (0..rows * dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
    let query: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let eligible: Vec<u64> = (0..rows.div_ceil(64)).map(|_| rng.random()).collect();
    let mut search = ItemSearch::new(engine, precision, dim, rows)?;
    search.put(&(0..rows as u32).collect::<Vec<_>>(), &vectors)?;
    let found = search.find(&[Ask { vector: &query, k, eligible: Some(&eligible) }])?.swap_remove(0);
    let exact = |row: usize| -> f64 {
        let kept = precision.rounded(&vectors[row * dim..(row + 1) * dim]);
        kept.iter().zip(&query).map(|(v, q)| f64::from(*v) * f64::from(*q)).sum()
    };
    let may = |row: usize| eligible[row / 64] >> (row % 64) & 1 == 1;
    let mut best: Vec<(f64, usize)> = (0..rows).filter(|&row| may(row)).map(|row| (exact(row), row)).collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    best.truncate(k);
    // Rounding may swap neighbours, so scores are compared place by place, and each row with its own score.
    let mut right = found.len() == best.len();
    let mut worst = 0.0_f64;
    for ((row, score), (want, _)) in found.iter().zip(&best) {
        let row = *row as usize;
        right &= row < rows && may(row);
        worst = worst.max((f64::from(*score) - want).abs());
        worst = worst.max(if row < rows { (exact(row) - f64::from(*score)).abs() } else { f64::INFINITY });
    }
    let ok = right && worst < 1e-3;
    let what = format!("top {k} of {rows} x {dim} {precision:?}, half eligible");
    row("shapes", what, format!("error {worst:.2e}"), "f64 on the rounded vectors", "1e-3", passed(ok));
    Ok(ok)
}
