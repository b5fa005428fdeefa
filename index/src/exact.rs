//! The plain index: a fixed set of items, every eligible one scored.

use crate::frozen::{Frozen, arrange};
use crate::query::check_query;
use crate::rows::pad;
use crate::scan::{Scan, scan_frozen};
use crate::topk::TopK;
use crate::{Bitmap, Hits, IndexError, Kind, Query, Retriever, SLOTS_MAX};

/// Exact search over items that do not change: the truth in tests and recall reports, and enough for small catalogues.
///
/// ```
/// use longbow_index::{Bitmap, ExactRetriever, Query, Retriever};
///
/// let index = ExactRetriever::new(2, &[7, 3], &[1.0, 0.0, 0.0, 2.0])?;
/// let eligible: Bitmap = [3, 7].into_iter().collect();
/// let hits = index.search(&[Query { vector: &[0.6, 0.8], k: 1, eligible: Some(&eligible) }])?;
/// assert_eq!((hits[0].slots[0], hits[0].scores[0]), (3, 0.8));
/// # Ok::<(), longbow_index::IndexError>(())
/// ```
#[derive(Debug)]
pub struct ExactRetriever {
    frozen: Frozen,
    all: Bitmap,
}

impl ExactRetriever {
    /// From items: `vectors` holds `dim` entries for each slot, in the order of `slots`; they are L2-normalised here.
    ///
    /// # Errors
    /// [`IndexError::Options`] for a zero `dim`; [`IndexError::Dimension`], [`IndexError::Vector`], [`IndexError::DuplicateSlot`] or
    /// [`IndexError::SlotRange`] for bad items.
    pub fn new(dim: usize, slots: &[u32], vectors: &[f32]) -> Result<Self, IndexError> {
        if dim == 0 {
            return Err(IndexError::Options { field: "dim", fault: "must be at least 1".to_owned() });
        }
        let (rows, slots) = arrange(dim, slots, vectors, SLOTS_MAX)?;
        let frozen = Frozen::new(rows, slots, None);
        let all = frozen.all();
        Ok(Self { frozen, all })
    }
}

impl Retriever for ExactRetriever {
    fn search(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        let mut padded = Vec::with_capacity(queries.len());
        for (index, query) in queries.iter().enumerate() {
            check_query(index, query, self.dim())?;
            padded.push(pad(query.vector));
        }
        let mut tops: Vec<TopK> = queries.iter().map(|query| TopK::new(query.k)).collect();
        let mut scans: Vec<Scan<'_>> = tops
            .iter_mut()
            .zip(queries.iter().zip(&padded))
            .map(|(top, (query, padded))| {
                let mask = query.eligible.unwrap_or(&self.all);
                Scan { query: padded, mask, eligible: mask.count(), top }
            })
            .collect();
        scan_frozen(&self.frozen, &mut scans);
        Ok(tops.into_iter().map(TopK::into_hits).collect())
    }

    fn search_exact(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        self.search(queries)
    }

    fn recall_of(&self, query: &Query<'_>) -> Result<f32, IndexError> {
        check_query(0, query, self.dim()).map(|()| 1.0)
    }

    fn len(&self) -> usize {
        self.frozen.len()
    }

    fn dim(&self) -> usize {
        self.frozen.rows().dim()
    }

    fn kind(&self) -> Kind {
        Kind::Exact
    }
}
