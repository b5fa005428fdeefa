//! [`UserStore`]: one redb file and the event log.

use super::file::{FileFault, checked, open_database};
use super::history::History;
use super::poison::Poison;
use super::reader::{Cache, Joined, run as run_reader};
use super::tables::{Meta, USERS, make_tables};
use super::writer::{Job, Reply, Writer};
use super::{APPEND_MAX, EventOutcome, IMPORT_MAX, StoreError, UserEvent};
use crate::deadline::WallClock;
use crate::events::EventLog;
use crate::ids::Id;
use crossbeam_channel::{Sender, TrySendError, bounded};
use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Settings of a [`UserStore`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Events kept for one user; the oldest are dropped.
    pub history_events_max: usize,
    /// Budget of the histories in memory, bytes.
    pub cache_bytes: usize,
    /// Page cache of the file, bytes.
    pub page_cache_bytes: usize,
    /// Most appends, imports and deletions waiting.
    pub queue_max: usize,
    /// Most reads waiting.
    pub load_queue_max: usize,
    /// How long an event id is remembered at least, seconds, unless [`StoreOptions::ids_max`] cuts it short.
    pub ids_window_s: u64,
    /// Most event ids remembered; at least half of them always are.
    pub ids_max: u64,
    /// Users whose newest event is older than so many days are forgotten; 0: none.
    pub forget_after_days: u32,
    /// A synced commit follows so many events, ...
    pub checkpoint_events: usize,
    /// ... or so many milliseconds, whichever is first. As often a step is taken of forgetting users by age.
    pub checkpoint_ms: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            history_events_max: 12_000,
            cache_bytes: 512 << 20,
            page_cache_bytes: 64 << 20,
            queue_max: 4_096,
            load_queue_max: 4_096,
            ids_window_s: 86_400,
            ids_max: 8_000_000,
            forget_after_days: 0,
            checkpoint_events: 20_000,
            checkpoint_ms: 1_000,
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Events accepted.
    pub accepted: AtomicU64,
    /// Events known already.
    pub duplicate: AtomicU64,
    /// Events refused.
    pub rejected: AtomicU64,
    /// Events taken from the log at start-up.
    pub replayed: AtomicU64,
    /// Users forgotten by age.
    pub forgotten: AtomicU64,
    /// Histories found in memory.
    pub hits: AtomicU64,
    /// Histories not found in memory.
    pub misses: AtomicU64,
}

impl StoreCounters {
    pub(super) fn count(&self, outcomes: &[EventOutcome]) {
        let count = |wanted: fn(&EventOutcome) -> bool| outcomes.iter().filter(|o| wanted(o)).count() as u64;
        self.accepted.fetch_add(count(|o| *o == EventOutcome::Accepted), Ordering::Relaxed);
        self.duplicate.fetch_add(count(|o| *o == EventOutcome::Duplicate), Ordering::Relaxed);
        self.rejected.fetch_add(count(|o| matches!(o, EventOutcome::Rejected(_))), Ordering::Relaxed);
    }
}

pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) cache: Cache,
    pub(super) log: Arc<EventLog>,
    pub(super) poison: Poison,
    pub(super) options: StoreOptions,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) counters: StoreCounters,
}

/// Histories in one redb file with a cache in memory. Share it behind an `Arc`. Dropping it syncs what waits.
pub struct UserStore {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    loads: Option<Sender<Id>>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for UserStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserStore").field("counters", &self.shared.counters).finish_non_exhaustive()
    }
}

fn open_error(path: &Path, fault: impl fmt::Display) -> StoreError {
    StoreError::Open { file: path.display().to_string(), fault: fault.to_string() }
}

impl UserStore {
    /// Opens or creates `dir/users.redb`, replays the log from the last checkpoint, and starts the threads `store` and
    /// `store-read`.
    pub fn open(
        dir: &Path,
        options: StoreOptions,
        log: Arc<EventLog>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, StoreError> {
        let path = dir.join("users.redb");
        std::fs::create_dir_all(dir).map_err(|e| open_error(&path, e))?;
        let open = || -> Result<_, FileFault> {
            let database = open_database(&path, options.page_cache_bytes)?;
            let meta = prepare(&database)?;
            Ok((database, meta))
        };
        let opened = checked(open).and_then(|opened| opened).map_err(|fault| StoreError::of_file(&path, fault));
        let (database, meta) = opened?;
        if meta.applied > log.last() {
            let fault = format!(
                "it holds the event log up to record {}, but the log ends at {}: restore the log that belongs to it, or \
                 move this file away; histories are then those of the log alone",
                meta.applied,
                log.last()
            );
            return Err(open_error(&path, fault));
        }
        let cache = Cache::new(options.cache_bytes);
        let (poison, counters) = (Poison::default(), StoreCounters::default());
        let shared = Arc::new(Shared { database, cache, log, poison, options, clock, counters });
        let recovered = checked(move || Writer::recover(shared, meta));
        let mut writer = recovered.map_err(|fault| StoreError::of_file(&path, fault))??;
        let shared = Arc::clone(&writer.shared);
        let (jobs, waiting_jobs) = bounded(shared.options.queue_max.max(1));
        let (loads, waiting_loads) = bounded(shared.options.load_queue_max.max(1));
        let reader = Arc::clone(&shared);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let threads = vec![
            thread("store").spawn(move || writer.run(&waiting_jobs)).map_err(|e| open_error(&path, e))?,
            thread("store-read")
                .spawn(move || run_reader(&reader.database, &reader.cache, &reader.poison, &waiting_loads))
                .map_err(|e| open_error(&path, e))?,
        ];
        Ok(Self { shared, jobs: Some(jobs), loads: Some(loads), threads })
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> &StoreCounters {
        &self.shared.counters
    }

    /// Bytes and users in memory.
    #[must_use]
    pub fn cache_size(&self) -> (usize, usize) {
        self.shared.cache.size()
    }

    /// Number of users on disk.
    pub fn users(&self) -> Result<u64, StoreError> {
        let count = || -> Result<u64, redb::Error> { Ok(self.shared.database.begin_read()?.open_table(USERS)?.len()?) };
        count().map_err(|e| StoreError::Poisoned(e.to_string()))
    }

    /// Syncs the file now, so that a restart replays nothing.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        self.ask(Job::Checkpoint).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(job(reply))?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        if let Some(reason) = self.poisoned() {
            return Err(StoreError::Poisoned(reason.to_owned()));
        }
        let queue = self.jobs.as_ref().ok_or_else(|| self.gone())?;
        queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::Busy("write"),
            TrySendError::Disconnected(_) => self.gone(),
        })
    }

    fn gone(&self) -> StoreError {
        StoreError::Poisoned(self.poisoned().unwrap_or("the store was closed").to_owned())
    }

    fn start_read(&self, user: &Id) {
        let sent = self.loads.as_ref().map(|queue| queue.try_send(user.clone()));
        match sent {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => self.shared.cache.abandon(user, &StoreError::Busy("read")),
            Some(Err(TrySendError::Disconnected(_))) | None => self.shared.cache.abandon(user, &self.gone()),
        }
    }
}

fn prepare(database: &Database) -> Result<Meta, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    make_tables(&transaction)?;
    transaction.commit()?;
    Meta::of(&database.begin_read()?)
}

impl UserStore {
    /// The history if it is in memory. Never waits: one short lock.
    #[must_use]
    pub fn cached(&self, user: &Id) -> Option<Arc<History>> {
        let found = self.shared.cache.get(user);
        let counter = if found.is_some() { &self.shared.counters.hits } else { &self.shared.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The history, read from disk if need be; empty for a user never seen. Calls for one user share one read.
    pub async fn load(&self, user: &Id) -> Result<Arc<History>, StoreError> {
        let answer = match self.shared.cache.join(user) {
            Joined::Here(history) => return Ok(history),
            Joined::Full => return Err(StoreError::Busy("read")),
            Joined::Waiting(answer) => answer,
            Joined::Start(answer) => {
                self.start_read(user);
                answer
            }
        };
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Adds events; one outcome for each, in order. Resolves when the accepted ones are durable and visible to
    /// [`UserStore::cached`] and [`UserStore::load`]. At most [`APPEND_MAX`] a call.
    pub async fn append(&self, events: Vec<UserEvent>) -> Result<Vec<EventOutcome>, StoreError> {
        if events.len() > APPEND_MAX {
            return Err(StoreError::TooMany(APPEND_MAX));
        }
        self.ask(|reply| Job::Append(events, reply)).await
    }

    /// Sets whole histories (each sorted by time first), replacing what these users had. Durable when it resolves.
    /// Running the same import twice changes nothing. At most [`IMPORT_MAX`] a call: 1,000 or more make it fast.
    pub async fn import(&self, histories: Vec<(Id, History)>) -> Result<usize, StoreError> {
        if histories.len() > IMPORT_MAX {
            return Err(StoreError::TooMany(IMPORT_MAX));
        }
        self.ask(|reply| Job::Import(histories, reply)).await
    }

    /// Forgets a user. Durable when it resolves; true if there was anything.
    pub async fn delete(&self, user: &Id) -> Result<bool, StoreError> {
        self.ask(|reply| Job::Delete(user.clone(), reply)).await
    }

    /// Memory held by histories that [`UserStore::cached`] finds, bytes.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.shared.cache.size().0
    }

    /// Why the store refuses to work, or `None` while healthy.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poison.reason().or_else(|| self.shared.log.poisoned())
    }
}

impl Drop for UserStore {
    fn drop(&mut self) {
        self.jobs = None;
        self.loads = None;
        for thread in self.threads.drain(..) {
            let _panic_shows_in_poison = thread.join();
        }
    }
}
