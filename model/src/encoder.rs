//! What an encoder does for a request, and what goes in and out.
//!
//! A request is: [`Encoder::advance`] until the user's state holds every final row of the window, then
//! [`Encoder::finish`] for the last row (the retrieval query), then [`Encoder::score`] for the candidates.

use std::time::Duration;

use crate::config::Config;
use crate::items::ItemTable;
use crate::model::Version;
use crate::state::{Encoded, UserState};
use crate::window::{Window, check_time};

/// What a job was made with is what the encoder computes with.
pub(crate) fn check_version(expected: Version, found: Version) -> Result<(), EncodeError> {
    if found == expected { Ok(()) } else { Err(EncodeError::Version { expected, found }) }
}

/// A job can be finished by a model of this version, as `held` rows of its state are right.
pub(crate) fn check_finish(
    job: &Finish<'_>,
    (config, version): (&Config, Version),
    held: usize,
) -> Result<(), EncodeError> {
    check_version(version, job.state.version())?;
    job.window.check_lengths(config)?;
    check_time(job.query_time, job.window.len())?;
    let needed = job.window.len().saturating_sub(1);
    if held < needed {
        return Err(EncodeError::Behind { held, needed });
    }
    job.window.check_rows(needed, config, job.items)
}

/// Why rows were not encoded. Nothing has changed in that case, in no job of the call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The window's three lists differ in length.
    #[error("window: {items} items, {actions} actions and {times} times must be equally many")]
    Ragged {
        /// Items given.
        items: usize,
        /// Actions given.
        actions: usize,
        /// Times given.
        times: usize,
    },
    /// The window is longer than the model's history: cut it at [`crate::window_start`].
    #[error("window of {len} events is longer than max_sequence_len {max}")]
    WindowTooLong {
        /// Events given.
        len: usize,
        /// Events the model takes.
        max: usize,
    },
    /// An item that the table does not have.
    #[error("item {item} (at {at}) is not in the item table of {rows} rows")]
    UnknownItem {
        /// The item slot.
        item: u32,
        /// Its place in the window or among the candidates.
        at: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// Item 0, which is the padding row.
    #[error("item 0 (at {at}) is the padding row, not an item")]
    PaddingItem {
        /// Its place in the window or among the candidates.
        at: usize,
    },
    /// An action that the model does not know.
    #[error("action {action} (event {at}) is outside the model's {known} actions")]
    UnknownAction {
        /// The action.
        action: u16,
        /// Place of the event in the window.
        at: usize,
        /// Actions of the model.
        known: usize,
    },
    /// A time too far from 1970 to be a time in seconds.
    #[error("time {time} (at {at}) is outside +-2^53 seconds")]
    TimeOutOfRange {
        /// The time.
        time: i64,
        /// Place of the event in the window; the window's length for the query time.
        at: usize,
    },
    /// The state does not hold all rows before the last: call [`Encoder::advance`] first.
    #[error("the state holds {held} of the {needed} final rows of this window: advance it first")]
    Behind {
        /// Rows of the state that are right for this window.
        held: usize,
        /// Rows needed.
        needed: usize,
    },
    /// The state or the encoded history is of another model.
    #[error("state of model {found}, but the encoder has model {expected}")]
    Version {
        /// The encoder's model.
        expected: Version,
        /// The state's model.
        found: Version,
    },
    /// The item table has rows of another width than the model.
    #[error("item table rows have {found} numbers, the model's have {expected}")]
    TableWidth {
        /// Width of the model's rows.
        expected: usize,
        /// Width of the table's rows.
        found: usize,
    },
    /// The model has no heads (`num_tasks` is 0), so it cannot score.
    #[error("the model has no heads (num_tasks is 0): it can retrieve, but not score")]
    NoHeads,
    /// The computation itself failed: a fault of this library.
    #[error("kernel: {0}")]
    Kernel(String),
}

/// Final rows to add to a state.
#[derive(Debug)]
pub struct Advance<'a> {
    /// The user's state; what it holds is checked against the window, event by event.
    pub state: &'a mut UserState,
    /// The history.
    pub window: Window<'a>,
    /// The embeddings.
    pub items: &'a ItemTable,
    /// Most rows to add in this call.
    pub rows_max: usize,
}

/// A last row to compute.
#[derive(Debug, Clone, Copy)]
pub struct Finish<'a> {
    /// A state that holds at least all but the last row of the window.
    pub state: &'a UserState,
    /// The history; it may be a beginning of what the state holds.
    pub window: Window<'a>,
    /// The embeddings.
    pub items: &'a ItemTable,
    /// Time of the request, seconds: the last row's "next time", and the candidates' time.
    pub query_time: i64,
}

/// Candidates to score.
#[derive(Debug, Clone, Copy)]
pub struct Score<'a> {
    /// The encoded history.
    pub encoded: &'a Encoded,
    /// The embeddings.
    pub items: &'a ItemTable,
    /// Item slots.
    pub candidates: &'a [u32],
}

/// Head probabilities of one job's candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// T: tasks of the model.
    pub tasks: usize,
    /// `[C, T]` in the order of the candidates, each in 0..=1.
    pub probs: Vec<f32>,
}

impl Scores {
    /// The T probabilities of candidate `at`.
    ///
    /// # Panics
    /// Where there is no such candidate, as slice indexing does.
    #[must_use]
    pub fn row(&self, at: usize) -> &[f32] {
        &self.probs[at * self.tasks..(at + 1) * self.tasks]
    }

    /// Candidates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.probs.len().checked_div(self.tasks).unwrap_or(0)
    }

    /// Whether there are no candidates.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.probs.is_empty()
    }
}

/// Host memory beside a device's own, for the K/V of users whom the device has no room for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostTier {
    /// Bytes set aside for K/V.
    pub bytes: usize,
    /// Bytes a second from there to the device, as measured.
    pub rate: f64,
}

/// What a reload takes beside its bytes: the calls, and the wait for their end.
const RELOAD_FIXED: Duration = Duration::from_micros(50);

impl HostTier {
    /// Time in which `bytes` bytes come back to the device.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bytes of one user are far below 2^52")]
    pub fn reload(&self, bytes: usize) -> Duration {
        // A rate that is none is "never", and keeps the conversion from overflowing.
        let seconds = bytes as f64 / self.rate.max(1.0);
        RELOAD_FIXED + Duration::from_secs_f64(seconds.clamp(0.0, 3_600.0))
    }

    /// Whether `bytes` bytes come back sooner than they are computed anew.
    #[must_use]
    pub fn pays(&self, bytes: usize, recompute: Duration) -> bool {
        self.reload(bytes) < recompute
    }
}

/// Encodes histories and scores candidates.
///
/// A job's result depends on nothing but that job, bit for bit: neither on the other jobs of the call nor on
/// their order. A call fails as a whole, and before it changes anything, so check windows with
/// [`Window::check`] where one request must not spoil another's batch.
pub trait Encoder: Send {
    /// Shapes of the model.
    fn config(&self) -> &Config;

    /// The model's version.
    fn version(&self) -> Version;

    /// An empty state for a user of this model.
    fn new_state(&self) -> UserState {
        UserState::new(self.config(), self.version())
    }

    /// Adds final rows to each state until it holds all but the last row of its window, at most `rows_max` rows
    /// a job. Rows that do not fit the window are dropped first; a state that holds more than the window asks
    /// for is left as it is.
    ///
    /// # Errors
    /// [`EncodeError`]; no state has changed then.
    fn advance(&mut self, jobs: &mut [Advance<'_>]) -> Result<(), EncodeError>;

    /// Computes the last row of each window: the retrieval query and the row's own K/V.
    ///
    /// # Errors
    /// [`EncodeError`], among them [`EncodeError::Behind`] where a state is not far enough.
    fn finish(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError>;

    /// Scores candidates against the whole history.
    ///
    /// # Errors
    /// [`EncodeError`], among them [`EncodeError::NoHeads`].
    fn score(&mut self, jobs: &[Score<'_>]) -> Result<Vec<Scores>, EncodeError>;

    /// Host memory for states that the device has no room for; none where states are in host memory anyway, or none is set aside.
    fn host_tier(&self) -> Option<HostTier> {
        None
    }

    /// Moves a state's K/V from the device to the host memory set aside for that, where [`Encoder::unpark`] finds them; it is of
    /// no use to the other calls meanwhile. False, and the state as it was, where there is no such memory left.
    fn park(&mut self, _state: &mut UserState) -> bool {
        false
    }

    /// Brings the K/V of a state back that [`Encoder::park`] took away; a state that has them stays as it is.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`], among others where the device has no room; the state is as it was then.
    fn unpark(&mut self, _state: &mut UserState) -> Result<(), EncodeError> {
        Ok(())
    }
}
