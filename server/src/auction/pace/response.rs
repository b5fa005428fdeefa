//! How spend and value answer to a plan's multiplier: a two-parameter model, learned tick by tick.
//!
//! An impression is won when `multiplier * value >= price`, that is when `u = ln(multiplier)` reaches its threshold
//! `ln(price / value)`. Thresholds are taken as normal with mean `m` and spread [`SPREAD`]; a unit of traffic offers value
//! `exp(a)`. In a unit of traffic the plan then wins
//!
//! - value `V(u) = exp(a) * Phi((u - m) / s)` and
//! - spends `C(u) = exp(a + m + s^2 / 2) * Phi((u - m) / s - s)`.
//!
//! Both grow with `u` by construction, and `dC = exp(u) dV`: the last value bought costs the multiplier, as it must in a
//! second-price auction. Two figures of a tick, value won and spend per value, tell `a` and `m` apart; an extended Kalman
//! filter follows them. A tick far from its prediction widens the belief first, so that a jump of prices is followed at once.

use crate::auction::normal::{log_cdf, mills};
use serde::{Deserialize, Serialize};

/// Spread of the thresholds' logarithm.
pub const SPREAD: f64 = 0.8;
/// Variance of one impression's logarithmic value and of its spend per value.
const NOISE: [f64; 2] = [1.5, 0.4];
/// Misfit that remains with any number of impressions.
const NOISE_FLOOR: f64 = 0.02 * 0.02;
/// Wander of both figures in an hour.
const WANDER: f64 = 0.08 * 0.08;
/// A jump is believed from this many standard deviations on.
const JUMP: f64 = 3.0;

/// What one tick brought.
#[derive(Clone, Copy, Debug)]
pub struct TickSeen {
    /// Logarithm of the multiplier that held.
    pub exponent: f64,
    /// Traffic, in units of an average hour.
    pub traffic: f64,
    /// Expected level of prices against the average, logarithmic.
    pub price_level: f64,
    /// Impressions.
    pub impressions: f64,
    /// Their predicted value, micros.
    pub value: f64,
    /// Their price, micros.
    pub spend: f64,
}

/// Belief about one plan's `a` and `m`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Logarithm of the value that an average hour offers, micros.
    pub offer: f64,
    /// Mean threshold at average prices.
    pub threshold: f64,
    /// Variances of both and their covariance.
    pub variance: [f64; 3],
    /// Last tick's surprise in traffic value and in price, logarithmic: what the shared profile learns from.
    pub surprise: [f64; 2],
}

impl Response {
    /// A belief from a first tick with at least one impression, around a prior mean threshold.
    #[must_use]
    pub fn first(seen: &TickSeen, threshold: f64) -> Self {
        let z = (seen.exponent - threshold - seen.price_level) / SPREAD;
        let offer = (seen.value / seen.traffic).ln() - log_cdf(z);
        let mut start = Self { offer, threshold, variance: [4.0, 1.0, 0.0], surprise: [0.0; 2] };
        start.learn(seen, 0.0);
        start
    }

    /// Spend in a unit of traffic at an exponent, prices at `level`.
    #[must_use]
    pub fn spend(&self, exponent: f64, level: f64) -> f64 {
        let mean = self.threshold + level;
        (self.offer + mean + SPREAD * SPREAD / 2.0 + log_cdf((exponent - mean) / SPREAD - SPREAD)).exp()
    }

    /// Value won in a unit of traffic.
    #[must_use]
    pub fn value(&self, exponent: f64, level: f64) -> f64 {
        (self.offer + log_cdf((exponent - self.threshold - level) / SPREAD)).exp()
    }

    /// Takes in a tick that lasted `hours`.
    pub fn learn(&mut self, seen: &TickSeen, hours: f64) {
        let wander = WANDER * hours;
        self.variance[0] = (self.variance[0] + wander).min(4.0);
        self.variance[1] = (self.variance[1] + wander).min(1.0);
        self.surprise = [0.0; 2];
        if seen.traffic <= 0.0 {
            return;
        }
        if seen.impressions < 1.0 || seen.value <= 0.0 || seen.spend <= 0.0 {
            self.learn_silence(seen);
            return;
        }
        let ratio = (seen.spend / seen.value).ln();
        let won = (seen.value / seen.traffic).ln();
        let before = (self.offer, self.threshold);
        for (kind, observed) in [(1, ratio), (0, won)] {
            let noise = NOISE[kind] / seen.impressions + NOISE_FLOOR;
            let (expected, slope) = self.expect(kind, seen);
            let error = observed - expected;
            let spread = self.variance_of(slope) + noise;
            if error * error > JUMP * JUMP * spread {
                let more = (error * error).min(1.0);
                self.variance[0] += more;
                self.variance[1] += more;
            }
            self.update(slope, error, noise);
        }
        self.surprise = [self.offer - before.0, self.threshold - before.1];
    }

    /// No impression although some were expected: the threshold must lie higher, or there is less traffic.
    fn learn_silence(&mut self, seen: &TickSeen) {
        let (expected, slope) = self.expect(0, seen);
        let one = self.offer + (0.05f64).ln();
        if expected > one {
            self.update(slope, (one - expected).max(-1.0), 1.0);
        }
    }

    /// Expected logarithm of value won (kind 0) or of spend per value (kind 1), and its slope in (offer, threshold).
    fn expect(&self, kind: usize, seen: &TickSeen) -> (f64, [f64; 2]) {
        let mean = self.threshold + seen.price_level;
        let z = (seen.exponent - mean) / SPREAD;
        if kind == 0 {
            return (self.offer + log_cdf(z), [1.0, -mills(z) / SPREAD]);
        }
        let slope = (1.0 - (mills(z - SPREAD) - mills(z)) / SPREAD).clamp(0.02, 1.0);
        (mean + SPREAD * SPREAD / 2.0 + log_cdf(z - SPREAD) - log_cdf(z), [0.0, slope])
    }

    fn variance_of(&self, [a, m]: [f64; 2]) -> f64 {
        let [va, vm, c] = self.variance;
        a * a * va + 2.0 * a * m * c + m * m * vm
    }

    fn update(&mut self, slope: [f64; 2], error: f64, noise: f64) {
        let [va, vm, c] = self.variance;
        let toward = [va * slope[0] + c * slope[1], c * slope[0] + vm * slope[1]];
        let total = (slope[0] * toward[0] + slope[1] * toward[1] + noise).max(1e-12);
        let gain = [toward[0] / total, toward[1] / total];
        let step = |gain: f64| (gain * error).clamp(-2.0, 2.0);
        self.offer += step(gain[0]);
        self.threshold = (self.threshold + step(gain[1])).clamp(-8.0, 8.0);
        let (va, vm) = ((va - gain[0] * toward[0]).clamp(1e-6, 4.0), (vm - gain[1] * toward[1]).clamp(1e-6, 1.0));
        // Rounding and the bounds must not leave a covariance that no two figures can have.
        let most = 0.99 * (va * vm).sqrt();
        self.variance = [va, vm, (c - gain[0] * toward[1]).clamp(-most, most)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(truth: (f64, f64), exponent: f64, impressions: f64) -> TickSeen {
        let real = Response { offer: truth.0, threshold: truth.1, variance: [0.0; 3], surprise: [0.0; 2] };
        TickSeen {
            exponent,
            traffic: 0.25,
            price_level: 0.0,
            impressions,
            value: 0.25 * real.value(exponent, 0.0),
            spend: 0.25 * real.spend(exponent, 0.0),
        }
    }

    #[test]
    fn finds_both_figures_from_ticks_at_one_multiplier() {
        let mut learned = Response::first(&tick((15.0, 0.6), 0.2, 50.0), 0.0);
        for _ in 0..20 {
            learned.learn(&tick((15.0, 0.6), 0.2, 50.0), 0.25);
        }
        for u in [-1.0, 0.0, 1.0, 2.0] {
            let truth = Response { offer: 15.0, threshold: 0.6, ..learned };
            let ratio = learned.spend(u, 0.0) / truth.spend(u, 0.0);
            assert!((ratio.ln()).abs() < 0.15, "{ratio} at {u}");
        }
    }

    /// How near an estimate can be three ticks after a jump depends on the impressions in them: the logarithm of the value won
    /// in `n` impressions varies by `NOISE[0] / n`, so that three ticks tell the new level to `sqrt(NOISE[0] / 3n)` and no
    /// estimator does better; one that came closer on these noiseless ticks would follow the luck of real ones. At 50 impressions
    /// that is 10%, and a rise of prices by 1.3 is two standard deviations of one tick; at 200 it is 5%.
    #[test]
    fn three_ticks_after_a_jump_it_is_as_near_as_their_impressions_can_tell() {
        for impressions in [50.0, 100.0, 200.0, 1_000.0] {
            let (before, after) = ((15.0, 0.6), (15.0, 0.6 + 1.3f64.ln()));
            let mut learned = Response::first(&tick(before, 0.2, impressions), 0.0);
            for _ in 0..20 {
                learned.learn(&tick(before, 0.2, impressions), 0.25);
            }
            let truth = tick(after, 0.2, impressions).spend / 0.25;
            let start = (learned.spend(0.2, 0.0) / truth).ln();
            assert!(start > 0.25, "the jump is much larger than the error that is allowed: {start}");
            for _ in 0..3 {
                learned.learn(&tick(after, 0.2, impressions), 0.25);
            }
            let (error, allowed) = ((learned.spend(0.2, 0.0) / truth).ln(), (NOISE[0] / (3.0 * impressions)).sqrt());
            assert!(error.abs() < allowed, "{error} after three ticks of {impressions}, {allowed} is allowed");
        }
    }

    #[test]
    fn curves_grow_and_the_last_value_costs_the_multiplier() {
        let model = Response { offer: 3.0, threshold: 0.4, variance: [1.0; 3], surprise: [0.0; 2] };
        for step in -40..100 {
            let u = f64::from(step) / 20.0;
            let (dc, dv) =
                (model.spend(u + 0.01, 0.1) - model.spend(u, 0.1), model.value(u + 0.01, 0.1) - model.value(u, 0.1));
            assert!(dc > 0.0 && dv > 0.0);
            assert!((dc / dv / (u + 0.005).exp() - 1.0).abs() < 1e-3, "{} at {u}", dc / dv);
        }
    }

    #[test]
    fn silence_and_nonsense_leave_a_finite_belief() {
        let mut learned = Response::first(&tick((12.0, 0.0), 0.0, 3.0), 0.0);
        for n in 0..200 {
            let mut seen = tick((12.0, 0.0), f64::from(n % 5) - 2.0, 0.0);
            (seen.value, seen.spend) = (0.0, 0.0);
            learned.learn(&seen, 5.0);
            assert!(learned.offer.is_finite() && learned.threshold.is_finite());
            assert!(learned.variance.iter().all(|v| v.is_finite()));
        }
    }
}
