//! The encoder's promises to a batch: no neighbour is seen, no request in flight is changed, bad jobs are named.

use longbow_model::{Advance, EncodeError, Encoded, Encoder, Finish, ItemTable, Score, UserState, Version, Window};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::support::{self, Events};

const QUERY_DELAY: i64 = 4_321;

fn advance_all(encoder: &mut dyn Encoder, items: &ItemTable, users: &[&Events], rows_max: usize) -> Vec<UserState> {
    let mut states: Vec<UserState> = users.iter().map(|_| encoder.new_state()).collect();
    let mut rounds = 0;
    while states.iter().zip(users).any(|(state, user)| state.rows_missing(&user.window()) > 0) {
        let mut jobs: Vec<Advance<'_>> = states
            .iter_mut()
            .zip(users)
            .map(|(state, user)| Advance { state, window: user.window(), items, rows_max })
            .collect();
        encoder.advance(&mut jobs).unwrap();
        rounds += 1;
        assert!(rounds < 10_000, "advance makes no headway");
    }
    states
}

fn finish_all(encoder: &mut dyn Encoder, items: &ItemTable, users: &[&Events], states: &[UserState]) -> Vec<Encoded> {
    let jobs: Vec<Finish<'_>> = users
        .iter()
        .zip(states)
        .map(|(user, state)| {
            let query_time = user.times.last().unwrap_or(&0) + QUERY_DELAY;
            Finish { state, window: user.window(), items, query_time }
        })
        .collect();
    encoder.finish(&jobs).unwrap()
}

/// Query and scores of each user, as bits.
fn all_bits(
    encoder: &mut dyn Encoder,
    items: &ItemTable,
    users: &[&Events],
    candidates: &[&[u32]],
) -> Vec<(Vec<u32>, Vec<u32>)> {
    let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let states = advance_all(encoder, items, users, usize::MAX);
    let encoded = finish_all(encoder, items, users, &states);
    let jobs: Vec<Score<'_>> =
        encoded.iter().zip(candidates).map(|(encoded, candidates)| Score { encoded, items, candidates }).collect();
    let scores = encoder.score(&jobs).unwrap();
    encoded.iter().zip(scores).map(|(e, s)| (bits(e.query().unwrap_or_default()), bits(&s.probs))).collect()
}

#[test]
fn no_job_sees_its_neighbours_by_a_single_bit() {
    let model = support::model(support::config(1500), 1);
    let items = ItemTable::new(&model);
    let mut rng = StdRng::seed_from_u64(3);
    let users: Vec<Events> =
        [1, 1500, 0, 257, 2, 40, 1023, 700, 256].map(|len| Events::random(&mut rng, len, items.rows())).into();
    let many: Vec<u32> = (0..1500).map(|i| i % 60 + 1).collect();
    let candidates: Vec<&[u32]> = [3, 500, 1, 0, 64, 1500, 17, 33, 1].iter().map(|&count| &many[..count]).collect();
    let mut one = support::encoder(&model, 1);
    let alone: Vec<_> = users
        .iter()
        .zip(&candidates)
        .map(|(user, candidates)| all_bits(&mut one, &items, &[user], &[candidates]).remove(0))
        .collect();
    for (threads, turn) in [(1, 0), (2, 0), (2, 4), (1, 7)] {
        let mut order: Vec<usize> = (0..users.len()).collect();
        order.rotate_left(turn);
        let batch: Vec<&Events> = order.iter().map(|&i| &users[i]).collect();
        let lists: Vec<&[u32]> = order.iter().map(|&i| candidates[i]).collect();
        let together = all_bits(&mut support::encoder(&model, threads), &items, &batch, &lists);
        for (&user, found) in order.iter().zip(&together) {
            assert!(*found == alone[user], "user {user}, {threads} threads, turned by {turn}");
        }
    }
}

/// A candidate's scores do not depend on the other candidates of its job beyond rounding, and its own place in
/// the list not at all to the eye: it sees none of them.
#[test]
fn candidates_do_not_see_each_other() {
    let model = support::model(support::config(300), 1);
    let (mut encoder, items) = (support::encoder(&model, 2), ItemTable::new(&model));
    let user = Events::random(&mut StdRng::seed_from_u64(4), 300, items.rows());
    let states = advance_all(&mut encoder, &items, &[&user], usize::MAX);
    let encoded = finish_all(&mut encoder, &items, &[&user], &states);
    let all: Vec<u32> = (1..=60).collect();
    let together = encoder.score(&[Score { encoded: &encoded[0], items: &items, candidates: &all }]).unwrap().remove(0);
    for (at, slot) in all.iter().enumerate() {
        let job = Score { encoded: &encoded[0], items: &items, candidates: &[*slot] };
        let alone = encoder.score(&[job]).unwrap().remove(0);
        assert!(support::row_error(&alone.probs, together.row(at), 3) < 2e-6, "candidate {slot}");
    }
}

/// A request in flight holds the blocks it reads: events that arrive meanwhile, another past and the loss of
/// the state leave its scores as they were, to the bit.
#[test]
fn a_request_in_flight_never_sees_changes() {
    let model = support::model(support::config(600), 1);
    let (mut encoder, items) = (support::encoder(&model, 2), ItemTable::new(&model));
    let mut rng = StdRng::seed_from_u64(5);
    for len in [1, 20, 255, 256, 257, 300, 512, 513] {
        let mut user = Events::random(&mut rng, len, items.rows());
        let mut state = advance_all(&mut encoder, &items, &[&user], usize::MAX).remove(0);
        let encoded = finish_all(&mut encoder, &items, &[&user], std::slice::from_ref(&state));
        let job = Score { encoded: &encoded[0], items: &items, candidates: &[1, 2, 3, 4, 5] };
        let before = encoder.score(&[job]).unwrap();
        user.append(&mut rng, 30, items.rows());
        encoder
            .advance(&mut [Advance { state: &mut state, window: user.window(), items: &items, rows_max: 900 }])
            .unwrap();
        assert_eq!(encoder.score(&[job]).unwrap(), before, "events appended to {len}");
        let other = Events::random(&mut rng, len + 10, items.rows());
        encoder
            .advance(&mut [Advance { state: &mut state, window: other.window(), items: &items, rows_max: 900 }])
            .unwrap();
        assert_eq!(encoder.score(&[job]).unwrap(), before, "another past");
        drop(state);
        assert_eq!(encoder.score(&[job]).unwrap(), before, "state evicted");
    }
}

/// A request that comes with an older history than the state holds is answered from the state and leaves it.
#[test]
fn an_older_window_is_served_from_a_newer_state() {
    let model = support::model(support::config(600), 1);
    let (mut encoder, items) = (support::encoder(&model, 2), ItemTable::new(&model));
    let user = Events::random(&mut StdRng::seed_from_u64(6), 600, items.rows());
    let mut state = advance_all(&mut encoder, &items, &[&user], usize::MAX).remove(0);
    for len in [1, 2, 256, 257, 400, 599] {
        let window = user.window().first(len);
        assert_eq!(state.rows_missing(&window), 0);
        encoder.advance(&mut [Advance { state: &mut state, window, items: &items, rows_max: 900 }]).unwrap();
        assert_eq!(state.rows(), 599, "the newer rows stay");
        let query_time = user.times[len - 1] + QUERY_DELAY;
        let found = encoder.finish(&[Finish { state: &state, window, items: &items, query_time }]).unwrap();
        let mut fresh = encoder.new_state();
        encoder.advance(&mut [Advance { state: &mut fresh, window, items: &items, rows_max: 900 }]).unwrap();
        let wanted = encoder.finish(&[Finish { state: &fresh, window, items: &items, query_time }]).unwrap();
        assert_eq!(found[0].events(), len);
        let error = support::row_error(found[0].query().unwrap(), wanted[0].query().unwrap(), 18);
        assert!(error < 2e-5, "{len}: {error}");
    }
}

#[test]
fn an_empty_history_has_no_query_but_can_score() {
    let model = support::model(support::config(30), 1);
    let (mut encoder, items) = (support::encoder(&model, 1), ItemTable::new(&model));
    let nobody = Events::default();
    let encoded = finish_all(&mut encoder, &items, &[&nobody], &[UserState::new(model.config(), model.version())]);
    assert_eq!((encoded[0].query(), encoded[0].events(), encoded[0].query_time()), (None, 0, QUERY_DELAY));
    let job = Score { encoded: &encoded[0], items: &items, candidates: &[1, 2] };
    let scores = encoder.score(&[job]).unwrap();
    let reference = longbow_model::ReferenceEncoder::new(&model).unwrap();
    let history = reference.history(nobody.window(), &items, QUERY_DELAY).unwrap();
    let rows = reference.candidate_rows(&history, &items, &[1, 2]).unwrap();
    let wanted = reference.probabilities(&rows, &items, &[1, 2]).unwrap();
    assert!(support::row_error(&scores[0].probs, &wanted, 3) < 1e-5);
    assert_eq!((scores[0].len(), scores[0].is_empty()), (2, false));
}

#[test]
fn bad_jobs_are_named_and_change_nothing() {
    let model = support::model(support::config(30), 1);
    let (mut encoder, items) = (support::encoder(&model, 1), ItemTable::new(&model));
    let good = Events::random(&mut StdRng::seed_from_u64(7), 10, items.rows());
    let broken = |change: &dyn Fn(&mut Events)| {
        let mut events = good.clone();
        change(&mut events);
        events
    };
    let cases: Vec<(Events, &str)> = vec![
        (broken(&|e| e.items[3] = 61), "item 61 (at 3) is not in the item table of 61 rows"),
        (broken(&|e| e.items[9] = 0), "item 0 (at 9) is the padding row"),
        (broken(&|e| e.actions[2] = 8), "action 8 (event 2) is outside the model's 8 actions"),
        (broken(&|e| e.times[1] = i64::MIN), "outside +-2^53"),
        (broken(&|e| e.times.truncate(9)), "10 items, 10 actions and 9 times"),
        (Events::random(&mut StdRng::seed_from_u64(8), 31, 61), "window of 31 events"),
    ];
    for (bad, text) in &cases {
        assert!(bad.window().check(model.config(), &items).unwrap_err().to_string().contains(text));
        let (mut first, mut second) = (encoder.new_state(), encoder.new_state());
        let error = encoder
            .advance(&mut [
                Advance { state: &mut first, window: good.window(), items: &items, rows_max: 99 },
                Advance { state: &mut second, window: bad.window(), items: &items, rows_max: 99 },
            ])
            .unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!((first.rows(), second.rows()), (0, 0), "{text}");
    }
    let state = advance_all(&mut encoder, &items, &[&good], usize::MAX).remove(0);
    let window = good.window();
    let finish = |state: &UserState, window: Window<'_>, query_time| {
        support::encoder(&model, 1).finish(&[Finish { state, window, items: &items, query_time }]).map(drop)
    };
    assert_eq!(finish(&encoder.new_state(), window, 0), Err(EncodeError::Behind { held: 0, needed: 9 }));
    assert_eq!(finish(&state, window, i64::MAX), Err(EncodeError::TimeOutOfRange { time: i64::MAX, at: 10 }));
    let mut last = good.clone();
    last.items[9] = 400;
    assert_eq!(
        finish(&state, last.window(), 0),
        Err(EncodeError::UnknownItem { item: 400, at: 9, rows: 61 }),
        "the last row's item is looked up too"
    );
    let foreign = UserState::new(model.config(), Version([7; 32]));
    assert!(matches!(finish(&foreign, window, 0), Err(EncodeError::Version { .. })));
    let encoded = encoder.finish(&[Finish { state: &state, window, items: &items, query_time: 0 }]).unwrap();
    for (candidates, text) in [(vec![1, 0], "item 0 (at 1)"), (vec![61], "item 61 (at 0)")] {
        let job = Score { encoded: &encoded[0], items: &items, candidates: &candidates };
        assert!(encoder.score(&[job]).unwrap_err().to_string().contains(text));
    }
    let mut config = support::config(30);
    config.num_tasks = 0;
    let headless = support::model(config, 1);
    assert_eq!(support::encoder(&headless, 1).score(&[]), Err(EncodeError::NoHeads));
}
