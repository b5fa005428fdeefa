//! Exact top-k on the device.

use std::sync::Arc;

use super::CudaError;
use super::engine::{CudaEngine, SHARED_TOP};
use super::ffi::{Buffer, Device, Region, arg};
use super::params;

/// Most results of a query.
const K_MAX: usize = 1024;
/// Bins of one pass.
const BINS: usize = 2048;

/// A search for the `k` best vectors by inner product, ties by the smaller row.
#[derive(Debug, Clone, Copy)]
pub struct TopK<'a> {
    /// `[rows, dim]` bf16.
    pub vectors: Region<'a, u16>,
    /// Width of a vector: a multiple of 8, at most 1,024.
    pub dim: usize,
    /// `[queries, dim]`.
    pub queries: Region<'a, f32>,
    /// Bit r: row r may be found; none: all may.
    pub eligible: Option<Region<'a, u64>>,
    /// Results of a query, 1 to 1,024.
    pub k: usize,
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
        let fits = |what, found, ok, limit| if ok { Ok(()) } else { Err(CudaError::Shape { what, found, limit }) };
        fits(
            "width of vectors",
            t.dim,
            t.dim > 0 && t.dim <= 1024 && t.dim.is_multiple_of(8),
            "a multiple of 8 up to 1,024",
        )?;
        fits("k", t.k, (1..=K_MAX).contains(&t.k), "1 to 1,024")?;
        let (rows, queries) = (t.vectors.len / t.dim, t.queries.len / t.dim);
        fits("vectors", rows, rows > 0 && rows <= scratch.rows, "1 to what the scratch was made for")?;
        fits("queries", queries, queries > 0 && queries <= scratch.queries, "1 to what the scratch was made for")?;
        fits("room for results", out.0.len, out.0.len >= queries * t.k && out.1.len >= queries * t.k, "queries * k")?;
        if let Some(bits) = &t.eligible {
            fits("words of the bitmap", bits.len, bits.len * 64 >= rows, "one bit for each vector")?;
        }
        let block_rows = rows.div_ceil(scratch.blocks);
        let p = params::TopK {
            vectors: t.vectors.address,
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
        let pieces = t.dim / 8;
        let lanes = i32::try_from(pieces.next_power_of_two().min(32)).unwrap_or(32);
        let loads = match pieces {
            0..=32 => 1,
            33..=64 => 2,
            _ => 4,
        };
        let scores = self.function(&format!("longbow_top_scores_{loads}"))?;
        device.launch(scores, grid, (512, SHARED_TOP), &[arg(&p), arg(&lanes)])?;
        let narrow = self.function("longbow_top_narrow")?;
        for pass in 1_i32..=3 {
            device.launch(narrow, grid, (512, SHARED_TOP), &[arg(&p), arg(&pass)])?;
        }
        device.launch(self.function("longbow_top_gather")?, grid, (512, SHARED_TOP), &[arg(&p)])?;
        device.launch(self.function("longbow_top_sort")?, (count(queries), 1), (512, 8192), &[arg(&p)])
    }
}
