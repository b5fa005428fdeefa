//! One plan's money as it stands on disk, and the only moves allowed between its columns.
//!
//! `granted = held + spent + free` holds before and after every move, with no column below zero. Charges beyond the
//! budget (only late wins can cause them) wait in `late_over` and are paid from `free` as soon as there is any, so a
//! plan with `late_over > 0` has `free = 0`.

use super::{Micros, RecordFault};

/// Most parts of recovered holds kept apart; beyond it the two youngest are merged.
pub const TRANCHES_MAX: usize = 4;

/// Money that was held when the process died. Nobody knows any more for which bids, so it stays held until the longest
/// hold of that life has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tranche {
    /// Micros still held.
    pub amount: i64,
    /// Unix second at which what is left returns to `free`.
    pub until: i64,
}

/// The columns. All amounts are micros of the plan's currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The budget.
    pub granted: i64,
    /// Set aside: open holds, the pool that holds are carved from, and recovered holds.
    pub held: i64,
    /// Charged within the budget.
    pub spent: i64,
    /// Neither held nor spent.
    pub free: i64,
    /// Sum of all charges flagged late, whether they fitted in the budget or not.
    pub late: i64,
    /// Late charges which the budget could not cover. All charges = `spent + late_over`.
    pub late_over: i64,
    /// Recovered holds, oldest first; part of `held`.
    pub recovered: Vec<Tranche>,
}

impl Record {
    /// Sum of the recovered holds.
    #[must_use]
    pub fn recovered_sum(&self) -> i64 {
        self.recovered.iter().map(|t| t.amount).sum()
    }

    /// Sets `amount` aside: free to held. The caller has checked that it is free.
    pub fn hold(&mut self, amount: i64) {
        debug_assert!(0 <= amount && amount <= self.free, "hold {amount} of {self:?}");
        self.free -= amount;
        self.held += amount;
    }

    /// Gives `amount` back: held to free, after late charges have taken their part.
    pub fn unhold(&mut self, amount: i64) {
        debug_assert!(0 <= amount && amount <= self.held, "unhold {amount} of {self:?}");
        self.held -= amount;
        self.free += amount;
        self.pay_late_over();
    }

    /// A win inside its hold: held to spent.
    pub fn charge_held(&mut self, price: i64) {
        debug_assert!(0 <= price && price <= self.held, "charge {price} of {self:?}");
        self.held -= price;
        self.spent += price;
    }

    /// A win without a hold. Taken from recovered holds still running, then from free, then from `pool_part` (held money
    /// that is carved for no bid, already counted in `held`); the rest goes over the budget.
    /// Returns how much of `pool_part` was used.
    pub fn charge_late(&mut self, price: i64, pool_part: i64, now: i64) -> i64 {
        self.late += price;
        let mut left = price;
        for tranche in self.recovered.iter_mut().rev().filter(|t| t.until > now) {
            let taken = left.min(tranche.amount);
            tranche.amount -= taken;
            left -= taken;
            self.held -= taken;
            self.spent += taken;
        }
        self.recovered.retain(|t| t.amount > 0);
        let taken = left.min(self.free);
        self.free -= taken;
        self.spent += taken;
        left -= taken;
        let from_pool = left.min(pool_part);
        self.charge_held(from_pool);
        self.late_over += left - from_pool;
        from_pool
    }

    /// Changes the budget. The caller has checked that a lower budget still covers held and spent.
    pub fn set_granted(&mut self, granted: i64) {
        self.free += granted - self.granted;
        self.granted = granted;
        debug_assert!(self.free >= 0, "budget below held + spent: {self:?}");
        self.pay_late_over();
    }

    /// After a crash: everything held that no tranche explains becomes a new tranche.
    pub fn recover(&mut self, known_holds: i64, until: i64) {
        let unexplained = self.held - self.recovered_sum() - known_holds;
        if unexplained <= 0 {
            return;
        }
        self.recovered.push(Tranche { amount: unexplained, until });
        while self.recovered.len() > TRANCHES_MAX {
            let young = self.recovered.remove(TRANCHES_MAX);
            let last = &mut self.recovered[TRANCHES_MAX - 1];
            last.amount += young.amount;
            last.until = last.until.max(young.until);
        }
    }

    /// Returns recovered holds that have run out to free. True if any did.
    pub fn return_recovered(&mut self, now: i64) -> bool {
        let due: i64 = self.recovered.iter().filter(|t| t.until <= now).map(|t| t.amount).sum();
        if due > 0 {
            self.recovered.retain(|t| t.until > now);
            self.unhold(due);
        }
        due > 0
    }

    fn pay_late_over(&mut self) {
        let paid = self.free.min(self.late_over);
        self.free -= paid;
        self.late_over -= paid;
        self.spent += paid;
    }

    /// Checks every rule stated above.
    pub fn audit(&self) -> Result<(), RecordFault> {
        let columns = [self.granted, self.held, self.spent, self.free, self.late, self.late_over];
        let sum = i128::from(self.held) + i128::from(self.spent) + i128::from(self.free);
        if columns.iter().any(|&c| c < 0) || self.recovered.iter().any(|t| t.amount <= 0) {
            return Err(RecordFault::Negative);
        }
        if sum != i128::from(self.granted) {
            return Err(RecordFault::Unbalanced);
        }
        if self.recovered_sum() > self.held || (self.late_over > 0 && self.free > 0) || self.late_over > self.late {
            return Err(RecordFault::Unbalanced);
        }
        Ok(())
    }

    /// Bytes on disk: version 1, six little-endian i64 in the order of the fields, the number of tranches, and for each
    /// its amount and its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(50 + 16 * self.recovered.len());
        bytes.push(1);
        for column in [self.granted, self.held, self.spent, self.free, self.late, self.late_over] {
            bytes.extend_from_slice(&column.to_le_bytes());
        }
        bytes.push(u8::try_from(self.recovered.len()).unwrap_or(u8::MAX));
        for tranche in &self.recovered {
            bytes.extend_from_slice(&tranche.amount.to_le_bytes());
            bytes.extend_from_slice(&tranche.until.to_le_bytes());
        }
        bytes
    }

    /// Reads [`Record::encode`]'s bytes and audits the result.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordFault> {
        let (&version, rest) = bytes.split_first().ok_or(RecordFault::Malformed)?;
        if version != 1 || rest.len() < 49 {
            return Err(RecordFault::Malformed);
        }
        let count = usize::from(rest[48]);
        if rest.len() != 49 + 16 * count {
            return Err(RecordFault::Malformed);
        }
        let at = |offset: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&rest[offset..offset + 8]);
            i64::from_le_bytes(word)
        };
        let recovered =
            (0..count).map(|i| Tranche { amount: at(49 + 16 * i), until: at(57 + 16 * i) }).collect::<Vec<_>>();
        let record = Self {
            granted: at(0),
            held: at(8),
            spent: at(16),
            free: at(24),
            late: at(32),
            late_over: at(40),
            recovered,
        };
        record.audit()?;
        Ok(record)
    }

    /// All charges, within the budget or over it.
    #[must_use]
    pub fn charged(&self) -> Micros {
        Micros(self.spent + self.late_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_charges_use_recovered_then_free_then_pool_and_the_rest_goes_over() {
        let mut record = Record { granted: 100, held: 60, free: 40, ..Record::default() };
        record.recovered = vec![Tranche { amount: 10, until: 5 }, Tranche { amount: 20, until: 50 }];
        assert_eq!(record.charge_late(90, 7, 10), 7);
        // 20 from the running tranche, 40 free, 7 of the pool, 23 over.
        assert_eq!((record.spent, record.free, record.held, record.late_over), (67, 0, 33, 23));
        record.audit().unwrap();
        assert!(record.return_recovered(10));
        assert_eq!((record.spent, record.free, record.late_over), (77, 0, 13));
        record.set_granted(150);
        assert_eq!((record.spent, record.free, record.late_over), (90, 37, 0));
        record.audit().unwrap();
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }

    #[test]
    fn damaged_records_are_refused() {
        let record = Record { granted: 100, held: 60, free: 40, ..Record::default() };
        let bytes = record.encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            // `late` alone carries no redundancy: every other byte is caught.
            assert_eq!(Record::decode(&bad).is_err(), !(33..41).contains(&at), "byte {at}");
        }
        assert!(Record::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn crash_loops_keep_a_bounded_number_of_tranches() {
        let mut record = Record { granted: 1_000, free: 1_000, ..Record::default() };
        for life in 0..10 {
            record.hold(10);
            record.recover(0, 100 + life);
            record.audit().unwrap();
        }
        assert_eq!(record.recovered.len(), TRANCHES_MAX);
        assert_eq!(record.recovered_sum(), 100);
        assert_eq!(record.recovered.last().unwrap().until, 109);
    }
}
