//! Item vectors, row after row in one buffer, and their scores.

use crate::IndexError;

/// Entries a row is padded to: one step of the scoring loop.
pub(crate) const STEP: usize = 16;

/// Rows of `dim` entries, each padded with zeros to a multiple of [`STEP`] so that the scoring loop has no tail.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    dim: usize,
    stride: usize,
    data: Vec<f32>,
}

impl Rows {
    pub(crate) fn with_capacity(dim: usize, rows: usize) -> Self {
        let stride = dim.next_multiple_of(STEP);
        Self { dim, stride, data: Vec::with_capacity(rows * stride) }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.stride
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Row `row` without its padding.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.stride..][..self.dim]
    }

    /// Adds a row as it is; `vector` has `dim` entries.
    pub(crate) fn push(&mut self, vector: &[f32]) {
        debug_assert_eq!(vector.len(), self.dim);
        self.data.extend_from_slice(vector);
        self.data.resize(self.data.len() + self.stride - self.dim, 0.0);
    }

    /// Puts `vector` in the place of row `row`.
    pub(crate) fn replace(&mut self, row: usize, vector: &[f32]) {
        self.data[row * self.stride..][..self.dim].copy_from_slice(vector);
    }

    /// Copies rows `from..to` without padding to the end of `out`: the layout FAISS takes.
    pub(crate) fn copy_packed(&self, from: usize, to: usize, out: &mut Vec<f32>) {
        for row in from..to {
            out.extend_from_slice(self.row(row));
        }
    }
}

/// `vector` scaled to length 1 in `out`, or why not. The sum of squares is in f64: large entries do not overflow.
pub(crate) fn normalise(slot: u32, vector: &[f32], dim: usize, out: &mut Vec<f32>) -> Result<(), IndexError> {
    if vector.len() != dim {
        return Err(IndexError::Dimension { what: format!("item slot {slot}"), expected: dim, found: vector.len() });
    }
    let squares = squares(vector);
    if !squares.is_finite() {
        return Err(IndexError::Vector { what: format!("item slot {slot}"), fault: "an entry is not finite" });
    }
    if squares == 0.0 {
        return Err(IndexError::Vector { what: format!("item slot {slot}"), fault: "all entries are zero" });
    }
    out.extend(scaled(vector, squares));
    Ok(())
}

/// `vector` at length 1, as an index keeps it: for a copy of what one has taken.
#[must_use]
pub fn unit(vector: &[f32]) -> Vec<f32> {
    scaled(vector, squares(vector)).collect()
}

fn squares(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "entries of a unit vector fit f32")]
fn scaled(vector: &[f32], squares: f64) -> impl Iterator<Item = f32> {
    let scale = squares.sqrt().recip();
    vector.iter().map(move |&x| (f64::from(x) * scale) as f32)
}

/// A query padded like the rows.
pub(crate) fn pad(query: &[f32]) -> Vec<f32> {
    let mut padded = Vec::with_capacity(query.len().next_multiple_of(STEP));
    padded.extend_from_slice(query);
    padded.resize(query.len().next_multiple_of(STEP), 0.0);
    padded
}

/// Inner products of `query` (padded) with each row named in `picks`, to `scores`. Every path of the crate scores through here in the
/// same order of operations, so one item has one score, bit for bit, however it was found.
///
/// Compiled for the features of the caller it is inlined into (see `ffi::score`).
#[inline(always)]
pub(crate) fn score_picks<const FMA: bool>(query: &[f32], rows: &Rows, picks: &[u32], scores: &mut [f32]) {
    let (fours, rest) = picks.as_chunks::<4>();
    let (score_fours, score_rest) = scores[..picks.len()].as_chunks_mut::<4>();
    for (four, out) in fours.iter().zip(score_fours) {
        *out = dots::<4, FMA>(query, four.map(|row| padded_row(rows, row)));
    }
    for (&row, out) in rest.iter().zip(score_rest) {
        *out = dots::<1, FMA>(query, [padded_row(rows, row)])[0];
    }
}

#[inline(always)]
fn padded_row(rows: &Rows, row: u32) -> &[f32] {
    &rows.data[row as usize * rows.stride..][..rows.stride]
}

/// `R` inner products at once: each row has its own accumulators, so the sum of a row does not depend on `R`.
#[inline(always)]
fn dots<const R: usize, const FMA: bool>(query: &[f32], rows: [&[f32]; R]) -> [f32; R] {
    let mut sums = [[0.0_f32; STEP]; R];
    let (steps, _) = query.as_chunks::<STEP>();
    let rows = rows.map(|row| row.as_chunks::<STEP>().0);
    for (index, step) in steps.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let part = &row[index];
            for lane in 0..STEP {
                sum[lane] =
                    if FMA { step[lane].mul_add(part[lane], sum[lane]) } else { step[lane] * part[lane] + sum[lane] };
            }
        }
    }
    sums.map(|mut sum| {
        let mut width = STEP / 2;
        while width > 0 {
            for lane in 0..width {
                sum[lane] += sum[lane + width];
            }
            width /= 2;
        }
        sum[0]
    })
}
