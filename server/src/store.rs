//! User histories: what each user did, in order of time.
//!
//! **The event log is the truth.** The store thread removes repeated events, appends the rest to the log, waits for
//! its sync, then applies them to the store's own file without a sync of their own; a checkpoint (a synced commit)
//! follows every second or [`StoreOptions::checkpoint_events`] events and says up to which record of the log it holds. After
//! a crash the store is at its last checkpoint, and opening it replays the log from there: every acknowledged event is
//! back, in the same order, and none twice. Imported histories do not pass through the log; they are synced before
//! the import resolves.

pub(crate) mod file;
pub mod poison;

mod catalog;
mod chunk;
mod history;
mod reader;
mod sweep;
mod tables;
mod users;
mod writer;

pub use catalog::{CHANGE_MAX, CatalogKind, CatalogRecord, CatalogStore};
pub use history::History;
pub use users::{StoreCounters, StoreOptions, UserStore};

use crate::events::EventError;
use crate::ids::{Id, ItemKey};
use crate::money::{AMOUNT_MAX, Micros};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Furthest that an event may lie ahead of the server's clock, seconds.
pub const EVENT_AHEAD_MAX_S: i64 = 300;
/// Largest action number: 1 impression, 2 click, 3 cart, 4 purchase, 5 view, 6 like, 7 skip; the rest are free.
pub const ACTION_MAX: u16 = 255;

/// Something a user did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    /// Chosen by the sender; a second event with the same id is a duplicate, whatever it says.
    pub event_id: Id,
    /// Who.
    pub user: Id,
    /// With what.
    #[serde(serialize_with = "item_out", deserialize_with = "item_in")]
    pub item: ItemKey,
    /// 1 to [`ACTION_MAX`].
    pub action: u16,
    /// Unix seconds.
    pub time: i64,
    /// Order value, micros of the plan's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_micros: Option<Micros>,
    /// Plan whose advertisement led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Id>,
    /// Creative that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creative: Option<Id>,
    /// Bid that showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bid: Option<Id>,
}

fn item_out<S: Serializer>(item: &ItemKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(item.0)
}
fn item_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ItemKey, D::Error> {
    i64::deserialize(deserializer).map(ItemKey)
}

/// What became of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// Durable now. (If the history is full and the event older than all of it, it is durable in the log only.)
    Accepted,
    /// An event with this id was accepted before.
    Duplicate,
    /// Not taken.
    Rejected(EventFault),
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventFault {
    /// Action 0 (reserved) or above [`ACTION_MAX`].
    #[error("action: must be 1 to {ACTION_MAX}")]
    Action,
    /// Before 1970 or further ahead of the server's clock than [`EVENT_AHEAD_MAX_S`].
    #[error("time: must be Unix seconds, at most {EVENT_AHEAD_MAX_S} s ahead of the server's clock")]
    Time,
    /// Negative value, or beyond [`AMOUNT_MAX`]: a few of these would be all that figures show.
    #[error("value_micros: must be 0 to {} micros", AMOUNT_MAX.0)]
    Value,
}

/// Why a history was not read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The queue is full: degrade, or try again.
    #[error("the {0} queue of the store is full: try again")]
    Busy(&'static str),
    /// An I/O error happened, or the store was closed: restart.
    #[error("the store is poisoned: {0}")]
    Poisoned(String),
    /// A stored row cannot be read.
    #[error("the stored history of user `{user}` is damaged ({fault}): delete the user or restore the file")]
    Damaged {
        /// Whose.
        user: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// The bytes of the file are not what was written.
    #[error("{file} is damaged ({fault}): restore it from a backup")]
    DamagedFile {
        /// The file.
        file: String,
        /// What redb says.
        fault: String,
    },
    /// The file or the log did not open.
    #[error("store file `{file}`: {fault}")]
    Open {
        /// The file.
        file: String,
        /// What redb, the system or the log says.
        fault: String,
    },
    /// More than one call may carry.
    #[error("at most {0} at a time")]
    TooMany(usize),
}

impl StoreError {
    fn of_file(path: &std::path::Path, fault: file::FileFault) -> Self {
        let file = path.display().to_string();
        match fault {
            file::FileFault::Damaged(fault) => Self::DamagedFile { file, fault },
            file::FileFault::Storage(cause) => Self::Open { file, fault: cause.to_string() },
        }
    }
}

impl From<EventError> for StoreError {
    fn from(error: EventError) -> Self {
        match error {
            EventError::Busy => Self::Busy("event log"),
            other => Self::Poisoned(other.to_string()),
        }
    }
}

/// Most events in one [`UserStore::append`].
pub const APPEND_MAX: usize = 20_000;
/// Most histories in one [`UserStore::import`].
pub const IMPORT_MAX: usize = 10_000;
