//! A GPU while it works, then the CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longbow_kernels::Engine;

use super::CudaEncoder;
use crate::config::Config;
use crate::cpu::CpuEncoder;
use crate::encoder::{Advance, EncodeError, Encoder, Finish, HostTier, Score, Scores};
use crate::model::Version;
use crate::state::{Encoded, UserState};

/// How the device does; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct DeviceHealth {
    lost: AtomicBool,
    faults: AtomicU64,
}

impl DeviceHealth {
    /// Whether the device is lost: work goes on on the CPU, and the process should end after it has drained.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Calls that failed on the device.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Notes a call that failed, by whoever made it, and whether every later one will.
    pub fn note(&self, lost: bool) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        if lost {
            self.lost.store(true, Ordering::Release);
        }
    }
}

/// Runs on the GPU. A call that fails there fails for its jobs; once the context is poisoned, further calls run on the
/// CPU, slower but right: states of the lost device count as empty, and histories encoded on it are refused.
#[derive(Debug)]
pub struct FallbackEncoder {
    gpu: Option<CudaEncoder>,
    cpu: CpuEncoder,
    health: Arc<DeviceHealth>,
}

impl FallbackEncoder {
    /// Both encoders must be of one model.
    #[must_use]
    pub fn new(gpu: CudaEncoder, cpu: CpuEncoder) -> Self {
        Self { gpu: Some(gpu), cpu, health: Arc::default() }
    }

    /// The same with its work on the CPU done by `engine`.
    #[must_use]
    pub fn on(self, engine: Arc<Engine>) -> Self {
        Self { cpu: self.cpu.on(engine), ..self }
    }

    /// How the device does.
    #[must_use]
    pub fn health(&self) -> Arc<DeviceHealth> {
        Arc::clone(&self.health)
    }

    /// Notes what a call on the device gave.
    fn note<T>(&mut self, result: Result<T, EncodeError>) -> Result<T, EncodeError> {
        let lost = self.gpu.as_ref().is_some_and(CudaEncoder::lost);
        if matches!(result, Err(EncodeError::Kernel(_))) {
            self.health.note(lost);
        }
        if lost {
            // Freeing memory of a poisoned context fails, quietly; pages that states still hold keep the pool.
            self.gpu = None;
        }
        result
    }

    /// The GPU, unless it is lost: somebody else who uses it may have found that out.
    fn gpu(&mut self) -> Option<&mut CudaEncoder> {
        if self.health.lost()
            && let Some(gpu) = self.gpu.take()
        {
            gpu.lose();
        }
        self.gpu.as_mut()
    }
}

impl Encoder for FallbackEncoder {
    fn config(&self) -> &Config {
        self.cpu.config()
    }

    fn version(&self) -> Version {
        self.cpu.version()
    }

    fn new_state(&self) -> UserState {
        self.gpu.as_ref().map_or_else(|| self.cpu.new_state(), Encoder::new_state)
    }

    fn advance(&mut self, jobs: &mut [Advance<'_>]) -> Result<(), EncodeError> {
        if let Some(gpu) = self.gpu() {
            let result = gpu.advance(jobs);
            return self.note(result);
        }
        for job in jobs.iter_mut().filter(|job| job.state.device.is_some()) {
            if job.state.version() == self.cpu.version() {
                *job.state = self.cpu.new_state();
            }
        }
        self.cpu.advance(jobs)
    }

    fn finish(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError> {
        if let Some(gpu) = self.gpu() {
            let result = gpu.finish(jobs);
            return self.note(result);
        }
        // A window of one event needs no rows before it, so a state of the lost device would pass.
        let blank = self.cpu.new_state();
        let jobs: Vec<Finish<'_>> = jobs
            .iter()
            .map(|job| if job.state.device.is_some() { Finish { state: &blank, ..*job } } else { *job })
            .collect();
        self.cpu.finish(&jobs)
    }

    fn score(&mut self, jobs: &[Score<'_>]) -> Result<Vec<Scores>, EncodeError> {
        if let Some(gpu) = self.gpu() {
            let result = gpu.score(jobs);
            return self.note(result);
        }
        self.cpu.score(jobs)
    }
    fn host_tier(&self) -> Option<HostTier> {
        self.gpu.as_ref().and_then(Encoder::host_tier)
    }

    fn park(&mut self, state: &mut UserState) -> bool {
        let Some(gpu) = self.gpu() else { return false };
        let result = gpu.park_pages(state);
        self.note(result).unwrap_or(false)
    }

    fn unpark(&mut self, state: &mut UserState) -> Result<(), EncodeError> {
        let Some(gpu) = self.gpu() else { return Err(EncodeError::Kernel("the GPU is lost".to_owned())) };
        let result = gpu.unpark(state);
        self.note(result)
    }
}
