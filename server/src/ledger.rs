//! Money: budgets, holds and settlements, exact through crashes.
//!
//! A bid *reserves* its price from its plan's budget, a win or billing notice *settles* it, a loss notice or its expiry
//! *releases* it. At every instant, in memory and on disk,
//!
//! ```text
//! granted = held + spent + free
//! ```
//!
//! **No disk on the request path.** Holds are carved out of a *pool* which the commit thread has moved from free to held
//! on disk beforehand. A bid that finds its pool dry may wait for the commit that refills it ([`Ledger::flush`]). The disk therefore always counts at least as much held as memory has promised. After a crash the
//! whole held column is a *recovered hold*: it stays held until the longest hold of the dead process has run out, then
//! returns to free. [`Ledger::close`] writes the open holds down, so a planned restart loses none.
//!
//! **A settlement is on disk before its future resolves**, in one transaction with the plan's record; all that wait
//! share one sync (group commit). It is idempotent by bid id for [`Options::dedupe_s`] seconds.
//!
//! **A late win is always charged.** It takes recovered holds, then free money, then the pool. What is left goes over the
//! budget, is shown as [`Balance::late_over`] and is paid back first when money becomes free. Nothing else can spend
//! more than was granted.
//!
//! **After any I/O error the ledger is poisoned**: it refuses everything until a restart reads what the disk holds.

mod account;
mod batch;
mod book;
mod commit;
mod counters;
mod durable;
mod record;
mod types;

pub use account::Hold;
pub use counters::Counters;
pub use durable::{DurableImage, DurableLedger, SettledRow};
pub use record::{Record, TRANCHES_MAX, Tranche};
pub(crate) use types::first_16_of_sha256;
pub use types::{
    ACCOUNTS_MAX, AMOUNT_MAX, AccountId, Balance, BidId, BudgetError, ChargeOn, Notice, OpenError, Options,
    RecordFault, ReserveError, SettleError, Settled, Settlement, Timing,
};

use crate::deadline::WallClock;
use crate::ids::Id;
use crate::money::Micros;
use crate::store::file::checked;
use book::Book;
use commit::{Committer, Op};
use crossbeam_channel::{Sender, TrySendError, bounded};
use durable::storage;
use parking_lot::Mutex;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The ledger of one data directory. Share it behind an `Arc`; dropping it without [`Ledger::close`] is safe and counts
/// as a crash.
pub struct Ledger {
    book: Arc<Book>,
    queue: Sender<Op>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("accounts", &self.book.len()).field("poisoned", &self.poisoned()).finish()
    }
}

impl Ledger {
    /// Opens or creates `dir/ledger.redb`, recovers, and starts the commit thread, named `ledger`.
    pub fn open(dir: &Path, options: Options, clock: Arc<dyn WallClock>) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir)?;
        let durable = DurableLedger::open(&dir.join("ledger.redb"), options.cache_bytes)?;
        Self::start(durable, options, clock)
    }

    /// Like [`Ledger::open`] on storage that is open already.
    pub fn start(durable: DurableLedger, options: Options, clock: Arc<dyn WallClock>) -> Result<Self, OpenError> {
        let book = Arc::new(Book::new(options, clock));
        let (name, read) = (durable.name().to_owned(), Arc::clone(&book));
        let recovered = checked(move || Committer::recover(read, durable)).map_err(|fault| storage(&name, fault))?;
        let mut committer = recovered?;
        let (queue, waiting) = bounded(book.options.queue_max.max(1));
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || committer.run(&waiting))?;
        Ok(Self { book, queue, thread: Mutex::new(Some(thread)) })
    }

    /// The account of a plan, if it was ever granted a budget.
    #[must_use]
    pub fn account(&self, plan: &Id) -> Option<AccountId> {
        self.book.account_of(plan)
    }

    /// The plan of an account.
    #[must_use]
    pub fn plan(&self, account: AccountId) -> Option<&Id> {
        self.book.slot(account).map(|slot| &slot.plan)
    }

    /// Every account, in order.
    pub fn accounts(&self) -> impl Iterator<Item = AccountId> + use<> {
        (0..self.book.len()).map(AccountId)
    }

    /// Holds `amount` for `bid` until the Unix second `expires_at`. Memory only: never waits for a disk.
    pub fn reserve(&self, account: AccountId, bid: BidId, amount: Micros, expires_at: i64) -> Result<(), ReserveError> {
        let outcome = self.book.reserve(account, bid, Hold { amount: amount.0, expires_at });
        if outcome.refill && self.queue.try_send(Op::Refill(account)).is_err() {
            self.book.refill_not_asked(account);
        }
        outcome.result
    }

    /// Gives a lost bid's hold back; a repeated or unknown one does nothing. Returns what was released.
    pub fn release(&self, account: AccountId, bid: BidId) -> Option<Micros> {
        let (released, refill) = self.book.release(account, bid);
        if refill && self.queue.try_send(Op::Refill(account)).is_err() {
            self.book.refill_not_asked(account);
        }
        released.map(Micros)
    }

    /// Releases holds that ended at or before `now`, looking at no more than `steps` of them. Returns how many it
    /// released. The commit thread does this by itself at every tick.
    pub fn expire(&self, now: i64, steps: usize) -> usize {
        self.book.expire(now, steps, &mut Vec::new())
    }

    /// Charges a notice, once. Resolves when the charge is on disk.
    pub async fn settle(&self, settlement: Settlement) -> Result<Settled, SettleError> {
        self.book.check_settlement(&settlement)?;
        let (reply, answer) = oneshot::channel();
        self.send(Op::Settle(settlement, reply)).map_err(|r| r.map_or(SettleError::Busy, SettleError::Poisoned))?;
        answer.await.unwrap_or_else(|_| Err(SettleError::Poisoned(self.poison_text())))
    }

    /// Sets a plan's total budget, making its account if need be. Resolves when it is on disk; the pool is filled by then.
    pub async fn set_budget(&self, plan: &Id, budget: Micros) -> Result<AccountId, BudgetError> {
        let accounts = self.set_budgets(vec![(plan.clone(), budget)]).await?;
        accounts.into_iter().next().unwrap_or(Err(BudgetError::TooManyAccounts))
    }

    /// [`Ledger::set_budget`] for many plans in one commit; one outcome for each, in order. The outer error means that
    /// nothing was done.
    pub async fn set_budgets(
        &self,
        budgets: Vec<(Id, Micros)>,
    ) -> Result<Vec<Result<AccountId, BudgetError>>, BudgetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Op::Budgets(budgets, reply)).map_err(|r| r.map_or(BudgetError::Busy, BudgetError::Poisoned))?;
        answer.await.unwrap_or_else(|_| Err(BudgetError::Poisoned(self.poison_text())))
    }

    /// Waits until everything sent before is on disk and the sweeps due now have run.
    pub async fn flush(&self) -> Result<(), SettleError> {
        let (reply, answer) = oneshot::channel();
        self.send(Op::Flush(reply)).map_err(|r| r.map_or(SettleError::Busy, SettleError::Poisoned))?;
        answer.await.unwrap_or_else(|_| Err(SettleError::Poisoned(self.poison_text())))
    }

    /// Planned end: refuses new holds, settles what waits and writes the open holds down, so that wins after the restart
    /// are on time.
    pub async fn close(&self) -> Result<(), SettleError> {
        self.book.close();
        let (reply, answer) = oneshot::channel();
        self.send(Op::Close(reply)).map_err(|r| r.map_or(SettleError::Busy, SettleError::Poisoned))?;
        let outcome = answer.await.unwrap_or_else(|_| Err(SettleError::Poisoned(self.poison_text())));
        if let Some(thread) = self.thread.lock().take() {
            let _panic_shows_in_poison = thread.join();
        }
        outcome
    }

    /// What a plan's money is doing.
    #[must_use]
    pub fn balance(&self, account: AccountId) -> Option<Balance> {
        Some(self.book.slot(account)?.account.lock().balance())
    }

    /// The plan's columns as the disk has them (or is about to have them, for at most one commit).
    #[must_use]
    pub fn record(&self, account: AccountId) -> Option<Record> {
        Some(self.book.slot(account)?.account.lock().record.clone())
    }

    /// What the plan could still hold, without a lock: a hint for eligibility, exact when nobody is reserving.
    #[must_use]
    pub fn free_hint(&self, account: AccountId) -> Micros {
        self.book.slot(account).map_or(Micros::ZERO, |slot| Micros(slot.hint()))
    }

    /// Why the ledger refuses to work, or `None` while healthy. Not ready when `Some`.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.book.poison.reason()
    }

    /// Holds that no notice has ended yet.
    #[must_use]
    pub fn open_holds(&self) -> usize {
        self.book.open_holds()
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.book.counters
    }

    /// Checks every account's arithmetic; the plans that break it (none, ever).
    #[must_use]
    pub fn audit(&self) -> Vec<Id> {
        self.book.audit()
    }

    fn send(&self, op: Op) -> Result<(), Option<String>> {
        if let Some(reason) = self.poisoned() {
            return Err(Some(reason.to_owned()));
        }
        self.queue.try_send(op).map_err(|refused| match refused {
            TrySendError::Full(_) => None,
            TrySendError::Disconnected(_) => Some(self.poison_text()),
        })
    }

    fn poison_text(&self) -> String {
        self.poisoned().unwrap_or("the ledger was closed").to_owned()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Closing the queue ends the thread after its current batch.
        let (closed, _) = bounded(1);
        drop(std::mem::replace(&mut self.queue, closed));
        if let Some(thread) = self.thread.get_mut().take() {
            let _panic_shows_in_poison = thread.join();
        }
    }
}
