//! The ledger's file: redb with two-phase commit and quick repair, so that a power cut at any point leaves the last
//! committed state and opening it again is quick.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `accounts` | plan id | [`Record`] |
//! | `settled` | bid id (u128) | price, timing, Unix second of the charge |
//! | `settled_at` | (Unix second, bid id) | - : the order in which settled bids are forgotten |
//! | `holds` | bid id | plan id, amount, expiry: written by a planned end, emptied by the next start |

use super::account::Hold;
use super::record::Record;
use super::{BidId, Id, Micros, OpenError, Timing};
use crate::store::file::open_database;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::path::Path;

const ACCOUNTS: TableDefinition<&str, &[u8]> = TableDefinition::new("accounts");
const SETTLED: TableDefinition<u128, (i64, u8, i64)> = TableDefinition::new("settled");
const SETTLED_AT: TableDefinition<(i64, u128), ()> = TableDefinition::new("settled_at");
const HOLDS: TableDefinition<u128, (&str, i64, i64)> = TableDefinition::new("holds");

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
}

/// The open file.
#[derive(Debug)]
pub struct DurableLedger {
    database: Database,
    name: String,
}

fn storage(name: &str, cause: impl Into<redb::Error>) -> OpenError {
    OpenError::Storage { file: name.to_owned(), cause: cause.into() }
}

impl DurableLedger {
    /// Opens or creates the file. `cache_bytes` bounds redb's page cache.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let database = open_database(path, cache_bytes).map_err(|e| storage(&name, e))?;
        Self::with(database, name)
    }

    /// Opens on any storage: how tests cut the power.
    pub fn open_backend(backend: impl StorageBackend) -> Result<Self, OpenError> {
        let name = "(backend)".to_owned();
        let database =
            Database::builder().set_cache_size(1 << 20).create_with_backend(backend).map_err(|e| storage(&name, e))?;
        Self::with(database, name)
    }

    fn with(database: Database, name: String) -> Result<Self, OpenError> {
        let this = Self { database, name };
        this.make_tables().map_err(|e| storage(&this.name, e))?;
        Ok(this)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        transaction.open_table(ACCOUNTS)?;
        transaction.open_table(SETTLED)?;
        transaction.open_table(SETTLED_AT)?;
        transaction.open_table(HOLDS)?;
        transaction.commit()?;
        Ok(())
    }

    /// Reads all accounts and holds; each record is audited.
    pub fn load(&self) -> Result<DurableImage, OpenError> {
        let rows = self.read_rows().map_err(|e| storage(&self.name, e))?;
        let mut image = DurableImage { holds: rows.1, ..DurableImage::default() };
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

    /// Writes everything in one synced transaction. Returns how many settled bids were forgotten.
    pub(crate) fn commit(&self, writes: &Writes) -> Result<usize, redb::Error> {
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
            let mut forgotten = 0;
            if let Some((limit, at_most)) = writes.forget {
                let old = order.range(..(limit, 0))?.take(at_most);
                let old = old.map(|row| Ok(row?.0.value())).collect::<Result<Vec<_>, redb::Error>>()?;
                forgotten = old.len();
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
