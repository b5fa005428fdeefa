//! What the planner handles: jobs with their lanes and sizes, the batches it makes of them, and its limits.

use crate::batch::cost::{CostModel, Work};
use std::time::{Duration, Instant};

/// Where a job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Requests that fit one slice.
    Short,
    /// Requests that need several slices.
    Long,
    /// Work nobody waits for.
    Background,
}

impl Lane {
    /// Name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Background => "background",
        }
    }
}

/// Why background work is done; the order is its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A request was answered from less than the whole history.
    Degraded,
    /// Events arrived.
    Events,
    /// A visit is expected.
    Predicted,
}

/// What the planner asks of the job it carries.
pub trait Payload {
    /// What sizing looks at: on the device thread, which users are resident.
    type Context;

    /// True once nobody waits for the reply.
    fn cancelled(&self) -> bool;

    /// How much work is left, if the reply is due within `slack` (`None`: never due). Called when the job arrives, after
    /// each slice, and again when its slack has shrunk below its cost: the place to fall back to something smaller.
    fn size(&mut self, context: &Self::Context, slack: Option<Duration>, cost: &CostModel) -> Size;
}

/// Answer of [`Payload::size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This much is left.
    Work(Work),
    /// Nothing is left to do.
    Nothing,
    /// Nothing useful fits the slack.
    Refuse,
    /// Something useful fits the slack, nothing beside what is promised to others.
    Crowded,
}

/// A request waiting for the device, or being run.
#[derive(Debug)]
pub struct Job<P> {
    /// Unique among the jobs of a planner.
    pub id: u64,
    /// When it was pushed.
    pub arrived: Instant,
    /// When its reply is due; `None` in the background.
    pub deadline: Option<Instant>,
    /// What is left of it, as last sized.
    pub work: Work,
    /// What to do and whom to tell.
    pub payload: P,
    pub(super) background: Option<(u128, Urgency)>,
}

/// Why a job was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many jobs wait as may wait.
    #[error("the device queue is full")]
    QueueFull,
    /// Not even the smallest work would be done in time.
    #[error("the deadline is too near")]
    DeadlineTooNear,
}

/// Why a job left the queue without being run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Nobody waits for it.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// Its deadline cannot be met, not even in a degraded form.
    TooLate,
    /// Its deadline cannot be met beside what is promised to others, or not any more because of what ran before it.
    Crowded,
    /// It turned out that nothing was left to do.
    Nothing,
}

/// What the device runs next: jobs of one lane.
#[derive(Debug)]
pub struct Batch<P> {
    /// The lane of all jobs.
    pub lane: Lane,
    /// In the order to run them. One job if the lane is not [`Lane::Short`].
    pub jobs: Vec<Job<P>>,
    /// Jobs that left the queue at this moment, with the reason.
    pub dropped: Vec<(Job<P>, Dropped)>,
}

/// Bounds of the planner.
#[derive(Clone, Copy, Debug)]
pub struct PlanLimits {
    /// Most requests waiting.
    pub requests_max: usize,
    /// Most background jobs waiting. Each holds a window: up to about 140 KB for 10,000 events.
    pub background_max: usize,
    /// Most jobs in a batch.
    pub batch_jobs_max: usize,
    /// Predicted time of a batch of short requests.
    pub batch_max: Duration,
    /// Predicted time of a slice of a long request, and the bound between the lanes; of a background slice while no requests come.
    pub slice: Duration,
    /// Predicted time of a background slice while requests come: the longest that one of them waits for background work.
    pub background_slice: Duration,
    /// After this long without a request background work runs in whole slices.
    pub quiet: Duration,
    /// After the answer to an encode background work holds back this long for the scores that the same request will ask for.
    pub score_wait: Duration,
    /// Kept back from every deadline for carrying the reply.
    pub reply_margin: Duration,
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self {
            requests_max: 512,
            background_max: 1_024,
            batch_jobs_max: 64,
            batch_max: Duration::from_millis(4),
            slice: Duration::from_millis(6),
            background_slice: Duration::from_millis(1),
            quiet: Duration::from_millis(100),
            // Retrieval lies between the two; most take a fraction of it.
            score_wait: Duration::from_millis(2),
            reply_margin: Duration::from_micros(300),
        }
    }
}
