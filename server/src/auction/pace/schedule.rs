//! How a plan's spend should lie over its time.

use serde::{Deserialize, Serialize};

/// A plan that ends at or after this (2100-01-01) has no schedule: it spends as fast as its goal allows.
pub const NO_END: i64 = 4_102_444_800;

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// Wanted spend by hour of the day (UTC), relative to each other. Uniform unless traffic forecasts say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DayShape {
    weights: [f64; 24],
}

impl Default for DayShape {
    fn default() -> Self {
        Self { weights: [1.0; 24] }
    }
}

impl DayShape {
    /// A shape from 24 weights; `None` unless all are finite, none negative and one positive.
    #[must_use]
    pub fn hourly(weights: [f64; 24]) -> Option<Self> {
        let sound = weights.iter().all(|w| w.is_finite() && *w >= 0.0) && weights.iter().any(|w| *w > 0.0);
        sound.then_some(Self { weights })
    }

    /// Weight at a time.
    #[must_use]
    pub fn weight(&self, now: f64) -> f64 {
        let hour = (now.rem_euclid(DAY) / HOUR).floor();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an hour of the day, 0 to 23")]
        self.weights[(hour as usize).min(23)]
    }

    /// Integral of the weight from `from` to `until`, in weight x seconds; 0 if `until` is not later.
    #[must_use]
    pub fn integral(&self, from: f64, until: f64) -> f64 {
        if until <= from {
            return 0.0;
        }
        self.since_midnight(until) - self.since_midnight(from)
    }

    /// Integral from the epoch to a time.
    fn since_midnight(&self, time: f64) -> f64 {
        let whole: f64 = self.weights.iter().sum::<f64>() * HOUR;
        let within = time.rem_euclid(DAY);
        let days = ((time - within) / DAY).round();
        let hours: f64 = self
            .weights
            .iter()
            .zip(0u8..)
            .map(|(w, hour)| w * (within - f64::from(hour) * HOUR).clamp(0.0, HOUR))
            .sum();
        days * whole + hours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integral_is_additive_and_uniform_is_time() {
        let mut weights = [0.5; 24];
        weights[20] = 3.0;
        let shape = DayShape::hourly(weights).unwrap();
        let (a, b, c) = (1_700_000_123.0, 1_700_050_000.5, 1_700_300_000.0);
        let sum = shape.integral(a, b) + shape.integral(b, c);
        assert!((sum - shape.integral(a, c)).abs() < 1e-3, "{sum}");
        assert!((DayShape::default().integral(a, c) - (c - a)).abs() < 1e-3);
        assert_eq!(shape.integral(c, a), 0.0);
        assert!(DayShape::hourly([0.0; 24]).is_none());
    }
}
