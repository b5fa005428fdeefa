//! The task heads on packed candidate rows.

use longbow_kernels::{Affine, KernelError, LayerNorm, MatrixMut, MatrixRef};

use super::pass::{Candidates, Pass, Scratch, room};
use super::watch::Stage;

/// Epsilon of the norm before z, and of the heads' own norm.
const INPUT_EPSILON: f32 = 1e-6;
const NORM_EPSILON: f32 = 1e-5;

impl Pass<'_> {
    /// Probabilities `[rows, T]` of the candidate rows as they stand: none where the model has no heads.
    ///
    /// z = norm(row[:D_item]) * item_emb; then Linear, x * sigmoid(norm(x)), Linear, sigmoid.
    pub(super) fn heads(&mut self, parts: &[(usize, Candidates<'_>)]) -> Result<&[f32], KernelError> {
        let Some(heads) = &self.weights.heads else { return Ok(&[]) };
        let (rows, dim, hidden, tasks) = (self.rows, self.item_dim(), heads.hidden, heads.tasks);
        let width = self.width();
        let Scratch { x, norm, hidden: h, hidden_norm, probs, watch, .. } = &mut *self.scratch;
        let z = room(norm, rows * dim);
        let row = MatrixRef::dense(x, rows, width)?.cols_at(0, dim);
        let norm = LayerNorm { epsilon: INPUT_EPSILON, affine: None };
        self.engine.layer_norm(row, norm, None, MatrixMut::dense(z, rows, dim)?)?;
        let slots = parts.iter().flat_map(|(_, part)| part.candidates.iter().map(|&slot| part.items.row(slot)));
        for (z, item) in z.chunks_exact_mut(dim).zip(slots) {
            z.iter_mut().zip(item.unwrap_or_default()).for_each(|(z, e)| *z *= e);
        }

        let h = room(h, rows * hidden);
        self.engine.linear(MatrixRef::dense(z, rows, dim)?, heads.input(), MatrixMut::dense(h, rows, hidden)?)?;
        let normed = room(hidden_norm, rows * hidden);
        let affine = Affine { weight: &heads.norm, bias: &heads.norm_bias };
        let norm = LayerNorm { epsilon: NORM_EPSILON, affine: Some(affine) };
        let h_view = MatrixRef::dense(h, rows, hidden)?;
        self.engine.layer_norm(h_view, norm, None, MatrixMut::dense(normed, rows, hidden)?)?;
        h.iter_mut().zip(normed.iter()).for_each(|(h, n)| *h *= sigmoid(*n));

        let probs = room(probs, rows * tasks);
        let h = MatrixRef::dense(h, rows, hidden)?;
        self.engine.linear(h, heads.output(), MatrixMut::dense(probs, rows, tasks)?)?;
        probs.iter_mut().for_each(|p| *p = sigmoid(*p));
        watch.lap(Stage::Heads);
        Ok(probs)
    }
}

/// 1 / (1 + exp(-x)), relative error at most 4e-7 for |x| <= 80; branch-free, so that loops over it vectorise.
fn sigmoid(x: f32) -> f32 {
    /// Added and taken away again, rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let y = (-x).clamp(-87.0, 87.0);
    let shifted = y * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = y - n * LN2_HIGH - n * LN2_LOW;
    // exp(r) for |r| <= ln(2) / 2 by its series.
    let mut exp = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        exp = exp * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    1.0 / (1.0 + exp * power)
}

#[cfg(test)]
mod tests {
    use super::sigmoid;

    #[test]
    fn sigmoid_is_the_true_one_to_rounding() {
        for i in -160_000..=160_000_i32 {
            let x = i as f32 * 5e-4;
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(sigmoid(x)) - want).abs() / want;
            assert!(error < 4e-7, "sigmoid({x}): relative error {error}");
        }
        assert!(sigmoid(f32::INFINITY) == 1.0 && sigmoid(f32::NEG_INFINITY) < 1e-37);
        assert!(sigmoid(f32::NAN).is_nan());
    }
}
