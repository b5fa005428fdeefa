//! The loaded kernels of one device.

use std::collections::HashMap;
use std::sync::Arc;

use super::ffi::{Device, Function, Module};
use super::{CudaError, Form};

/// The driver reads an image's header as whole words, and bytes of a file stand anywhere.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);
static ATTENTION: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/attention.fatbin")));
static LAYERS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/layers.fatbin")));

/// Bytes of shared memory, as the kernels assert them.
pub(super) const SHARED_SM80: u32 = 74_016;
pub(super) const SHARED_SM90: u32 = 175_104;
pub(super) const SHARED_TOP: u32 = 8_272;
/// Most columns that a dense layer takes.
pub(super) const DENSE_K_MAX: usize = 1024;

/// All kernels on one device, and the one stream that they run on.
#[derive(Debug)]
pub struct CudaEngine {
    device: Arc<Device>,
    form: Form,
    functions: Arc<HashMap<String, Function>>,
    /// The functions live as long as these.
    modules: Arc<[Module; 2]>,
}

impl CudaEngine {
    /// Opens device `ordinal` and loads the kernels.
    ///
    /// # Errors
    /// [`CudaError`], among them [`CudaError::NoDriver`] and [`CudaError::TooOld`].
    pub fn new(ordinal: i32) -> Result<Self, CudaError> {
        let device = Device::open(ordinal)?;
        let form = device.info().form()?;
        let (attention, layers) = (device.load(&ATTENTION.0)?, device.load(&LAYERS.0)?);
        let mut functions = HashMap::new();
        let forms: &[(&str, u32)] = match form {
            Form::Sm80 => &[("sm80", SHARED_SM80)],
            // The older code too, so that both can be compared on one device.
            Form::Sm90 => &[("sm80", SHARED_SM80), ("sm90", SHARED_SM90)],
        };
        for (form, shared) in forms {
            for rows in ["history", "candidates"] {
                for width in [32, 64, 128] {
                    for bias in ["bias", "plain"] {
                        let name = format!("longbow_{rows}_{form}_{width}_{bias}");
                        functions.insert(name.clone(), attention.function(&name, *shared)?);
                    }
                }
            }
        }
        for layer in ["project", "output", "heads"] {
            for width in [256, 512, 1024] {
                // The widest takes more shared memory than small devices have.
                if width <= columns_max(&device) {
                    let name = format!("longbow_{layer}_{width}");
                    let function = layers.function(&name, dense_shared(width))?;
                    functions.insert(name, function);
                }
            }
        }
        for name in [
            "embed",
            "heads_output",
            "copy_rows",
            "top_scores_1",
            "top_scores_2",
            "top_scores_4",
            "top_bytes_1",
            "top_bytes_2",
            "top_narrow",
            "top_gather",
            "top_sort",
            "put_rows",
        ] {
            let name = format!("longbow_{name}");
            let function = layers.function(&name, 0)?;
            functions.insert(name, function);
        }
        let (functions, modules) = (Arc::new(functions), Arc::new([attention, layers]));
        Ok(Self { device, form, functions, modules })
    }

    /// The same kernels on a stream of their own, for a thread of its own: see [`Device::beside`].
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn beside(&self) -> Result<Self, CudaError> {
        let (functions, modules) = (Arc::clone(&self.functions), Arc::clone(&self.modules));
        Ok(Self { device: self.device.beside()?, form: self.form, functions, modules })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Most columns that a dense layer takes on this device: bounds D and the width of all heads.
    #[must_use]
    pub fn columns_max(&self) -> usize {
        columns_max(&self.device)
    }

    /// The code in use.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    pub(super) fn function(&self, name: &str) -> Result<Function, CudaError> {
        let found = self.functions.get(name).copied();
        found.ok_or_else(|| CudaError::Call { doing: "find a kernel", code: format!("{name} was not loaded") })
    }
}

fn columns_max(device: &Device) -> usize {
    let most = u32::try_from(device.info().shared_bytes_max).unwrap_or(0);
    [DENSE_K_MAX, 512].into_iter().find(|&k| dense_shared(k) <= most).unwrap_or(256)
}

/// Shared memory of a dense layer of `k` columns: 64 rows and three stages of weights.
pub(super) fn dense_shared(k: usize) -> u32 {
    u32::try_from(64 * k * 2 + 3 * 64 * 64 * 2).unwrap_or(u32::MAX)
}
