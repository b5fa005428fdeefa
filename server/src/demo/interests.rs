//! The truth about a user: interests with a rhythm each, and what they make of an item shown at a time.
//!
//! Four rhythms, so that events at every distance mean something: staples come up every few weeks for ever, habits fill weeks
//! and are over, passions filled months long ago and are not forgotten, seasons come back at the same time of each year.

use super::market::{Market, dot};
use super::taxonomy::near;
use rand::RngExt;
use rand::rngs::StdRng;

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;
/// Seconds of a year.
const YEAR: i64 = 365 * DAY + DAY / 4;
/// Half the length of a season.
const SEASON_HALF: i64 = 50 * DAY;
/// Length of a burst of visits within a season.
const BURST: i64 = 5 * DAY;
/// How far a user's taste lies from the middle of a category.
const STYLE_SPREAD: f32 = 0.4;

/// When an interest is felt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rhythm {
    /// Always, a little.
    Staple,
    /// For some weeks, and never again.
    Habit {
        /// First second.
        from: i64,
        /// Last second.
        until: i64,
    },
    /// For some months, and kept ever after.
    Passion {
        /// First second.
        from: i64,
        /// Last second.
        until: i64,
    },
    /// Around the same date of every year, with bursts of visits.
    Season {
        /// The middle of one season.
        peak: i64,
        /// When bursts of visits began.
        bursts: Vec<i64>,
    },
}

/// One interest of a user.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    /// Category.
    pub(super) shelf: usize,
    /// The user's taste in it, a content vector of length 1.
    pub(super) style: Vec<f32>,
    pub(super) rhythm: Rhythm,
}

/// What an interest adds to the chances of an item of its category, in logits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pull {
    click: f64,
    conversion: f64,
    /// Order value over list price.
    basket: f64,
}

const NO_PULL: Pull = Pull { click: 0.0, conversion: 0.0, basket: 1.0 };

impl Interest {
    /// How much the season of an interest is on at a time, 0 to 1; 0 for other rhythms.
    fn season(&self, time: i64) -> f64 {
        let Rhythm::Season { peak, .. } = self.rhythm else { return 0.0 };
        let off = (time - peak + YEAR / 2).rem_euclid(YEAR) - YEAR / 2;
        if off.abs() >= SEASON_HALF {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds of days")]
        let angle = off as f64 / SEASON_HALF as f64 * std::f64::consts::FRAC_PI_2;
        angle.cos()
    }

    fn pull(&self, time: i64) -> Pull {
        match self.rhythm {
            Rhythm::Staple => Pull { click: 1.8, conversion: 2.5, basket: 0.8 },
            Rhythm::Habit { until, .. } if time > until => Pull { click: 0.7, conversion: -0.2, basket: 1.0 },
            Rhythm::Habit { from, .. } if time >= from => Pull { click: 1.8, conversion: 0.2, basket: 1.0 },
            Rhythm::Passion { from, until } if time >= from => {
                let click = if time <= until { 2.0 } else { 1.8 };
                Pull { click, conversion: 2.8, basket: 1.2 }
            }
            Rhythm::Season { .. } => {
                let on = self.season(time);
                Pull { click: 1.5 + 0.4 * on, conversion: 2.4 + 0.4 * on, basket: 1.0 + 0.4 * on }
            }
            Rhythm::Habit { .. } | Rhythm::Passion { .. } => NO_PULL,
        }
    }

    /// Spans of time in which it leads to visits, each with its weight in visits a day.
    fn visited(&self, (from, until): (i64, i64)) -> Vec<(i64, i64, f64)> {
        let spans = match &self.rhythm {
            Rhythm::Staple => vec![(from, until, 0.05)],
            Rhythm::Habit { from, until } => vec![(*from, *until, 0.4)],
            Rhythm::Passion { from: first, until: last } => vec![(*first, *last, 0.3), (*last, until, 0.012)],
            Rhythm::Season { bursts, .. } => bursts.iter().map(|&at| (at, at + BURST, 0.4)).collect(),
        };
        let within = |(a, b, weight): (i64, i64, f64)| (a.max(from), b.min(until), weight);
        spans.into_iter().map(within).filter(|(a, b, _)| a < b).collect()
    }

    /// Share of its events that go as far as the cart or the till.
    pub(super) fn buying(&self) -> (f64, f64) {
        match self.rhythm {
            Rhythm::Habit { .. } => (0.02, 0.005),
            Rhythm::Staple | Rhythm::Passion { .. } | Rhythm::Season { .. } => (0.14, 0.09),
        }
    }
}

/// What will come of an item shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chances {
    /// Probability of a click.
    pub(super) click: f64,
    /// Probability that a click converts.
    pub(super) conversion: f64,
    /// Expected order value over list price.
    pub(super) basket: f64,
}

/// A user's interests from `from` to `until`.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) interests: Vec<Interest>,
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Profile {
    /// Draws a profile for someone who has come since `from`.
    pub(super) fn draw(market: &Market, (from, until): (i64, i64), rng: &mut StdRng) -> Self {
        let mut interests = Vec::new();
        let interest = |rhythm: Rhythm, rng: &mut StdRng| {
            let shelf = rng.random_range(0..market.shelves.len());
            let style = near(&market.shelves[shelf].centre, STYLE_SPREAD, rng);
            Interest { shelf, style, rhythm }
        };
        for _ in 0..rng.random_range(3..6) {
            interests.push(interest(Rhythm::Staple, rng));
        }
        for _ in 0..rng.random_range(3..6) {
            let rhythm = season(from, until, rng);
            interests.push(interest(rhythm, rng));
        }
        for _ in 0..rng.random_range(2..5) {
            let start = rng.random_range(from - 60 * DAY..until);
            let length = rng.random_range(60 * DAY..150 * DAY);
            interests.push(interest(Rhythm::Passion { from: start, until: start + length }, rng));
        }
        // One habit after the other, with days of none between them.
        let mut time = from - rng.random_range(0..40 * DAY);
        while time < until {
            let length = rng.random_range(14 * DAY..42 * DAY);
            interests.push(interest(Rhythm::Habit { from: time, until: time + length }, rng));
            time += rng.random_range(20 * DAY..50 * DAY);
        }
        Self { interests, from, until }
    }

    /// What an item does at a time; `mind` is the interest that the user's visit is about.
    pub(super) fn chances(&self, market: &Market, item: u32, time: i64, mind: Option<usize>) -> Chances {
        let shelf = market.shelf_of(item);
        let (mut best, mut fit) = (NO_PULL, 0.0);
        for (place, interest) in self.interests.iter().enumerate().filter(|(_, one)| one.shelf == shelf) {
            let mut pull = interest.pull(time);
            if mind == Some(place) {
                pull.click += 1.0;
            }
            if pull.click + pull.conversion > best.click + best.conversion || best == NO_PULL {
                // The mean closeness of an item of the category to a taste in it is near 0.77.
                (best, fit) = (pull, f64::from(dot(market.vector(item), &interest.style)) - 0.77);
            }
        }
        Chances {
            click: logistic(-2.9 + best.click + 2.0 * fit + market.appeal(item)),
            conversion: logistic(-2.8 + best.conversion + 2.0 * fit),
            basket: best.basket,
        }
    }

    /// Draws what a visit at a time given by the draw is about: `(start, interest)`; `None` is idle curiosity.
    pub(super) fn visits(&self, count: usize, rng: &mut StdRng) -> Vec<(i64, Option<usize>)> {
        #[expect(clippy::cast_precision_loss, reason = "seconds of years")]
        let mass = |(from, until, weight): (i64, i64, f64)| (until - from) as f64 * weight;
        let mut spans: Vec<((i64, i64, f64), Option<usize>)> = vec![((self.from, self.until, 0.05), None)];
        for (place, interest) in self.interests.iter().enumerate() {
            spans.extend(interest.visited((self.from, self.until)).into_iter().map(|span| (span, Some(place))));
        }
        let mut sums = Vec::with_capacity(spans.len());
        let mut sum = 0.0;
        for (span, _) in &spans {
            sum += mass(*span);
            sums.push(sum);
        }
        let mut visits: Vec<(i64, Option<usize>)> = (0..count)
            .map(|_| {
                let at = rng.random::<f64>() * sum;
                let ((from, until, _), interest) = spans[sums.partition_point(|&s| s <= at).min(spans.len() - 1)];
                (rng.random_range(from..until), interest)
            })
            .collect();
        visits.sort_unstable();
        visits
    }

    /// The interests that a rhythm makes relevant for an impression at a time, by kind: active habits, past habits, staples, seasons, passions.
    pub(super) fn kinds(&self, time: i64) -> [Vec<usize>; 5] {
        let mut kinds: [Vec<usize>; 5] = Default::default();
        for (place, interest) in self.interests.iter().enumerate() {
            let kind = match interest.rhythm {
                Rhythm::Habit { from, until } if (from..=until).contains(&time) => 0,
                Rhythm::Habit { until, .. } if time > until => 1,
                Rhythm::Staple => 2,
                Rhythm::Season { .. } => 3,
                Rhythm::Passion { from, .. } if time >= from => 4,
                Rhythm::Habit { .. } | Rhythm::Passion { .. } => continue,
            };
            kinds[kind].push(place);
        }
        kinds
    }
}

/// A season with three to six bursts a year.
fn season(from: i64, until: i64, rng: &mut StdRng) -> Rhythm {
    let peak = from + rng.random_range(0..YEAR);
    let mut bursts = Vec::new();
    let mut middle = peak - YEAR;
    while middle < until + YEAR {
        for _ in 0..rng.random_range(3..7) {
            // The sum of two draws: more of them near the middle.
            let off = rng.random_range(-SEASON_HALF / 2..SEASON_HALF / 2)
                + rng.random_range(-SEASON_HALF / 2..SEASON_HALF / 2);
            bursts.push(middle + off);
        }
        middle += YEAR;
    }
    bursts.sort_unstable();
    Rhythm::Season { peak, bursts }
}

pub(super) fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn interest(rhythm: Rhythm) -> Interest {
        Interest { shelf: 0, style: Vec::new(), rhythm }
    }

    #[test]
    fn each_rhythm_is_felt_when_it_should_be() {
        let season = interest(Rhythm::Season { peak: 10 * YEAR, bursts: vec![10 * YEAR] });
        for years in -3..4 {
            assert!((season.season(10 * YEAR + years * YEAR) - 1.0).abs() < 1e-9);
            assert!(season.season(10 * YEAR + years * YEAR + YEAR / 2).abs() < 1e-9);
        }
        assert!(season.pull(10 * YEAR).conversion > season.pull(10 * YEAR + 30 * DAY).conversion);
        let habit = interest(Rhythm::Habit { from: 100, until: 200 });
        assert_eq!(habit.pull(99), NO_PULL);
        assert!(habit.pull(150).click > habit.pull(201).click);
        let passion = interest(Rhythm::Passion { from: 100, until: 200 });
        assert_eq!(passion.pull(99), NO_PULL);
        assert!(passion.pull(9_000).conversion > habit.pull(150).conversion, "kept when it is long over");
    }

    #[test]
    fn visits_lie_in_spans_of_their_interests() {
        let interests = vec![interest(Rhythm::Habit { from: 0, until: 20 * DAY }), interest(Rhythm::Staple)];
        let profile = Profile { interests, from: 0, until: 100 * DAY };
        let visits = profile.visits(5_000, &mut StdRng::seed_from_u64(1));
        assert!(visits.is_sorted());
        assert!(visits.iter().all(|&(at, about)| (0..100 * DAY).contains(&at) && (about != Some(0) || at < 20 * DAY)));
        // Masses: idle 5, habit 8, staple 5.
        for (about, expected) in [(None, 1_389), (Some(0), 2_222), (Some(1), 1_389)] {
            let share = visits.iter().filter(|visit| visit.1 == about).count();
            assert!(share.abs_diff(expected) < 150, "{about:?} {share}");
        }
    }
}
