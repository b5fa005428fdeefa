//! The event log: what happened, in the order in which it became durable.
//!
//! Records are append-only, numbered from 1 without gaps, and on disk before [`EventLog::append`] resolves (all that wait
//! share one sync). After a crash the log holds every acknowledged record and perhaps some whose acknowledgement was
//! lost. User events reach it through [`crate::store::UserStore::append`], which has removed repeated ones, so a reader
//! sees each accepted event exactly once.

mod file;
mod frame;
mod segments;

pub use file::{EventLog, LogOptions};

/// Number of a record, from 1.
pub type Sequence = u64;

/// Longest body of a record, bytes.
pub const RECORD_BYTES_MAX: usize = 256 << 10;

/// What a record's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordKind(pub u8);

impl RecordKind {
    /// A behaviour event: JSON of [`crate::store::UserEvent`].
    pub const USER_EVENT: Self = Self(1);
    /// A user's history was deleted: the user's id. Readers forget the user's earlier records.
    pub const USER_DELETED: Self = Self(2);
}

/// One record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the body is.
    pub kind: RecordKind,
    /// At most [`RECORD_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
}

/// What [`EventLog::replay`] calls for each record; returning `false` stops it.
pub type Visit<'a> = dyn FnMut(Sequence, RecordKind, &[u8]) -> bool + 'a;

/// Why a record was not appended or read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The queue is full: try again.
    #[error("the event log's queue is full: try again")]
    Busy,
    /// A body is longer than [`RECORD_BYTES_MAX`].
    #[error("record of {0} bytes: at most {RECORD_BYTES_MAX}")]
    TooLong(usize),
    /// An I/O error happened, or the log was closed: restart.
    #[error("the event log is poisoned: {0}")]
    Poisoned(String),
    /// Bytes that were synced are no longer what was written.
    #[error("event log `{file}` is damaged at byte {offset}: {fault}; restore it, or remove this and later segments")]
    Damaged {
        /// Segment.
        file: String,
        /// Where the bad frame starts.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
    },
    /// Reading or writing failed.
    #[error("event log `{file}`: {cause}")]
    Io {
        /// File or directory.
        file: String,
        /// What the system says.
        cause: std::io::Error,
    },
}
