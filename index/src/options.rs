//! How a live index is built and how much it may hold.

use crate::lists::{BuildOptions, Lists};
use crate::{IndexError, Kind, SLOTS_MAX};

/// The widest vector taken.
pub const DIM_MAX: usize = 4096;
const NLIST_MAX: u32 = 65_536;
pub(crate) const OVERFETCH_MAX: usize = 64;

/// Settings of a [`LiveIndex`](crate::LiveIndex); [`IndexOptions::new`] gives sound ones.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexOptions {
    /// Entries of each vector, 1 to [`DIM_MAX`].
    pub dim: usize,
    /// How to search.
    pub kind: Kind,
    /// Inverted lists visited without a filter; 0 visits the fewest that reach `recall_min`, tuned at each build. A narrow filter
    /// visits more.
    pub nprobe: usize,
    /// Mean recall against exact search that an unset `nprobe` is tuned for, 0.5 to 1, on queries made from the items. Users' queries may
    /// differ: [`recall_of`](crate::Retriever::recall_of) tells, and more lists are visited, up to sixteen times as many, until they reach it too.
    pub recall_min: f32,
    /// Candidates fetched for each result wanted when codes are product-quantised, re-ranked by their exact scores; 1 to 64. Where
    /// `recall_min` is tuned for and takes more, up to eight times as many are fetched.
    pub overfetch: usize,
    /// Below this many items no lists are built: scoring all is as fast.
    pub lists_rows_min: usize,
    /// New items that wait before they are merged (or a sixteenth of the index, if that is more). They are searched exactly
    /// meanwhile. Removed items are merged out at this many, or at a fifth of the index.
    pub merge_rows: usize,
    /// The most new items that may wait; a writer that would add more waits for the merge, searches do not.
    pub delta_rows_max: usize,
    /// Merge on a thread of the index's own as soon as there is enough; false leaves it to [`merge`](crate::LiveIndex::merge) and to a
    /// full delta.
    pub background: bool,
    /// Threads of the first build. Merges use one: they run beside requests.
    pub build_threads: u16,
    /// The largest item slot taken.
    pub slots_max: u32,
}

impl IndexOptions {
    /// Sound settings for vectors of `dim` entries.
    #[must_use]
    pub const fn new(dim: usize, kind: Kind) -> Self {
        Self {
            dim,
            kind,
            nprobe: 0,
            recall_min: 0.95,
            overfetch: 4,
            lists_rows_min: 10_000,
            merge_rows: 4_096,
            delta_rows_max: 65_536,
            background: true,
            build_threads: 1,
            slots_max: SLOTS_MAX,
        }
    }

    /// Refuses settings that cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), IndexError> {
        let wrong = |field, fault: String| Err(IndexError::Options { field, fault });
        if self.dim == 0 || self.dim > DIM_MAX {
            return wrong("dim", format!("{} is not within 1..={DIM_MAX}", self.dim));
        }
        match self.kind {
            Kind::Exact => {}
            Kind::IvfFlat { nlist } | Kind::IvfPq { nlist, .. } if nlist > NLIST_MAX => {
                return wrong("kind.nlist", format!("{nlist} is more than {NLIST_MAX}"));
            }
            Kind::IvfFlat { .. } => {}
            Kind::IvfPq { m, .. } => {
                if m == 0 || !self.dim.is_multiple_of(m as usize) {
                    return wrong("kind.m", format!("{m} does not divide the dimension {}", self.dim));
                }
            }
        }
        if !(0.5..=1.0).contains(&self.recall_min) {
            return wrong("recall_min", format!("{} is not within 0.5..=1", self.recall_min));
        }
        if self.overfetch == 0 || self.overfetch > OVERFETCH_MAX {
            return wrong("overfetch", format!("{} is not within 1..={OVERFETCH_MAX}", self.overfetch));
        }
        if self.merge_rows == 0 || self.merge_rows > self.delta_rows_max {
            return wrong(
                "merge_rows",
                format!("{} is not within 1..={} (delta_rows_max)", self.merge_rows, self.delta_rows_max),
            );
        }
        if self.delta_rows_max > 1 << 24 {
            return wrong("delta_rows_max", format!("{} is more than {}", self.delta_rows_max, 1 << 24));
        }
        if self.build_threads == 0 || self.build_threads > 256 {
            return wrong("build_threads", format!("{} is not within 1..=256", self.build_threads));
        }
        if self.slots_max == u32::MAX {
            return wrong("slots_max", "the last 32-bit number stands for no slot".to_owned());
        }
        Ok(())
    }

    /// What a build on `threads` takes from here. `former` lends its training; `stop` is asked between steps.
    pub(crate) fn for_build<'a>(
        &self,
        threads: u16,
        former: Option<&'a Lists>,
        stop: &'a dyn Fn() -> bool,
    ) -> BuildOptions<'a> {
        BuildOptions {
            kind: self.kind,
            rows_min: self.lists_rows_min,
            threads,
            recall_min: (self.nprobe == 0).then_some(self.recall_min),
            overfetch: self.overfetch,
            former,
            stop,
        }
    }
}
