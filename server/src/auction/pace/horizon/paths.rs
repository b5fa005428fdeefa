//! What is kept of an earlier day, and how long its deviations last.

/// Multipliers, evenly spaced in their logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    low: f64,
    step: f64,
    pub(super) points: usize,
}

impl Grid {
    /// Multipliers from `low` to `high` in steps of 4%.
    #[must_use]
    pub fn between(low: f64, high: f64) -> Self {
        const STEP: f64 = 0.04;
        let (low, high) = (low.max(1e-9).ln(), high.max(1e-9).ln());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let points = ((high - low) / STEP).ceil().clamp(2.0, 1_000.0) as usize;
        Self { low, step: STEP, points }
    }

    /// The multiplier at a position.
    #[expect(clippy::cast_precision_loss, reason = "a grid position")]
    pub(super) fn multiplier(&self, at: usize) -> f64 {
        (self.low + self.step * at as f64).exp()
    }

    /// Adds `scale * curve(u + moved)` to `out`.
    pub(super) fn add_moved(&self, curve: &[f64], moved: f64, scale: f64, out: &mut [f64]) {
        let shift = moved / self.step;
        #[expect(clippy::cast_precision_loss, reason = "a grid size")]
        let most = self.points as f64;
        let shift = shift.clamp(-most, most);
        let whole = shift.floor();
        let part = shift - whole;
        #[expect(clippy::cast_possible_truncation, reason = "clamped to the grid")]
        let whole = whole as isize;
        let last = isize::try_from(self.points - 1).unwrap_or(isize::MAX);
        let at = |i: isize| curve[usize::try_from(i.clamp(0, last)).unwrap_or(0)];
        for (sum, i) in out.iter_mut().zip(0isize..) {
            // Below the grid nothing is taken to be won, above it no more than at its end.
            let low = if i + whole < 0 { 0.0 } else { at(i + whole) };
            let high = if i + whole + 1 < 0 { 0.0 } else { at(i + whole + 1) };
            *sum += scale * (low * (1.0 - part) + high * part);
        }
    }
}

/// One tick of one plan's earlier day.
#[derive(Clone, Debug, PartialEq)]
pub struct TickPath {
    /// Logarithm of the mean value of an auction.
    pub value_level: f64,
    /// Logarithm of the mean cost of an auction.
    pub cost_level: f64,
    /// Logarithm of the number of auctions.
    pub traffic: f64,
    pub(super) spend: Vec<f64>,
    pub(super) value: Vec<f64>,
}

/// One plan's earlier day.
#[derive(Clone, Debug, PartialEq)]
pub struct DayPath {
    /// Its ticks.
    pub ticks: Vec<TickPath>,
}

#[expect(clippy::cast_precision_loss, reason = "a count of auctions")]
fn mean_log(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len().max(1) as f64;
    (numbers.sum::<f64>() / count).max(1e-12).ln()
}

impl TickPath {
    /// From the tick's auctions: (value, cost) each.
    #[must_use]
    pub fn of(auctions: &[(f64, f64)], grid: &Grid) -> Self {
        let (mut spend, mut value) = (vec![0.0; grid.points], vec![0.0; grid.points]);
        for &(worth, cost) in auctions {
            let threshold = (cost.max(1e-12) / worth.max(1e-12)).ln();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "`as` saturates at the grid's ends"
            )]
            let first = ((threshold - grid.low) / grid.step).ceil().max(0.0) as usize;
            if first < grid.points {
                spend[first] += cost;
                value[first] += worth;
            }
        }
        for at in 1..grid.points {
            spend[at] += spend[at - 1];
            value[at] += value[at - 1];
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of auctions")]
        let traffic = (auctions.len().max(1) as f64).ln();
        Self {
            value_level: mean_log(auctions.iter().map(|a| a.0)),
            cost_level: mean_log(auctions.iter().map(|a| a.1)),
            traffic,
            spend,
            value,
        }
    }
}

/// Mean of a level by tick, and how much of a deviation at tick k is still there at tick j: `kept[k][j]`.
#[derive(Clone, Debug)]
pub(super) struct Persistence {
    pub(super) mean: Vec<f64>,
    pub(super) kept: Vec<Vec<f64>>,
    correlation: Vec<Vec<f64>>,
}

/// Days that the borrowed correlations weigh as much as.
const BORROWED: f64 = 20.0;

impl Persistence {
    /// From paths of which `independent` are; correlations are shrunk by what chance would give, or pulled to `base`.
    #[expect(clippy::cast_precision_loss, reason = "counts of days")]
    pub(super) fn learn(rows: &[Vec<f64>], independent: usize, base: Option<&Self>) -> Self {
        let (ticks, count) = (rows[0].len(), rows.len() as f64);
        let mean: Vec<f64> = (0..ticks).map(|k| rows.iter().map(|row| row[k]).sum::<f64>() / count).collect();
        let covariance =
            |k: usize, j: usize| rows.iter().map(|row| (row[k] - mean[k]) * (row[j] - mean[j])).sum::<f64>().max(-1e12);
        let deviation: Vec<f64> = (0..ticks).map(|k| covariance(k, k).max(1e-9).sqrt()).collect();
        let (mut correlation, mut kept) = (vec![vec![0.0; ticks]; ticks], vec![vec![0.0; ticks]; ticks]);
        let n = independent as f64;
        for k in 0..ticks {
            for j in 0..ticks {
                let raw = covariance(k, j) / (deviation[k] * deviation[j]);
                let c = match base {
                    Some(base) => (raw * n + base.correlation[k][j].clamp(0.0, 1.0) * BORROWED) / (n + BORROWED),
                    None => {
                        let square = raw * raw;
                        raw * (1.0 - (1.0 - square) / (square.max(1e-9) * (n - 2.0).max(1.0))).clamp(0.0, 1.0)
                    }
                };
                correlation[k][j] = c;
                kept[k][j] = c * deviation[j] / deviation[k];
                if base.is_some() {
                    kept[k][j] = kept[k][j].clamp(-0.2, 1.2);
                }
            }
        }
        Self { mean, kept, correlation }
    }
}

/// A function given at ascending points, linear between them, constant beyond.
pub(super) fn interpolate(points: &[f64], values: &[f64], at: f64) -> f64 {
    let after = points.partition_point(|point| *point <= at);
    if after == 0 {
        return values[0];
    }
    if after >= points.len() {
        return values[values.len() - 1];
    }
    let part = (at - points[after - 1]) / (points[after] - points[after - 1]);
    values[after - 1] * (1.0 - part) + values[after] * part
}
