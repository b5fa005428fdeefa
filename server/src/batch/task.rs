//! What travels from a handle to the device thread, and how much work is left in it.

use super::backlog::Ticket;
use super::cost::{CostModel, Work};
use super::handle::{DeviceError, EncodeReply, EncodeRequest, ScoreReply, ScoreRequest, UserWindow};
use super::ladder::{Ask as LadderAsk, Degrade, Room, Step};
use super::plan::{Payload, Size, Urgency};
use super::residency::Residency;
use crate::deadline::Deadline;
use longbow_model::UserState;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The slack of a request that is never due.
const SLACK_MAX: Duration = Duration::from_secs(3_600);

/// Where a reply goes. A closed channel means that nobody waits.
pub(super) type Reply<T> = oneshot::Sender<Result<T, DeviceError>>;

/// A request on its way to the device thread.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) ask: Ask,
    pub(super) asked_at: Instant,
    pub(super) deadline: Deadline,
}

/// What a request wants of the device.
#[derive(Debug)]
pub(super) enum Ask {
    Encode(Box<EncodeTask>),
    Score(ScoreTask),
}

/// An encode under way.
#[derive(Debug)]
pub(super) struct EncodeTask {
    pub(super) request: EncodeRequest,
    pub(super) reply: Reply<EncodeReply>,
    /// The form chosen so far; `None` before the first look.
    pub(super) step: Option<Step>,
    /// The state under way, where it is not the cached one: of a shorter history, of a history without a user, or of a user
    /// whose state the cache could not hold.
    pub(super) own: Option<UserState>,
    /// Rows the cached state held after the last slice.
    pub(super) progress: usize,
    pub(super) rows_reused: Option<usize>,
    pub(super) rows_computed: usize,
    /// When its first work began.
    pub(super) started: Option<Instant>,
    pub(super) compute: Duration,
}

/// A score under way.
#[derive(Debug)]
pub(super) struct ScoreTask {
    pub(super) request: ScoreRequest,
    /// When the caller asked.
    pub(super) asked_at: Instant,
    pub(super) reply: Reply<ScoreReply>,
}

/// A background encode.
#[derive(Debug)]
pub(super) struct RefreshTask {
    pub(super) user: u128,
    pub(super) urgency: Urgency,
    /// Without events: nothing is to be kept of the user.
    pub(super) window: Arc<UserWindow>,
    /// Rows the cached state held after the last slice.
    pub(super) progress: usize,
}

/// A job of the device's planner.
#[derive(Debug)]
pub(super) enum Task {
    Encode(Box<EncodeTask>),
    Score(ScoreTask),
    Refresh(RefreshTask),
}

impl From<Ask> for Task {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Encode(task) => Self::Encode(task),
            Ask::Score(task) => Self::Score(task),
        }
    }
}

impl EncodeTask {
    pub(super) fn new(request: EncodeRequest, reply: Reply<EncodeReply>) -> Self {
        Self {
            request,
            reply,
            step: None,
            own: None,
            progress: 0,
            rows_reused: None,
            rows_computed: 0,
            started: None,
            compute: Duration::ZERO,
        }
    }

    /// The events that the chosen form encodes.
    pub(super) fn range(&self) -> Range<usize> {
        let len = self.request.window.len();
        match self.step {
            Some(Step::Stale { len: first }) => 0..first.min(len),
            Some(Step::Recent { len: newest }) => len - newest.min(len)..len,
            Some(Step::Full | Step::Refuse) | None => 0..len,
        }
    }

    /// The user whose cached state this encode works on; `None` if it works on a state of its own.
    pub(super) fn cached_user(&self) -> Option<u128> {
        let own = self.own.is_some() || matches!(self.step, Some(Step::Recent { .. }));
        if own { None } else { self.request.user }
    }

    pub(super) fn degrade(&self) -> Degrade {
        match self.step {
            Some(Step::Stale { .. }) => Degrade::Stale,
            Some(Step::Recent { .. }) => Degrade::Recent,
            Some(Step::Full | Step::Refuse) | None => Degrade::Full,
        }
    }

    /// Final rows already there for the chosen form.
    fn rows_ready(&self, residency: &Residency, cost: &CostModel) -> usize {
        let part = self.request.window.part(self.range());
        match (&self.own, self.cached_user()) {
            (Some(state), _) => state.rows_valid(&part),
            (None, Some(user)) => residency.rows(user, &part, cost),
            (None, None) => 0,
        }
    }

    fn size(&mut self, residency: &Residency, slack: Duration, cost: &CostModel) -> Size {
        let window = &self.request.window;
        if matches!(self.step, Some(Step::Full | Step::Recent { .. })) {
            // Under way: kept as long as what is left fits, whatever the ladder would choose for a fresh start.
            let ready = self.rows_ready(residency, cost);
            if self.cached_user().is_some() && ready < self.progress {
                // The cache could not hold the state from one slice to the next: go on with one of our own.
                self.own = Some(residency.blank.clone());
                return self.size(residency, slack, cost);
            }
            let work = Work::encode(ready, self.range().len());
            if cost.predict(work) <= slack {
                return self.sized(work);
            }
        }
        let whole = window.part(0..window.len());
        let cached = self.request.user.map_or(0, |user| residency.rows(user, &whole, cost));
        let place = self.request.ticket.as_ref().map(|ticket| ticket.room(Instant::now()));
        let (candidates, room) = place.unwrap_or((0, Room::ALL));
        let choose =
            |room| residency.ladder.choose(LadderAsk { len: window.len(), cached, slack, candidates, room }, cost);
        let step = choose(room);
        let alone = if step == Step::Refuse { choose(Room::ALL) } else { step };
        self.own = None;
        self.progress = 0;
        self.step = Some(step);
        match (step, alone) {
            (Step::Refuse, Step::Refuse) => Size::Refuse,
            (Step::Refuse, _) => Size::Crowded,
            _ => self.sized(Work::encode(self.rows_ready(residency, cost), self.range().len())),
        }
    }

    /// Promised from now on: what is left, and the scores that follow.
    fn sized(&self, work: Work) -> Size {
        if let Some(ticket) = &self.request.ticket {
            ticket.sized(work, self.range().len());
        }
        Size::Work(work)
    }
}

impl Task {
    /// The promise that it keeps, and whether that is for scores.
    pub(super) fn ticket(&self) -> Option<(&Ticket, bool)> {
        match self {
            Self::Encode(task) => task.request.ticket.as_deref().map(|ticket| (ticket, false)),
            Self::Score(task) => task.request.ticket.as_deref().map(|ticket| (ticket, true)),
            Self::Refresh(_) => None,
        }
    }
}

impl Payload for Task {
    type Context = Residency;

    fn cancelled(&self) -> bool {
        match self {
            Self::Encode(task) => task.reply.is_closed(),
            Self::Score(task) => task.reply.is_closed(),
            Self::Refresh(_) => false,
        }
    }

    fn size(&mut self, residency: &Residency, slack: Option<Duration>, cost: &CostModel) -> Size {
        match self {
            Self::Encode(task) => task.size(residency, slack.unwrap_or(SLACK_MAX), cost),
            Self::Score(task) => {
                let work = Work::score(task.request.items.len(), task.request.encoded.events());
                match slack.is_some_and(|slack| cost.predict(work) > slack) {
                    false => Size::Work(work),
                    // They would have been in time, had all gone as predicted.
                    true if task.request.ticket.is_some() => Size::Crowded,
                    true => Size::Refuse,
                }
            }
            Self::Refresh(task) => {
                let whole = task.window.part(0..task.window.len());
                let ready = residency.rows(task.user, &whole, cost);
                let missing = whole.len().saturating_sub(1).saturating_sub(ready);
                if missing == 0 || ready < task.progress {
                    return Size::Nothing;
                }
                Size::Work(Work::append(ready, missing))
            }
        }
    }
}
