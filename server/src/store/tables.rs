//! The store's tables and the changes made to them inside one transaction.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `users` | user | first chunk, chunk after the last, events of the first chunk to skip, events kept |
//! | `chunks` | (user, number) | a chunk (see `chunk.rs`) |
//! | `event_ids_0`, `event_ids_1` | first 16 bytes of SHA-256 of the event id | - : this generation and the one before |
//! | `meta` | name | number |
//!
//! Event ids are remembered in two generations: when the younger is older than the window or holds half the allowed
//! number, the older is dropped whole and they change places.

use super::chunk::{CHUNK_EVENTS, decode_into, encode, first_time};
use super::history::History;
use super::{StoreError, UserEvent};
use crate::ids::Id;
use crate::ledger::first_16_of_sha256;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

pub(super) type UserRow = (u32, u32, u32, u32);

pub(super) const USERS: TableDefinition<&str, UserRow> = TableDefinition::new("users");
pub(super) const CHUNKS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("chunks");
const EVENT_IDS: [TableDefinition<u128, ()>; 2] =
    [TableDefinition::new("event_ids_0"), TableDefinition::new("event_ids_1")];
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Numbers kept in `meta`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Grows with every commit; tells readers how new their snapshot is.
    pub(super) commit: u64,
    /// Last record of the event log that is in the tables.
    pub(super) applied: u64,
    /// Which `event_ids` table is the younger: 0 or 1.
    pub(super) ids_young: u64,
    /// Unix second at which it was begun.
    pub(super) ids_since: u64,
    /// Ids in it.
    pub(super) ids_count: u64,
}

/// How long event ids are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdWindow {
    pub(super) seconds: u64,
    pub(super) count: u64,
}

pub(super) fn event_key(id: &Id) -> u128 {
    first_16_of_sha256(id.as_str())
}

impl Meta {
    pub(super) fn read(table: &impl ReadableTable<&'static str, u64>) -> Result<Self, redb::Error> {
        let get = |name: &str| -> Result<u64, redb::Error> { Ok(table.get(name)?.map_or(0, |row| row.value())) };
        Ok(Self {
            commit: get("commit")?,
            applied: get("applied")?,
            ids_young: get("ids_young")?,
            ids_since: get("ids_since")?,
            ids_count: get("ids_count")?,
        })
    }

    pub(super) fn of(read: &ReadTransaction) -> Result<Self, redb::Error> {
        Self::read(&read.open_table(META)?)
    }

    pub(super) fn write(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut table = transaction.open_table(META)?;
        for (name, value) in [
            ("commit", self.commit),
            ("applied", self.applied),
            ("ids_young", self.ids_young),
            ("ids_since", self.ids_since),
            ("ids_count", self.ids_count),
        ] {
            table.insert(name, value)?;
        }
        Ok(())
    }

    fn tables(&self) -> (TableDefinition<'static, u128, ()>, TableDefinition<'static, u128, ()>) {
        if self.ids_young == 0 { (EVENT_IDS[0], EVENT_IDS[1]) } else { (EVENT_IDS[1], EVENT_IDS[0]) }
    }

    /// Which of these event ids are remembered.
    pub(super) fn known_ids(&self, read: &ReadTransaction, keys: &[u128]) -> Result<Vec<bool>, redb::Error> {
        let (young, old) = self.tables();
        let (young, old) = (read.open_table(young)?, read.open_table(old)?);
        keys.iter().map(|key| Ok(young.get(key)?.is_some() || old.get(key)?.is_some())).collect()
    }

    /// Remembers event ids, starting a new generation first if it is time.
    pub(super) fn remember(
        &mut self,
        transaction: &WriteTransaction,
        keys: &[u128],
        window: IdWindow,
        now: u64,
    ) -> Result<(), redb::Error> {
        let aged = now.saturating_sub(self.ids_since) > window.seconds;
        if self.ids_count > 0 && (aged || self.ids_count >= window.count / 2) {
            let (_, old) = self.tables();
            transaction.delete_table(old)?;
            transaction.open_table(old)?;
            (self.ids_young, self.ids_count, self.ids_since) = (1 - self.ids_young, 0, now);
        }
        if self.ids_count == 0 {
            self.ids_since = now;
        }
        let mut young = transaction.open_table(self.tables().0)?;
        for key in keys {
            young.insert(key, ())?;
        }
        self.ids_count += keys.len() as u64;
        Ok(())
    }
}

pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(USERS)?;
    transaction.open_table(CHUNKS)?;
    transaction.open_table(EVENT_IDS[0])?;
    transaction.open_table(EVENT_IDS[1])?;
    transaction.open_table(META)?;
    Ok(())
}

/// Why rows were not read.
#[derive(Debug)]
pub(super) enum RowError {
    Storage(redb::Error),
    Damaged(&'static str),
}

impl<E: Into<redb::Error>> From<E> for RowError {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

impl RowError {
    pub(super) fn for_user(self, user: &Id) -> StoreError {
        match self {
            Self::Storage(error) => StoreError::Poisoned(error.to_string()),
            Self::Damaged(fault) => StoreError::Damaged { user: user.to_string(), fault },
        }
    }
}

/// A whole history as one snapshot has it.
pub(super) fn read_history(read: &ReadTransaction, user: &str) -> Result<History, RowError> {
    let mut history = History::default();
    let Some(row) = read.open_table(USERS)?.get(user)?.map(|row| row.value()) else { return Ok(history) };
    let (first, next, skip, len) = row;
    let chunks = read.open_table(CHUNKS)?;
    history.dropped = u64::from(first) * CHUNK_EVENTS as u64 + u64::from(skip);
    let mut skip = skip as usize;
    for chunk in chunks.range((user, first)..(user, next))? {
        decode_into(chunk?.1.value(), skip, &mut history).map_err(RowError::Damaged)?;
        skip = 0;
    }
    if history.len() != len as usize || !history.is_sound() {
        return Err(RowError::Damaged("its chunks do not match its row"));
    }
    Ok(history)
}

/// The tables of histories, open for writing.
pub(super) struct Rows<'t> {
    users: Table<'t, &'static str, UserRow>,
    chunks: Table<'t, (&'static str, u32), &'static [u8]>,
    events_max: usize,
    buffer: Vec<u8>,
}

impl<'t> Rows<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, events_max: usize) -> Result<Self, redb::Error> {
        let (users, chunks) = (transaction.open_table(USERS)?, transaction.open_table(CHUNKS)?);
        Ok(Self { users, chunks, events_max, buffer: Vec::new() })
    }

    /// Puts events in their places. Only the chunks from the first place on are read and written.
    pub(super) fn append(&mut self, user: &str, events: &[UserEvent]) -> Result<(), RowError> {
        let Some(earliest) = events.iter().map(|event| event.time).min() else { return Ok(()) };
        let (mut first, next, skip, len) = self.users.get(user)?.map_or((0, 0, 0, 0), |row| row.value());
        let from = self.chunk_to_change(user, first, next, earliest)?;
        let mut tail = History::default();
        for chunk in self.chunks.range((user, from)..(user, next))? {
            decode_into(chunk?.1.value(), 0, &mut tail).map_err(RowError::Damaged)?;
        }
        // Dropped events still standing in the first chunk stay in front of everything.
        let fixed = if from == first { skip as usize } else { 0 };
        for event in events {
            tail.insert_after(fixed, event.item, event.action, event.time);
        }
        let next = self.write_chunks(user, from, &tail)?;
        let total = len as usize + events.len();
        let kept = total.min(self.events_max);
        let mut drop = (total - kept) + skip as usize;
        while drop >= CHUNK_EVENTS && first < next {
            self.chunks.remove((user, first))?;
            first += 1;
            drop -= CHUNK_EVENTS;
        }
        self.users.insert(user, (first, next, small(drop), small(kept)))?;
        Ok(())
    }

    /// The last chunk that starts at or before `earliest`, or the first one.
    fn chunk_to_change(&self, user: &str, first: u32, next: u32, earliest: i64) -> Result<u32, RowError> {
        for number in (first..next).rev() {
            let chunk = self.chunks.get((user, number))?.ok_or(RowError::Damaged("a chunk is missing"))?;
            if first_time(chunk.value()).is_some_and(|time| time <= earliest) {
                return Ok(number);
            }
        }
        Ok(first)
    }

    fn write_chunks(&mut self, user: &str, from: u32, tail: &History) -> Result<u32, RowError> {
        let mut number = from;
        for start in (0..tail.len()).step_by(CHUNK_EVENTS) {
            encode(tail, start, tail.len().min(start + CHUNK_EVENTS), &mut self.buffer);
            self.chunks.insert((user, number), self.buffer.as_slice())?;
            number += 1;
        }
        Ok(number)
    }

    /// Replaces a user's history by one that is sorted.
    pub(super) fn replace(&mut self, user: &str, mut history: History) -> Result<(), RowError> {
        self.delete(user)?;
        history.trim(self.events_max);
        history.dropped = 0;
        let next = self.write_chunks(user, 0, &history)?;
        self.users.insert(user, (0, next, 0, small(history.len())))?;
        Ok(())
    }

    /// Removes a user. True if there was one.
    pub(super) fn delete(&mut self, user: &str) -> Result<bool, RowError> {
        let Some((first, next, _, _)) = self.users.remove(user)?.map(|row| row.value()) else { return Ok(false) };
        for number in first..next {
            self.chunks.remove((user, number))?;
        }
        Ok(true)
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
