//! Degrade before refusing: which form of an encode fits the time that is left. Pure.
//!
//! 1. **Full**: every event, exactly.
//! 2. **Stale**: the cached state as it stands, without the newest events; only if few are missing.
//! 3. **Recent**: the newest events alone, as a history of their own, not cached.
//! 4. **Refuse**: no-bid.
//!
//! A form fits if its encode does, and the scores that follow it do: candidates attend to every event of the form, so that a shorter
//! history costs less twice. Whoever gets less than the full form is encoded whole in the background, so that the next request finds
//! the user warm.

use super::cost::{CostModel, Work, largest};
use std::time::Duration;

/// Device time that a request may be given beside what is promised to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For its encode.
    pub encode: Duration,
    /// For its encode and its scores.
    pub whole: Duration,
}

impl Room {
    /// Nothing is promised to others.
    pub const ALL: Self = Self { encode: Duration::MAX, whole: Duration::MAX };
}

/// What a reply was computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Degrade {
    /// The whole window.
    #[default]
    Full,
    /// The cached state; the newest events are left out.
    Stale,
    /// The newest events only.
    Recent,
}

impl Degrade {
    /// Name in rankings and explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Stale => "stale",
            Self::Recent => "recent",
        }
    }
}

/// The chosen form: which part of the window is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All events.
    Full,
    /// The first `len` events: those whose rows are cached, and one more as the last row.
    Stale {
        /// Events used, from the start of the window.
        len: usize,
    },
    /// The newest `len` events.
    Recent {
        /// Events used, from the end of the window.
        len: usize,
    },
    /// Nothing useful fits.
    Refuse,
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Events in the window, at least 1.
    pub len: usize,
    /// Final rows of it that are cached.
    pub cached: usize,
    /// Time until the encode is due, reply cost already taken off.
    pub slack: Duration,
    /// Candidates that will be scored; 0 if none.
    pub candidates: usize,
    /// What others leave.
    pub room: Room,
}

impl Ask {
    /// True if an encode of `work`, within `bound`, and the scores against its `len` events fit.
    fn fits(&self, work: Work, len: usize, bound: Duration, cost: &CostModel) -> bool {
        let whole = if self.candidates > 0 { work.plus(Work::score(self.candidates, len)) } else { work };
        cost.predict(work) <= bound.min(self.room.encode) && cost.predict(whole) <= self.room.whole
    }
}

/// Bounds of the ladder.
#[derive(Clone, Copy, Debug)]
pub struct LadderLimits {
    /// A full encode must be predicted within this share of the slack: predictions err, and others wait too.
    pub full_share: f64,
    /// A shorter history is chosen to take at most this share of the slack.
    pub recent_share: f64,
    /// A cached state may miss at most `len / stale_divisor` events: an old prefix is worth less than the newest events.
    pub stale_divisor: usize,
    /// Fewest newest events worth ranking by; histories shorter than this are used whole.
    pub recent_len_min: usize,
    /// Most newest events in the shorter history.
    pub recent_len_max: usize,
}

impl Default for LadderLimits {
    fn default() -> Self {
        Self { full_share: 0.8, recent_share: 0.4, stale_divisor: 8, recent_len_min: 8, recent_len_max: 1_024 }
    }
}

impl LadderLimits {
    /// The best form that fits.
    #[must_use]
    pub fn choose(&self, ask: Ask, cost: &CostModel) -> Step {
        let missing = ask.len.saturating_sub(1).saturating_sub(ask.cached);
        if ask.fits(Work::encode(ask.cached, ask.len), ask.len, ask.slack.mul_f64(self.full_share), cost) {
            return Step::Full;
        }
        let stale = ask.cached > 0 && missing > 0 && missing <= (ask.len / self.stale_divisor).max(1);
        if stale && ask.fits(Work::finish(ask.cached + 1), ask.cached + 1, ask.slack, cost) {
            return Step::Stale { len: ask.cached + 1 };
        }
        let bound = ask.slack.mul_f64(self.recent_share);
        let len_max = self.recent_len_max.min(ask.len);
        let len = largest(len_max, |len| ask.fits(Work::encode(0, len), len, bound, cost));
        if len >= self.recent_len_min.min(ask.len) && len > 0 && len < ask.len {
            return Step::Recent { len };
        }
        Step::Refuse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_ladder_goes_down_as_the_slack_shrinks() {
        let (limits, cost) = (LadderLimits::default(), CostModel::default());
        let choose =
            |cached, slack| limits.choose(Ask { len: 10_000, cached, slack, candidates: 0, room: Room::ALL }, &cost);
        assert_eq!(choose(0, ms(1_000)), Step::Full);
        let Step::Recent { len } = choose(0, ms(20)) else { panic!("{:?}", choose(0, ms(20))) };
        assert!((limits.recent_len_min..=limits.recent_len_max).contains(&len));
        assert_eq!(choose(0, Duration::from_micros(20)), Step::Refuse);
        assert_eq!(choose(9_999, ms(1)), Step::Full, "a warm user needs one row");
        assert_eq!(choose(9_400, ms(3)), Step::Stale { len: 9_401 });
        assert!(
            matches!(choose(100, ms(20)), Step::Recent { .. }),
            "an old prefix is no substitute for the newest events"
        );
    }

    #[test]
    fn a_short_history_is_never_made_shorter_than_the_least() {
        let (limits, cost) = (LadderLimits::default(), CostModel::default());
        let choose = |slack| limits.choose(Ask { len: 5, cached: 0, slack, candidates: 0, room: Room::ALL }, &cost);
        assert_eq!(choose(ms(1)), Step::Full);
        assert_eq!(choose(Duration::ZERO), Step::Refuse);
    }

    #[test]
    fn a_warm_user_whose_scores_do_not_fit_beside_others_gets_a_shorter_history() {
        let (limits, cost) = (LadderLimits::default(), CostModel::default());
        let ask = |whole| {
            let room = Room { encode: ms(50), whole };
            limits.choose(Ask { len: 10_000, cached: 9_999, slack: ms(60), candidates: 1_000, room }, &cost)
        };
        let full = Work::finish(10_000).plus(Work::score(1_000, 10_000));
        assert_eq!(ask(cost.predict(full)), Step::Full);
        let Step::Recent { len } = ask(ms(4)) else { panic!("{:?}", ask(ms(4))) };
        let fits = |len| cost.predict(Work::encode(0, len).plus(Work::score(1_000, len))) <= ms(4);
        assert!(fits(len) && !fits(len + 1), "the longest that fits, not {len}");
        assert_eq!(ask(ms(1)), Step::Refuse, "a thousand candidates alone take longer");
    }
}
