//! What device work will take: a linear model fitted at warm-up and corrected while serving. Pure: no clock, no threads.
//!
//! A batch takes about `a + b * rows + c * pairs`, where `rows` go through the dense layers and `pairs` are the
//! query-key pairs of the attention. For a whole history of `n` events this is `a + b n + c n^2 / 2`; for rows appended
//! to a cached state, or for candidates, the pairs are rows times keys. Encoding and scoring are fitted apart, because a
//! candidate row also goes through the task heads.

use std::time::Duration;

/// Amount of device work, in the units of the cost model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Rows through the dense layers of an encode.
    pub rows: u64,
    /// Query-key pairs of an encode.
    pub pairs: u64,
    /// Candidate rows.
    pub candidates: u64,
    /// Query-key pairs of the candidates.
    pub candidate_pairs: u64,
}

impl Work {
    /// No work.
    pub const NONE: Self = Self { rows: 0, pairs: 0, candidates: 0, candidate_pairs: 0 };

    /// `rows` new rows behind `cached` final ones.
    #[must_use]
    pub fn append(cached: usize, rows: usize) -> Self {
        let (cached, rows) = (cached as u64, rows as u64);
        Self { rows, pairs: rows * cached + rows * (rows + 1) / 2, ..Self::NONE }
    }

    /// The last row of a history of `len` events.
    #[must_use]
    pub fn finish(len: usize) -> Self {
        Self { rows: 1, pairs: len as u64, ..Self::NONE }
    }

    /// `candidates` rows, each seeing `len` events and itself.
    #[must_use]
    pub fn score(candidates: usize, len: usize) -> Self {
        let candidates = candidates as u64;
        Self { candidates, candidate_pairs: candidates * (len as u64 + 1), ..Self::NONE }
    }

    /// Everything a request pays when `cached` rows of its `len` events are resident.
    #[must_use]
    pub fn encode(cached: usize, len: usize) -> Self {
        let missing = len.saturating_sub(1).saturating_sub(cached);
        Self::append(cached, missing).plus(Self::finish(len))
    }

    /// Both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            pairs: self.pairs + other.pairs,
            candidates: self.candidates + other.candidates,
            candidate_pairs: self.candidate_pairs + other.candidate_pairs,
        }
    }
}

/// One measured run of one kind: `rows` and `pairs` of that kind, and the time it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Rows (or candidates).
    pub rows: u64,
    /// Pairs.
    pub pairs: u64,
    /// Time taken in milliseconds, above 0.
    pub ms: f64,
}

/// `ms = fixed + row * rows + pair * pairs`, times a correction learned while serving.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Milliseconds a batch costs whatever it holds.
    pub fixed_ms: f64,
    /// Milliseconds a row.
    pub row_ms: f64,
    /// Milliseconds a query-key pair.
    pub pair_ms: f64,
    correction: f64,
}

/// Share of a new observation in the correction.
const EWMA_SHARE: f64 = 0.05;
/// One observation, and the correction itself, count for at most this factor either way: one page fault or one
/// descheduled thread must not teach the planner that everything is slow.
const CORRECTION_MAX: f64 = 4.0;

impl Line {
    /// A line with correction 1.
    #[must_use]
    pub fn new(fixed_ms: f64, row_ms: f64, pair_ms: f64) -> Self {
        Self { fixed_ms, row_ms, pair_ms, correction: 1.0 }
    }

    /// The non-negative least-squares fit of relative errors. `None` with fewer than three usable samples.
    ///
    /// Relative, because being 1 ms wrong matters at 2 ms and not at 600; non-negative, because a negative cost of a
    /// row would make long slices look free. With three unknowns every subset of active terms is tried.
    #[must_use]
    pub fn fit(samples: &[Sample]) -> Option<Self> {
        let usable: Vec<_> = samples.iter().filter(|s| s.ms > 0.0 && s.ms.is_finite()).collect();
        if usable.len() < 3 {
            return None;
        }
        let scaled: Vec<[f64; 3]> =
            usable.iter().map(|s| [1.0 / s.ms, float(s.rows) / s.ms, float(s.pairs) / s.ms]).collect();
        let mut best: Option<(f64, [f64; 3])> = None;
        for active in 1u8..8 {
            let Some(x) = solve(&scaled, active) else { continue };
            if x.iter().any(|&c| c < 0.0 || !c.is_finite()) {
                continue;
            }
            let error: f64 = scaled.iter().map(|row| (dot(row, &x) - 1.0).powi(2)).sum();
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, x));
            }
        }
        best.map(|(_, [fixed, row, pair])| Self::new(fixed, row, pair))
    }

    fn variable_ms(&self, rows: u64, pairs: u64) -> f64 {
        (self.row_ms * float(rows) + self.pair_ms * float(pairs)) * self.correction
    }

    fn observe(&mut self, rows: u64, pairs: u64, ms: f64) {
        let base = self.fixed_ms + self.row_ms * float(rows) + self.pair_ms * float(pairs);
        if base <= 0.0 || !(ms > 0.0 && ms.is_finite()) {
            return;
        }
        let seen = (ms / base).clamp(1.0 / CORRECTION_MAX, CORRECTION_MAX);
        self.correction += EWMA_SHARE * (seen - self.correction);
    }
}

/// Exact below 2^53, far above any amount of work here.
#[expect(clippy::cast_precision_loss, reason = "counts of rows and pairs stay far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Least squares of `rows * x = 1` over the terms in the bit set `active`; the other terms stay 0.
fn solve(rows: &[[f64; 3]], active: u8) -> Option<[f64; 3]> {
    let terms: Vec<usize> = (0..3).filter(|t| active & (1 << t) != 0).collect();
    let n = terms.len();
    // Columns differ by ten orders of magnitude (1 against n^2): scaled to unit length before the normal equations.
    let scale: Vec<f64> = terms.iter().map(|&t| rows.iter().map(|r| r[t] * r[t]).sum::<f64>().sqrt()).collect();
    if scale.iter().any(|&s| s <= 0.0 || !s.is_finite()) {
        return None;
    }
    let mut system = vec![[0.0f64; 4]; n];
    for (i, &ti) in terms.iter().enumerate() {
        for (j, &tj) in terms.iter().enumerate() {
            system[i][j] = rows.iter().map(|r| r[ti] * r[tj]).sum::<f64>() / (scale[i] * scale[j]);
        }
        system[i][3] = rows.iter().map(|r| r[ti]).sum::<f64>() / scale[i];
    }
    for pivot in 0..n {
        let best = (pivot..n).max_by(|&a, &b| system[a][pivot].abs().total_cmp(&system[b][pivot].abs()))?;
        system.swap(pivot, best);
        if system[pivot][pivot].abs() < 1e-12 {
            return None;
        }
        let head = system[pivot];
        for row in system.iter_mut().skip(pivot + 1) {
            let factor = row[pivot] / head[pivot];
            for (x, h) in row.iter_mut().zip(head) {
                *x -= factor * h;
            }
        }
    }
    let mut x = [0.0; 3];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| system[i][j] * x[terms[j]] * scale[j]).sum();
        x[terms[i]] = (system[i][3] - known) / system[i][i] / scale[i];
    }
    Some(x)
}

/// The cost model of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// Encoding: rows appended to a state, and the last row.
    pub encode: Line,
    /// Scoring candidates.
    pub score: Line,
}

impl Default for CostModel {
    /// Before any measurement: about what one modern core does with a small model. Replaced at warm-up.
    fn default() -> Self {
        Self { encode: Line::new(0.05, 0.002, 5e-7), score: Line::new(0.05, 0.002, 5e-7) }
    }
}

impl CostModel {
    /// Predicted time of a batch holding `work` in all.
    #[must_use]
    pub fn predict(&self, work: Work) -> Duration {
        millis(self.fixed_ms(work) + self.variable_ms(work))
    }

    /// What `work` adds to a batch that runs anyway.
    #[must_use]
    pub fn marginal(&self, work: Work) -> Duration {
        millis(self.variable_ms(work))
    }

    /// What a batch costs before its first row: the larger of the two kinds.
    #[must_use]
    pub fn fixed(&self) -> Duration {
        millis((self.encode.fixed_ms * self.encode.correction).max(self.score.fixed_ms * self.score.correction))
    }

    fn fixed_ms(&self, work: Work) -> f64 {
        let encode = if work.rows > 0 { self.encode.fixed_ms * self.encode.correction } else { 0.0 };
        let score = if work.candidates > 0 { self.score.fixed_ms * self.score.correction } else { 0.0 };
        encode + score
    }

    fn variable_ms(&self, work: Work) -> f64 {
        self.encode.variable_ms(work.rows, work.pairs) + self.score.variable_ms(work.candidates, work.candidate_pairs)
    }

    /// Learns from a run of one kind: the correction moves by a bounded step.
    pub fn observe(&mut self, work: Work, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        if work.rows > 0 && work.candidates == 0 {
            self.encode.observe(work.rows, work.pairs, ms);
        } else if work.candidates > 0 && work.rows == 0 {
            self.score.observe(work.candidates, work.candidate_pairs, ms);
        }
    }

    /// Most rows that can be appended to `cached` ones within `budget`, at least 1 and at most `rows_max`.
    #[must_use]
    pub fn rows_within(&self, budget: Duration, cached: usize, rows_max: usize) -> usize {
        largest(rows_max, |rows| self.predict(Work::append(cached, rows)) <= budget).max(1)
    }
}

/// The largest `x` in `0..=max` for which a monotone `fits` holds; 0 if none does.
pub(super) fn largest(max: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, max);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

fn millis(ms: f64) -> Duration {
    // An hour is "never" for every caller, and keeps the conversion from overflowing.
    Duration::from_secs_f64((ms / 1e3).clamp(0.0, 3_600.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(line: (f64, f64, f64), rows: u64, pairs: u64, noise: f64) -> Sample {
        Sample { rows, pairs, ms: (line.0 + line.1 * float(rows) + line.2 * float(pairs)) * noise }
    }

    #[test]
    fn fit_recovers_the_line_it_was_made_from() {
        let truth = (0.08, 0.0021, 6.5e-7);
        let lengths = [1u64, 16, 64, 256, 1_024, 4_096, 10_000];
        let samples: Vec<_> = lengths.iter().map(|&n| sample(truth, n, n * n / 2, 1.0)).collect();
        let line = Line::fit(&samples).unwrap();
        assert!((line.fixed_ms / truth.0 - 1.0).abs() < 1e-6, "{line:?}");
        assert!((line.row_ms / truth.1 - 1.0).abs() < 1e-6, "{line:?}");
        assert!((line.pair_ms / truth.2 - 1.0).abs() < 1e-6, "{line:?}");
    }

    #[test]
    fn fit_needs_three_samples_and_ignores_useless_ones() {
        let bad = Sample { rows: 1, pairs: 1, ms: 0.0 };
        let good = Sample { rows: 1, pairs: 1, ms: 1.0 };
        assert_eq!(Line::fit(&[bad, bad, good, good]), None);
    }

    #[test]
    fn one_wild_observation_moves_the_prediction_a_little_and_many_move_it_within_bounds() {
        let mut model = CostModel::default();
        let work = Work::append(0, 1_000);
        let before = model.predict(work);
        model.observe(work, before * 1_000);
        let after = model.predict(work);
        assert!(after > before && after < before.mul_f64(1.0 + EWMA_SHARE * CORRECTION_MAX), "{before:?} {after:?}");
        for _ in 0..10_000 {
            model.observe(work, before * 1_000);
        }
        assert!(model.predict(work) <= before.mul_f64(CORRECTION_MAX * 1.001));
        for _ in 0..10_000 {
            model.observe(work, before);
        }
        let back = model.predict(work).as_secs_f64() / before.as_secs_f64();
        assert!((back - 1.0).abs() < 1e-6, "{back}");
    }

    #[test]
    fn an_appended_history_costs_what_its_parts_cost() {
        let parts = Work::append(0, 700).plus(Work::append(700, 299)).plus(Work::finish(1_000));
        assert_eq!(parts, Work::encode(0, 1_000));
        assert_eq!(Work::encode(999, 1_000), Work::finish(1_000));
    }

    proptest! {
        #[test]
        fn fit_is_close_under_noise_and_never_negative(
            fixed in 0.0f64..0.5, row in 1e-4f64..1e-2, pair in 1e-8f64..1e-5,
            noise in prop::collection::vec(0.9f64..1.1, 12),
        ) {
            let samples: Vec<_> = noise.iter().enumerate().map(|(i, &e)| {
                let n = 1u64 << i;
                sample((fixed, row, pair), n, n * n / 2, e)
            }).collect();
            let line = Line::fit(&samples).unwrap();
            prop_assert!(line.fixed_ms >= 0.0 && line.row_ms >= 0.0 && line.pair_ms >= 0.0);
            for s in &samples {
                let told = line.fixed_ms + line.variable_ms(s.rows, s.pairs);
                prop_assert!((told / s.ms - 1.0).abs() < 0.5, "{told} for {}", s.ms);
            }
        }

        #[test]
        fn slices_fit_their_budget(cached in 0usize..10_000, budget_us in 1u64..50_000) {
            let model = CostModel::default();
            let budget = Duration::from_micros(budget_us);
            let rows = model.rows_within(budget, cached, 10_000);
            prop_assert!(rows == 1 || model.predict(Work::append(cached, rows)) <= budget);
            prop_assert!(rows == 10_000 || model.predict(Work::append(cached, rows + 1)) > budget);
        }
    }
}
