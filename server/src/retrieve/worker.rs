//! The thread `search`, and the thread `recall` beside it.

use super::{OnRecall, SearchError, SearchOptions, SearchReply, SearchStats};
use crate::deadline::Deadline;
use crossbeam_channel::{Receiver, Sender, select_biased};
use longbow_index::{Bitmap, Query, Retriever, lower_thread_priority};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// One request on its way.
pub(super) struct Task {
    pub(super) vector: Arc<[f32]>,
    pub(super) filters: Vec<Option<Arc<Bitmap>>>,
    pub(super) k: usize,
    pub(super) deadline: Deadline,
    pub(super) asked: Instant,
    pub(super) reply: oneshot::Sender<Result<SearchReply, SearchError>>,
}

/// The threads. They end with the last handle, or by [`SearchThread::join`].
#[derive(Debug)]
pub struct SearchThread {
    /// Dropping it tells the thread `search` to stop.
    stop: Sender<()>,
    search: JoinHandle<()>,
    recall: Option<JoinHandle<()>>,
}

impl SearchThread {
    /// Ends the threads after the batch and the sample that they work on, and waits for that: what they search may be taken apart
    /// afterwards. Requests that wait, and later ones, are told [`SearchError::Stopped`]. Blocks.
    pub fn join(self) {
        drop(self.stop);
        // A panic has been reported by the panic hook.
        let _ = self.search.join();
        if let Some(recall) = self.recall {
            let _ = recall.join();
        }
    }
}

/// A query to be searched again exactly.
struct Sample {
    vector: Arc<[f32]>,
    filter: Option<Arc<Bitmap>>,
    k: usize,
}

pub(super) fn start(
    retriever: Arc<dyn Retriever>,
    options: SearchOptions,
    tasks: Receiver<Task>,
    stats: Arc<SearchStats>,
) -> std::io::Result<SearchThread> {
    let SearchOptions { batch_queries_max, recall_every, on_recall, .. } = options;
    let (samples, recall) = if recall_every == 0 {
        (None, None)
    } else {
        // One sample at a time: under load more would only be work.
        let (samples, taken) = crossbeam_channel::bounded(1);
        (Some(samples), Some(start_recall(Arc::clone(&retriever), taken, on_recall, Arc::clone(&stats))?))
    };
    stats.alive.store(true, Relaxed);
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let worker = Worker {
        stopped,
        retriever,
        tasks,
        stats,
        queries_max: batch_queries_max.max(1),
        recall_every,
        samples,
        until_sample: recall_every,
    };
    let search = std::thread::Builder::new().name("search".to_owned()).spawn(move || worker.run())?;
    Ok(SearchThread { stop, search, recall })
}

fn start_recall(
    retriever: Arc<dyn Retriever>,
    samples: Receiver<Sample>,
    on_recall: OnRecall,
    stats: Arc<SearchStats>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("recall".to_owned()).spawn(move || {
        lower_thread_priority();
        for Sample { vector, filter, k } in samples {
            match retriever.recall_of(&Query { vector: &vector, k, eligible: filter.as_deref() }) {
                Ok(recall) => {
                    stats.recall_samples.fetch_add(1, Relaxed);
                    on_recall(recall);
                }
                Err(error) => tracing::warn!(%error, "a recall sample failed"),
            }
        }
    })
}

struct Worker {
    /// Hangs up when the thread is to stop.
    stopped: Receiver<()>,
    retriever: Arc<dyn Retriever>,
    tasks: Receiver<Task>,
    stats: Arc<SearchStats>,
    queries_max: usize,
    recall_every: u64,
    samples: Option<Sender<Sample>>,
    /// Queries until the next sample.
    until_sample: u64,
}

/// Says that the thread has gone, however it went.
struct Alive(Arc<SearchStats>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.store(false, Relaxed);
    }
}

impl Worker {
    fn run(mut self) {
        let _alive = Alive(Arc::clone(&self.stats));
        let mut batch = Vec::with_capacity(self.queries_max);
        while let Some(first) = self.next() {
            self.gather(first, &mut batch);
            self.search(&mut batch);
        }
    }

    /// Waits for a request; nothing once the thread is to stop or no handle is left.
    fn next(&self) -> Option<Task> {
        select_biased! {
            recv(self.stopped) -> _ => None,
            recv(self.tasks) -> task => task.ok(),
        }
    }

    /// The first request and what waits behind it, up to the limit of queries; those that are late or gone are dropped.
    fn gather(&self, first: Task, batch: &mut Vec<Task>) {
        let mut queries = 0;
        let mut next = Some(first);
        while let Some(task) = next {
            if let Some(task) = self.still_wanted(task) {
                queries += task.filters.len();
                batch.push(task);
            }
            if queries >= self.queries_max {
                return;
            }
            next = self.tasks.try_recv().ok();
        }
    }

    fn still_wanted(&self, task: Task) -> Option<Task> {
        let late = task.deadline.passed(Instant::now());
        if task.reply.is_closed() {
            // The caller's own timer has counted a late one.
            if !late {
                self.stats.cancelled.fetch_add(1, Relaxed);
            }
            return None;
        }
        if late {
            self.stats.expired.fetch_add(1, Relaxed);
            // The caller may have gone in this instant.
            let _ = task.reply.send(Err(SearchError::Expired));
            return None;
        }
        Some(task)
    }

    fn search(&mut self, batch: &mut Vec<Task>) {
        if batch.is_empty() {
            return;
        }
        let queries: Vec<Query<'_>> = batch
            .iter()
            .flat_map(|task| {
                task.filters.iter().map(|filter| Query { vector: &task.vector, k: task.k, eligible: filter.as_deref() })
            })
            .collect();
        let start = Instant::now();
        let result = self.retriever.search(&queries);
        let compute = start.elapsed();
        self.count(queries.len(), compute);
        drop(queries);
        match result {
            Ok(hits) => {
                let mut hits = hits.into_iter();
                for task in batch.drain(..) {
                    let hits: Vec<_> = hits.by_ref().take(task.filters.len()).collect();
                    let wait = start.saturating_duration_since(task.asked);
                    self.stats.answered.fetch_add(1, Relaxed);
                    let _ = task.reply.send(Ok(SearchReply { hits, wait, compute }));
                    self.sample(task.vector, &task.filters, task.k);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a search failed");
                for task in batch.drain(..) {
                    self.stats.failed.fetch_add(1, Relaxed);
                    let _ = task.reply.send(Err(SearchError::Failed(error.to_string())));
                }
            }
        }
    }

    fn count(&self, queries: usize, busy: Duration) {
        self.stats.batches.fetch_add(1, Relaxed);
        self.stats.queries.fetch_add(queries as u64, Relaxed);
        self.stats.busy_us.fetch_add(u64::try_from(busy.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Hands one query in `recall_every` to the recall thread, unless that is still busy.
    fn sample(&mut self, vector: Arc<[f32]>, filters: &[Option<Arc<Bitmap>>], k: usize) {
        let Some(samples) = &self.samples else { return };
        let queries = filters.len() as u64;
        if self.until_sample > queries {
            self.until_sample -= queries;
            return;
        }
        let place = usize::try_from(self.until_sample - 1).unwrap_or(0);
        // The rest of this request counts towards the next sample; a request with more filters than that gives one sample.
        self.until_sample = self.recall_every.saturating_sub(queries - self.until_sample).max(1);
        let filter = filters.get(place).cloned().flatten();
        if samples.try_send(Sample { vector, filter, k }).is_err() {
            self.stats.recall_skipped.fetch_add(1, Relaxed);
        }
    }
}
