//! The walk over the users on disk that finds those whose newest event is old. The store thread takes one small step of it at a time,
//! so that an append never waits for long, and forgets whom it found as a deletion does.

use super::chunk::last_time;
use super::tables::{CHUNKS, USERS, UserRow};
use crate::ids::Id;
use redb::{ReadOnlyTable, ReadTransaction};
use std::ops::Bound;

/// Users looked at in one step: one chunk is read for each, 2 MiB in all at most.
const USERS_A_STEP: usize = 256;
/// A step ends once it has found this many chunks to remove, 4 MiB.
const CHUNKS_A_STEP: u32 = 512;
/// A pass over all users begins this long after the one before began.
const PASS_EVERY_S: i64 = 86_400;

/// Where the walk stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sweep {
    /// The last user looked at; `None` between two passes.
    after: Option<String>,
    /// Unix second at which the present or the last pass began.
    began: Option<i64>,
}

impl Sweep {
    /// True in the middle of a pass, and when it is time for another; a clock that was set back is no reason to wait.
    pub(super) fn due(&self, now: i64) -> bool {
        let rests = |began: i64| (began..began.saturating_add(PASS_EVERY_S)).contains(&now);
        self.after.is_some() || !self.began.is_some_and(rests)
    }

    /// The users of the next step that have done nothing since the Unix second `cutoff`, and where the walk stands after it. Rows that
    /// are damaged are left for a reader to find.
    pub(super) fn step(&self, read: &ReadTransaction, cutoff: i64, now: i64) -> Result<(Vec<Id>, Self), redb::Error> {
        let (users, chunks) = (read.open_table(USERS)?, read.open_table(CHUNKS)?);
        let from = self.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = users.range::<&str>((from, Bound::Unbounded))?;
        let (mut old, mut removed) = (Vec::new(), 0);
        let mut next = Self { began: if self.after.is_none() { Some(now) } else { self.began }, after: None };
        for looked in 1.. {
            let Some(row) = rows.next() else { break };
            let (key, value) = row?;
            let (user, row) = (key.value(), value.value());
            if is_older(&chunks, user, row, cutoff)? {
                removed += row.1.saturating_sub(row.0);
                old.push(Id::from(user));
            }
            if looked == USERS_A_STEP || removed >= CHUNKS_A_STEP {
                next.after = Some(user.to_owned());
                break;
            }
        }
        Ok((old, next))
    }
}

/// True if the newest event lies before `cutoff`, or there is none.
fn is_older(
    chunks: &ReadOnlyTable<(&'static str, u32), &'static [u8]>,
    user: &str,
    (first, next, _, _): UserRow,
    cutoff: i64,
) -> Result<bool, redb::Error> {
    if first >= next {
        return Ok(true);
    }
    let newest = chunks.get((user, next - 1))?.and_then(|chunk| last_time(chunk.value()));
    Ok(newest.is_some_and(|time| time < cutoff))
}

#[cfg(test)]
mod tests {
    use super::super::History;
    use super::super::tables::{Rows, make_tables};
    use super::*;
    use crate::ids::ItemKey;
    use redb::{Database, ReadableDatabase as _, backends::InMemoryBackend};

    /// Users `u0000` and so on, each with `events` events, the last of them at second 1,000 plus the user's number.
    fn database(users: u32, events: i64) -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        make_tables(&transaction).unwrap();
        let mut rows = Rows::open(&transaction, 1_000_000).unwrap();
        for user in 0..users {
            let mut history = History::default();
            (0..events).for_each(|n| history.push(ItemKey(1), 1, 1_001 + i64::from(user) - events + n));
            rows.replace(&format!("u{user:04}"), history).unwrap();
        }
        drop(rows);
        transaction.commit().unwrap();
        database
    }

    #[test]
    fn a_step_is_bounded_and_a_pass_finds_each_old_user_once() {
        let database = database(1_000, 3);
        let read = database.begin_read().unwrap();
        let (mut sweep, mut found, mut steps) = (Sweep::default(), Vec::new(), 0);
        assert!(sweep.due(50));
        while sweep.due(50) {
            let (old, next) = sweep.step(&read, 1_600, 50).unwrap();
            assert!(old.len() <= USERS_A_STEP);
            (sweep, steps) = (next, steps + 1);
            found.extend(old);
        }
        assert_eq!(steps, 4);
        let wanted: Vec<Id> = (0..600).map(|user| Id::from(&*format!("u{user:04}"))).collect();
        assert_eq!(found, wanted, "those whose newest event lies before second 1,600, in order");
        assert!(!sweep.due(50 + PASS_EVERY_S - 1) && sweep.due(50 + PASS_EVERY_S) && sweep.due(49));
    }

    #[test]
    fn long_histories_end_a_step_early() {
        let database = database(300, 4_400);
        let read = database.begin_read().unwrap();
        let (old, next) = Sweep::default().step(&read, i64::MAX, 0).unwrap();
        assert_eq!(old.len(), 52, "of 10 chunks each");
        assert_eq!(next, Sweep { after: Some("u0051".to_owned()), began: Some(0) });
        let (none, _) = next.step(&read, 0, 1).unwrap();
        assert!(none.is_empty());
    }
}
