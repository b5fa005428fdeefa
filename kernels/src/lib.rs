//! HSTU attention and the dense layers around it, on a CPU and, with the feature `cuda`, on a GPU (`cuda`).
//!
//! The attention of "Actions Speak Louder than Words" (ICML 2024): pointwise SiLU instead of softmax, with a time and
//! position bias that is computed inside the kernel. No `N x N` matrix exists anywhere: memory is `O(N)`.
//!
//! * [`Engine`] runs everything: it picks the instruction set ([`Isa`]) at run time and owns a thread pool.
//! * [`CausalSeq`] is a piece of history, whole or appended to cached keys; [`CandidateSeq`] is a set of rows that each
//!   see the whole history and themselves.
//! * [`KvLayout`] and [`KvPanels`] say how keys and values are kept, in f32 or bfloat16 ([`KvFormat`]): ready to be multiplied.
//! * [`reference`](mod@reference) holds the same sums in f64, written to be read.
//! * [`time_bucket`] is the bucket of a time difference, exactly as the public f32 formula gives it.
//!
//! A sequence's result depends on nothing but that sequence: not on what else is in the call, nor on the number of
//! threads, bit for bit. Other cuts of the keys into [`KvBlock`]s and other instruction sets agree to rounding.

mod bucket;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dense;
mod engine;
mod error;
mod ffi;
mod matrix;
mod packed;
mod panel;
mod portable;
mod problem;
pub mod reference;
mod tile;

pub use bucket::{BUCKETS, bucket_edges, time_bucket};
pub use dense::{Affine, LayerNorm, Linear};
pub use engine::{Engine, Isa, recycle};
pub use error::KernelError;
pub use matrix::{MatrixMut, MatrixRef};
pub use packed::PackedMatrix;
pub use panel::{KvBlock, KvFormat, KvLayout, KvPanels, Line, PANEL_KEYS, from_bf16, to_bf16};
pub use problem::{Bias, CandidateSeq, CausalSeq, MAX_HEAD_DIM, Scoring, Shape};
