//! The ledger's file: redb with two-phase commit and quick repair, so that a power cut at any point leaves the last
//! committed state and opening it again is quick.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `accounts` | plan id | [`Record`] |
//! | `settled` | bid id (u128) | price, timing, Unix second of the charge |
//! | `settled_at` | (Unix second, bid id) | - : the order in which settled bids are forgotten |
//! | `holds` | bid id | plan id, amount, expiry: written by a planned end, emptied by the next start |
//! | `marks` | `forgotten_before` | Unix second: bids made before it may have been charged and forgotten |

use super::account::Hold;
use super::record::Record;
use super::{BidId, Id, Micros, OpenError, Timing};
use crate::store::file::{FileFault, checked, open_database};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::path::Path;

const ACCOUNTS: TableDefinition<&str, &[u8]> = TableDefinition::new("accounts");
const SETTLED: TableDefinition<u128, (i64, u8, i64)> = TableDefinition::new("settled");
const SETTLED_AT: TableDefinition<(i64, u128), ()> = TableDefinition::new("settled_at");
const HOLDS: TableDefinition<u128, (&str, i64, i64)> = TableDefinition::new("holds");

const MARKS: TableDefinition<&str, i64> = TableDefinition::new("marks");
const FORGOTTEN_BEFORE: &str = "forgotten_before";

/// A charge as remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledRow {
    /// What was charged.
    pub price: Micros,
    /// Relation to its hold.
    pub timing: Timing,
    /// Unix second of the charge.
    pub at: i64,
}

/// Everything one commit writes.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) accounts: Vec<(Id, Record)>,
    pub(crate) settled: Vec<(BidId, SettledRow)>,
    /// Forget bids settled before this second, at most so many.
    pub(crate) forget: Option<(i64, usize)>,
    pub(crate) holds: Vec<(BidId, Id, Hold)>,
    pub(crate) clear_holds: bool,
}

impl Writes {
    pub(crate) fn len(&self) -> usize {
        self.accounts.len() + self.settled.len() + self.holds.len() + usize::from(self.forget.is_some())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && !self.clear_holds
    }
}

/// Everything the file holds: for start-up and for checks.
#[derive(Debug, Default)]
pub struct DurableImage {
    /// Plans and their records, by plan id.
    pub accounts: Vec<(Id, Record)>,
    /// Open holds of a planned end.
    pub holds: Vec<(BidId, Id, Hold)>,
    /// Bids made before this Unix second may have been charged and forgotten: none of them may be charged any more. `None` until
    /// the first is forgotten.
    pub forgotten_before: Option<i64>,
}

/// What a commit forgot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forgotten {
    pub(crate) bids: usize,
    /// The new [`DurableImage::forgotten_before`], where bids were forgotten.
    pub(crate) before: Option<i64>,
}

/// The open file.
#[derive(Debug)]
pub struct DurableLedger {
    database: Database,
    name: String,
}

pub(super) fn storage(name: &str, fault: impl Into<FileFault>) -> OpenError {
    let file = name.to_owned();
    match fault.into() {
        FileFault::Damaged(what) => OpenError::DamagedFile { file, what },
        FileFault::Storage(cause) => OpenError::Storage { file, cause },
    }
}

impl DurableLedger {
    /// Opens or creates the file. `cache_bytes` bounds redb's page cache.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, OpenError> {
        Self::with(path.display().to_string(), || open_database(path, cache_bytes))
    }

    /// Opens on any storage: how tests cut the power.
    pub fn open_backend(backend: impl StorageBackend) -> Result<Self, OpenError> {
        Self::with("(backend)".to_owned(), || {
            Ok(Database::builder().set_cache_size(1 << 20).create_with_backend(backend)?)
        })
    }

    fn with(name: String, open: impl FnOnce() -> Result<Database, redb::Error>) -> Result<Self, OpenError> {
        let work = || -> Result<Self, FileFault> {
            let this = Self { database: open()?, name: name.clone() };
            this.make_tables()?;
            Ok(this)
        };
        checked(work).and_then(|opened| opened).map_err(|fault| storage(&name, fault))
    }

    /// The file, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        transaction.open_table(ACCOUNTS)?;
        transaction.open_table(SETTLED)?;
        transaction.open_table(SETTLED_AT)?;
        transaction.open_table(HOLDS)?;
        transaction.open_table(MARKS)?;
        transaction.commit()?;
        Ok(())
    }

    /// Reads accounts, holds and marks; each record is audited.
    pub fn load(&self) -> Result<DurableImage, OpenError> {
        let rows = self.read_rows().map_err(|e| storage(&self.name, e))?;
        let forgotten_before = self.forgotten_before().map_err(|e| storage(&self.name, e))?;
        let mut image = DurableImage { holds: rows.1, forgotten_before, ..DurableImage::default() };
        for (plan, bytes) in rows.0 {
            let record =
                Record::decode(&bytes).map_err(|fault| OpenError::Damaged { plan: plan.to_string(), fault })?;
            image.accounts.push((plan, record));
        }
        Ok(image)
    }

    #[expect(clippy::type_complexity, reason = "two tables' rows, taken apart at once by the only caller")]
    fn read_rows(&self) -> Result<(Vec<(Id, Vec<u8>)>, Vec<(BidId, Id, Hold)>), redb::Error> {
        let read = self.database.begin_read()?;
        let (mut accounts, mut holds) = (Vec::new(), Vec::new());
        for row in read.open_table(ACCOUNTS)?.iter()? {
            let (plan, bytes) = row?;
            accounts.push((Id::from(plan.value()), bytes.value().to_vec()));
        }
        for row in read.open_table(HOLDS)?.iter()? {
            let (bid, hold) = row?;
            let (plan, amount, expires_at) = hold.value();
            holds.push((BidId(bid.value()), Id::from(plan), Hold { amount, expires_at }));
        }
        Ok((accounts, holds))
    }

    fn forgotten_before(&self) -> Result<Option<i64>, redb::Error> {
        let read = self.database.begin_read()?;
        let mark = read.open_table(MARKS)?.get(FORGOTTEN_BEFORE)?.map(|row| row.value());
        Ok(mark)
    }

    /// Every remembered charge, for checks.
    pub fn settled_all(&self) -> Result<Vec<(BidId, SettledRow)>, OpenError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let mut all = Vec::new();
            for row in transaction.open_table(SETTLED)?.iter()? {
                let (bid, charge) = row?;
                all.push((BidId(bid.value()), row_of(charge.value())));
            }
            Ok(all)
        };
        read().map_err(|e| storage(&self.name, e))
    }

    /// The charges of these bids, where there are any.
    pub(crate) fn settled(&self, bids: &[BidId]) -> Result<Vec<Option<SettledRow>>, redb::Error> {
        let read = self.database.begin_read()?;
        let table = read.open_table(SETTLED)?;
        bids.iter().map(|bid| Ok(table.get(bid.0)?.map(|row| row_of(row.value())))).collect()
    }

    /// Whether a bid settled before `limit` is still remembered.
    pub(crate) fn has_settled_before(&self, limit: i64) -> Result<bool, redb::Error> {
        let read = self.database.begin_read()?;
        let table = read.open_table(SETTLED_AT)?;
        let any = table.range(..(limit, 0))?.next().transpose()?.is_some();
        Ok(any)
    }

    /// Writes everything in one synced transaction.
    pub(crate) fn commit(&self, writes: &Writes) -> Result<Forgotten, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        let forgotten = {
            let mut accounts = transaction.open_table(ACCOUNTS)?;
            for (plan, record) in &writes.accounts {
                accounts.insert(plan.as_str(), record.encode().as_slice())?;
            }
            let mut settled = transaction.open_table(SETTLED)?;
            let mut order = transaction.open_table(SETTLED_AT)?;
            for (bid, row) in &writes.settled {
                settled.insert(bid.0, (row.price.0, timing_code(row.timing), row.at))?;
                order.insert((row.at, bid.0), ())?;
            }
            let mut forgotten = Forgotten::default();
            if let Some((limit, at_most)) = writes.forget {
                let old = order.range(..(limit, 0))?.take(at_most);
                let old = old.map(|row| Ok(row?.0.value())).collect::<Result<Vec<_>, redb::Error>>()?;
                forgotten.bids = old.len();
                // A bid is charged at or after the second it was made in. The mark follows what was forgotten, not the clock: one that
                // jumped ahead must not have later bids refused.
                if let Some((newest, _)) = old.last() {
                    let mut marks = transaction.open_table(MARKS)?;
                    let before = marks.get(FORGOTTEN_BEFORE)?.map_or(i64::MIN, |row| row.value());
                    let before = before.max(newest.saturating_add(1));
                    marks.insert(FORGOTTEN_BEFORE, before)?;
                    forgotten.before = Some(before);
                }
                for key in old {
                    order.remove(key)?;
                    settled.remove(key.1)?;
                }
            }
            let mut holds = transaction.open_table(HOLDS)?;
            if writes.clear_holds {
                holds.retain(|_, _| false)?;
            }
            for (bid, plan, hold) in &writes.holds {
                holds.insert(bid.0, (plan.as_str(), hold.amount, hold.expires_at))?;
            }
            forgotten
        };
        transaction.commit()?;
        Ok(forgotten)
    }
}

fn timing_code(timing: Timing) -> u8 {
    match timing {
        Timing::OnTime => 0,
        Timing::AfterRestart => 1,
        Timing::Late => 2,
    }
}

fn row_of((price, code, at): (i64, u8, i64)) -> SettledRow {
    let timing = match code {
        0 => Timing::OnTime,
        1 => Timing::AfterRestart,
        _ => Timing::Late,
    };
    SettledRow { price: Micros(price), timing, at }
}
