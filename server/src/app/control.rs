//! The control thread: the tick that paces plans, sweeps that bound memory, gauges, and what must survive a restart.

use super::{App, Generation};
use crate::auction::pace::{ControlLoop, PlanTotals};
use crate::batch::Health;
use crate::ids::Id;
use crate::meters::{Bound, Cache, CacheOutcome, Counter, Held, Queue, Records, Room};
use crate::money::{Currency, Rounding};
use crate::store::{CatalogKind, CatalogRecord, CatalogStore};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use longbow_index::Retriever;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often learned state is written.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// How often draws of creatives are brought in step with what was learned.
const LEARN_EVERY: Duration = Duration::from_secs(1);

/// Names of learned state in the store.
pub(super) const CHOOSER: &str = "chooser";
pub(super) const OUTCOMES: &str = "outcomes";
pub(super) const CONTROLS: &str = "controls";

/// The running thread; ends when dropped or stopped, after a last save.
pub(super) struct ControlThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlThread {
    /// Runs a first tick, so that plans are live when this returns, and starts the thread.
    pub(super) fn start(app: Arc<App>, store: Arc<CatalogStore>, pacing: ControlLoop) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let runtime = tokio::runtime::Handle::current();
        let seen = (app.catalog.snapshot().version(), app.generation().facts.version.clone());
        let (saved, learned, counted) = (Instant::now(), Instant::now(), Counted::default());
        let mut control = Control { app, store, pacing, saved, learned, runtime, seen, counted };
        control.tick();
        let run = move || control.run(&stopped);
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Control {
    app: Arc<App>,
    store: Arc<CatalogStore>,
    pacing: ControlLoop,
    saved: Instant,
    learned: Instant,
    runtime: tokio::runtime::Handle,
    /// Versions of catalogue and model that `everyman` was made from.
    seen: (u64, String),
    counted: Counted,
}

/// Counts of the present generation that the meters have already: those of each generation begin at 0.
#[derive(Default)]
struct Counted {
    version: String,
    counts: [u64; 7],
}

impl Counted {
    fn add(&mut self, generation: &Generation, now: [u64; 7], meters: [&Counter; 7]) {
        if self.version != generation.facts.version {
            *self = Self { version: generation.facts.version.clone(), counts: [0; 7] };
        }
        for ((before, now), meter) in self.counts.iter_mut().zip(now).zip(meters) {
            meter.increment(now.saturating_sub(*before));
            *before = now;
        }
    }
}

impl Control {
    fn run(mut self, stopped: &Receiver<()>) {
        let every = Duration::from_millis(self.app.config.auction.tick_ms);
        while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            self.tick();
            self.learn();
            if self.saved.elapsed() >= SAVE_EVERY {
                self.save();
                self.follow_items();
            }
        }
        self.save();
    }

    fn tick(&mut self) {
        let app = &*self.app;
        let catalog = app.catalog.snapshot();
        app.accounts.refresh(&catalog, &app.ledger);
        #[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 are below 2^53")]
        let now = app.clock.micros() as f64 / 1e6;
        let mut money = [0_i64; 4];
        let controls = self.pacing.tick(now, &catalog, |slot, plan| {
            let balance = app.accounts.of(slot).and_then(|account| app.ledger.balance(account)).unwrap_or_default();
            let columns = [balance.granted, balance.spent, balance.held, balance.free];
            for (sum, column) in money.iter_mut().zip(columns) {
                let dollars = app.fx.convert(column, plan.currency, Currency::USD, Rounding::Down).unwrap_or_default();
                *sum = sum.saturating_add(dollars.0);
            }
            PlanTotals { spent: balance.spent, free: balance.free, results: app.outcomes.cells(slot) }
        });
        app.report_tick(&catalog, &controls);
        app.controls.store(controls);
        app.shades.refresh(app.clock.seconds(), app.hold_seconds());
        app.show_money(money);
        app.show_health(self.store.poisoned());
        app.show_rooms(&mut self.counted);
    }

    /// The slower part of what is learned of creatives.
    fn learn(&mut self) {
        let passed = self.learned.elapsed();
        if passed >= LEARN_EVERY {
            self.learned = Instant::now();
            self.app.chooser.learn(&self.app.catalog.snapshot(), passed.as_secs_f64());
        }
    }

    /// Moves the query of users without a history along with the catalogue.
    fn follow_items(&mut self) {
        let catalog = self.app.catalog.snapshot();
        let generation = self.app.generation();
        let now = (catalog.version(), generation.facts.version.clone());
        if now != self.seen {
            self.seen = now;
            generation.everyman.store(Arc::new(generation.middle(&catalog)));
        }
    }

    /// Writes what was learned. A failed write is logged and tried again at the next interval: nothing of it is money.
    fn save(&mut self) {
        self.saved = Instant::now();
        let catalog = self.app.catalog.snapshot();
        let states = [
            (CHOOSER, serde_json::to_vec(&self.app.chooser.save(&catalog))),
            (OUTCOMES, serde_json::to_vec(&self.app.outcomes.save(&catalog))),
            (CONTROLS, serde_json::to_vec(&self.pacing.save())),
        ];
        let record = |(name, json): (&str, Result<Vec<u8>, _>)| {
            Some(CatalogRecord { kind: CatalogKind::Learned, id: Id::from(name), json: json.ok()? })
        };
        let mut records: Vec<CatalogRecord> = states.into_iter().filter_map(record).collect();
        self.app.reports.settle(&catalog);
        let (rows, gone) = self.app.reports.changes();
        records.extend(rows);
        if let Err(error) = self.runtime.block_on(self.store.change(records, gone)) {
            tracing::warn!(%error, "learned state was not saved");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
impl App {
    fn show_money(&self, [granted, spent, held, free]: [i64; 4]) {
        for (column, amount) in [(Held::Granted, granted), (Held::Spent, spent), (Held::Held, held), (Held::Free, free)]
        {
            self.meters.money.of(column).set(amount as f64 / 1e6);
        }
        self.meters.holds.set(self.ledger.open_holds() as f64);
    }

    /// Readiness follows what is broken. A durable room that failed stays failed until a restart; a device also until another model
    /// serves. A GPU that is lost ends the process once it has drained: the CPU answers until then.
    fn show_health(&self, catalogue: Option<&str>) {
        let rooms = [
            ("ledger", self.ledger.poisoned(), Room::Ledger),
            ("users", self.users.poisoned(), Room::Users),
            ("catalogue", catalogue, Room::Catalogue),
        ];
        for (name, reason, room) in rooms {
            if let Some(reason) = reason {
                self.meters.poisoned.of(room).set(1.0);
                self.lifecycle.not_ready(name, format!("poisoned, restart the server: {reason}"));
            }
        }
        let generation = self.generation();
        match generation.device.health() {
            Health::Failed(reason) => {
                self.lifecycle.not_ready("device", format!("lost, restart the server: {reason}"));
            }
            Health::Ready => self.lifecycle.clear("device"),
            Health::WarmingUp => {}
        }
        self.meters.gpu_serving.set(f64::from(u8::from(generation.gpu.serves())));
        if generation.gpu.lost() {
            self.meters.gpu_lost.set(1.0);
            self.lifecycle
                .not_ready("gpu", "degraded: the GPU is lost to this process, the CPU answers until it has drained");
            self.lifecycle
                .doom("the GPU is lost to this process: start it again (`longbow doctor` says how the GPU does)");
        }
        if generation.search.is_alive() {
            self.lifecycle.clear("search");
        } else {
            self.lifecycle.not_ready("search", "the search thread has ended, restart the server");
        }
        self.meters.ready.set(f64::from(u8::from(self.lifecycle.readiness().ready)));
    }

    /// Gauges and counters of the rooms that keep their own figures. The device moves its meters itself.
    fn show_rooms(&self, counted: &mut Counted) {
        let generation = self.generation();
        let (meters, search) = (&self.meters, generation.search.stats());
        meters.queue_depth.of(Queue::Retrieve).set(search.waiting.load(Relaxed) as f64);
        meters.cache_bytes.of(Cache::Window).set(generation.windows.bytes() as f64);
        meters.cache_bytes.of(Cache::History).set(self.users.cached_bytes() as f64);
        meters.users_forgotten.absolute(self.users.counters().forgotten.load(Relaxed));
        let (hits, misses) = self.filters.hits_and_misses();
        meters.cache_lookups.of(Cache::Filter, CacheOutcome::Hit).absolute(hits);
        meters.cache_lookups.of(Cache::Filter, CacheOutcome::Miss).absolute(misses);
        meters.bounds.of(Bound::ReportFacts).absolute(self.reports.dropped());
        let index = generation.index.stats();
        meters.index_items.set(generation.index.len() as f64);
        meters.index_delta.set(index.delta_items as f64);
        meters.index_widened.set(f64::from(index.widened));
        let dropped = search.expired.load(Relaxed) + search.cancelled.load(Relaxed);
        let counters = [
            meters.queue_full.of(Queue::Retrieve),
            meters.queue_dropped.of(Queue::Retrieve),
            &meters.index_rebuilds,
            &meters.gpu_faults,
            &meters.gpu_searches,
            meters.cache_lookups.of(Cache::Window, CacheOutcome::Hit),
            meters.cache_lookups.of(Cache::Window, CacheOutcome::Miss),
        ];
        let (hits, misses) = generation.windows.hits_and_misses();
        let (faults, on_gpu) = (generation.gpu.faults(), generation.index.on_gpu());
        let now = [search.queue_full.load(Relaxed), dropped, index.merges, faults, on_gpu, hits, misses];
        counted.add(&generation, now, counters);
    }

    /// Number of records, after a change.
    pub(super) fn show_counts(&self, catalog: &crate::catalog::Catalog) {
        let (items, plans, creatives) = catalog.counts();
        for (kind, count) in [(Records::Items, items), (Records::Plans, plans), (Records::Creatives, creatives)] {
            self.meters.records.of(kind).set(count as f64);
        }
        self.meters.catalog_version.set(catalog.version() as f64);
    }
}
