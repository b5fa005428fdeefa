//! How much less than its value a first-price bid should offer: a win-rate model for each group of slots.
//!
//! `F(b)`, the chance that `b` wins, is a logistic function of `ln b` with two weights, learned bid by bid (Laplace's normal
//! approximation of the posterior, old bids slowly forgotten). The bid is `argmax (v - b) F(b)`. Where the weights are uncertain
//! the probability is pulled to one half (the posterior mean of a logistic under a normal), which shades less steeply; a group
//! with few bids is not shaded at all. Requests read [`Shading`], a table that the control tick makes, without waiting.

use serde::{Deserialize, Serialize};

/// Bids that a group needs before anything is shaded.
const BIDS_MIN: f64 = 200.0;
/// Weight that an old bid keeps with each new one.
const KEEP: f64 = 0.9998;
/// Steepness that a group starts with: doubling a bid takes the odds from 1:1 to 4:1.
const STEEPNESS: f64 = 2.0;
/// Lowest share of its value that is ever offered.
const SHARE_MIN: f64 = 0.2;
/// Values in a table: every power of two from 2^0 to 2^46 micros, and the middle to the next. A value's place is then in the bits
/// of its float, without a logarithm for each bid.
const POINTS: usize = 93;
/// Bits of a float's mantissa below the one that tells which half of an octave it is in.
const PART_BITS: u32 = f64::MANTISSA_DIGITS - 2;
/// Groups at most; further ones share the last.
const GROUPS_MAX: usize = 4_096;

/// The win-rate model of one group of slots.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// `ln b` at which features are 0; the first bid's.
    center: f64,
    /// Odds at the center, and steepness.
    weights: [f64; 2],
    /// Precision of both weights and between them.
    precision: [f64; 3],
    bids: f64,
}

impl WinRate {
    /// A model around a first bid, micros.
    #[must_use]
    pub fn new(bid: f64) -> Self {
        Self { center: bid.max(1.0).ln(), weights: [0.0, STEEPNESS], precision: [0.1, 1.0, 0.0], bids: 0.0 }
    }

    /// Covariance of the weights: variances and covariance.
    fn covariance(&self) -> [f64; 3] {
        let [a, d, c] = self.precision;
        let det = (a * d - c * c).max(1e-12);
        [d / det, a / det, -c / det]
    }

    /// Takes in whether a bid of `bid` micros won.
    pub fn record(&mut self, bid: f64, won: bool) {
        if bid.is_nan() || bid < 1.0 {
            return;
        }
        let x = (bid.ln() - self.center).clamp(-6.0, 6.0);
        let p = self.logistic(x);
        let weight = (p * (1.0 - p)).max(1e-3);
        self.precision = self.precision.map(|part| part * KEEP);
        self.precision[0] = (self.precision[0] + weight).max(0.1);
        self.precision[1] = (self.precision[1] + weight * x * x).max(0.1);
        self.precision[2] += weight * x;
        let [va, vd, c] = self.covariance();
        let error = f64::from(u8::from(won)) - p;
        self.weights[0] = (self.weights[0] + (va + c * x) * error).clamp(-20.0, 20.0);
        self.weights[1] = (self.weights[1] + (c + vd * x) * error).clamp(0.2, 20.0);
        self.bids = (self.bids * KEEP + 1.0).min(1e9);
    }

    fn logistic(&self, x: f64) -> f64 {
        1.0 / (1.0 + (-(self.weights[0] + self.weights[1] * x)).exp())
    }

    /// Chance that a bid wins, and its standard error on the scale of the odds' logarithm.
    #[must_use]
    pub fn chance(&self, bid: f64) -> (f64, f64) {
        let x = (bid.max(1.0).ln() - self.center).clamp(-6.0, 6.0);
        let [va, vd, c] = self.covariance();
        let variance = (va + 2.0 * c * x + vd * x * x).max(0.0);
        let pull = 1.0 / (1.0 + std::f64::consts::PI * variance / 8.0).sqrt();
        let odds = (self.weights[0] + self.weights[1] * x) * pull;
        (1.0 / (1.0 + (-odds).exp()), variance.sqrt())
    }

    /// Share of `value` (micros) to offer.
    #[must_use]
    pub fn share(&self, value: f64) -> f64 {
        if self.bids < BIDS_MIN || value.is_nan() || value < 1.0 {
            return 1.0;
        }
        let gain = |share: f64| (1.0 - share) * self.chance(value * share).0;
        // A coarse search, then thirds: the gain has one peak for a logistic in ln b.
        let step = (1.0 - SHARE_MIN) / 16.0;
        let best = (0..=16).map(|i| SHARE_MIN + step * f64::from(i)).max_by(|a, b| gain(*a).total_cmp(&gain(*b)));
        let best = best.unwrap_or(1.0);
        let (mut low, mut high) = ((best - step).max(SHARE_MIN), (best + step).min(1.0));
        for _ in 0..12 {
            let third = (high - low) / 3.0;
            if gain(low + third) < gain(high - third) { low += third } else { high -= third }
        }
        f64::midpoint(low, high)
    }
}

/// Value of a place of a table, micros.
fn point(place: usize) -> f64 {
    f64::from_bits(1.0f64.to_bits() + ((place as u64) << PART_BITS))
}

/// Shares to offer by group and value: what requests read.
#[derive(Clone, Debug, Default)]
pub struct Shading {
    groups: Vec<[f32; POINTS]>,
}

impl Shading {
    /// Share of a value (micros of the response currency) to offer in a group, in (0, 1]; 1 for a group that is not known.
    #[must_use]
    pub fn share(&self, group: usize, value: f64) -> f64 {
        let Some(table) = self.groups.get(group) else { return 1.0 };
        if value.is_nan() || value <= 1.0 {
            return 1.0;
        }
        let above = value.to_bits() - 1.0f64.to_bits();
        let low = usize::try_from(above >> PART_BITS).unwrap_or(usize::MAX);
        if low >= POINTS - 1 {
            return f64::from(table[POINTS - 1]);
        }
        #[expect(clippy::cast_precision_loss, reason = "51 bits")]
        let part = (above & ((1 << PART_BITS) - 1)) as f64 / (1u64 << PART_BITS) as f64;
        f64::from(table[low]) * (1.0 - part) + f64::from(table[low + 1]) * part
    }
}

/// The models of all groups of slots.
#[derive(Clone, Debug, Default)]
pub struct WinRates {
    groups: Vec<Option<WinRate>>,
    /// Groups that learned something since their table was made.
    stale: Vec<usize>,
    tables: Shading,
}

impl WinRates {
    /// Takes in a first-price bid of a group, micros of the response currency.
    pub fn record(&mut self, group: usize, bid: f64, won: bool) {
        let group = group.min(GROUPS_MAX - 1);
        if self.groups.len() <= group {
            self.groups.resize(group + 1, None);
            self.tables.groups.resize(group + 1, [1.0; POINTS]);
        }
        self.groups[group].get_or_insert_with(|| WinRate::new(bid)).record(bid, won);
        if !self.stale.contains(&group) {
            self.stale.push(group);
        }
    }

    /// Makes the tables of at most `most` groups anew, those that have waited longest, and gives all tables.
    #[must_use]
    pub fn shading(&mut self, most: usize) -> Shading {
        for group in self.stale.drain(..most.min(self.stale.len())) {
            let model = &self.groups[group];
            #[expect(clippy::cast_possible_truncation, reason = "shares")]
            let table = |i: usize| model.map_or(1.0, |model| model.share(point(i))) as f32;
            self.tables.groups[group] = std::array::from_fn(table);
        }
        self.tables.clone()
    }

    /// True when a table is older than what was learned.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Others bid log-logistic: F(b) = 1 / (1 + (b / 1000)^-3).
    fn truth(bid: f64) -> f64 {
        1.0 / (1.0 + (bid / 1_000.0).powi(-3))
    }

    fn trained(bids: u32) -> WinRates {
        let (mut rng, mut rates) = (StdRng::seed_from_u64(5), WinRates::default());
        for _ in 0..bids {
            let bid = 1_000.0 * rng.random_range(-1.5f64..1.5).exp();
            rates.record(0, bid, rng.random_bool(truth(bid)));
        }
        rates
    }

    #[test]
    fn the_offer_is_near_the_best_one_under_the_true_win_rate() {
        let shading = trained(20_000).shading(1);
        for value in [300.0, 1_000.0, 2_500.0, 6_000.0] {
            let gain = |share: f64| (1.0 - share) * value * truth(value * share);
            let best = (1..1_000).map(|i| gain(f64::from(i) / 1_000.0)).fold(0.0, f64::max);
            let share = shading.share(0, value);
            assert!(gain(share) > 0.96 * best, "value {value}: share {share} brings {} of {best}", gain(share));
        }
    }

    #[test]
    fn a_table_is_exact_at_its_points_and_between_its_neighbours_elsewhere() {
        let model = trained(5_000).groups[0].unwrap();
        let shading = trained(5_000).shading(1);
        assert_eq!([0, 1, 2, 3, POINTS - 1].map(point), [1.0, 1.5, 2.0, 3.0, 2.0f64.powi(46)]);
        for place in 1..POINTS - 1 {
            let close = |value: f64, share: f64| (shading.share(0, value) - share).abs() < 1e-6;
            let (here, next) = (model.share(point(place)), model.share(point(place + 1)));
            assert!(close(point(place), here), "{place}");
            assert!(close(f64::midpoint(point(place), point(place + 1)), f64::midpoint(here, next)), "{place}");
        }
        assert!((shading.share(0, 1e300) - model.share(point(POINTS - 1))).abs() < 1e-6);
    }

    #[test]
    fn an_unknown_group_pays_its_value_and_certainty_grows_with_bids() {
        let (mut few, mut many) = (trained(50), trained(20_000));
        assert_eq!(few.shading(1).share(0, 1_000.0), 1.0, "too few bids");
        assert_eq!(many.shading(1).share(7, 1_000.0), 1.0);
        let error = |rates: &WinRates| rates.groups[0].unwrap().chance(1_000.0).1;
        assert!(error(&many) < error(&few) / 3.0);
        for odd in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
            let share = many.shading(1).share(0, odd);
            assert!(share > 0.0 && share <= 1.0);
        }
    }
}
