//! What the doctor says of GPUs.

use super::Finding;
use super::probe::read;
use std::fs;

/// NVIDIA's PCI vendor number.
const NVIDIA: &str = "0x10de";

/// Device, driver, compiled and found compute capability, and the fix.
#[cfg(feature = "cuda")]
pub(super) fn gpu() -> Finding {
    use longbow_kernels::cuda::{COMPILED_FOR, CudaError, DRIVER_MIN, probe};
    let found = match probe() {
        Ok(found) => found,
        Err(CudaError::NoDriver) => return cards(),
        Err(error) => return Finding::warn("gpu", error.to_string(), "nvidia-smi must work for this user"),
    };
    let version = |number: i32| format!("{}.{}", number / 1000, number % 1000 / 10);
    let driver = format!("driver for CUDA {}, kernels for compute capability {COMPILED_FOR}", version(found.driver));
    let Some(device) = found.devices.first() else {
        return Finding::warn(
            "gpu",
            format!("no device; {driver}"),
            "make one visible: CUDA_VISIBLE_DEVICES, --gpus all",
        );
    };
    if found.driver < DRIVER_MIN {
        let fix = format!("update the driver to one for CUDA {} (580 or later)", version(DRIVER_MIN));
        return Finding::warn("gpu", format!("{device}; {driver}: the CPU path is used"), fix);
    }
    match device.form() {
        Ok(form) => {
            let how = if device.from_ptx() {
                " from PTX, which the driver compiles at the first start (the code for 9.0a runs on 9.0 alone)"
            } else {
                ""
            };
            Finding::ok("gpu", format!("{device}; {driver}; runs {form:?}{how}"))
        }
        Err(error) => Finding::warn(
            "gpu",
            format!("{device}; {driver}: {error}; the CPU path is used"),
            "use a GPU of compute capability 8.0 or later (A100, L4, H100 ..)",
        ),
    }
}

/// What a build without the GPU path can say.
#[cfg(not(feature = "cuda"))]
pub(super) fn gpu() -> Finding {
    cards()
}

/// Cards and driver as the kernel of the system shows them: for builds without the GPU path, and where no driver loads.
fn cards() -> Finding {
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let cards = devices
        .filter(|device| {
            let value = |name: &str| read(device.path().join(name)).unwrap_or_default();
            // Class 03 is display and 3D controllers.
            value("vendor") == NVIDIA && value("class").starts_with("0x03")
        })
        .count();
    let driver = read("/proc/driver/nvidia/version").and_then(|text| text.lines().next().map(str::to_owned));
    match (cards, driver) {
        (0, None) => Finding::ok("gpu", "none: the CPU path is used"),
        (0, Some(driver)) => Finding::warn(
            "gpu",
            format!("a driver ({driver}) but no card is visible"),
            "pass the device into this container",
        ),
        (cards, None) => Finding::warn(
            "gpu",
            format!("{cards} NVIDIA card(s), no driver loaded: the CPU path is used"),
            "install the NVIDIA driver (nvidia-smi must work)",
        ),
        (cards, Some(driver)) => Finding::warn(
            "gpu",
            format!("{cards} NVIDIA card(s), {driver}, but the CPU path is used"),
            if cfg!(feature = "cuda") {
                "make libcuda.so.1 visible to this process: start the container with --gpus all"
            } else {
                "build with --features cuda (scripts/cuda-toolkit brings the compiler)"
            },
        ),
    }
}
