//! The search thread under a real runtime: answers, deadlines, full queues, callers that go away, recall samples.

use longbow::deadline::Deadline;
use longbow::retrieve::{FILTERS_MAX, SearchError, SearchHandle, SearchOptions, SearchThread, start};
use longbow_index::{Bitmap, ExactRetriever, Hits, IndexError, Kind, Query, Retriever};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const DIM: usize = 4;

/// An index whose searches stop at a gate until the test opens it.
struct Gated {
    inner: ExactRetriever,
    open: Mutex<bool>,
    turned: Condvar,
    /// Queries of each call.
    calls: Mutex<Vec<usize>>,
    entered: AtomicUsize,
    fault: Mutex<Option<IndexError>>,
}

impl Gated {
    fn new(open: bool) -> Arc<Self> {
        let slots: Vec<u32> = (1..=20).collect();
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let vectors: Vec<f32> = slots.iter().flat_map(|&slot| [1.0, slot as f32, 0.0, 0.5]).collect();
        Arc::new(Self {
            inner: ExactRetriever::new(DIM, &slots, &vectors).unwrap(),
            open: Mutex::new(open),
            turned: Condvar::new(),
            calls: Mutex::default(),
            entered: AtomicUsize::new(0),
            fault: Mutex::default(),
        })
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.turned.notify_all();
    }
}

impl Retriever for Gated {
    fn search(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        self.calls.lock().unwrap().push(queries.len());
        self.entered.fetch_add(1, SeqCst);
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.turned.wait(open).unwrap();
        }
        match self.fault.lock().unwrap().take() {
            Some(fault) => Err(fault),
            None => self.inner.search(queries),
        }
    }

    fn search_exact(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        self.inner.search(queries)
    }

    fn recall_of(&self, query: &Query<'_>) -> Result<f32, IndexError> {
        // The number eligible, to show which query was sampled.
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        Ok(query.eligible.map_or(0, Bitmap::count) as f32)
    }

    fn len(&self) -> usize {
        self.inner.len()
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn kind(&self) -> Kind {
        Kind::Exact
    }
}

fn started(index: &Arc<Gated>, options: SearchOptions) -> (SearchHandle, SearchThread) {
    start(Arc::clone(index) as Arc<dyn Retriever>, options).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(60))
}

fn only(slots: &[u32]) -> Option<Arc<Bitmap>> {
    Some(Arc::new(slots.iter().copied().collect()))
}

/// Spawns a search that is admitted before the next one: tasks of one current-thread runtime run in order up to their first wait.
fn ask(
    handle: &SearchHandle,
    filter: &[u32],
    deadline: Deadline,
) -> tokio::task::JoinHandle<Result<Vec<Hits>, SearchError>> {
    let (handle, filter) = (handle.clone(), only(filter));
    tokio::spawn(async move {
        handle.search(vec![1.0; DIM].into(), vec![filter], 3, deadline).await.map(|reply| reply.hits)
    })
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_filter_of_a_request_is_answered_in_order() {
    let index = Gated::new(true);
    let (handle, thread) = started(&index, SearchOptions::default());
    assert!(handle.is_alive());
    let filters = vec![None, only(&[2, 4]), only(&[]), only(&[7])];
    let reply = handle.search(vec![0.0, 1.0, 0.0, 0.0].into(), filters, 3, soon()).await.unwrap();
    let slots: Vec<&[u32]> = reply.hits.iter().map(|hits| &hits.slots[..]).collect();
    assert_eq!(slots, [&[20, 19, 18][..], &[4, 2], &[], &[7]]);
    assert_eq!(index.calls.lock().unwrap()[..], [4]);
    assert!(handle.search(vec![1.0; DIM].into(), Vec::new(), 3, soon()).await.unwrap().hits.is_empty());
    let stats = handle.stats();
    assert_eq!((stats.answered.load(SeqCst), stats.queries.load(SeqCst), stats.waiting.load(SeqCst)), (1, 4, 0));
    drop(handle);
    thread.join();
}

#[tokio::test]
async fn what_does_not_fit_is_refused_at_once() {
    let index = Gated::new(true);
    let (handle, _thread) = started(&index, SearchOptions::default());
    for (vector, filters, k) in [
        (vec![1.0; 3], 1, 1),
        (vec![f32::NAN; DIM], 1, 1),
        (vec![1.0; DIM], 1, longbow_index::K_MAX + 1),
        (vec![1.0; DIM], FILTERS_MAX + 1, 1),
    ] {
        let result = handle.search(vector.into(), vec![None; filters], k, soon()).await;
        assert!(matches!(result, Err(SearchError::Invalid(_))), "{result:?}");
    }
    let past = Deadline(Instant::now());
    let result = handle.search(vec![1.0; DIM].into(), vec![None], 1, past).await;
    assert_eq!(result.unwrap_err(), SearchError::Expired);
    assert!(index.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_what_waits_is_searched_together() {
    let index = Gated::new(false);
    let (handle, _thread) =
        started(&index, SearchOptions { queue_max: 6, batch_queries_max: 4, ..SearchOptions::default() });
    let mut asked = vec![ask(&handle, &[1], soon())];
    until(|| index.entered.load(SeqCst) == 1).await;
    for slot in 2..=6 {
        asked.push(ask(&handle, &[slot], soon()));
    }
    until(|| handle.stats().waiting.load(SeqCst) == 6).await;
    let refused = handle.search(vec![1.0; DIM].into(), vec![None], 1, soon()).await;
    assert_eq!(refused.unwrap_err(), SearchError::QueueFull);
    index.open();
    for (slot, asked) in (1_u32..).zip(asked) {
        assert_eq!(asked.await.unwrap().unwrap()[0].slots, [slot]);
    }
    // The one that was under way, four together, the last.
    assert_eq!(index.calls.lock().unwrap()[..], [1, 4, 1]);
    assert_eq!(handle.stats().queue_full.load(SeqCst), 1);
    assert_eq!(handle.stats().waiting.load(SeqCst), 0);
}

#[tokio::test]
async fn the_deadline_holds_while_a_search_is_stuck_and_gone_callers_cost_nothing() {
    let index = Gated::new(false);
    let (handle, thread) = started(&index, SearchOptions { queue_max: 3, ..SearchOptions::default() });
    let stuck = ask(&handle, &[1], soon());
    until(|| index.entered.load(SeqCst) == 1).await;
    let near = Deadline::after(Instant::now(), Duration::from_millis(5));
    let late = ask(&handle, &[2], near);
    assert_eq!(late.await.unwrap().unwrap_err(), SearchError::Expired);
    // Callers that go away free their places at once: more of them come and go than may wait.
    for _ in 0..3 {
        let gone = ask(&handle, &[3], soon());
        until(|| handle.stats().waiting.load(SeqCst) == 2).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(handle.stats().waiting.load(SeqCst), 1);
    }
    let last = ask(&handle, &[4], soon());
    until(|| handle.stats().waiting.load(SeqCst) == 2).await;
    index.open();
    assert_eq!(stuck.await.unwrap().unwrap()[0].slots, [1]);
    assert_eq!(last.await.unwrap().unwrap()[0].slots, [4]);
    // Only the stuck one and the last were searched.
    assert_eq!(index.calls.lock().unwrap()[..], [1, 1]);
    let stats = handle.stats();
    assert_eq!((stats.expired.load(SeqCst), stats.cancelled.load(SeqCst), stats.answered.load(SeqCst)), (1, 3, 2));
    drop(handle);
    thread.join();
}

#[tokio::test]
async fn a_failed_search_is_told_and_the_thread_goes_on() {
    let index = Gated::new(true);
    *index.fault.lock().unwrap() = Some(IndexError::Faiss { call: "search", message: "no luck".to_owned() });
    let (handle, _thread) = started(&index, SearchOptions::default());
    let failed = ask(&handle, &[1], soon()).await.unwrap().unwrap_err();
    assert_eq!(failed, SearchError::Failed("FAISS search: no luck".to_owned()));
    assert_eq!(ask(&handle, &[1], soon()).await.unwrap().unwrap()[0].slots, [1]);
    assert_eq!(handle.stats().failed.load(SeqCst), 1);
}

#[tokio::test]
async fn one_query_in_n_is_sampled_across_requests_and_filters() {
    let index = Gated::new(true);
    let (told, mut heard) = tokio::sync::mpsc::channel(64);
    let on_recall = Box::new(move |recall: f32| told.try_send(recall).unwrap());
    let (handle, thread) = started(&index, SearchOptions { recall_every: 4, on_recall, ..SearchOptions::default() });
    // Filters of 1, 2, ..., 12 items, three a request; each fourth is sampled, and the sample ends before the next request.
    for request in 0..4_u32 {
        let filters = (1..=3).map(|filter| only(&(1..=request * 3 + filter).collect::<Vec<_>>())).collect();
        handle.search(vec![1.0; DIM].into(), filters, 2, soon()).await.unwrap();
        if request > 0 {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let due = (request * 4) as f32;
            assert_eq!(heard.recv().await, Some(due));
        }
    }
    assert_eq!(handle.stats().recall_samples.load(SeqCst), 3);
    drop(handle);
    thread.join();
    assert_eq!(heard.recv().await, None);
}

#[tokio::test]
async fn a_dead_thread_is_seen() {
    struct Panics(Arc<Gated>);
    impl Retriever for Panics {
        fn search(&self, _: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
            panic!("a fault of the index")
        }
        fn search_exact(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
            self.0.search_exact(queries)
        }
        fn recall_of(&self, query: &Query<'_>) -> Result<f32, IndexError> {
            self.0.recall_of(query)
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn dim(&self) -> usize {
            DIM
        }
        fn kind(&self) -> Kind {
            Kind::Exact
        }
    }
    let (handle, thread) = start(Arc::new(Panics(Gated::new(true))), SearchOptions::default()).unwrap();
    assert_eq!(ask(&handle, &[1], soon()).await.unwrap().unwrap_err(), SearchError::Stopped);
    thread.join();
    assert!(!handle.is_alive());
    assert_eq!(ask(&handle, &[1], soon()).await.unwrap().unwrap_err(), SearchError::Stopped);
    assert_eq!(handle.stats().waiting.load(SeqCst), 0);
}

/// The threads end while a handle is left: what they search may be taken apart then, and requests are told.
#[tokio::test]
async fn a_join_ends_the_threads_under_a_live_handle() {
    let index = Gated::new(true);
    let options = SearchOptions { recall_every: 1, ..SearchOptions::default() };
    let (handle, thread) = started(&index, options);
    assert!(handle.search(vec![1.0; DIM].into(), vec![None], 3, soon()).await.is_ok());
    thread.join();
    assert!(!handle.is_alive());
    // Left are the handle's own and this one: neither thread holds what it searched.
    assert_eq!(Arc::strong_count(&index), 2);
    let refused = handle.search(vec![1.0; DIM].into(), vec![None], 3, soon()).await;
    assert_eq!(refused.unwrap_err(), SearchError::Stopped);
}
