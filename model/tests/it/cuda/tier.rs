//! States that leave the device for host memory and come back: against states that never leave, bit by bit.

use std::time::Duration;

use longbow_model::cuda::CudaEncoder;
use longbow_model::{Encoder, Finish, HostTier, ItemTable, Score, StateCache, StateKey, UserState};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::support::{self, Events};
use super::{advance, device, encoder, finish};

/// Bytes of a page of `support::config`: 2 layers, K and V, 64 rows of 128 bf16, and the rows' times.
const PAGE: usize = 2 * 2 * 64 * 128 * 2 + 512;

fn score(encoder: &mut dyn Encoder, encoded: &longbow_model::Encoded, items: &ItemTable) -> Vec<f32> {
    let candidates: Vec<u32> = (1..30).collect();
    encoder.score(&[Score { encoded, items, candidates: &candidates }]).unwrap().remove(0).probs
}

#[test]
fn a_state_that_was_parked_comes_back_bit_by_bit() {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(300), 21);
    let items = ItemTable::new(&model);
    let mut gpu = CudaEncoder::new(std::sync::Arc::clone(&model), engine, 12 * PAGE).unwrap();
    gpu.set_host_tier(6 * PAGE + 100).unwrap();
    let tier = gpu.host_tier().unwrap();
    assert_eq!((tier.bytes, gpu.host_pages_free()), (6 * PAGE, 6));
    assert!(tier.rate > 0.0 && tier.rate.is_finite());
    let mut rng = StdRng::seed_from_u64(22);
    let (one, other) = (Events::random(&mut rng, 250, items.rows()), Events::random(&mut rng, 200, items.rows()));
    let mut state = gpu.new_state();
    advance(&mut gpu, &mut state, one.window(), &items, usize::MAX);
    let before = finish(&mut gpu, &state, one.window(), &items);
    let probs = score(&mut gpu, &before, &items);
    let (rows, bytes) = (state.rows(), state.bytes());
    assert!(gpu.park(&mut state));
    // The request in flight still reads the pages; the state counts as before, but computes nothing while it is away.
    assert_eq!(score(&mut gpu, &before, &items), probs);
    assert_eq!((state.rows_valid(&one.window()), state.bytes()), (rows, bytes));
    let job = Finish { state: &state, window: one.window(), items: &items, query_time: 1_900_000_000 };
    assert!(gpu.finish(&[job]).is_err(), "a parked state is no state to finish");
    let query = before.query().unwrap().to_vec();
    drop(before);
    assert_eq!((gpu.pool().free_pages(), gpu.host_pages_free()), (12, 2));
    // Its pages go to somebody else, who fills them with other numbers.
    let mut more = gpu.new_state();
    advance(&mut gpu, &mut more, other.window(), &items, usize::MAX);
    assert!(!gpu.park(&mut more), "4 pages where 2 are left");
    gpu.unpark(&mut state).unwrap();
    assert_eq!(gpu.host_pages_free(), 6);
    let after = finish(&mut gpu, &state, one.window(), &items);
    assert_eq!(after.query().unwrap(), query);
    assert_eq!(score(&mut gpu, &after, &items), probs);
    drop((state, more, after));
    assert_eq!(gpu.pool().free_pages(), 12, "a page was not given back");
}

#[test]
fn no_room_on_the_device_leaves_a_parked_state_where_it_is() {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(300), 23);
    let items = ItemTable::new(&model);
    let mut gpu = CudaEncoder::new(std::sync::Arc::clone(&model), engine, 5 * PAGE).unwrap();
    gpu.set_host_tier(4 * PAGE).unwrap();
    let mut rng = StdRng::seed_from_u64(24);
    let (one, other) = (Events::random(&mut rng, 150, items.rows()), Events::random(&mut rng, 200, items.rows()));
    let (mut first, mut second) = (gpu.new_state(), gpu.new_state());
    advance(&mut gpu, &mut first, one.window(), &items, usize::MAX);
    assert!(gpu.park(&mut first));
    advance(&mut gpu, &mut second, other.window(), &items, usize::MAX);
    let error = gpu.unpark(&mut first).unwrap_err();
    assert!(error.to_string().contains("out of memory") && !gpu.lost(), "{error}");
    drop(second);
    gpu.unpark(&mut first).unwrap();
    assert!(finish(&mut gpu, &first, one.window(), &items).query().is_some());
    // A parked state that is advanced all the same begins anew, rather than from what is not there.
    assert!(gpu.park(&mut first));
    advance(&mut gpu, &mut first, one.window(), &items, usize::MAX);
    assert_eq!((first.rows(), gpu.host_pages_free()), (149, 4));
}

/// What a cache of two tiers does with users who come in any order: the naive model never moves a state.
fn two_tiers(seed: u64, visits: usize) {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(200), 25);
    let items = ItemTable::new(&model);
    let mut still = encoder(&model, &engine);
    let mut moving = CudaEncoder::new(std::sync::Arc::clone(&model), engine, 9 * PAGE).unwrap();
    moving.set_host_tier(6 * PAGE).unwrap();
    let tier = moving.host_tier().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let users: Vec<Events> = (0..6).map(|_| Events::random(&mut rng, 200, items.rows())).collect();
    let mut seen = vec![1_usize; users.len()];
    let mut naive: Vec<UserState> = users.iter().map(|_| still.new_state()).collect();
    let (mut cache, mut parked) = (StateCache::new(4 * PAGE), StateCache::new(tier.bytes));
    let (mut hits, mut moved) = (0, 0);
    for _ in 0..visits {
        let user = rng.random_range(0..users.len());
        seen[user] = (seen[user] + rng.random_range(0..60)).min(200);
        let window = users[user].window().first(seen[user]);
        let key = StateKey { user: user as u128, version: model.version() };
        let state = cache.take(&key).or_else(|| {
            let mut state = parked.take(&key)?;
            moving.unpark(&mut state).unwrap();
            hits += 1;
            Some(state)
        });
        let mut state = state.unwrap_or_else(|| moving.new_state());
        let held = state.rows_valid(&window);
        advance(&mut moving, &mut state, window, &items, usize::MAX);
        // The naive state goes in the same steps, so that every bit is the same.
        if held == 0 {
            naive[user] = still.new_state();
        }
        advance(&mut still, &mut naive[user], window, &items, usize::MAX);
        let (a, b) = (finish(&mut moving, &state, window, &items), finish(&mut still, &naive[user], window, &items));
        assert_eq!(a.query(), b.query(), "seed {seed}, user {user} after {} events", seen[user]);
        assert_eq!(score(&mut moving, &a, &items), score(&mut still, &b, &items));
        for (key, mut state) in cache.put(key, state) {
            drop(parked.make_room(state.bytes()));
            if moving.park(&mut state) {
                moved += 1;
                drop(parked.put(key, state));
            }
        }
        assert!(parked.bytes() <= tier.bytes && cache.bytes() <= 4 * PAGE);
    }
    assert!(hits > 0 && moved > 0 && parked.stats().evictions > 0, "seed {seed}: nothing was tried");
    drop((cache, parked));
    assert_eq!((moving.pool().free_pages(), moving.host_pages_free()), (9, 6), "a page was not given back");
}

#[test]
fn users_in_any_order_get_what_they_get_where_nothing_moves() {
    (31..34).for_each(|seed| two_tiers(seed, 30));
}

proptest! {
    /// The choice is of two times alone, and follows them.
    #[test]
    fn a_reload_pays_where_it_is_the_shorter(
        bytes in 1_usize..1 << 32, rate in 1e6_f64..1e11, recompute_us in 0_u64..1_000_000, more in 1_usize..1 << 30,
    ) {
        let tier = HostTier { bytes: 0, rate };
        let recompute = Duration::from_micros(recompute_us);
        let seconds = 50e-6 + bytes as f64 / rate;
        if (seconds - recompute.as_secs_f64()).abs() > 1e-6 {
            prop_assert_eq!(tier.pays(bytes, recompute), seconds < recompute.as_secs_f64());
        }
        prop_assert!(tier.pays(bytes, recompute) || !tier.pays(bytes + more, recompute), "more bytes never pay more");
        let stands_still = HostTier { bytes: 0, rate: 0.0 };
        prop_assert!(!stands_still.pays(bytes.max(4_000_000_000), Duration::from_secs(3_000)));
    }
}
