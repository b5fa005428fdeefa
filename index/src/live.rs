//! An index whose items are added, replaced and removed while it is searched.
//!
//! ```text
//!  writers -> [one lock] -> next snapshot --swap--> current snapshot <- searches (no lock, no wait)
//!                                                   |  frozen part: vectors, inverted lists (never changes)
//!                                                   |  alive: which of its items still stand
//!                                                   |  delta: newer items, scored exactly, at most `delta_rows_max`
//!  merge thread: frozen + alive + delta -> new frozen part -> swap; the former part is freed here, off the request path
//! ```

mod delta;
mod merge;
mod snapshot;
mod stats;
mod widen;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, MutexGuard};

pub(crate) use delta::Delta;
pub(crate) use snapshot::Snapshot;
use snapshot::{Counters, Way};
pub use stats::{Applied, Change, Stats};
use widen::Widening;
use writer::Writer;

use crate::frozen::{Frozen, arrange};
use crate::options::IndexOptions;
use crate::plan::Effort;
use crate::query::check_query;
use crate::rows::{normalise, pad};
use crate::{Hits, IndexError, Kind, Query, Retriever, persist};

/// A live index. All methods take `&self`; share it in an `Arc`.
///
/// Searches read one snapshot and never wait. A change is seen by every search that begins after the call that made it returned.
#[derive(Debug)]
pub struct LiveIndex {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: IndexOptions,
    current: ArcSwap<Snapshot>,
    counters: Counters,
    writer: Mutex<Writer>,
    /// Signalled when a merge ends.
    merged: Condvar,
    /// The index is being dropped: a running build should stop.
    closing: AtomicBool,
    /// Held while saving: two saves to one directory would write over each other's files.
    saving: Mutex<()>,
    widening: Widening,
}

impl LiveIndex {
    /// Without items.
    ///
    /// # Errors
    /// [`IndexError::Options`].
    pub fn new(options: IndexOptions) -> Result<Self, IndexError> {
        options.check()?;
        let frozen = Frozen::empty(options.dim);
        Ok(Self::from_snapshot(Snapshot::new(frozen, options.dim), options))
    }

    /// From many items at once: `vectors` holds `dim` entries for each slot, in the order of `slots`. Takes as long as the training of
    /// the lists does (seconds for 100,000 items).
    ///
    /// # Errors
    /// [`IndexError::Options`]; [`IndexError::Dimension`], [`IndexError::Vector`], [`IndexError::DuplicateSlot`] or
    /// [`IndexError::SlotRange`] for bad items; [`IndexError::Faiss`].
    pub fn build(options: IndexOptions, slots: &[u32], vectors: &[f32]) -> Result<Self, IndexError> {
        options.check()?;
        let (rows, slots) = arrange(options.dim, slots, vectors, options.slots_max)?;
        let frozen = Frozen::build(rows, slots, &options.for_build(options.build_threads, None, &|| false))?;
        let snapshot = Snapshot::new(frozen, options.dim);
        Ok(Self::from_snapshot(snapshot, options))
    }

    fn from_snapshot(snapshot: Snapshot, options: IndexOptions) -> Self {
        let writer = Writer::new(snapshot.clone());
        let inner = Inner {
            options,
            current: ArcSwap::from_pointee(snapshot),
            counters: Counters::default(),
            writer: Mutex::new(writer),
            merged: Condvar::new(),
            closing: AtomicBool::new(false),
            saving: Mutex::new(()),
            widening: Widening::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds the item or replaces its vector; true if it was not there.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn put(&self, slot: u32, vector: &[f32]) -> Result<bool, IndexError> {
        Ok(self.apply(&[Change::Put { slot, vector }])?.added == 1)
    }

    /// Removes the item; true if it was there.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn remove(&self, slot: u32) -> Result<bool, IndexError> {
        Ok(self.apply(&[Change::Remove { slot }])?.removed == 1)
    }

    /// Makes the changes in order. All are checked first: a bad one means that none is made. They become visible together, unless the
    /// delta fills up on the way: then the writer waits here for a merge (searches do not wait) and the part done is visible before.
    ///
    /// # Errors
    /// [`IndexError::Dimension`], [`IndexError::Vector`] or [`IndexError::SlotRange`] for a bad change; [`IndexError::DeltaFull`] when
    /// the delta is full and the merge fails: the changes before that point stand.
    pub fn apply(&self, changes: &[Change<'_>]) -> Result<Applied, IndexError> {
        let options = &self.inner.options;
        let mut units = Vec::new();
        for change in changes {
            let (Change::Put { slot, .. } | Change::Remove { slot }) = *change;
            if slot > options.slots_max {
                return Err(IndexError::SlotRange { slot, max: options.slots_max });
            }
            if let Change::Put { vector, .. } = change {
                normalise(slot, vector, options.dim, &mut units)?;
            }
        }
        let mut units = units.chunks_exact(options.dim);
        let mut done = Applied::default();
        let mut writer = self.inner.writer.lock();
        for change in changes {
            match *change {
                Change::Put { slot, .. } => {
                    let unit = units.next().unwrap_or_default();
                    if !writer.has_room_for(slot, options.delta_rows_max) {
                        self.inner.publish(&writer);
                        self.make_room(&mut writer)?;
                    }
                    if writer.put(slot, unit) {
                        done.added += 1;
                    } else {
                        done.replaced += 1;
                    }
                }
                Change::Remove { slot } if writer.remove(slot) => done.removed += 1,
                Change::Remove { .. } => done.absent += 1,
            }
        }
        self.inner.publish(&writer);
        merge::start_if_due(&self.inner, &mut writer);
        Ok(done)
    }

    /// Waits until the delta has room.
    fn make_room(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), IndexError> {
        let max = self.inner.options.delta_rows_max;
        while writer.now.delta.places() >= max {
            if writer.touched.is_none() {
                if self.inner.options.background {
                    merge::start(&self.inner, writer);
                } else {
                    // The outcome is kept beside the lock and read below.
                    let _ = MutexGuard::unlocked(writer, || merge::merge_here(&self.inner, false));
                }
            }
            while writer.touched.is_some() {
                self.inner.merged.wait(writer);
            }
            if let Some(cause) = writer.merge_error.clone() {
                return Err(IndexError::DeltaFull { rows: writer.now.delta.items(), cause });
            }
        }
        Ok(())
    }

    /// Merges what is new into the frozen part, on this thread, after any merge that runs. The training of the lists is used again
    /// while the item count has not doubled or halved.
    ///
    /// # Errors
    /// [`IndexError::Faiss`]; the index then stands as before.
    pub fn merge(&self) -> Result<(), IndexError> {
        merge::merge_here(&self.inner, false)
    }

    /// The same, and trains the lists anew: for when the live recall has sunk because items have drifted.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn rebuild(&self) -> Result<(), IndexError> {
        merge::merge_here(&self.inner, true)
    }

    /// Waits until no merge runs.
    pub fn wait_for_merge(&self) {
        let mut writer = self.inner.writer.lock();
        while writer.touched.is_some() {
            self.inner.merged.wait(&mut writer);
        }
    }

    /// Whether the item is there.
    #[must_use]
    pub fn contains(&self, slot: u32) -> bool {
        let writer = self.inner.writer.lock();
        writer.now.alive.get(slot) || writer.places.contains_key(&slot)
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &IndexOptions {
        &self.inner.options
    }

    /// How it stands.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let writer = self.inner.writer.lock();
        let now = &writer.now;
        let counters = &self.inner.counters;
        Stats {
            items: now.len(),
            frozen_rows: now.frozen.len(),
            tombstones: now.dead(),
            delta_items: now.delta.items(),
            nlist: now.frozen.lists().map_or(0, |lists| lists.shape().nlist),
            probes: now.frozen.lists().map_or(0, |lists| lists.shape().probes[0]),
            widened: self.inner.widening.factor(),
            generation: now.generation,
            changes: now.changes,
            merges: writer.merges,
            merge_failures: writer.merge_failures,
            merge_error: writer.merge_error.clone(),
            merging: writer.touched.is_some(),
            frozen_at: now.frozen_at,
            unmerged_since: now.unmerged_since,
            searches_lists: counters.lists.load(Ordering::Relaxed),
            searches_exact: counters.exact.load(Ordering::Relaxed),
            fallbacks: counters.fallbacks.load(Ordering::Relaxed),
        }
    }

    /// Writes the current state to `directory` (made if absent). Searches and changes go on. A crash at any point leaves what was saved
    /// before, whole; the new state counts from the rename of its manifest.
    ///
    /// # Errors
    /// [`IndexError::Io`]; [`IndexError::Faiss`].
    pub fn save(&self, directory: &Path) -> Result<(), IndexError> {
        let _alone = self.inner.saving.lock();
        let snapshot = self.inner.current.load_full();
        persist::save(&snapshot, &self.inner.options, directory)
    }

    /// Reads what [`save`](Self::save) wrote. Sizes are checked before anything is read, digests before anything is parsed.
    ///
    /// # Errors
    /// [`IndexError::Io`] when a file cannot be read, [`IndexError::Damaged`] when one is not what was saved, [`IndexError::Mismatch`]
    /// when it was saved with another dimension or kind, [`IndexError::Options`].
    pub fn load(directory: &Path, options: IndexOptions) -> Result<Self, IndexError> {
        options.check()?;
        let snapshot = persist::load(directory, &options)?;
        Ok(Self::from_snapshot(snapshot, options))
    }

    /// The best `query.k` of the items in `slots`, each named once: candidates that were found elsewhere, under the scores that
    /// every search of this index gives. Those that are gone are left out; `query.eligible` is not looked at.
    ///
    /// # Errors
    /// As [`search`](Retriever::search).
    pub fn best_of(&self, query: &Query<'_>, slots: &[u32]) -> Result<Hits, IndexError> {
        check_query(0, query, self.inner.options.dim)?;
        Ok(self.inner.current.load().best_of(&pad(query.vector), query.k, slots))
    }

    fn search_way(&self, queries: &[Query<'_>], way: Way) -> Result<Vec<Hits>, IndexError> {
        self.inner.current.load().search(queries, way, self.inner.effort(), &self.inner.counters)
    }
}

impl Inner {
    fn effort(&self) -> Effort {
        let Self { options, widening, .. } = self;
        Effort { nprobe: options.nprobe, overfetch: options.overfetch, widened: widening.factor() }
    }

    fn publish(&self, writer: &Writer) {
        self.current.store(Arc::new(writer.now.clone()));
    }
}

impl Retriever for LiveIndex {
    fn search(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        self.search_way(queries, Way::Planned)
    }

    fn search_exact(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        self.search_way(queries, Way::Exact)
    }

    fn recall_of(&self, query: &Query<'_>) -> Result<f32, IndexError> {
        let snapshot = self.inner.current.load_full();
        // Counted apart: the server's own searches are what the counters are about.
        let counters = Counters::default();
        let search = |way| snapshot.search(std::slice::from_ref(query), way, self.inner.effort(), &counters);
        let (found, truth) = (search(Way::Planned)?, search(Way::Exact)?);
        let recall = found[0].recall_against(&truth[0]);
        if counters.lists.load(Ordering::Relaxed) > 0 {
            self.inner.widening.follow(recall, self.inner.options.recall_min);
        }
        Ok(recall)
    }

    fn len(&self) -> usize {
        self.inner.current.load().len()
    }

    fn dim(&self) -> usize {
        self.inner.options.dim
    }

    fn kind(&self) -> Kind {
        self.inner.options.kind
    }
}

impl Drop for LiveIndex {
    /// Stops a running merge and waits until it has let go of the index.
    fn drop(&mut self) {
        self.inner.closing.store(true, Ordering::Relaxed);
        self.wait_for_merge();
    }
}
