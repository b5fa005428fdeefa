//! The structs of `cuda/params.h`, field by field; both sides assert the sizes. Addresses are device addresses.

/// Rows of one page of K/V.
pub const PAGE_ROWS: usize = 64;
/// Query rows of one work item of attention.
pub const TILE_ROWS: usize = 128;
/// Columns of the heads that one work item handles together.
pub const GROUP_WIDTH: usize = 128;
/// Cells of a time table.
pub(super) const CELLS: usize = 256;

/// A quarter octave of a time difference.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) edge: i64,
    pub(crate) low: f32,
    pub(crate) high: f32,
}

/// The time bias of one layer.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TimeBias {
    pub(crate) cells: [Cell; CELLS],
    pub(crate) edges: [i64; crate::BUCKETS + 2],
    pub(crate) weights: [f32; crate::BUCKETS + 2],
    pub(crate) buckets: [u8; CELLS],
}

/// Query rows of one job against a range of its keys, for one group of heads.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// First row in `q`.
    pub q_row: i32,
    /// 1 to [`TILE_ROWS`].
    pub rows: i32,
    /// Position of the first row.
    pub position: i32,
    /// A multiple of [`PAGE_ROWS`].
    pub key_begin: i32,
    /// Above `key_begin`.
    pub key_end: i32,
    /// First entry of the job's page table.
    pub table: i32,
    /// First row of the sums.
    pub out_row: i32,
    /// Group of heads.
    pub group: i32,
}

/// Attention.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Attend {
    pub(super) work: u64,
    pub(super) q: u64,
    pub(super) next_times: u64,
    pub(super) pool: u64,
    pub(super) times: u64,
    pub(super) tables: u64,
    pub(super) pos_w: u64,
    pub(super) time_bias: u64,
    pub(super) out: u64,
    pub(super) q_stride: i64,
    pub(super) out_stride: i64,
    pub(super) page_stride: i64,
    pub(super) layer_offset: i64,
    pub(super) v_offset: i64,
    pub(super) work_count: i32,
    pub(super) max_len: i32,
    pub(super) layer_rows: i32,
    pub(super) page_rows: i32,
    pub(super) v_rows: i32,
    pub(super) half_alpha: f32,
    pub(super) scale: f32,
    pub(super) reserved: i32,
}

/// Where the sums of one row lie.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// First row.
    pub first: i32,
    /// Rows between two ranges.
    pub stride: i32,
    /// Ranges.
    pub ranges: i32,
    /// 1: the row's own key and value are added.
    pub own: i32,
}

/// Embedding.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Embed {
    pub(super) items: u64,
    pub(super) actions: u64,
    pub(super) positions: u64,
    pub(super) slots: u64,
    pub(super) row_times: u64,
    pub(super) item_table: u64,
    pub(super) action_table: u64,
    pub(super) pos_table: u64,
    pub(super) x: u64,
    pub(super) times: u64,
    pub(super) rows: i32,
    pub(super) item_dim: i32,
    pub(super) action_dim: i32,
    pub(super) width: i32,
    pub(super) scale: f32,
    pub(super) reserved: i32,
}

/// A dense layer.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dense {
    pub(super) x: u64,
    pub(super) b: u64,
    pub(super) bias: u64,
    pub(super) packed: u64,
    pub(super) sums: u64,
    pub(super) rows_sums: u64,
    pub(super) item_table: u64,
    pub(super) items: u64,
    pub(super) out_packed: u64,
    pub(super) out: u64,
    pub(super) pool: u64,
    pub(super) slots: u64,
    pub(super) page_stride: i64,
    pub(super) layer_offset: i64,
    pub(super) v_offset: i64,
    pub(super) rows: i32,
    pub(super) n: i32,
    pub(super) k: i32,
    pub(super) k_true: i32,
    pub(super) block: i32,
    pub(super) block_true: i32,
    pub(super) x_stride: i32,
    pub(super) out_stride: i32,
    pub(super) width: i32,
    pub(super) head_dim: i32,
    pub(super) item_dim: i32,
    pub(super) tiles: i32,
    pub(super) epsilon: f32,
    pub(super) half_alpha: f32,
    pub(super) own_bias: f32,
    pub(super) scale: f32,
}

/// The end of the heads.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) hidden: u64,
    pub(super) norm: u64,
    pub(super) norm_bias: u64,
    pub(super) output: u64,
    pub(super) output_bias: u64,
    pub(super) probs: u64,
    pub(super) rows: i32,
    pub(super) hidden_dim: i32,
    pub(super) hidden_stride: i32,
    pub(super) tasks: i32,
}

/// Rows `0..rows` of page `from` to page `to`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Page copied from.
    pub from: i32,
    /// Page copied to.
    pub to: i32,
    /// Rows.
    pub rows: i32,
    /// 0.
    pub reserved: i32,
}

/// Top-k.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct TopK {
    pub(super) vectors: u64,
    pub(super) scales: u64,
    pub(super) queries: u64,
    pub(super) eligible: u64,
    pub(super) keys: u64,
    pub(super) counts: u64,
    pub(super) ties: u64,
    pub(super) taken: u64,
    pub(super) found: u64,
    pub(super) out_rows: u64,
    pub(super) out_scores: u64,
    pub(super) rows: i64,
    pub(super) eligible_words: i64,
    pub(super) dim: i32,
    pub(super) k: i32,
    pub(super) block_rows: i32,
    pub(super) reserved: i32,
}

/// Rows of vectors that change.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct PutRows {
    pub(super) rows: u64,
    pub(super) numbers: u64,
    pub(super) new_scales: u64,
    pub(super) vectors: u64,
    pub(super) scales: u64,
    pub(super) count: i32,
    pub(super) row_bytes: i32,
}

/// A matrix as the tensor copy engine sees it: opaque to us.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap {
    pub(super) opaque: [u64; 16],
}

const _: () = assert!(size_of::<Cell>() == 16);
const _: () = assert!(size_of::<TimeBias>() == 4096 + 1040 + 520 + 256);
const _: () = assert!(size_of::<Work>() == 32);
const _: () = assert!(size_of::<Attend>() == 144);
const _: () = assert!(size_of::<Sums>() == 16);
const _: () = assert!(size_of::<Embed>() == 104);
const _: () = assert!(size_of::<Dense>() == 184);
const _: () = assert!(size_of::<Heads>() == 64);
const _: () = assert!(size_of::<Copy>() == 16);
const _: () = assert!(size_of::<TopK>() == 120);
const _: () = assert!(size_of::<PutRows>() == 48);
const _: () = assert!(size_of::<TensorMap>() == 128);
