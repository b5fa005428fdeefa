//! The reading side: a cache, and one thread, named `store-read`, that fills it.
//!
//! The store thread changes cached histories after each commit. A reader's snapshot may be older than such a change, so
//! every entry carries the number of the commit it reflects, and a reader whose snapshot is older than the newest commit
//! to its user reads again.

use super::history::History;
use super::poison::{Poison, PoisonGuard};
use super::tables::{Meta, RowError, read_history};
use super::{StoreError, UserEvent};
use crate::ids::Id;
use crate::lru::Lru;
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) type Answer = Result<Arc<History>, StoreError>;

/// Most callers that may wait for one user's read.
const WAITERS_MAX: usize = 1_024;
/// Bytes an entry takes besides its columns.
const ENTRY_BYTES: usize = 256;

#[derive(Debug)]
struct Entry {
    history: Arc<History>,
    commit: u64,
}

#[derive(Debug, Default)]
struct Reading {
    waiters: Vec<oneshot::Sender<Answer>>,
    /// Snapshots older than this commit lack something.
    commit_min: u64,
}

#[derive(Debug)]
struct Inner {
    cache: Lru<Id, Entry>,
    reading: HashMap<Id, Reading>,
}

/// The cache and the reads under way.
#[derive(Debug)]
pub(super) struct Cache(Mutex<Inner>);

/// What [`Cache::join`] found.
pub(super) enum Joined {
    /// In memory.
    Here(Arc<History>),
    /// Another caller's read will answer.
    Waiting(oneshot::Receiver<Answer>),
    /// The caller must start the read.
    Start(oneshot::Receiver<Answer>),
    /// Too many wait already.
    Full,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Inner { cache: Lru::new(bytes_max), reading: HashMap::new() }))
    }

    pub(super) fn get(&self, user: &Id) -> Option<Arc<History>> {
        self.0.lock().cache.get(user).map(|entry| Arc::clone(&entry.history))
    }

    /// (bytes, users) in memory.
    pub(super) fn size(&self) -> (usize, usize) {
        let inner = self.0.lock();
        (inner.cache.bytes(), inner.cache.len())
    }

    pub(super) fn join(&self, user: &Id) -> Joined {
        let mut inner = self.0.lock();
        if let Some(entry) = inner.cache.get(user) {
            return Joined::Here(Arc::clone(&entry.history));
        }
        let (waiter, answer) = oneshot::channel();
        if let Some(reading) = inner.reading.get_mut(user) {
            if reading.waiters.len() >= WAITERS_MAX {
                return Joined::Full;
            }
            reading.waiters.push(waiter);
            return Joined::Waiting(answer);
        }
        inner.reading.insert(user.clone(), Reading { waiters: vec![waiter], commit_min: 0 });
        Joined::Start(answer)
    }

    /// The read could not be queued: everyone waiting is told.
    pub(super) fn abandon(&self, user: &Id, error: &StoreError) {
        let reading = self.0.lock().reading.remove(user);
        for waiter in reading.into_iter().flat_map(|reading| reading.waiters) {
            let _gone = waiter.send(Err(error.clone()));
        }
    }

    /// Ends a read. `None` when the snapshot was too old and must be taken again.
    fn finish(&self, user: &Id, read: Result<(History, u64), StoreError>) -> Option<()> {
        let mut inner = self.0.lock();
        let answer = match read {
            Ok((_, commit)) if inner.reading.get(user).is_some_and(|reading| commit < reading.commit_min) => {
                return None;
            }
            Ok((history, commit)) => {
                let history = Arc::new(history);
                inner.put(user, Arc::clone(&history), commit);
                Ok(history)
            }
            Err(error) => Err(error),
        };
        let reading = inner.reading.remove(user);
        drop(inner);
        for waiter in reading.into_iter().flat_map(|reading| reading.waiters) {
            let _gone = waiter.send(answer.clone());
        }
        Some(())
    }

    /// After commit number `commit` added events to a user: changes the entry, or tells a read under way.
    pub(super) fn appended(&self, user: &Id, events: &[UserEvent], events_max: usize, commit: u64) {
        let before = {
            let mut inner = self.0.lock();
            if let Some(reading) = inner.reading.get_mut(user) {
                reading.commit_min = commit;
            }
            match inner.cache.peek(user) {
                Some(entry) if entry.commit < commit => Arc::clone(&entry.history),
                _ => return,
            }
        };
        // Copying a long history takes microseconds: not under the lock.
        let after = Arc::new(before.with(events, events_max));
        let mut inner = self.0.lock();
        if inner.cache.peek(user).is_some_and(|entry| Arc::ptr_eq(&entry.history, &before)) {
            inner.put(user, after, commit);
        }
    }

    /// After commit number `commit` replaced or deleted a user.
    pub(super) fn replaced(&self, user: &Id, commit: u64) {
        let mut inner = self.0.lock();
        if let Some(reading) = inner.reading.get_mut(user) {
            reading.commit_min = commit;
        }
        // A reader may have put the new rows here already.
        if inner.cache.peek(user).is_some_and(|entry| entry.commit < commit) {
            inner.cache.remove(user);
        }
    }
}

impl Inner {
    fn put(&mut self, user: &Id, history: Arc<History>, commit: u64) {
        let bytes = history.bytes() + user.as_str().len() + ENTRY_BYTES;
        self.cache.insert(user.clone(), Entry { history, commit }, bytes);
    }
}

/// Body of the `store-read` thread.
pub(super) fn run(database: &Database, cache: &Cache, poison: &Poison, waiting: &Receiver<Id>) {
    let guard = PoisonGuard::new(poison, "store-read");
    while let Ok(user) = waiting.recv() {
        loop {
            let read = read_one(database, &user);
            if let Err(error @ RowError::Storage(_)) = read {
                let error = error.for_user(&user);
                poison.set(error.to_string());
                cache.abandon(&user, &error);
                break;
            }
            if cache.finish(&user, read.map_err(|error| error.for_user(&user))).is_some() {
                break;
            }
        }
    }
    guard.disarm();
}

fn read_one(database: &Database, user: &Id) -> Result<(History, u64), RowError> {
    let read = database.begin_read()?;
    let commit = Meta::of(&read)?.commit;
    Ok((read_history(&read, user.as_str())?, commit))
}
