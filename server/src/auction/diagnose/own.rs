//! How our own bids came about, in logarithms: predicted worth, times the multiplier, capped, shaded.
//!
//! The means of the logarithms add up, so the change of the bid is exactly the change of the worth, of the multiplier, of what caps
//! hold back and of what shading takes off. Caps and shading also *follow* what was wanted: twice the wish is less than twice the
//! bid. How closely they follow is seen inside a period, from how bids of different worth were treated (the slope of a regression);
//! only what this does not explain is a change of the cap or of the win-rate model itself.

use super::{Cause, Period};
use crate::auction::price::Steps;
use crate::money::Micros;
use serde::{Deserialize, Serialize};

/// Spread taken where a period has no bids but their sum (rows that an older server wrote).
const SPREAD: f64 = 0.6;
/// Below this variance, or change, of a logarithm no slope is taken.
const VARIANCE_MIN: f64 = 1e-4;
/// A change of the plan's highest bid beyond this (of its logarithm) is a person's.
const CAP_CHANGE_MIN: f64 = 0.01;

/// Sums over the bids of a channel, those below a floor among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnBids {
    /// Bids.
    pub count: f64,
    /// Sums of the logarithms of value, wanted, affordable and offered, micros.
    pub ln: [f64; 4],
    /// Sums of squares of the last three.
    pub squares: [f64; 3],
    /// Sums of products: wanted with affordable, affordable with offered.
    pub products: [f64; 2],
}

/// Logarithm of an amount of money; that of nothing is 0.
#[expect(clippy::cast_precision_loss, reason = "a logarithm of an amount")]
pub(crate) fn ln(amount: Micros) -> f64 {
    (amount.0.max(1) as f64).ln()
}

impl OwnBids {
    /// Takes in a bid.
    pub fn note(&mut self, steps: Steps) {
        let Steps { value, wanted, affordable, offered } = steps;
        let x = [ln(value), ln(wanted), ln(affordable), ln(offered)];
        self.count += 1.0;
        (0..4).for_each(|at| self.ln[at] += x[at]);
        (0..3).for_each(|at| self.squares[at] += x[at + 1] * x[at + 1]);
        (0..2).for_each(|at| self.products[at] += x[at + 1] * x[at + 2]);
    }

    /// Adds the bids of another.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        (0..4).for_each(|at| self.ln[at] += other.ln[at]);
        (0..3).for_each(|at| self.squares[at] += other.squares[at]);
        (0..2).for_each(|at| self.products[at] += other.products[at]);
    }

    /// Bids of a given mean and the usual spread, nothing held back: where only sums are known. `multiplier`: the controller's.
    #[must_use]
    pub fn around(mean: f64, multiplier: f64) -> Self {
        let wanted = mean.max(1e-9).ln() - SPREAD * SPREAD / 2.0;
        let square = wanted * wanted + SPREAD * SPREAD;
        let value = wanted - multiplier.max(1e-9).ln();
        Self { count: 1.0, ln: [value, wanted, wanted, wanted], squares: [square; 3], products: [square; 2] }
    }

    fn mean(&self, at: usize) -> f64 {
        self.ln[at] / self.count
    }

    fn variance(&self, at: usize) -> f64 {
        (self.squares[at - 1] / self.count - self.mean(at) * self.mean(at)).max(0.0)
    }

    /// How the step after `at` follows that at `at`, from the bids of the period.
    fn slope(&self, at: usize) -> f64 {
        let covariance = self.products[at - 1] / self.count - self.mean(at) * self.mean(at + 1);
        let variance = self.variance(at);
        if variance > VARIANCE_MIN { (covariance / variance).clamp(0.0, 1.5) } else { 1.0 }
    }

    /// Mean and variance of the logarithm of what was offered.
    #[must_use]
    pub fn offered(&self) -> Spread {
        Spread { mean: self.mean(3), variance: self.variance(3) }
    }

    /// Geometric mean of what the multiplier made of the worth, of what caps left of that, and of what shading left.
    #[must_use]
    pub fn shares(&self) -> [f64; 3] {
        [1, 2, 3].map(|at| (self.mean(at) - self.mean(at - 1)).exp())
    }
}

/// A normal distribution of a logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Its mean.
    pub mean: f64,
    /// Its variance.
    pub variance: f64,
}

impl Spread {
    /// The mean of the amount itself.
    #[must_use]
    pub fn amount(&self) -> f64 {
        (self.mean + self.variance / 2.0).exp()
    }
}

/// What one thing did to the bid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) cause: Cause,
    /// Part of the change of the mean logarithm.
    pub(super) mean: f64,
    /// Part of the change of its variance.
    pub(super) variance: f64,
}

/// A step that follows the one before: `[then, now]` slopes, change before, change after. How much of a change comes through, and what
/// is left over.
fn follow(slopes: [f64; 2], before: f64, after: f64) -> (f64, f64) {
    let [low, high] = [slopes[0].min(slopes[1]), slopes[0].max(slopes[1])];
    let middle = f64::midpoint(low, high);
    // Between the two periods the slope lies between theirs; the least that needs another explanation is taken.
    let slope = if before.abs() > VARIANCE_MIN { (after / before).clamp(low, high) } else { middle };
    (slope, after - slope * before)
}

/// Why the bid changed. The parts sum to the change of [`OwnBids::offered`].
pub(super) fn moves(own: (&OwnBids, &OwnBids), (before, after): (&Period, &Period)) -> [Move; 5] {
    let (then, now) = own;
    let change = |at: usize| now.mean(at) - then.mean(at);
    let log = |a: f64, b: f64| if a > 0.0 && b > 0.0 { b.ln() - a.ln() } else { 0.0 };
    let target = log(before.target_factor, after.target_factor);
    let (quality, pacing) = (change(0) - target, change(1) - change(0));
    let (through_cap, cap) = follow([then.slope(1), now.slope(1)], change(1), change(2));
    let (through_shade, shading) = follow([then.slope(2), now.slope(2)], change(2), change(3));
    let moved_cap = log(before.max_bid, after.max_bid).abs() > CAP_CHANGE_MIN;
    let through = through_cap * through_shade;
    let mut means = [target * through, pacing * through, quality * through, cap * through_shade, shading];
    // A cap that nobody moved bites for what pushed against it.
    let held = means[3];
    let pushes = |mean: f64| mean * held < 0.0;
    let pushed: f64 = means[..3].iter().filter(|mean| pushes(**mean)).sum();
    if !moved_cap && pushed.abs() > VARIANCE_MIN {
        let each = (held / pushed).max(-1.0);
        means[3] -= each * pushed;
        means[..3].iter_mut().filter(|mean| pushes(**mean)).for_each(|mean| *mean += each * *mean);
    }
    // Worth that is spread wider is the users'; what else spreads bids goes with what moved.
    let wide = through * through * (now.variance(1) - then.variance(1));
    let rest = now.variance(3) - then.variance(3) - wide;
    let whole: f64 = [target, pacing, quality, cap, shading].iter().map(|part| part.abs()).sum();
    let share = |part: f64, at: usize| if whole > 1e-9 { part.abs() / whole } else { f64::from(at == 2) };
    let causes = [Cause::Target, Cause::Pacing, Cause::TrafficQuality, Cause::HighestBid, Cause::Shading];
    let parts = [target, pacing, quality, cap, shading];
    std::array::from_fn(|at| Move {
        cause: causes[at],
        mean: means[at],
        variance: rest * share(parts[at], at) + if at == 2 { wide } else { 0.0 },
    })
}
