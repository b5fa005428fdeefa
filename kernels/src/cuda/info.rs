//! What GPUs there are, and whether the kernels run on them.

use std::fmt;

use super::CudaError;
use super::ffi;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub ordinal: i32,
    /// Its name.
    pub name: String,
    /// Bytes of memory.
    pub memory: usize,
    /// Compute capability, before the point.
    pub major: i32,
    /// Compute capability, after the point.
    pub minor: i32,
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Most bytes of shared memory that one block may ask for.
    pub shared_bytes_max: i32,
}

/// The code that a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `mma.sync` and `cp.async`: compute capability 8.0 and later.
    Sm80,
    /// `wgmma` and tensor copies: compute capability 9.0 alone.
    Sm90,
}

/// What the kernels were compiled for.
pub const COMPILED_FOR: &str = "8.0, 9.0a, and PTX of 8.0 for later devices";

/// The oldest driver that loads the kernels, as [`Found::driver`] counts: they come from the compiler of CUDA 13.0.
pub const DRIVER_MIN: i32 = 13_000;

impl DeviceInfo {
    /// The code that the device runs.
    ///
    /// # Errors
    /// [`CudaError::TooOld`].
    pub fn form(&self) -> Result<Form, CudaError> {
        match (self.major, self.minor) {
            (9, 0) => Ok(Form::Sm90),
            (major, _) if major >= 8 => Ok(Form::Sm80),
            _ => Err(CudaError::TooOld { found: self.capability() }),
        }
    }

    /// Whether the driver compiles the kernels for the device from PTX, when they are first loaded: it is newer than all that
    /// they were compiled for.
    #[must_use]
    pub fn from_ptx(&self) -> bool {
        self.major > 9
    }

    /// Compute capability, as in 9.0.
    #[must_use]
    pub fn capability(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.memory >> 30;
        write!(f, "{}, {gib} GiB, compute capability {}", self.name, self.capability())
    }
}

/// The driver and its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Highest CUDA version of the driver, as 13000 for 13.0.
    pub driver: i32,
    /// The devices.
    pub devices: Vec<DeviceInfo>,
}

/// Looks for a driver and devices; opens nothing.
///
/// # Errors
/// [`CudaError::NoDriver`], or what the driver says.
pub fn probe() -> Result<Found, CudaError> {
    let (driver, devices) = ffi::devices()?;
    Ok(Found { driver, devices })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hopper_gets_its_own_code_and_old_devices_none() {
        let of = |major, minor| DeviceInfo {
            ordinal: 0,
            name: String::new(),
            memory: 0,
            major,
            minor,
            multiprocessors: 1,
            shared_bytes_max: 0,
        };
        assert_eq!(of(9, 0).form(), Ok(Form::Sm90));
        assert_eq!(of(8, 6).form(), Ok(Form::Sm80));
        assert_eq!(of(10, 0).form(), Ok(Form::Sm80), "the code for 9.0a runs on 9.0 alone");
        assert_eq!(
            [(8, 0), (8, 9), (9, 0), (10, 0), (12, 1)].map(|(a, b)| of(a, b).from_ptx()),
            [false, false, false, true, true]
        );
        assert_eq!(of(7, 5).form(), Err(CudaError::TooOld { found: "7.5".to_owned() }));
    }
}
