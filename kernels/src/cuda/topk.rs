//! Exact top-k on the device.

use std::sync::Arc;

use super::CudaError;
use super::engine::{CudaEngine, SHARED_TOP};
use super::ffi::{Buffer, Device, Region, arg};
use super::params;

/// Most results of a query.
pub const K_MAX: usize = 1024;
/// Widest vectors.
pub(super) const DIM_MAX: usize = 1024;
/// Bins of one pass.
const BINS: usize = 2048;

/// Vectors, row after row, as the device holds them.
#[derive(Debug, Clone, Copy)]
pub enum Vectors<'a> {
    /// `[rows, dim]` bf16.
    Bf16(Region<'a, u16>),
    /// `[rows, dim]` int8, and what 1 stands for in each row.
    Int8 {
        /// The numbers, -127 to 127.
        numbers: Region<'a, i8>,
        /// `[rows]`.
        scales: Region<'a, f32>,
    },
}

impl Vectors<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bf16(numbers) => numbers.len,
            Self::Int8 { numbers, .. } => numbers.len,
        }
    }

    /// Numbers in the 16 bytes that a lane reads at once.
    fn piece(&self) -> usize {
        match self {
            Self::Bf16(_) => 8,
            Self::Int8 { .. } => 16,
        }
    }

    /// The kernel for vectors of `pieces` pieces.
    fn kernel(&self, pieces: usize) -> &'static str {
        match (self, pieces) {
            (Self::Bf16(_), 0..=32) => "longbow_top_scores_1",
            (Self::Bf16(_), 33..=64) => "longbow_top_scores_2",
            (Self::Bf16(_), _) => "longbow_top_scores_4",
            (Self::Int8 { .. }, 0..=32) => "longbow_top_bytes_1",
            (Self::Int8 { .. }, _) => "longbow_top_bytes_2",
        }
    }
}

/// A search for the `k` best vectors by inner product, ties by the smaller row.
#[derive(Debug, Clone, Copy)]
pub struct TopK<'a> {
    /// What is searched.
    pub vectors: Vectors<'a>,
    /// Width of a vector: a multiple of 8, or of 16 for int8, at most 1,024.
    pub dim: usize,
    /// `[queries, dim]`.
    pub queries: Region<'a, f32>,
    /// Bit r: row r may be found; none: all may.
    pub eligible: Option<Region<'a, u64>>,
    /// Words from the bitmap of one query to that of the next; 0: all queries share one.
    pub eligible_words: usize,
    /// Results of a query, 1 to 1,024.
    pub k: usize,
}

impl TopK<'_> {
    /// Rows and queries, where everything fits together; `room`: results that there is room for.
    fn check(&self, scratch: &TopKScratch, room: usize) -> Result<(usize, usize), CudaError> {
        let fits = |what, found, ok, limit| if ok { Ok(()) } else { Err(CudaError::Shape { what, found, limit }) };
        let wide = self.dim > 0 && self.dim <= DIM_MAX && self.dim.is_multiple_of(self.vectors.piece());
        fits("width of vectors", self.dim, wide, "a multiple of 8, or of 16 for int8, up to 1,024")?;
        fits("k", self.k, (1..=K_MAX).contains(&self.k), "1 to 1,024")?;
        let (rows, queries) = (self.vectors.len() / self.dim, self.queries.len / self.dim);
        fits("vectors", rows, rows > 0 && rows <= scratch.rows, "1 to what the scratch was made for")?;
        fits("queries", queries, queries > 0 && queries <= scratch.queries, "1 to what the scratch was made for")?;
        fits("room for results", room, room >= queries * self.k, "queries * k")?;
        if let Some(bits) = &self.eligible {
            let enough = bits.len >= (queries - 1) * self.eligible_words + rows.div_ceil(64);
            fits("words of the bitmaps", bits.len, enough, "one bit for each vector, query by query")?;
        }
        if let Vectors::Int8 { scales, .. } = &self.vectors {
            fits("scales", scales.len, scales.len >= rows, "one for each vector")?;
        }
        Ok((rows, queries))
    }
}

/// Memory of searches over up to `rows` vectors.
#[derive(Debug)]
pub struct TopKScratch {
    keys: Buffer<u32>,
    counts: Buffer<u32>,
    ties: Buffer<u32>,
    taken: Buffer<u32>,
    found: Buffer<u64>,
    rows: usize,
    queries: usize,
    blocks: usize,
}

impl TopKScratch {
    /// Memory for `queries` queries over `rows` vectors at once.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &Arc<Device>, rows: usize, queries: usize) -> Result<Self, CudaError> {
        let blocks = 2 * usize::try_from(device.info().multiprocessors).unwrap_or(1);
        Ok(Self {
            keys: device.alloc(rows * queries)?,
            counts: device.alloc(3 * BINS * queries)?,
            ties: device.alloc(blocks * queries)?,
            taken: device.alloc(queries)?,
            found: device.alloc(K_MAX * queries)?,
            rows,
            queries,
            blocks,
        })
    }
}

impl CudaEngine {
    /// Runs a search: rows (`u32::MAX` past the end) and scores, `[queries, k]`.
    ///
    /// # Errors
    /// [`CudaError::Shape`], or [`CudaError`] of the launches.
    pub fn top_k(
        &self,
        t: &TopK<'_>,
        scratch: &TopKScratch,
        out: (Region<'_, u32>, Region<'_, f32>),
    ) -> Result<(), CudaError> {
        let (rows, queries) = t.check(scratch, out.0.len.min(out.1.len))?;
        let (vectors, scales) = match &t.vectors {
            Vectors::Bf16(numbers) => (numbers.address, 0),
            Vectors::Int8 { numbers, scales } => (numbers.address, scales.address),
        };
        let block_rows = rows.div_ceil(scratch.blocks);
        let p = params::TopK {
            vectors,
            scales,
            queries: t.queries.address,
            eligible: t.eligible.map_or(0, |bits| bits.address),
            keys: scratch.keys.region().address,
            counts: scratch.counts.region().address,
            ties: scratch.ties.region().address,
            taken: scratch.taken.region().address,
            found: scratch.found.region().address,
            out_rows: out.0.address,
            out_scores: out.1.address,
            rows: i64::try_from(rows).unwrap_or(i64::MAX),
            eligible_words: i64::try_from(t.eligible_words).unwrap_or(0),
            dim: i32::try_from(t.dim).unwrap_or(0),
            k: i32::try_from(t.k).unwrap_or(0),
            block_rows: i32::try_from(block_rows).unwrap_or(i32::MAX),
            reserved: 0,
        };
        let device = self.device();
        device.fill(&scratch.counts, 3 * BINS * queries, 0)?;
        device.fill(&scratch.taken, queries, 0)?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let grid = (count(rows.div_ceil(block_rows)), count(queries));
        let pieces = t.dim / t.vectors.piece();
        let lanes = i32::try_from(pieces.next_power_of_two().min(32)).unwrap_or(32);
        let scores = self.function(t.vectors.kernel(pieces))?;
        device.launch(scores, grid, (512, SHARED_TOP), &[arg(&p), arg(&lanes)])?;
        let narrow = self.function("longbow_top_narrow")?;
        for pass in 1_i32..=3 {
            device.launch(narrow, grid, (512, SHARED_TOP), &[arg(&p), arg(&pass)])?;
        }
        device.launch(self.function("longbow_top_gather")?, grid, (512, SHARED_TOP), &[arg(&p)])?;
        device.launch(self.function("longbow_top_sort")?, (count(queries), 1), (512, 8192), &[arg(&p)])
    }

    /// Puts vectors in the place of those of `rows`, none of which is listed twice.
    ///
    /// # Errors
    /// [`CudaError::Shape`], or [`CudaError`] of the launch.
    pub(super) fn put_rows(&self, p: &PutRows<'_>) -> Result<(), CudaError> {
        let fits = |what, found, ok, limit| if ok { Ok(()) } else { Err(CudaError::Shape { what, found, limit }) };
        let count = p.rows.len;
        fits("bytes of a row", p.row_bytes, p.row_bytes.is_multiple_of(16), "a multiple of 16")?;
        fits("new numbers", p.numbers.len, p.numbers.len >= count * p.row_bytes, "as many as the rows")?;
        let params = params::PutRows {
            rows: p.rows.address,
            numbers: p.numbers.address,
            new_scales: p.scales.map_or(0, |(new, _)| new.address),
            vectors: p.vectors.address,
            scales: p.scales.map_or(0, |(_, all)| all.address),
            count: i32::try_from(count).unwrap_or(i32::MAX),
            row_bytes: i32::try_from(p.row_bytes).unwrap_or(0),
        };
        let blocks = u32::try_from(count.div_ceil(8)).unwrap_or(u32::MAX);
        self.device().launch(self.function("longbow_put_rows")?, (blocks, 1), (256, 0), &[arg(&params)])
    }
}

/// New vectors, staged on the device; the caller holds the rows to what `vectors` has.
pub(super) struct PutRows<'a> {
    pub(super) rows: Region<'a, u32>,
    /// `[rows, row_bytes]`.
    pub(super) numbers: Region<'a, u8>,
    pub(super) row_bytes: usize,
    pub(super) vectors: Region<'a, u8>,
    /// New ones and all of them.
    pub(super) scales: Option<(Region<'a, f32>, Region<'a, f32>)>,
}
