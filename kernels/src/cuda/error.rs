//! What goes wrong on a GPU, by what a caller can do about it.

use cudarc::driver::{DriverError, sys::CUresult};

/// Why a call of the GPU path failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The driver library is absent.
    #[error(
        "no NVIDIA driver: libcuda.so.1 cannot be loaded (install the driver, or start the container with --gpus all)"
    )]
    NoDriver,
    /// The driver has no such device.
    #[error("the driver has no device {ordinal} (nvidia-smi -L lists them; CUDA_VISIBLE_DEVICES may hide it)")]
    NoDevice {
        /// The device asked for.
        ordinal: i32,
    },
    /// The driver is too old for the kernels.
    #[error(
        "the NVIDIA driver is for CUDA {}.{}, and the kernels need one for 13.0 (update it to 580 or later)",
        .found / 1000,
        .found % 1000 / 10
    )]
    OldDriver {
        /// What the driver is for, as 12080 for 12.8.
        found: i32,
    },
    /// The device is too old for the kernels.
    #[error("compute capability {found} is below 8.0, the oldest that the kernels are compiled for")]
    TooOld {
        /// What the device has.
        found: String,
    },
    /// Memory ran out; nothing is broken.
    #[error("out of memory: {bytes} bytes could not be allocated")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Shapes that the kernels do not take.
    #[error("{what}: {found} is outside what the GPU path takes ({limit})")]
    Shape {
        /// The quantity.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What would be right.
        limit: &'static str,
    },
    /// A call failed, the context still works.
    #[error("{doing}: {code}")]
    Call {
        /// What was being done.
        doing: &'static str,
        /// The driver's name for the error.
        code: String,
    },
    /// The context is poisoned or the device gone: every later call fails too, until the process ends.
    #[error("{doing}: {code}; the device is lost to this process")]
    Lost {
        /// What was being done.
        doing: &'static str,
        /// The driver's name for the error.
        code: String,
    },
}

impl CudaError {
    /// Whether every later call fails too.
    #[must_use]
    pub fn lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    pub(super) fn of(error: DriverError, doing: &'static str) -> Self {
        let code = format!("{:?}", error.0);
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Self::OutOfMemory { bytes: 0 };
        }
        if sticky(error.0) { Self::Lost { doing, code } } else { Self::Call { doing, code } }
    }

    pub(super) fn of_alloc(error: DriverError, bytes: usize) -> Self {
        match Self::of(error, "allocate memory") {
            Self::OutOfMemory { .. } => Self::OutOfMemory { bytes },
            other => other,
        }
    }

    pub(super) fn missing(error: DriverError, name: &str) -> Self {
        match Self::of(error, "find a kernel") {
            Self::Call { doing, code } => Self::Call { doing, code: format!("{name}: {code}") },
            other => other,
        }
    }
}

/// Errors after which the driver refuses everything else in this context.
fn sticky(code: CUresult) -> bool {
    use CUresult as R;
    matches!(
        code,
        R::CUDA_ERROR_ILLEGAL_ADDRESS
            | R::CUDA_ERROR_LAUNCH_TIMEOUT
            | R::CUDA_ERROR_ASSERT
            | R::CUDA_ERROR_HARDWARE_STACK_ERROR
            | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | R::CUDA_ERROR_MISALIGNED_ADDRESS
            | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | R::CUDA_ERROR_INVALID_PC
            | R::CUDA_ERROR_LAUNCH_FAILED
            | R::CUDA_ERROR_ECC_UNCORRECTABLE
            | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | R::CUDA_ERROR_CONTAINED
            | R::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | R::CUDA_ERROR_INVALID_CONTEXT
            | R::CUDA_ERROR_DEINITIALIZED
            | R::CUDA_ERROR_DEVICE_UNAVAILABLE
            | R::CUDA_ERROR_EXTERNAL_DEVICE
            | R::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | R::CUDA_ERROR_MPS_RPC_FAILURE
            | R::CUDA_ERROR_UNKNOWN
    )
}

/// Says what was being done when the driver refused.
pub(super) trait Wrap<T> {
    fn wrap(self, doing: &'static str) -> Result<T, CudaError>;
}

impl<T> Wrap<T> for Result<T, DriverError> {
    fn wrap(self, doing: &'static str) -> Result<T, CudaError> {
        self.map_err(|e| CudaError::of(e, doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_poison_the_context_count_as_lost() {
        let of = |code| CudaError::of(DriverError(code), "test");
        assert!(of(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS).lost());
        assert!(of(CUresult::CUDA_ERROR_ECC_UNCORRECTABLE).lost());
        assert!(!of(CUresult::CUDA_ERROR_INVALID_VALUE).lost());
        assert_eq!(of(CUresult::CUDA_ERROR_OUT_OF_MEMORY), CudaError::OutOfMemory { bytes: 0 });
    }
}
