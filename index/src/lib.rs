//! Item retrieval: the best `k` items by inner product among those that are eligible, over a set of items that changes while it is
//! searched.
//!
//! - [`Bitmap`]: eligibility by item slot.
//! - [`Retriever`]: what every index answers; [`ExactRetriever`] is the plain one over fixed items.
//! - [`LiveIndex`]: items come and go while searches run; exact, or FAISS inverted lists with whole or product-quantised vectors.
//! - [`recall_report`]: what an approximate kind finds of the truth.
//!
//! The rule that holds everywhere: under any filter exactly `min(k, eligible items alive)` hits come back, each eligible, each under the
//! exact inner product with the L2-normalised item vector. Only *which* items are found may be approximate.

mod bitmap;
mod codes;
mod cpu;
mod error;
mod exact;
mod ffi;
mod frozen;
mod lists;
mod live;
mod options;
mod persist;
mod plan;
mod query;
mod recall;
mod rows;
mod scan;
mod sieve;
mod topk;
mod tune;

pub use bitmap::Bitmap;
pub use cpu::cpu_supported;
pub use error::IndexError;
pub use exact::ExactRetriever;
pub use ffi::{blas_core, lower_thread_priority};
pub use live::{Applied, Change, LiveIndex, Stats};
pub use options::{DIM_MAX, IndexOptions};
pub use query::{Hits, K_MAX, Kind, Query, Retriever};
pub use recall::{NamedFilter, RecallLine, RecallReport, recall_report};
pub use rows::unit;

/// The largest item slot that an index takes unless told otherwise: the tables by slot then stay below 300 MB.
pub const SLOTS_MAX: u32 = (1 << 26) - 1;
