//! Cached encoding equals uncached encoding, over random lives of users.

use std::sync::Arc;

use longbow_kernels::KvFormat;
use longbow_model::{
    Advance, CpuEncoder, Encoder, Finish, ItemTable, Model, ReferenceEncoder, Score, StateCache, StateKey, UserState,
    window_start,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{self, Events};

/// Largest relative error of a row between cached and uncached, and between either and the f64 reference.
const TOLERANCE: f64 = 2e-5;
const USERS: usize = 3;
const CANDIDATES: [u32; 4] = [1, 9, 33, 60];

#[derive(Debug, Clone)]
enum Step {
    /// A user's next events; a few at a time or many.
    Append { user: usize, events: usize },
    /// Events which come late: the past changes at this distance from the end.
    Late { user: usize, back: usize },
    /// States are brought up to date in the background, in slices of so many rows.
    Refresh { rows_max: usize },
    /// All users ask, so many seconds after their last event, encoding in slices of so many rows.
    Request { delay: i64, rows_max: usize },
    /// The cache is emptied down to so many states.
    Evict { user: usize },
}

fn step(most: usize) -> impl Strategy<Value = Step> {
    let rows_max = prop_oneof![Just(1_usize), 2_usize..60, Just(255), Just(usize::MAX)];
    prop_oneof![
        3 => (0..USERS, 0_usize..4).prop_map(|(user, events)| Step::Append { user, events }),
        2 => (0..USERS, 1..most).prop_map(|(user, events)| Step::Append { user, events }),
        1 => (0..USERS, 1_usize..40).prop_map(|(user, back)| Step::Late { user, back }),
        1 => rows_max.clone().prop_map(|rows_max| Step::Refresh { rows_max }),
        4 => (prop_oneof![Just(0_i64), 1_i64..1_000_000], rows_max)
            .prop_map(|(delay, rows_max)| Step::Request { delay, rows_max }),
        1 => (0..USERS).prop_map(|user| Step::Evict { user }),
    ]
}

struct World {
    model: Arc<Model>,
    items: ItemTable,
    encoder: CpuEncoder,
    reference: ReferenceEncoder,
    cache: StateCache,
    users: Vec<Events>,
    rng: StdRng,
    worst: f64,
}

impl World {
    fn new(max_sequence_len: usize, budget: usize) -> Self {
        let model = support::model(support::config(max_sequence_len), 21);
        Self {
            items: ItemTable::new(&model),
            encoder: support::encoder(&model, 2),
            reference: ReferenceEncoder::new(&model).unwrap(),
            cache: StateCache::new(budget),
            users: vec![Events::default(); USERS],
            rng: StdRng::seed_from_u64(22),
            worst: 0.0,
            model,
        }
    }

    fn key(&self, user: usize) -> StateKey {
        StateKey { user: user as u128, version: self.model.version() }
    }

    fn start(&self, user: usize) -> usize {
        window_start(self.users[user].items.len(), self.model.config().max_sequence_len)
    }

    fn take(&mut self, user: usize) -> UserState {
        let key = self.key(user);
        self.cache.take(&key).unwrap_or_else(|| self.encoder.new_state())
    }

    /// One call of `advance` for all users; the states as they are then.
    fn advance(&mut self, states: &mut [UserState], rows_max: usize) {
        let missing: Vec<usize> =
            (0..USERS).map(|user| states[user].rows_missing(&self.users[user].from(self.start(user)))).collect();
        let starts: Vec<usize> = (0..USERS).map(|user| self.start(user)).collect();
        let mut jobs: Vec<Advance<'_>> = states
            .iter_mut()
            .enumerate()
            .map(|(user, state)| Advance {
                state,
                window: self.users[user].from(starts[user]),
                items: &self.items,
                rows_max,
            })
            .collect();
        self.encoder.advance(&mut jobs).unwrap();
        for user in 0..USERS {
            let left = states[user].rows_missing(&self.users[user].from(starts[user]));
            assert_eq!(left, missing[user].saturating_sub(rows_max), "rows_missing says what advance does");
        }
    }

    fn compare(&mut self, found: &[f32], wanted: &[f32], width: usize) {
        let error = support::row_error(found, wanted, width);
        assert!(error <= TOLERANCE, "error {error}");
        self.worst = self.worst.max(error);
    }

    fn request(&mut self, delay: i64, rows_max: usize) {
        let mut states: Vec<UserState> = (0..USERS).map(|user| self.take(user)).collect();
        while (0..USERS).any(|u| states[u].rows_missing(&self.users[u].from(self.start(u))) > 0) {
            self.advance(&mut states, rows_max);
        }
        for (user, state) in states.into_iter().enumerate() {
            let start = self.start(user);
            let events = self.users[user].clone();
            let window = events.from(start);
            let query_time = window.times.last().unwrap_or(&0) + delay;
            let items = self.items.clone();
            let job = Finish { state: &state, window, items: &items, query_time };
            let encoded = self.encoder.finish(&[job]).unwrap().remove(0);
            let score = Score { encoded: &encoded, items: &items, candidates: &CANDIDATES };
            let rows = self.encoder.candidate_rows(&score).unwrap();
            let probs = self.encoder.score(&[score]).unwrap().remove(0).probs;

            // Uncached: the whole window at once, and a state made from nothing.
            let whole = self.encoder.encode_rows(window, &items, query_time).unwrap();
            let history = self.reference.history(window, &items, query_time).unwrap();
            self.compare(&whole, &history.rows().unwrap(), 26);
            let mut fresh = self.encoder.new_state();
            let advance = Advance { state: &mut fresh, window, items: &items, rows_max: usize::MAX };
            self.encoder.advance(&mut [advance]).unwrap();
            let uncached = self.encoder.finish(&[Finish { state: &fresh, ..job }]).unwrap().remove(0);
            let uncached_score = Score { encoded: &uncached, ..score };
            let uncached_probs = self.encoder.score(&[uncached_score]).unwrap().remove(0).probs;
            self.compare(&probs, &uncached_probs, 3);
            if let Some(query) = encoded.query() {
                self.compare(query, uncached.query().unwrap(), 18);
                self.compare(query, &history.query(18, 1e-6).unwrap().unwrap(), 18);
            }
            let wanted = self.reference.candidate_rows(&history, &items, &CANDIDATES).unwrap();
            self.compare(&rows, &wanted, 26);
            let wanted = self.reference.probabilities(&wanted, &items, &CANDIDATES).unwrap();
            self.compare(&probs, &wanted, 3);
            let key = self.key(user);
            self.cache.put(key, state);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { user, events } => {
                let rows = self.items.rows();
                self.users[user].append(&mut self.rng, events, rows);
            }
            Step::Late { user, back } => {
                let events = &mut self.users[user];
                let len = events.items.len();
                if back <= len {
                    // The item, the action or only the time of an event in the past changes.
                    let at = len - back;
                    match self.rng.random_range(0..3) {
                        0 => events.items[at] = events.items[at] % 60 + 1,
                        1 => events.actions[at] = events.actions[at] % 7 + 1,
                        _ => events.times[at] += self.rng.random_range(0..1000),
                    }
                }
            }
            Step::Refresh { rows_max } => {
                let mut states: Vec<UserState> = (0..USERS).map(|user| self.take(user)).collect();
                self.advance(&mut states, rows_max);
                for (user, state) in states.into_iter().enumerate() {
                    let key = self.key(user);
                    self.cache.put(key, state);
                }
            }
            Step::Request { delay, rows_max } => self.request(delay, rows_max),
            Step::Evict { user } => {
                let key = self.key(user);
                self.cache.remove(&key);
            }
        }
    }
}

fn live(mut world: World, steps: &[Step]) {
    for step in steps {
        world.step(step);
    }
    world.request(5, 3);
    println!("largest error {:.1e}, {:?}", world.worst, world.cache.stats());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    /// Short windows: overflow and the first events are met all the time; the budget holds one or two states.
    #[test]
    fn cached_equals_uncached_in_short_windows(steps in prop::collection::vec(step(25), 1..30)) {
        live(World::new(24, 30_000), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    /// Long windows: several blocks of the state.
    #[test]
    fn cached_equals_uncached_across_blocks(steps in prop::collection::vec(step(500), 1..14)) {
        live(World::new(700, usize::MAX), &steps);
    }
}

proptest! {
    /// The window never exceeds its length, keeps at least 7/8 of it, and moves once in N/8 events.
    #[test]
    fn the_window_moves_once_in_an_eighth(max in 8_usize..20_000, total in 0_usize..100_000) {
        let start = window_start(total, max);
        prop_assert!(total - start <= max);
        prop_assert!(start == 0 || total - start > max - max / 8);
        prop_assert_eq!(start % (max / 8), 0);
        prop_assert!(window_start(total + 1, max) >= start);
        let moves = (total..total + max / 8).filter(|&t| window_start(t + 1, max) != window_start(t, max)).count();
        prop_assert_eq!(moves, usize::from(total + max / 8 > max || start > 0));
    }
}

/// A state is no more than the rows it holds call for.
#[test]
fn bytes_follow_the_rows() {
    let model = support::model(support::config(700), 1);
    let (mut encoder, items) = (support::encoder(&model, 1), ItemTable::new(&model));
    let events = Events::random(&mut StdRng::seed_from_u64(1), 700, items.rows());
    let mut state = encoder.new_state();
    let empty = state.bytes();
    let per_event = model.config().state_bytes_per_event();
    for rows in [1, 16, 17, 200, 256, 257, 600] {
        let window = events.window().first(rows + 1);
        encoder.advance(&mut [Advance { state: &mut state, window, items: &items, rows_max: 999 }]).unwrap();
        let bytes = state.bytes() - empty;
        assert!(bytes >= rows * per_event, "{rows} rows in {bytes} bytes");
        assert!(bytes <= (2 * rows + 16) * per_event + 1000, "{rows} rows in {bytes} bytes");
    }
}

/// In bf16 the K/V of a state take half the bytes, and so one budget keeps about twice the users.
#[test]
fn states_in_bf16_take_half_the_memory() {
    let config = longbow_model::Config { attention_dim: 32, linear_dim: 32, ..support::config(700) };
    let model = support::model(config, 1);
    let items = ItemTable::new(&model);
    let events = Events::random(&mut StdRng::seed_from_u64(1), 601, items.rows());
    let state = |format| {
        let mut encoder = support::encoder(&model, 1).keeping(format);
        let mut state = encoder.new_state();
        encoder
            .advance(&mut [Advance { state: &mut state, window: events.window(), items: &items, rows_max: 999 }])
            .unwrap();
        assert_eq!(state.rows(), 600);
        state
    };
    let (exact, rounded) = (state(KvFormat::F32), state(KvFormat::Bf16));
    // 600 rows stand in blocks of 256, 256 and 128; 2 layers of 2 heads with 32 numbers of K and of V.
    let numbers = 640 * 2 * 2 * (32 + 32);
    assert_eq!(exact.bytes() - rounded.bytes(), numbers * 2);
    assert!(rounded.bytes() < numbers * 2 + 640 * 14 + 2_000, "{} bytes", rounded.bytes());
    let users = |state: &UserState| {
        let mut cache = StateCache::new(10 * exact.bytes() + exact.bytes() / 2);
        for user in 0..40 {
            cache.put(StateKey { user, version: model.version() }, state.clone());
        }
        cache.len()
    };
    assert_eq!(users(&exact), 10);
    assert!((19..=20).contains(&users(&rounded)), "{}", users(&rounded));
}
