//! All accounts in memory, and the operations that need no disk. No I/O here and no clock but the one passed in.

use super::account::{Account, Hold, PoolRule};
use super::counters::Counters;
use super::record::Record;
use super::{ACCOUNTS_MAX, AMOUNT_MAX, AccountId, BidId, Id, Options, ReserveError, SettleError, Settlement};
use crate::deadline::WallClock;
use crate::store::poison::Poison;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

const CHUNK: usize = 1_024;

/// One account with its lock and what can be read without it.
pub(crate) struct Slot {
    pub(crate) plan: Id,
    pub(crate) account: Mutex<Account>,
    hint: AtomicI64,
}

impl Slot {
    pub(crate) fn hint(&self) -> i64 {
        self.hint.load(Ordering::Relaxed)
    }

    pub(crate) fn set_hint(&self, account: &Account) {
        self.hint.store(account.reachable(), Ordering::Relaxed);
    }
}

/// What `reserve` says, and whether the commit thread must be told to refill.
pub(crate) struct ReserveOutcome {
    pub(crate) result: Result<(), ReserveError>,
    pub(crate) refill: bool,
}

type Chunk = Box<[OnceLock<Slot>]>;

/// The accounts, found by number without a lock: chunks are made once and never move.
pub(crate) struct Book {
    chunks: Box<[OnceLock<Chunk>]>,
    len: AtomicU32,
    by_plan: RwLock<HashMap<Id, AccountId>>,
    open_holds: AtomicUsize,
    sweep_from: AtomicU32,
    closed: AtomicBool,
    pub(crate) pool_rule: PoolRule,
    pub(crate) options: Options,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) poison: Poison,
    pub(crate) counters: Counters,
}

impl Book {
    pub(crate) fn new(options: Options, clock: Arc<dyn WallClock>) -> Self {
        Self {
            chunks: (0..ACCOUNTS_MAX / CHUNK).map(|_| OnceLock::new()).collect(),
            len: AtomicU32::new(0),
            by_plan: RwLock::default(),
            open_holds: AtomicUsize::new(0),
            sweep_from: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            pool_rule: PoolRule::from(&options),
            options,
            clock,
            poison: Poison::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn account_of(&self, plan: &Id) -> Option<AccountId> {
        self.by_plan.read().get(plan).copied()
    }

    pub(crate) fn slot(&self, account: AccountId) -> Option<&Slot> {
        let at = account.0 as usize;
        self.chunks.get(at / CHUNK)?.get()?.get(at % CHUNK)?.get()
    }

    /// Adds an account. Called by the commit thread only; `None` when [`ACCOUNTS_MAX`] is reached.
    pub(crate) fn add(&self, plan: &Id, record: Record) -> Option<AccountId> {
        let number = self.len();
        let at = number as usize;
        let chunk = self.chunks.get(at / CHUNK)?.get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let account = Account::new(record);
        let hint = AtomicI64::new(account.reachable());
        let slot = Slot { plan: plan.clone(), account: Mutex::new(account), hint };
        chunk.get(at % CHUNK)?.set(slot).ok()?;
        self.by_plan.write().insert(plan.clone(), AccountId(number));
        self.len.store(number + 1, Ordering::Release);
        Some(AccountId(number))
    }

    pub(crate) fn reserve(&self, account: AccountId, bid: BidId, hold: Hold) -> ReserveOutcome {
        let outcome = self.try_reserve(account, bid, hold);
        self.counters.count_reserve(outcome.result);
        outcome
    }

    fn try_reserve(&self, account: AccountId, bid: BidId, hold: Hold) -> ReserveOutcome {
        let refuse = |error| ReserveOutcome { result: Err(error), refill: false };
        if self.poison.reason().is_some() || self.closed.load(Ordering::Relaxed) {
            return refuse(ReserveError::Poisoned);
        }
        if hold.amount <= 0 || hold.amount > AMOUNT_MAX.0 {
            return refuse(ReserveError::BadAmount);
        }
        let now = self.clock.seconds();
        if hold.expires_at <= now || hold.expires_at - now > self.options.hold_max_s {
            return refuse(ReserveError::BadExpiry);
        }
        let Some(slot) = self.slot(account) else { return refuse(ReserveError::UnknownAccount) };
        if self.open_holds.fetch_add(1, Ordering::Relaxed) >= self.options.holds_max {
            self.open_holds.fetch_sub(1, Ordering::Relaxed);
            return refuse(ReserveError::TooManyHolds);
        }
        let mut live = slot.account.lock();
        let result = live.reserve(bid, hold);
        let refill = self.ask_refill(&mut live, result == Err(ReserveError::PoolEmpty));
        slot.set_hint(&live);
        drop(live);
        if result.is_err() {
            self.open_holds.fetch_sub(1, Ordering::Relaxed);
        }
        ReserveOutcome { result, refill }
    }

    /// True once per need: the caller then tells the commit thread. A pool well above its low mark can still be too small
    /// for one bid (`short`).
    fn ask_refill(&self, live: &mut Account, short: bool) -> bool {
        let ask = !live.refill_asked && (short || live.wants_rebalance(self.pool_rule));
        live.refill_asked |= ask;
        ask
    }

    /// The commit thread could not be told: ask again at the next chance.
    pub(crate) fn refill_not_asked(&self, account: AccountId) {
        if let Some(slot) = self.slot(account) {
            slot.account.lock().refill_asked = false;
        }
    }

    /// Puts a hold read from disk after a planned restart back in place.
    pub(crate) fn adopt(&self, account: AccountId, bid: BidId, hold: Hold) {
        if let Some(slot) = self.slot(account) {
            slot.account.lock().adopt(bid, hold);
            self.open_holds.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn release(&self, account: AccountId, bid: BidId) -> (Option<i64>, bool) {
        let Some(slot) = self.slot(account) else { return (None, false) };
        let mut live = slot.account.lock();
        let Some(hold) = live.release(bid) else { return (None, false) };
        let refill = self.ask_refill(&mut live, false);
        slot.set_hint(&live);
        drop(live);
        self.holds_ended(1);
        Counters::add(&self.counters.released, 1);
        (Some(hold.amount), refill)
    }

    pub(crate) fn open_holds(&self) -> usize {
        self.open_holds.load(Ordering::Relaxed)
    }

    pub(crate) fn holds_ended(&self, n: usize) {
        self.open_holds.fetch_sub(n, Ordering::Relaxed);
    }

    /// Sweeps accounts in turn, going on where the last call stopped, until `steps` entries were looked at or every
    /// account was visited once. Accounts whose pool needs a look are added to `rebalance`.
    pub(crate) fn expire(&self, now: i64, steps: usize, rebalance: &mut Vec<AccountId>) -> usize {
        let (len, mut left, mut total) = (self.len(), steps, 0);
        for _ in 0..len {
            if left == 0 {
                break;
            }
            let number = self.sweep_from.fetch_add(1, Ordering::Relaxed) % len;
            let Some(slot) = self.slot(AccountId(number)) else { continue };
            let mut live = slot.account.lock();
            let (released, looked) = live.expire(now, left);
            if live.wants_rebalance(self.pool_rule) {
                rebalance.push(AccountId(number));
            }
            slot.set_hint(&live);
            drop(live);
            left -= looked;
            total += released;
            self.holds_ended(released);
        }
        Counters::add(&self.counters.expired, total);
        total
    }

    /// Everything about a settlement that can be refused without the disk.
    pub(crate) fn check_settlement(&self, settlement: &Settlement) -> Result<(), SettleError> {
        let refusal = self.find_refusal(settlement);
        if refusal.is_err() {
            Counters::add(&self.counters.settle_refused, 1);
        }
        refusal
    }

    fn find_refusal(&self, settlement: &Settlement) -> Result<(), SettleError> {
        let price = settlement.price;
        if price.0 < 0 || price > AMOUNT_MAX {
            return Err(SettleError::BadPrice(price));
        }
        if price > settlement.bid_amount {
            return Err(SettleError::PriceAboveBid { price, bid: settlement.bid_amount });
        }
        if self.slot(settlement.account).is_none() {
            return Err(SettleError::UnknownAccount);
        }
        self.check_age(settlement)
    }

    /// A settled bid is remembered for `dedupe_s` after its first notice; one made longer ago might be forgotten.
    pub(crate) fn check_age(&self, settlement: &Settlement) -> Result<(), SettleError> {
        if self.clock.seconds().saturating_sub(settlement.issued_at) >= self.options.dedupe_s {
            return Err(SettleError::TooOld(self.options.dedupe_s));
        }
        Ok(())
    }

    pub(crate) fn audit(&self) -> Vec<Id> {
        let slots = (0..self.len()).filter_map(|number| self.slot(AccountId(number)));
        slots.filter(|slot| !slot.account.lock().is_exact()).map(|slot| slot.plan.clone()).collect()
    }
}
