//! The day's shape of traffic and prices, learned from all plans together.
//!
//! One plan sees too little to know its market's day; but plans of one server live in one market. After each tick every
//! plan reports how far its belief moved. A belief says how today lies against the profile, so that it moves where the
//! profile's *step* from one half hour to the next is wrong, and stays moved: what the plans' mean belief moved by within a
//! half hour, whatever the number of ticks in it, is added to that step. The other steps give it back evenly, as a day ends at the
//! level that the next begins with. Now is left as it is, since the plans have that in their beliefs. A plan that starts today plans
//! with yesterday's shape.

use serde::{Deserialize, Serialize};

/// Parts of a day.
pub const PARTS: usize = 48;
/// Levels of price that a forecast tells apart.
pub(super) const LEVELS: usize = 6;
const PART: f64 = 1_800.0;
const DAY: f64 = 86_400.0;
/// Furthest that a part may lie from the average, logarithmic.
const FAR: f64 = 2.5;
/// Most that what is known of a part weighs, against one for each well-informed plan of a day.
const MEMORY: f64 = 40.0;

/// Traffic and prices by half hour (UTC), logarithmic, against the day's average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Profile {
    traffic: [f64; PARTS],
    price: [f64; PARTS],
    weight: [f64; PARTS],
    scale: [f64; PARTS],
    level_of: [usize; PARTS],
    levels: [f64; LEVELS],
    open: Open,
}

/// What came in of the part that runs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Open {
    part: usize,
    /// Beginning of the tick that is being reported.
    at: f64,
    /// Sums over the plans of that tick: surprises by certainty, certainties.
    plans: [f64; 3],
    /// Mean surprises of the earlier ticks, summed.
    moved: [f64; 2],
    /// Certainties of those ticks, and how many they are.
    certainty: f64,
    ticks: f64,
}

impl Open {
    fn end_tick(&mut self) {
        let [traffic, price, certainty] = std::mem::take(&mut self.plans);
        if certainty > 0.0 {
            self.moved = [self.moved[0] + traffic / certainty, self.moved[1] + price / certainty];
            self.certainty += certainty;
            self.ticks += 1.0;
        }
    }
}

/// Learned by steps from one half hour to the next; the first form learned changes as if they were levels.
const FORM: u32 = 2;

/// The stored form.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// Shapes of another form were learned otherwise and are forgotten: a day teaches this one.
    #[serde(default)]
    form: u32,
    traffic: Vec<f64>,
    price: Vec<f64>,
    weight: Vec<f64>,
}

impl From<Profile> for Saved {
    fn from(profile: Profile) -> Self {
        let Profile { traffic, price, weight, .. } = profile;
        Self { form: FORM, traffic: traffic.to_vec(), price: price.to_vec(), weight: weight.to_vec() }
    }
}

impl From<Saved> for Profile {
    fn from(saved: Saved) -> Self {
        let mut profile = Self::default();
        let sound = |values: &[f64]| values.len() == PARTS && values.iter().all(|x| x.is_finite() && x.abs() < 1e6);
        if saved.form == FORM && [&saved.traffic, &saved.price, &saved.weight].into_iter().all(|values| sound(values)) {
            for part in 0..PARTS {
                profile.traffic[part] = saved.traffic[part].clamp(-FAR, FAR);
                profile.price[part] = saved.price[part].clamp(-FAR, FAR);
                profile.weight[part] = saved.weight[part].max(0.0);
            }
            profile.refresh();
        }
        profile
    }
}

impl Default for Profile {
    fn default() -> Self {
        let flat = [0.0; PARTS];
        let mut profile = Self {
            traffic: flat,
            price: flat,
            weight: flat,
            scale: flat,
            level_of: [0; PARTS],
            levels: [0.0; LEVELS],
            open: Open::default(),
        };
        profile.refresh();
        profile
    }
}

fn part_at(time: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the day, 0 to 47")]
    let part = (time.rem_euclid(DAY) / PART).floor() as usize;
    part.min(PARTS - 1)
}

impl Profile {
    /// Expected level of prices at a time, logarithmic, against the average.
    #[must_use]
    pub fn price_level(&self, now: f64) -> f64 {
        self.price[part_at(now)]
    }

    /// Traffic from one time to another, in average hours.
    #[must_use]
    pub fn traffic(&self, from: f64, until: f64) -> f64 {
        self.hours(from, until).iter().zip(&self.scale).map(|(hours, scale)| hours * scale).sum()
    }

    /// Traffic from one time to another by level of price: (average hours, level).
    pub(super) fn ahead(&self, from: f64, until: f64) -> [(f64, f64); LEVELS] {
        let mut out = self.levels.map(|level| (0.0, level));
        for (part, hours) in self.hours(from, until).iter().enumerate() {
            out[self.level_of[part]].0 += hours * self.scale[part];
        }
        out
    }

    /// Hours of each part of the day between two times.
    fn hours(&self, from: f64, until: f64) -> [f64; PARTS] {
        let mut hours = [0.0; PARTS];
        if until <= from {
            return hours;
        }
        let days = ((until - from) / DAY).floor();
        hours = [days * PART / 3_600.0; PARTS];
        let mut at = from;
        let end = until - days * DAY;
        // At most 49 steps: what is left is shorter than a day.
        for _ in 0..=PARTS {
            if at >= end - 1e-6 {
                break;
            }
            let next = ((at / PART + 1e-9).floor() + 1.0) * PART;
            hours[part_at(at + 1e-6)] += (next.min(end) - at) / 3_600.0;
            at = next;
        }
        hours
    }

    /// Takes in one plan's surprise in a tick that began at `at`, with a certainty in [0, 1]. Plans of one tick name the same
    /// beginning.
    pub fn report(&mut self, at: f64, [traffic, price]: [f64; 2], certainty: f64) {
        if at.total_cmp(&self.open.at).is_ne() {
            self.open.end_tick();
            self.open.at = at;
        }
        let part = part_at(at);
        if part != self.open.part {
            self.close();
            self.open.part = part;
        }
        if traffic.is_finite() && price.is_finite() && certainty > 0.0 {
            self.open.plans[0] += certainty * traffic.clamp(-1.0, 1.0);
            self.open.plans[1] += certainty * price.clamp(-1.0, 1.0);
            self.open.plans[2] += certainty;
        }
    }

    /// Corrects the step into a part that has passed: against now, what lies `ahead` parts ahead is given back by that part of a day.
    #[expect(clippy::cast_precision_loss, reason = "48 parts")]
    fn close(&mut self) {
        let Open { part, at, moved, certainty, ticks, .. } = std::mem::take(&mut self.open);
        self.open.at = at;
        if ticks <= 0.0 {
            return;
        }
        let weight = certainty / ticks;
        let share = weight / (weight + self.weight[part].min(MEMORY));
        self.weight[part] = (self.weight[part] + weight).min(MEMORY);
        for ahead in 1..PARTS {
            let (other, back) = ((part + ahead) % PARTS, share * ahead as f64 / PARTS as f64);
            self.traffic[other] = (self.traffic[other] - back * moved[0]).clamp(-FAR, FAR);
            self.price[other] = (self.price[other] - back * moved[1]).clamp(-FAR, FAR);
        }
        self.refresh();
    }

    /// Averages to 0, traffic scales that average to 1, and the levels of price.
    fn refresh(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "48 parts, 6 levels")]
        let (parts, per_level) = (PARTS as f64, PARTS / LEVELS);
        let mean = self.price.iter().sum::<f64>() / parts;
        self.price.iter_mut().for_each(|x| *x -= mean);
        self.scale = self.traffic.map(f64::exp);
        let mean = self.scale.iter().sum::<f64>() / parts;
        self.scale.iter_mut().for_each(|x| *x /= mean);
        self.traffic.iter_mut().for_each(|x| *x -= mean.ln());
        let mut order: [usize; PARTS] = std::array::from_fn(|part| part);
        order.sort_by(|&a, &b| self.price[a].total_cmp(&self.price[b]));
        for (level, group) in order.chunks(per_level).enumerate() {
            let weight: f64 = group.iter().map(|&part| self.scale[part]).sum();
            self.levels[level] = group.iter().map(|&part| self.scale[part] * self.price[part]).sum::<f64>() / weight;
            group.iter().for_each(|&part| self.level_of[part] = level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One plan that follows its market at once: it reports each tick what its belief has to move by. It begins with what it
    /// first saw.
    fn follow(profile: &mut Profile, days: u32, ticks: u32, level: impl Fn(f64) -> [f64; 2]) {
        let half = 0.5 / f64::from(ticks);
        let mut belief = level(half);
        for tick in 0..days * ticks {
            let at = 1_700_006_400.0 + DAY * f64::from(tick) / f64::from(ticks);
            let part = part_at(at);
            let now = level((at - 1_700_006_400.0) / DAY + half);
            let moved = [now[0] - profile.traffic[part] - belief[0], now[1] - profile.price[part] - belief[1]];
            belief = [belief[0] + moved[0], belief[1] + moved[1]];
            profile.report(at, moved, 1.0);
        }
    }

    #[test]
    fn the_shape_of_the_day_is_learned_whatever_the_length_of_a_tick() {
        let shape = |days: f64| {
            let wave = (days * std::f64::consts::TAU).cos();
            [0.5 * wave, 0.4 * (2.0 * days * std::f64::consts::TAU).sin() - 0.2 * wave]
        };
        for ticks in [48, 96, 1_440] {
            let mut profile = Profile::default();
            follow(&mut profile, 3, ticks, shape);
            let mut far = 0.0_f64;
            for part in 0..PARTS {
                let (now, then) =
                    (shape(f64::from(u8::try_from(part).unwrap()) / 48.0 + 0.5 / 48.0), shape(0.5 / 48.0));
                // The level is the plan's own: what is learned is how parts lie against each other.
                far = far.max((profile.traffic[part] - profile.traffic[0] - (now[0] - then[0])).abs());
                far = far.max((profile.price[part] - profile.price[0] - (now[1] - then[1])).abs());
            }
            // A fifth of what the shape spans. It would be nearer if averaging the profile to nothing after each part did not move
            // the level, which plans then report as part of the next step.
            assert!(far < 0.2, "{far} with {ticks} ticks a day");
        }
    }

    #[test]
    fn a_step_that_is_told_leaves_now_as_it_is_and_is_given_back_within_a_day() {
        let mut profile = Profile::default();
        let at = |part: u32| 1_700_006_400.0 + PART * f64::from(part);
        let rise = |a: usize, b: usize, profile: &Profile| profile.price[b] - profile.price[a];
        for plan in [0.3, 0.5] {
            profile.report(at(20), [0.0, plan], 1.0);
        }
        profile.report(at(21), [0.0; 2], 1.0);
        assert!((rise(19, 20, &profile) - 0.4 * 47.0 / 48.0).abs() < 1e-9, "the plans' mean, less what it gives back");
        for part in 20..47 {
            assert!((rise(part, part + 1, &profile) + 0.4 / 48.0).abs() < 1e-9);
        }
        assert!((rise(47, 0, &profile) + 0.4 / 48.0).abs() < 1e-9, "midnight is no step");
    }

    #[test]
    fn traffic_of_any_span_is_the_sum_of_its_parts() {
        let mut profile = Profile::default();
        for part in 0..PARTS {
            let at = 1_700_006_400.0 + 1_800.0 * f64::from(u8::try_from(part).unwrap());
            let traffic = match part {
                0 => -0.8,
                31 => 0.8,
                _ => 0.0,
            };
            profile.report(at, [traffic, 0.5 - f64::from(u8::try_from(part % 7).unwrap()) / 7.0], 1.0);
        }
        profile.report(1_700_006_400.0 + DAY, [0.0; 2], 0.0);
        let (a, b, c) = (1_700_006_500.0, 1_700_050_123.0, 1_700_300_000.5);
        let whole = profile.traffic(a, c);
        assert!((profile.traffic(a, b) + profile.traffic(b, c) - whole).abs() < 1e-6);
        let ahead: f64 = profile.ahead(a, c).iter().map(|(hours, _)| hours).sum();
        assert!((ahead - whole).abs() < 1e-6);
        assert!((profile.traffic(a, a + DAY) - 24.0).abs() < 1e-3, "an average day has 24 average hours");
        assert!(profile.traffic(a, a + 1_800.0) < profile.traffic(a + 72_000.0, a + 73_800.0));
        let text = serde_json::to_string(&profile).unwrap();
        let back: Profile = serde_json::from_str(&text).unwrap();
        assert!((back.traffic(a, c) - whole).abs() < 1e-6);
    }
}
