//! One block of a user's state: the events of up to 256 rows and their K/V in every layer.

use longbow_kernels::{KernelError, KvBlock, MatrixRef};

use crate::config::Config;

/// Most rows of a block.
pub(crate) const BLOCK_ROWS: usize = 256;
/// Rows of the smallest block: most users have short histories.
const BLOCK_ROWS_MIN: usize = 16;

/// Widths of a K/V row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) k_width: usize,
    pub(crate) v_width: usize,
}

impl KvShape {
    pub(crate) fn new(config: &Config) -> Self {
        Self { layers: config.num_blocks, k_width: config.k_width(), v_width: config.v_width() }
    }

    fn layer_width(self) -> usize {
        self.k_width + self.v_width
    }
}

/// Capacity of a block for `rows` rows: grows by doubling, so that appends copy little.
pub(crate) fn capacity_for(rows: usize) -> usize {
    rows.next_power_of_two().clamp(BLOCK_ROWS_MIN, BLOCK_ROWS)
}

/// Layout of `kv`: for each layer all K rows, then all V rows.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    shape: KvShape,
    capacity: usize,
    kv: Box<[f32]>,
    items: Vec<u32>,
    actions: Vec<u16>,
    times: Vec<i64>,
}

impl Block {
    pub(crate) fn new(shape: KvShape, capacity: usize) -> Self {
        let kv = vec![0.0; capacity * shape.layers * shape.layer_width()].into_boxed_slice();
        Self {
            shape,
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
        let mut copy = Self::new(self.shape, capacity);
        for layer in 0..self.shape.layers {
            let (k_to, v_to) = copy.offsets(layer);
            let (k, v) = self.offsets(layer);
            let (k_len, v_len) = (rows * self.shape.k_width, rows * self.shape.v_width);
            copy.kv[k_to..k_to + k_len].copy_from_slice(&self.kv[k..k + k_len]);
            copy.kv[v_to..v_to + v_len].copy_from_slice(&self.kv[v..v + v_len]);
        }
        copy.set_events(0, &self.items[..rows], &self.actions[..rows], &self.times[..rows]);
        copy
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.kv.len() * 4 + self.capacity * (4 + 2 + 8)
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

    fn offsets(&self, layer: usize) -> (usize, usize) {
        let k = layer * self.capacity * self.shape.layer_width();
        (k, k + self.capacity * self.shape.k_width)
    }

    /// Writes rows of one layer from row `first` on.
    pub(crate) fn write(&mut self, layer: usize, first: usize, k: MatrixRef<'_>, v: MatrixRef<'_>) {
        let (k_at, v_at) = self.offsets(layer);
        let (k_width, v_width) = (self.shape.k_width, self.shape.v_width);
        for row in 0..k.rows() {
            let at = first + row;
            self.kv[k_at + at * k_width..][..k_width].copy_from_slice(k.row(row));
            self.kv[v_at + at * v_width..][..v_width].copy_from_slice(v.row(row));
        }
    }

    /// The first `rows` keys of one layer.
    pub(crate) fn keys(&self, layer: usize, rows: usize) -> Result<KvBlock<'_>, KernelError> {
        let (k, v) = self.offsets(layer);
        Ok(KvBlock {
            k: MatrixRef::dense(&self.kv[k..v], rows, self.shape.k_width)?,
            v: MatrixRef::dense(&self.kv[v..], rows, self.shape.v_width)?,
            times: &self.times[..rows],
        })
    }
}
