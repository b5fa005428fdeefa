//! What the request path calls: ask the device, get an answer by the deadline.
//!
//! A timer here answers at the deadline, whatever the device is doing. Dropping a future frees its place in the queue at
//! once and its work before the device sees it.

use super::backlog::{Backlog, Claim, NoPlace, Ticket};
use super::cost::Work;
use super::ladder::Degrade;
use super::plan::{Refused, Urgency};
use super::stats::DeviceStats;
use super::task::{Ask, EncodeTask, Envelope, RefreshTask, ScoreTask};
use super::worker::Health;
use crate::deadline::Deadline;
use crate::ids::ItemRow;
use crossbeam_channel::{Sender, TrySendError};
use longbow_model::{Encoded, Scores, Window};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// The part of a user's history that the model reads, oldest first; the three lists are equally long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserWindow {
    /// Rows of the item table; never 0.
    pub items: Vec<ItemRow>,
    /// Actions.
    pub actions: Vec<u16>,
    /// Unix seconds.
    pub times: Vec<i64>,
}

impl UserWindow {
    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The events `range` as the model reads them.
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Window<'_> {
        Window { items: &self.items[range.clone()], actions: &self.actions[range.clone()], times: &self.times[range] }
    }
}

/// A history to encode for a request.
#[derive(Clone, Debug)]
pub struct EncodeRequest {
    /// Key of the user's cached state; `None` for a history that came with the request, of which nothing is kept.
    pub user: Option<u128>,
    /// The history: at most the model's `max_sequence_len` events; may be empty.
    pub window: Arc<UserWindow>,
    /// Time of the request, Unix seconds: the "next time" of the newest event.
    pub query_time: i64,
    /// When this reply is due: the request's deadline less what retrieval and scoring will take.
    pub deadline: Deadline,
    /// The request's place among the promises of the device ([`DeviceHandle::claim`]); without one it takes what time there is.
    pub ticket: Option<Arc<Ticket>>,
}

/// An encoded history.
#[derive(Clone, Debug)]
pub struct EncodeReply {
    /// The retrieval query (absent for an empty history) and the K/V that candidates attend to.
    pub encoded: Arc<Encoded>,
    /// Which form of the history was encoded.
    pub degrade: Degrade,
    /// Rows found in the cache.
    pub rows_reused: usize,
    /// Rows computed for this request.
    pub rows_computed: usize,
    /// From the call to the first work on it.
    pub wait: Duration,
    /// Time of the device batches it was part of.
    pub compute: Duration,
}

/// Candidates to score against an encoded history.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// The history.
    pub encoded: Arc<Encoded>,
    /// Rows of the item table, in the order of the answer.
    pub items: Vec<ItemRow>,
    /// When this reply is due.
    pub deadline: Deadline,
    /// The place of the request that they are for.
    pub ticket: Option<Arc<Ticket>>,
}

/// Scores of candidates.
#[derive(Clone, Debug)]
pub struct ScoreReply {
    /// Probabilities, one row a candidate in the order asked, one column a task.
    pub scores: Scores,
    /// From the call to the first work on it.
    pub wait: Duration,
    /// Time of the device batch it was part of.
    pub compute: Duration,
}

/// Why there is no reply; one variant for each decision of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Overload: 503 for a feed, no-bid for an exchange.
    #[error("the device queue is full")]
    QueueFull,
    /// Overload: what is promised to others leaves no time for it before its deadline.
    #[error("the device has no time for it beside what it has promised")]
    Overloaded,
    /// Nothing useful fits the time left; known before the deadline.
    #[error("the deadline is too near for any encode")]
    DeadlineTooNear,
    /// The deadline passed.
    #[error("the deadline passed while the request waited for the device")]
    Expired,
    /// The device stopped while the request waited: the server is going down.
    #[error("the device is stopping")]
    Cancelled,
    /// Warm-up has not ended: not ready, retry elsewhere.
    #[error("the device is warming up")]
    NotReady,
    /// The request breaks a rule of the model; retrying is useless.
    #[error("{0}")]
    Invalid(String),
    /// The device failed on it; if the device is lost, readiness is off.
    #[error("the device failed: {0}")]
    Failed(String),
}

impl From<Refused> for DeviceError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::QueueFull => Self::QueueFull,
            Refused::DeadlineTooNear => Self::DeadlineTooNear,
        }
    }
}

impl From<NoPlace> for DeviceError {
    fn from(refused: NoPlace) -> Self {
        match refused {
            NoPlace::DeadlineTooNear => Self::DeadlineTooNear,
            NoPlace::Crowded => Self::Overloaded,
        }
    }
}

/// A place among the requests that may wait; given back when the caller's future ends or is dropped.
struct Place<'a>(&'a DeviceStats);

impl<'a> Place<'a> {
    fn take(stats: &'a DeviceStats, waiting_max: u64) -> Option<Self> {
        // Not `then_some`: a place made in vain would be given back.
        stats.waiting.raise(waiting_max).then(|| Self(stats))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.lower();
    }
}

/// The model's limits that a request must keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    pub(super) waiting_max: u64,
    pub(super) history_max: usize,
    pub(super) candidates_max: usize,
}

/// The device, for any number of callers.
#[derive(Clone, Debug)]
pub struct DeviceHandle {
    pub(super) requests: Sender<Envelope>,
    pub(super) refreshes: Sender<RefreshTask>,
    pub(super) closed: Arc<AtomicBool>,
    pub(super) stats: Arc<DeviceStats>,
    pub(super) backlog: Arc<Mutex<Backlog>>,
    pub(super) health: watch::Receiver<Health>,
    pub(super) limits: RequestLimits,
}

impl DeviceHandle {
    /// A place for a request among the promises of the device, before anything is done for it. The history is not known yet:
    /// [`Self::encode`] looks once more.
    ///
    /// # Errors
    /// [`DeviceError::Overloaded`] if it cannot be in time beside those before it, [`DeviceError::DeadlineTooNear`] if not even
    /// alone; not ready or failed as [`Self::encode`].
    pub fn claim(&self, claim: Claim) -> Result<Arc<Ticket>, DeviceError> {
        let outcome = self
            .check_health()
            .and_then(|()| Ticket::take(&self.backlog, claim, Instant::now()).map(Arc::new).map_err(DeviceError::from));
        self.counted(outcome)
    }

    /// Encodes a history: the whole of it if that fits the deadline, else a degraded form.
    ///
    /// # Errors
    /// See [`DeviceError`]; [`DeviceError::QueueFull`] at once, [`DeviceError::Overloaded`] at once or when the device has found out
    /// what of the user is resident, nothing later than the deadline.
    pub async fn encode(&self, request: EncodeRequest) -> Result<EncodeReply, DeviceError> {
        self.check_window(&request.window)?;
        let deadline = request.deadline;
        if let Some(ticket) = &request.ticket {
            self.counted(ticket.grow(request.window.len(), Instant::now()).map_err(DeviceError::from))?;
        }
        let (reply, answer) = oneshot::channel();
        let task = EncodeTask::new(request, reply);
        self.ask(Ask::Encode(Box::new(task)), deadline, answer).await
    }

    /// Scores candidates against an encoded history.
    ///
    /// # Errors
    /// As [`Self::encode`]. Scores have no degraded form.
    pub async fn score(&self, request: ScoreRequest) -> Result<ScoreReply, DeviceError> {
        if request.items.is_empty() || request.items.len() > self.limits.candidates_max {
            let (most, found) = (self.limits.candidates_max, request.items.len());
            return Err(DeviceError::Invalid(format!("candidates: 1 to {most} can be scored at once, found {found}")));
        }
        let deadline = request.deadline;
        if let Some(ticket) = &request.ticket {
            ticket.scores(Work::score(request.items.len(), request.encoded.events()));
        }
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Score(ScoreTask { request, asked_at: Instant::now(), reply }), deadline, answer).await
    }

    /// Brings a user's cached state up to date in idle device time. One entry a user waits: a newer window takes the place of an
    /// older one. Returns false when it was refused because too many wait (counted), or because the window breaks a rule.
    pub fn refresh(&self, user: u128, window: Arc<UserWindow>, urgency: Urgency) -> bool {
        if self.check_window(&window).is_err() {
            return false;
        }
        let sent = self.refreshes.try_send(RefreshTask { user, urgency, window, progress: 0 }).is_ok();
        if !sent {
            self.stats.refresh_refused.add(1);
        }
        sent
    }

    /// Drops a user's states, cached and parked, and the work that waits to make them. What is being computed for a request of this moment
    /// is kept once more. Returns false when it was refused because too many refreshes wait: try again.
    pub fn forget(&self, user: u128) -> bool {
        let none = Arc::new(UserWindow::default());
        self.refreshes.try_send(RefreshTask { user, urgency: Urgency::Degraded, window: none, progress: 0 }).is_ok()
    }

    /// What the device did so far.
    #[must_use]
    pub fn stats(&self) -> &Arc<DeviceStats> {
        &self.stats
    }

    /// State of the device, for readiness.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Waits until warm-up has ended.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] when the device was lost instead.
    pub async fn ready(&self) -> Result<(), DeviceError> {
        let mut health = self.health.clone();
        match health.wait_for(|health| *health != Health::WarmingUp).await.as_deref() {
            Ok(Health::Ready) => Ok(()),
            Ok(Health::Failed(why)) => Err(DeviceError::Failed(why.clone())),
            Ok(Health::WarmingUp) | Err(_) => Err(DeviceError::Cancelled),
        }
    }

    fn check_health(&self) -> Result<(), DeviceError> {
        match &*self.health.borrow() {
            Health::Ready => Ok(()),
            Health::WarmingUp => Err(DeviceError::NotReady),
            Health::Failed(why) => Err(DeviceError::Failed(why.clone())),
        }
    }

    fn check_window(&self, window: &UserWindow) -> Result<(), DeviceError> {
        let len = window.len();
        let invalid = |fault: String| Err(DeviceError::Invalid(fault));
        if len > self.limits.history_max {
            return invalid(format!("history: at most {} events can be encoded, found {len}", self.limits.history_max));
        }
        if window.actions.len() != len || window.times.len() != len {
            return invalid("history: items, actions and times must be equally many".to_owned());
        }
        Ok(())
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        deadline: Deadline,
        answer: oneshot::Receiver<Result<T, DeviceError>>,
    ) -> Result<T, DeviceError> {
        let outcome = self.ask_uncounted(ask, deadline, answer).await;
        self.counted(outcome)
    }

    fn counted<T>(&self, outcome: Result<T, DeviceError>) -> Result<T, DeviceError> {
        let counter = match &outcome {
            Err(DeviceError::QueueFull) => &self.stats.queue_full,
            Err(DeviceError::Overloaded) => &self.stats.overloaded,
            Err(DeviceError::DeadlineTooNear) => &self.stats.too_late,
            Err(DeviceError::Expired) => &self.stats.expired,
            Err(DeviceError::Failed(_)) => &self.stats.failed,
            _ => return outcome,
        };
        counter.add(1);
        outcome
    }

    async fn ask_uncounted<T>(
        &self,
        ask: Ask,
        deadline: Deadline,
        answer: oneshot::Receiver<Result<T, DeviceError>>,
    ) -> Result<T, DeviceError> {
        self.check_health()?;
        let _place = Place::take(&self.stats, self.limits.waiting_max).ok_or(DeviceError::QueueFull)?;
        match self.requests.try_send(Envelope { ask, asked_at: Instant::now(), deadline }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(DeviceError::QueueFull),
            Err(TrySendError::Disconnected(_)) => return Err(DeviceError::Cancelled),
        }
        // Looked at after the request is sent: either the device's last look into the channel finds it, or this finds the
        // device closed.
        if self.closed.load(SeqCst) {
            return Err(DeviceError::Cancelled);
        }
        match tokio::time::timeout_at(deadline.0.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DeviceError::Cancelled),
            Err(_) => Err(DeviceError::Expired),
        }
    }
}
