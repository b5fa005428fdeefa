//! Runs what the planner sealed on the encoder, and tells the callers.

use super::backlog::{self, Backlog};
use super::cost::{CostModel, Work};
use super::handle::{DeviceError, EncodeReply, ScoreReply};
use super::ladder::{Degrade, Step};
use super::plan::{Batch, Dropped, Job, Lane, PlanLimits, Planner, Urgency};
use super::residency::Residency;
use super::stats::{DeviceStats, Ran};
use super::task::{EncodeTask, RefreshTask, ScoreTask, Task};
use super::traffic::Traffic;
use arc_swap::ArcSwap;
use longbow_model::{Advance, EncodeError, Encoder, Finish, ItemTable, Score, StateKey, UserState};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a call of the encoder gave nothing.
pub(super) enum Fault {
    /// One of its jobs breaks a rule; nothing has changed.
    Refused(EncodeError),
    /// It panicked: its state is not to be trusted again.
    Lost(String),
}

impl From<&Fault> for DeviceError {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Refused(EncodeError::Kernel(why)) => Self::Failed(why.clone()),
            Fault::Refused(error) => Self::Invalid(error.to_string()),
            Fault::Lost(why) => Self::Failed(why.clone()),
        }
    }
}

/// The encoder, the states and the cost model: everything that only the device thread touches.
pub(super) struct Executor {
    pub(super) encoder: Box<dyn Encoder>,
    pub(super) items: Arc<ArcSwap<ItemTable>>,
    pub(super) residency: Residency,
    pub(super) cost: CostModel,
    pub(super) limits: PlanLimits,
    pub(super) stats: Arc<DeviceStats>,
    pub(super) traffic: Traffic,
    pub(super) backlog: Arc<Mutex<Backlog>>,
    /// Set once the encoder has panicked.
    pub(super) lost: Option<String>,
}

/// An encode with the state it works on, taken out of the cache for the while.
struct Lease {
    job: Job<Task>,
    state: UserState,
    key: Option<StateKey>,
    /// Final rows already there.
    ready: usize,
    /// Final rows to compute before the last.
    missing: usize,
}

impl Lease {
    fn task(&mut self) -> Option<&mut EncodeTask> {
        match &mut self.job.payload {
            Task::Encode(task) => Some(task),
            Task::Score(_) | Task::Refresh(_) => None,
        }
    }
}

impl Executor {
    /// Calls the encoder; a panic is caught and marks the device as lost.
    pub(super) fn call<T>(
        &mut self,
        run: impl FnOnce(&mut dyn Encoder) -> Result<T, EncodeError>,
    ) -> Result<(T, Duration), Fault> {
        let began = Instant::now();
        let encoder = &mut *self.encoder;
        match catch_unwind(AssertUnwindSafe(|| run(encoder))) {
            Ok(Ok(result)) => Ok((result, began.elapsed())),
            Ok(Err(error)) => Err(Fault::Refused(error)),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                let why = format!("the encoder panicked: {text}");
                self.lost = Some(why.clone());
                Err(Fault::Lost(why))
            }
        }
    }

    /// Runs a sealed batch. Jobs that are not done afterwards go back to the planner.
    pub(super) fn run(&mut self, batch: Batch<Task>, planner: &mut Planner<Task>, now: Instant) {
        for (job, why) in batch.dropped {
            self.drop_job(job, why, planner, now);
        }
        if batch.jobs.is_empty() {
            return;
        }
        let began = Instant::now();
        let (count, work) = (batch.jobs.len(), batch.jobs.iter().fold(Work::NONE, |sum, job| sum.plus(job.work)));
        let predicted = match batch.lane {
            Lane::Short => self.cost.predict(work),
            Lane::Long => self.cost.predict(work).min(self.limits.slice),
            Lane::Background => self.cost.predict(work).min(self.traffic.slice(began, &self.limits)),
        };
        backlog::begin(&self.backlog, batch.jobs.iter().filter_map(|job| job.payload.ticket()), began + predicted);
        match batch.lane {
            Lane::Short => self.run_short(batch.jobs, planner),
            Lane::Long | Lane::Background => batch.jobs.into_iter().for_each(|job| self.run_slice(job, planner)),
        }
        backlog::end(&self.backlog, self.cost);
        let (jobs, rows) = (count as u64, work.rows + work.candidates);
        self.stats.ran(batch.lane, &Ran { jobs, rows, predicted, took: began.elapsed() });
    }

    /// Tells the caller of a job that left the queue unrun. A user whose encode was not done in time is encoded in
    /// the background, so that the next request finds the user warm.
    pub(super) fn drop_job(&mut self, job: Job<Task>, why: Dropped, planner: &mut Planner<Task>, now: Instant) {
        let error = match why {
            _ if job.deadline.is_none_or(|deadline| now >= deadline) => DeviceError::Expired,
            Dropped::TooLate => DeviceError::DeadlineTooNear,
            Dropped::Crowded => DeviceError::Overloaded,
            Dropped::Cancelled | Dropped::Expired | Dropped::Nothing => DeviceError::Expired,
        };
        let late =
            matches!(why, Dropped::TooLate | Dropped::Crowded) || job.deadline.is_some_and(|deadline| now >= deadline);
        // A caller that timed out has counted itself; one that went away earlier can't.
        if why == Dropped::Cancelled && !late {
            self.stats.cancelled.add(1);
        }
        match job.payload {
            Task::Encode(task) => {
                if late {
                    self.encode_later(&task, planner, now);
                }
                let _ = task.reply.send(Err(error));
            }
            Task::Score(task) => {
                let _ = task.reply.send(Err(error));
            }
            Task::Refresh(task) if task.progress > 0 => {
                self.stats.refresh_abandoned.add(1);
            }
            Task::Refresh(_) => {}
        }
    }

    fn encode_later(&self, task: &EncodeTask, planner: &mut Planner<Task>, now: Instant) {
        let Some(user) = task.request.user else { return };
        let urgency = Urgency::Degraded;
        let refresh = RefreshTask { user, urgency, window: Arc::clone(&task.request.window), progress: 0 };
        if planner.push_background(user, urgency, Task::Refresh(refresh), now).is_err() {
            self.stats.refresh_refused.add(1);
        }
    }

    fn run_short(&mut self, jobs: Vec<Job<Task>>, planner: &mut Planner<Task>) {
        let (mut scores, mut encodes) = (Vec::new(), Vec::new());
        for job in jobs {
            match job.payload {
                Task::Score(task) => scores.push(task),
                Task::Encode(_) | Task::Refresh(_) => encodes.push(job),
            }
        }
        self.run_scores(scores);
        // One state cannot be advanced twice in one call: a user's second request runs in the next round, and finds the rows there.
        while !encodes.is_empty() {
            let mut users = HashSet::new();
            let (round, rest) = encodes.into_iter().partition(|job: &Job<Task>| match &job.payload {
                Task::Encode(task) => task.cached_user().is_none_or(|user| users.insert(user)),
                Task::Score(_) | Task::Refresh(_) => true,
            });
            let leases = round_leases(self, round, planner);
            self.run_encodes(leases, planner);
            encodes = rest;
        }
    }

    fn run_scores(&mut self, tasks: Vec<ScoreTask>) {
        let tasks: Vec<_> = tasks.into_iter().filter(|task| !task.reply.is_closed()).collect();
        if tasks.is_empty() {
            return;
        }
        if let Some(why) = self.lost.clone() {
            return tasks.into_iter().for_each(|task| drop(task.reply.send(Err(DeviceError::Failed(why.clone())))));
        }
        let began = Instant::now();
        let items = self.items.load_full();
        let work = tasks.iter().fold(Work::NONE, |sum, task| {
            sum.plus(Work::score(task.request.items.len(), task.request.encoded.events()))
        });
        let jobs: Vec<Score<'_>> = tasks
            .iter()
            .map(|t| Score { encoded: &t.request.encoded, items: &items, candidates: &t.request.items })
            .collect();
        let outcome = self.call(|encoder| encoder.score(&jobs));
        drop(jobs);
        match outcome {
            Ok((all, compute)) => {
                self.cost.observe(work, compute);
                self.stats.scored.add(all.len() as u64);
                for (task, scores) in tasks.into_iter().zip(all) {
                    let wait = began.saturating_duration_since(task.asked_at);
                    let _ = task.reply.send(Ok(ScoreReply { scores, wait, compute }));
                }
            }
            // One bad request must not spoil its neighbours: each runs alone.
            Err(Fault::Refused(_)) if tasks.len() > 1 => {
                tasks.into_iter().for_each(|task| self.run_scores(vec![task]));
            }
            Err(fault) => {
                let error = DeviceError::from(&fault);
                tasks.into_iter().for_each(|task| drop(task.reply.send(Err(error.clone()))));
            }
        }
    }

    fn lease(&mut self, mut job: Job<Task>) -> Option<Lease> {
        let Task::Encode(task) = &mut job.payload else { return None };
        let key = task.cached_user().map(|user| self.residency.key(user));
        let part = task.request.window.part(task.range());
        let kept = match key {
            Some(key) => self.state_of(&key, &part),
            None => task.own.take(),
        };
        let state = kept.unwrap_or_else(|| self.residency.blank.clone());
        let missing = state.rows_missing(&part);
        task.started.get_or_insert_with(Instant::now);
        let ready = part.len().saturating_sub(1) - missing;
        task.rows_reused.get_or_insert(ready);
        Some(Lease { job, state, key, ready, missing })
    }

    /// Puts the state back where it came from; the job can then be run again.
    fn release(&mut self, lease: Lease) -> Job<Task> {
        let Lease { mut job, state, key, .. } = lease;
        if let Task::Encode(task) = &mut job.payload {
            let part = task.request.window.part(task.range());
            task.progress = state.rows_valid(&part);
            match key {
                Some(key) => self.keep(key, state),
                None => task.own = Some(state),
            }
        }
        job
    }

    /// Computes what is missing and the last rows, and replies.
    fn run_encodes(&mut self, mut leases: Vec<Lease>, planner: &mut Planner<Task>) {
        if leases.is_empty() {
            return;
        }
        let items = self.items.load_full();
        let outcome = self.call(|encoder| {
            let mut jobs = Vec::with_capacity(leases.len());
            for lease in leases.iter_mut().filter(|lease| lease.missing > 0) {
                let Task::Encode(task) = &lease.job.payload else { continue };
                let window = task.request.window.part(task.range());
                jobs.push(Advance { state: &mut lease.state, window, items: &items, rows_max: lease.missing });
            }
            if !jobs.is_empty() {
                encoder.advance(&mut jobs)?;
            }
            drop(jobs);
            let mut jobs = Vec::with_capacity(leases.len());
            for lease in &leases {
                let Task::Encode(task) = &lease.job.payload else { continue };
                let (window, query_time) = (task.request.window.part(task.range()), task.request.query_time);
                jobs.push(Finish { state: &lease.state, window, items: &items, query_time });
            }
            encoder.finish(&jobs)
        });
        match outcome {
            Ok((all, took)) => {
                let work = leases.iter().fold(Work::NONE, |sum, lease| {
                    sum.plus(Work::encode(lease.ready, lease.ready + lease.missing + 1))
                });
                self.cost.observe(work, took);
                for (lease, encoded) in leases.into_iter().zip(all) {
                    self.reply(lease, Arc::new(encoded), took, planner);
                }
            }
            Err(Fault::Refused(_)) if leases.len() > 1 => {
                let jobs: Vec<_> = leases.into_iter().map(|lease| self.release(lease)).collect();
                for job in jobs {
                    let lease = self.lease(job);
                    self.run_encodes(lease.into_iter().collect(), planner);
                }
            }
            Err(fault) => self.fail(leases, &fault),
        }
    }

    /// After a refusal the state is as it was and goes back; after a panic it is not trusted.
    fn fail(&mut self, leases: Vec<Lease>, fault: &Fault) {
        for lease in leases {
            let job = if self.lost.is_some() { lease.job } else { self.release(lease) };
            if let Task::Encode(task) = job.payload {
                let _ = task.reply.send(Err(DeviceError::from(fault)));
            }
        }
    }

    fn reply(
        &mut self,
        mut lease: Lease,
        encoded: Arc<longbow_model::Encoded>,
        took: Duration,
        planner: &mut Planner<Task>,
    ) {
        let missing = lease.missing;
        if let Some(task) = lease.task() {
            task.rows_computed += missing + 1;
            task.compute += took;
        }
        let arrived = lease.job.arrived;
        let Task::Encode(task) = self.release(lease).payload else { return };
        let degrade = task.degrade();
        if degrade != Degrade::Full {
            self.encode_later(&task, planner, Instant::now());
        }
        let rows_reused = task.rows_reused.unwrap_or(0);
        self.stats.replies(degrade).add(1);
        self.stats.looked_up(rows_reused, task.range().len().saturating_sub(1));
        self.stats.rows_reused.add(rows_reused as u64);
        self.stats.rows_computed.add(task.rows_computed as u64);
        self.traffic.encoded(Instant::now());
        let _ = task.reply.send(Ok(EncodeReply {
            encoded,
            degrade,
            rows_reused,
            rows_computed: task.rows_computed,
            wait: task.started.map_or(Duration::ZERO, |started| started.saturating_duration_since(arrived)),
            compute: task.compute,
        }));
    }

    /// One slice of a long or a background encode.
    fn run_slice(&mut self, job: Job<Task>, planner: &mut Planner<Task>) {
        match job.payload {
            Task::Refresh(_) => self.run_refresh(job, planner),
            Task::Encode(_) => self.run_long(job, planner),
            // Scores are never cut; a very long list of candidates runs whole.
            Task::Score(task) => self.run_scores(vec![task]),
        }
    }

    fn slice_rows(&self, slice: Duration, ready: usize, missing: usize) -> usize {
        self.cost.rows_within(slice, ready, missing).min(missing)
    }

    fn run_long(&mut self, job: Job<Task>, planner: &mut Planner<Task>) {
        let Some(mut lease) = self.lease(job) else { return };
        // Only the last row is left, and even that is more than a short batch may take: no slice can cut it.
        if lease.missing == 0 {
            return self.run_encodes(vec![lease], planner);
        }
        let items = self.items.load_full();
        let rows_max = self.slice_rows(self.limits.slice, lease.ready, lease.missing);
        let Task::Encode(task) = &lease.job.payload else { return };
        let window = Arc::clone(&task.request.window);
        let part = window.part(task.range());
        let state = &mut lease.state;
        let outcome = self.call(|e| e.advance(&mut [Advance { state, window: part, items: &items, rows_max }]));
        match outcome {
            Ok(((), took)) => {
                self.cost.observe(Work::append(lease.ready, rows_max), took);
                if let Some(task) = lease.task() {
                    task.rows_computed += rows_max;
                    task.compute += took;
                }
                let job = self.release(lease);
                planner.resume(job);
            }
            Err(fault) => self.fail(vec![lease], &fault),
        }
    }

    fn run_refresh(&mut self, mut job: Job<Task>, planner: &mut Planner<Task>) {
        let Task::Refresh(task) = &mut job.payload else { return };
        let key = self.residency.key(task.user);
        let window = Arc::clone(&task.window);
        let part = window.part(0..window.len());
        let mut state = self.state_of(&key, &part).unwrap_or_else(|| self.residency.blank.clone());
        let (ready, missing) = (state.rows_valid(&part), state.rows_missing(&part));
        let rows_max = self.slice_rows(self.traffic.slice(Instant::now(), &self.limits), ready, missing);
        let items = self.items.load_full();
        let jobs = &mut [Advance { state: &mut state, window: part, items: &items, rows_max }];
        let outcome = self.call(|encoder| encoder.advance(jobs));
        if self.lost.is_none() {
            self.keep(key, state);
        }
        let Ok(((), took)) = outcome else {
            self.stats.refresh_abandoned.add(1);
            return;
        };
        self.cost.observe(Work::append(ready, rows_max), took);
        task.progress = ready + rows_max;
        if rows_max < missing {
            planner.resume(job);
        } else {
            self.stats.refreshed.add(1);
        }
    }
}

/// Leases for one round. A stale form whose state has left the cache meanwhile is planned anew.
fn round_leases(executor: &mut Executor, round: Vec<Job<Task>>, planner: &mut Planner<Task>) -> Vec<Lease> {
    let mut leases = Vec::with_capacity(round.len());
    for job in round {
        if super::plan::Payload::cancelled(&job.payload) {
            continue;
        }
        let planned = job.work.rows;
        let Some(mut lease) = executor.lease(job) else { continue };
        // More rows than planned: the state was evicted after it was sized. It would run far longer than its batch may.
        let evicted = lease.missing as u64 + 1 > planned;
        if evicted && lease.task().is_some() {
            if let Some(task) = lease.task() {
                task.step = task.step.filter(|step| !matches!(step, Step::Stale { .. }));
                task.rows_reused = None;
            }
            let job = executor.release(lease);
            planner.resume(job);
            continue;
        }
        leases.push(lease);
    }
    leases
}
