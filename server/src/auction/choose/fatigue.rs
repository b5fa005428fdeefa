//! Fatigue: how often a user has seen a creative lately, and what that does to the click rate, learned over all creatives.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// Places for (user, creative) counts; a place taken by another pair starts anew, so memory is bounded.
const PLACES: usize = 1 << 18;
/// A count loses half in this many seconds.
const HALF_LIFE_S: i64 = 86_400;
/// Seen 0, 1, 2, 3, 4 to 7 and at least 8 times.
const LEVELS: usize = 6;
/// Click rate against the first time's, before anything was seen.
const START: [f64; LEVELS] = [1.0, 0.9, 0.82, 0.76, 0.65, 0.5];
/// Expected clicks that the start counts as.
const STRENGTH: f64 = 20.0;
/// Counts and clicks are kept in 1,024ths.
const ONE: f64 = 1024.0;

/// Expected and counted clicks by level, for the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FatigueState(pub [(f64, f64); LEVELS]);

/// Counts of users and creatives, and the learned curve.
pub(super) struct Fatigue {
    /// Tag (24 bits), count in eighths (8), hour of the last sight (32).
    places: Box<[AtomicU64]>,
    expected: [AtomicU64; LEVELS],
    clicks: [AtomicU64; LEVELS],
}

impl std::fmt::Debug for Fatigue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fatigue").field("state", &self.save()).finish_non_exhaustive()
    }
}

impl Default for Fatigue {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            expected: Default::default(),
            clicks: Default::default(),
        }
    }
}

fn level(count: f64) -> usize {
    match count {
        c if c < 0.5 => 0,
        c if c < 1.5 => 1,
        c if c < 2.5 => 2,
        c if c < 3.5 => 3,
        c if c < 7.5 => 4,
        _ => 5,
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn read(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64 / ONE
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a range that fits")]
fn fixed(value: f64) -> u64 {
    (value.clamp(0.0, 1e12) * ONE).round() as u64
}

impl Fatigue {
    fn place(&self, pair: u64) -> (&AtomicU64, u64) {
        let at = usize::try_from(pair % PLACES as u64).unwrap_or(0);
        (&self.places[at], pair >> 40)
    }

    /// How often the pair met lately.
    fn count(&self, pair: u64, now_s: i64) -> f64 {
        let (place, tag) = self.place(pair);
        let word = place.load(Ordering::Relaxed);
        if word >> 40 != tag {
            return 0.0;
        }
        let hours = (now_s / 3_600 - i64::try_from(word & 0xffff_ffff).unwrap_or(0)).max(0);
        #[expect(clippy::cast_precision_loss, reason = "hours")]
        let kept = 0.5_f64.powf(hours as f64 * 3_600.0 / HALF_LIFE_S as f64);
        f64::from(u8::try_from(word >> 32 & 0xff).unwrap_or(u8::MAX)) / 8.0 * kept
    }

    /// Click rate of the next sight against the first one's.
    pub(super) fn factor(&self, pair: u64, now_s: i64) -> f64 {
        self.of_level(level(self.count(pair, now_s)))
    }

    fn of_level(&self, level: usize) -> f64 {
        let ratio = |level: usize| {
            (read(&self.clicks[level]) + STRENGTH * START[level]) / (read(&self.expected[level]) + STRENGTH)
        };
        if level == 0 { 1.0 } else { (ratio(level) / ratio(0)).clamp(0.05, 1.0) }
    }

    /// Counts a sight, of which `rate` clicks were expected without fatigue; gives the factor that held for it.
    pub(super) fn saw(&self, pair: u64, rate: f64, now_s: i64) -> f64 {
        let count = self.count(pair, now_s);
        let level = level(count);
        self.expected[level].fetch_add(fixed(rate), Ordering::Relaxed);
        let (place, tag) = self.place(pair);
        let hour = u64::try_from(now_s / 3_600).unwrap_or(0) & 0xffff_ffff;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 255")]
        let eighths = ((count + 1.0) * 8.0).min(255.0) as u64;
        place.store(tag << 40 | eighths << 32 | hour, Ordering::Relaxed);
        self.of_level(level)
    }

    /// Counts a click on a sight that was counted before.
    pub(super) fn clicked(&self, pair: u64, now_s: i64) {
        let level = level((self.count(pair, now_s) - 1.0).max(0.0));
        self.clicks[level].fetch_add(fixed(1.0), Ordering::Relaxed);
    }

    pub(super) fn decay(&self, keep: f64) {
        for counter in self.expected.iter().chain(&self.clicks) {
            counter.store(fixed(read(counter) * keep), Ordering::Relaxed);
        }
    }

    pub(super) fn save(&self) -> FatigueState {
        FatigueState(std::array::from_fn(|level| (read(&self.expected[level]), read(&self.clicks[level]))))
    }

    pub(super) fn restore(&self, state: &FatigueState) {
        for (level, &(expected, clicks)) in state.0.iter().enumerate() {
            self.expected[level].store(fixed(expected), Ordering::Relaxed);
            self.clicks[level].store(fixed(clicks), Ordering::Relaxed);
        }
    }
}
