//! Items shown to users of the demo world, with what came of it: what a model learns its heads from and is judged by.

use super::interests::Profile;
use super::market::Market;
use super::users::{Step, UserPlan, life, seed_of};
use crate::dataset::{Dataset, Impression, Impressions, Next};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

/// Shares of a slate by kind of interest: active habits, past habits, staples, seasons, passions; the rest is anything.
const SHARES: [f64; 5] = [0.2, 0.15, 0.15, 0.2, 0.15];
/// Share of a slate, within a visit, that is about what the visit is about.
const ON_TOPIC: f64 = 0.15;
/// Spread of order values, in logarithms.
const BASKET_SPREAD: f64 = 0.25;
/// Events made beyond those asked for, so that a visit can be held out.
const SPARE_EVENTS: usize = 60;

/// Users to make and what is shown to them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// Seed of the world.
    pub seed: u64,
    /// Number of the first user: panels that do not overlap have no user in common.
    pub first_user: u64,
    /// The last event of everybody lies hours to days before, Unix seconds.
    pub now: i64,
    /// Slates shown to each user at moments of the history; 0 holds the last visit out instead and shows one slate when it begins.
    pub slates: usize,
    /// Items of a slate.
    pub slate_items: usize,
}

impl Panel {
    /// Adds `users` with about `events` events each, told to `tell` from time to time.
    pub(super) fn add(
        &self,
        data: &mut Dataset,
        market: &Market,
        lengths: impl Iterator<Item = usize>,
        mut tell: impl FnMut(usize),
    ) {
        for (done, events) in lengths.enumerate() {
            let number = self.first_user + done as u64;
            let seed = seed_of(number, self.seed);
            let (profile, steps) = life(market, &UserPlan { seed, events: events + SPARE_EVENTS }, self.now);
            let mut rng = StdRng::seed_from_u64(seed ^ 0x51a7e);
            let slates = data.impressions.get_or_insert_default();
            let kept = if self.slates == 0 {
                // The held-out visit begins after the history; everybody's last events would be known otherwise.
                let Some(opening) = steps.iter().rposition(|step| step.opens).filter(|&at| at > 0) else { continue };
                let opened = steps[opening];
                self.show(market, &profile, (opened.time, None), slates, &mut rng);
                let next = data.next.get_or_insert_with(Next::default);
                next.items.push(id(opened.item));
                next.times.push(opened.time);
                &steps[opening.saturating_sub(events)..opening]
            } else {
                let kept = &steps[steps.len().saturating_sub(events)..];
                for at in moments(kept, self.slates, &mut rng) {
                    let step = kept[at];
                    let mind = if step.opens { None } else { step.about };
                    self.show(market, &profile, (step.time, mind), slates, &mut rng);
                }
                kept
            };
            slates.end_user();
            data.users.push(i64::try_from(number).unwrap_or(i64::MAX));
            kept.iter().for_each(|step| data.events.push(id(step.item), step.action, step.time));
            data.events.end_user();
            tell(done + 1);
        }
    }

    /// Shows one slate and draws what comes of it.
    fn show(
        &self,
        market: &Market,
        profile: &Profile,
        (time, mind): (i64, Option<usize>),
        slates: &mut Impressions,
        rng: &mut StdRng,
    ) {
        let kinds = profile.kinds(time);
        for _ in 0..self.slate_items {
            let item = candidate(market, profile, &kinds, mind, rng);
            let chances = profile.chances(market, item, time, mind);
            let click = rng.random_bool(chances.click);
            let conversion = click && rng.random_bool(chances.conversion);
            let basket = chances.basket * (BASKET_SPREAD * rng.sample::<f64, _>(StandardNormal)).exp();
            #[expect(clippy::cast_possible_truncation, reason = "probabilities and ratios near 1")]
            slates.push(Impression {
                item: id(item),
                time,
                click,
                conversion,
                value: if conversion { basket.clamp(0.05, 1.95) as f32 } else { 0.0 },
                truth: Some((chances.click as f32, chances.conversion as f32)),
            });
        }
    }
}

fn id(item: u32) -> i64 {
    i64::from(item) + 1
}

/// An item to show: one of a category that some interest of the user is about, or any. Half of them as a retrieval would choose,
/// near the user's taste.
fn candidate(
    market: &Market,
    profile: &Profile,
    kinds: &[Vec<usize>; 5],
    mind: Option<usize>,
    rng: &mut StdRng,
) -> u32 {
    let mut draw: f64 = rng.random();
    let mut chosen = None;
    if let Some(place) = mind {
        if draw < ON_TOPIC {
            chosen = Some(place);
        }
        draw = (draw - ON_TOPIC) / (1.0 - ON_TOPIC);
    }
    for (share, kind) in SHARES.iter().zip(kinds) {
        if chosen.is_none() && (0.0..*share).contains(&draw) && !kind.is_empty() {
            chosen = Some(kind[rng.random_range(0..kind.len())]);
        }
        draw -= share;
    }
    match chosen {
        Some(place) => {
            let interest = &profile.interests[place];
            if rng.random_bool(0.5) {
                market.pick(interest.shelf, &interest.style, rng)
            } else {
                market.any(interest.shelf, rng)
            }
        }
        None => market.any(rng.random_range(0..market.shelves.len()), rng),
    }
}

/// Moments at which slates are shown, ascending: half of them where a visit begins, none before a tenth of the history.
fn moments(steps: &[Step], count: usize, rng: &mut StdRng) -> Vec<usize> {
    let first = (steps.len() / 10).max(1);
    if first >= steps.len() {
        return Vec::new();
    }
    let openings: Vec<usize> = (first..steps.len()).filter(|&at| steps[at].opens).collect();
    let mut moments: Vec<usize> = (0..count)
        .map(|number| match openings.len() {
            0 => rng.random_range(first..steps.len()),
            _ if number % 2 == 1 => rng.random_range(first..steps.len()),
            most => openings[rng.random_range(0..most)],
        })
        .collect();
    moments.sort_unstable();
    moments.dedup();
    moments
}

#[cfg(test)]
mod tests {
    use super::super::{Taxonomy, items};
    use super::*;

    fn market() -> Market {
        let taxonomy = Taxonomy::new();
        Market::new(&taxonomy, &items(&taxonomy, 5_000))
    }

    fn panel(slates: usize) -> Panel {
        Panel { seed: 7, first_user: 1_000, now: 1_900_000_000, slates, slate_items: 40 }
    }

    #[test]
    fn labels_are_drawn_from_the_truth_they_carry() {
        let mut data = Dataset::default();
        panel(6).add(&mut data, &market(), std::iter::repeat_n(300, 200), |_| {});
        let shown = data.impressions.unwrap();
        let truth = shown.truth.clone().unwrap();
        let expected: f64 = truth.click.iter().map(|&p| f64::from(p)).sum();
        let seen: f64 = shown.click.iter().map(|&click| f64::from(click)).sum();
        let deviation: f64 = truth.click.iter().map(|&p| f64::from(p * (1.0 - p))).sum::<f64>().sqrt();
        assert!((seen - expected).abs() < 4.0 * deviation, "{seen} clicks, {expected} expected");
        assert!(shown.conversion.iter().zip(&shown.click).all(|(conversion, click)| conversion <= click));
        assert!((0.03..0.25).contains(&(seen / shown.items.len() as f64)), "{seen} of {}", shown.items.len());
    }

    #[test]
    fn a_held_out_visit_begins_after_the_history() {
        let mut data = Dataset::default();
        panel(0).add(&mut data, &market(), std::iter::repeat_n(500, 30), |_| {});
        let next = data.next.as_ref().unwrap();
        let shown = data.impressions.as_ref().unwrap();
        assert_eq!(data.users.len(), 30);
        for user in 0..30 {
            let events = data.events.of(user);
            assert!(events.len() > 400 && data.events.times[events.end - 1] < next.times[user]);
            assert!(shown.of(user).all(|at| shown.times[at] == next.times[user]));
            assert_eq!(shown.of(user).len(), 40);
        }
    }

    /// Click rates by kind differ as they should: what a model can learn is there.
    #[test]
    fn seasons_and_passions_convert_more_than_habits_that_are_over() {
        let market = market();
        let (profile, _) = life(&market, &UserPlan { seed: 5, events: 3_000 }, 1_900_000_000);
        let time = 1_900_000_000;
        let kinds = profile.kinds(time);
        let mean = |kind: &[usize]| {
            let chances = kind.iter().map(|&place| {
                let item = market.shelves[profile.interests[place].shelf].items[0];
                profile.chances(&market, item, time, None).conversion
            });
            chances.sum::<f64>() / kind.len() as f64
        };
        assert!(mean(&kinds[4]) > 1.5 * mean(&kinds[1]));
        assert!(mean(&kinds[2]) > 1.5 * mean(&kinds[1]));
    }
}
