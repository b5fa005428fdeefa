//! Peers that are measured beside our kernels: the vendor's matrix product.
#![allow(unsafe_code, reason = "an FFI file: each block says why it is sound")]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use super::{Buffer, Device};
use crate::cuda::CudaError;

/// Memory that the product may use beside its operands.
const WORKSPACE: usize = 64 << 20;

/// A product of bf16 matrices with f32 sums and a bf16 result, by cublasLt: the plan is made once.
#[derive(Debug)]
pub struct MatrixProduct {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
    desc: sys::cublasLtMatmulDesc_t,
    /// Of the weights, the rows and the result.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: Buffer<u8>,
    operands: [Buffer<u16>; 3],
}

fn failed(error: &result::CublasError) -> CudaError {
    CudaError::Call { doing: "multiply matrices by cublasLt", code: error.to_string() }
}

impl MatrixProduct {
    /// The product of `m` rows of `k` numbers and a dense layer's `[n, k]` weights, both filled from `numbers` over and over;
    /// none where cublasLt is absent.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn new(
        device: &Arc<Device>,
        (m, n, k): (usize, usize, usize),
        numbers: &[u16],
    ) -> Result<Option<Self>, CudaError> {
        // SAFETY: only tries to open the library by name.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let operands = [device.alloc(n * k)?, device.alloc(m * k)?, device.alloc(m * n)?];
        for operand in &operands[..2] {
            for at in (0..operand.len()).step_by(numbers.len()) {
                let len = numbers.len().min(operand.len() - at);
                device.upload_slice(operand, at, &numbers[..len])?;
            }
        }
        device.bind()?;
        let (real, half) = (sys::cudaDataType_t::CUDA_R_32F, sys::cudaDataType_t::CUDA_R_16BF);
        let make = || {
            let handle = result::create_handle()?;
            let desc = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, real)?;
            // Columns are contiguous there: all matrices are seen transposed.
            let layout = |rows: usize, columns: usize| {
                result::create_matrix_layout(half, rows as u64, columns as u64, i64::try_from(rows).unwrap_or(0))
            };
            let layouts = [layout(k, n)?, layout(k, m)?, layout(n, m)?];
            let preference = result::create_matmul_pref()?;
            let transposed: i32 = 1;
            // SAFETY: all handles were just made; the attributes are read at once.
            let found = unsafe {
                let what = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
                result::set_matmul_desc_attribute(desc, what, std::ptr::from_ref(&transposed).cast(), 4)?;
                let what = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
                let most = WORKSPACE as u64;
                result::set_matmul_pref_attribute(preference, what, std::ptr::from_ref(&most).cast(), 8)?;
                let found = {
                    let [a, b, c] = layouts;
                    result::get_matmul_algo_heuristic(handle, desc, a, b, c, c, preference)
                };
                result::destroy_matmul_pref(preference)?;
                found?
            };
            Ok((handle, desc, layouts, found.algo))
        };
        let (handle, desc, layouts, algorithm) = make().map_err(|e| failed(&e))?;
        let workspace = device.alloc(WORKSPACE)?;
        Ok(Some(Self { device: Arc::clone(device), handle, desc, layouts, algorithm, workspace, operands }))
    }

    /// Starts one product.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn start(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let at = |i: usize| self.operands[i].region().address as *mut c_void;
        // SAFETY: handles and memory live as long as `self`; the scalars are read at once.
        unsafe {
            result::matmul(
                self.handle,
                self.desc,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&zero).cast(),
                at(0),
                self.layouts[0],
                at(1),
                self.layouts[1],
                at(2),
                self.layouts[2],
                at(2),
                self.layouts[2],
                &raw const self.algorithm,
                self.workspace.region().address as *mut c_void,
                WORKSPACE,
                self.device.stream.cast(),
            )
        }
        .map_err(|e| failed(&e))
    }
}

impl Drop for MatrixProduct {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        // SAFETY: made in `new`, destroyed once, and nothing runs.
        unsafe {
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.desc);
            let _ = result::destroy_handle(self.handle);
        }
    }
}
