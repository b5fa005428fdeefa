//! Exact search of items that come and go: vectors in device memory by row, with what a search needs beside them.

use std::sync::Arc;

use super::engine::CudaEngine;
use super::ffi::{Buffer, Pinned, bytes_of};
use super::topk::{DIM_MAX, K_MAX, PutRows, TopK, TopKScratch, Vectors};
use super::{CudaError, bf16, from_bf16};

/// Queries of one launch; each reads all vectors, and takes 4 bytes of scratch a row.
const TOGETHER: usize = 8;
/// Rows that are put at once.
const PUT_ROWS: usize = 4096;
/// Rows of the least memory.
const ROWS_MIN: usize = 1024;

/// How vectors are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// bf16: a number errs by up to 2^-9 of itself.
    Bf16,
    /// int8 with a scale for each vector: a number errs by up to 1/254 of the vector's largest. Half the memory and time.
    Int8,
}

impl Precision {
    /// Numbers of a row: `dim` and the padding, which is zero.
    fn width(self, dim: usize) -> usize {
        match self {
            Self::Bf16 => dim.next_multiple_of(8),
            Self::Int8 => dim.next_multiple_of(16),
        }
    }

    fn number_bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }

    fn row_bytes(self, dim: usize) -> usize {
        self.width(dim) * self.number_bytes()
    }

    /// Writes a vector as it is kept; the scale of the row.
    #[expect(clippy::cast_possible_truncation, reason = "rounded to -127..=127")]
    fn write(self, vector: &[f32], to: &mut [u8]) -> f32 {
        match self {
            Self::Bf16 => {
                for (to, &x) in to.chunks_exact_mut(2).zip(vector) {
                    to.copy_from_slice(&bf16(x).to_le_bytes());
                }
                1.0
            }
            Self::Int8 => {
                let most = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let each = if most > 0.0 { 127.0 / most } else { 0.0 };
                for (to, &x) in to.iter_mut().zip(vector) {
                    *to = ((x * each).round() as i8).cast_unsigned();
                }
                most / 127.0
            }
        }
    }

    /// A vector as a search sees it.
    #[must_use]
    pub fn rounded(self, vector: &[f32]) -> Vec<f32> {
        let mut kept = vec![0_u8; vector.len() * self.number_bytes()];
        let scale = self.write(vector, &mut kept);
        match self {
            Self::Bf16 => kept.chunks_exact(2).map(|x| from_bf16(u16::from_le_bytes([x[0], x[1]]))).collect(),
            Self::Int8 => kept.iter().map(|&x| f32::from(x.cast_signed()) * scale).collect(),
        }
    }
}

/// One query.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// `[dim]`, finite.
    pub vector: &'a [f32],
    /// Results wanted, at most [`K_MAX`]; 0 gives none.
    pub k: usize,
    /// Bit r % 64 of word r / 64: row r may be found; rows past the end may not. None: all may.
    pub eligible: Option<&'a [u64]>,
}

/// A row that was found, and its score as the device computed it.
pub type RowScore = (u32, f32);

/// Items on one device, by row. All work runs on a stream of its own.
#[derive(Debug)]
pub struct ItemSearch {
    engine: CudaEngine,
    precision: Precision,
    dim: usize,
    memory: Memory,
    /// Rows that hold an item.
    alive: Vec<u64>,
    stage: Pinned<u8>,
    staged: Buffer<u8>,
    found: Buffer<u32>,
    results: Pinned<u32>,
}

/// What grows with the rows.
#[derive(Debug)]
struct Memory {
    numbers: Buffer<u8>,
    scales: Buffer<f32>,
    scratch: TopKScratch,
    rows: usize,
}

impl Memory {
    fn new(engine: &CudaEngine, precision: Precision, dim: usize, rows: usize) -> Result<Self, CudaError> {
        let device = engine.device();
        Ok(Self {
            numbers: device.alloc(rows * precision.row_bytes(dim))?,
            scales: device.alloc(if precision == Precision::Int8 { rows } else { 0 })?,
            scratch: TopKScratch::new(device, rows, TOGETHER)?,
            rows,
        })
    }
}

/// Bytes of a part of the staging memory: whole sixteens, so that the next part begins on one.
fn sixteens(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

/// Rows, or scores, of `queries` queries: whole sixteens of bytes.
fn results_len(queries: usize, k: usize) -> usize {
    (queries * k).next_multiple_of(4)
}

impl ItemSearch {
    /// No items yet, with room for those of rows below `rows`; it grows by itself. The kernels are those of `engine`, on
    /// a stream of their own.
    ///
    /// # Errors
    /// [`CudaError::Shape`] for vectors wider than 1,024, [`CudaError::OutOfMemory`].
    pub fn new(engine: &CudaEngine, precision: Precision, dim: usize, rows: usize) -> Result<Self, CudaError> {
        if dim == 0 || dim > DIM_MAX {
            return Err(CudaError::Shape { what: "width of vectors", found: dim, limit: "1 to 1,024" });
        }
        let engine = engine.beside()?;
        let device = Arc::clone(engine.device());
        let memory = Memory::new(&engine, precision, dim, rows.max(ROWS_MIN))?;
        let (stage, staged) = (device.pinned(1 << 16)?, device.alloc(1 << 16)?);
        let (found, results) = (device.alloc(2 * TOGETHER * K_MAX)?, device.pinned(2 * TOGETHER * K_MAX)?);
        Ok(Self { engine, precision, dim, memory, alive: Vec::new(), stage, staged, found, results })
    }

    /// Entries of a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How vectors are kept.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of device memory that grow with the rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.rows * (self.row_bytes() + 4 + 4 * TOGETHER)
    }

    fn row_bytes(&self) -> usize {
        self.precision.row_bytes(self.dim)
    }

    /// Rows up to the last one that holds an item.
    fn used(&self) -> usize {
        let words = self.alive.iter().rposition(|&word| word != 0).map_or(0, |at| at + 1);
        words.checked_sub(1).map_or(0, |at| words * 64 - self.alive[at].leading_zeros() as usize)
    }

    /// Takes the item of `row` away: it is not found any more.
    pub fn remove(&mut self, row: u32) {
        if let Some(word) = self.alive.get_mut(row as usize / 64) {
            *word &= !(1 << (row % 64));
        }
    }

    /// Puts items at rows, over what they held; `vectors` holds `dim` finite numbers for each. A row that is listed twice
    /// gets the later one. They are found by every search after this; where it fails, some may be there.
    ///
    /// # Errors
    /// [`CudaError`], among them that there is no memory for more rows.
    pub fn put(&mut self, rows: &[u32], vectors: &[f32]) -> Result<(), CudaError> {
        if vectors.len() != rows.len() * self.dim {
            let limit = "as many numbers as the rows take";
            return Err(CudaError::Shape { what: "vectors", found: vectors.len(), limit });
        }
        let Some(&last) = rows.iter().max() else { return Ok(()) };
        self.grow(last as usize + 1)?;
        for (rows, vectors) in rows.chunks(PUT_ROWS).zip(vectors.chunks(PUT_ROWS * self.dim)) {
            if let Err(error) = self.put_some(rows, vectors) {
                let _ = self.engine.device().synchronize();
                return Err(error);
            }
            for &row in rows {
                let word = row as usize / 64;
                if word >= self.alive.len() {
                    self.alive.resize(word + 1, 0);
                }
                self.alive[word] |= 1 << (row % 64);
            }
        }
        Ok(())
    }

    fn put_some(&mut self, rows: &[u32], vectors: &[f32]) -> Result<(), CudaError> {
        // One writer for each row: the later of two that name the same one.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&at| (rows[at], at));
        order.dedup_by(|later, earlier| {
            let same = rows[*later] == rows[*earlier];
            if same {
                *earlier = *later;
            }
            same
        });
        let (count, row_bytes, precision, dim) = (order.len(), self.row_bytes(), self.precision, self.dim);
        let scales_at = sixteens(4 * count);
        let numbers_at = scales_at + sixteens(4 * count);
        let bytes = numbers_at + count * row_bytes;
        self.room(bytes)?;
        let stage = &mut self.stage.as_mut_slice()[..bytes];
        stage.fill(0);
        for (place, at) in order.into_iter().enumerate() {
            stage[4 * place..][..4].copy_from_slice(&rows[at].to_ne_bytes());
            let to = &mut stage[numbers_at + place * row_bytes..][..row_bytes];
            let scale = precision.write(&vectors[at * dim..][..dim], to);
            stage[scales_at + 4 * place..][..4].copy_from_slice(&scale.to_ne_bytes());
        }
        let device = self.engine.device();
        device.upload(&self.staged, &self.stage, bytes)?;
        let scales = (self.staged.part(scales_at, count), self.memory.scales.region());
        self.engine.put_rows(&PutRows {
            rows: self.staged.part(0, count),
            numbers: self.staged.part(numbers_at, count * row_bytes),
            row_bytes,
            vectors: self.memory.numbers.region(),
            scales: (precision == Precision::Int8).then_some(scales),
        })?;
        // The staging memory is free again.
        device.synchronize()
    }

    /// Room for `rows` rows; what was there moves.
    fn grow(&mut self, rows: usize) -> Result<(), CudaError> {
        if rows <= self.memory.rows {
            return Ok(());
        }
        let device = Arc::clone(self.engine.device());
        let memory = Memory::new(&self.engine, self.precision, self.dim, rows + rows / 4)?;
        device.copy(&self.memory.numbers, &memory.numbers, self.memory.numbers.len())?;
        device.copy(&self.memory.scales, &memory.scales, self.memory.scales.len())?;
        device.synchronize()?;
        self.memory = memory;
        Ok(())
    }

    /// Room for `bytes` bytes of staging.
    fn room(&mut self, bytes: usize) -> Result<(), CudaError> {
        if self.stage.as_slice().len() < bytes {
            let device = Arc::clone(self.engine.device());
            self.stage = device.pinned(bytes.next_power_of_two())?;
            self.staged = device.alloc(bytes.next_power_of_two())?;
        }
        Ok(())
    }

    /// The best rows of each query, best first: `min(k, eligible items)` of them, ties by the smaller row. Exact for the
    /// vectors as they are kept ([`Precision::rounded`]).
    ///
    /// # Errors
    /// [`CudaError`], among them [`CudaError::Shape`] for more results than [`K_MAX`].
    pub fn find(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Vec<RowScore>>, CudaError> {
        let mut found = Vec::with_capacity(asks.len());
        let used = self.used();
        for asks in asks.chunks(TOGETHER) {
            let k = asks.iter().map(|ask| ask.k).max().unwrap_or(0);
            if k > K_MAX {
                return Err(CudaError::Shape { what: "k", found: k, limit: "at most 1,024" });
            }
            if used == 0 || k == 0 {
                found.extend(asks.iter().map(|_| Vec::new()));
                continue;
            }
            let half = results_len(asks.len(), k);
            if let Err(error) = self.launch(asks, (used, k), half) {
                // The staging memory is written again by the next call: no copy of this one may be under way.
                let _ = self.engine.device().synchronize();
                return Err(error);
            }
            let (rows, scores) = self.results.as_slice().split_at(half);
            for (at, ask) in asks.iter().enumerate() {
                let range = at * k..at * k + ask.k;
                let pairs = rows[range.clone()].iter().zip(&scores[range]);
                let taken = pairs.take_while(|(row, _)| **row != u32::MAX);
                found.push(taken.map(|(&row, &score)| (row, f32::from_bits(score))).collect());
            }
        }
        Ok(found)
    }

    /// Runs queries over the first `used` rows; their results then lie in `results`.
    fn launch(&mut self, asks: &[Ask<'_>], (used, k): (usize, usize), half: usize) -> Result<(), CudaError> {
        let (width, words) = (self.precision.width(self.dim), used.div_ceil(64));
        let masks_at = sixteens(4 * width * asks.len());
        let bytes = masks_at + 8 * words * asks.len();
        self.room(bytes)?;
        let stage = &mut self.stage.as_mut_slice()[..bytes];
        stage[..masks_at].fill(0);
        for (at, ask) in asks.iter().enumerate() {
            if ask.vector.len() != self.dim {
                let limit = "what the items have";
                return Err(CudaError::Shape { what: "width of a query", found: ask.vector.len(), limit });
            }
            stage[4 * width * at..][..4 * self.dim].copy_from_slice(bytes_of(ask.vector));
            let to = stage[masks_at + 8 * words * at..][..8 * words].chunks_exact_mut(8);
            for (word, (to, alive)) in to.zip(&self.alive).enumerate() {
                let may = ask.eligible.map_or(u64::MAX, |eligible| eligible.get(word).copied().unwrap_or(0));
                to.copy_from_slice(&(may & alive).to_ne_bytes());
            }
        }
        let device = self.engine.device();
        device.upload(&self.staged, &self.stage, bytes)?;
        let vectors = match self.precision {
            Precision::Bf16 => Vectors::Bf16(self.memory.numbers.part(0, used * width)),
            Precision::Int8 => Vectors::Int8 {
                numbers: self.memory.numbers.part(0, used * width),
                scales: self.memory.scales.part(0, used),
            },
        };
        let search = TopK {
            vectors,
            dim: width,
            queries: self.staged.part(0, asks.len() * width),
            eligible: Some(self.staged.part(masks_at, asks.len() * words)),
            eligible_words: words,
            k,
        };
        self.engine.top_k(&search, &self.memory.scratch, (self.found.part(0, half), self.found.part(half, half)))?;
        device.download(&self.found, &mut self.results, 2 * half)?;
        device.synchronize()
    }
}
