//! The item table: the model's own rows and, after them, rows of items that appeared while serving.

use std::sync::Arc;

use crate::config::ITEMS_MAX;
use crate::model::Model;
use crate::spec;

/// Rows of one appended chunk: what a snapshot holder costs the next append at most.
pub(crate) const CHUNK_ROWS: usize = 1024;

/// Why an item was not added.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ItemError {
    /// The content vector has another width than the model takes.
    #[error("the content vector has {found} numbers, but this model takes {expected}")]
    Width {
        /// Width the model takes.
        expected: usize,
        /// Width given.
        found: usize,
    },
    /// A number of the content vector is NaN or infinite, or too large for its embedding to be finite.
    #[error("element {index} of the content vector or of its embedding is not finite")]
    NotFinite {
        /// Place of the number.
        index: usize,
    },
    /// The table has [`ITEMS_MAX`] rows.
    #[error("the item table is full: {limit} rows")]
    Full {
        /// The limit.
        limit: usize,
    },
}

/// Embeddings by item slot; slot 0 is the padding row, never an item.
///
/// Rows are only ever added, so a state computed from an older snapshot stays right. `clone` takes a snapshot
/// at the price of two reference counts; a later append leaves it as it was.
#[derive(Debug, Clone)]
pub struct ItemTable {
    dim: usize,
    epsilon: f32,
    base: Arc<[f32]>,
    base_rows: usize,
    chunks: Arc<Vec<Arc<Vec<f32>>>>,
    rows: usize,
    /// `[content, dim]`: transposed, so that a row is built by adding up scaled rows.
    projection: Option<Arc<[f32]>>,
    content_dim: usize,
}

impl ItemTable {
    /// The model's rows.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let base = model.weight(spec::ITEM_EMB);
        let dim = model.config().item_embedding_dim;
        let content_dim = model.content_dim();
        let projection = model.tensor(spec::CONTENT_PROJ).map(|t| transpose(&t.data, dim, content_dim).into());
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon of 1e-6 needs no more than f32")]
        let epsilon = model.config().epsilon as f32;
        Self {
            dim,
            epsilon,
            base: Arc::clone(&base.data),
            base_rows: base.shape[0],
            chunks: Arc::default(),
            rows: base.shape[0],
            projection,
            content_dim,
        }
    }

    /// The model's rows.
    #[cfg(feature = "cuda")]
    pub(crate) fn base(&self) -> &Arc<[f32]> {
        &self.base
    }

    /// The rows after the model's, in chunks of [`CHUNK_ROWS`].
    #[cfg(feature = "cuda")]
    pub(crate) fn chunks(&self) -> &Arc<Vec<Arc<Vec<f32>>>> {
        &self.chunks
    }

    /// Width of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rows, the padding row included: every slot is below this.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Width of the content vector that [`ItemTable::append`] takes.
    #[must_use]
    pub fn content_dim(&self) -> usize {
        self.content_dim
    }

    /// The embedding of `slot`, or nothing where the table has no such row.
    #[must_use]
    pub fn row(&self, slot: u32) -> Option<&[f32]> {
        let slot = slot as usize;
        if slot < self.base_rows {
            return self.base.get(slot * self.dim..(slot + 1) * self.dim);
        }
        let at = slot - self.base_rows;
        let chunk = self.chunks.get(at / CHUNK_ROWS)?;
        let first = at % CHUNK_ROWS * self.dim;
        chunk.get(first..first + self.dim)
    }

    /// Writes the L2-normalised embedding of `slot` to `out` (length [`ItemTable::dim`]): what the retrieval
    /// index holds, so that its inner product with a query is the cosine. False where there is no such row.
    pub fn normalised(&self, slot: u32, out: &mut [f32]) -> bool {
        match self.row(slot) {
            Some(row) if out.len() == row.len() => {
                out.copy_from_slice(row);
                l2_normalise(out, self.epsilon);
                true
            }
            _ => false,
        }
    }

    /// Adds an item by its content vector ([`ItemTable::content_dim`] numbers) and gives its slot. Vectors are
    /// expected at about unit length where the model has a projection.
    ///
    /// # Errors
    /// [`ItemError`]; the table is then as before.
    pub fn append(&mut self, content: &[f32]) -> Result<u32, ItemError> {
        if content.len() != self.content_dim {
            return Err(ItemError::Width { expected: self.content_dim, found: content.len() });
        }
        let full = ItemError::Full { limit: ITEMS_MAX };
        if self.rows >= ITEMS_MAX {
            return Err(full);
        }
        let slot = u32::try_from(self.rows).map_err(|_| full)?;
        let row = self.embed(content)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_ROWS * self.dim => Arc::make_mut(chunk).extend_from_slice(&row),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_ROWS * self.dim);
                chunk.extend_from_slice(&row);
                chunks.push(Arc::new(chunk));
            }
        }
        self.rows += 1;
        Ok(slot)
    }

    /// The embedding of a content vector.
    pub(crate) fn embed(&self, content: &[f32]) -> Result<Vec<f32>, ItemError> {
        let row = match &self.projection {
            None => content.to_vec(),
            Some(projection) => {
                let mut row = vec![0.0; self.dim];
                for (weights, &x) in projection.chunks_exact(self.dim).zip(content) {
                    row.iter_mut().zip(weights).for_each(|(sum, w)| *sum += w * x);
                }
                row
            }
        };
        match row.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(ItemError::NotFinite { index }),
            None => Ok(row),
        }
    }
}

/// `rows x cols`, row-major, to `cols x rows`.
pub(crate) fn transpose(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect()
}

/// Scales a vector to length 1; one shorter than `epsilon` is divided by `epsilon` instead.
pub(crate) fn l2_normalise(row: &mut [f32], epsilon: f32) {
    let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let factor = 1.0 / norm.max(f64::from(epsilon));
    #[expect(clippy::cast_possible_truncation, reason = "the result is an f32 by definition")]
    row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
}
