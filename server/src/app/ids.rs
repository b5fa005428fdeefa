//! Ids of bids: unique across restarts and replicas, ordered by time.

use crate::ledger::BidId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes bid ids: milliseconds of the clock, then a counter under a salt of this process.
#[derive(Debug)]
pub struct BidIds {
    salt: u64,
    next: AtomicU64,
}

impl BidIds {
    /// A maker of ids. `salt` must be random: two processes with one salt could make the same id.
    #[must_use]
    pub fn new(salt: u64) -> Self {
        Self { salt, next: AtomicU64::new(0) }
    }

    /// The next id at `now_micros` (Unix microseconds).
    pub fn next(&self, now_micros: i64) -> BidId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        // The high 80 bits are kept: 48 bits of salt and 32 of the counter.
        let random = u128::from(self.salt) << 80 | u128::from(count & 0xffff_ffff) << 48;
        BidId::new(now_micros, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_within_and_between_processes() {
        let (a, b) = (BidIds::new(1), BidIds::new(2));
        let ids: HashSet<BidId> = (0..10_000).flat_map(|_| [a.next(5), b.next(5)]).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(a.next(2_000_000) > a.next(1_000_000), "ordered by time");
    }
}
