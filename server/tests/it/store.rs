//! The user store from outside: its rules one by one, restarts, imports, and the catalogue's file.

use crate::ledger::{T0, wait};
use longbow::deadline::ManualClock;
use longbow::events::{EventLog, LogOptions};
use longbow::ids::{Id, ItemKey};
use longbow::money::Micros;
use longbow::store::{
    CatalogKind, CatalogRecord, CatalogStore, EventFault, EventOutcome, History, StoreError, StoreOptions, UserEvent,
    UserStore,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) fn event(id: &str, user: &str, item: i64, time: i64) -> UserEvent {
    UserEvent {
        event_id: Id::from(id),
        user: Id::from(user),
        item: ItemKey(item),
        action: 2,
        time,
        value_micros: None,
        plan: None,
        creative: None,
        bid: None,
    }
}

pub(crate) fn open(dir: &Path, options: StoreOptions) -> UserStore {
    let log = Arc::new(EventLog::open(&dir.join("events"), LogOptions::default()).unwrap());
    UserStore::open(dir, options, log, Arc::new(ManualClock::at_micros(T0 * 1_000_000))).unwrap()
}

fn items(store: &UserStore, user: &str) -> Vec<i64> {
    let history = wait(store.load(&Id::from(user))).unwrap();
    assert!(history.is_sound());
    history.items.iter().map(|item| item.0).collect()
}

const DAY: i64 = 86_400;

#[test]
fn users_are_forgotten_once_their_newest_event_is_old_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_micros(T0 * 1_000_000));
    let open = |forget_after_days| {
        let log = Arc::new(EventLog::open(&dir.path().join("events"), LogOptions::default()).unwrap());
        let options = StoreOptions { forget_after_days, checkpoint_ms: 1, ..StoreOptions::default() };
        UserStore::open(dir.path(), options, log, Arc::<ManualClock>::clone(&clock)).unwrap()
    };
    let store = open(10);
    // More than one step looks at. The newest event decides, and ten days are not more than ten days.
    let mut events: Vec<UserEvent> =
        (0..700).map(|n| event(&format!("o{n}"), &format!("old{n}"), n, T0 - 5 * DAY)).collect();
    events.extend([event("k0", "kept", 1, T0 - 500 * DAY), event("k1", "kept", 2, T0)]);
    events.push(event("e", "edge", 3, T0 - 4 * DAY));
    wait(store.append(events)).unwrap();
    assert_eq!(items(&store, "old3"), [3], "in memory from here on");
    assert_eq!(store.users().unwrap(), 702);
    clock.set_micros((T0 + 6 * DAY) * 1_000_000);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while store.counters().forgotten.load(Ordering::Relaxed) < 700 {
        assert!(std::time::Instant::now() < until, "{:?}", store.counters());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!((store.users().unwrap(), store.counters().forgotten.load(Ordering::Relaxed)), (2, 700));
    assert_eq!((items(&store, "old3"), items(&store, "kept"), items(&store, "edge")), (vec![], vec![1, 2], vec![3]));
    wait(store.append(vec![event("again", "old3", 4, T0)])).unwrap();
    assert_eq!(items(&store, "old3"), [4], "begun anew");
    drop(store);
    let store = open(0);
    assert_eq!((store.users().unwrap(), items(&store, "old3")), (3, vec![4]));
    // 0 forgets nobody, however late it is.
    clock.set_micros((T0 + 10_000 * DAY) * 1_000_000);
    for _ in 0..20 {
        wait(store.checkpoint()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(store.users().unwrap(), 3);
}

#[test]
fn events_find_their_place_and_are_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), StoreOptions { history_events_max: 4, ..StoreOptions::default() });
    assert!(store.cached(&Id::from("u")).is_none());
    assert_eq!(items(&store, "u"), [0i64; 0]);
    let batch = vec![event("a", "u", 1, 100), event("b", "u", 2, 50), event("c", "u", 3, 100), event("a", "u", 9, 1)];
    let outcomes = wait(store.append(batch)).unwrap();
    assert_eq!(outcomes[..3], [EventOutcome::Accepted; 3]);
    assert_eq!(outcomes[3], EventOutcome::Duplicate);
    // In memory at once, ties in order of arrival.
    assert_eq!(store.cached(&Id::from("u")).unwrap().times, [50, 100, 100]);
    assert_eq!(items(&store, "u"), [2, 1, 3]);
    let more = vec![event("d", "u", 4, 100), event("e", "u", 5, 60), event("b", "u", 2, 50)];
    assert_eq!(wait(store.append(more)).unwrap()[2], EventOutcome::Duplicate);
    assert_eq!(items(&store, "u"), [5, 1, 3, 4], "the oldest of five is dropped");
    let bad = UserEvent { action: 0, ..event("f", "u", 1, 1) };
    let ahead = event("g", "u", 1, T0 + 301);
    let before = event("g", "u", 1, -1);
    let negative = UserEvent { value_micros: Some(Micros(-1)), ..event("h", "u", 1, 1) };
    let rejected = [EventFault::Action, EventFault::Time, EventFault::Time, EventFault::Value];
    assert_eq!(wait(store.append(vec![bad, ahead, before, negative])).unwrap(), rejected.map(EventOutcome::Rejected));
    // A rejected event's id is not used up.
    assert_eq!(wait(store.append(vec![event("g", "v", 1, 1)])).unwrap(), [EventOutcome::Accepted]);
}

#[test]
fn a_restart_restores_histories_and_what_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let long: Vec<_> = (0..2_000).map(|n| event(&format!("e{n}"), "u", n, 10 * n)).collect();
    {
        let store = open(dir.path(), StoreOptions::default());
        wait(store.append(long.clone())).unwrap();
    }
    let store = open(dir.path(), StoreOptions::default());
    assert_eq!(store.counters().replayed.load(Ordering::Relaxed), 0, "the end of the first life was synced");
    assert_eq!(items(&store, "u"), (0..2_000).collect::<Vec<_>>());
    assert!(wait(store.append(long)).unwrap().iter().all(|o| *o == EventOutcome::Duplicate));
    // A late event in the middle of several chunks.
    wait(store.append(vec![event("late", "u", -7, 5_005)])).unwrap();
    drop(store);
    let store = open(dir.path(), StoreOptions::default());
    assert_eq!(items(&store, "u")[500..503], [500, -7, 501]);
}

#[test]
fn events_that_only_the_log_has_are_replayed_once() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path(), StoreOptions::default());
        wait(store.append(vec![event("a", "u", 1, 100)])).unwrap();
    }
    {
        // What a crash between the log's sync and the next checkpoint leaves: the log is ahead.
        let log = EventLog::open(&dir.path().join("events"), LogOptions::default()).unwrap();
        let body = |e: UserEvent| serde_json::to_vec(&e).unwrap();
        let user_event = |body| longbow::events::Record { kind: longbow::events::RecordKind::USER_EVENT, body };
        let records = vec![user_event(body(event("b", "u", 2, 90))), user_event(body(event("c", "w", 3, 1)))];
        assert_eq!(wait(log.append(records)).unwrap(), 3);
    }
    for replayed in [2, 0] {
        let store = open(dir.path(), StoreOptions::default());
        assert_eq!(store.counters().replayed.load(Ordering::Relaxed), replayed);
        assert_eq!(items(&store, "u"), [2, 1]);
        assert_eq!(items(&store, "w"), [3]);
        assert_eq!(wait(store.append(vec![event("b", "u", 2, 90)])).unwrap(), [EventOutcome::Duplicate]);
    }
}

#[test]
fn a_store_ahead_of_its_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path(), StoreOptions::default());
        wait(store.append(vec![event("a", "u", 1, 100), event("b", "u", 1, 100)])).unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("events")).unwrap();
    let reopen = || {
        let log = Arc::new(EventLog::open(&dir.path().join("events"), LogOptions::default()).unwrap());
        let clock = Arc::new(ManualClock::at_micros(T0 * 1_000_000));
        UserStore::open(dir.path(), StoreOptions::default(), log, clock)
    };
    let error = reopen().unwrap_err().to_string();
    assert!(
        error.contains("up to record 2, but the log ends at 0") && error.contains("move this file away"),
        "{error}"
    );
    // As it advises.
    std::fs::rename(dir.path().join("users.redb"), dir.path().join("users.old")).unwrap();
    let store = reopen().unwrap();
    wait(store.append(vec![event("c", "u", 5, 100)])).unwrap();
    assert_eq!(items(&store, "u"), [5]);
}

#[test]
fn deleting_a_user_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), StoreOptions::default());
    wait(store.append((0..1_000).map(|n| event(&format!("e{n}"), "u", n, n)).collect())).unwrap();
    wait(store.append(vec![event("x", "v", 1, 1)])).unwrap();
    assert!(wait(store.delete(&Id::from("u"))).unwrap());
    assert!(!wait(store.delete(&Id::from("u"))).unwrap());
    assert!(store.cached(&Id::from("u")).is_none());
    assert_eq!(items(&store, "u"), [0i64; 0]);
    wait(store.append(vec![event("y", "u", 7, 1)])).unwrap();
    assert_eq!(items(&store, "u"), [7]);
    drop(store);
    let store = open(dir.path(), StoreOptions::default());
    assert_eq!((items(&store, "u"), items(&store, "v")), (vec![7], vec![1]));
    assert_eq!(store.users().unwrap(), 2);
}

#[test]
fn imports_replace_are_sorted_and_repeatable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), StoreOptions { history_events_max: 1_000, ..StoreOptions::default() });
    wait(store.append(vec![event("a", "u3", 77, 1)])).unwrap();
    assert_eq!(items(&store, "u3"), [77]);
    let history = |seed: i64, len: i64| {
        let mut history = History::default();
        for n in 0..len {
            history.items.push(ItemKey(n));
            history.actions.push(2);
            history.times.push((n * 7 + seed) % len);
        }
        history
    };
    let users: Vec<(Id, History)> =
        (0..50).map(|n| (Id::from(format!("u{n}").as_str()), history(n, 100 + 30 * n))).collect();
    for _ in 0..2 {
        assert_eq!(wait(store.import(users.clone())).unwrap(), 50);
        for (user, history) in &users {
            let mut expected = history.clone();
            expected.sort();
            expected.trim(1_000);
            // An import is a beginning: nothing stood before it.
            expected.dropped = 0;
            assert_eq!(*wait(store.load(user)).unwrap(), expected);
        }
    }
    wait(store.append(vec![event("b", "u3", 88, T0)])).unwrap();
    assert_eq!(items(&store, "u3").last(), Some(&88));
    let crooked = History { items: vec![ItemKey(1)], ..History::default() };
    assert!(matches!(wait(store.import(vec![(Id::from("u"), crooked)])), Err(StoreError::Damaged { .. })));
    assert!(store.poisoned().is_none());
}

#[test]
fn event_ids_are_remembered_for_at_least_half_the_allowed_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), StoreOptions { ids_max: 20, ..StoreOptions::default() });
    for n in 0..100i64 {
        assert_eq!(wait(store.append(vec![event(&format!("e{n}"), "u", n, n)])).unwrap(), [EventOutcome::Accepted]);
        for back in 0..n.min(10) {
            let again = event(&format!("e{}", n - back), "u", 0, 0);
            assert_eq!(wait(store.append(vec![again])).unwrap(), [EventOutcome::Duplicate]);
        }
    }
    // Long ago: forgotten, as the bound says.
    assert_eq!(wait(store.append(vec![event("e0", "u", 0, 0)])).unwrap(), [EventOutcome::Accepted]);
}

#[test]
fn memory_keeps_to_its_budget_and_loads_share_one_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path(), StoreOptions { cache_bytes: 200_000, ..StoreOptions::default() }));
    let mut history = History::default();
    (0..1_000).for_each(|n| history.push(ItemKey(n), 2, n));
    let users: Vec<Id> = (0..40).map(|n| Id::from(format!("u{n}").as_str())).collect();
    wait(store.import(users.iter().map(|user| (user.clone(), history.clone())).collect())).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for user in &users {
                    assert_eq!(*wait(store.load(user)).unwrap(), history);
                }
            });
        }
    });
    let (bytes, kept) = store.cache_size();
    assert!(bytes <= 200_000 && (5..=11).contains(&kept), "{bytes} bytes, {kept} users");
}

#[test]
fn readers_never_see_an_acknowledged_event_missing() {
    let dir = tempfile::tempdir().unwrap();
    // A cache of one history: loads race with appends all the time.
    let store = open(dir.path(), StoreOptions { cache_bytes: 6_000, checkpoint_events: 16, ..StoreOptions::default() });
    let users = ["a", "b", "c"];
    std::thread::scope(|scope| {
        for user in users {
            let store = &store;
            scope.spawn(move || {
                for n in 0..120i64 {
                    wait(store.append(vec![event(&format!("{user}{n}"), user, n, n)])).unwrap();
                    assert_eq!(items(store, user), (0..=n).collect::<Vec<_>>());
                }
            });
            scope.spawn(move || {
                for _ in 0..400 {
                    let seen = items(store, user);
                    assert_eq!(seen, (0..i64::try_from(seen.len()).unwrap()).collect::<Vec<_>>());
                }
            });
        }
    });
}

#[test]
fn catalogue_records_survive_and_change_together() {
    let dir = tempfile::tempdir().unwrap();
    let record = |kind, id: &str, json: &str| CatalogRecord { kind, id: Id::from(id), json: json.into() };
    {
        let store = CatalogStore::open(dir.path()).unwrap();
        let plan = record(CatalogKind::Plan, "p1", "{\"a\":1}");
        wait(store.put_many(vec![plan, record(CatalogKind::Item, "p1", "{}"), record(CatalogKind::Plan, "p0", "[]")]))
            .unwrap();
        wait(
            store.change(vec![record(CatalogKind::Plan, "p1", "{\"a\":2}")], vec![(CatalogKind::Item, Id::from("p1"))]),
        )
        .unwrap();
    }
    let store = CatalogStore::open(dir.path()).unwrap();
    let mut plans = Vec::new();
    store.load_all(CatalogKind::Plan, &mut |id, json| plans.push((id.to_owned(), json.to_vec()))).unwrap();
    assert_eq!(plans, [("p0".to_owned(), b"[]".to_vec()), ("p1".to_owned(), b"{\"a\":2}".to_vec())]);
    store.load_all(CatalogKind::Item, &mut |id, _| panic!("item {id} was deleted")).unwrap();
}
