//! The table of goals: each figure beside a peer that was measured in the same run.

use std::sync::Arc;
use std::time::Instant;

use longbow_kernels::Engine;
use longbow_kernels::cuda::{Ask, CudaEngine, CudaError, ItemSearch, Precision, TopK, TopKScratch, Vectors, bf16};
use longbow_model::cuda::CudaEncoder;
use longbow_model::{Advance, Config, CpuEncoder, Encoder, Finish, ItemTable, Model, Score, Seed, Window};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Failure;
use crate::peers;
use crate::table::{guarded, met, row};
use crate::world::{Shape, World};

/// Measurements of one figure, of which the median counts.
const ROUNDS: usize = 11;

/// Public CUTLASS figures (H100 SXM, causal, batch 16, 4 heads), TFLOP/s: width of a head, length, figure.
const PUBLIC: [(usize, usize, f64); 6] = [
    (64, 4096, 394.0),
    (64, 8192, 467.0),
    (64, 16_384, 468.0),
    (128, 4096, 523.0),
    (128, 8192, 556.0),
    (128, 16_384, 571.0),
];

/// Median milliseconds of what `work` starts.
pub(crate) fn median(engine: &CudaEngine, work: impl Fn() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    work()?;
    let mut times = (0..ROUNDS).map(|_| engine.device().time(&work)).collect::<Result<Vec<f32>, _>>()?;
    times.sort_by(f32::total_cmp);
    Ok(f64::from(times[ROUNDS / 2]))
}

/// Every figure is a row of its own, and one that fails hides no other; false where one did.
pub(crate) fn run(engine: &Arc<CudaEngine>, small: bool) -> bool {
    if small {
        println!("Sizes are shrunk, so these figures only show that everything runs.\n");
    }
    let (mut matmul, mut bandwidth, mut pass) = (None, None, true);
    pass &= guarded("goals", "matrix product", || {
        matmul = peers::matrix_product(engine, if small { 64 } else { 8192 })?;
        Ok(true)
    });
    pass &= guarded("goals", "copy on the device", || {
        bandwidth = Some(peers::copy_bandwidth(engine, if small { 1 << 20 } else { 1 << 30 })?);
        Ok(true)
    });
    let shrink = if small { 64 } else { 1 };
    pass &= guarded("goals", "one user", || serving(engine, small));
    for (head_dim, keys, public) in PUBLIC {
        let what = format!("history, {keys} keys, d{head_dim}");
        pass &= guarded("goals", what, || history(engine, (head_dim, keys / shrink, public), matmul, small));
    }
    pass &= guarded("goals", "exact top-k", || top_k(engine, if small { 2000 } else { 1_000_000 }, bandwidth));
    pass &= guarded("goals", "projection", || peers::projection(engine, if small { 200 } else { 16_384 }));
    pass
}

fn history(
    engine: &CudaEngine,
    (head_dim, keys, public): (usize, usize, f64),
    matmul: Option<f64>,
    small: bool,
) -> Result<bool, Failure> {
    let jobs = if small { 2 } else { 16 };
    let shape = Shape { jobs, keys, heads: 4, head_dim, causal: true, bias: false, ragged: false, candidates: 0 };
    let plain = World::new(engine, shape, 1)?;
    let form = engine.form();
    let ms = median(engine, || plain.start(engine, form))?;
    let rate = plain.flops() / (ms * 1e9);
    let mut peer = format!("public {public:.0} TFLOP/s: {:.2}x", rate / public);
    let (mut goal, mut least) = ("1.0x of the public figure".to_owned(), rate / public);
    if let (Some(matmul), 128) = (matmul, head_dim) {
        peer += &format!("; product: {:.2}", rate / matmul);
        goal += ", 0.55 of the product";
        least = least.min(rate / matmul / 0.55);
    }
    row(
        "goals",
        format!("history {jobs} x {keys}, h4 d{head_dim}, no bias"),
        format!("{rate:.0} TFLOP/s ({ms:.3} ms)"),
        peer,
        &goal,
        met(least, 1.0),
    );
    drop(plain);
    let biased = World::new(engine, Shape { bias: true, ..shape }, 1)?;
    let with = median(engine, || biased.start(engine, form))?;
    let what = format!("history {jobs} x {keys}, h4 d{head_dim}, bias");
    let peer = format!("without: {:.2}x", ms / with);
    row("goals", what, format!("{with:.3} ms"), peer, "0.8x of without", met(ms / with, 0.8));
    Ok(true)
}

/// Device time of the search kernels over vectors of either precision, and a search as the server asks for it.
fn top_k(engine: &CudaEngine, rows: usize, bandwidth: Option<f64>) -> Result<bool, Failure> {
    let (dim, device, k) = (128, engine.device(), 1000.min(rows / 2));
    let mut rng = StdRng::seed_from_u64(3);
    // Any bytes are int8 numbers, and as halves of bf16 below they are made from numbers that are sound.
    let drawn: Vec<u8> = (0..1000 * dim).flat_map(|_| bf16(rng.random_range(-1.0_f32..1.0)).to_le_bytes()).collect();
    let numbers = device.alloc::<u8>(2 * rows * dim)?;
    for at in (0..numbers.len()).step_by(drawn.len()) {
        device.upload_slice(&numbers, at, &drawn[..drawn.len().min(numbers.len() - at)])?;
    }
    let scales = device.alloc::<f32>(rows)?;
    device.upload_slice(&scales, 0, &vec![1.0 / 127.0; rows])?;
    let queries = device.alloc(dim)?;
    device.upload_slice(&queries, 0, &(0..dim).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>())?;
    let (out_rows, out_scores) = (device.alloc::<u32>(k)?, device.alloc::<f32>(k)?);
    let scratch = TopKScratch::new(device, rows, 1)?;
    let bf16 = ("bf16", 2, Vectors::Bf16(numbers.part(0, rows * dim)));
    let int8 = Vectors::Int8 { numbers: numbers.part(0, rows * dim), scales: scales.region() };
    for (name, bytes, vectors) in [bf16, ("int8", 1, int8)] {
        let search = TopK { vectors, dim, queries: queries.region(), eligible: None, eligible_words: 0, k };
        let ms = median(engine, || engine.top_k(&search, &scratch, (out_rows.region(), out_scores.region())))?;
        let rate = (rows * dim * bytes) as f64 / (ms / 1e3);
        let part = bandwidth.map_or(0.0, |bandwidth| rate / bandwidth);
        let what = format!("exact top {k} of {rows} x {dim} {name}");
        let figure = format!("{:.2} TB/s ({ms:.3} ms)", rate / 1e12);
        row("goals", what, figure, format!("copy: {part:.2}"), "0.7 of the copy", met(part, 0.7));
    }
    drop((numbers, scales, scratch));
    for precision in [Precision::Bf16, Precision::Int8] {
        let mut search = ItemSearch::new(engine, precision, dim, rows)?;
        let some: Vec<f32> = (0..1000 * dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
        for at in (0..rows).step_by(1000) {
            let slots: Vec<u32> = (at..rows.min(at + 1000)).map(|row| row as u32).collect();
            search.put(&slots, &some[..slots.len() * dim])?;
        }
        let eligible: Vec<u64> = (0..rows.div_ceil(64)).map(|_| rng.random()).collect();
        let ask = Ask { vector: &some[..dim], k, eligible: Some(&eligible) };
        let mut times = Vec::new();
        for _ in 0..=ROUNDS {
            let began = Instant::now();
            search.find(&[ask])?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let figure = format!("{:.3} ms", times[times.len() / 2]);
        let what = format!("exact top {k} of {rows} x {dim} as the server asks, half eligible, {precision:?}");
        row("goals", what, figure, "wall clock, with all copies", "", "");
    }
    Ok(true)
}

/// One user of 10,000 events, d = 256, 4 layers: cold and warm, on the wall clock.
fn serving(engine: &Arc<CudaEngine>, small: bool) -> Result<bool, Failure> {
    let events = if small { 150 } else { 10_000 };
    let candidates_len = if small { 20 } else { 500 };
    let config = Config {
        max_sequence_len: events,
        max_output_len: 16,
        embedding_dim: 256,
        item_embedding_dim: 240,
        action_embedding_dim: 16,
        num_actions: 8,
        num_blocks: if small { 1 } else { 4 },
        num_heads: 4,
        attention_dim: 64,
        linear_dim: 64,
        num_items: 1000,
        num_time_buckets: 128,
        normalization: "rel_bias".to_owned(),
        linear_activation: "silu".to_owned(),
        concat_ua: false,
        epsilon: 1e-6,
        num_tasks: 3,
    };
    let model = Arc::new(Model::seeded(config, &Seed { seed: 5, content_dim: None, head_hidden: 256 })?);
    let items = ItemTable::new(&model);
    let mut rng = StdRng::seed_from_u64(9);
    let slots: Vec<u32> = (0..events).map(|_| rng.random_range(1..1000)).collect();
    let actions: Vec<u16> = (0..events).map(|_| rng.random_range(1..8)).collect();
    let times: Vec<i64> = (0..events).map(|i| 1_700_000_000 + 600 * i64::try_from(i).unwrap_or(0)).collect();
    let window = Window { items: &slots, actions: &actions, times: &times };
    let candidates: Vec<u32> = (0..candidates_len).map(|_| rng.random_range(1..1000)).collect();
    let query_time = times[events - 1] + 30;
    let mut encoder = CudaEncoder::new(Arc::clone(&model), Arc::clone(engine), if small { 64 << 20 } else { 4 << 30 })?;
    let (mut cold, mut warm, mut probs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS + 2 {
        let began = Instant::now();
        let mut state = encoder.new_state();
        encoder.advance(&mut [Advance { state: &mut state, window, items: &items, rows_max: usize::MAX }])?;
        let encoded = encoder.finish(&[Finish { state: &state, window, items: &items, query_time }])?;
        cold.push(began.elapsed().as_secs_f64() * 1e3);
        for _ in 0..3 {
            let began = Instant::now();
            let job = Score { encoded: &encoded[0], items: &items, candidates: &candidates };
            probs = encoder.score(&[job])?.swap_remove(0).probs;
            warm.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    cold.sort_by(f64::total_cmp);
    warm.sort_by(f64::total_cmp);
    let clock = "wall clock, with all copies";
    for (what, times, goal) in [
        (format!("one user cold, {events} events, d 256"), &cold, 0.8),
        (format!("warm, {candidates_len} candidates"), &warm, 0.1),
    ] {
        let ms = times[times.len() / 2];
        row("goals", what, format!("{ms:.3} ms"), clock, &format!("{goal} ms"), met(goal / ms, 1.0));
    }
    if small {
        let mut cpu = CpuEncoder::new(Arc::clone(&model), Arc::new(Engine::new(1, None)?));
        let mut state = cpu.new_state();
        cpu.advance(&mut [Advance { state: &mut state, window, items: &items, rows_max: usize::MAX }])?;
        let encoded = cpu.finish(&[Finish { state: &state, window, items: &items, query_time }])?;
        let other = cpu.score(&[Score { encoded: &encoded[0], items: &items, candidates: &candidates }])?;
        let worst = probs.iter().zip(&other[0].probs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        row("goals", "probabilities, GPU and CPU", format!("{worst:.1e} apart"), "", "", "");
    }
    Ok(true)
}
