//! The story of one request: load -> encode -> retrieve -> score -> price -> choose -> record.
//!
//! The first four stages are the same for every caller and stand here. What an exchange gets is decided in [`bid`] and
//! written in [`dress`]; what a feed gets is [`rank`]. [`explain`] tells the story again with every reason.
//!
//! Each stage has a deadline, and none waits for anything but a bounded queue. A stage that cannot be done in time ends the
//! request with a [`Stop`], which each endpoint turns into its caller's terms: a no-bid, or an error with a status.

pub mod bid;
pub mod dress;
pub mod explain;
pub mod rank;
mod window;

pub use window::{WindowCache, WindowLimits};

use crate::app::{App, Generation};
use crate::batch::{Claim, Degrade, DeviceError, EncodeRequest, ScoreRequest, Ticket, UserWindow};
use crate::catalog::{Bitmap, Catalog};
use crate::deadline::Deadline;
use crate::ids::{Id, ItemKey, ItemSlot};
use crate::meters::{Cache, CacheOutcome, NoBid, Stage, StageTimes};
use crate::retrieve::SearchError;
use crate::store::{History, StoreError};
use longbow_index::Hits;
use longbow_model::{Encoded, Scores};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is read of a model's heads, in their order.
pub const TASKS: [&str; 3] = ["click", "conversion", "value"];

/// Whose history is read.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A user of the store.
    Known(Id),
    /// A history that came with the request; nothing of it is kept.
    Given(Arc<History>),
    /// Nobody we may know.
    Unknown,
}

/// What every stage needs of a request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose history is read.
    pub subject: Subject,
    /// Unix seconds: the "next time" of the newest event and the time of the candidates.
    pub query_time: i64,
    /// When the answer must be ready to leave.
    pub deadline: Deadline,
}

/// Why a request ends without an answer of its own; one variant for each decision of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Too little time was left to begin with.
    #[error("the time given is too short for an answer")]
    TooLittleTime,
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// Overload: it cannot be in time beside the requests before it.
    #[error("overloaded: no time is left for it before its deadline beside the requests before it")]
    Overloaded,
    /// A queue is full: overload.
    #[error("overloaded: the {0} queue is full")]
    QueueFull(&'static str),
    /// Warming up or leaving.
    #[error("not ready: {0}")]
    NotReady(&'static str),
    /// The request asks for what the model cannot do.
    #[error("{field}: {fault}")]
    Invalid {
        /// Field at fault.
        field: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// A part of the server failed; the log says more.
    #[error("a part of the server failed: {0}")]
    Failed(String),
}

impl Stop {
    /// The label under which a no-bid for this is counted.
    #[must_use]
    pub fn no_bid(&self) -> NoBid {
        match self {
            Self::TooLittleTime => NoBid::TooLittleTime,
            Self::Deadline => NoBid::Deadline,
            Self::Overloaded => NoBid::Overloaded,
            Self::QueueFull(_) => NoBid::QueueFull,
            Self::NotReady(_) => NoBid::NotReady,
            Self::Invalid { .. } | Self::Failed(_) => NoBid::Failed,
        }
    }
}

impl From<DeviceError> for Stop {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::QueueFull => Self::QueueFull("device"),
            DeviceError::Overloaded => Self::Overloaded,
            DeviceError::DeadlineTooNear => Self::TooLittleTime,
            DeviceError::Expired => Self::Deadline,
            DeviceError::Cancelled => Self::NotReady("leaving"),
            DeviceError::NotReady => Self::NotReady("warming up"),
            DeviceError::Invalid(fault) => Self::Invalid { field: "history", fault },
            DeviceError::Failed(fault) => Self::Failed(fault),
        }
    }
}

impl From<SearchError> for Stop {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::QueueFull => Self::QueueFull("search"),
            SearchError::Expired => Self::Deadline,
            SearchError::Stopped => Self::NotReady("leaving"),
            SearchError::Invalid(fault) | SearchError::Failed(fault) => Self::Failed(fault),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy(_) => Self::QueueFull("store"),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// A user as the later stages see one.
#[derive(Clone)]
pub struct Understood {
    /// What serves this request from here to its end: retrieval and scores are of one model.
    pub generation: Arc<Generation>,
    /// What the user did, as it was found; empty for a user unknown.
    pub history: Arc<History>,
    /// What candidates attend to.
    pub encoded: Arc<Encoded>,
    /// Retrieval query, L2-normalised, one number for each dimension of an item.
    pub query: Arc<[f32]>,
    /// Which form of the history was encoded.
    pub degrade: Degrade,
    /// Events of the history that the model could have read.
    pub events: usize,
    /// The request's place among the promises of the device, kept until it ends.
    ticket: Arc<Ticket>,
}

/// Key of a user in the window and state caches.
#[must_use]
pub fn user_key(user: &Id) -> u128 {
    let digest = Sha256::digest(user.as_str().as_bytes());
    let mut first = [0u8; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(first)
}

/// Finds the history of a request's subject: in memory, else on the store's thread. The key is there for a known user only.
async fn load(app: &App, asked: &Asked) -> Result<(Option<u128>, Arc<History>), Stop> {
    match &asked.subject {
        Subject::Unknown => Ok((None, Arc::default())),
        Subject::Given(history) => Ok((None, Arc::clone(history))),
        Subject::Known(user) => {
            let cached = app.users.cached(user);
            let outcome = if cached.is_some() { CacheOutcome::Hit } else { CacheOutcome::Miss };
            app.meters.cache_lookups.of(Cache::History, outcome).increment(1);
            let history = match cached {
                Some(history) => history,
                None => tokio::time::timeout_at(asked.deadline.0.into(), app.users.load(user))
                    .await
                    .map_err(|_| Stop::Deadline)??,
            };
            Ok((Some(user_key(user)), history))
        }
    }
}

/// Load and encode, for at most so many candidates to be scored afterwards. A request that cannot be in time beside those before it
/// is refused before anything is loaded for it.
///
/// # Errors
/// [`Stop`].
pub async fn understand(
    app: &App,
    asked: &Asked,
    (catalog, candidates): (&Catalog, usize),
    times: &mut StageTimes,
) -> Result<Understood, Stop> {
    // Taken after the catalogue's snapshot: every item of it has a row here.
    let generation = app.generation();
    let deadline = app.encode_deadline(asked.deadline, Instant::now());
    let candidates = if generation.tasks == 0 { 0 } else { candidates };
    let score_by = app.score_deadline(asked.deadline).0;
    let ticket = generation.device.claim(Claim { candidates, encode_by: deadline.0, score_by })?;
    let (user, history) = load(app, asked).await?;
    let (user, window): (_, Arc<UserWindow>) = match user {
        None => (None, Arc::new(generation.translate(catalog, &history))),
        Some(user) => (Some(user), generation.window(user, &history, catalog)),
    };
    times.end(Stage::Load, Instant::now());
    let events = window.len();
    // A clock that runs behind an event's must not turn time around: the newest event is never in the future.
    let query_time = window.times.last().map_or(asked.query_time, |&last| last.max(asked.query_time));
    let request = EncodeRequest { user, window, query_time, deadline, ticket: Some(Arc::clone(&ticket)) };
    let reply = generation.device.encode(request).await?;
    times.add(Stage::EncodeWait, reply.wait);
    times.add(Stage::Encode, reply.compute);
    times.skip_to(Instant::now());
    // A history without events says nothing: the middle of all items stands in, and candidates are still scored.
    let query = match reply.encoded.query() {
        Some(query) => query.into(),
        None => Arc::from(&***generation.everyman.load()),
    };
    Ok(Understood { generation, history, encoded: reply.encoded, query, degrade: reply.degrade, events, ticket })
}

/// The best `k` items for each filter, in the order of the filters.
///
/// # Errors
/// [`Stop`].
pub async fn retrieve(
    understood: &Understood,
    filters: Vec<Arc<Bitmap>>,
    (k, deadline): (usize, Deadline),
    times: &mut StageTimes,
) -> Result<Vec<Hits>, Stop> {
    let filters = filters.into_iter().map(Some).collect();
    let reply = understood.generation.search.search(Arc::clone(&understood.query), filters, k, deadline).await?;
    times.end(Stage::Retrieve, Instant::now());
    Ok(reply.hits)
}

/// Head probabilities of `items`, in their order.
///
/// # Errors
/// [`Stop`].
pub async fn score(
    app: &App,
    understood: &Understood,
    items: &[ItemSlot],
    deadline: Deadline,
    times: &mut StageTimes,
) -> Result<Scores, Stop> {
    let deadline = app.score_deadline(deadline);
    let generation = &understood.generation;
    let rows = generation.rows.rows(items).ok_or_else(|| Stop::Failed("an item has no row".to_owned()))?;
    let (encoded, ticket) = (Arc::clone(&understood.encoded), Some(Arc::clone(&understood.ticket)));
    let request = ScoreRequest { encoded, items: rows, deadline, ticket };
    let reply = generation.device.score(request).await?;
    times.add(Stage::ScoreWait, reply.wait);
    times.add(Stage::Score, reply.compute);
    times.skip_to(Instant::now());
    Ok(reply.scores)
}

/// Predictions of one candidate, from the model's heads in the order click, conversion, value.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// Probability of a click on an impression.
    pub click: f64,
    /// Probability of a conversion after a click.
    pub conversion: f64,
    /// Expected order value over the item's list price: twice the value head's output, so that 0.5 is one unit at list price.
    pub value: f64,
}

impl Prediction {
    /// From the heads' outputs. A model with fewer heads leaves the rest at neutral values: no conversion, list price.
    #[must_use]
    pub fn of(heads: &[f32]) -> Self {
        let head = |at: usize, absent: f32| f64::from(heads.get(at).copied().unwrap_or(absent));
        Self { click: head(0, 0.0), conversion: head(1, 0.0), value: 2.0 * head(2, 0.5) }
    }

    /// Expected order value of one impression over the list price.
    #[must_use]
    pub fn expected(&self) -> f64 {
        self.click * self.conversion * self.value
    }
}

/// A history from events in any order: sorted by time, equal times in the order given.
#[must_use]
pub fn history_of(mut events: Vec<(ItemKey, u16, i64)>) -> Arc<History> {
    events.sort_by_key(|&(_, _, time)| time);
    let mut history = History::default();
    for (item, action, time) in events {
        history.push(item, action, time);
    }
    Arc::new(history)
}

/// The part of `left` that encoding may use; the rest is for retrieval and scoring.
#[must_use]
pub fn encode_share(left: Duration) -> Duration {
    left.mul_f64(0.6)
}
