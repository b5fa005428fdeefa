//! The state cache against a naive model.

use longbow_model::{Advance, Encoder, ItemTable, StateCache, StateKey, UserState, Version};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::support::{self, Events};

/// States of 1, 40 and 300 events, and the item table they were made with.
fn states() -> Vec<UserState> {
    let model = support::model(support::config(400), 1);
    let (mut encoder, items) = (support::encoder(&model, 1), ItemTable::new(&model));
    let mut rng = StdRng::seed_from_u64(1);
    [2, 41, 301]
        .map(|len| {
            let events = Events::random(&mut rng, len, items.rows());
            let mut state = encoder.new_state();
            let job = Advance { state: &mut state, window: events.window(), items: &items, rows_max: usize::MAX };
            encoder.advance(&mut [job]).unwrap();
            assert_eq!(state.rows(), len - 1);
            state
        })
        .into()
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Take(u8),
    Put(u8, usize),
    Remove(u8),
    Peek(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0_u8..12).prop_map(Op::Take),
        5 => (0_u8..12, 0_usize..3).prop_map(|(key, size)| Op::Put(key, size)),
        1 => (0_u8..12).prop_map(Op::Remove),
        1 => (0_u8..12).prop_map(Op::Peek),
    ]
}

fn key(n: u8) -> StateKey {
    StateKey { user: u128::from(n) << 64, version: Version([n % 2; 32]) }
}

/// Oldest first, with the bytes each counts.
#[derive(Default)]
struct Naive {
    list: Vec<(StateKey, usize, usize)>,
    evictions: u64,
}

impl Naive {
    fn bytes(&self) -> usize {
        self.list.iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn remove(&mut self, key: StateKey) -> Option<usize> {
        let at = self.list.iter().position(|(k, _, _)| *k == key)?;
        Some(self.list.remove(at).1)
    }

    fn put(&mut self, key: StateKey, (rows, bytes): (usize, usize), budget: usize) {
        self.remove(key);
        if bytes > budget {
            self.evictions += 1;
            return;
        }
        while self.bytes() + bytes > budget {
            self.list.remove(0);
            self.evictions += 1;
        }
        self.list.push((key, rows, bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_cache_is_a_least_recently_used_list(ops in prop::collection::vec(op(), 1..80), share in 1_usize..40) {
        static STATES: std::sync::LazyLock<Vec<UserState>> = std::sync::LazyLock::new(states);
        // What one entry counts, from a cache that holds nothing else.
        let bytes = |state: &UserState| {
            let mut alone = StateCache::new(usize::MAX);
            alone.put(key(0), state.clone());
            assert!(alone.bytes() >= state.bytes());
            alone.bytes()
        };
        let sizes: Vec<(usize, usize)> = STATES.iter().map(|s| (s.rows(), bytes(s))).collect();
        // From less than the largest state to a few of them.
        let budget = sizes[2].1 * share / 10;
        let (mut cache, mut naive) = (StateCache::new(budget), Naive::default());
        for op in ops {
            match op {
                Op::Take(n) => prop_assert_eq!(cache.take(&key(n)).map(|s| s.rows()), naive.remove(key(n))),
                Op::Remove(n) => prop_assert_eq!(cache.remove(&key(n)).map(|s| s.rows()), naive.remove(key(n))),
                Op::Put(n, size) => {
                    cache.put(key(n), STATES[size].clone());
                    naive.put(key(n), sizes[size], budget);
                }
                Op::Peek(n) => {
                    let wanted = naive.list.iter().find(|(k, _, _)| *k == key(n)).map(|(_, rows, _)| *rows);
                    prop_assert_eq!(cache.peek(&key(n)).map(UserState::rows), wanted);
                }
            }
            prop_assert_eq!(cache.len(), naive.list.len());
            prop_assert_eq!(cache.is_empty(), naive.list.is_empty());
            prop_assert_eq!(cache.bytes(), naive.bytes());
            prop_assert!(cache.bytes() <= cache.budget());
            prop_assert_eq!(cache.stats().evictions, naive.evictions);
        }
    }
}

#[test]
fn hits_and_misses_are_counted() {
    let mut cache = StateCache::new(usize::MAX);
    assert!(cache.take(&key(1)).is_none());
    cache.put(key(1), states().remove(0));
    assert!(cache.take(&key(1)).is_some() && cache.take(&key(1)).is_none());
    assert_eq!((cache.stats().hits, cache.stats().misses), (1, 2));
    assert_eq!(cache.bytes(), 0);
}
