//! Quality of predicted probabilities against what happened: order (AUC), information (normalised entropy), size (calibration).
//!
//! Each figure takes how often each user counts, so that it can be drawn again ([`super::bootstrap`]).

use super::bootstrap::Weights;
use serde::Serialize;

/// Bins of equal mass of a calibration curve.
pub const BINS: usize = 20;
/// Probabilities are held this far from 0 and 1, as a logarithm wants.
const EDGE: f64 = 1e-12;

/// A prediction and its outcome.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Number of the user.
    pub user: usize,
    /// Predicted probability.
    pub predicted: f64,
    /// What happened.
    pub label: bool,
}

/// Predictions and outcomes in the order of the predictions.
#[derive(Clone, Debug)]
pub struct Labelled {
    rows: Vec<Row>,
}

/// One bin of a calibration curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bin {
    /// Rows in it.
    pub rows: f64,
    /// Their mean prediction.
    pub predicted: f64,
    /// The share of them that happened.
    pub observed: f64,
    /// Standard error of that share if the predictions were right.
    pub error: f64,
}

impl Labelled {
    /// Sorts rows by their predictions; equal ones keep their order.
    #[must_use]
    pub fn new(mut rows: Vec<Row>) -> Self {
        rows.sort_by(|a, b| a.predicted.total_cmp(&b.predicted));
        Self { rows }
    }

    /// Number of rows, and of those that happened.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.iter().filter(|row| row.label).count())
    }

    /// The share of pairs of one that happened and one that did not in which the first was predicted higher; equal
    /// predictions count half. Exact: the rank sum.
    #[must_use]
    pub fn auc(&self, weights: &Weights) -> f64 {
        let (mut won, mut positive, mut negative) = (0.0, 0.0, 0.0);
        #[expect(clippy::float_cmp, reason = "a tie is a tie only if nothing tells the two apart")]
        for tied in self.rows.chunk_by(|a, b| a.predicted == b.predicted) {
            let sum = |label: bool| -> f64 {
                tied.iter().filter(|row| row.label == label).map(|row| f64::from(weights[row.user])).sum()
            };
            let (up, down) = (sum(true), sum(false));
            won += up * (negative + down / 2.0);
            positive += up;
            negative += down;
        }
        won / (positive * negative)
    }

    /// Cross entropy of the predictions over the entropy of the mean rate: 1 for who knows the rate only, lower is better
    /// (He et al., "Practical Lessons from Predicting Clicks on Ads", 2014).
    #[must_use]
    pub fn normalised_entropy(&self, weights: &Weights) -> f64 {
        let (mut all, mut positive, mut cross) = (0.0, 0.0, 0.0);
        for row in &self.rows {
            let weight = f64::from(weights[row.user]);
            let p = row.predicted.clamp(EDGE, 1.0 - EDGE);
            all += weight;
            positive += if row.label { weight } else { 0.0 };
            cross -= weight * if row.label { p.ln() } else { (-p).ln_1p() };
        }
        let rate: f64 = positive / all;
        let entropy = -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln());
        if entropy > 0.0 { cross / all / entropy } else { f64::NAN }
    }

    /// Mean prediction over the share that happened.
    #[must_use]
    pub fn ratio(&self, weights: &Weights) -> f64 {
        let sum = |of: &dyn Fn(&Row) -> f64| -> f64 {
            self.rows.iter().map(|row| f64::from(weights[row.user]) * of(row)).sum()
        };
        let observed = sum(&|row| f64::from(u8::from(row.label)));
        if observed > 0.0 { sum(&|row| row.predicted) / observed } else { f64::NAN }
    }

    /// The calibration curve: [`BINS`] bins of equal mass, lowest predictions first; empty ones are left out.
    #[must_use]
    pub fn bins(&self, weights: &Weights) -> Vec<Bin> {
        let bins = u32::try_from(BINS).unwrap_or(u32::MAX);
        let all: f64 = self.rows.iter().map(|row| f64::from(weights[row.user])).sum();
        let (mut list, mut before, mut edge) = (Vec::with_capacity(BINS), 0.0, 1);
        let mut bin = Bin::default();
        for row in &self.rows {
            let weight = f64::from(weights[row.user]);
            while before * f64::from(bins) >= all * f64::from(edge) && edge < bins {
                list.push(std::mem::take(&mut bin));
                edge += 1;
            }
            before += weight;
            bin.rows += weight;
            bin.predicted += weight * row.predicted;
            bin.observed += if row.label { weight } else { 0.0 };
            bin.error += weight * row.predicted * (1.0 - row.predicted);
        }
        list.push(bin);
        list.retain(|bin| bin.rows > 0.0);
        for bin in &mut list {
            (bin.predicted, bin.observed) = (bin.predicted / bin.rows, bin.observed / bin.rows);
            bin.error = bin.error.max(0.0).sqrt() / bin.rows;
        }
        list
    }

    /// Expected calibration error: over the bins, the mean absolute difference of what was predicted and what happened.
    #[must_use]
    pub fn calibration_error(&self, weights: &Weights) -> f64 {
        mean(&self.bins(weights), |bin| (bin.predicted - bin.observed).abs())
    }

    /// What the calibration error would be on average if every prediction were right: finite bins are off by chance. (The mean
    /// absolute value of a normal variable of the bin's standard error.)
    #[must_use]
    pub fn calibration_chance(&self, weights: &Weights) -> f64 {
        mean(&self.bins(weights), |bin| bin.error * std::f64::consts::FRAC_2_PI.sqrt())
    }
}

fn mean(bins: &[Bin], of: impl Fn(&Bin) -> f64) -> f64 {
    let all: f64 = bins.iter().map(|bin| bin.rows).sum();
    bins.iter().map(|bin| bin.rows * of(bin)).sum::<f64>() / all
}

#[cfg(test)]
mod tests {
    use super::super::metrics::number;
    use super::*;
    use proptest::prelude::*;

    fn rows(list: &[(f64, bool)]) -> Labelled {
        Labelled::new(
            list.iter().enumerate().map(|(user, &(predicted, label))| Row { user, predicted, label }).collect(),
        )
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn values_worked_out_by_hand() {
        // Positives 0.8, 0.4; negatives 0.6, 0.4, 0.1: of six pairs 3 + 1 won, one tied: 4.5 / 6.
        let list = rows(&[(0.8, true), (0.4, true), (0.6, false), (0.4, false), (0.1, false)]);
        near(list.auc(&[1; 5]), 4.5 / 6.0);
        near(list.ratio(&[1; 5]), 2.3 / 2.0);
        // A half predicted for a half: no information. Cross entropy ln 2 over entropy ln 2.
        let coin = rows(&[(0.5, true), (0.5, false)]);
        near(coin.normalised_entropy(&[1; 2]), 1.0);
        near(coin.auc(&[1; 2]), 0.5);
        // -(ln 0.9 + ln 0.9) / 2 over ln 2.
        near(rows(&[(0.9, true), (0.1, false)]).normalised_entropy(&[1; 2]), -(0.9f64.ln()) / 2f64.ln());
        for one_sided in [rows(&[(0.3, true)]), rows(&[(0.3, false)]), rows(&[])] {
            assert!(one_sided.auc(&[1]).is_nan() && one_sided.normalised_entropy(&[1]).is_nan());
        }
    }

    #[test]
    fn bins_hold_equal_shares_and_their_error_is_that_of_the_shares() {
        // 2,000 rows predicted i/2000; what happened: every second. Bin b of 100 rows predicts (b + 0.4975) / 20.
        let list: Vec<(f64, bool)> = (0..2_000).map(|n| (number(n) / 2_000.0, n % 2 == 0)).collect();
        let (list, weights) = (rows(&list), vec![1; 2_000]);
        let bins = list.bins(&weights);
        assert_eq!(bins.len(), BINS);
        for (at, bin) in bins.iter().enumerate() {
            near(bin.rows, 100.0);
            near(bin.predicted, (number(at) + 0.495) / 20.0);
            near(bin.observed, 0.5);
        }
        let error = bins.iter().map(|bin| (bin.predicted - 0.5).abs()).sum::<f64>() / 20.0;
        near(list.calibration_error(&weights), error);
        // Fewer rows than bins: each its own.
        near(rows(&[(0.2, true), (0.7, false)]).calibration_error(&[1; 2]), f64::midpoint(0.8, 0.7));
    }

    #[test]
    fn right_predictions_are_off_by_chance_alone() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(2);
        let mut error = 0.0;
        let mut chance = 0.0;
        for _ in 0..50 {
            let list: Vec<(f64, bool)> = (0..4_000)
                .map(|_| {
                    let p = 0.02 + 0.2 * random.random::<f64>();
                    (p, random.random::<f64>() < p)
                })
                .collect();
            error += rows(&list).calibration_error(&vec![1; 4_000]);
            chance += rows(&list).calibration_chance(&vec![1; 4_000]);
        }
        assert!((error / chance - 1.0).abs() < 0.05, "{error} and {chance}");
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs_won(
            list in proptest::collection::vec((0u8..12, any::<bool>(), 0u16..4), 0..60),
        ) {
            let labelled: Vec<(f64, bool)> = list.iter().map(|&(p, label, _)| (f64::from(p) / 11.0, label)).collect();
            let weights: Vec<u16> = list.iter().map(|row| row.2).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for up in list.iter().filter(|row| row.1) {
                for down in list.iter().filter(|row| !row.1) {
                    let weight = f64::from(up.2) * f64::from(down.2);
                    pairs += weight;
                    won += weight * if up.0 > down.0 { 1.0 } else if up.0 == down.0 { 0.5 } else { 0.0 };
                }
            }
            let auc = rows(&labelled).auc(&weights);
            if pairs == 0.0 {
                prop_assert!(auc.is_nan());
            } else {
                prop_assert!((auc - won / pairs).abs() < 1e-9, "{} {}", auc, won / pairs);
            }
        }

        /// A user that counts n times is n users: every figure.
        #[test]
        fn weights_are_repeats(list in proptest::collection::vec((0.001f64..0.999, any::<bool>(), 0u16..4), 1..40)) {
            let once: Vec<(f64, bool)> = list.iter().map(|&(p, label, _)| (p, label)).collect();
            let weights: Vec<u16> = list.iter().map(|row| row.2).collect();
            let often: Vec<(f64, bool)> =
                list.iter().flat_map(|&(p, label, times)| vec![(p, label); times.into()]).collect();
            let ones = vec![1; often.len()];
            let (once, often) = (rows(&once), rows(&often));
            type Of = fn(&Labelled, &Weights) -> f64;
            for of in [Labelled::auc as Of, Labelled::normalised_entropy, Labelled::ratio] {
                let (a, b) = (of(&once, &weights), of(&often, &ones));
                prop_assert!((a - b).abs() < 1e-9 || (a.is_nan() && b.is_nan()), "{} {}", a, b);
            }
        }
    }
}
