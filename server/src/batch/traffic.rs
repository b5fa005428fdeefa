//! What background work owes to requests that are about to come. Pure: times are passed in.
//!
//! A request asks the device twice: for an encode, and after its retrieval for scores. Between the two nothing of it waits,
//! and a slice of background work that began then would be in the way of its scores nearly whole. So the device keeps itself
//! free for the scores, and cuts background work short as long as requests come at all.

use super::plan::PlanLimits;
use std::time::{Duration, Instant};

/// Requests as they come and go.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    last: Option<Instant>,
    /// Encodes answered whose scores have not been asked for, and when the last of them was answered.
    answered: u32,
    answered_at: Option<Instant>,
}

impl Traffic {
    /// A request came; `score` if it asks for scores.
    pub(super) fn came(&mut self, now: Instant, score: bool) {
        self.last = Some(now);
        if score {
            self.answered = self.answered.saturating_sub(1);
        }
    }

    /// An encode was answered.
    pub(super) fn encoded(&mut self, now: Instant) {
        self.answered = self.answered.saturating_add(1);
        self.answered_at = Some(now);
    }

    /// Until when background work holds back for scores that are about to be asked for.
    pub(super) fn held_until(&mut self, now: Instant, limits: &PlanLimits) -> Option<Instant> {
        let until = self.answered_at? + limits.score_wait;
        if now >= until {
            // They do not come: not every request has something to score.
            self.answered = 0;
        }
        (self.answered > 0).then_some(until)
    }

    /// Longest background slice that may begin now.
    pub(super) fn slice(&self, now: Instant, limits: &PlanLimits) -> Duration {
        let quiet = self.last.is_none_or(|last| now.saturating_duration_since(last) >= limits.quiet);
        if quiet { limits.slice } else { limits.background_slice.min(limits.slice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn slices_are_short_while_requests_come_and_whole_again_when_it_is_quiet() {
        let (limits, now) = (PlanLimits::default(), Instant::now());
        let mut traffic = Traffic::default();
        assert_eq!(traffic.slice(now, &limits), limits.slice);
        traffic.came(now, false);
        assert_eq!(traffic.slice(now, &limits), limits.background_slice);
        assert_eq!(traffic.slice(now + limits.quiet - ms(1), &limits), limits.background_slice);
        assert_eq!(traffic.slice(now + limits.quiet, &limits), limits.slice);
        let coarse = PlanLimits { slice: ms(0), ..limits };
        assert_eq!(traffic.slice(now, &coarse), ms(0), "never longer than a slice");
    }

    #[test]
    fn the_device_is_kept_free_for_scores_until_they_come_or_do_not() {
        let (limits, now) = (PlanLimits { score_wait: ms(2), ..PlanLimits::default() }, Instant::now());
        let mut traffic = Traffic::default();
        assert_eq!(traffic.held_until(now, &limits), None);
        traffic.encoded(now);
        traffic.encoded(now + ms(1));
        assert_eq!(traffic.held_until(now + ms(1), &limits), Some(now + ms(3)));
        traffic.came(now + ms(1), true);
        assert_eq!(traffic.held_until(now + ms(1), &limits), Some(now + ms(3)), "one is still out");
        traffic.came(now + ms(1), false);
        assert!(traffic.held_until(now + ms(1), &limits).is_some(), "an encode is no score");
        traffic.came(now + ms(2), true);
        assert_eq!(traffic.held_until(now + ms(2), &limits), None);
        traffic.came(now + ms(2), true);
        traffic.encoded(now + ms(2));
        assert_eq!(traffic.held_until(now + ms(4), &limits), None, "it does not come");
        traffic.encoded(now + ms(9));
        traffic.came(now + ms(9), true);
        assert_eq!(traffic.held_until(now + ms(9), &limits), None, "those that did not come are forgotten");
    }
}
