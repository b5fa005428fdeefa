//! One commit's worth of changes, worked out on drafts: memory follows only when the disk has them.
//!
//! Staging takes from live accounts what must not be used twice (a settled hold moves to `settling`, pool money on its
//! way back to `returning`); [`Batch::apply`] does the rest after the commit. If the commit fails nothing is applied and
//! the ledger is poisoned.

use super::account::Account;
use super::book::{Book, Slot};
use super::durable::{SettledRow, Writes};
use super::record::Record;
use super::{
    AMOUNT_MAX, AccountId, BidId, BudgetError, ChargeOn, Counters, Id, Micros, Notice, SettleError, Settled,
    Settlement, Timing,
};
use std::collections::{BTreeMap, HashMap};

#[derive(Debug)]
struct Draft {
    record: Record,
    pool_gain: i64,
    settling_done: i64,
    returning_done: i64,
    /// Write it even if the columns did not change.
    forced: bool,
}

impl Draft {
    fn of(live: &Account) -> Self {
        Self { record: live.record.clone(), pool_gain: 0, settling_done: 0, returning_done: 0, forced: false }
    }

    /// Pool money in memory now, plus what this commit adds.
    fn pool(&self, live: &Account) -> i64 {
        live.pool + self.pool_gain
    }

    /// Takes `amount` out of the pool; the caller moves it in the record.
    fn take_pool(&mut self, live: &mut Account, amount: i64) {
        let from_gain = amount.min(self.pool_gain);
        self.pool_gain -= from_gain;
        let from_live = amount - from_gain;
        live.pool -= from_live;
        live.returning += from_live;
        self.returning_done += from_live;
    }

    fn pool_to_free(&mut self, live: &mut Account, amount: i64) {
        self.take_pool(live, amount);
        self.record.unhold(amount);
    }
}

pub(crate) struct Batch<'a> {
    book: &'a Book,
    drafts: BTreeMap<AccountId, Draft>,
    settled: HashMap<BidId, SettledRow>,
    pub(crate) writes: Writes,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(book: &'a Book) -> Self {
        Self { book, drafts: BTreeMap::new(), settled: HashMap::new(), writes: Writes::default() }
    }

    fn with<T>(&mut self, account: AccountId, change: impl FnOnce(&mut Account, &mut Draft, &Slot) -> T) -> Option<T> {
        let slot = self.book.slot(account)?;
        let mut live = slot.account.lock();
        let draft = self.drafts.entry(account).or_insert_with(|| Draft::of(&live));
        let outcome = change(&mut live, draft, slot);
        slot.set_hint(&live);
        Some(outcome)
    }

    /// Looks at an account's pool when the batch is sealed.
    pub(crate) fn touch(&mut self, account: AccountId, forced: bool) {
        let _unknown = self.with(account, |_, draft, _| draft.forced |= forced);
    }

    pub(crate) fn return_recovered(&mut self, account: AccountId, now: i64) {
        let _unknown = self.with(account, |_, draft, _| draft.record.return_recovered(now));
    }

    /// Stages a notice. `seen` is its charge on disk, if there is one.
    pub(crate) fn settle(
        &mut self,
        settlement: &Settlement,
        seen: Option<SettledRow>,
        now: i64,
    ) -> Result<Settled, SettleError> {
        let bid = settlement.bid;
        if let Some(row) = self.settled.get(&bid).copied().or(seen) {
            Counters::add(&self.book.counters.settled_duplicate, 1);
            return Ok(Settled::Duplicate { first_price: row.price });
        }
        if self.book.options.charge_on == ChargeOn::Billing && settlement.notice == Notice::Win {
            let until = now + self.book.options.hold_max_s;
            self.with(settlement.account, |live, _, _| {
                live.hold_of(bid).is_some_and(|hold| hold.expires_at > now) && live.extend(bid, until)
            });
            return Ok(Settled::Noted);
        }
        let book = self.book;
        let timing = self
            .with(settlement.account, |live, draft, _| {
                let held = live.hold_of(bid).is_some();
                let timing = charge(live, draft, settlement, now)?;
                book.holds_ended(usize::from(held));
                Ok(timing)
            })
            .unwrap_or(Err(SettleError::UnknownAccount))?;
        // A bid from a clock ahead of ours is remembered from its own time on, so that it cannot outlive its row.
        self.settled.insert(bid, SettledRow { price: settlement.price, timing, at: now.max(settlement.issued_at) });
        Ok(Settled::Charged { timing })
    }

    /// Stages a budget.
    pub(crate) fn budget(&mut self, plan: &Id, budget: Micros) -> Result<AccountId, BudgetError> {
        if budget.0 < 0 || budget > AMOUNT_MAX {
            return Err(BudgetError::BadAmount { plan: plan.clone() });
        }
        let known = self.book.account_of(plan).or_else(|| self.book.add(plan, Record::default()));
        let account = known.ok_or(BudgetError::TooManyAccounts)?;
        self.with(account, |live, draft, slot| {
            let committed = draft.record.spent + draft.record.late_over + draft.record.held;
            let lowest = committed - draft.pool(live);
            if budget.0 < draft.record.granted && budget.0 < lowest {
                return Err(BudgetError::BelowCommitted { plan: slot.plan.clone(), lowest: Micros(lowest) });
            }
            let short = (committed - budget.0).clamp(0, draft.pool(live));
            draft.pool_to_free(live, short);
            draft.record.set_granted(budget.0);
            draft.forced = true;
            Ok(account)
        })
        .unwrap_or(Err(BudgetError::TooManyAccounts))
    }

    /// Planned end: all pools back to free, open holds written down.
    pub(crate) fn write_holds(&mut self) {
        for number in 0..self.book.len() {
            let holds = self.with(AccountId(number), |live, draft, slot| {
                let pool = draft.pool(live);
                draft.pool_to_free(live, pool);
                live.holds().map(|(bid, hold)| (bid, slot.plan.clone(), hold)).collect::<Vec<_>>()
            });
            self.writes.holds.extend(holds.unwrap_or_default());
        }
    }

    /// Fills and shrinks the pools of every account touched, then collects what must be written.
    pub(crate) fn seal(&mut self, closing: bool) {
        let book = self.book;
        for (account, draft) in &mut self.drafts {
            let Some(slot) = book.slot(*account) else { continue };
            let mut live = slot.account.lock();
            if !closing {
                rebalance(book, &mut live, draft);
            }
            slot.set_hint(&live);
            if draft.forced || draft.record != live.record {
                self.writes.accounts.push((slot.plan.clone(), draft.record.clone()));
            }
        }
        self.writes.settled.extend(self.settled.iter().map(|(bid, row)| (*bid, *row)));
        self.writes.settled.sort_unstable_by_key(|(bid, _)| *bid);
    }

    /// Makes memory follow the disk.
    pub(crate) fn apply(self) {
        for (account, draft) in self.drafts {
            let Some(slot) = self.book.slot(account) else { continue };
            let mut live = slot.account.lock();
            live.record = draft.record;
            live.pool += draft.pool_gain;
            live.settling -= draft.settling_done;
            live.returning -= draft.returning_done;
            slot.set_hint(&live);
            debug_assert!(live.is_balanced(), "plan {}: {live:?}", slot.plan);
        }
        let late = self.settled.values().filter(|row| row.timing != Timing::OnTime).count();
        Counters::add(&self.book.counters.settled_late, late);
        Counters::add(&self.book.counters.settled_on_time, self.settled.len() - late);
    }
}

/// Charges a first notice to the draft and ends its hold, if there is one.
fn charge(live: &mut Account, draft: &mut Draft, settlement: &Settlement, now: i64) -> Result<Timing, SettleError> {
    let price = settlement.price.0;
    if let Some(hold) = live.hold_of(settlement.bid).filter(|hold| hold.expires_at > now) {
        if price > hold.amount {
            return Err(SettleError::PriceAboveBid { price: settlement.price, bid: Micros(hold.amount) });
        }
        draft.record.charge_held(price);
        draft.pool_gain += hold.amount - price;
        draft.settling_done += hold.amount;
        live.begin_settle(settlement.bid);
        return Ok(Timing::OnTime);
    }
    let recovered = draft.record.recovered.iter().any(|tranche| tranche.until > now);
    // A hold that has run out but was not swept yet: its money is the pool's again.
    let _hold = live.release(settlement.bid);
    let used = draft.record.charge_late(price, draft.pool(live), now);
    draft.take_pool(live, used);
    Ok(if recovered { Timing::AfterRestart } else { Timing::Late })
}

fn rebalance(book: &Book, live: &mut Account, draft: &mut Draft) {
    live.refill_asked = false;
    let owed = draft.record.late_over.min(draft.pool(live));
    draft.pool_to_free(live, owed);
    let pool = draft.pool(live);
    let target = live.pool_target(book.pool_rule, draft.record.granted, pool + draft.record.free);
    if pool < target {
        draft.record.hold(target - pool);
        draft.pool_gain += target - pool;
    } else if pool / 2 > target {
        draft.pool_to_free(live, pool - target);
    }
}
