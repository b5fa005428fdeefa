//! Retrieval on the request path: one named thread owns the searches, the path asks it and gets an answer by the deadline.
//!
//! ```text
//! pipeline ── SearchHandle ── bounded queue ── thread "search" ── Retriever
//!             answers at the deadline          takes what waits together,      └─ 1 in N ── thread "recall": searched again exactly
//!                                              drops what is late or gone
//! ```
//!
//! FAISS keeps thread settings for each calling thread and its searches are short, so one thread that never sleeps between waiting
//! requests serves better than a pool that fights the device thread for the cores.

#[cfg(feature = "cuda")]
mod gpu;
mod items;
mod worker;

use crate::deadline::Deadline;
use crossbeam_channel::{Sender, TrySendError};
use longbow_index::{Bitmap, Hits, K_MAX, Retriever};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub use items::{ItemIndex, Items};
pub use worker::SearchThread;
use worker::Task;

/// Filters that one request may bring: more impressions than any exchange sends.
pub const FILTERS_MAX: usize = 256;

/// Called with the recall of each sampled search, from the thread `recall`.
pub type OnRecall = Box<dyn Fn(f32) + Send>;

/// Settings of the search thread.
pub struct SearchOptions {
    /// Requests that may wait; one more is refused at once.
    pub queue_max: usize,
    /// Queries of one call to the index at most, a request's own filters aside. Requests that wait together share the passes of an exact
    /// scan (a quarter less time a query at eight); inverted lists gain nothing, and the first waits for the last: keep it small.
    pub batch_queries_max: usize,
    /// One query in so many is searched again exactly; 0 for none.
    pub recall_every: u64,
    /// Told the recall of each of those.
    pub on_recall: OnRecall,
}

impl Default for SearchOptions {
    /// 512 waiting, 4 queries together, no recall samples.
    fn default() -> Self {
        Self { queue_max: 512, batch_queries_max: 4, recall_every: 0, on_recall: Box::new(|_| {}) }
    }
}

/// What the search thread did. Counters grow; `alive` and `waiting` are gauges.
#[derive(Debug, Default)]
pub struct SearchStats {
    /// Whether the thread runs.
    pub alive: AtomicBool,
    /// Requests admitted and not yet answered: moves when a request enters.
    pub waiting: AtomicU64,
    /// Requests refused because the queue was full.
    pub queue_full: AtomicU64,
    /// Requests whose deadline passed before they were searched or answered.
    pub expired: AtomicU64,
    /// Requests whose caller went away before they were searched.
    pub cancelled: AtomicU64,
    /// Requests answered.
    pub answered: AtomicU64,
    /// Requests that the index failed on.
    pub failed: AtomicU64,
    /// Queries searched: one for each filter of a request.
    pub queries: AtomicU64,
    /// Calls to the index.
    pub batches: AtomicU64,
    /// Time in them, microseconds.
    pub busy_us: AtomicU64,
    /// Queries searched again exactly.
    pub recall_samples: AtomicU64,
    /// Samples left out because the last one was still running.
    pub recall_skipped: AtomicU64,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct SearchReply {
    /// One for each filter, in order.
    pub hits: Vec<Hits>,
    /// From the call to the start of the search.
    pub wait: Duration,
    /// Time of the call to the index that it was part of.
    pub compute: Duration,
}

/// Why there is no answer; one variant for each decision of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// Overload: 503 for a feed, no-bid for an exchange.
    #[error("the search queue is full")]
    QueueFull,
    /// The deadline passed while the request waited.
    #[error("the deadline passed while the request waited for its search")]
    Expired,
    /// The search thread is gone: the server is going down, or the thread died and readiness is off.
    #[error("the search thread has stopped")]
    Stopped,
    /// The request does not fit the index; retrying is useless.
    #[error("{0}")]
    Invalid(String),
    /// The index failed on it.
    #[error("the index failed: {0}")]
    Failed(String),
}

/// The request path's end. Cheap to clone; when the last clone is gone the thread ends.
#[derive(Clone)]
pub struct SearchHandle {
    queue: Sender<Task>,
    retriever: Arc<dyn Retriever>,
    stats: Arc<SearchStats>,
    queue_max: u64,
}

/// A place among the requests that may wait; given back when the caller's future ends or is dropped.
struct Place<'a>(&'a SearchStats);

impl<'a> Place<'a> {
    fn take(stats: &'a SearchStats, max: u64) -> Result<Self, SearchError> {
        let taken = stats.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < max).then_some(waiting + 1));
        match taken {
            Ok(_) => Ok(Self(stats)),
            Err(_) => {
                stats.queue_full.fetch_add(1, Relaxed);
                Err(SearchError::QueueFull)
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Starts the search thread (and the recall thread, if samples are wanted).
///
/// # Errors
/// When the system gives no thread.
pub fn start(retriever: Arc<dyn Retriever>, options: SearchOptions) -> std::io::Result<(SearchHandle, SearchThread)> {
    let stats = Arc::new(SearchStats::default());
    let queue_max = options.queue_max.max(1);
    // Room for as many whose callers have gone and whose places are taken again before the thread comes to drop them.
    let (queue, tasks) = crossbeam_channel::bounded(2 * queue_max);
    let thread = worker::start(Arc::clone(&retriever), options, tasks, Arc::clone(&stats))?;
    Ok((SearchHandle { queue, retriever, stats, queue_max: queue_max as u64 }, thread))
}

impl SearchHandle {
    /// The best `k` items for `vector` under each of `filters` (`None` lets all items through), by the deadline.
    ///
    /// Dropping the future frees its place at once, and its work before it is begun.
    ///
    /// # Errors
    /// [`SearchError::QueueFull`] and [`SearchError::Invalid`] at once, [`SearchError::Expired`] at the deadline at the latest.
    pub async fn search(
        &self,
        vector: Arc<[f32]>,
        filters: Vec<Option<Arc<Bitmap>>>,
        k: usize,
        deadline: Deadline,
    ) -> Result<SearchReply, SearchError> {
        self.check(&vector, filters.len(), k)?;
        if filters.is_empty() {
            return Ok(SearchReply { hits: Vec::new(), wait: Duration::ZERO, compute: Duration::ZERO });
        }
        let asked = Instant::now();
        if deadline.passed(asked) {
            self.stats.expired.fetch_add(1, Relaxed);
            return Err(SearchError::Expired);
        }
        let place = Place::take(&self.stats, self.queue_max)?;
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Task { vector, filters, k, deadline, asked, reply }).map_err(|error| match error {
            TrySendError::Full(_) => {
                self.stats.queue_full.fetch_add(1, Relaxed);
                SearchError::QueueFull
            }
            TrySendError::Disconnected(_) => SearchError::Stopped,
        })?;
        let result = match tokio::time::timeout_at(deadline.0.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SearchError::Stopped),
            Err(_) => {
                self.stats.expired.fetch_add(1, Relaxed);
                Err(SearchError::Expired)
            }
        };
        drop(place);
        result
    }

    /// Refuses what would fail in the index, before it could fail beside others.
    fn check(&self, vector: &[f32], filters: usize, k: usize) -> Result<(), SearchError> {
        let dim = self.retriever.dim();
        if vector.len() != dim {
            return Err(SearchError::Invalid(format!(
                "the query vector has {} entries, the index holds {dim}",
                vector.len()
            )));
        }
        if !vector.iter().all(|x| x.is_finite()) {
            return Err(SearchError::Invalid("the query vector has an entry that is not finite".to_owned()));
        }
        if k > K_MAX || filters > FILTERS_MAX {
            return Err(SearchError::Invalid(format!(
                "k = {k} (at most {K_MAX}) with {filters} filters (at most {FILTERS_MAX})"
            )));
        }
        Ok(())
    }

    /// What the thread did.
    #[must_use]
    pub fn stats(&self) -> &SearchStats {
        &self.stats
    }

    /// The index that is searched.
    #[must_use]
    pub fn retriever(&self) -> &Arc<dyn Retriever> {
        &self.retriever
    }

    /// False once the search thread is gone: readiness must then be off.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.stats.alive.load(Relaxed)
    }
}
