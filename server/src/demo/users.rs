//! Histories of the demo world: visits of minutes, each about one of the user's interests.

use super::interests::{DAY, Profile};
use super::market::Market;
use super::taxonomy::near;
use crate::actions;
use crate::config;
use crate::ids::ItemKey;
use crate::store::History;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

/// How long the longest-known users have come, seconds.
const SPAN_MAX: i64 = 1_280 * DAY;
/// Users with this many events have come all that time.
const HEAVY_EVENTS: usize = 1_500;
/// How far what one visit is after lies from the user's taste.
const WISH_SPREAD: f32 = 0.2;

/// What one user is made from.
#[derive(Clone, Copy, Debug)]
pub struct UserPlan {
    pub(super) seed: u64,
    pub(super) events: usize,
}

impl UserPlan {
    /// User `number`, from 1: the first `long_users` have long histories, the others long-tailed ones (median 90, mean about 200).
    #[must_use]
    pub fn of(number: usize, demo: &config::Demo) -> Self {
        let seed = seed_of(number as u64, demo.seed);
        if number <= demo.long_users {
            return Self { seed, events: demo.long_events };
        }
        let mut rng = StdRng::seed_from_u64(seed ^ 1);
        let spread: f64 = rng.sample(StandardNormal);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small positive range"
        )]
        let events = (90.0 * (1.25 * spread).exp()).clamp(3.0, 6_000.0) as usize;
        Self { seed, events }
    }
}

/// Seed of a user's draws.
pub(super) fn seed_of(number: u64, seed: u64) -> u64 {
    seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One event, and what the visit it belongs to is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Number of the item in the market.
    pub(super) item: u32,
    pub(super) action: u16,
    pub(super) time: i64,
    /// True for the first of a visit.
    pub(super) opens: bool,
    /// Place of the interest; `None` is idle curiosity.
    pub(super) about: Option<usize>,
}

/// A user's truth and the last `events` steps before `now`.
pub(super) fn life(market: &Market, user: &UserPlan, now: i64) -> (Profile, Vec<Step>) {
    let mut rng = StdRng::seed_from_u64(user.seed);
    let known_for = if user.events >= HEAVY_EVENTS || rng.random_ratio(3, 5) {
        SPAN_MAX
    } else {
        rng.random_range(30 * DAY..SPAN_MAX)
    };
    let profile = Profile::draw(market, (now - known_for, now - DAY / 4), &mut rng);
    // A visit has 12 or 13 events in the mean; more are drawn than needed and the oldest dropped.
    let visits = profile.visits(user.events / 12 + 6, &mut rng);
    let mut steps = Vec::with_capacity(user.events * 5 / 4 + 64);
    let mut time = profile.from;
    for (start, about) in visits {
        time = start.max(time + 600);
        let (shelf, wish, buying) = match about {
            Some(place) => {
                let interest = &profile.interests[place];
                (interest.shelf, near(&interest.style, WISH_SPREAD, &mut rng), interest.buying())
            }
            None => {
                let shelf = rng.random_range(0..market.shelves.len());
                (shelf, near(&market.shelves[shelf].centre, 0.6, &mut rng), (0.01, 0.002))
            }
        };
        for number in 0..rng.random_range(4..22) {
            let item = market.pick(shelf, &wish, &mut rng);
            steps.push(Step { item, action: action(buying, &mut rng), time, opens: number == 0, about });
            time += rng.random_range(5..90);
        }
    }
    steps.retain(|step| step.time < now - 60);
    steps.drain(..steps.len().saturating_sub(user.events));
    (profile, steps)
}

fn action((cart, purchase): (f64, f64), rng: &mut StdRng) -> u16 {
    let draw: f64 = rng.random();
    match draw {
        draw if draw < purchase => actions::PURCHASE,
        draw if draw < purchase + cart => actions::CART,
        draw if draw < purchase + cart + 0.02 => actions::LIKE,
        draw if draw < purchase + cart + 0.22 => actions::CLICK,
        _ => actions::VIEW,
    }
}

/// The history of a user, the last event hours to days before `now`.
#[must_use]
pub fn history(market: &Market, user: &UserPlan, now: i64) -> History {
    let (_, steps) = life(market, user, now);
    History {
        items: steps.iter().map(|step| ItemKey(i64::from(step.item) + 1)).collect(),
        actions: steps.iter().map(|step| step.action).collect(),
        times: steps.iter().map(|step| step.time).collect(),
        dropped: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Taxonomy, items};
    use super::*;

    #[test]
    fn histories_follow_from_the_seed_and_end_before_now() {
        let demo = config::Demo { long_users: 2, long_events: 500, ..config::Demo::default() };
        let taxonomy = Taxonomy::new();
        let market = Market::new(&taxonomy, &items(&taxonomy, 2_000));
        let now = 1_900_000_000;
        let lengths: Vec<usize> = (1..=500)
            .map(|number| {
                let plan = UserPlan::of(number, &demo);
                let one = history(&market, &plan, now);
                assert!(one.is_sound());
                assert!(*one.times.last().unwrap() < now);
                assert!(one.times[0] > now - SPAN_MAX - DAY);
                assert_eq!(one, history(&market, &plan, now));
                one.len()
            })
            .collect();
        assert_eq!(&lengths[..2], [500, 500]);
        let (mut rest, mean) = (lengths[2..].to_vec(), lengths[2..].iter().sum::<usize>() / 498);
        rest.sort_unstable();
        assert!(mean > rest[249], "a long tail: mean {mean}, median {}", rest[249]);
    }

    #[test]
    fn a_long_history_reaches_years_back() {
        let taxonomy = Taxonomy::new();
        let market = Market::new(&taxonomy, &items(&taxonomy, 2_000));
        let now = 1_900_000_000;
        let (profile, steps) = life(&market, &UserPlan { seed: 3, events: 10_000 }, now);
        assert_eq!(steps.len(), 10_000);
        assert!(steps[0].time < now - 900 * DAY && steps[8_999].time > now - 365 * DAY);
        assert!(profile.interests.len() > 30);
        let opened = steps.iter().filter(|step| step.opens).count();
        assert!((740..860).contains(&opened), "{opened} visits");
    }
}
