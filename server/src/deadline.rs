//! Deadlines that travel with a request, and the clocks that tests replace.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The instant by which an answer must have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// `budget` after `start`.
    #[must_use]
    pub fn after(start: Instant, budget: Duration) -> Self {
        Self(start + budget)
    }

    /// Time left at `now`; zero once it has passed.
    #[must_use]
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// True when nothing is left at `now`.
    #[must_use]
    pub fn passed(self, now: Instant) -> bool {
        now >= self.0
    }
}

/// Wall-clock time in whole seconds and in microseconds since 1970, passed in so that tests are exact.
pub trait WallClock: Send + Sync {
    /// Microseconds since the Unix epoch.
    fn micros(&self) -> i64;

    /// Seconds since the Unix epoch: the unit of event times and `query_time`.
    fn seconds(&self) -> i64 {
        self.micros().div_euclid(1_000_000)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn micros(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands until moved.
#[derive(Debug, Default)]
pub struct ManualClock(std::sync::atomic::AtomicI64);

impl ManualClock {
    /// A clock showing `micros` since the epoch.
    #[must_use]
    pub fn at_micros(micros: i64) -> Self {
        Self(micros.into())
    }

    /// Moves the clock.
    pub fn set_micros(&self, micros: i64) {
        self.0.store(micros, std::sync::atomic::Ordering::SeqCst);
    }
}

impl WallClock for ManualClock {
    fn micros(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}
