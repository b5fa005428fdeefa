//! Dense layers around the attention: products, layer norm, SiLU, each fused with its neighbours. Rows are spread over the
//! threads; a row's result does not depend on the rows beside it.

use std::cell::Cell;

use crate::error::equal;
use crate::{Engine, Isa, KernelError, MatrixMut, MatrixRef, PackedMatrix, ffi, portable};

/// Rows of one task of a product: their input and output stay in the second-level cache.
const PRODUCT_ROWS: usize = 96;
/// Elements of one task of an elementwise layer.
const ELEMENTS: usize = 1 << 14;
/// Multiply-adds that one element of a layer norm or SiLU costs, near enough to decide about threads.
const ELEMENT_COST: usize = 8;

/// Scale and shift of a layer norm, one of each for every column.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Multiplies the normalised row.
    pub weight: &'a [f32],
    /// Is added after.
    pub bias: &'a [f32],
}

/// A layer norm: `(x - mean) / sqrt(variance + epsilon)` row by row, then the affine part if given.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    /// Added to the variance.
    pub epsilon: f32,
    /// Scale and shift, if any.
    pub affine: Option<Affine<'a>>,
}

/// A packed weight and what is added to each row of its product.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// The weight.
    pub weight: &'a PackedMatrix,
    /// One for each column, if any.
    pub bias: Option<&'a [f32]>,
}

/// `c = a * b + bias`, or `c += a * b + bias`.
pub(crate) struct Product<'a, 'c> {
    pub(crate) a: MatrixRef<'a>,
    pub(crate) b: &'a PackedMatrix,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) accumulate: bool,
    pub(crate) c: &'a mut MatrixMut<'c>,
}

/// `out = gate * norm(x)`.
pub(crate) struct Norm<'a, 'c> {
    pub(crate) x: MatrixRef<'a>,
    pub(crate) epsilon: f32,
    pub(crate) affine: Option<Affine<'a>>,
    pub(crate) gate: Option<MatrixRef<'a>>,
    pub(crate) out: &'a mut MatrixMut<'c>,
}

thread_local! {
    /// The normalised rows of a task; kept, so that nothing is allocated after a thread's first tasks.
    static STRIP: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs of at most `rows` rows with their first row number.
struct Strips<'a> {
    rest: Option<MatrixMut<'a>>,
    start: usize,
    rows: usize,
}

impl<'a> Iterator for Strips<'a> {
    type Item = (usize, MatrixMut<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take().filter(|rest| rest.rows() > 0)?;
        let (head, tail) = {
            let take = self.rows.min(rest.rows());
            rest.split_rows(take)
        };
        let start = self.start;
        self.start += head.rows();
        self.rest = Some(tail);
        Some((start, head))
    }
}

impl Engine {
    /// `c = a * b + bias`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn linear(&self, a: MatrixRef<'_>, linear: Linear<'_>, c: MatrixMut<'_>) -> Result<(), KernelError> {
        linear.check(a, &c)?;
        self.by_product_rows(&linear, c, |start, mut strip| {
            let a = a.rows_at(start, strip.rows());
            self.product(linear.of(a, false, &mut strip))
        })
    }

    /// `c = norm(x) * b + bias`, then `silu` over the first `silu_cols` columns of `c`. Its error is at most 1e-6 of the larger
    /// of `|silu(x)|` and 0.01.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn project(
        &self,
        x: MatrixRef<'_>,
        norm: LayerNorm<'_>,
        linear: Linear<'_>,
        (silu_cols, c): (usize, MatrixMut<'_>),
    ) -> Result<(), KernelError> {
        linear.check(x, &c)?;
        norm.check(x)?;
        equal("project: columns with SiLU (at most those of c)", silu_cols.min(c.cols()), silu_cols)?;
        self.by_product_rows(&linear, c, |start, mut strip| {
            let x = x.rows_at(start, strip.rows());
            self.on_normed(norm.of(x, None), |normed| self.product(linear.of(normed, false, &mut strip)))?;
            for r in 0..strip.rows() {
                silu_row(self.isa(), &mut strip.row_mut(r)[..silu_cols]);
            }
            Ok(())
        })
    }

    /// `c += (u * norm(a)) * b + bias`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn gated_output(
        &self,
        (u, a): (MatrixRef<'_>, MatrixRef<'_>),
        norm: LayerNorm<'_>,
        linear: Linear<'_>,
        c: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        linear.check(a, &c)?;
        norm.check(a)?;
        equal("gated_output: rows of u (rows of a)", a.rows(), u.rows())?;
        equal("gated_output: columns of u (columns of a)", a.cols(), u.cols())?;
        self.by_product_rows(&linear, c, |start, mut strip| {
            let (u, a) = (u.rows_at(start, strip.rows()), a.rows_at(start, strip.rows()));
            self.on_normed(norm.of(a, Some(u)), |gated| self.product(linear.of(gated, true, &mut strip)))
        })
    }

    /// `c += a * b + bias`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn add_linear(&self, a: MatrixRef<'_>, linear: Linear<'_>, c: MatrixMut<'_>) -> Result<(), KernelError> {
        linear.check(a, &c)?;
        self.by_product_rows(&linear, c, |start, mut strip| {
            let a = a.rows_at(start, strip.rows());
            self.product(linear.of(a, true, &mut strip))
        })
    }

    /// `out = gate * norm(x)` (without a gate: `norm(x)`), row by row.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn layer_norm(
        &self,
        x: MatrixRef<'_>,
        norm: LayerNorm<'_>,
        gate: Option<MatrixRef<'_>>,
        out: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        norm.check(x)?;
        equal("layer_norm: rows of out (rows of x)", x.rows(), out.rows())?;
        equal("layer_norm: columns of out (columns of x)", x.cols(), out.cols())?;
        if let Some(gate) = gate {
            equal("layer_norm: rows of the gate (rows of x)", x.rows(), gate.rows())?;
            equal("layer_norm: columns of the gate (columns of x)", x.cols(), gate.cols())?;
        }
        let cols = out.cols().max(1);
        let cost = out.rows() * cols * ELEMENT_COST;
        let strips = Strips { rest: Some(out), start: 0, rows: (ELEMENTS / cols).max(1) };
        self.run(cost, strips, |(start, mut strip)| {
            let rows = strip.rows();
            let mut task = norm.of(x.rows_at(start, rows), gate.map(|g| g.rows_at(start, rows)));
            self.norm(&mut task, &mut strip)
        })
    }

    fn by_product_rows<'c>(
        &self,
        linear: &Linear<'_>,
        c: MatrixMut<'c>,
        work: impl Fn(usize, MatrixMut<'c>) -> Result<(), KernelError> + Sync,
    ) -> Result<(), KernelError> {
        let cost = c.rows() * linear.weight.cols() * (linear.weight.rows() + ELEMENT_COST);
        let strips = Strips { rest: Some(c), start: 0, rows: PRODUCT_ROWS };
        self.run(cost, strips, |(start, strip)| work(start, strip))
    }

    /// Gives `work` the normalised rows.
    fn on_normed(
        &self,
        mut norm: NormOf<'_>,
        work: impl FnOnce(MatrixRef<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let (rows, cols) = (norm.x.rows(), norm.x.cols());
        let mut strip = STRIP.take();
        if strip.len() < rows * cols {
            strip.resize(rows * cols, 0.0);
        }
        let mut normed = MatrixMut::dense(&mut strip, rows, cols)?;
        let result = self.norm(&mut norm, &mut normed).and_then(|()| work(normed.as_ref()));
        STRIP.set(strip);
        result
    }

    fn norm(&self, norm: &mut NormOf<'_>, out: &mut MatrixMut<'_>) -> Result<(), KernelError> {
        let &mut NormOf { x, norm: LayerNorm { epsilon, affine }, gate } = norm;
        let task = Norm { x, epsilon, affine, gate, out };
        match self.isa() {
            Isa::Portable => {
                portable::norm(task);
                Ok(())
            }
            native => ffi::norm(native, task),
        }
    }

    fn product(&self, product: Product<'_, '_>) -> Result<(), KernelError> {
        match self.isa() {
            Isa::Portable => {
                portable::product(product);
                Ok(())
            }
            native => ffi::product(native, product),
        }
    }
}

/// A norm of some rows.
struct NormOf<'a> {
    x: MatrixRef<'a>,
    norm: LayerNorm<'a>,
    gate: Option<MatrixRef<'a>>,
}

impl<'a> LayerNorm<'a> {
    fn of(self, x: MatrixRef<'a>, gate: Option<MatrixRef<'a>>) -> NormOf<'a> {
        NormOf { x, norm: self, gate }
    }

    fn check(&self, x: MatrixRef<'_>) -> Result<(), KernelError> {
        let Some(affine) = self.affine else { return Ok(()) };
        equal("layer_norm: length of the weight (columns)", x.cols(), affine.weight.len())?;
        equal("layer_norm: length of the bias (columns)", x.cols(), affine.bias.len())
    }
}

impl<'a> Linear<'a> {
    fn of<'c>(&self, a: MatrixRef<'a>, accumulate: bool, c: &'a mut MatrixMut<'c>) -> Product<'a, 'c> {
        Product { a, b: self.weight, bias: self.bias, accumulate, c }
    }

    fn check(&self, a: MatrixRef<'_>, c: &MatrixMut<'_>) -> Result<(), KernelError> {
        equal("linear: rows of the weight (columns of the input)", a.cols(), self.weight.rows())?;
        equal("linear: columns of the output (columns of the weight)", self.weight.cols(), c.cols())?;
        equal("linear: rows of the output (rows of the input)", a.rows(), c.rows())?;
        match self.bias {
            Some(bias) => equal("linear: length of the bias (columns)", c.cols(), bias.len()),
            None => Ok(()),
        }
    }
}

fn silu_row(isa: Isa, row: &mut [f32]) {
    match isa {
        Isa::Portable => portable::silu_slice(row),
        native => ffi::silu(native, row),
    }
}
