//! Open loop: arrivals follow a Poisson process drawn in advance and never wait for answers. Latency counts from the
//! scheduled arrival, so that a server (or this client) that falls behind cannot hide it.

use super::traffic::{Draw, Source};
use crate::client::{Connection, Target};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Requests that may wait in the client for a free connection; beyond it they count as failed.
const WAITING_MAX: usize = 65_536;

/// One run at one rate.
pub(crate) struct Run {
    /// Server.
    pub(crate) target: Target,
    /// Arrivals a second on average.
    pub(crate) rate: f64,
    /// How long arrivals go on.
    pub(crate) length: Duration,
    /// Connections.
    pub(crate) connections: u16,
    /// An answer later than this is counted as failed.
    pub(crate) timeout: Duration,
    /// Seed of the arrival times.
    pub(crate) seed: u64,
}

/// What one rate gave. Times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) offered_rps: f64,
    pub(crate) requests: u64,
    pub(crate) answered_rps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Answers with a bid or a ranking within their deadline, counted from the scheduled arrival, for each second of offered load.
    pub(crate) goodput_rps: f64,
    /// 99th percentile of the answers with a bid or a ranking.
    pub(crate) served_p99_ms: f64,
    /// 99th percentile of the refusals: how long a caller waits to be told.
    pub(crate) refused_p99_ms: f64,
    /// Share of requests answered 200.
    pub(crate) bid_share: f64,
    /// Share answered 204 for any other reason.
    pub(crate) no_bid_share: f64,
    /// Share refused as overload: 503, or 204 with `x-longbow-no-bid: overloaded` or `queue_full`.
    pub(crate) refused_share: f64,
    /// Share with another status, a transport fault or a time-out.
    pub(crate) error_share: f64,
    /// Share answered after the deadline, or never.
    pub(crate) late_share: f64,
    /// Share of each deadline's requests that were served in time.
    pub(crate) served_share_by_tmax_ms: BTreeMap<u32, f64>,
    /// How late the client itself sent, at the 99th percentile: if this is not small the client is the bottleneck.
    pub(crate) send_delay_p99_ms: f64,
    /// Median of each stage the server reports in `server-timing`.
    pub(crate) stages_p50_ms: BTreeMap<String, f64>,
}

struct Arrival {
    scheduled: Instant,
    draw: Draw,
}

struct Tally {
    latency_us: Histogram<u64>,
    served_us: Histogram<u64>,
    refused_us: Histogram<u64>,
    /// Requests of each deadline, and how many of them were served in time.
    by_tmax: BTreeMap<u32, (u64, u64)>,
    send_delay_us: Histogram<u64>,
    stages_us: BTreeMap<String, Histogram<u64>>,
    ok: u64,
    no_bid: u64,
    refused: u64,
    errors: u64,
    late: u64,
}

/// Reasons of a 204 that mean: too much is asked for.
const OVERLOAD: [&str; 2] = ["overloaded", "queue_full"];
/// Stages read from a server, at most.
const STAGES_MAX: usize = 32;

/// From a microsecond to two minutes, three digits kept.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latency_us: histogram()?,
            served_us: histogram()?,
            refused_us: histogram()?,
            by_tmax: BTreeMap::new(),
            send_delay_us: histogram()?,
            stages_us: BTreeMap::new(),
            ok: 0,
            no_bid: 0,
            refused: 0,
            errors: 0,
            late: 0,
        })
    }

    /// Adds the stages of one `server-timing` header: `name;dur=1.25, ...` in milliseconds.
    fn record_stages(&mut self, header: &str) -> anyhow::Result<()> {
        for (name, duration) in header.split(',').filter_map(|stage| stage.trim().split_once(";dur=")) {
            let Ok(ms) = duration.parse::<f64>() else { continue };
            if !self.stages_us.contains_key(name) && self.stages_us.len() < STAGES_MAX {
                self.stages_us.insert(name.to_owned(), histogram()?);
            }
            if let Some(stage) = self.stages_us.get_mut(name) {
                stage.saturating_record(micros(Duration::from_secs_f64(ms.clamp(0.0, 1e6) / 1e3)));
            }
        }
        Ok(())
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency_us.add(&other.latency_us)?;
        self.served_us.add(&other.served_us)?;
        self.refused_us.add(&other.refused_us)?;
        for (&tmax, &(asked, served)) in &other.by_tmax {
            let sum = self.by_tmax.entry(tmax).or_default();
            *sum = (sum.0 + asked, sum.1 + served);
        }
        self.send_delay_us.add(&other.send_delay_us)?;
        for (name, stage) in &other.stages_us {
            match self.stages_us.get_mut(name) {
                Some(sum) => sum.add(stage)?,
                None => drop(self.stages_us.insert(name.clone(), stage.clone())),
            }
        }
        self.ok += other.ok;
        self.no_bid += other.no_bid;
        self.refused += other.refused;
        self.errors += other.errors;
        self.late += other.late;
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

async fn worker(
    target: Target,
    arrivals: std::sync::Arc<tokio::sync::Mutex<mpsc::Receiver<Arrival>>>,
    timeout: Duration,
) -> anyhow::Result<Tally> {
    let mut connection = Connection::new(target);
    let mut tally = Tally::new()?;
    loop {
        let arrival = arrivals.lock().await.recv().await;
        let Some(arrival) = arrival else { return Ok(tally) };
        tally.send_delay_us.saturating_record(micros(arrival.scheduled.elapsed()));
        let Draw { path, body, tmax_ms } = arrival.draw;
        let answer = connection.post(path, body, timeout).await;
        let latency = arrival.scheduled.elapsed();
        tally.latency_us.saturating_record(micros(latency));
        let late = latency > Duration::from_millis(tmax_ms.into()) || answer.is_err();
        tally.late += u64::from(late);
        if let Some(timing) = answer.as_ref().ok().and_then(|a| a.timing.as_deref()) {
            tally.record_stages(timing)?;
        }
        let mut served = false;
        match answer.map(|answer| (answer.status, answer.no_bid)) {
            Ok((200, _)) => {
                tally.ok += 1;
                tally.served_us.saturating_record(micros(latency));
                served = !late;
            }
            Ok((204, reason)) if !reason.as_deref().is_some_and(|r| OVERLOAD.contains(&r)) => tally.no_bid += 1,
            Ok((204 | 503, _)) => {
                tally.refused += 1;
                tally.refused_us.saturating_record(micros(latency));
            }
            _ => tally.errors += 1,
        }
        let of_tmax = tally.by_tmax.entry(tmax_ms).or_default();
        *of_tmax = (of_tmax.0 + 1, of_tmax.1 + u64::from(served));
    }
}

/// Sends arrivals at their times from a thread of its own: the timer of an async runtime is too coarse.
fn dispatch(mut source: Source, run: &Run, sender: &mpsc::Sender<Arrival>) -> u64 {
    let mut rng = StdRng::seed_from_u64(run.seed ^ 0xA11C_E5ED);
    let start = Instant::now() + Duration::from_millis(20);
    let mut at = 0.0_f64;
    let mut dropped = 0;
    loop {
        let uniform: f64 = rng.random();
        at += -(1.0 - uniform).ln() / run.rate;
        if at > run.length.as_secs_f64() {
            return dropped;
        }
        let scheduled = start + Duration::from_secs_f64(at);
        let draw = source.next_request();
        if let Some(wait) = scheduled.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        dropped += u64::from(sender.try_send(Arrival { scheduled, draw }).is_err());
    }
}

/// Runs one rate to its end.
pub(crate) fn run(run: Run, source: Source) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..run.connections {
        workers.spawn_on(worker(run.target.clone(), receiver.clone(), run.timeout), runtime.handle());
    }
    let started = Instant::now();
    let (rate, run) = (run.rate, std::sync::Arc::new(run));
    let dispatcher = std::thread::Builder::new().name("arrivals".into()).spawn({
        let run = run.clone();
        move || dispatch(source, &run, &sender)
    })?;
    let mut total = Tally::new()?;
    runtime.block_on(async {
        while let Some(tally) = workers.join_next().await {
            total.add(&tally??)?;
        }
        anyhow::Ok(())
    })?;
    let dropped = dispatcher.join().map_err(|_| anyhow::anyhow!("the arrival thread stopped"))?;
    Ok(figures(&total, dropped, rate, (run.length, started.elapsed())))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn figures(tally: &Tally, dropped: u64, rate: f64, (length, took): (Duration, Duration)) -> Figures {
    let requests = tally.latency_us.len() + dropped;
    let share = |count: u64| count as f64 / requests.max(1) as f64;
    let at = |q: f64| tally.latency_us.value_at_quantile(q) as f64 / 1e3;
    Figures {
        offered_rps: rate,
        requests,
        answered_rps: (tally.ok + tally.no_bid) as f64 / took.as_secs_f64(),
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: tally.latency_us.max() as f64 / 1e3,
        goodput_rps: tally.by_tmax.values().map(|&(_, served)| served).sum::<u64>() as f64 / length.as_secs_f64(),
        served_p99_ms: tally.served_us.value_at_quantile(0.99) as f64 / 1e3,
        refused_p99_ms: tally.refused_us.value_at_quantile(0.99) as f64 / 1e3,
        bid_share: share(tally.ok),
        no_bid_share: share(tally.no_bid),
        refused_share: share(tally.refused),
        error_share: share(tally.errors + dropped),
        late_share: share(tally.late + dropped),
        served_share_by_tmax_ms: (tally.by_tmax.iter())
            .map(|(&tmax, &(asked, served))| (tmax, served as f64 / asked.max(1) as f64))
            .collect(),
        send_delay_p99_ms: tally.send_delay_us.value_at_quantile(0.99) as f64 / 1e3,
        stages_p50_ms: tally
            .stages_us
            .iter()
            .map(|(k, h)| (k.clone(), h.value_at_quantile(0.5) as f64 / 1e3))
            .collect(),
    }
}
