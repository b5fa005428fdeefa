//! Every metric of the server, held as handles: nothing on the request path looks a metric up by name.
//!
//! All names start with `longbow_`, units are base units (seconds, bytes), counters end in `_total`. Label values are
//! enumerations ([`labels`]), so every series stands at 0 from the start. The tables here are the whole list.

mod bank;
pub mod labels;
mod process;
mod stages;

pub use labels::{
    Bound, Cache, CacheOutcome, ConnectionEnd, DegradeStep, Endpoint, EventOutcome, Held, Label, ModelLoad, NoBid,
    Notice, NoticeOutcome, Port, Queue, Records, Room, Stage, StatusClass,
};
pub use metrics::{Counter, Gauge, Histogram};
pub use stages::StageTimes;

use bank::Bank;
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use std::marker::PhantomData;
use std::time::Duration;

/// One handle for each value of a label.
pub struct ByLabel<L, M> {
    handles: Box<[M]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, M> ByLabel<L, M> {
    fn new(make: impl FnMut(&'static L) -> M) -> Self {
        Self { handles: L::ALL.iter().map(make).collect(), label: PhantomData }
    }

    /// The handle of `value`.
    #[must_use]
    pub fn of(&self, value: L) -> &M {
        &self.handles[value.index()]
    }
}

/// One handle for each pair of label values.
pub struct ByLabels<A, B, M> {
    handles: Box<[M]>,
    labels: PhantomData<fn(A, B)>,
}

impl<A: Label, B: Label, M> ByLabels<A, B, M> {
    fn new(mut make: impl FnMut(&'static A, &'static B) -> M) -> Self {
        let mut handles = Vec::with_capacity(A::ALL.len() * B::ALL.len());
        for a in A::ALL {
            handles.extend(B::ALL.iter().map(|b| make(a, b)));
        }
        Self { handles: handles.into_boxed_slice(), labels: PhantomData }
    }

    /// The handle of the pair.
    #[must_use]
    pub fn of(&self, a: A, b: B) -> &M {
        &self.handles[a.index() * B::ALL.len() + b.index()]
    }
}

macro_rules! meters {
    ($($(#[doc = $doc:literal])+ $field:ident : $ty:ty = $make:ident($name:literal $(, $label:literal)*);)+) => {
        /// Handles of every metric. Share it as `Arc<Meters>`; each value has its own registry, so tests do not meet.
        pub struct Meters {
            recorder: PrometheusRecorder,
            process: process::Process,
            $($(#[doc = $doc])+ pub $field: $ty,)+
        }

        impl Meters {
            fn with(bank: Bank) -> Self {
                $(let $field = bank.$make($name $(, $label)*, concat!($($doc),+).trim());)+
                let process = process::Process::new(&bank);
                Self { recorder: bank.recorder, process, $($field,)+ }
            }
        }
    };
}

meters! {
    /// Requests answered, by endpoint and class of status.
    requests: ByLabels<Endpoint, StatusClass, Counter> = counters2("longbow_requests_total", "endpoint", "status");
    /// Requests being worked on.
    requests_in_flight: ByLabel<Endpoint, Gauge> = gauges("longbow_requests_in_flight", "endpoint");
    /// Requests whose client went away before the answer.
    requests_cancelled: ByLabel<Endpoint, Counter> = counters("longbow_requests_cancelled_total", "endpoint");
    /// Time of each stage of a request.
    stage_seconds: ByLabel<Stage, Histogram> = histograms("longbow_stage_seconds", "stage");
    /// Time from the end of the headers to the answer handed over, by endpoint; without requests whose body came too slowly (408).
    request_seconds: ByLabel<Endpoint, Histogram> = histograms("longbow_request_seconds", "endpoint");
    /// Open connections.
    connections: ByLabel<Port, Gauge> = gauges("longbow_connections", "port");
    /// Connections accepted.
    connections_accepted: ByLabel<Port, Counter> = counters("longbow_connections_accepted_total", "port");
    /// Connections ended by the server, by reason.
    connections_ended: ByLabels<Port, ConnectionEnd, Counter> = counters2("longbow_connections_ended_total", "port", "reason");
    /// Accepts that failed (out of file descriptors, for example).
    accept_errors: ByLabel<Port, Counter> = counters("longbow_accept_errors_total", "port");
    /// Handlers that panicked; the client got 500.
    panics: ByLabel<Endpoint, Counter> = counters("longbow_panics_total", "endpoint");
    /// Memory held by request bodies.
    body_bytes: Gauge = gauge("longbow_body_bytes");
    /// Bids made.
    bids: Counter = counter("longbow_bids_total");
    /// Bid requests answered without a bid, by the main reason.
    no_bids: ByLabel<NoBid, Counter> = counters("longbow_no_bids_total", "reason");
    /// Plans turned down for a request, by reason.
    plans_filtered: ByLabel<crate::auction::NoBidReason, Counter> = counters("longbow_plans_filtered_total", "reason");
    /// Steps taken down the ladder to answer in time.
    degraded: ByLabel<DegradeStep, Counter> = counters("longbow_degraded_total", "step");
    /// Lookups in caches.
    cache_lookups: ByLabels<Cache, CacheOutcome, Counter> = counters2("longbow_cache_lookups_total", "cache", "outcome");
    /// Memory held by caches.
    cache_bytes: ByLabel<Cache, Gauge> = gauges("longbow_cache_bytes", "cache");
    /// User states thrown out of the state cache for room.
    states_evicted: Counter = counter("longbow_states_evicted_total");
    /// User states moved from the GPU to host memory for room.
    host_tier_parked: Counter = counter("longbow_host_tier_parked_total");
    /// User states brought back from there instead of being computed anew.
    host_tier_hits: Counter = counter("longbow_host_tier_hits_total");
    /// Bytes brought back.
    host_tier_reload_bytes: Counter = counter("longbow_host_tier_reload_bytes_total");
    /// Parked user states dropped for room.
    host_tier_evictions: Counter = counter("longbow_host_tier_evictions_total");
    /// Work waiting in a queue, counted when it enters.
    queue_depth: ByLabel<Queue, Gauge> = gauges("longbow_queue_depth", "queue");
    /// Work refused because its queue was full.
    queue_full: ByLabel<Queue, Counter> = counters("longbow_queue_full_total", "queue");
    /// Work dropped because its deadline had passed or its client was gone.
    queue_dropped: ByLabel<Queue, Counter> = counters("longbow_queue_dropped_total", "queue");
    /// Batches run by the device.
    batches: Counter = counter("longbow_batches_total");
    /// Requests of a batch.
    batch_requests: Histogram = sizes("longbow_batch_requests");
    /// Rows of a batch.
    batch_rows: Histogram = sizes("longbow_batch_rows");
    /// Time the device took for a batch; the sum is its busy time.
    batch_seconds: Histogram = histogram("longbow_batch_seconds");
    /// Requests that failed on the device.
    device_faults: Counter = counter("longbow_device_faults_total");
    /// 1 while the encoder runs on a GPU.
    gpu_serving: Gauge = gauge("longbow_gpu_serving");
    /// 1 once the GPU is lost to this process: the CPU answers until the process has drained and ends.
    gpu_lost: Gauge = gauge("longbow_gpu_lost");
    /// Calls that failed on the GPU.
    gpu_faults: Counter = counter("longbow_gpu_faults_total");
    /// Searches that the GPU answered.
    gpu_searches: Counter = counter("longbow_gpu_searches_total");
    /// Models loaded while serving, by outcome.
    model_loads: ByLabel<ModelLoad, Counter> = counters("longbow_model_loads_total", "outcome");
    /// Time from the order to the switch to a new model.
    model_load_seconds: Histogram = histogram("longbow_model_load_seconds");
    /// Notices by kind and outcome.
    notices: ByLabels<Notice, NoticeOutcome, Counter> = counters2("longbow_notices_total", "kind", "outcome");
    /// Behaviour events by outcome.
    events: ByLabel<EventOutcome, Counter> = counters("longbow_events_total", "outcome");
    /// Users forgotten because their newest event was older than `store.forget_users_after_days`.
    users_forgotten: Counter = counter("longbow_users_forgotten_total");
    /// Values that break the rules of OpenRTB and were understood anyway.
    leniencies: ByLabel<crate::http::openrtb::Leniency, Counter> = counters("longbow_leniencies_total", "kind");
    /// Recall of recent sampled searches against exact search; 1 until the first sample.
    recall: Gauge = gauge("longbow_recall_ratio");
    /// Searches that were repeated exactly.
    recall_samples: Counter = counter("longbow_recall_samples_total");
    /// Lists visited over those tuned at the build, 1 to 16: raised while sampled searches recall less than `index.recall_min`.
    index_widened: Gauge = gauge("longbow_index_widened_ratio");
    /// Records of the catalogue.
    records: ByLabel<Records, Gauge> = gauges("longbow_records", "kind");
    /// Version of the catalogue that requests read.
    catalog_version: Gauge = gauge("longbow_catalog_version");
    /// Items in the index.
    index_items: Gauge = gauge("longbow_index_items");
    /// Changes not yet in the index proper: searched exactly.
    index_delta: Gauge = gauge("longbow_index_delta");
    /// Rebuilds of the index.
    index_rebuilds: Counter = counter("longbow_index_rebuilds_total");
    /// Money of all plans by state, in US dollars at the configured rates. Plans in a currency without a rate are left out.
    money: ByLabel<Held, Gauge> = gauges("longbow_money_usd", "state");
    /// Holds that no notice has settled yet.
    holds: Gauge = gauge("longbow_holds");
    /// 1 after an I/O error of a durable room: it refuses its work until a restart.
    poisoned: ByLabel<Room, Gauge> = gauges("longbow_poisoned", "room");
    /// Times at which a limit bound, by limit.
    bounds: ByLabel<Bound, Counter> = counters("longbow_limits_reached_total", "limit");
    /// 1 while the server asks for traffic.
    ready: Gauge = gauge("longbow_ready");
    /// Sampled requests without a bid whose reasons were logged.
    no_bid_traces: Counter = counter("longbow_no_bid_traces_total");
}

impl Meters {
    /// All series at 0.
    #[must_use]
    pub fn new() -> Self {
        let meters = Self::with(Bank::new());
        meters.recall.set(1.0);
        meters
    }

    /// Shows a model as the one that serves, or as one that did: a series for each version that served in this process.
    pub fn show_model(&self, name: &str, version: &str, serving: bool) {
        bank::model_info(&self.recorder, name, version).set(f64::from(u8::from(serving)));
    }

    /// The Prometheus text, with process figures read now.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.refresh();
        self.handle().render()
    }

    /// Moves recorded samples into their histograms, so that memory stays flat between scrapes. Call every few seconds.
    pub fn upkeep(&self) {
        self.handle().run_upkeep();
    }

    /// Calls [`upkeep`](Self::upkeep) for ever.
    pub async fn keep_up(&self) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            self.upkeep();
        }
    }

    fn handle(&self) -> PrometheusHandle {
        self.recorder.handle()
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts up while alive: a gauge that cannot be left raised by a dropped future.
pub struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    /// Raises `gauge` by one until dropped.
    #[must_use]
    pub fn enter(gauge: &'a Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
