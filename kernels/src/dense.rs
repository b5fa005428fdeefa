//! Dense layers around the attention: products, layer norm, SiLU, residual sums. Rows are spread over the threads; a
//! row's result does not depend on the rows beside it.

use crate::error::equal;
use crate::{Engine, Isa, KernelError, MatrixMut, MatrixRef, ffi, portable};

/// Rows of one task of a product; large enough that packing the right-hand side again for each is small.
const GEMM_ROWS: usize = 256;
/// Elements of one task of an elementwise layer.
const ELEMENTS: usize = 1 << 15;
/// Multiply-adds that one element of a layer norm or SiLU costs, near enough to decide about threads.
const ELEMENT_COST: usize = 8;
/// Lanes of the sums that the compiler can keep in vector registers.
const LANES: usize = 16;

/// Scale and shift of a layer norm, one of each for every column.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Multiplies the normalised row.
    pub weight: &'a [f32],
    /// Is added after.
    pub bias: &'a [f32],
}

/// Whether the right-hand side of a product is given as stored by `torch.nn.Linear`.
#[derive(Clone, Copy)]
enum Right {
    AsIs,
    Transposed,
}

/// Cuts `out` into runs of at most `rows` rows with their first row number.
fn strips(mut out: MatrixMut<'_>, rows: usize) -> Vec<(usize, MatrixMut<'_>)> {
    let mut list = Vec::with_capacity(out.rows().div_ceil(rows));
    let mut start = 0;
    while out.rows() > 0 {
        let take = rows.min(out.rows());
        let (head, rest) = out.split_rows(take);
        list.push((start, head));
        start += take;
        out = rest;
    }
    list
}

impl Engine {
    /// `c = a * b + beta * c`, with `a` of `m x k`, `b` of `k x n`, `c` of `m x n`. With `beta` 0 the old `c` is not read.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn gemm(&self, a: MatrixRef<'_>, b: MatrixRef<'_>, beta: f32, c: MatrixMut<'_>) -> Result<(), KernelError> {
        equal("gemm: rows of b (columns of a)", a.cols(), b.rows())?;
        equal("gemm: columns of c (columns of b)", b.cols(), c.cols())?;
        self.product(a, (b, Right::AsIs), beta, c)
    }

    /// `c = a * b^T + beta * c`, with `b` of `n x k` as `torch.nn.Linear` stores its weight.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn gemm_bt(&self, a: MatrixRef<'_>, b: MatrixRef<'_>, beta: f32, c: MatrixMut<'_>) -> Result<(), KernelError> {
        equal("gemm_bt: columns of b (columns of a)", a.cols(), b.cols())?;
        equal("gemm_bt: columns of c (rows of b)", b.rows(), c.cols())?;
        self.product(a, (b, Right::Transposed), beta, c)
    }

    fn product(
        &self,
        a: MatrixRef<'_>,
        (b, right): (MatrixRef<'_>, Right),
        beta: f32,
        c: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        equal("gemm: rows of c (rows of a)", a.rows(), c.rows())?;
        let cost = a.rows() * a.cols() * c.cols();
        self.run(cost, strips(c, GEMM_ROWS), |(start, mut strip)| {
            let rows = a.rows_at(start, strip.rows());
            match right {
                Right::AsIs => ffi::gemm(rows, b, beta, &mut strip),
                Right::Transposed => ffi::gemm_bt(rows, b, beta, &mut strip),
            }
            Ok(())
        })
    }

    /// `out = layer_norm(x)` row by row: `(x - mean) / sqrt(variance + eps)`, then the affine part if given.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn layer_norm(
        &self,
        x: MatrixRef<'_>,
        eps: f32,
        affine: Option<Affine<'_>>,
        out: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        check_norm(x, affine, &out)?;
        self.by_rows(out, |start, strip| {
            for r in 0..strip.rows() {
                normalise(x.row(start + r), eps, affine, strip.row_mut(r));
            }
        })
    }

    /// `out = u * layer_norm(a)`, fused; shapes all equal.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn layer_norm_gate(
        &self,
        u: MatrixRef<'_>,
        a: MatrixRef<'_>,
        (eps, affine): (f32, Option<Affine<'_>>),
        out: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        check_norm(a, affine, &out)?;
        equal("layer_norm_gate: rows of u (rows of a)", a.rows(), u.rows())?;
        equal("layer_norm_gate: columns of u (columns of a)", a.cols(), u.cols())?;
        self.by_rows(out, |start, strip| {
            for r in 0..strip.rows() {
                let row = strip.row_mut(r);
                normalise(a.row(start + r), eps, affine, row);
                for (o, &g) in row.iter_mut().zip(u.row(start + r)) {
                    *o *= g;
                }
            }
        })
    }

    /// `x = x * sigmoid(x)`; the error is at most 1e-6 of the larger of `|silu(x)|` and 0.01.
    ///
    /// # Errors
    /// None today; the type is that of the other layers.
    pub fn silu_in_place(&self, x: MatrixMut<'_>) -> Result<(), KernelError> {
        let isa = self.isa();
        self.by_rows(x, |_, strip| {
            for r in 0..strip.rows() {
                silu_row(isa, strip.row_mut(r));
            }
        })
    }

    /// `out += x`, shapes equal.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn add_in_place(&self, x: MatrixRef<'_>, out: MatrixMut<'_>) -> Result<(), KernelError> {
        equal("add_in_place: rows", out.rows(), x.rows())?;
        equal("add_in_place: columns", out.cols(), x.cols())?;
        self.by_rows(out, |start, strip| {
            for r in 0..strip.rows() {
                for (o, &v) in strip.row_mut(r).iter_mut().zip(x.row(start + r)) {
                    *o += v;
                }
            }
        })
    }

    /// Adds the same `bias` (one value for each column) to every row.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the length does not fit.
    pub fn add_bias(&self, bias: &[f32], out: MatrixMut<'_>) -> Result<(), KernelError> {
        equal("add_bias: length (columns)", out.cols(), bias.len())?;
        self.by_rows(out, |_, strip| {
            for r in 0..strip.rows() {
                for (o, &b) in strip.row_mut(r).iter_mut().zip(bias) {
                    *o += b;
                }
            }
        })
    }

    /// Runs `work(first row, strip)` over strips of `out`.
    fn by_rows(&self, out: MatrixMut<'_>, work: impl Fn(usize, &mut MatrixMut<'_>) + Sync) -> Result<(), KernelError> {
        let cols = out.cols().max(1);
        let cost = out.rows() * cols * ELEMENT_COST;
        self.run(cost, strips(out, (ELEMENTS / cols).max(1)), |(start, mut strip)| {
            work(start, &mut strip);
            Ok(())
        })
    }
}

fn silu_row(isa: Isa, row: &mut [f32]) {
    match isa {
        Isa::Portable => portable::silu_slice(row),
        native => ffi::silu(native, row),
    }
}

fn check_norm(x: MatrixRef<'_>, affine: Option<Affine<'_>>, out: &MatrixMut<'_>) -> Result<(), KernelError> {
    equal("layer_norm: rows of out (rows of x)", x.rows(), out.rows())?;
    equal("layer_norm: columns of out (columns of x)", x.cols(), out.cols())?;
    if let Some(affine) = affine {
        equal("layer_norm: length of the weight (columns)", x.cols(), affine.weight.len())?;
        equal("layer_norm: length of the bias (columns)", x.cols(), affine.bias.len())?;
    }
    Ok(())
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

/// One row of a layer norm: mean first, then the variance about it, as the public code does.
#[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 columns")]
fn normalise(x: &[f32], eps: f32, affine: Option<Affine<'_>>, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = lane_sum(x, |v| v) / n;
    let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / n;
    let factor = 1.0 / (variance + eps).sqrt();
    match affine {
        None => {
            for (o, &v) in out.iter_mut().zip(x) {
                *o = (v - mean) * factor;
            }
        }
        Some(Affine { weight, bias }) => {
            for (((o, &v), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *o = (v - mean) * factor * w + b;
            }
        }
    }
}
