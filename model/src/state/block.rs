//! One block of a user's state: the events of up to 256 rows and their K/V in every layer.

use longbow_kernels::{KernelError, KvBlock, KvFormat, KvLayout, Line, MatrixRef, Shape};

use crate::config::Config;

/// Most rows of a block.
pub(crate) const BLOCK_ROWS: usize = 256;
/// Rows of the smallest block: most users have short histories.
const BLOCK_ROWS_MIN: usize = 16;

/// How K/V rows are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) heads: Shape,
    pub(crate) format: KvFormat,
}

impl KvShape {
    pub(crate) fn new(config: &Config, format: KvFormat) -> Self {
        let heads = Shape { heads: config.num_heads, d_qk: config.attention_dim, d_v: config.linear_dim };
        Self { layers: config.num_blocks, heads, format }
    }
}

/// Capacity of a block for `rows` rows: grows by doubling, so that appends copy little.
pub(crate) fn capacity_for(rows: usize) -> usize {
    rows.next_power_of_two().clamp(BLOCK_ROWS_MIN, BLOCK_ROWS)
}

/// `kv` holds the panels of one layer after the other.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    layers: usize,
    layout: KvLayout,
    capacity: usize,
    kv: Box<[Line]>,
    items: Vec<u32>,
    actions: Vec<u16>,
    times: Vec<i64>,
}

impl Block {
    pub(crate) fn new(shape: KvShape, capacity: usize) -> Self {
        let layout = KvLayout::new(shape.heads, shape.format, capacity);
        let kv = vec![Line::default(); layout.lines(capacity) * shape.layers].into_boxed_slice();
        Self {
            layers: shape.layers,
            layout,
            capacity,
            kv,
            items: Vec::with_capacity(capacity),
            actions: Vec::with_capacity(capacity),
            times: Vec::with_capacity(capacity),
        }
    }

    /// A block of one row: the last event of a request.
    pub(crate) fn single(shape: KvShape, time: i64) -> Self {
        let mut block = Self::new(shape, 1);
        block.times.push(time);
        block
    }

    /// A copy of the first `rows` rows with room for `capacity`.
    pub(crate) fn grown(&self, rows: usize, capacity: usize) -> Self {
        let shape = KvShape { layers: self.layers, heads: self.layout.shape(), format: self.layout.format() };
        let mut copy = Self::new(shape, capacity);
        let layout = copy.layout;
        for layer in 0..self.layers {
            layout.copy_from(copy.layer_mut(layer), (&self.layout, self.layer(layer)), rows);
        }
        copy.set_events(0, &self.items[..rows], &self.actions[..rows], &self.times[..rows]);
        copy
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.kv.len() * size_of::<Line>() + self.capacity * (4 + 2 + 8)
    }

    pub(crate) fn times(&self) -> &[i64] {
        &self.times
    }

    /// Replaces the events from row `first` on.
    pub(crate) fn set_events(&mut self, first: usize, items: &[u32], actions: &[u16], times: &[i64]) {
        self.items.truncate(first);
        self.items.extend_from_slice(items);
        self.actions.truncate(first);
        self.actions.extend_from_slice(actions);
        self.times.truncate(first);
        self.times.extend_from_slice(times);
    }

    /// Length of the common beginning of these events and the block's.
    pub(crate) fn events_shared(&self, items: &[u32], actions: &[u16], times: &[i64]) -> usize {
        let len = items.len().min(self.items.len());
        let whole = items[..len] == self.items[..len]
            && actions[..len] == self.actions[..len]
            && times[..len] == self.times[..len];
        if whole {
            return len;
        }
        let differs =
            |&i: &usize| items[i] != self.items[i] || actions[i] != self.actions[i] || times[i] != self.times[i];
        (0..len).find(differs).unwrap_or(len)
    }

    fn layer(&self, layer: usize) -> &[Line] {
        let lines = self.kv.len() / self.layers.max(1);
        &self.kv[layer * lines..(layer + 1) * lines]
    }

    fn layer_mut(&mut self, layer: usize) -> &mut [Line] {
        let lines = self.kv.len() / self.layers.max(1);
        &mut self.kv[layer * lines..(layer + 1) * lines]
    }

    /// Writes rows of one layer from row `first` on.
    pub(crate) fn write(&mut self, layer: usize, first: usize, k: MatrixRef<'_>, v: MatrixRef<'_>) {
        let layout = self.layout;
        layout.write(self.layer_mut(layer), first, k, v);
    }

    /// The first `rows` keys of one layer.
    pub(crate) fn keys(&self, layer: usize, rows: usize) -> Result<KvBlock<'_>, KernelError> {
        KvBlock::new(self.layout, self.layer(layer), rows, &self.times[..rows])
    }
}
