//! Times the stages of a request on this machine: `cargo run --release -p longbow-model --example stages`.
//! Medians, microseconds. History lengths may be given as arguments.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints figures")]

use std::sync::Arc;
use std::time::Instant;

use longbow_kernels::Engine;
use longbow_model::{Advance, Config, CpuEncoder, Encoder, Finish, ItemTable, Model, Score, Seed, Window};

fn config() -> Config {
    Config {
        max_sequence_len: 10_238,
        max_output_len: 2,
        embedding_dim: 64,
        item_embedding_dim: 48,
        action_embedding_dim: 16,
        num_actions: 8,
        num_blocks: 2,
        num_heads: 2,
        attention_dim: 32,
        linear_dim: 32,
        num_items: 2000,
        num_time_buckets: 128,
        normalization: "rel_bias".to_owned(),
        linear_activation: "silu".to_owned(),
        concat_ua: false,
        epsilon: 1e-6,
        num_tasks: 3,
    }
}

fn median(mut work: impl FnMut(), times: usize) -> u128 {
    let mut taken: Vec<u128> = (0..times)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_micros()
        })
        .collect();
    taken.sort_unstable();
    taken[times / 2]
}

fn main() {
    let seed = Seed { seed: 1, content_dim: None, head_hidden: 64 };
    let model = Arc::new(Model::seeded(config(), &seed).unwrap());
    let items = ItemTable::new(&model);
    let engine = Arc::new(Engine::new(0, None).unwrap());
    println!("{:?}, {} threads; D 64, 2 layers, 2 heads of 32, N 10,240", engine.isa(), engine.threads());
    let mut encoder = CpuEncoder::new(Arc::clone(&model), engine);
    let candidates: Vec<u32> = (1..=500).collect();
    let mut lengths: Vec<usize> = std::env::args().skip(1).map(|len| len.parse().unwrap()).collect();
    if lengths.is_empty() {
        lengths = vec![20, 200, 1000, 10_000];
    }
    for len in lengths {
        let slots: Vec<u32> = (0..len).map(|i| u32::try_from(i * 7919 % 2000).unwrap() + 1).collect();
        let actions: Vec<u16> = (0..len).map(|i| u16::try_from(i % 7).unwrap() + 1).collect();
        let times: Vec<i64> = (0..len).map(|i| 1_700_000_000 + i64::try_from(i).unwrap() * 997).collect();
        let window = Window { items: &slots, actions: &actions, times: &times };
        let query_time = times[len - 1] + 60;
        let repeats = if len > 5000 { 9 } else { 41 };
        let mut state = encoder.new_state();
        let cold = median(
            || {
                state = encoder.new_state();
                let job = Advance { state: &mut state, window, items: &items, rows_max: usize::MAX };
                encoder.advance(&mut [job]).unwrap();
            },
            repeats,
        );
        let verify = median(|| assert_eq!(std::hint::black_box(&state).rows_missing(&window), 0), 101);
        let mut shorter = state.clone();
        let append = median(
            || {
                shorter = encoder.new_state();
                shorter.clone_from(&state);
                let mut last = times.clone();
                last[len.saturating_sub(10)] += 1;
                let window = Window { times: &last, ..window };
                let job = Advance { state: &mut shorter, window, items: &items, rows_max: usize::MAX };
                encoder.advance(&mut [job]).unwrap();
            },
            repeats,
        );
        let finish = Finish { state: &state, window, items: &items, query_time };
        let last = median(|| drop(encoder.finish(&[finish]).unwrap()), repeats);
        let encoded = encoder.finish(&[finish]).unwrap();
        let job = Score { encoded: &encoded[0], items: &items, candidates: &candidates };
        let score = median(|| drop(encoder.score(&[job]).unwrap()), repeats);
        println!(
            "{len:>6} events: cold encode {cold:>7}  10 late events {append:>5}  verify {verify:>3}  last row {last:>5}  \
             500 candidates {score:>6}  state {} KiB",
            state.bytes() / 1024
        );
    }
}
