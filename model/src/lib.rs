//! The HSTU encoder: weights, two encoders, heads and the user-state cache.
//!
//! | where | what |
//! | --- | --- |
//! | [`config`], [`spec`] | shapes of a model; public tensor names |
//! | [`Model`], [`load`] | a validated safetensors file |
//! | [`ItemTable`] | embeddings by item slot, appended to while serving |
//! | [`Window`], [`window_start`] | the part of a history that the model sees |
//! | [`Encoder`] | advance a user's state, finish the last row, score candidates |
//! | [`CpuEncoder`] | the fast path on [`longbow_kernels`] |
//! | `CudaEncoder` | the same on a GPU (feature `cuda`) |
//! | [`ReferenceEncoder`] | the same equations on candle in f64, to be read and compared with |
//! | [`UserState`], [`StateCache`] | K/V of rows that can no longer change, and a cache of them |
//! | [`bundle`], [`Bundle`] | a model as it is delivered: weights, features, calibration and a self-check |
//! | [`golden`] | checks an encoder against a file of the golden form |
//!
//! Invariants: cached and uncached encoding agree to rounding; a job's result does not depend, by a single bit,
//! on the other jobs of its call; a file is never half trusted: names, shapes and numbers hold, or it is refused.

pub mod bundle;
mod cache;
pub mod config;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod encoder;
pub mod golden;
mod items;
pub mod load;
mod model;
mod reference;
mod seeded;
pub mod spec;
mod state;
mod window;

pub use bundle::Bundle;
pub use cache::{CacheStats, StateCache, StateKey};
pub use config::{Config, ConfigError, Flavour, StuConfig};
pub use cpu::{CpuEncoder, CpuStuEncoder, Stage, StageClock};
pub use encoder::{Advance, EncodeError, Encoder, Finish, HostTier, Score, Scores};
pub use items::{ItemError, ItemTable};
pub use load::{LoadError, Tensor};
pub use model::{Model, StuModel, Version};
pub use reference::{ReferenceEncoder, ReferenceHistory, ReferenceStuEncoder};
pub use seeded::Seed;
pub use state::{Encoded, UserState};
pub use window::{Window, window_start};
