//! Fresh random shapes against f64: attention in every form, and the top-k.

use std::sync::Arc;

use longbow_kernels::cuda::{Ask, CudaEngine, Form, ItemSearch, K_MAX, Precision};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Failure;
use crate::world::{Shape, World};

pub(crate) fn run(engine: &Arc<CudaEngine>, small: bool, seed: u64) -> Result<bool, Failure> {
    println!("| random shape | form | largest error | plain bf16 | |\n| --- | --- | --- | --- | --- |");
    let mut rng = StdRng::seed_from_u64(seed);
    let forms: &[Form] = if engine.form() == Form::Sm90 { &[Form::Sm90, Form::Sm80] } else { &[Form::Sm80] };
    let lengths: &[usize] =
        if small { &[1, 65, 200] } else { &[1, 2, 63, 64, 65, 127, 129, 500, 1000, 2049, 4096, 16_384] };
    let mut pass = true;
    for &keys in lengths {
        for head_dim in [32, 64, 128] {
            for (causal, bias) in [(true, true), (true, false), (false, true), (false, false)] {
                let jobs = if keys > 4096 { 1 } else { rng.random_range(1..4) };
                let heads = 128 / head_dim * rng.random_range(1..3);
                let candidates = rng.random_range(1..300);
                let shape = Shape { jobs, keys, heads, head_dim, causal, bias, ragged: true, candidates };
                for &form in forms {
                    pass &= attention(engine, shape, form, rng.random())?;
                }
            }
        }
    }
    let tops: &[usize] = if small { &[1000] } else { &[1, 1000, 100_000, 1_000_003] };
    for &rows in tops {
        for precision in [Precision::Bf16, Precision::Int8] {
            pass &= top_k(engine, (rows, precision), &mut rng)?;
        }
    }
    println!();
    Ok(pass)
}

fn attention(engine: &CudaEngine, shape: Shape, form: Form, seed: u64) -> Result<bool, Failure> {
    let world = World::new(engine, shape, seed)?;
    // Poisoned: every byte 0xff is a NaN, so what a kernel leaves out shows.
    engine.device().fill(&world.out, world.out.len(), 0xff)?;
    world.start(engine, form)?;
    let (found, plain) = world.errors(engine, 12 * shape.jobs, seed)?;
    let ok = found <= 2.0 * plain + 1e-6;
    println!(
        "| {} {} x {}, h{} d{}{} | {form:?} | {found:.2e} | {plain:.2e} | {} |",
        if shape.causal { "history" } else { "candidates" },
        shape.jobs,
        shape.keys,
        shape.heads,
        shape.head_dim,
        if shape.bias { " bias" } else { "" },
        if ok { "ok" } else { "FAIL" }
    );
    Ok(ok)
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
    let verdict = if ok { "ok" } else { "FAIL" };
    println!("| top {k} of {rows} x {dim} {precision:?}, half eligible | | {worst:.2e} | | {verdict} |");
    Ok(ok)
}
