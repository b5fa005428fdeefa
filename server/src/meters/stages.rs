//! Durations of the stages of one request: into histograms and into the `server-timing` header.

use super::{Label, Meters, Stage};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const STAGES: usize = Stage::ALL.len();

/// Collects how long each stage of one request took. No allocation until the header is written.
#[derive(Clone, Debug)]
pub struct StageTimes {
    start: Instant,
    mark: Instant,
    spent: [Option<Duration>; STAGES],
}

impl StageTimes {
    /// Starts at the request's arrival.
    #[must_use]
    pub fn from(start: Instant) -> Self {
        Self { start, mark: start, spent: [None; STAGES] }
    }

    /// When the request arrived.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Ends `stage` at `now`: it took the time since the last call.
    pub fn end(&mut self, stage: Stage, now: Instant) {
        self.add(stage, now.saturating_duration_since(self.mark));
        self.mark = now;
    }

    /// Adds a duration measured elsewhere, for example by the device.
    pub fn add(&mut self, stage: Stage, spent: Duration) {
        let total = &mut self.spent[stage.index()];
        *total = Some(total.unwrap_or_default() + spent);
    }

    /// Moves the mark, so that the next [`end`](Self::end) counts from `now`.
    pub fn skip_to(&mut self, now: Instant) {
        self.mark = now;
    }

    /// What `stage` took so far.
    #[must_use]
    pub fn spent(&self, stage: Stage) -> Option<Duration> {
        self.spent[stage.index()]
    }

    /// Ends the request: sets the total and records every stage that ran.
    pub fn finish(&mut self, now: Instant, meters: &Meters) {
        self.spent[Stage::Total.index()] = Some(now.saturating_duration_since(self.start));
        for stage in Stage::ALL {
            if let Some(spent) = self.spent[stage.index()] {
                meters.stage_seconds.of(*stage).record(spent.as_secs_f64());
            }
        }
    }

    /// The value of `server-timing` (W3C Server Timing): `parse;dur=0.041, load;dur=0.120` in milliseconds.
    #[must_use]
    pub fn header(&self) -> String {
        let mut text = String::with_capacity(192);
        for stage in Stage::ALL {
            if let Some(spent) = self.spent[stage.index()] {
                let gap = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{gap}{};dur={:.3}", stage.name(), spent.as_secs_f64() * 1e3);
            }
        }
        text
    }
}
