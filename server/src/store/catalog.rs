//! Durable records of plans, items and creatives: JSON by kind and id, in one redb file, written by one thread, named
//! `catalog-store`.

use super::StoreError;
use super::file::{FileFault, checked, open_database};
use super::poison::{Poison, PoisonGuard};
use crate::ids::Id;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

const RECORDS: TableDefinition<(u8, &str), &[u8]> = TableDefinition::new("records");
/// Changes that may wait; a change can carry many records.
const QUEUE_MAX: usize = 256;
/// Most records in one change.
pub const CHANGE_MAX: usize = 100_000;

/// What a record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CatalogKind {
    /// [`crate::plans::Plan`].
    Plan,
    /// [`crate::plans::Item`].
    Item,
    /// [`crate::plans::Creative`].
    Creative,
    /// State that the server learned, by name.
    Learned,
    /// Rows of reports, by hour and plan ([`crate::reports`]).
    Report,
}

impl CatalogKind {
    fn code(self) -> u8 {
        match self {
            Self::Plan => 1,
            Self::Item => 2,
            Self::Creative => 3,
            Self::Learned => 4,
            Self::Report => 5,
        }
    }
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogRecord {
    /// What it describes.
    pub kind: CatalogKind,
    /// Its identifier.
    pub id: Id,
    /// JSON text.
    pub json: Vec<u8>,
}

struct Change {
    put: Vec<CatalogRecord>,
    delete: Vec<(CatalogKind, Id)>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

struct Shared {
    path: PathBuf,
    database: Database,
    poison: Poison,
}

/// The catalogue's file. Changes are synced before they resolve; all records of one change appear together.
pub struct CatalogStore {
    shared: Arc<Shared>,
    queue: Option<Sender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for CatalogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogStore").field("poisoned", &self.poisoned()).finish_non_exhaustive()
    }
}

impl CatalogStore {
    /// Opens or creates `dir/catalog.redb`.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("catalog.redb");
        let fail = |fault: String| StoreError::Open { file: path.display().to_string(), fault };
        std::fs::create_dir_all(dir).map_err(|e| fail(e.to_string()))?;
        let open = || -> Result<_, FileFault> {
            let database = open_database(&path, 64 << 20)?;
            let shared = Shared { path: path.clone(), database, poison: Poison::default() };
            shared.commit(&[])?;
            Ok(shared)
        };
        let opened = checked(open).and_then(|opened| opened).map_err(|fault| StoreError::of_file(&path, fault));
        let shared = Arc::new(opened?);
        let (queue, waiting) = bounded(QUEUE_MAX);
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("catalog-store".into());
        let thread = thread.spawn(move || worker.run(&waiting)).map_err(|e| fail(e.to_string()))?;
        Ok(Self { shared, queue: Some(queue), thread: Some(thread) })
    }

    /// Calls `visit` with the id and the JSON of every record of one kind, in order of id. Blocks: for start-up.
    pub fn load_all(&self, kind: CatalogKind, visit: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        let load = || -> Result<(), FileFault> {
            let read = self.shared.database.begin_read()?;
            let (from, to) = ((kind.code(), ""), (kind.code() + 1, ""));
            for row in read.open_table(RECORDS)?.range(from..to)? {
                let (key, json) = row?;
                visit(key.value().1, json.value());
            }
            Ok(())
        };
        checked(load).and_then(|loaded| loaded).map_err(|fault| {
            if matches!(fault, FileFault::Damaged(_)) {
                // Never closed: that would write to a damaged file, and could panic as its reading did.
                std::mem::forget(Arc::clone(&self.shared));
            }
            StoreError::of_file(&self.shared.path, fault)
        })
    }

    /// Writes records, replacing those with the same kind and id. At most [`CHANGE_MAX`].
    pub async fn put_many(&self, records: Vec<CatalogRecord>) -> Result<(), StoreError> {
        self.change(records, Vec::new()).await
    }

    /// Removes records; those that are not there are passed over.
    pub async fn delete(&self, records: Vec<(CatalogKind, Id)>) -> Result<(), StoreError> {
        self.change(Vec::new(), records).await
    }

    /// Removes, then writes, together.
    pub async fn change(&self, put: Vec<CatalogRecord>, delete: Vec<(CatalogKind, Id)>) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Change { put, delete, reply })?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn send(&self, change: Change) -> Result<(), StoreError> {
        if change.put.len() > CHANGE_MAX || change.delete.len() > CHANGE_MAX {
            return Err(StoreError::TooMany(CHANGE_MAX));
        }
        let queue = self.queue.as_ref().ok_or_else(|| self.gone())?;
        queue.try_send(change).map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::Busy("catalogue"),
            TrySendError::Disconnected(_) => self.gone(),
        })
    }

    /// Why the catalogue's file refuses to work, or `None` while healthy.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poison.reason()
    }

    fn gone(&self) -> StoreError {
        StoreError::Poisoned(self.poisoned().unwrap_or("the catalogue file was closed").to_owned())
    }
}

impl Drop for CatalogStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _panic_shows_in_poison = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, waiting: &Receiver<Change>) {
        let guard = PoisonGuard::new(&self.poison, "catalog-store");
        while let Ok(first) = waiting.recv() {
            let mut changes = vec![first];
            changes.extend(waiting.try_iter());
            let outcome = match self.poison.reason() {
                Some(reason) => Err(reason.to_owned()),
                None => self.commit(&changes).map_err(|e| format!("catalogue file: {e}")),
            };
            if let Err(reason) = &outcome {
                self.poison.set(reason.clone());
            }
            for change in changes {
                let _gone = change.reply.send(outcome.clone().map_err(StoreError::Poisoned));
            }
        }
        guard.disarm();
    }

    fn commit(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(RECORDS)?;
            for change in changes {
                for (kind, id) in &change.delete {
                    table.remove((kind.code(), id.as_str()))?;
                }
                for record in &change.put {
                    table.insert((record.kind.code(), record.id.as_str()), record.json.as_slice())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
