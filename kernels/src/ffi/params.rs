//! The structs of `cpu/params.h`, field by field.

use crate::panel::Line;

/// `LongbowKvBlock` of `cpu/params.h`.
#[repr(C)]
pub(super) struct KvBlock {
    pub(super) panels: *const Line,
    pub(super) times: *const i64,
    pub(super) rows: i64,
    pub(super) panel_keys: i64,
}

/// `LongbowAttention` of `cpu/params.h`.
#[repr(C)]
pub(super) struct Params {
    pub(super) size: u64,
    pub(super) heads: i64,
    pub(super) d_qk: i64,
    pub(super) d_v: i64,
    pub(super) rows: i64,
    pub(super) q: *const f32,
    pub(super) q_stride: i64,
    pub(super) next_times: *const i64,
    pub(super) next_step: i64,
    pub(super) first_position: i64,
    pub(super) causal: i64,
    pub(super) key_begin: i64,
    pub(super) key_end: i64,
    pub(super) blocks: *const KvBlock,
    pub(super) block_count: i64,
    pub(super) format: i64,
    pub(super) pos_w: *const f32,
    pub(super) ts_w: *const f32,
    pub(super) edges: *const i64,
    pub(super) max_len: i64,
    pub(super) own_k: *const f32,
    pub(super) own_k_stride: i64,
    pub(super) own_v: *const f32,
    pub(super) own_v_stride: i64,
    pub(super) out: *mut f32,
    pub(super) out_stride: i64,
    pub(super) scratch: *mut f32,
    pub(super) scratch_floats: u64,
    pub(super) alpha: f32,
    pub(super) scale: f32,
}

/// `LongbowProduct` of `cpu/params.h`.
#[repr(C)]
pub(super) struct ProductParams {
    pub(super) size: u64,
    pub(super) rows: i64,
    pub(super) inner: i64,
    pub(super) cols: i64,
    pub(super) a: *const f32,
    pub(super) a_stride: i64,
    pub(super) b: *const Line,
    pub(super) bias: *const f32,
    pub(super) c: *mut f32,
    pub(super) c_stride: i64,
    pub(super) accumulate: i64,
}

/// `LongbowNorm` of `cpu/params.h`.
#[repr(C)]
pub(super) struct NormParams {
    pub(super) size: u64,
    pub(super) rows: i64,
    pub(super) cols: i64,
    pub(super) x: *const f32,
    pub(super) x_stride: i64,
    pub(super) weight: *const f32,
    pub(super) bias: *const f32,
    pub(super) gate: *const f32,
    pub(super) gate_stride: i64,
    pub(super) out: *mut f32,
    pub(super) out_stride: i64,
    pub(super) epsilon: f32,
    pub(super) unused: f32,
}

pub(super) const PARAMS_SIZE: usize = 232;
pub(super) const PRODUCT_SIZE: usize = 88;
pub(super) const NORM_SIZE: usize = 96;
const _: () = assert!(size_of::<KvBlock>() == 32, "as in cpu/params.h");
const _: () = assert!(size_of::<Params>() == PARAMS_SIZE, "as in cpu/params.h");
const _: () = assert!(size_of::<ProductParams>() == PRODUCT_SIZE, "as in cpu/params.h");
const _: () = assert!(size_of::<NormParams>() == NORM_SIZE, "as in cpu/params.h");
