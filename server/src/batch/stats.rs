//! What the device did, in numbers: read by tests and by whoever holds the handle, and carried on to the server's meters.

use super::ladder::Degrade;
use super::plan::Lane;
use crate::meters::{Cache, CacheOutcome, Counter, DegradeStep, Gauge, Histogram, Meters, Queue};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A counter that can be read back, and its meter where it has one.
#[derive(Default)]
pub struct Tally {
    count: AtomicU64,
    meter: Option<Counter>,
}

impl Tally {
    fn metered(meter: &Counter) -> Self {
        Self { count: AtomicU64::new(0), meter: Some(meter.clone()) }
    }

    pub(super) fn add(&self, count: u64) {
        self.count.fetch_add(count, Relaxed);
        if let Some(meter) = &self.meter {
            meter.increment(count);
        }
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

/// A level that can be read back, and its meter where it has one.
#[derive(Default)]
pub struct Level {
    level: AtomicU64,
    meter: Option<Gauge>,
}

impl Level {
    fn metered(meter: &Gauge) -> Self {
        Self { level: AtomicU64::new(0), meter: Some(meter.clone()) }
    }

    /// Raises it by one unless it stands at `max`.
    pub(super) fn raise(&self, max: u64) -> bool {
        let raised = self.level.fetch_update(Relaxed, Relaxed, |level| (level < max).then_some(level + 1)).is_ok();
        if let Some(meter) = self.meter.as_ref().filter(|_| raised) {
            meter.increment(1.0);
        }
        raised
    }

    pub(super) fn lower(&self) {
        self.level.fetch_sub(1, Relaxed);
        if let Some(meter) = &self.meter {
            meter.decrement(1.0);
        }
    }

    pub(super) fn set(&self, level: usize) {
        self.level.store(level as u64, Relaxed);
        if let Some(meter) = &self.meter {
            meter.set(float(level as u64));
        }
    }

    /// The level now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.level.load(Relaxed)
    }
}

/// Counters of one lane.
#[derive(Default)]
pub struct LaneStats {
    /// Batches (or slices) run.
    pub batches: Tally,
    /// Jobs in them.
    pub jobs: Tally,
    /// Device time, microseconds.
    pub busy_us: Tally,
    /// Device time the cost model foretold for them, microseconds.
    pub predicted_us: Tally,
}

/// All counters and levels of one device.
pub struct DeviceStats {
    /// Short requests, long requests, background.
    pub lanes: [LaneStats; 3],
    /// Replies from the whole history, from a stale state, from the newest events only.
    pub replies: [Tally; 3],
    /// Score replies.
    pub scored: Tally,
    /// Requests refused because the queue was full.
    pub queue_full: Tally,
    /// Requests refused or dropped because nothing useful fits beside what is promised to others.
    pub overloaded: Tally,
    /// Requests refused or dropped because nothing useful fits their deadline.
    pub too_late: Tally,
    /// Requests whose deadline passed while they waited or ran.
    pub expired: Tally,
    /// Requests whose caller went away before they ran.
    pub cancelled: Tally,
    /// Requests that failed on the device.
    pub failed: Tally,
    /// Background encodes refused because too many wait.
    pub refresh_refused: Tally,
    /// Background encodes given up because the cache could not hold the state.
    pub refresh_abandoned: Tally,
    /// Background encodes brought to their end.
    pub refreshed: Tally,
    /// Rows found in the cache by answered requests.
    pub rows_reused: Tally,
    /// Rows computed for answered requests.
    pub rows_computed: Tally,
    /// Requests admitted and not yet answered.
    pub waiting: Level,
    /// Background encodes waiting.
    pub background_waiting: Level,
    /// Bytes of cached user states.
    pub cache_bytes: Level,
    /// Users in the cache.
    pub cache_users: Level,
    /// States moved from the device to host memory.
    pub host_parked: Tally,
    /// States brought back from there.
    pub host_hits: Tally,
    /// Bytes of K/V brought back.
    pub host_reload_bytes: Tally,
    /// Parked states dropped for room.
    pub host_evicted: Tally,
    /// Bytes of parked states.
    pub host_bytes: Level,
    meters: Arc<Meters>,
    batch_requests: Histogram,
    batch_rows: Histogram,
    batch_seconds: Histogram,
    evicted: AtomicU64,
}

impl std::fmt::Debug for DeviceStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceStats").field("waiting", &self.waiting.get()).finish_non_exhaustive()
    }
}

impl DeviceStats {
    /// All at 0, carried on to `meters`.
    #[must_use]
    pub fn new(meters: Arc<Meters>) -> Self {
        let m = &meters;
        let dropped = m.queue_dropped.of(Queue::Device);
        Self {
            lanes: Default::default(),
            replies: [
                Tally::default(),
                Tally::metered(m.degraded.of(DegradeStep::StaleState)),
                Tally::metered(m.degraded.of(DegradeStep::ShortHistory)),
            ],
            scored: Tally::default(),
            queue_full: Tally::metered(m.queue_full.of(Queue::Device)),
            overloaded: Tally::metered(m.degraded.of(DegradeStep::NoBid)),
            too_late: Tally::metered(m.degraded.of(DegradeStep::NoBid)),
            expired: Tally::metered(dropped),
            cancelled: Tally::metered(dropped),
            failed: Tally::metered(&m.device_faults),
            refresh_refused: Tally::metered(m.queue_full.of(Queue::Refresh)),
            refresh_abandoned: Tally::metered(m.queue_dropped.of(Queue::Refresh)),
            refreshed: Tally::default(),
            rows_reused: Tally::default(),
            rows_computed: Tally::default(),
            waiting: Level::metered(m.queue_depth.of(Queue::Device)),
            background_waiting: Level::metered(m.queue_depth.of(Queue::Refresh)),
            cache_bytes: Level::metered(m.cache_bytes.of(Cache::State)),
            cache_users: Level::default(),
            host_parked: Tally::metered(&m.host_tier_parked),
            host_hits: Tally::metered(&m.host_tier_hits),
            host_reload_bytes: Tally::metered(&m.host_tier_reload_bytes),
            host_evicted: Tally::metered(&m.host_tier_evictions),
            host_bytes: Level::metered(m.cache_bytes.of(Cache::HostState)),
            batch_requests: m.batch_requests.clone(),
            batch_rows: m.batch_rows.clone(),
            batch_seconds: m.batch_seconds.clone(),
            evicted: AtomicU64::new(0),
            meters,
        }
    }

    /// The counters of a lane.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> &LaneStats {
        &self.lanes[match lane {
            Lane::Short => 0,
            Lane::Long => 1,
            Lane::Background => 2,
        }]
    }

    /// Replies computed from this form of the history.
    #[must_use]
    pub fn replies(&self, degrade: Degrade) -> &Tally {
        &self.replies[match degrade {
            Degrade::Full => 0,
            Degrade::Stale => 1,
            Degrade::Recent => 2,
        }]
    }

    pub(super) fn ran(&self, lane: Lane, ran: &Ran) {
        let stats = self.lane(lane);
        stats.batches.add(1);
        stats.jobs.add(ran.jobs);
        stats.busy_us.add(micros(ran.took));
        stats.predicted_us.add(micros(ran.predicted));
        self.meters.batches.increment(1);
        self.batch_requests.record(float(ran.jobs));
        self.batch_rows.record(float(ran.rows));
        self.batch_seconds.record(ran.took.as_secs_f64());
    }

    /// How much of an answered request's final rows was cached.
    pub(super) fn looked_up(&self, reused: usize, wanted: usize) {
        let outcome = match reused {
            _ if reused >= wanted => CacheOutcome::Hit,
            0 => CacheOutcome::Miss,
            _ => CacheOutcome::Partial,
        };
        self.meters.cache_lookups.of(Cache::State, outcome).increment(1);
    }

    /// So many states have been evicted since the start, and so many parked ones dropped.
    pub(super) fn evicted(&self, total: u64, parked: u64) {
        let before = self.evicted.swap(total, Relaxed);
        self.meters.states_evicted.increment(total.saturating_sub(before));
        self.host_evicted.add(parked.saturating_sub(self.host_evicted.get()));
    }
}

/// One batch or slice that was run.
pub(super) struct Ran {
    pub(super) jobs: u64,
    pub(super) rows: u64,
    pub(super) predicted: Duration,
    pub(super) took: Duration,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a meter needs no more than 52 bits")]
fn float(count: u64) -> f64 {
    count as f64
}
