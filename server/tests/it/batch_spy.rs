//! A device on a real encoder with a small seeded model, watched and held up by a [`Spy`].

use arc_swap::ArcSwap;
use longbow::batch::{Device, DeviceError, DeviceHandle, DeviceOptions, EncodeRequest, UserWindow, WarmUp};
use longbow::deadline::Deadline;
use longbow_kernels::Engine;
use longbow_model::{
    Advance, Config, CpuEncoder, EncodeError, Encoded, Encoder, Finish, ItemTable, Model, Score, Scores, Seed, Version,
};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(crate) const HISTORY_MAX: usize = 10_000;

pub(crate) fn config() -> Config {
    Config {
        max_sequence_len: HISTORY_MAX,
        max_output_len: 8,
        embedding_dim: 12,
        item_embedding_dim: 8,
        action_embedding_dim: 4,
        num_actions: 8,
        num_blocks: 2,
        num_heads: 1,
        attention_dim: 8,
        linear_dim: 8,
        num_items: 64,
        num_time_buckets: 128,
        normalization: "rel_bias".to_owned(),
        linear_activation: "silu".to_owned(),
        concat_ua: false,
        epsilon: 1e-6,
        num_tasks: 3,
    }
}

/// One call of the encoder: the rows asked for in each job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Advance(Vec<usize>),
    Finish(Vec<usize>),
    Score(Vec<usize>),
}

/// What the test sees of the encoder, and how it holds it up.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) held: Mutex<bool>,
    pub(crate) free: Condvar,
    /// Added to every row of an advance: a device on which a long encode takes long.
    pub(crate) row_cost: Mutex<Duration>,
    pub(crate) panics: AtomicBool,
}

impl Watch {
    pub(crate) fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.free.wait(held).unwrap();
        }
        drop(held);
        assert!(!self.panics.load(SeqCst), "as the test asked");
    }

    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    pub(crate) fn let_go(&self) {
        *self.held.lock().unwrap() = false;
        self.free.notify_all();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.calls.lock().unwrap().clear();
    }
}

pub(crate) struct Spy {
    pub(crate) inner: CpuEncoder,
    pub(crate) watch: Arc<Watch>,
}

impl Encoder for Spy {
    fn config(&self) -> &Config {
        self.inner.config()
    }
    fn version(&self) -> Version {
        self.inner.version()
    }
    fn advance(&mut self, jobs: &mut [Advance<'_>]) -> Result<(), EncodeError> {
        let rows: Vec<usize> = jobs.iter().map(|job| job.rows_max.min(job.state.rows_missing(&job.window))).collect();
        let cost = *self.watch.row_cost.lock().unwrap();
        let total = u32::try_from(rows.iter().sum::<usize>()).unwrap();
        self.watch.note(Call::Advance(rows));
        std::thread::sleep(cost * total);
        self.inner.advance(jobs)
    }
    fn finish(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError> {
        self.watch.note(Call::Finish(jobs.iter().map(|job| job.window.len()).collect()));
        self.inner.finish(jobs)
    }
    fn score(&mut self, jobs: &[Score<'_>]) -> Result<Vec<Scores>, EncodeError> {
        self.watch.note(Call::Score(jobs.iter().map(|job| job.candidates.len()).collect()));
        self.inner.score(jobs)
    }
}

pub(crate) struct Bench {
    pub(crate) watch: Arc<Watch>,
    pub(crate) handle: DeviceHandle,
    pub(crate) items: Arc<ArcSwap<ItemTable>>,
    pub(crate) _device: Device,
}

impl Drop for Bench {
    /// A failed test must not wait for ever for a device that it holds up.
    fn drop(&mut self) {
        self.watch.let_go();
    }
}

pub(crate) fn quick() -> DeviceOptions {
    let warm_up = WarmUp { lengths: vec![1, 16, 64, 256], candidates: vec![1, 16, 64], ..WarmUp::default() };
    DeviceOptions { warm_up, ..DeviceOptions::default() }
}

/// A device that has warmed up, with nothing noted yet.
pub(crate) async fn bench_with(options: DeviceOptions, row_cost: Duration) -> Bench {
    let seed = Seed { seed: 7, content_dim: None, head_hidden: 16 };
    let model = Arc::new(Model::seeded(config(), &seed).unwrap());
    let items = Arc::new(ArcSwap::from_pointee(ItemTable::new(&model)));
    let watch = Arc::new(Watch { row_cost: Mutex::new(row_cost), ..Watch::default() });
    let inner = CpuEncoder::new(model, Arc::new(Engine::new(1, None).unwrap()));
    let spy = Box::new(Spy { inner, watch: Arc::clone(&watch) });
    let (device, handle) = Device::start(spy, Arc::clone(&items), options, Arc::default()).unwrap();
    handle.ready().await.unwrap();
    watch.forget();
    Bench { watch, handle, items, _device: device }
}

pub(crate) async fn bench() -> Bench {
    bench_with(quick(), Duration::ZERO).await
}

/// `len` events that depend on `salt`.
pub(crate) fn history(salt: u32, len: usize) -> Arc<UserWindow> {
    let numbers = (0..u32::try_from(len).unwrap()).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(salt % 31) ^ salt);
    let numbers: Vec<u32> = numbers.collect();
    Arc::new(UserWindow {
        items: numbers.iter().map(|n| 1 + n % 64).collect(),
        actions: numbers.iter().map(|n| u16::try_from(n % 8).unwrap()).collect(),
        times: (0..len).map(|i| 1_000_000 + 37 * i64::try_from(i).unwrap()).collect(),
    })
}

pub(crate) fn within(ms: u64) -> Deadline {
    Deadline::after(Instant::now(), Duration::from_millis(ms))
}

pub(crate) fn ask(user: u128, window: &Arc<UserWindow>, ms: u64) -> EncodeRequest {
    let (user, window) = (Some(user), Arc::clone(window));
    EncodeRequest { user, window, query_time: 9_000_000, deadline: within(ms), ticket: None }
}

/// Long enough never to matter.
pub(crate) const EVER: u64 = 600_000;

/// Polls a future once: the request is in the queue afterwards.
pub(crate) fn start<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < limit, "waited a minute for: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Starts a request that the device is then stuck on.
pub(crate) fn occupy(bench: &Bench) -> tokio::task::JoinHandle<Result<longbow::batch::EncodeReply, DeviceError>> {
    bench.watch.hold();
    let handle = bench.handle.clone();
    tokio::spawn(async move { handle.encode(ask(999, &history(9, 4), EVER)).await })
}

pub(crate) async fn occupied(bench: &Bench) {
    until("the device to be stuck", || !bench.watch.calls().is_empty()).await;
}
