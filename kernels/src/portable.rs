//! The kernels in plain Rust: for machines without a vector kernel, and the second opinion on those that have one.

use crate::bucket::time_bucket;
use crate::dense::{Norm, Product};
use crate::packed::PANEL_COLS;
use crate::panel::PANEL_KEYS;
use crate::tile::Tile;
use crate::{Affine, KvBlock, Scoring, Shape};

/// Lanes of the sums that the compiler can keep in vector registers.
const LANES: usize = 8;

/// `2^f` on [-0.5, 0.5], relative error at most 1.1e-7 (Chebyshev nodes, degree 5).
#[expect(clippy::excessive_precision, reason = "the fitted coefficients, rounded once by the compiler")]
const EXP2: [f32; 6] = [
    1.000_000_075_454_897,
    0.693_147_188_026_228_7,
    0.240_221_074_853_082_67,
    0.055_503_571_142_191_94,
    0.009_676_031_918_324_871,
    0.001_339_086_336_461_610_1,
];

/// `1.5 * 2^23`: adding and taking it away rounds to the nearest integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `x * sigmoid(x)`; the error is at most 5e-7 of the larger of `|silu(x)|` and 0.01. No branches, so loops over it
/// vectorise. NaN in, NaN out.
#[inline]
pub(crate) fn silu(x: f32) -> f32 {
    let z = (x * -std::f32::consts::LOG2_E).clamp(-126.0, 126.0);
    let shifted = z + ROUND;
    let f = z - (shifted - ROUND);
    let p = EXP2[0] + f * (EXP2[1] + f * (EXP2[2] + f * (EXP2[3] + f * (EXP2[4] + f * EXP2[5]))));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    x / (1.0 + f32::from_bits(p.to_bits().wrapping_add(exponent)))
}

/// Inner product, in `LANES` interleaved sums.
#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a8, b8) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for l in 0..LANES {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// `PANEL_KEYS` keys or fewer, read out of their panels.
struct Keys {
    /// `[PANEL_KEYS, heads * d_qk]` and `[PANEL_KEYS, heads * d_v]`.
    k: Vec<f32>,
    v: Vec<f32>,
    times: [i64; PANEL_KEYS],
}

/// Walks the blocks of a sequence key by key.
struct Cursor<'a> {
    kv: &'a [KvBlock<'a>],
    block: usize,
    row: usize,
}

impl<'a> Cursor<'a> {
    fn at(kv: &'a [KvBlock<'a>], mut key: usize) -> Self {
        let mut block = 0;
        while block < kv.len() && key >= kv[block].rows {
            key -= kv[block].rows;
            block += 1;
        }
        Self { kv, block, row: key }
    }

    fn take(&mut self, len: usize, shape: Shape, keys: &mut Keys) {
        let (k, v) = (keys.k.chunks_exact_mut(shape.d_qk), keys.v.chunks_exact_mut(shape.d_v));
        let mut slots = k.zip(v);
        for i in 0..len {
            while self.row >= self.kv[self.block].rows {
                self.block += 1;
                self.row = 0;
            }
            let block = &self.kv[self.block];
            for (head, (k, v)) in slots.by_ref().take(shape.heads).enumerate() {
                block.layout.read(block.lines, (self.row, head), k, v);
            }
            keys.times[i] = block.times.get(self.row).copied().unwrap_or(0);
            self.row += 1;
        }
    }
}

/// One row against some keys: bias once for all heads, then score and sum head by head.
struct RowStep<'a> {
    shape: Shape,
    scoring: &'a Scoring<'a>,
    q: &'a [f32],
    next_time: i64,
    /// Position of the row, and of the first of the keys.
    position: usize,
    first_key: usize,
    k: &'a [f32],
    v: &'a [f32],
    times: &'a [i64],
}

impl RowStep<'_> {
    /// Adds `scale * sum over keys` to `out` (`heads * d_v`). The keys' sum is made first, then added: that keeps the
    /// rounding error of long histories small.
    fn add_to(&self, out: &mut [f32]) {
        let mut bias = [0.0_f32; PANEL_KEYS];
        if let Some(b) = &self.scoring.bias {
            let pos = &b.pos_w[b.max_len - 1 + self.first_key - self.position..];
            for ((slot, &p), &t) in bias.iter_mut().zip(pos).zip(self.times) {
                *slot = p + b.ts_w[time_bucket(self.next_time.saturating_sub(t))];
            }
        }
        let Shape { heads, d_qk, d_v } = self.shape;
        for h in 0..heads {
            let q = &self.q[h * d_qk..][..d_qk];
            let mut weights = bias;
            for (w, k) in weights.iter_mut().zip(self.k.chunks_exact(heads * d_qk)) {
                *w += self.scoring.alpha * dot(q, &k[h * d_qk..][..d_qk]);
            }
            for w in &mut weights {
                *w = silu(*w);
            }
            let mut sum = [0.0_f32; crate::MAX_HEAD_DIM];
            for (w, v) in weights.iter().zip(self.v.chunks_exact(heads * d_v)) {
                for (s, x) in sum[..d_v].iter_mut().zip(&v[h * d_v..][..d_v]) {
                    *s += w * x;
                }
            }
            for (o, s) in out[h * d_v..][..d_v].iter_mut().zip(&sum) {
                *o += s * self.scoring.scale;
            }
        }
    }
}

/// Overwrites `tile.out`.
pub(crate) fn attend(shape: Shape, scoring: &Scoring<'_>, tile: &mut Tile<'_>) {
    let rows = tile.q.rows();
    for r in 0..rows {
        tile.out.row_mut(r).fill(0.0);
    }
    let mut cursor = Cursor::at(tile.kv, tile.keys.start);
    let (k_width, v_width) = (shape.qk_width(), shape.v_width());
    let (k, v) = (vec![0.0; PANEL_KEYS * k_width], vec![0.0; PANEL_KEYS * v_width]);
    let mut keys = Keys { k, v, times: [0; PANEL_KEYS] };
    let mut first_key = tile.keys.start;
    while first_key < tile.keys.end {
        let len = PANEL_KEYS.min(tile.keys.end - first_key);
        cursor.take(len, shape, &mut keys);
        for r in 0..rows {
            let seen = tile.visible(r).end.saturating_sub(first_key).min(len);
            if seen == 0 {
                continue;
            }
            let position = if tile.causal { tile.first_position + r } else { tile.first_position };
            let step = RowStep {
                shape,
                scoring,
                q: tile.q.row(r),
                next_time: tile.next.at(r),
                position,
                first_key,
                k: &keys.k[..seen * k_width],
                v: &keys.v[..seen * v_width],
                times: &keys.times[..seen],
            };
            step.add_to(tile.out.row_mut(r));
        }
        first_key += len;
    }
    let Some(own) = tile.own else { return };
    for r in 0..rows {
        let step = RowStep {
            shape,
            scoring,
            q: tile.q.row(r),
            next_time: 0,
            position: 0,
            first_key: 0,
            k: own.k.row(r),
            v: own.v.row(r),
            times: &[0],
        };
        step.add_to(tile.out.row_mut(r));
    }
}

/// `x * sigmoid(x)` over a slice.
pub(crate) fn silu_slice(x: &mut [f32]) {
    for value in x {
        *value = silu(*value);
    }
}

/// `c = a * b + bias` or `c += a * b + bias`.
pub(crate) fn product(task: Product<'_, '_>) {
    let Product { a, b, bias, accumulate, c } = task;
    for r in 0..a.rows() {
        let row = c.row_mut(r);
        for (panel, out) in row.chunks_mut(PANEL_COLS).enumerate() {
            let mut sums = [0.0_f32; PANEL_COLS];
            for (t, &x) in a.row(r).iter().enumerate() {
                for (sums, weights) in sums.chunks_exact_mut(16).zip(b.row(panel, t)) {
                    for (s, &w) in sums.iter_mut().zip(weights) {
                        *s += x * f32::from_bits(w);
                    }
                }
            }
            for (col, (o, s)) in out.iter_mut().zip(sums).enumerate() {
                let sum = s + bias.map_or(0.0, |bias| bias[panel * PANEL_COLS + col]);
                *o = if accumulate { sum + *o } else { sum };
            }
        }
    }
}

/// Sum of `f` over a row, in `LANES` interleaved sums.
#[inline]
fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Layer norms row by row: mean first, then the variance about it, as the public code does.
#[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 columns")]
pub(crate) fn norm(task: Norm<'_, '_>) {
    let Norm { x, epsilon, affine, gate, out } = task;
    for r in 0..x.rows() {
        let (x, out) = (x.row(r), out.row_mut(r));
        let n = x.len() as f32;
        let mean = lane_sum(x, |v| v) / n;
        let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / n;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for (o, &v) in out.iter_mut().zip(x) {
            *o = (v - mean) * factor;
        }
        if let Some(Affine { weight, bias }) = affine {
            for ((o, &w), &b) in out.iter_mut().zip(weight).zip(bias) {
                *o = *o * w + b;
            }
        }
        if let Some(gate) = gate {
            for (o, &g) in out.iter_mut().zip(gate.row(r)) {
                *o *= g;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::silu;

    /// Stated in the documentation of `silu`.
    const ERROR: f64 = 5e-7;

    #[test]
    fn silu_keeps_its_stated_error() {
        let mut worst = 0.0_f64;
        let mut x = -150.0_f32;
        while x < 100.0 {
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            worst = worst.max((f64::from(silu(x)) - exact).abs() / exact.abs().max(0.01));
            x += 0.0137;
        }
        assert!(worst <= ERROR, "worst error {worst:e}");
        assert!(silu(-1e30).abs() < 1e-7 && silu(f32::MAX) == f32::MAX && silu(0.0) == 0.0 && silu(f32::NAN).is_nan());
    }
}
