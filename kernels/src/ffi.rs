//! The only unsafe code of the crate: the C++ kernels and the matrix product.
#![expect(unsafe_code, reason = "foreign functions; every call states why its pointers are good")]

use crate::{Isa, KernelError, MatrixMut, MatrixRef, Scoring, Shape, portable, tile::Tile};

/// Runs a tile on a native kernel.
pub(crate) fn attend(_: Isa, shape: Shape, scoring: &Scoring<'_>, tile: &mut Tile<'_>) -> Result<(), KernelError> {
    portable::attend(shape, scoring, tile);
    Ok(())
}

/// `x * sigmoid(x)` over a slice.
pub(crate) fn silu(_: Isa, x: &mut [f32]) {
    portable::silu_slice(x);
}

/// `c = a * b + beta * c`. The caller has checked that the shapes fit.
pub(crate) fn gemm(a: MatrixRef<'_>, b: MatrixRef<'_>, beta: f32, c: &mut MatrixMut<'_>) {
    assert!(a.cols() == b.rows() && b.cols() == c.cols() && a.rows() == c.rows(), "product of unequal shapes");
    sgemm(a, (b, [b.stride().cast_signed(), 1]), beta, c);
}

/// `c = a * b^T + beta * c`. The caller has checked that the shapes fit.
pub(crate) fn gemm_bt(a: MatrixRef<'_>, b: MatrixRef<'_>, beta: f32, c: &mut MatrixMut<'_>) {
    assert!(a.cols() == b.cols() && b.rows() == c.cols() && a.rows() == c.rows(), "product of unequal shapes");
    sgemm(a, (b, [1, b.stride().cast_signed()]), beta, c);
}

/// `b` comes with its strides from row to row and from column to column of the right-hand side as it is used.
fn sgemm(a: MatrixRef<'_>, (b, b_strides): (MatrixRef<'_>, [isize; 2]), beta: f32, c: &mut MatrixMut<'_>) {
    let (m, k, n) = (a.rows(), a.cols(), c.cols());
    let (a_stride, c_stride) = (a.stride().cast_signed(), c.stride().cast_signed());
    let c_data = c.data_mut().as_mut_ptr();
    // SAFETY: a matrix view holds at least `(rows - 1) * stride + cols` floats with `stride >= cols` (checked when it is
    // made), the shapes fit (checked by both callers), and `c` is borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data().as_ptr(),
            a_stride,
            1,
            b.data().as_ptr(),
            b_strides[0],
            b_strides[1],
            beta,
            c_data,
            c_stride,
            1,
        );
    }
}
