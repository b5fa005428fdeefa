//! Seeded weights: users and items must make a difference, at the size that advertising has.

use longbow_model::{Advance, Encoder, Finish, ItemTable, Score};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::support::{self, Events};

#[test]
fn probabilities_have_their_size_and_differ_by_user_and_item() {
    let mut config = support::config(200);
    config.num_items = 400;
    let model = support::model(config, 11);
    let (mut encoder, items) = (support::encoder(&model, 2), ItemTable::new(&model));
    let mut rng = StdRng::seed_from_u64(2);
    let candidates: Vec<u32> = (1..=400).collect();
    let (mut by_user, mut queries) = (Vec::new(), Vec::new());
    for len in [1, 2, 5, 20, 60, 120, 200, 200] {
        let events = Events::random(&mut rng, len, items.rows());
        let (mut state, window) = (encoder.new_state(), events.window());
        encoder.advance(&mut [Advance { state: &mut state, window, items: &items, rows_max: 300 }]).unwrap();
        let query_time = events.times[len - 1] + 60;
        let encoded = encoder.finish(&[Finish { state: &state, window, items: &items, query_time }]).unwrap();
        queries.push(encoded[0].query().unwrap().to_vec());
        let job = Score { encoded: &encoded[0], items: &items, candidates: &candidates };
        by_user.push(encoder.score(&[job]).unwrap().remove(0));
    }
    for (task, range) in [(0, 0.01..0.03), (1, 0.03..0.10), (2, 0.35..0.65)] {
        let all: Vec<Vec<f32>> = by_user.iter().map(|s| (0..400).map(|c| s.row(c)[task]).collect()).collect();
        let mean = |xs: &[f32]| xs.iter().sum::<f32>() / xs.len() as f32;
        let means: Vec<f32> = all.iter().map(|user| mean(user)).collect();
        println!("task {task}: mean by user {means:?}");
        assert!(range.contains(&f64::from(mean(&means))), "task {task}: {means:?}");
        for user in &all {
            let middle = mean(user);
            let spread = (user.iter().map(|p| (p - middle).powi(2)).sum::<f32>() / 400.0).sqrt();
            assert!(spread > 0.1 * middle, "task {task}: items spread by {spread} about {middle}");
        }
        for (a, b) in all.iter().zip(&all[1..]) {
            let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs() / a).fold(0.0, f32::max);
            assert!(apart > 0.1, "task {task}: two users differ by {apart} at most");
        }
    }
    for (a, b) in queries.iter().zip(&queries[1..]) {
        let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert!(cosine < 0.9, "two users ask for much the same: {cosine}");
    }
}
