//! What the device runs next. A pure state machine: no clock, no threads, no IO; times and costs are passed in.
//!
//! **Late sealing.** Nothing is grouped before the device is free; [`Planner::seal`] then takes what waits at that moment.
//!
//! **Lanes.** Short requests (warm users, candidates), long requests (cold histories) and background encodes. Long and
//! background work runs one slice at a time, so a request waits for at most one slice; background slices are shorter while
//! requests come. Short and long take turns while both wait. Background work runs only when no request waits: under lasting overload it starves, which is meant. It is bounded
//! and holds one entry a user, so it cannot grow while it starves.
//!
//! **Order.** Earliest deadline first while that order meets every deadline that can be met; once it cannot, the queue is
//! older than its deadlines, and the newest request goes first: serving the oldest would make every one of them late.
//!
//! **Dropping.** A job whose caller has gone, or whose deadline has passed or cannot be met, leaves before the device sees it.

mod job;

pub use job::{Batch, Dropped, Job, Lane, Payload, PlanLimits, Refused, Size, Urgency};

use super::cost::{CostModel, Work};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// What a batch is sealed by.
struct Moment<'a, P: Payload> {
    now: Instant,
    cost: &'a CostModel,
    context: &'a P::Context,
}

type RequestKey = (Instant, u64);

/// The queue of one device.
#[derive(Debug)]
pub struct Planner<P> {
    limits: PlanLimits,
    next_id: u64,
    incoming: Vec<Job<P>>,
    short: BTreeMap<RequestKey, Job<P>>,
    long: BTreeMap<RequestKey, Job<P>>,
    background: BTreeMap<(Urgency, u64), Job<P>>,
    background_users: HashMap<u128, (Urgency, u64)>,
    long_turn: bool,
}

impl<P: Payload> Planner<P> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: PlanLimits) -> Self {
        Self {
            limits,
            next_id: 0,
            incoming: Vec::new(),
            short: BTreeMap::new(),
            long: BTreeMap::new(),
            background: BTreeMap::new(),
            background_users: HashMap::new(),
            long_turn: false,
        }
    }

    /// Requests waiting.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.incoming.len() + self.short.len() + self.long.len()
    }

    /// Background jobs waiting.
    #[must_use]
    pub fn background(&self) -> usize {
        self.background.len()
    }

    /// True when there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests() == 0 && self.background.is_empty()
    }

    /// Admits a request due at `deadline`.
    ///
    /// # Errors
    /// Returns the payload with the reason when the queue is full, or when not even an empty batch would end in time.
    pub fn push(&mut self, payload: P, deadline: Instant, now: Instant, cost: &CostModel) -> Result<u64, (P, Refused)> {
        if self.requests() >= self.limits.requests_max {
            return Err((payload, Refused::QueueFull));
        }
        if self.slack(deadline, now) <= cost.fixed() {
            return Err((payload, Refused::DeadlineTooNear));
        }
        let id = self.take_id();
        let work = Work::NONE;
        self.incoming.push(Job { id, arrived: now, deadline: Some(deadline), work, payload, background: None });
        Ok(id)
    }

    /// Admits background work for `user`; it takes the place of work already waiting for the same user, and keeps the
    /// more urgent of the two reasons.
    ///
    /// # Errors
    /// Returns the payload when as many users wait as may wait.
    pub fn push_background(
        &mut self,
        user: u128,
        urgency: Urgency,
        payload: P,
        now: Instant,
    ) -> Result<u64, (P, Refused)> {
        let mut urgency = urgency;
        if let Some(waiting) = self.background_users.get(&user).copied() {
            urgency = urgency.min(waiting.0);
            self.background.remove(&waiting);
            self.background_users.remove(&user);
        } else if self.background.len() >= self.limits.background_max {
            return Err((payload, Refused::QueueFull));
        }
        let id = self.take_id();
        let job =
            Job { id, arrived: now, deadline: None, work: Work::NONE, payload, background: Some((user, urgency)) };
        self.file_background(job, user, urgency);
        Ok(id)
    }

    /// Takes out the background work that waits for `user`.
    pub fn drop_background(&mut self, user: u128) {
        if let Some(waiting) = self.background_users.remove(&user) {
            self.background.remove(&waiting);
        }
    }

    /// Takes back a job that has run one slice and is not done. It was admitted already, so no bound refuses it; background
    /// work gives way to newer work for its user.
    pub fn resume(&mut self, job: Job<P>) {
        match job.background {
            None => self.incoming.push(job),
            Some((user, _)) if self.background_users.contains_key(&user) => {}
            Some((user, urgency)) => self.file_background(job, user, urgency),
        }
    }

    /// Removes the requests that nobody waits for and those past their deadline, and returns them. Sealing does the same; calling
    /// it when the queue is full makes room at once.
    pub fn purge(&mut self, now: Instant) -> Vec<(Job<P>, Dropped)> {
        let mut dropped = Vec::new();
        self.drop_dead(now, &mut dropped);
        dropped
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<Job<P>> {
        self.background_users.clear();
        let requests =
            std::mem::take(&mut self.short).into_values().chain(std::mem::take(&mut self.long).into_values());
        let background = std::mem::take(&mut self.background).into_values();
        self.incoming.drain(..).chain(requests).chain(background).collect()
    }

    /// Chooses what runs now. An empty batch means that nothing is left to run.
    pub fn seal(&mut self, now: Instant, cost: &CostModel, context: &P::Context) -> Batch<P> {
        let mut dropped = Vec::new();
        let at = Moment { now, cost, context };
        self.drop_dead(now, &mut dropped);
        for mut job in std::mem::take(&mut self.incoming) {
            let slack = job.deadline.map(|deadline| self.slack(deadline, now));
            match job.payload.size(context, slack, cost) {
                Size::Work(work) => {
                    job.work = work;
                    self.file(job, cost);
                }
                Size::Nothing => dropped.push((job, Dropped::Nothing)),
                Size::Refuse => dropped.push((job, Dropped::TooLate)),
                Size::Crowded => dropped.push((job, Dropped::Crowded)),
            }
        }
        // A job may move between the lanes, or out, while a batch is sought; each step shrinks what waits.
        loop {
            let long_next = !self.long.is_empty() && (self.short.is_empty() || self.long_turn);
            let (lane, jobs) = if long_next {
                self.long_turn = false;
                (Lane::Long, self.seal_long(&at, &mut dropped))
            } else if !self.short.is_empty() {
                self.long_turn = true;
                (Lane::Short, self.seal_short(&at, &mut dropped))
            } else {
                (Lane::Background, self.seal_background(&at, &mut dropped))
            };
            if !jobs.is_empty() || self.is_empty() {
                return Batch { lane, jobs, dropped };
            }
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn slack(&self, deadline: Instant, now: Instant) -> Duration {
        deadline.saturating_duration_since(now).saturating_sub(self.limits.reply_margin)
    }

    fn job_slack(&self, job: &Job<P>, now: Instant) -> Duration {
        job.deadline.map_or(Duration::MAX, |deadline| self.slack(deadline, now))
    }

    fn file(&mut self, job: Job<P>, cost: &CostModel) {
        let key = (job.deadline.unwrap_or(job.arrived), job.id);
        if cost.predict(job.work) <= self.limits.slice {
            self.short.insert(key, job);
        } else {
            self.long.insert(key, job);
        }
    }

    fn file_background(&mut self, job: Job<P>, user: u128, urgency: Urgency) {
        self.background_users.insert(user, (urgency, job.id));
        self.background.insert((urgency, job.id), job);
    }

    /// Removes what nobody waits for and what is past its deadline, wherever it waits. Background work is looked at when its turn
    /// comes: there may be thousands, and none has a deadline.
    fn drop_dead(&mut self, now: Instant, dropped: &mut Vec<(Job<P>, Dropped)>) {
        let verdict = |job: &Job<P>| {
            if job.payload.cancelled() {
                Some(Dropped::Cancelled)
            } else {
                job.deadline.is_some_and(|deadline| now >= deadline).then_some(Dropped::Expired)
            }
        };
        for lane in [&mut self.short, &mut self.long] {
            let dead: Vec<_> = lane.iter().filter_map(|(&key, job)| verdict(job).map(|why| (key, why))).collect();
            dropped.extend(dead.into_iter().filter_map(|(key, why)| lane.remove(&key).map(|job| (job, why))));
        }
        for job in std::mem::take(&mut self.incoming) {
            match verdict(&job) {
                Some(why) => dropped.push((job, why)),
                None => self.incoming.push(job),
            }
        }
    }

    /// True when running the short lane in order of deadlines would make a job late that could be in time.
    fn overloaded(&self, now: Instant, cost: &CostModel) -> bool {
        let mut total = cost.fixed();
        self.short.values().any(|job| {
            let slack = self.job_slack(job, now);
            total += cost.marginal(job.work);
            cost.predict(job.work) <= slack && total > slack
        })
    }

    fn seal_short(&mut self, at: &Moment<'_, P>, dropped: &mut Vec<(Job<P>, Dropped)>) -> Vec<Job<P>> {
        let (now, cost) = (at.now, at.cost);
        let mut order: Vec<RequestKey> = self.short.keys().copied().collect();
        if self.overloaded(now, cost) {
            order.sort_by_key(|key| std::cmp::Reverse(self.short.get(key).map(|job| (job.arrived, job.id))));
        }
        let mut jobs: Vec<Job<P>> = Vec::new();
        let mut bound = self.limits.batch_max;
        let mut total = cost.fixed();
        for key in order {
            if jobs.len() >= self.limits.batch_jobs_max {
                break;
            }
            let Some(job) = self.short.remove(&key) else { continue };
            let slack = self.job_slack(&job, now);
            let Some(job) = self.shrink(job, slack, at, dropped) else { continue };
            let with_it = total + cost.marginal(job.work);
            // The first job runs whatever it costs; a later one must fit the bound, its own slack and that of those before it.
            if !jobs.is_empty() && with_it > bound.min(slack) {
                self.short.insert(key, job);
                break;
            }
            total = with_it;
            bound = bound.min(slack);
            jobs.push(job);
        }
        jobs
    }

    fn seal_long(&mut self, at: &Moment<'_, P>, dropped: &mut Vec<(Job<P>, Dropped)>) -> Vec<Job<P>> {
        let (now, cost) = (at.now, at.cost);
        while let Some((_, job)) = self.long.pop_first() {
            let slack = self.job_slack(&job, now);
            let Some(job) = self.shrink(job, slack, at, dropped) else { continue };
            if cost.predict(job.work) > self.limits.slice {
                return vec![job];
            }
            // It fell back to something small: it belongs to the short requests.
            self.file(job, cost);
            return Vec::new();
        }
        Vec::new()
    }

    fn seal_background(&mut self, at: &Moment<'_, P>, dropped: &mut Vec<(Job<P>, Dropped)>) -> Vec<Job<P>> {
        while let Some((_, mut job)) = self.background.pop_first() {
            if let Some((user, _)) = job.background {
                self.background_users.remove(&user);
            }
            if job.payload.cancelled() {
                dropped.push((job, Dropped::Cancelled));
                continue;
            }
            match job.payload.size(at.context, None, at.cost) {
                Size::Work(work) => {
                    job.work = work;
                    return vec![job];
                }
                Size::Nothing | Size::Refuse | Size::Crowded => dropped.push((job, Dropped::Nothing)),
            }
        }
        Vec::new()
    }

    /// Sizes a job anew when its slack has shrunk below its cost; drops it when nothing fits any more.
    fn shrink(
        &self,
        mut job: Job<P>,
        slack: Duration,
        at: &Moment<'_, P>,
        dropped: &mut Vec<(Job<P>, Dropped)>,
    ) -> Option<Job<P>> {
        let cost = at.cost;
        if cost.predict(job.work) <= slack {
            return Some(job);
        }
        match job.payload.size(at.context, Some(slack), cost) {
            Size::Work(work) if cost.predict(work) <= slack => {
                job.work = work;
                Some(job)
            }
            Size::Nothing => {
                dropped.push((job, Dropped::Nothing));
                None
            }
            // It did fit when it came.
            Size::Work(_) | Size::Refuse | Size::Crowded => {
                dropped.push((job, Dropped::Crowded));
                None
            }
        }
    }
}
