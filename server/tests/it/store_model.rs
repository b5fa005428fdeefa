//! The user store beside a naive model: random events, loads, deletions, imports and restarts.

use crate::ledger::wait;
use crate::store::{event, open};
use longbow::ids::{Id, ItemKey};
use longbow::store::{EventOutcome, History, StoreOptions, UserStore};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const EVENTS_MAX: usize = 1_000;

#[derive(Default)]
struct Model {
    seen: HashSet<String>,
    users: HashMap<usize, Vec<(i64, i64)>>,
    dropped: HashMap<usize, u64>,
}

impl Model {
    fn append(&mut self, id: String, user: usize, item: i64, time: i64) -> EventOutcome {
        if !self.seen.insert(id) {
            return EventOutcome::Duplicate;
        }
        let events = self.users.entry(user).or_default();
        events.push((time, item));
        events.sort_by_key(|e| e.0);
        if events.len() > EVENTS_MAX {
            events.remove(0);
            *self.dropped.entry(user).or_default() += 1;
        }
        EventOutcome::Accepted
    }
}

fn name(user: usize) -> Id {
    Id::from(format!("user-{user}").as_str())
}

fn compare(store: &UserStore, model: &Model) {
    for user in 0..3 {
        let history = wait(store.load(&name(user))).unwrap();
        let seen: Vec<_> = history.times.iter().zip(&history.items).map(|(t, i)| (*t, i.0)).collect();
        assert_eq!(&seen, model.users.get(&user).unwrap_or(&Vec::new()), "user {user}");
        assert_eq!(history.dropped, model.dropped.get(&user).copied().unwrap_or(0), "user {user}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_naive_model(
        ops in prop::collection::vec((0u8..12, 0usize..3, 0i64..2_000, 1usize..400), 1..40),
        cache in prop::sample::select(vec![1usize, 30_000, 1 << 20]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = || StoreOptions {
            history_events_max: EVENTS_MAX, cache_bytes: cache, checkpoint_events: 300, checkpoint_ms: 5,
            ..StoreOptions::default()
        };
        let (mut store, mut model, mut number) = (Some(open(dir.path(), options())), Model::default(), 0i64);
        for (op, user, time, count) in ops {
            let live = store.as_ref().unwrap();
            match op {
                0..=6 => {
                    // In order, or (odd times) scattered; every ninth id is one used before.
                    let batch: Vec<_> = (0..i64::try_from(count).unwrap()).map(|n| {
                        number += 1;
                        let id = if number % 9 == 0 { number / 2 } else { number };
                        let at = if time % 2 == 0 { time + n } else { (time * 31 + n * 17) % 2_000 };
                        (id.to_string(), number, at)
                    }).collect();
                    let sent = batch.iter().map(|(id, item, at)| event(id, name(user).as_str(), *item, *at)).collect();
                    let expected: Vec<_> =
                        batch.into_iter().map(|(id, item, at)| model.append(id, user, item, at)).collect();
                    prop_assert_eq!(wait(live.append(sent)).unwrap(), expected);
                }
                7 => {
                    let existed = wait(live.delete(&name(user))).unwrap();
                    model.dropped.remove(&user);
                    prop_assert_eq!(existed, model.users.remove(&user).is_some());
                }
                8 => {
                    let mut history = History::default();
                    for n in 0..count {
                        history.items.push(ItemKey(-1));
                        history.actions.push(1);
                        history.times.push((time + 13 * i64::try_from(n).unwrap()) % 500);
                    }
                    wait(live.import(vec![(name(user), history.clone())])).unwrap();
                    history.sort();
                    model.dropped.remove(&user);
                    model.users.insert(user, history.times.iter().map(|t| (*t, -1)).collect());
                }
                9 => compare(live, &model),
                10 => wait(live.checkpoint()).unwrap(),
                _ => {
                    drop(store.take());
                    store = Some(open(dir.path(), options()));
                }
            }
        }
        compare(store.as_ref().unwrap(), &model);
    }
}
