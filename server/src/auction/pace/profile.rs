//! The day's shape of traffic and prices, learned from all plans together.
//!
//! One plan sees too little to know its market's day; but plans of one server live in one market. After each tick every
//! plan reports how far its traffic and its prices were from what the profile promised; the average, by the plans'
//! certainty, moves the half hour's figures. A plan that starts today plans with yesterday's shape.

use serde::{Deserialize, Serialize};

/// Parts of a day.
pub const PARTS: usize = 48;
/// Levels of price that a forecast tells apart.
pub(super) const LEVELS: usize = 6;
const PART: f64 = 1_800.0;
const DAY: f64 = 86_400.0;
/// Furthest that a part may lie from the average, logarithmic.
const FAR: f64 = 2.5;
/// Weight at which half of what is known is new: about three days of one well-informed plan.
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

#[derive(Clone, Debug, PartialEq)]
struct Open {
    part: usize,
    sums: [f64; 3],
}

/// The stored form.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    traffic: Vec<f64>,
    price: Vec<f64>,
    weight: Vec<f64>,
}

impl From<Profile> for Saved {
    fn from(profile: Profile) -> Self {
        let Profile { traffic, price, weight, .. } = profile;
        Self { traffic: traffic.to_vec(), price: price.to_vec(), weight: weight.to_vec() }
    }
}

impl From<Saved> for Profile {
    fn from(saved: Saved) -> Self {
        let mut profile = Self::default();
        let sound = |values: &[f64]| values.len() == PARTS && values.iter().all(|x| x.is_finite() && x.abs() < 1e6);
        if [&saved.traffic, &saved.price, &saved.weight].into_iter().all(|values| sound(values)) {
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
        let open = Open { part: 0, sums: [0.0; 3] };
        let flat = [0.0; PARTS];
        let mut profile = Self {
            traffic: flat,
            price: flat,
            weight: flat,
            scale: flat,
            level_of: [0; PARTS],
            levels: [0.0; LEVELS],
            open,
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

    /// Takes in one plan's surprise in a tick that began at `at`, with a certainty in [0, 1].
    pub fn report(&mut self, at: f64, [traffic, price]: [f64; 2], certainty: f64) {
        let part = part_at(at);
        if part != self.open.part {
            self.close();
            self.open.part = part;
        }
        if traffic.is_finite() && price.is_finite() && certainty > 0.0 {
            self.open.sums[0] += certainty * traffic.clamp(-1.0, 1.0);
            self.open.sums[1] += certainty * price.clamp(-1.0, 1.0);
            self.open.sums[2] += certainty;
        }
    }

    /// Moves the figures of a part that has passed.
    fn close(&mut self) {
        let [traffic, price, weight] = std::mem::take(&mut self.open.sums);
        if weight <= 0.0 {
            return;
        }
        let part = self.open.part;
        let share = weight / (weight + self.weight[part].min(MEMORY));
        self.traffic[part] = (self.traffic[part] + share * traffic / weight).clamp(-FAR, FAR);
        self.price[part] = (self.price[part] + share * price / weight).clamp(-FAR, FAR);
        self.weight[part] = (self.weight[part] + weight).min(MEMORY);
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

    #[test]
    fn traffic_of_any_span_is_the_sum_of_its_parts() {
        let mut profile = Profile::default();
        for part in 0..PARTS {
            let at = 1_700_006_400.0 + 1_800.0 * f64::from(u8::try_from(part).unwrap());
            profile.report(
                at,
                [if part > 30 { 0.8 } else { -0.3 }, 0.5 - f64::from(u8::try_from(part % 7).unwrap()) / 7.0],
                1.0,
            );
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
