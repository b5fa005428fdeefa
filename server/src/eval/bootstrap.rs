//! How far a figure may be off by the choice of users: the bootstrap.
//!
//! Users are independent of each other, events of one user are not: so whole users are drawn, with replacement, as many as there are,
//! and the standard deviation of a figure over such draws is its standard error (Efron, 1979).

use super::metrics::number;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// How often each user counts, by the user's number.
pub type Weights = [u16];

/// Draws of users.
#[derive(Debug)]
pub struct Resamples {
    /// Everybody once.
    whole: Vec<u16>,
    draws: Vec<Vec<u16>>,
}

impl Resamples {
    /// `count` draws from `members`, who have numbers below `people`. Equal seeds give equal draws.
    #[must_use]
    pub fn new(people: usize, members: &[usize], count: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut whole = vec![0; people];
        members.iter().for_each(|&member| whole[member] = 1);
        let draw = |_| {
            let mut weights: Vec<u16> = vec![0; people];
            for _ in members {
                let weight = &mut weights[members[random.random_range(0..members.len())]];
                *weight = weight.saturating_add(1);
            }
            weights
        };
        Self { whole, draws: (0..count).map(draw).collect() }
    }

    /// A figure and its standard error. `of` computes it for users that count so often; `NaN` if it has no value.
    pub fn figure(&self, of: impl Fn(&Weights) -> f64) -> Figure {
        Figure::new(of(&self.whole), self.draws.iter().map(|weights| of(weights)).collect())
    }

    /// The mean of what each user (or each user's each row) contributes.
    #[must_use]
    pub fn mean(&self, rows: &[(usize, f64)]) -> Figure {
        self.figure(|weights| {
            let sum = |of: &dyn Fn(f64) -> f64| -> f64 {
                rows.iter().map(|&(user, value)| f64::from(weights[user]) * of(value)).sum()
            };
            sum(&|value| value) / sum(&|_| 1.0)
        })
    }

    /// `of` for everybody once.
    pub fn whole<T>(&self, of: impl FnOnce(&Weights) -> T) -> T {
        of(&self.whole)
    }
}

/// A figure, with what chance may have added.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// For all users; `NaN` (null in JSON) if there is none, such as an AUC without a positive.
    pub value: f64,
    /// One standard error; `NaN` if fewer than two draws gave a value.
    pub error: f64,
    /// One for each draw.
    #[serde(skip)]
    draws: Vec<f64>,
}

impl Figure {
    fn new(value: f64, draws: Vec<f64>) -> Self {
        let finite: Vec<f64> = draws.iter().copied().filter(|draw| draw.is_finite()).collect();
        let mean = finite.iter().sum::<f64>() / number(finite.len());
        let squares: f64 = finite.iter().map(|draw| (draw - mean).powi(2)).sum();
        let error = if finite.len() < 2 { f64::NAN } else { (squares / number(finite.len() - 1)).sqrt() };
        Self { value, error, draws }
    }

    /// This less another over the same users. The error is smaller than those of the two add up to: a draw that is hard for
    /// one is hard for the other.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        let draws = self.draws.iter().zip(&other.draws).map(|(a, b)| a - b).collect();
        Self::new(self.value - other.value, draws)
    }

    /// This over another over the same users.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        let draws = self.draws.iter().zip(&other.draws).map(|(a, b)| a / b).collect();
        Self::new(self.value / other.value, draws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_mean_is_that_of_the_textbook() {
        // Contributions 0, 1, .., 99: standard deviation 28.87 (population), so 2.887 for a mean of 100.
        let members: Vec<usize> = (0..100).map(|n| n * 2).collect();
        let rows: Vec<(usize, f64)> = members.iter().map(|&user| (user, number(user) / 2.0)).collect();
        let figure = Resamples::new(200, &members, 2_000, 5).mean(&rows);
        assert!((figure.value - 49.5).abs() < 1e-12);
        assert!((figure.error - 2.887).abs() < 0.15, "{}", figure.error);
        // The same figure again: a difference without error.
        let other = Resamples::new(200, &members, 2_000, 5).mean(&rows);
        let same = figure.less(&other);
        assert_eq!((same.value, same.error), (0.0, 0.0));
        assert_eq!(figure.over(&other).value, 1.0);
    }

    #[test]
    fn rows_of_one_user_are_drawn_together() {
        // Ten users of 50 equal rows: the error is that of ten, not of five hundred.
        let members: Vec<usize> = (0..10).collect();
        let rows: Vec<(usize, f64)> = (0..500).map(|row| (row / 50, number(row / 50 % 2))).collect();
        let figure = Resamples::new(10, &members, 2_000, 1).mean(&rows);
        assert!((figure.error - 0.5 / 10f64.sqrt()).abs() < 0.02, "{}", figure.error);
    }

    #[test]
    fn nobody_gives_no_figure_and_no_fault() {
        let figure = Resamples::new(3, &[], 10, 1).mean(&[]);
        assert!(figure.value.is_nan() && figure.error.is_nan());
        assert_eq!(serde_json::to_string(&figure).unwrap(), r#"{"value":null,"error":null}"#);
    }
}
