//! Folding new and removed items into a new frozen part, while searches and changes go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::frozen::Frozen;
use crate::live::writer::Writer;
use crate::live::{Inner, Snapshot};
use crate::rows::Rows;
use crate::{IndexError, ffi};

/// How long the merge thread waits for the last search to leave the former frozen part, so that it frees the memory and no search does.
const RETIRE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Starts a merge on its own thread if there is enough to merge and none runs.
pub(crate) fn start_if_due(inner: &Arc<Inner>, writer: &mut MutexGuard<'_, Writer>) {
    if !inner.options.background || writer.touched.is_some() || !is_due(inner, writer) {
        return;
    }
    start(inner, writer);
}

fn is_due(inner: &Inner, writer: &Writer) -> bool {
    let now = &writer.now;
    if now.changes < writer.merge_after_changes {
        return false;
    }
    let rows = now.frozen.len();
    let least = inner.options.merge_rows;
    now.delta.places() >= least.max(rows / 16).min(inner.options.delta_rows_max) || now.dead() >= least.max(rows / 5)
}

/// Starts a merge on its own thread; none runs.
pub(crate) fn start(inner: &Arc<Inner>, writer: &mut MutexGuard<'_, Writer>) {
    let work = Work::begin(inner, writer);
    let spawned = std::thread::Builder::new().name("index-merge".to_owned()).spawn(move || {
        ffi::lower_thread_priority();
        let former = Arc::clone(&work.from.frozen);
        // The outcome is kept for `stats` and for writers who wait.
        let _ = work.run(false);
        retire(former);
    });
    if let Err(error) = spawned {
        writer.touched = None;
        writer.failed(format!("no thread for it: {error}"), inner.options.merge_rows);
    }
}

/// Frees the former frozen part here once no search uses it.
fn retire(former: Arc<Frozen>) {
    let start = Instant::now();
    while Arc::strong_count(&former) > 1 && start.elapsed() < RETIRE_WAIT_MAX {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Merges on the calling thread, after any merge that runs.
pub(crate) fn merge_here(inner: &Arc<Inner>, train_again: bool) -> Result<(), IndexError> {
    let mut writer = inner.writer.lock();
    while writer.touched.is_some() {
        inner.merged.wait(&mut writer);
    }
    let work = Work::begin(inner, &mut writer);
    drop(writer);
    work.run(train_again)
}

/// A merge between its beginning and its end.
struct Work {
    inner: Arc<Inner>,
    from: Snapshot,
    began: Instant,
}

impl Work {
    /// Notes where the merge starts; from here on the writer records which slots change.
    fn begin(inner: &Arc<Inner>, writer: &mut MutexGuard<'_, Writer>) -> Self {
        writer.touched = Some(HashSet::new());
        Self { inner: Arc::clone(inner), from: writer.now.clone(), began: Instant::now() }
    }

    fn run(self, train_again: bool) -> Result<(), IndexError> {
        let mut ending = Ending { inner: &self.inner, open: true };
        let built = self.build(train_again);
        let mut writer = self.inner.writer.lock();
        ending.open = false;
        let result = match built {
            Ok(frozen) => {
                writer.adopt(frozen, self.from.generation + 1, self.began);
                self.inner.publish(&writer);
                writer.merges += 1;
                writer.merge_error = None;
                Ok(())
            }
            Err(error) => {
                writer.failed(error.to_string(), self.inner.options.merge_rows);
                Err(error)
            }
        };
        writer.touched = None;
        drop(writer);
        self.inner.merged.notify_all();
        result
    }

    /// The new frozen part: the living frozen rows and the new items, in ascending order of slot.
    fn build(&self, train_again: bool) -> Result<Frozen, IndexError> {
        let Snapshot { frozen, alive, delta, .. } = &self.from;
        let mut new: Vec<(u32, usize)> = delta.iter().collect();
        new.sort_unstable();
        let mut rows = Rows::with_capacity(self.inner.options.dim, self.from.len());
        let mut slots = Vec::with_capacity(self.from.len());
        let mut new = new.into_iter().peekable();
        for slot in alive.iter() {
            while let Some((earlier, place)) = new.next_if(|item| item.0 < slot) {
                rows.push(delta.row(place));
                slots.push(earlier);
            }
            rows.push(frozen.rows().row(frozen.row_of(slot) as usize));
            slots.push(slot);
        }
        for (slot, place) in new {
            rows.push(delta.row(place));
            slots.push(slot);
        }
        let former = frozen.lists().filter(|_| !train_again);
        let stop = || self.inner.closing.load(Ordering::Relaxed);
        Frozen::build(rows, slots, &self.inner.options.for_build(1, former, &stop))
    }
}

/// Ends a merge whose build panicked, so that writers and later merges do not wait for it.
struct Ending<'a> {
    inner: &'a Inner,
    open: bool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if self.open {
            let mut writer = self.inner.writer.lock();
            writer.touched = None;
            writer.failed("the build panicked".to_owned(), self.inner.options.merge_rows);
            drop(writer);
            self.inner.merged.notify_all();
        }
    }
}
