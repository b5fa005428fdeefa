//! Peers that are measured beside our kernels: the vendor's matrix product.
#![allow(unsafe_code, reason = "an FFI file: each block says why it is sound")]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use super::{Buffer, Device};
use crate::cuda::CudaError;

/// Memory that the product may use beside its operands.
const WORKSPACE: usize = 64 << 20;

/// A square bf16 matrix product with f32 sums, by cublasLt: the plan is made once.
#[derive(Debug)]
pub struct MatrixProduct {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
    desc: sys::cublasLtMatmulDesc_t,
    layout: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: Buffer<u8>,
    operands: [Buffer<u16>; 3],
}

fn failed(error: &result::CublasError) -> CudaError {
    CudaError::Call { doing: "multiply matrices by cublasLt", code: error.to_string() }
}

impl MatrixProduct {
    /// A product of two `n x n` matrices, both filled from `numbers` over and over; none where cublasLt is absent.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn new(device: &Arc<Device>, n: usize, numbers: &[u16]) -> Result<Option<Self>, CudaError> {
        // SAFETY: only tries to open the library by name.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let operands = [device.alloc(n * n)?, device.alloc(n * n)?, device.alloc(n * n)?];
        for operand in &operands[..2] {
            for at in (0..n * n).step_by(numbers.len()) {
                let len = numbers.len().min(n * n - at);
                device.upload_slice(operand, at, &numbers[..len])?;
            }
        }
        device.bind()?;
        let (real, half) = (sys::cudaDataType_t::CUDA_R_32F, sys::cudaDataType_t::CUDA_R_16BF);
        let make = || {
            let handle = result::create_handle()?;
            let desc = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, real)?;
            let layout = result::create_matrix_layout(half, n as u64, n as u64, i64::try_from(n).unwrap_or(0))?;
            let preference = result::create_matmul_pref()?;
            let transposed: i32 = 1;
            // SAFETY: all handles were just made; the attributes are read at once.
            let found = unsafe {
                let what = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
                result::set_matmul_desc_attribute(desc, what, std::ptr::from_ref(&transposed).cast(), 4)?;
                let what = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
                let most = WORKSPACE as u64;
                result::set_matmul_pref_attribute(preference, what, std::ptr::from_ref(&most).cast(), 8)?;
                let found = result::get_matmul_algo_heuristic(handle, desc, layout, layout, layout, layout, preference);
                result::destroy_matmul_pref(preference)?;
                found?
            };
            Ok((handle, desc, layout, found.algo))
        };
        let (handle, desc, layout, algorithm) = make().map_err(|e| failed(&e))?;
        let workspace = device.alloc(WORKSPACE)?;
        Ok(Some(Self { device: Arc::clone(device), handle, desc, layout, algorithm, workspace, operands }))
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
                self.layout,
                at(1),
                self.layout,
                at(2),
                self.layout,
                at(2),
                self.layout,
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
            let _ = result::destroy_matrix_layout(self.layout);
            let _ = result::destroy_matmul_desc(self.desc);
            let _ = result::destroy_handle(self.handle);
        }
    }
}
