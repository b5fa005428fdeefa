//! What money and histories cost: a reservation in memory, settlements and events per second on this disk, an import.
//!
//! `cargo bench -p longbow-bench --bench ledger`. The disk is that of the temporary directory (`TMPDIR`).

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longbow::deadline::{SystemClock, WallClock as _};
use longbow::events::{EventLog, LogOptions};
use longbow::ids::{Id, ItemKey};
use longbow::ledger::{AccountId, BidId, Ledger, Notice, Options, Settlement};
use longbow::money::Micros;
use longbow::store::{History, StoreOptions, UserEvent, UserStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

static NEXT: AtomicU64 = AtomicU64::new(1);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

fn next_bid() -> BidId {
    BidId::new(SystemClock.micros(), u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 64)
}

fn ledger(dir: &std::path::Path, runtime: &Runtime) -> (Arc<Ledger>, AccountId) {
    let ledger = Ledger::open(dir, Options::default(), Arc::new(SystemClock)).unwrap();
    let plan = runtime.block_on(ledger.set_budget(&Id::from("plan"), Micros(900_000_000_000_000))).unwrap();
    (Arc::new(ledger), plan)
}

fn reserve(c: &mut Criterion) {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let (ledger, plan) = ledger(dir.path(), &runtime);
    c.bench_function("reserve and release", |b| {
        let mut bid = 0u128;
        b.iter(|| {
            bid += 1;
            ledger.reserve(plan, BidId(bid), Micros(1_000), SystemClock.seconds() + 60).unwrap();
            ledger.release(plan, BidId(bid)).unwrap()
        });
    });
    c.bench_function("reserve, 100,000 holds standing", |b| {
        let mut last = 1u128 << 64;
        b.iter_batched(
            || {
                last += 1;
                BidId(last << 1)
            },
            |bid| ledger.reserve(plan, bid, Micros(1), SystemClock.seconds() + 20),
            BatchSize::NumIterations(100_000),
        );
    });
    c.bench_function("free_hint", |b| b.iter(|| ledger.free_hint(plan)));
}

fn settle(c: &mut Criterion) {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let (ledger, plan) = ledger(dir.path(), &runtime);
    let mut group = c.benchmark_group("settle, in flight");
    group.sample_size(10);
    for in_flight in [1u64, 16, 256] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(BenchmarkId::from_parameter(in_flight), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for _ in 0..in_flight {
                        let (ledger, bid, now) = (Arc::clone(&ledger), next_bid(), SystemClock.seconds());
                        ledger.reserve(plan, bid, Micros(1_000), now + 60).unwrap();
                        let (price, bid_amount) = (Micros(900), Micros(1_000));
                        let notice =
                            Settlement { account: plan, bid, notice: Notice::Win, price, bid_amount, issued_at: now };
                        tasks.spawn(async move { ledger.settle(notice).await });
                    }
                    while let Some(outcome) = tasks.join_next().await {
                        outcome.unwrap().unwrap();
                    }
                });
            });
        });
    }
    group.finish();
}

fn store(dir: &std::path::Path) -> Arc<UserStore> {
    let log = Arc::new(EventLog::open(&dir.join("events"), LogOptions::default()).unwrap());
    Arc::new(UserStore::open(dir, StoreOptions::default(), log, Arc::new(SystemClock)).unwrap())
}

fn history(events: i64) -> History {
    let mut history = History::default();
    (0..events).for_each(|n| history.push(ItemKey(n), 2, 1_700_000_000 + n));
    history
}

fn events(c: &mut Criterion) {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let store = store(dir.path());
    let users: Vec<Id> = (0..1_000).map(|n| Id::from(format!("user-{n}").as_str())).collect();
    runtime.block_on(store.import(users.iter().map(|user| (user.clone(), history(300))).collect())).unwrap();
    let mut group = c.benchmark_group("append events, a call");
    group.sample_size(10);
    for batch in [1u64, 100, 1_000] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter(|| {
                let events = (0..batch).map(|_| {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    UserEvent {
                        event_id: Id::from(format!("event-{number}").as_str()),
                        user: users[usize::try_from(number).unwrap() % users.len()].clone(),
                        item: ItemKey(7),
                        action: 2,
                        time: 1_710_000_000,
                        value_micros: None,
                        plan: None,
                        creative: None,
                        bid: None,
                    }
                });
                runtime.block_on(store.append(events.collect())).unwrap()
            });
        });
    }
    group.finish();
}

fn import(c: &mut Criterion) {
    let runtime = runtime();
    let histories: Vec<(Id, History)> = (0..20_000)
        .map(|n| (Id::from(format!("user-{n:05}").as_str()), history(if n % 100 == 0 { 10_000 } else { 200 })))
        .collect();
    let total: usize = histories.iter().map(|(_, history)| history.len()).sum();
    let mut group = c.benchmark_group("import");
    group.sample_size(10).throughput(Throughput::Elements(total as u64));
    group.bench_function(format!("20,000 users, {total} events"), |b| {
        b.iter_batched(
            || (tempfile::tempdir().unwrap(), histories.clone()),
            |(dir, histories)| {
                let store = store(dir.path());
                let mut rest = histories.into_iter().peekable();
                while rest.peek().is_some() {
                    runtime.block_on(store.import(rest.by_ref().take(4_000).collect())).unwrap();
                }
                dir
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    let dir = tempfile::tempdir().unwrap();
    let user = Id::from("long");
    {
        let store = store(dir.path());
        runtime.block_on(store.import(vec![(user.clone(), history(10_000))])).unwrap();
    }
    let log = Arc::new(EventLog::open(&dir.path().join("events"), LogOptions::default()).unwrap());
    let uncached = StoreOptions { cache_bytes: 1, ..StoreOptions::default() };
    let store = UserStore::open(dir.path(), uncached, log, Arc::new(SystemClock)).unwrap();
    c.bench_function("load 10,000 events from the file", |b| b.iter(|| runtime.block_on(store.load(&user)).unwrap()));
}

criterion_group!(benches, reserve, settle, events, import);
criterion_main!(benches);
