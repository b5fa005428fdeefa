//! One plan's live state: its durable record plus what memory alone knows about the held part of it.
//!
//! `record.held = pool + open + settling + returning + recovered`, always. Only the commit thread changes `record`, and
//! only after the change is on disk; the request path moves money between `pool` and `open` under the account's lock.

use super::record::Record;
use super::{Balance, BidId, Micros, Options, ReserveError};
use std::collections::{BTreeMap, HashMap};

/// Money set aside for one bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Micros.
    pub amount: i64,
    /// First Unix second at which the hold no longer stands.
    pub expires_at: i64,
}

/// How large the pool of one plan should be. See [`Options`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolRule {
    pub(crate) permille: i64,
    pub(crate) holds_min: i64,
}

impl From<&Options> for PoolRule {
    fn from(options: &Options) -> Self {
        Self { permille: options.pool_permille.clamp(1, 1_000), holds_min: options.pool_holds_min.max(1) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Account {
    /// As on disk.
    pub(crate) record: Record,
    /// Held money carved for no bid yet: what `reserve` takes from.
    pub(crate) pool: i64,
    /// Sum of `holds`.
    pub(crate) open: i64,
    /// Holds taken by settlements whose commit has not finished.
    pub(crate) settling: i64,
    /// Pool money on its way back to free, not yet committed.
    pub(crate) returning: i64,
    /// Largest amount ever asked for: small budgets need pools of a few holds.
    pub(crate) largest: i64,
    /// A refill was asked for and has not run.
    pub(crate) refill_asked: bool,
    holds: HashMap<BidId, Hold>,
    expiry: BTreeMap<i64, Vec<BidId>>,
    expiry_len: usize,
}

impl Account {
    pub(crate) fn new(record: Record) -> Self {
        Self { record, ..Self::default() }
    }

    pub(crate) fn holds(&self) -> impl Iterator<Item = (BidId, Hold)> + '_ {
        self.holds.iter().map(|(bid, hold)| (*bid, *hold))
    }

    pub(crate) fn hold_of(&self, bid: BidId) -> Option<Hold> {
        self.holds.get(&bid).copied()
    }

    /// Carves a hold from the pool.
    pub(crate) fn reserve(&mut self, bid: BidId, hold: Hold) -> Result<(), ReserveError> {
        if self.holds.contains_key(&bid) {
            return Err(ReserveError::DuplicateBid);
        }
        if hold.amount > self.pool - self.owed() {
            if hold.amount > self.reachable() {
                return Err(ReserveError::BudgetSpent);
            }
            self.largest = self.largest.max(hold.amount);
            return Err(ReserveError::PoolEmpty);
        }
        self.largest = self.largest.max(hold.amount);
        self.pool -= hold.amount;
        self.adopt(bid, hold);
        Ok(())
    }

    /// Records a hold whose money is already out of the pool.
    pub(crate) fn adopt(&mut self, bid: BidId, hold: Hold) {
        self.open += hold.amount;
        self.holds.insert(bid, hold);
        self.note_expiry(bid, hold.expires_at);
    }

    fn note_expiry(&mut self, bid: BidId, at: i64) {
        self.expiry.entry(at).or_default().push(bid);
        self.expiry_len += 1;
        // Settled and released bids leave their expiry entry behind; do not let those outgrow the holds.
        if self.expiry_len > 2 * self.holds.len() + 1_024 {
            self.expiry.clear();
            for (bid, hold) in &self.holds {
                self.expiry.entry(hold.expires_at).or_default().push(*bid);
            }
            self.expiry_len = self.holds.len();
        }
    }

    /// Puts a hold's money back into the pool. `None` if there is no such hold.
    pub(crate) fn release(&mut self, bid: BidId) -> Option<Hold> {
        let hold = self.holds.remove(&bid)?;
        self.open -= hold.amount;
        self.pool += hold.amount;
        Some(hold)
    }

    /// Moves the end of a hold. False if there is no such hold.
    pub(crate) fn extend(&mut self, bid: BidId, expires_at: i64) -> bool {
        let Some(hold) = self.holds.get_mut(&bid) else { return false };
        if expires_at > hold.expires_at {
            hold.expires_at = expires_at;
            self.note_expiry(bid, expires_at);
        }
        true
    }

    /// Takes a hold for a settlement: open to settling.
    pub(crate) fn begin_settle(&mut self, bid: BidId) {
        if let Some(hold) = self.holds.remove(&bid) {
            self.open -= hold.amount;
            self.settling += hold.amount;
        }
    }

    /// Releases holds that have run out, looking at no more than `steps` entries. Returns (released, looked at).
    pub(crate) fn expire(&mut self, now: i64, steps: usize) -> (usize, usize) {
        let (mut released, mut looked) = (0, 0);
        while looked < steps {
            let Some(mut entry) = self.expiry.first_entry() else { break };
            if *entry.key() > now {
                break;
            }
            let Some(bid) = entry.get_mut().pop() else {
                entry.remove();
                continue;
            };
            self.expiry_len -= 1;
            looked += 1;
            if self.holds.get(&bid).is_some_and(|hold| hold.expires_at <= now) {
                self.release(bid);
                released += 1;
            }
        }
        (released, looked)
    }

    /// The pool this plan should have, given the pool and the free money it would have after the changes under way.
    pub(crate) fn pool_target(&self, rule: PoolRule, granted: i64, reachable: i64) -> i64 {
        (granted / 1_000 * rule.permille).max(self.largest.saturating_mul(rule.holds_min)).min(reachable)
    }

    /// True when the commit thread should look at the pool: it runs low, or holds far too much, or owes late charges.
    pub(crate) fn wants_rebalance(&self, rule: PoolRule) -> bool {
        let target = self.pool_target(rule, self.record.granted, self.pool + self.record.free);
        let low = self.pool < target / 2 || (self.pool == 0 && target > 0);
        low || self.pool / 3 > target || (self.record.late_over > 0 && self.pool > 0)
    }

    /// The part of the pool that late charges beyond the budget will take as soon as the commit thread gets to it.
    fn owed(&self) -> i64 {
        self.record.late_over.min(self.pool)
    }

    /// What could be reserved now or after a refill.
    pub(crate) fn reachable(&self) -> i64 {
        self.pool - self.owed() + self.record.free
    }

    pub(crate) fn balance(&self) -> Balance {
        let owed = self.owed();
        Balance {
            granted: Micros(self.record.granted),
            held: Micros(self.record.held - self.pool),
            spent: Micros(self.record.spent + owed),
            free: Micros(self.reachable()),
            pool: Micros(self.pool - owed),
            recovered: Micros(self.record.recovered_sum()),
            late: Micros(self.record.late),
            late_over: Micros(self.record.late_over - owed),
        }
    }

    /// True when memory and record agree: the cheap part, for every commit.
    pub(crate) fn is_balanced(&self) -> bool {
        let parts = [self.pool, self.open, self.settling, self.returning, self.record.recovered_sum()];
        self.record.audit().is_ok() && parts.iter().all(|&p| p >= 0) && parts.iter().sum::<i64>() == self.record.held
    }

    /// True when memory and record agree, hold by hold.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_balanced() && self.open == self.holds.values().map(|h| h.amount).sum::<i64>()
    }
}
