//! Histories of the demo world: visits of minutes, days apart, drawn from each user's own interests.

use super::taxonomy::skewed;
use crate::actions;
use crate::config;
use crate::ids::ItemKey;
use crate::plans::Item;
use crate::store::History;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use std::collections::BTreeMap;

/// Items by category, in a fixed order.
#[derive(Debug)]
pub struct Shelves(Vec<Vec<ItemKey>>);

impl Shelves {
    /// Sorts items onto shelves.
    #[must_use]
    pub fn new(items: &[Item]) -> Self {
        let mut by_code: BTreeMap<&str, Vec<ItemKey>> = BTreeMap::new();
        for item in items {
            let code = item.categories.first().map_or("", String::as_str);
            by_code.entry(code).or_default().extend(ItemKey::parse(item.id.as_str()));
        }
        Self(by_code.into_values().collect())
    }
}

/// What one user is made from.
#[derive(Clone, Copy, Debug)]
pub struct UserPlan {
    seed: u64,
    events: usize,
}

impl UserPlan {
    /// User `number`, from 1: the first `long_users` have long histories, the others long-tailed ones (median 90, mean about 200).
    #[must_use]
    pub fn of(number: usize, demo: &config::Demo) -> Self {
        let seed = demo.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
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

/// The history of a user, the last event minutes to days before `now`.
#[must_use]
pub fn history(shelves: &Shelves, user: &UserPlan, now: i64) -> History {
    let mut rng = StdRng::seed_from_u64(user.seed);
    let interests: Vec<usize> = (0..rng.random_range(3..7)).map(|_| rng.random_range(0..shelves.0.len())).collect();
    let mut history = History::default();
    // Backwards from now, then turned around.
    let mut time = now - rng.random_range(60..86_400);
    let mut left_in_visit = 0_u32;
    let mut shelf = interests[0];
    for _ in 0..user.events {
        if left_in_visit == 0 {
            left_in_visit = rng.random_range(3..25);
            time -= rng.random_range(3_600..4 * 86_400);
            // Earlier interests are stronger; one visit in eight is idle curiosity.
            let favourite = interests[skewed(&mut rng, 2.0, interests.len())];
            shelf = if rng.random_ratio(1, 8) { rng.random_range(0..shelves.0.len()) } else { favourite };
        }
        left_in_visit -= 1;
        time -= rng.random_range(5..180);
        let items = &shelves.0[shelf];
        let item = items[skewed(&mut rng, 2.0, items.len())];
        let action = match rng.random_range(0..100_u8) {
            0..70 => actions::VIEW,
            70..90 => actions::CLICK,
            90..96 => actions::CART,
            96..99 => actions::PURCHASE,
            _ => actions::LIKE,
        };
        history.items.push(item);
        history.actions.push(action);
        history.times.push(time.max(0));
    }
    history.items.reverse();
    history.actions.reverse();
    history.times.reverse();
    history
}

#[cfg(test)]
mod tests {
    use super::super::{Taxonomy, items};
    use super::*;

    #[test]
    fn histories_follow_from_the_seed_and_end_before_now() {
        let demo = config::Demo { long_users: 2, long_events: 500, ..config::Demo::default() };
        let shelves = Shelves::new(&items(&Taxonomy::new(1), 2_000, 1));
        let now = 1_900_000_000;
        let lengths: Vec<usize> = (1..=500)
            .map(|number| {
                let plan = UserPlan::of(number, &demo);
                let one = history(&shelves, &plan, now);
                assert!(one.is_sound());
                assert!(*one.times.last().unwrap() < now);
                assert_eq!(one, history(&shelves, &plan, now));
                one.len()
            })
            .collect();
        assert_eq!(&lengths[..2], [500, 500]);
        let (mut rest, mean) = (lengths[2..].to_vec(), lengths[2..].iter().sum::<usize>() / 498);
        rest.sort_unstable();
        assert!(mean > rest[249], "a long tail: mean {mean}, median {}", rest[249]);
    }
}
