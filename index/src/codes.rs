//! Item vectors in one byte an entry: a pass over them reads a quarter of the memory. What they cannot tell apart is scored again in
//! full, and a bound on their error says what that is, so that nothing is lost.
//!
//! A row `x` is kept as whole numbers `c` and a scale `s`, a query `q` as whole numbers `d` and a scale `t`. By Cauchy and Schwarz
//! `|q.x - (t d).(s c)| <= |q - t d| |x| + |t d| |x - s c|`: the first factor is known for each query, the last is at most
//! [`Codes::error`], and rows have length 1.

use crate::ffi;
use crate::rows::Rows;

/// Largest number of a row.
const ROW_MAX: f32 = 127.0;
/// Largest number of a query, where the sum of a row's products fits 32 bits; less for very long vectors.
const QUERY_MAX: usize = 8_191;
/// Distance between 1 and the next number of an `f32`: a rounding is off by half of it.
const ROUNDING: f64 = f32::EPSILON as f64;

/// The codes of some rows, in their order.
#[derive(Debug)]
pub(crate) struct Codes {
    /// Entries of a row, padding included: as many as of the rows that were coded.
    stride: usize,
    entries: Vec<i8>,
    /// What 1 in each row's code stands for.
    scales: Vec<f32>,
    /// Largest distance between a row and what its code stands for.
    error: f64,
}

/// A query in whole numbers.
#[derive(Debug)]
pub(crate) struct CodedQuery {
    entries: Vec<i16>,
    scale: f32,
    /// No score by codes is farther from the full one than half of this.
    window: f32,
}

impl CodedQuery {
    /// A row whose score by its code is lower than another's by more than this has the lower full score, too.
    pub(crate) fn window(&self) -> f32 {
        self.window
    }
}

impl Codes {
    pub(crate) fn of(rows: &Rows) -> Self {
        let mut codes =
            Self { stride: rows.stride(), entries: Vec::new(), scales: Vec::with_capacity(rows.len()), error: 0.0 };
        codes.entries.reserve_exact(rows.len() * rows.stride());
        for row in 0..rows.len() {
            codes.push(rows.row(row));
        }
        codes
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounded, and at most 127")]
    fn push(&mut self, row: &[f32]) {
        let scale = largest(row) / ROW_MAX;
        let mut squares = 0.0;
        for &entry in row {
            // The largest entry over the scale may come out a rounding above 127.
            let code = if scale > 0.0 { (entry / scale).round().clamp(-ROW_MAX, ROW_MAX) } else { 0.0 };
            squares += (f64::from(entry) - f64::from(scale) * f64::from(code)).powi(2);
            self.entries.push(code as i8);
        }
        self.entries.resize(self.entries.len() + self.stride - row.len(), 0);
        self.scales.push(scale);
        self.error = self.error.max(squares.sqrt());
    }

    /// `query` is padded like the rows.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounded, and at most 8,191")]
    pub(crate) fn query(&self, query: &[f32]) -> CodedQuery {
        let most = QUERY_MAX.min(i32::MAX as usize / (self.stride * ROW_MAX as usize)) as f32;
        let scale = largest(query) / most;
        let mut entries = Vec::with_capacity(query.len());
        let (mut off, mut length) = (0.0, 0.0);
        for &entry in query {
            let code = if scale > 0.0 { (entry / scale).round().clamp(-most, most) } else { 0.0 };
            off += (f64::from(entry) - f64::from(scale) * f64::from(code)).powi(2);
            length += f64::from(entry).powi(2);
            entries.push(code as i16);
        }
        let (off, length) = (off.sqrt(), length.sqrt());
        // Sums of so many roundings, of the full score and of the scales here, each at most one of the lengths' product.
        let roundings = (self.stride as f64 + 16.0) * ROUNDING * length + f64::from(f32::MIN_POSITIVE);
        let half = 1.001 * (off + (length + off) * self.error) + roundings;
        CodedQuery { entries, scale, window: (2.0 * half) as f32 }
    }

    /// Scores of the rows in `picks`, by their codes.
    pub(crate) fn score(&self, query: &CodedQuery, picks: &[u32], scores: &mut [f32]) {
        ffi::code_scores((&query.entries, query.scale), (&self.entries, &self.scales), picks, scores);
    }
}

fn largest(vector: &[f32]) -> f32 {
    vector.iter().fold(0.0, |most, entry| most.max(entry.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{normalise, pad};
    use proptest::prelude::*;

    fn rows(dim: usize, vectors: &[Vec<f32>]) -> Rows {
        let mut rows = Rows::with_capacity(dim, vectors.len());
        for vector in vectors {
            let mut unit = Vec::new();
            normalise(0, vector, dim, &mut unit).unwrap();
            rows.push(&unit);
        }
        rows
    }

    fn vector(dim: usize) -> impl Strategy<Value = Vec<f32>> {
        let entry = prop_oneof![4 => -1.0_f32..1.0, 1 => -1e-3_f32..1e-3, 1 => Just(0.0), 1 => -1e3_f32..1e3];
        prop::collection::vec(entry, dim).prop_filter("not zero", |v| v.iter().any(|x| *x != 0.0))
    }

    proptest! {
        /// The window is no guess: no score by codes is off by more than half of it, and for plain vectors it is narrow.
        #[test]
        fn no_score_is_farther_off_than_half_the_window(
            (dim, vectors, query) in (1_usize..150).prop_flat_map(|dim| {
                (Just(dim), prop::collection::vec(vector(dim), 1..20), vector(dim))
            })
        ) {
            let rows = rows(dim, &vectors);
            let (codes, query) = (Codes::of(&rows), pad(&query));
            let coded = codes.query(&query);
            let picks: Vec<u32> = (0..u32::try_from(rows.len()).unwrap()).rev().collect();
            let (mut full, mut short) = (vec![0.0; picks.len()], vec![0.0; picks.len()]);
            ffi::score(&query, &rows, &picks, &mut full);
            codes.score(&coded, &picks, &mut short);
            for (full, short) in full.iter().zip(&short) {
                prop_assert!((full - short).abs() <= coded.window() / 2.0, "{full} {short} {}", coded.window());
            }
            let length = query.iter().map(|x| x * x).sum::<f32>().sqrt();
            prop_assert!(coded.window() <= 0.2 * length, "{} of {length}", coded.window());
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let dim = 4_096;
        let rows = rows(dim, &[vec![1.0; dim], vec![-1.0; dim]]);
        let codes = Codes::of(&rows);
        for size in [1e-30_f32, 1.0, 1e15] {
            let coded = codes.query(&vec![size; dim]);
            let mut scores = [0.0; 2];
            codes.score(&coded, &[0, 1], &mut scores);
            assert!((scores[0] / (64.0 * size) - 1.0).abs() < 1e-3 && scores[1] == -scores[0], "{scores:?}");
        }
        let mut scores = [1.0];
        codes.score(&codes.query(&vec![0.0; dim]), &[1], &mut scores);
        assert_eq!(scores, [0.0]);
    }
}
