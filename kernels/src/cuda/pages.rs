//! Pages of K/V in device memory.

use std::sync::Arc;

use super::ffi::{Buffer, Device};
use super::params::{GROUP_WIDTH, PAGE_ROWS, TensorMap};
use super::{CudaError, Region};

/// Heads as the kernels see them: padded to 32, 64 or 128 columns, and to whole groups of 128 columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Heads, padded.
    pub heads: usize,
    /// Columns of one head, padded.
    pub head_dim: usize,
}

impl HeadShape {
    /// The padded shape of `heads` heads whose widest part has `width` columns.
    ///
    /// # Errors
    /// [`CudaError::Shape`] above 128 columns.
    pub fn new(heads: usize, width: usize) -> Result<Self, CudaError> {
        let head_dim = match width {
            1..=32 => 32,
            33..=64 => 64,
            65..=128 => 128,
            found => return Err(CudaError::Shape { what: "width of a head", found, limit: "1 to 128" }),
        };
        Ok(Self { heads: heads.next_multiple_of(GROUP_WIDTH / head_dim), head_dim })
    }

    /// Columns of each of u, v, q and k.
    #[must_use]
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Groups of heads that one work item handles.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.width() / GROUP_WIDTH
    }
}

/// K/V of many users: for each page and layer K and then V of every head, 64 rows each, and the rows' times.
#[derive(Debug)]
pub struct PageStore {
    pub(super) pool: Buffer<u16>,
    pub(super) times: Buffer<i64>,
    pub(super) map: TensorMap,
    pub(super) shape: HeadShape,
    layers: usize,
    pages: usize,
}

impl PageStore {
    /// Memory for `pages` pages, zeroed.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &Arc<Device>, shape: HeadShape, layers: usize, pages: usize) -> Result<Self, CudaError> {
        let stride = Self::stride_of(shape, layers);
        // The copy engine counts rows in 32 bits.
        let rows = pages * stride / shape.head_dim;
        if rows >= 1 << 31 || pages >= 1 << 25 {
            return Err(CudaError::Shape { what: "pages of K/V", found: pages, limit: "fewer than 2^31 rows in all" });
        }
        let pool = device.alloc::<u16>(pages * stride)?;
        let times = device.alloc::<i64>(pages * PAGE_ROWS)?;
        let box_columns = if shape.head_dim == 32 { 32 } else { 64 };
        let dims = (rows as u64, shape.head_dim as u64, shape.head_dim as u64);
        let map = device.tensor_map(pool.region().address, dims, box_columns)?;
        Ok(Self { pool, times, map, shape, layers, pages })
    }

    fn stride_of(shape: HeadShape, layers: usize) -> usize {
        2 * layers * PAGE_ROWS * shape.width()
    }

    /// Bytes of one page.
    #[must_use]
    pub fn page_bytes(shape: HeadShape, layers: usize) -> usize {
        2 * Self::stride_of(shape, layers) + 8 * PAGE_ROWS
    }

    /// Pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Heads.
    #[must_use]
    pub fn shape(&self) -> HeadShape {
        self.shape
    }

    /// Numbers of one page, which lie together: page `i` begins at `i` times as many.
    #[must_use]
    pub fn page_numbers(&self) -> usize {
        self.stride()
    }

    pub(super) fn stride(&self) -> usize {
        Self::stride_of(self.shape, self.layers)
    }

    pub(super) fn layer_offset(&self, layer: usize) -> usize {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        2 * layer * PAGE_ROWS * self.shape.width()
    }

    /// From K to V of one layer.
    pub(super) fn v_offset(&self) -> usize {
        PAGE_ROWS * self.shape.width()
    }

    /// All K and V, to be copied page by page, or filled in checks.
    #[must_use]
    pub fn numbers(&self) -> &Buffer<u16> {
        &self.pool
    }

    /// All times, to fill in checks.
    #[must_use]
    pub fn times(&self) -> Region<'_, i64> {
        self.times.region()
    }

    /// The buffer of all times.
    #[must_use]
    pub fn times_buffer(&self) -> &Buffer<i64> {
        &self.times
    }
}
