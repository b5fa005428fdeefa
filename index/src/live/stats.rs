//! What goes into a live index and how it stands.

use std::time::{Duration, Instant};

/// One change of the items.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Adds the item, or replaces its vector.
    Put {
        /// Its slot.
        slot: u32,
        /// Its vector, of any length but zero: it is L2-normalised here.
        vector: &'a [f32],
    },
    /// Removes the item, if it is there.
    Remove {
        /// Its slot.
        slot: u32,
    },
}

/// What a batch of changes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Items that were not there before.
    pub added: usize,
    /// Items whose vector was replaced.
    pub replaced: usize,
    /// Items removed.
    pub removed: usize,
    /// Removals of items that were not there.
    pub absent: usize,
}

/// How the index stands: what the server shows as gauges.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Items alive.
    pub items: usize,
    /// Rows of the frozen part.
    pub frozen_rows: usize,
    /// Frozen rows removed or replaced since, not merged out yet.
    pub tombstones: usize,
    /// New items not merged yet.
    pub delta_items: usize,
    /// Inverted lists in use; 0 while every search is exact.
    pub nlist: usize,
    /// Inverted lists visited without a filter, as tuned; 0 where the option sets the number.
    pub probes: usize,
    /// Lists visited over those tuned, 1 to 16: follows the recall of sampled searches ([`Retriever::recall_of`](crate::Retriever::recall_of)).
    pub widened: f32,
    /// Frozen parts made so far: raised by each merge.
    pub generation: u64,
    /// Changes taken.
    pub changes: u64,
    /// Merges done.
    pub merges: u64,
    /// Merges that failed.
    pub merge_failures: u64,
    /// Why the last merge failed, until one succeeds.
    pub merge_error: Option<String>,
    /// Whether a merge runs.
    pub merging: bool,
    /// When the frozen part was made.
    pub frozen_at: Instant,
    /// When the oldest change that is not merged was made.
    pub unmerged_since: Option<Instant>,
    /// Queries answered from the inverted lists.
    pub searches_lists: u64,
    /// Queries answered by scoring every eligible item.
    pub searches_exact: u64,
    /// Queries for which the lists gave too few, so that the exact scan answered.
    pub fallbacks: u64,
}

impl Stats {
    /// How long the oldest unmerged change has waited at `now`; zero when all is merged.
    #[must_use]
    pub fn unmerged_age(&self, now: Instant) -> Duration {
        self.unmerged_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}
