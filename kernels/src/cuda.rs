//! HSTU attention, the layers around it and exact top-k on an NVIDIA GPU (feature `cuda`).
//!
//! The driver is loaded at run time: a program with this feature starts without one, and [`probe`] says what there is.
//! Kernels are compiled by the build (`cuda/*.cu`). K/V live in pages of 64 rows ([`PageStore`]); a [`Plan`] cuts the
//! jobs of a call into work items, and [`CudaEngine`] runs them. bf16 in, f32 sums.

mod engine;
mod error;
mod ffi;
mod info;
mod launch;
mod pages;
mod params;
mod plan;
mod search;
mod table;
mod topk;

pub use crate::panel::{from_bf16, to_bf16 as bf16};
pub use engine::CudaEngine;
pub use error::CudaError;
pub use ffi::{Buffer, Device, Graph, Mark, MatrixProduct, Pinned, Plain, Region, bytes_of};
pub use info::{COMPILED_FOR, DRIVER_MIN, DeviceInfo, Form, Found, probe};
pub use launch::{Attention, Bias, DenseIn, Embedding, HeadsEnd, HeadsIn, Output, Project};
pub use pages::{HeadShape, PageStore};
pub use params::{Copy as PageCopy, GROUP_WIDTH, PAGE_ROWS, Sums, TILE_ROWS, TimeBias, Work};
pub use plan::{Plan, Rows};
pub use search::{Ask, ItemSearch, Precision, RowScore};
pub use table::time_bias;
pub use topk::{K_MAX, TopK, TopKScratch, Vectors};
