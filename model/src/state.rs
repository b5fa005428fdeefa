//! What is kept of a user between requests: K and V of the rows that can no longer change.
//!
//! Row i of a history depends on the time of event i + 1. So of n events rows 0 to n-2 are *final* and kept;
//! the last row is computed for each request, whose time stands in for the next event's.

mod block;

use std::sync::Arc;

pub(crate) use block::{BLOCK_ROWS, Block, KvShape};
#[cfg(feature = "cuda")]
use longbow_kernels::Shape;
use longbow_kernels::{KernelError, KvBlock, KvFormat, MatrixRef};

use crate::config::Config;
use crate::model::Version;
use crate::window::Window;

/// The final rows of one user. Rows live in blocks of 256 behind `Arc`: a request in flight holds the blocks it
/// reads, and an append copies only the last block, and that only where it is so held.
///
/// The state keeps the events of its rows, so what it holds for a window is *verified*: event by event, and the
/// next time of the last row. A changed past (late events, another window start) is found and recomputed.
#[derive(Debug, Clone)]
pub struct UserState {
    version: Version,
    shape: KvShape,
    blocks: Vec<Arc<Block>>,
    rows: usize,
    /// The next time that the last row was computed with.
    next_time: i64,
    /// K/V of the rows where they are kept on a GPU; the blocks then hold the events alone.
    #[cfg(feature = "cuda")]
    pub(crate) device: Option<crate::cuda::DevicePages>,
}

impl UserState {
    /// A state without rows, to be kept in f32.
    #[must_use]
    pub fn new(config: &Config, version: Version) -> Self {
        Self::with_format(config, version, KvFormat::F32)
    }

    /// A state without rows, to be kept in `format`. Bfloat16 takes half the memory and changes scores by about 1%.
    #[must_use]
    pub fn with_format(config: &Config, version: Version, format: KvFormat) -> Self {
        Self::of_shape(version, KvShape::new(config, format))
    }

    fn of_shape(version: Version, shape: KvShape) -> Self {
        Self {
            version,
            shape,
            blocks: Vec::new(),
            rows: 0,
            next_time: 0,
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// A state without rows that keeps its K/V in pages of a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(version: Version, pages: crate::cuda::DevicePages) -> Self {
        let nothing = KvShape { layers: 0, heads: Shape { heads: 0, d_qk: 0, d_v: 0 }, format: KvFormat::F32 };
        Self { device: Some(pages), ..Self::of_shape(version, nothing) }
    }

    /// Version of the model that the rows are of.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Final rows held.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = self.blocks.iter().map(|block| block.bytes() + size_of::<Arc<Block>>()).sum::<usize>();
        #[cfg(feature = "cuda")]
        let held = held + self.device.as_ref().map_or(0, crate::cuda::DevicePages::bytes);
        size_of::<Self>() + held
    }

    /// Bytes of K/V on a device, or parked beside it; 0 for a state in the memory of the CPU.
    #[must_use]
    pub fn device_bytes(&self) -> usize {
        #[cfg(feature = "cuda")]
        return self.device.as_ref().map_or(0, crate::cuda::DevicePages::bytes);
        #[cfg(not(feature = "cuda"))]
        0
    }

    /// Rows of this state, from the first, that are right for `window`: same events and same next times.
    /// Never more than the window's own final rows (its length less one).
    #[must_use]
    pub fn rows_valid(&self, window: &Window<'_>) -> usize {
        // What a lost device held is gone.
        #[cfg(feature = "cuda")]
        if self.device.as_ref().is_some_and(crate::cuda::DevicePages::lost) {
            return 0;
        }
        let wanted = window.len().saturating_sub(1);
        let events = self.events_shared(&window.first(wanted.min(self.rows)));
        if events == 0 {
            return 0;
        }
        // All rows but the last shared one have their next time among the shared events.
        let next_known = if events < self.rows { self.time(events) } else { self.next_time };
        if window.times[events] == next_known { events } else { events - 1 }
    }

    /// Rows that [`crate::Encoder::advance`] still has to compute before the window's last row can be: what a
    /// batch planner reckons with.
    #[must_use]
    pub fn rows_missing(&self, window: &Window<'_>) -> usize {
        window.len().saturating_sub(1) - self.rows_valid(window)
    }

    /// Length of the beginning that `window` and this state have in common.
    fn events_shared(&self, window: &Window<'_>) -> usize {
        let mut at = 0;
        for block in &self.blocks {
            let end = (at + BLOCK_ROWS).min(window.len());
            if at >= end {
                break;
            }
            let shared = block.events_shared(&window.items[at..end], &window.actions[at..end], &window.times[at..end]);
            at += shared;
            if at < end {
                break;
            }
        }
        at
    }

    fn time(&self, row: usize) -> i64 {
        self.blocks[row / BLOCK_ROWS].times()[row % BLOCK_ROWS]
    }

    /// Forgets all rows from `rows` on.
    pub(crate) fn truncate(&mut self, rows: usize) {
        if rows < self.rows {
            self.next_time = self.time(rows);
            self.rows = rows;
            self.blocks.truncate(rows.div_ceil(BLOCK_ROWS));
            #[cfg(feature = "cuda")]
            if let Some(pages) = &mut self.device {
                pages.truncate(rows);
            }
        }
    }

    /// Makes room for the events `rows()..end` of `window` and writes them down; K/V follow by
    /// [`UserState::write`], and [`UserState::commit`] makes them count.
    pub(crate) fn reserve(&mut self, window: &Window<'_>, end: usize) {
        let mut at = self.rows;
        while at < end {
            let (index, first) = (at / BLOCK_ROWS, at % BLOCK_ROWS);
            let until = (at - first + BLOCK_ROWS).min(end);
            let capacity = block::capacity_for(until - at + first);
            // A block that a request in flight reads is copied, not changed under it.
            let fits =
                self.blocks.get_mut(index).map(|b| Arc::get_mut(b).is_some_and(|own| own.capacity() >= capacity));
            match fits {
                Some(true) => {}
                Some(false) => {
                    let old = &self.blocks[index];
                    let copy = old.grown(first, capacity.max(old.capacity()));
                    self.blocks[index] = Arc::new(copy);
                }
                None => self.blocks.push(Arc::new(Block::new(self.shape, capacity))),
            }
            if let Some(block) = Arc::get_mut(&mut self.blocks[index]) {
                let range = at..until;
                block.set_events(
                    first,
                    &window.items[range.clone()],
                    &window.actions[range.clone()],
                    &window.times[range],
                );
            }
            at = until;
        }
    }

    /// Writes K and V of layer `layer` for rows `first..first + k.rows()`, which have been reserved.
    pub(crate) fn write(&mut self, layer: usize, first: usize, k: MatrixRef<'_>, v: MatrixRef<'_>) {
        let mut done = 0;
        while done < k.rows() {
            let at = first + done;
            let count = (BLOCK_ROWS - at % BLOCK_ROWS).min(k.rows() - done);
            if let Some(block) = self.blocks.get_mut(at / BLOCK_ROWS).and_then(Arc::get_mut) {
                block.write(layer, at % BLOCK_ROWS, k.rows_at(done, count), v.rows_at(done, count));
            }
            done += count;
        }
    }

    /// Counts rows `0..rows` as held; `next_time` is what the last of them was computed with.
    pub(crate) fn commit(&mut self, rows: usize, next_time: i64) {
        self.rows = rows;
        self.next_time = next_time;
    }

    /// Adds the first `rows` keys of layer `layer` to `out`; they may be reserved rows too.
    pub(crate) fn keys<'s>(&'s self, layer: usize, rows: usize, out: &mut Vec<KvBlock<'s>>) -> Result<(), KernelError> {
        keys(&self.blocks, layer, rows, out)
    }

    /// The blocks of the first `rows` rows.
    pub(crate) fn share(&self, rows: usize) -> Vec<Arc<Block>> {
        self.blocks[..rows.div_ceil(BLOCK_ROWS)].to_vec()
    }

    pub(crate) fn shape(&self) -> KvShape {
        self.shape
    }
}

fn keys<'s>(
    blocks: &'s [Arc<Block>],
    layer: usize,
    rows: usize,
    out: &mut Vec<KvBlock<'s>>,
) -> Result<(), KernelError> {
    for (index, block) in blocks.iter().enumerate().take(rows.div_ceil(BLOCK_ROWS)) {
        out.push(block.keys(layer, (rows - index * BLOCK_ROWS).min(BLOCK_ROWS))?);
    }
    Ok(())
}

/// A history encoded for one request: what candidates attend to. It holds its blocks, so the user's state may
/// change or be evicted meanwhile.
#[derive(Debug)]
pub struct Encoded {
    pub(crate) version: Version,
    pub(crate) blocks: Vec<Arc<Block>>,
    /// Rows of `blocks` that count: all events but the last.
    pub(crate) rows: usize,
    /// K/V of the last event; absent for an empty history.
    pub(crate) tail: Option<Block>,
    pub(crate) query_time: i64,
    pub(crate) query: Vec<f32>,
    /// Pages of all events where they are kept on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) device: Option<crate::cuda::DevicePages>,
}

impl Encoded {
    /// The retrieval query: `item_embedding_dim` numbers of L2 norm 1. Nothing for an empty history, which has
    /// no last row.
    #[must_use]
    pub fn query(&self) -> Option<&[f32]> {
        self.tail.as_ref().map(|_| self.query.as_slice())
    }

    /// Events encoded; candidates stand at this position.
    #[must_use]
    pub fn events(&self) -> usize {
        self.rows + usize::from(self.tail.is_some())
    }

    /// Time of the request, seconds.
    #[must_use]
    pub fn query_time(&self) -> i64 {
        self.query_time
    }

    /// Version of the model that encoded it.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// All keys of layer `layer`.
    pub(crate) fn keys<'s>(&'s self, layer: usize, out: &mut Vec<KvBlock<'s>>) -> Result<(), KernelError> {
        keys(&self.blocks, layer, self.rows, out)?;
        if let Some(tail) = &self.tail {
            out.push(tail.keys(layer, 1)?);
        }
        Ok(())
    }
}
