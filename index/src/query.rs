//! What every index answers: queries in, hits out.

use crate::{Bitmap, IndexError};

/// The most results one query may ask for.
pub const K_MAX: usize = 16_384;

/// One search.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The vector, one entry for each dimension of the index, finite. Give it L2-normalised and scores are cosines.
    pub vector: &'a [f32],
    /// How many results, at most [`K_MAX`]; 0 gives none.
    pub k: usize,
    /// The item slots that may be returned; `None` lets all items through.
    pub eligible: Option<&'a Bitmap>,
}

/// The answer to one [`Query`]: exactly `min(k, eligible items alive)` of them, sorted by score descending, then slot ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hits {
    /// Item slots.
    pub slots: Vec<u32>,
    /// Inner products with the L2-normalised item vectors, beside `slots`.
    pub scores: Vec<f32>,
}

impl Hits {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when nothing was eligible.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The share of `exact`'s slots that these hits have too; 1 when `exact` is empty.
    #[must_use]
    pub fn recall_against(&self, exact: &Self) -> f32 {
        if exact.is_empty() {
            return 1.0;
        }
        let found: Bitmap = self.slots.iter().copied().collect();
        let common = exact.slots.iter().filter(|&&slot| found.get(slot)).count();
        #[expect(clippy::cast_precision_loss, reason = "at most K_MAX hits")]
        let share = common as f32 / exact.len() as f32;
        share
    }
}

/// How an index searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// Every eligible vector is scored: recall 1.
    Exact,
    /// Inverted lists of whole vectors (FAISS `IVF{nlist},Flat`).
    IvfFlat {
        /// Inverted lists; 0 picks twice the square root of the item count.
        nlist: u32,
    },
    /// Inverted lists of 4-bit product-quantised codes scanned in registers (FAISS `IVF{nlist},PQ{m}x4fs`); more candidates than asked
    /// for are fetched and re-ranked by their exact scores.
    IvfPq {
        /// Inverted lists; 0 picks twice the square root of the item count.
        nlist: u32,
        /// Code parts; divides the dimension. Half the dimension is a good start.
        m: u32,
    },
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lists = |nlist: u32| if nlist == 0 { "auto".to_owned() } else { nlist.to_string() };
        match self {
            Self::Exact => write!(f, "exact"),
            Self::IvfFlat { nlist } => write!(f, "ivf({}),flat", lists(*nlist)),
            Self::IvfPq { nlist, m } => write!(f, "ivf({}),pq{m}x4fs", lists(*nlist)),
        }
    }
}

/// A searchable set of items. A result depends on the query, the items and the effort of the time, never on the other queries of the
/// call.
pub trait Retriever: Send + Sync {
    /// Answers each query, in order, from one consistent state of the items.
    ///
    /// # Errors
    /// [`IndexError::Dimension`], [`IndexError::Vector`] or [`IndexError::TooMany`] for a bad query; [`IndexError::Faiss`].
    fn search(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError>;

    /// The same by scoring every eligible item: the truth that recall is measured against.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    fn search_exact(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError>;

    /// The recall of `query`: searched both ways in one state of the items, so that a change between the two does not count.
    /// An index may take it in and search harder, or less, from then on.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    fn recall_of(&self, query: &Query<'_>) -> Result<f32, IndexError>;

    /// Items alive.
    fn len(&self) -> usize;

    /// True without items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of each vector.
    fn dim(&self) -> usize;

    /// How it searches.
    fn kind(&self) -> Kind;
}

/// Refuses a query that the index cannot answer; `index` is its place in the call.
pub(crate) fn check_query(index: usize, query: &Query<'_>, dim: usize) -> Result<(), IndexError> {
    if query.vector.len() != dim {
        return Err(IndexError::Dimension { what: format!("query {index}"), expected: dim, found: query.vector.len() });
    }
    if query.k > K_MAX {
        return Err(IndexError::TooMany { k: query.k, max: K_MAX });
    }
    if !query.vector.iter().all(|x| x.is_finite()) {
        return Err(IndexError::Vector { what: format!("query {index}"), fault: "an entry is not finite" });
    }
    Ok(())
}
