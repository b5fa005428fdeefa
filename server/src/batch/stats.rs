//! What the device did, in numbers: counters that only grow, and gauges. Read by the metrics room and by tests.

use super::ladder::Degrade;
use super::plan::Lane;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters of one lane.
#[derive(Debug, Default)]
pub struct LaneStats {
    /// Batches (or slices) run.
    pub batches: AtomicU64,
    /// Jobs in them.
    pub jobs: AtomicU64,
    /// Device time, microseconds.
    pub busy_us: AtomicU64,
    /// Device time the cost model foretold for them, microseconds.
    pub predicted_us: AtomicU64,
}

/// All counters and gauges of one device.
#[derive(Debug, Default)]
pub struct DeviceStats {
    /// Short requests, long requests, background.
    pub lanes: [LaneStats; 3],
    /// Replies from the whole history, from a stale state, from the newest events only.
    pub replies: [AtomicU64; 3],
    /// Score replies.
    pub scored: AtomicU64,
    /// Requests refused because the queue was full.
    pub queue_full: AtomicU64,
    /// Requests refused or dropped because nothing useful fits their deadline.
    pub too_late: AtomicU64,
    /// Requests whose deadline passed while they waited or ran.
    pub expired: AtomicU64,
    /// Requests whose caller went away before they ran.
    pub cancelled: AtomicU64,
    /// Requests that failed on the device.
    pub failed: AtomicU64,
    /// Background encodes refused because too many wait.
    pub refresh_refused: AtomicU64,
    /// Background encodes given up because the cache could not hold the state.
    pub refresh_abandoned: AtomicU64,
    /// Background encodes brought to their end.
    pub refreshed: AtomicU64,
    /// Rows found in the cache by answered requests.
    pub rows_reused: AtomicU64,
    /// Rows computed for answered requests.
    pub rows_computed: AtomicU64,
    /// Gauge: requests admitted and not yet answered.
    pub waiting: AtomicU64,
    /// Gauge: background encodes waiting.
    pub background_waiting: AtomicU64,
    /// Gauge: bytes of cached user states.
    pub cache_bytes: AtomicU64,
    /// Gauge: users in the cache.
    pub cache_users: AtomicU64,
}

impl DeviceStats {
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
    pub fn replies(&self, degrade: Degrade) -> &AtomicU64 {
        &self.replies[match degrade {
            Degrade::Full => 0,
            Degrade::Stale => 1,
            Degrade::Recent => 2,
        }]
    }

    pub(super) fn ran(&self, lane: Lane, jobs: usize, predicted: Duration, took: Duration) {
        let stats = self.lane(lane);
        stats.batches.fetch_add(1, Relaxed);
        stats.jobs.fetch_add(jobs as u64, Relaxed);
        stats.busy_us.fetch_add(micros(took), Relaxed);
        stats.predicted_us.fetch_add(micros(predicted), Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
