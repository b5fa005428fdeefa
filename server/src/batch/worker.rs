//! The device thread: it owns the encoder and the user-state cache, and does nothing but run what the planner seals.

use super::backlog::Backlog;
use super::cost::CostModel;
use super::execute::Executor;
use super::handle::{DeviceError, DeviceHandle, RequestLimits};
use super::ladder::LadderLimits;
use super::plan::{PlanLimits, Planner};
use super::residency::Residency;
use super::stats::DeviceStats;
use super::task::{Ask, Envelope, RefreshTask, Task};
use super::traffic::Traffic;
use super::warm::{Rehearsal, WarmUp};
use crate::meters::Meters;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use longbow_model::{Encoder, ItemTable, StateCache};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::watch;

/// State of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not ready yet.
    WarmingUp,
    /// Serving.
    Ready,
    /// Lost: readiness stays off until the server is restarted. The text says why.
    Failed(String),
}

/// Bounds and settings of a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Queue, batches and slices.
    pub plan: PlanLimits,
    /// Degraded forms.
    pub ladder: LadderLimits,
    /// Shapes to run before ready.
    pub warm_up: WarmUp,
    /// Budget of the user-state cache.
    pub cache_bytes_max: usize,
    /// Most candidates in one request.
    pub candidates_max: usize,
    /// Background encodes on their way to the device thread; more are refused.
    pub refresh_intake_max: usize,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            plan: PlanLimits::default(),
            ladder: LadderLimits::default(),
            warm_up: WarmUp::default(),
            cache_bytes_max: 1 << 30,
            candidates_max: 4_096,
            refresh_intake_max: 256,
        }
    }
}

/// A running device. Dropping it stops the thread after the batch it runs; requests that wait are answered `Cancelled`.
#[derive(Debug)]
pub struct Device {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    /// Starts the device thread; it warms up at once and turns ready ([`DeviceHandle::ready`]).
    ///
    /// `items` is the live item table: the thread takes its newest snapshot for every batch, so an item appended before a
    /// request is asked for is known to it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        encoder: Box<dyn Encoder>,
        items: Arc<ArcSwap<ItemTable>>,
        options: DeviceOptions,
        meters: Arc<Meters>,
    ) -> std::io::Result<(Self, DeviceHandle)> {
        let states = StateCache::new(options.cache_bytes_max);
        Self::start_with(encoder, items, states, options, meters)
    }

    /// The same with the states of users that were encoded ahead.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_with(
        encoder: Box<dyn Encoder>,
        items: Arc<ArcSwap<ItemTable>>,
        states: StateCache,
        options: DeviceOptions,
        meters: Arc<Meters>,
    ) -> std::io::Result<(Self, DeviceHandle)> {
        // Abandoned requests keep their place in the channel until the thread looks, so it holds twice as many as may wait.
        let waiting_max = options.plan.requests_max;
        let (requests, take_requests) = bounded(waiting_max * 2);
        let (refreshes, take_refreshes) = bounded(options.refresh_intake_max);
        let (stop, stopped) = bounded(0);
        let (health, watch_health) = watch::channel(Health::WarmingUp);
        let stats = Arc::new(DeviceStats::new(meters));
        let limits = RequestLimits {
            waiting_max: waiting_max as u64,
            history_max: encoder.config().max_sequence_len,
            candidates_max: options.candidates_max,
        };
        let closed = Arc::new(AtomicBool::new(false));
        let backlog = Arc::new(Mutex::new(Backlog::new(options.ladder, options.plan.reply_margin)));
        let handle = DeviceHandle {
            requests,
            refreshes,
            closed: Arc::clone(&closed),
            stats: Arc::clone(&stats),
            backlog: Arc::clone(&backlog),
            health: watch_health,
            limits,
        };
        let residency = Residency::new(&*encoder, states, options.ladder);
        let (cost, lost) = (CostModel::default(), None);
        let (limits, traffic) = (options.plan, Traffic::default());
        let executor = Executor { encoder, items, residency, cost, limits, stats, traffic, backlog, lost };
        let worker = Worker {
            planner: Planner::new(options.plan),
            executor,
            intake: Intake { requests: take_requests, refreshes: take_refreshes, stopped, closed },
            health,
        };
        let run = move || worker.run(&options.warm_up);
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(run)?;
        Ok((Self { stop: Some(stop), thread: Some(thread) }, handle))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread catches the encoder's panics, so that it ends in an orderly way is all there is to know.
            let _ = thread.join();
        }
    }
}

struct Intake {
    requests: Receiver<Envelope>,
    refreshes: Receiver<RefreshTask>,
    stopped: Receiver<()>,
    /// Set when nothing is taken in any more.
    closed: Arc<AtomicBool>,
}

/// Something that came in.
enum Arrival {
    Request(Envelope),
    Refresh(RefreshTask),
    Stop,
}

impl Intake {
    /// Waits until something comes in.
    fn wait(&self) -> Arrival {
        select! {
            recv(self.stopped) -> _ => Arrival::Stop,
            recv(self.requests) -> request => request.map_or(Arrival::Stop, Arrival::Request),
            recv(self.refreshes) -> refresh => refresh.map_or(Arrival::Stop, Arrival::Refresh),
        }
    }

    /// The same for so long; nothing if nothing comes.
    fn wait_until(&self, until: Instant) -> Option<Arrival> {
        select! {
            recv(self.stopped) -> _ => Some(Arrival::Stop),
            recv(self.requests) -> request => Some(request.map_or(Arrival::Stop, Arrival::Request)),
            recv(self.refreshes) -> refresh => Some(refresh.map_or(Arrival::Stop, Arrival::Refresh)),
            default(until.saturating_duration_since(Instant::now())) => None,
        }
    }

    fn stopping(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Answers `Cancelled` to those who are still in the channel: it keeps its messages as long as any sender lives. Whoever
    /// sends after this last look finds `closed` set (see [`DeviceHandle`]).
    fn close(&self) {
        self.closed.store(true, SeqCst);
        while self.requests.try_recv().is_ok() {}
    }
}

struct Worker {
    planner: Planner<Task>,
    executor: Executor,
    intake: Intake,
    health: watch::Sender<Health>,
}

impl Worker {
    fn run(mut self, shapes: &WarmUp) {
        self.serve(shapes);
        self.intake.close();
    }

    fn serve(&mut self, shapes: &WarmUp) {
        let items = self.executor.items.load_full();
        let intake = &self.intake;
        let stopped = || intake.stopping();
        match self.executor.call(|encoder| Rehearsal::new(encoder, &items, shapes, &stopped).run()) {
            Ok((cost, _)) => {
                self.executor.cost = cost;
                self.executor.backlog.lock().learn(cost);
                self.health.send_replace(Health::Ready);
            }
            Err(fault) => {
                self.executor.lost.get_or_insert(DeviceError::from(&fault).to_string());
            }
        }
        loop {
            if let Some(why) = self.executor.lost.clone() {
                return self.refuse_all(&why);
            }
            if self.intake.stopping() {
                return;
            }
            let arrival = if self.planner.is_empty() { Some(self.intake.wait()) } else { self.hold_back() };
            match arrival {
                Some(Arrival::Stop) => return,
                Some(Arrival::Request(envelope)) => self.admit(envelope),
                Some(Arrival::Refresh(task)) => self.admit_refresh(task),
                None => {}
            }
            self.take_in();
            let now = Instant::now();
            if self.held_until(now).is_some() {
                continue;
            }
            let batch = self.planner.seal(now, &self.executor.cost, &self.executor.residency);
            self.executor.run(batch, &mut self.planner, now);
            self.show();
        }
    }

    /// Until when background work alone waits and holds back.
    fn held_until(&mut self, now: Instant) -> Option<Instant> {
        let Executor { traffic, limits, .. } = &mut self.executor;
        if self.planner.requests() > 0 || self.planner.is_empty() { None } else { traffic.held_until(now, limits) }
    }

    /// Waits as long as background work holds back, at most until something comes in.
    fn hold_back(&mut self) -> Option<Arrival> {
        let until = self.held_until(Instant::now())?;
        self.intake.wait_until(until)
    }

    /// Takes in whatever has arrived meanwhile.
    fn take_in(&mut self) {
        while let Ok(envelope) = self.intake.requests.try_recv() {
            self.admit(envelope);
        }
        while let Ok(task) = self.intake.refreshes.try_recv() {
            self.admit_refresh(task);
        }
    }

    fn admit(&mut self, envelope: Envelope) {
        let Envelope { ask, asked_at, deadline } = envelope;
        let now = Instant::now();
        self.executor.traffic.came(now, matches!(ask, Ask::Score(_)));
        if self.planner.requests() >= self.executor.limits.requests_max {
            for (job, why) in self.planner.purge(now) {
                self.executor.drop_job(job, why, &mut self.planner, now);
            }
        }
        match self.planner.push(Task::from(ask), deadline.0, asked_at, &self.executor.cost) {
            Ok(_) => {}
            Err((task, refused)) => refuse(task, &DeviceError::from(refused)),
        }
    }

    fn admit_refresh(&mut self, task: RefreshTask) {
        let (user, urgency) = (task.user, task.urgency);
        if task.window.is_empty() {
            self.planner.drop_background(user);
            self.executor.residency.forget(user);
            return;
        }
        if self.planner.push_background(user, urgency, Task::Refresh(task), Instant::now()).is_err() {
            self.executor.stats.refresh_refused.add(1);
        }
    }

    /// Moves the gauges.
    fn show(&self) {
        let (stats, residency) = (&self.executor.stats, &self.executor.residency);
        let cache = &residency.cache;
        stats.background_waiting.set(self.planner.background());
        stats.cache_bytes.set(cache.bytes());
        stats.cache_users.set(cache.len());
        stats.evicted(cache.stats().evictions, residency.parked_evictions());
        stats.host_bytes.set(residency.parked_bytes());
    }

    /// The device is lost: readiness goes off, and whoever waits or still comes gets an error.
    fn refuse_all(&mut self, why: &str) {
        tracing::error!(why, "the device is lost: not ready until restarted");
        self.health.send_replace(Health::Failed(why.to_owned()));
        let error = DeviceError::Failed(why.to_owned());
        for job in self.planner.drain() {
            refuse(job.payload, &error);
        }
        loop {
            match self.intake.wait() {
                Arrival::Stop => return,
                Arrival::Request(envelope) => refuse(Task::from(envelope.ask), &error),
                Arrival::Refresh(_) => {}
            }
        }
    }
}

fn refuse(task: Task, error: &DeviceError) {
    // Nobody waits for a reply that cannot be sent.
    match task {
        Task::Encode(task) => drop(task.reply.send(Err(error.clone()))),
        Task::Score(task) => drop(task.reply.send(Err(error.clone()))),
        Task::Refresh(_) => {}
    }
}
