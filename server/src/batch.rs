//! The device's queue: what runs next, when, and what is dropped.
//!
//! ```text
//! pipeline ── DeviceHandle ── bounded queue ── device thread: Planner ── Encoder
//!             answers at the deadline          seals late, slices, catches panics
//! ```
//!
//! [`plan`], [`cost`], [`ladder`], [`backlog`] (what is promised, so that an arriving request knows at once whether it can be served)
//! and `traffic` (how much background work may hold requests up) are pure. [`worker`] owns the thread, the encoder and the user-state cache; no lock
//! is held over compute, and the thread never waits for IO. [`handle`] is what the request path calls.

pub mod backlog;
pub mod cost;
mod execute;
pub mod handle;
pub mod ladder;
pub mod plan;
mod residency;
pub mod stats;
mod task;
mod traffic;
mod warm;
pub mod worker;

pub use backlog::{Claim, Ticket};
pub use handle::{DeviceError, DeviceHandle, EncodeReply, EncodeRequest, ScoreReply, ScoreRequest, UserWindow};
pub use ladder::Degrade;
pub use plan::Urgency;
pub(crate) use warm::Rehearsal;
pub use warm::WarmUp;
pub use worker::{Device, DeviceOptions, Health};
