//! What can go wrong, one variant for each decision a caller can make.

use std::path::PathBuf;

/// Why a search, a change, a save or a load was refused.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A query or an item vector has the wrong length: fix the caller.
    #[error("{what}: the vector has {found} entries, the index holds {expected}")]
    Dimension {
        /// Whose vector it is, for example `query 3` or `item slot 17`.
        what: String,
        /// Entries the index holds.
        expected: usize,
        /// Entries given.
        found: usize,
    },
    /// A vector has a NaN or an infinity, or an item vector is all zero and so has no direction: fix the data.
    #[error("{what}: {fault}")]
    Vector {
        /// Whose vector it is.
        what: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The slot lies beyond what this index may hold: raise `slots_max` or fix the caller.
    #[error("item slot {slot} is beyond the largest allowed, {max} (option slots_max)")]
    SlotRange {
        /// The slot given.
        slot: u32,
        /// The largest slot allowed.
        max: u32,
    },
    /// One slot occurs twice in a bulk build: fix the caller.
    #[error("item slot {slot} is given twice in one build")]
    DuplicateSlot {
        /// The slot given twice.
        slot: u32,
    },
    /// More results were asked for than one search may give: ask for fewer.
    #[error("k = {k} is more than one search gives ({max})")]
    TooMany {
        /// The k asked for.
        k: usize,
        /// The largest k.
        max: usize,
    },
    /// An option does not fit: fix the configuration.
    #[error("index option {field}: {fault}")]
    Options {
        /// The option.
        field: &'static str,
        /// What is wrong and what would do.
        fault: String,
    },
    /// FAISS refused a call: the index goes on with what it had; report it.
    #[error("FAISS {call}: {message}")]
    Faiss {
        /// The call.
        call: &'static str,
        /// FAISS's own words.
        message: String,
    },
    /// The part for new items is full and could not be merged: the change was not taken; try later.
    #[error("{rows} new items wait to be merged into the index and the merge failed: {cause}")]
    DeltaFull {
        /// Rows waiting.
        rows: usize,
        /// Why the merge failed.
        cause: String,
    },
    /// The disk failed: check space and rights.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file is not what was saved: build the index again from the items.
    #[error("{}: {fault}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The saved index is sound but made with other settings: build again or change the settings.
    #[error("{}: saved with {field} {found}, this server wants {expected}", path.display())]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// The setting.
        field: &'static str,
        /// What this server wants.
        expected: String,
        /// What the files have.
        found: String,
    },
}
