//! What one pass has for itself: page-locked memory for its lists, where these lie on the device, and its results.

use std::sync::Arc;

use longbow_kernels::cuda::{
    Buffer, CudaError, Device, Mark, PageCopy, Pinned, Plain, Plan, Region, Sums, Work, bytes_of,
};

use super::pass::{Batch, Key};

/// What a pass has for itself: its lists on the host and on the device, and its results.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) lists: Pinned<u8>,
    pub(super) staged: Buffer<u8>,
    pub(super) results: Pinned<f32>,
    /// The lists are on the device.
    pub(super) arrived: Mark,
    /// The pass is over and its results are here.
    pub(super) over: Mark,
}

impl Stage {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        Ok(Self {
            lists: device.pinned(1 << 16)?,
            staged: device.alloc(1 << 16)?,
            results: device.pinned(0)?,
            arrived: device.mark()?,
            over: device.mark()?,
        })
    }

    /// Makes room; true where the device's memory moved.
    pub(super) fn room(&mut self, device: &Arc<Device>, bytes: usize, results: usize) -> Result<bool, CudaError> {
        if self.lists.as_slice().len() < bytes {
            self.lists = device.pinned(bytes.next_power_of_two())?;
        }
        if self.results.as_slice().len() < results {
            self.results = device.pinned(results.next_power_of_two())?;
        }
        let moved = room(device, &mut self.staged, bytes)?;
        if moved {
            // New memory is cleared in the stream of the work, of which uploads know nothing.
            device.synchronize()?;
        }
        Ok(moved)
    }
}

/// Where each staged list begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub(super) at: [usize; 10],
    pub(super) bytes: usize,
}

impl Layout {
    /// Room for the lists of a pass.
    pub(super) fn of(batch: &Batch, plan: &Plan) -> Self {
        let rows = batch.items.len();
        let (tables, copies, work) = (batch.tables.len(), batch.copies.len(), plan.work.len());
        Self::new([
            4 * rows,
            2 * rows,
            4 * rows,
            4 * rows,
            8 * rows,
            8 * rows,
            4 * tables,
            16 * copies,
            32 * work,
            16 * rows,
        ])
    }

    /// Room for lists of these byte lengths; the lengths are rounded up so that similar passes share a layout.
    fn new(lens: [usize; 10]) -> Self {
        let mut layout = Self::default();
        for (at, len) in layout.at.iter_mut().zip(lens) {
            *at = layout.bytes;
            layout.bytes += len.next_multiple_of(4096).max(4096);
        }
        layout
    }
}

/// The lists of a pass on the device.
pub(super) struct Staged<'a> {
    pub(super) items: Region<'a, u32>,
    pub(super) actions: Region<'a, u16>,
    pub(super) positions: Region<'a, i32>,
    pub(super) slots: Region<'a, i32>,
    pub(super) times: Region<'a, i64>,
    pub(super) next_times: Region<'a, i64>,
    pub(super) tables: Region<'a, i32>,
    pub(super) copies: Region<'a, PageCopy>,
    pub(super) work: Region<'a, Work>,
    pub(super) sums: Region<'a, Sums>,
}

/// Makes a buffer at least `len` long; true where it moved.
pub(super) fn room<T: Plain>(device: &Arc<Device>, buffer: &mut Buffer<T>, len: usize) -> Result<bool, CudaError> {
    if buffer.len() >= len {
        return Ok(false);
    }
    // The old memory goes first: both together may not fit.
    *buffer = device.alloc(0)?;
    *buffer = device.alloc(len.next_power_of_two())?;
    Ok(true)
}

/// Writes the lists of a pass.
pub(super) fn write(to: &mut [u8], layout: &Layout, batch: &Batch, plan: &Plan) {
    let lists = [
        bytes_of(&batch.items),
        bytes_of(&batch.actions),
        bytes_of(&batch.positions),
        bytes_of(&batch.slots),
        bytes_of(&batch.times),
        bytes_of(&batch.next_times),
        bytes_of(&batch.tables),
        bytes_of(&batch.copies),
        bytes_of(&plan.work),
        bytes_of(&plan.sums),
    ];
    for (at, list) in layout.at.iter().zip(lists) {
        to[*at..*at + list.len()].copy_from_slice(list);
    }
}

/// The lists of a pass where they lie on the device.
pub(super) fn staged<'a>(from: &'a Buffer<u8>, layout: &Layout, key: Key, rows: usize) -> Staged<'a> {
    let at = layout.at;
    Staged {
        items: from.part(at[0], rows),
        actions: from.part(at[1], rows),
        positions: from.part(at[2], rows),
        slots: from.part(at[3], rows),
        times: from.part(at[4], rows),
        next_times: from.part(at[5], rows),
        tables: from.part(at[6], key.tables / 4),
        copies: from.part(at[7], key.copies),
        work: from.part(at[8], key.work),
        sums: from.part(at[9], rows),
    }
}
