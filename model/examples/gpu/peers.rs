//! What bounds the figures of this run, by the vendor's own code: the matrix product and the copy on the device; and how our
//! projection stands to the product of the same shape.

use longbow_kernels::cuda::{CudaEngine, DenseIn, HeadShape, MatrixProduct, PAGE_ROWS, PageStore, Project, bf16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Failure;
use crate::goals::median;
use crate::table::row;

/// Numbers that are drawn once and used over and over.
fn numbers(len: usize, seed: u64) -> Vec<u16> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| bf16(rng.random_range(-1.0_f32..1.0))).collect()
}

/// TFLOP/s of the vendor's product, square.
pub(crate) fn matrix_product(engine: &CudaEngine, n: usize) -> Result<Option<f64>, Failure> {
    let what = format!("bf16 matrix product {n}^3");
    let Some(product) = MatrixProduct::new(engine.device(), (n, n, n), &numbers(1 << 20, 7))? else {
        row("goals", what, "cublasLt is absent", "", "", "");
        return Ok(None);
    };
    let rate = 2.0 * (n as f64).powi(3) / (median(engine, || product.start())? * 1e9);
    row("goals", format!("{what}, cublasLt"), format!("{rate:.0} TFLOP/s"), "", "", "");
    Ok(Some(rate))
}

/// Bytes read and written in a second by a copy on the device.
pub(crate) fn copy_bandwidth(engine: &CudaEngine, bytes: usize) -> Result<f64, Failure> {
    let device = engine.device();
    let (from, to) = (device.alloc::<u8>(bytes)?, device.alloc::<u8>(bytes)?);
    // Not zeros, which may move faster than data does.
    let mut rng = StdRng::seed_from_u64(8);
    let drawn: Vec<u8> = (0..1 << 20).map(|_| rng.random()).collect();
    for at in (0..bytes).step_by(drawn.len()) {
        device.upload_slice(&from, at, &drawn[..drawn.len().min(bytes - at)])?;
    }
    let rate = 2.0 * bytes as f64 / (median(engine, || device.copy(&from, &to, bytes))? / 1e3);
    row("goals", "copy on the device", format!("{:.2} TB/s", rate / 1e12), "", "", "");
    Ok(rate)
}

/// Our projection (norm, product, SiLU, K and V to their pages) beside the vendor's product of the same shape, which does
/// none of the rest: the place to change if it is far ahead.
pub(crate) fn projection(engine: &CudaEngine, rows: usize) -> Result<bool, Failure> {
    let (device, shape, d) = (engine.device(), HeadShape::new(4, 64)?, 256);
    let width = shape.width();
    let pages = PageStore::new(device, shape, 1, rows.div_ceil(PAGE_ROWS))?;
    let mut rng = StdRng::seed_from_u64(11);
    let (x, weights) = (device.alloc::<f32>(rows * d)?, device.alloc::<u16>(4 * width * d)?);
    device.upload_slice(&x, 0, &(0..rows * d).map(|_| rng.random_range(-1.0_f32..1.0)).collect::<Vec<_>>())?;
    device.upload_slice(&weights, 0, &numbers(4 * width * d, 12))?;
    let (packed, slots) = (device.alloc::<u16>(rows * 4 * width)?, device.alloc::<i32>(rows)?);
    device.upload_slice(&slots, 0, &(0..rows as i32).collect::<Vec<_>>())?;
    let project = Project {
        dense: DenseIn { rows, x: x.region(), d, weights: weights.region(), epsilon: 1e-6 },
        d_true: d,
        packed: packed.region(),
        slots: slots.region(),
        pages: &pages,
        layer: 0,
    };
    let ours = median(engine, || engine.project(&project))?;
    let flops = 2.0 * (rows * 4 * width * d) as f64;
    let peer = match MatrixProduct::new(device, (rows, 4 * width, d), &numbers(1 << 20, 13))? {
        Some(product) => {
            let theirs = median(engine, || product.start())?;
            format!("cublasLt, the product alone: {theirs:.3} ms, {:.2}x", theirs / ours)
        }
        None => "cublasLt is absent".to_owned(),
    };
    let rate = flops / (ours * 1e9);
    let what = format!("projection {rows} x {} x {d}", 4 * width);
    row("goals", what, format!("{rate:.0} TFLOP/s ({ours:.3} ms)"), peer, "", "");
    Ok(true)
}
