//! The store thread, named `store`: the only one that changes the tables.

use super::history::History;
use super::poison::PoisonGuard;
use super::sweep::Sweep;
use super::tables::{IdWindow, Meta, RowError, Rows, event_key};
use super::users::Shared;
use super::{ACTION_MAX, EVENT_AHEAD_MAX_S, EventFault, EventOutcome, StoreError, UserEvent};
use crate::events::{Record, RecordKind};
use crate::ids::Id;
use crate::money::{AMOUNT_MAX, Micros};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use redb::{Durability, ReadableDatabase, WriteTransaction};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Job {
    Append(Vec<UserEvent>, Reply<Vec<EventOutcome>>),
    Import(Vec<(Id, History)>, Reply<usize>),
    Delete(Id, Reply<bool>),
    Checkpoint(Reply<()>),
}

/// Events gathered into one transaction.
const GROUP_EVENTS: usize = 20_000;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    meta: Meta,
    /// Events applied since the last synced commit.
    unsynced: usize,
    dirty: bool,
    synced_at: Instant,
    sweep: Sweep,
    swept_at: Instant,
}

fn sync(transaction: &mut WriteTransaction) {
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
}

fn poisoned(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Poisoned(format!("user store: {}", error.into()))
}

impl Writer {
    /// Brings the tables up to the end of the event log.
    pub(super) fn recover(shared: Arc<Shared>, meta: Meta) -> Result<Self, StoreError> {
        let (now, sweep) = (Instant::now(), Sweep::default());
        let mut this = Self { shared, meta, unsynced: 0, dirty: false, synced_at: now, sweep, swept_at: now };
        let log = Arc::clone(&this.shared.log);
        let (mut waiting, mut last, mut outcome) = (Vec::new(), this.meta.applied, Ok(()));
        let replay = log.replay(this.meta.applied + 1, &mut |number, kind, body| {
            last = number;
            outcome = this.replay_one(number, kind, body, &mut waiting);
            outcome.is_ok()
        });
        replay.map_err(|e| StoreError::Open { file: "event log".into(), fault: e.to_string() })?;
        outcome?;
        this.apply_replayed(std::mem::take(&mut waiting), last)?;
        this.checkpoint()?;
        Ok(this)
    }

    fn replay_one(
        &mut self,
        number: u64,
        kind: RecordKind,
        body: &[u8],
        waiting: &mut Vec<UserEvent>,
    ) -> Result<(), StoreError> {
        let unreadable =
            |fault: String| StoreError::Open { file: "event log".into(), fault: format!("record {number}: {fault}") };
        if kind == RecordKind::USER_EVENT {
            waiting.push(serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?);
        }
        let deleted = kind == RecordKind::USER_DELETED;
        if waiting.len() >= GROUP_EVENTS || deleted {
            self.apply_replayed(std::mem::take(waiting), number)?;
        }
        if deleted {
            let user = std::str::from_utf8(body).map_err(|e| unreadable(e.to_string()))?;
            self.forget_rows(&[Id::from(user)], number)?;
        }
        Ok(())
    }

    fn apply_replayed(&mut self, mut events: Vec<UserEvent>, applied: u64) -> Result<(), StoreError> {
        let mut keys: Vec<u128> = events.iter().map(|event| event_key(&event.event_id)).collect();
        let known = self.known(&keys)?;
        let mut at = known.iter();
        events.retain(|_| at.next() != Some(&true));
        let mut at = known.iter();
        keys.retain(|_| at.next() != Some(&true));
        self.shared.counters.replayed.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.apply(&events, &keys, applied)
    }

    /// Serves until the queue is closed, then syncs.
    pub(super) fn run(&mut self, waiting: &Receiver<Job>) {
        let shared = Arc::clone(&self.shared);
        let guard = PoisonGuard::new(&shared.poison, "store");
        let rest = Duration::from_millis(shared.options.checkpoint_ms.max(1));
        loop {
            match waiting.recv_timeout(rest.saturating_sub(self.synced_at.elapsed()).max(Duration::from_millis(1))) {
                Ok(job) => self.serve(job, waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.synced_at.elapsed() >= rest {
                self.checkpoint_or_poison();
            }
            if self.swept_at.elapsed() >= rest {
                self.swept_at = Instant::now();
                // `guarded` has thrown the switch if it failed; a log that is busy is asked again at the next step.
                let _shown_in_poison = self.guarded(Self::forget_aged);
            }
        }
        self.checkpoint_or_poison();
        guard.disarm();
    }

    fn checkpoint_or_poison(&mut self) {
        // `guarded` has thrown the switch if it failed.
        let _shown_in_poison = self.guarded(Self::checkpoint);
    }

    /// Gathers appends that wait into one group; other jobs stand alone, in order.
    fn serve(&mut self, first: Job, waiting: &Receiver<Job>) {
        let (mut group, mut events, mut job) = (Vec::new(), 0, Some(first));
        while let Some(Job::Append(batch, reply)) = job {
            events += batch.len();
            group.push((batch, reply));
            job = if events < GROUP_EVENTS { waiting.try_recv().ok() } else { None };
        }
        if !group.is_empty() {
            self.append_group(group);
        }
        match job {
            Some(Job::Import(histories, reply)) => self.answer(reply, |this| this.import(histories)),
            Some(Job::Delete(user, reply)) => self.answer(reply, |this| Ok(this.forget(&[user])? > 0)),
            Some(Job::Checkpoint(reply)) => self.answer(reply, Self::checkpoint),
            Some(Job::Append(..)) | None => {}
        }
    }

    fn answer<T>(&mut self, reply: Reply<T>, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) {
        let outcome = self.guarded(work);
        // A caller that went away needs no answer; what was done stands.
        let _gone = reply.send(outcome);
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(reason) = self.shared.poison.reason() {
            return Err(StoreError::Poisoned(reason.to_owned()));
        }
        let outcome = work(self);
        if let Err(StoreError::Poisoned(reason)) = &outcome {
            self.shared.poison.set(reason.clone());
        }
        outcome
    }

    fn append_group(&mut self, group: Vec<(Vec<UserEvent>, Reply<Vec<EventOutcome>>)>) {
        let (batches, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
        let events: Vec<UserEvent> = batches.into_iter().flatten().collect();
        let outcome = self.guarded(|this| this.append(events));
        let mut from = 0;
        for (reply, length) in replies.into_iter().zip(lengths) {
            let part = outcome.as_ref().map(|all| all[from..from + length].to_vec()).map_err(Clone::clone);
            from += length;
            let _gone = reply.send(part);
        }
    }

    fn known(&self, keys: &[u128]) -> Result<Vec<bool>, StoreError> {
        let read = self.shared.database.begin_read().map_err(poisoned)?;
        self.meta.known_ids(&read, keys).map_err(poisoned)
    }

    fn append(&mut self, events: Vec<UserEvent>) -> Result<Vec<EventOutcome>, StoreError> {
        let keys: Vec<u128> = events.iter().map(|event| event_key(&event.event_id)).collect();
        let known = self.known(&keys)?;
        let latest = self.shared.clock.seconds().saturating_add(EVENT_AHEAD_MAX_S);
        let (mut fresh, mut outcomes) = (HashSet::new(), Vec::with_capacity(events.len()));
        let (mut accepted, mut accepted_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for ((event, key), known) in events.into_iter().zip(keys).zip(known) {
            let outcome = match fault_of(&event, latest) {
                Some(fault) => EventOutcome::Rejected(fault),
                None if known || !fresh.insert(key) => EventOutcome::Duplicate,
                None => EventOutcome::Accepted,
            };
            if outcome == EventOutcome::Accepted {
                let body = serde_json::to_vec(&event).map_err(|e| StoreError::Poisoned(e.to_string()))?;
                records.push(Record { kind: RecordKind::USER_EVENT, body });
                accepted.push(event);
                accepted_keys.push(key);
            }
            outcomes.push(outcome);
        }
        self.shared.counters.count(&outcomes);
        if !accepted.is_empty() {
            let applied = self.shared.log.append_blocking(records)?;
            self.apply(&accepted, &accepted_keys, applied)?;
        }
        Ok(outcomes)
    }

    /// Applies events that are in the log, the last of them as record `applied`.
    fn apply(&mut self, events: &[UserEvent], keys: &[u128], applied: u64) -> Result<(), StoreError> {
        let mut by_user: BTreeMap<&Id, Vec<UserEvent>> = BTreeMap::new();
        for event in events {
            by_user.entry(&event.user).or_default().push(event.clone());
        }
        let due = self.unsynced + events.len() >= self.shared.options.checkpoint_events;
        let meta = self.meta;
        let reset = self.change(due, applied, |this, transaction, meta| {
            let now = this.shared.clock.seconds().max(0).unsigned_abs();
            let options = &this.shared.options;
            let window = IdWindow { seconds: options.ids_window_s, count: options.ids_max };
            meta.remember(transaction, keys, window, now)?;
            let mut rows = Rows::open(transaction, options.history_events_max)?;
            let mut reset = Vec::new();
            for (user, events) in &by_user {
                match rows.append(user.as_str(), events) {
                    Err(RowError::Damaged(fault)) => {
                        tracing::error!(%user, fault, "stored history is damaged: started anew");
                        rows.delete(user.as_str())?;
                        rows.append(user.as_str(), events)?;
                        reset.push((*user).clone());
                    }
                    other => other?,
                }
            }
            Ok(reset)
        })?;
        debug_assert!(self.meta.commit > meta.commit);
        self.unsynced = if due { 0 } else { self.unsynced + events.len() };
        for user in &reset {
            self.shared.cache.replaced(user, self.meta.commit);
        }
        for (user, events) in &by_user {
            self.shared.cache.appended(user, events, self.shared.options.history_events_max, self.meta.commit);
        }
        Ok(())
    }

    /// One transaction. Not synced unless asked: the log can repeat it.
    fn change<T>(
        &mut self,
        synced: bool,
        applied: u64,
        work: impl FnOnce(&Self, &WriteTransaction, &mut Meta) -> Result<T, RowError>,
    ) -> Result<T, StoreError> {
        let mut transaction = self.shared.database.begin_write().map_err(poisoned)?;
        if synced {
            sync(&mut transaction);
        } else {
            transaction.set_durability(Durability::None).map_err(poisoned)?;
        }
        let mut meta = Meta { commit: self.meta.commit + 1, applied, ..self.meta };
        let outcome = work(self, &transaction, &mut meta).map_err(|error| match error {
            RowError::Storage(error) => poisoned(error),
            RowError::Damaged(fault) => StoreError::Poisoned(format!("user store: {fault}")),
        })?;
        meta.write(&transaction).map_err(poisoned)?;
        transaction.commit().map_err(poisoned)?;
        self.meta = meta;
        self.dirty = !synced;
        if synced {
            self.synced_at = Instant::now();
            self.shared.log.protect(applied);
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.synced_at = Instant::now();
        if self.dirty {
            self.change(true, self.meta.applied, |_, _, _| Ok(()))?;
            self.unsynced = 0;
        }
        self.shared.log.protect(self.meta.applied);
        Ok(())
    }

    fn import(&mut self, mut histories: Vec<(Id, History)>) -> Result<usize, StoreError> {
        for (user, history) in &mut histories {
            let lengths = [history.items.len(), history.actions.len()];
            if lengths != [history.len(); 2] {
                return Err(StoreError::Damaged { user: user.to_string(), fault: "columns of different lengths" });
            }
            history.sort();
        }
        // Of two histories of one user the later one stays, as if they had come in two calls.
        histories.sort_by(|a, b| a.0.cmp(&b.0));
        let users: Vec<Id> = histories.iter().map(|(user, _)| user.clone()).collect();
        self.change(true, self.meta.applied, |this, transaction, _| {
            let mut rows = Rows::open(transaction, this.shared.options.history_events_max)?;
            histories.into_iter().try_for_each(|(user, history)| rows.replace(user.as_str(), history))
        })?;
        for user in &users {
            self.shared.cache.replaced(user, self.meta.commit);
        }
        Ok(users.len())
    }

    /// One step of forgetting users by age, where one is due.
    fn forget_aged(&mut self) -> Result<(), StoreError> {
        let now = self.shared.clock.seconds();
        let days = self.shared.options.forget_after_days;
        if days == 0 || !self.sweep.due(now) {
            return Ok(());
        }
        let read = self.shared.database.begin_read().map_err(poisoned)?;
        let (old, next) =
            self.sweep.step(&read, now.saturating_sub(86_400 * i64::from(days)), now).map_err(poisoned)?;
        drop(read);
        let forgotten = self.forget(&old)?;
        self.shared.counters.forgotten.fetch_add(forgotten as u64, Ordering::Relaxed);
        self.sweep = next;
        Ok(())
    }

    /// Forgets users, all together; how many there were.
    fn forget(&mut self, users: &[Id]) -> Result<usize, StoreError> {
        if users.is_empty() {
            return Ok(0);
        }
        let record = |user: &Id| Record { kind: RecordKind::USER_DELETED, body: user.as_str().as_bytes().to_vec() };
        let applied = self.shared.log.append_blocking(users.iter().map(record).collect())?;
        self.forget_rows(users, applied)
    }

    fn forget_rows(&mut self, users: &[Id], applied: u64) -> Result<usize, StoreError> {
        let existed = self.change(true, applied, |this, transaction, _| {
            let mut rows = Rows::open(transaction, this.shared.options.history_events_max)?;
            let mut existed = 0;
            for user in users {
                existed += usize::from(rows.delete(user.as_str())?);
            }
            Ok(existed)
        })?;
        for user in users {
            self.shared.cache.replaced(user, self.meta.commit);
        }
        Ok(existed)
    }
}

fn fault_of(event: &UserEvent, latest: i64) -> Option<EventFault> {
    if event.action == 0 || event.action > ACTION_MAX {
        return Some(EventFault::Action);
    }
    if event.time < 0 || event.time > latest {
        return Some(EventFault::Time);
    }
    event.value_micros.filter(|value| !(Micros::ZERO..=AMOUNT_MAX).contains(value)).map(|_| EventFault::Value)
}
