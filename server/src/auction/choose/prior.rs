//! The shared prior: Bayesian linear regression of click rates on features, with the whole covariance.
//!
//! Observations may come late: [`Prior::observe`] takes an impression as "no click yet", and [`Prior::credit`] adds the
//! click when it comes. In the information form of the posterior a click adds `x / noise` to the vector whose product with
//! the covariance is the mean, so the order of reports does not matter.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

/// Weights with a Gaussian posterior.
#[derive(Clone, Debug)]
pub struct Prior {
    dims: usize,
    mean: Vec<f64>,
    /// Row by row; symmetric.
    covariance: Vec<f64>,
    /// Lower triangle of the covariance's Cholesky factor, column by column from the diagonal down.
    factor: Vec<f32>,
    /// Variances before anything was seen.
    start: Vec<f64>,
}

impl Prior {
    /// Weights that are independent with these means and variances.
    #[must_use]
    pub fn new(mean: Vec<f64>, variances: Vec<f64>) -> Self {
        let dims = mean.len().min(variances.len());
        let mut covariance = vec![0.0; dims * dims];
        for (at, variance) in variances.iter().enumerate().take(dims) {
            covariance[at * dims + at] = *variance;
        }
        let mut prior = Self { dims, mean, covariance, factor: Vec::new(), start: variances };
        prior.refactor();
        prior
    }

    /// Number of weights.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Means of the weights.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Expected value of a row.
    #[must_use]
    pub fn expected(&self, row: &[f64]) -> f64 {
        row.iter().zip(&self.mean).map(|(x, m)| x * m).sum()
    }

    /// Mean and variance of a sum of few weights, each with a factor.
    #[must_use]
    pub fn known(&self, terms: &[(usize, f64)]) -> (f64, f64) {
        let (mut mean, mut variance) = (0.0, 0.0);
        for &(at, x) in terms {
            mean += x * self.mean[at];
            variance += terms.iter().map(|&(other, y)| x * y * self.covariance[at * self.dims + other]).sum::<f64>();
        }
        (mean, variance)
    }

    fn times_covariance(&self, row: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; self.dims];
        for (x, line) in row.iter().zip(self.covariance.chunks_exact(self.dims)).filter(|(x, _)| **x != 0.0) {
            product.iter_mut().zip(line).for_each(|(sum, c)| *sum += x * c);
        }
        product
    }

    /// Takes in that `row` gave `target` with a noise of this variance.
    pub fn observe(&mut self, row: &[f64], target: f64, noise: f64) {
        let gain = self.times_covariance(row);
        let total: f64 = row.iter().zip(&gain).map(|(x, g)| x * g).sum::<f64>() + noise;
        let step = (target - self.expected(row)) / total;
        for ((line, mean), g) in self.covariance.chunks_exact_mut(self.dims).zip(&mut self.mean).zip(&gain) {
            *mean += g * step;
            let share = g / total;
            line.iter_mut().zip(&gain).for_each(|(c, g)| *c -= share * g);
        }
    }

    /// Adds `amount` to the outcome of an observation taken in before, whose noise had variance `noise`.
    pub fn credit(&mut self, row: &[f64], amount: f64, noise: f64) {
        let gain = self.times_covariance(row);
        self.mean.iter_mut().zip(&gain).for_each(|(mean, g)| *mean += g * amount / noise);
    }

    /// Forgets a share `1 - keep` of what makes the weights certain.
    pub fn decay(&mut self, keep: f64) {
        for at in 0..self.dims {
            let place = &mut self.covariance[at * self.dims + at];
            *place = (*place + (1.0 - keep) * self.start[at]).min(self.start[at]);
        }
    }

    /// Brings the factor that draws are made with in step with the covariance: cubic in the number of weights.
    pub fn refactor(&mut self) {
        self.factor = self.factored();
    }

    /// The factor anew, for [`Self::set_factor`] under a lock that is held shortly.
    #[must_use]
    pub fn factored(&self) -> Vec<f32> {
        let n = self.dims;
        let mut work = self.covariance.clone();
        for k in 0..n {
            let (done, rest) = work.split_at_mut(k * n);
            let row = &mut rest[..n];
            // Row k of the factor times the rows above it.
            for j in 0..k {
                let above = &done[j * n..j * n + j + 1];
                let dot: f64 = row[..j].iter().zip(above).map(|(a, b)| a * b).sum();
                row[j] = (row[j] - dot) / above[j];
            }
            let dot: f64 = row[..k].iter().map(|a| a * a).sum();
            // Rounding may leave a hair below zero where everything is known.
            row[k] = (row[k] - dot).max(1e-18).sqrt();
        }
        #[expect(clippy::cast_possible_truncation, reason = "draws need no more")]
        let column =
            |k: usize| (k..n).map(move |row| (row, k)).map(|(row, k)| work[row * n + k] as f32).collect::<Vec<_>>();
        (0..n).flat_map(column).collect()
    }

    /// Puts a factor in.
    pub fn set_factor(&mut self, factor: Vec<f32>) {
        if factor.len() == self.dims * (self.dims + 1) / 2 {
            self.factor = factor;
        }
    }

    /// Draws all weights together: mean plus `temperature` times a draw of the deviation. Allocates nothing.
    pub fn draw<R: Rng + ?Sized>(&self, temperature: f32, rng: &mut R, into: &mut [f32]) {
        #[expect(clippy::cast_possible_truncation, reason = "draws need no more")]
        into.iter_mut().zip(&self.mean).for_each(|(w, mean)| *w = *mean as f32);
        let mut column = &self.factor[..];
        for k in 0..self.dims.min(into.len()) {
            let (head, tail) = column.split_at(self.dims - k);
            let z: f32 = temperature * rng.sample::<f32, _>(StandardNormal);
            into[k..].iter_mut().zip(head).for_each(|(w, l)| *w += z * l);
            column = tail;
        }
    }

    /// Mean and covariance's lower triangle, for the store.
    pub(super) fn saved(&self) -> (&[f64], Vec<f64>) {
        let lines = self.covariance.chunks_exact(self.dims).enumerate();
        (&self.mean, lines.flat_map(|(at, line)| line[..=at].iter().copied()).collect())
    }

    /// Puts back what [`Self::saved`] gave; false and unchanged if it is of another size or holds what is no number.
    pub(super) fn restore(&mut self, mean: &[f64], triangle: &[f64]) -> bool {
        let finite = mean.iter().all(|x| x.is_finite()) && triangle.iter().all(|x| x.is_finite());
        if mean.len() != self.dims || triangle.len() != self.dims * (self.dims + 1) / 2 || !finite {
            return false;
        }
        self.mean.copy_from_slice(mean);
        let mut rest = triangle;
        for row in 0..self.dims {
            let (line, tail) = rest.split_at(row + 1);
            for (column, c) in line.iter().enumerate() {
                self.covariance[row * self.dims + column] = *c;
                self.covariance[column * self.dims + row] = *c;
            }
            rest = tail;
        }
        self.refactor();
        true
    }
}
