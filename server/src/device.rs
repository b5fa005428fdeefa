//! What the encoder runs on: a GPU or the CPU, by the setting `model.device`, and how the GPU does.
//!
//! The path is chosen at the start of the process; a model that is loaded while serving takes the same one.

use crate::config::ModelDevice;
use longbow_kernels::{Engine, KvFormat};
use longbow_model::{Bundle, CpuEncoder, Encoder};
use std::sync::Arc;

/// An encoder, and the path that it takes.
pub struct Built {
    encoder: Path,
    /// The path in words: for the log and `GET /v1/models`.
    pub path: String,
    /// The GPU, where one is used.
    pub gpu: Gpu,
    /// What users' states are kept in on that path.
    pub state_format: KvFormat,
}

enum Path {
    Cpu(Box<CpuEncoder>),
    #[cfg(feature = "cuda")]
    Gpu(Box<longbow_model::cuda::FallbackEncoder>),
}

impl Built {
    /// The encoder.
    pub fn encoder(&mut self) -> &mut dyn Encoder {
        match &mut self.encoder {
            Path::Cpu(cpu) => &mut **cpu,
            #[cfg(feature = "cuda")]
            Path::Gpu(both) => &mut **both,
        }
    }

    /// The encoder, what it does on the CPU done by `engine`.
    #[must_use]
    pub fn on(self, engine: Arc<Engine>) -> Box<dyn Encoder> {
        match self.encoder {
            Path::Cpu(cpu) => Box::new(cpu.on(engine)),
            #[cfg(feature = "cuda")]
            Path::Gpu(both) => Box::new(both.on(engine)),
        }
    }

    /// The setting under which a later model takes the same path, or is refused.
    #[must_use]
    pub fn again(&self) -> ModelDevice {
        match self.encoder {
            Path::Cpu(_) => ModelDevice::Cpu,
            #[cfg(feature = "cuda")]
            Path::Gpu(_) => ModelDevice::Cuda,
        }
    }
}

/// How the GPU does. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Gpu {
    #[cfg(feature = "cuda")]
    health: Option<Arc<longbow_model::cuda::DeviceHealth>>,
    #[cfg(feature = "cuda")]
    engine: Option<Arc<longbow_kernels::cuda::CudaEngine>>,
}

impl Gpu {
    /// Whether requests run on a GPU.
    #[must_use]
    pub fn serves(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.health.as_ref().is_some_and(|health| !health.lost());
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The kernels, and how the device does: for others who use it.
    #[cfg(feature = "cuda")]
    pub(crate) fn parts(
        &self,
    ) -> Option<(&Arc<longbow_kernels::cuda::CudaEngine>, &Arc<longbow_model::cuda::DeviceHealth>)> {
        self.engine.as_ref().zip(self.health.as_ref())
    }

    /// Whether the device is lost to this process: requests go on on the CPU, /readyz says so, and the process ends after
    /// its drain, so that whoever watches it starts a new one with a new context.
    #[must_use]
    pub fn lost(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.health.as_ref().is_some_and(|health| health.lost());
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Calls that failed on the device since the start.
    #[must_use]
    pub fn faults(&self) -> u64 {
        #[cfg(feature = "cuda")]
        return self.health.as_ref().map_or(0, |health| health.faults());
        #[cfg(not(feature = "cuda"))]
        0
    }
}

/// Memory for users' states.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes, in device memory where a GPU is used.
    pub states: usize,
    /// Bytes of host memory beside a GPU's own; 0: none.
    pub host: usize,
}

/// The encoder of a bundle's model. `cpu` serves where no GPU does, and goes on where one is lost. A GPU must pass the bundle's
/// self-check, as the CPU did before. `room` is for users' states.
///
/// # Errors
/// Where a GPU is demanded and cannot be used; the message says why and what to do.
pub fn build(
    bundle: &Bundle,
    cpu: CpuEncoder,
    engine: &Engine,
    device: ModelDevice,
    room: Room,
) -> anyhow::Result<Built> {
    let isa = engine.isa();
    let on_cpu = |why: String, cpu: CpuEncoder| {
        let path = format!("cpu ({isa}): {why}");
        let state_format = cpu.format();
        Ok(Built { encoder: Path::Cpu(Box::new(cpu)), path, gpu: Gpu::default(), state_format })
    };
    if device == ModelDevice::Cpu {
        return on_cpu("model.device is \"cpu\", or the CPU was taken at the start".to_owned(), cpu);
    }
    match gpu(bundle, room) {
        Ok(Some(made)) => Ok(made.with(cpu)),
        Ok(None) if device == ModelDevice::Cuda => {
            anyhow::bail!("model.device is \"cuda\", but this build has no GPU path: build with --features cuda")
        }
        Ok(None) => on_cpu("this build has no GPU path".to_owned(), cpu),
        Err(why) if device == ModelDevice::Cuda => {
            let asked = "a GPU is demanded, by model.device or by the model that serves now (`longbow doctor` says what is missing)";
            Err(why.context(asked))
        }
        Err(why) => on_cpu(format!("{why:#}"), cpu),
    }
}

#[cfg(feature = "cuda")]
struct Made {
    encoder: longbow_model::cuda::CudaEncoder,
    path: String,
}

#[cfg(feature = "cuda")]
impl Made {
    fn with(self, cpu: CpuEncoder) -> Built {
        let engine = Some(Arc::clone(self.encoder.engine()));
        let encoder = longbow_model::cuda::FallbackEncoder::new(self.encoder, cpu);
        let gpu = Gpu { health: Some(encoder.health()), engine };
        Built { encoder: Path::Gpu(Box::new(encoder)), path: self.path, gpu, state_format: KvFormat::Bf16 }
    }
}

/// States that are evicted or in flight hold pages beside the cache's budget: one part in this many.
#[cfg(feature = "cuda")]
const SPARE_PARTS: usize = 4;

#[cfg(feature = "cuda")]
fn gpu(bundle: &Bundle, room: Room) -> anyhow::Result<Option<Made>> {
    use anyhow::Context;
    use longbow_kernels::cuda::CudaEngine;
    use longbow_model::cuda::CudaEncoder;
    let engine = Arc::new(CudaEngine::new(0)?);
    let bytes = room.states + room.states / SPARE_PARTS;
    let mut encoder = CudaEncoder::new(Arc::clone(bundle.model()), Arc::clone(&engine), bytes).with_context(|| {
        format!("put the model and {} MiB of user states on {}", bytes >> 20, engine.device().info())
    })?;
    // Beside the GPU's own memory, and no reason to do without the GPU.
    let host = match encoder.set_host_tier(room.host) {
        Ok(()) => encoder.host_tier().map_or_else(String::new, |tier| {
            format!("; {} MiB of host memory beside it, {:.1} GB/s", tier.bytes >> 20, tier.rate / 1e9)
        }),
        Err(error) if error.lost() => return Err(error).context("set host memory aside for user states"),
        Err(error) => {
            tracing::warn!(%error, mib = room.host >> 20, "no host memory is set aside for user states (model.host_cache_mib)");
            String::new()
        }
    };
    // Kernels that compute something else on this device would bid, too: it proves itself before it serves.
    let checked =
        bundle.self_check_on_device(&mut encoder).context("the GPU does not compute what the model should")?;
    let checked = match checked {
        Some(report) => format!("self-check passed, error {:.1e} of {:.1e}", report.error_max(), report.tolerance),
        None => "no self-check".to_owned(),
    };
    let path = format!("cuda ({}, {:?} kernels; {checked}{host})", engine.device().info(), engine.form());
    Ok(Some(Made { encoder, path }))
}

#[cfg(not(feature = "cuda"))]
struct Made;

#[cfg(not(feature = "cuda"))]
impl Made {
    fn with(self, cpu: CpuEncoder) -> Built {
        let state_format = cpu.format();
        Built { encoder: Path::Cpu(Box::new(cpu)), path: String::new(), gpu: Gpu::default(), state_format }
    }
}

#[cfg(not(feature = "cuda"))]
#[expect(clippy::unnecessary_wraps, reason = "the form of builds with the GPU path")]
fn gpu(_: &Bundle, _: Room) -> anyhow::Result<Option<Made>> {
    Ok(None)
}
