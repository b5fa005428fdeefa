//! The item table in device memory.

use std::sync::Arc;

use longbow_kernels::cuda::{Buffer, CudaError, Device, Region};

use crate::items::{CHUNK_ROWS, ItemTable};

/// A copy of an item table: the model's rows, then the chunks of rows that were added. What was copied is held here, so
/// an unchanged part is known by its address, and is not copied again.
#[derive(Debug, Default)]
pub(super) struct ItemMirror {
    rows: Option<Buffer<f32>>,
    base: Option<Arc<[f32]>>,
    chunks: Vec<Arc<Vec<f32>>>,
}

impl ItemMirror {
    /// Brings the copy up to `table`; true where it has moved in memory.
    pub(super) fn follow(&mut self, device: &Arc<Device>, table: &ItemTable) -> Result<bool, CudaError> {
        let (base, chunks) = (table.base(), table.chunks());
        let needed = base.len() + chunks.len() * CHUNK_ROWS * table.dim();
        let fits = self.rows.as_ref().is_some_and(|rows| rows.len() >= needed);
        let same_base = self.base.as_ref().is_some_and(|held| Arc::ptr_eq(held, base));
        if !fits || !same_base {
            // The old copy goes first: both together may not fit.
            *self = Self::default();
            let chunk = CHUNK_ROWS * table.dim();
            let room = if chunks.is_empty() { needed + chunk } else { needed + needed / 4 + chunk };
            let rows = device.alloc(room)?;
            device.upload_slice(&rows, 0, base)?;
            *self = Self { rows: Some(rows), base: Some(Arc::clone(base)), chunks: Vec::new() };
        }
        let Some(rows) = &self.rows else { return Ok(true) };
        for (at, chunk) in chunks.iter().enumerate() {
            if self.chunks.get(at).is_some_and(|held| Arc::ptr_eq(held, chunk)) {
                continue;
            }
            device.upload_slice(rows, base.len() + at * CHUNK_ROWS * table.dim(), chunk)?;
            self.chunks.truncate(at);
            self.chunks.push(Arc::clone(chunk));
        }
        Ok(!fits || !same_base)
    }

    /// All rows; `follow` comes first.
    pub(super) fn region(&self) -> Region<'_, f32> {
        self.rows.as_ref().map_or_else(Region::none, Buffer::region)
    }
}

/// Whether two tables hold the same rows, as far as addresses tell.
pub(super) fn same(a: &ItemTable, b: &ItemTable) -> bool {
    Arc::ptr_eq(a.base(), b.base()) && Arc::ptr_eq(a.chunks(), b.chunks())
}
