//! What is remembered of recent bids until their reports come: counted once, with what was expected of them.

use crate::auction::pace::Cell;
use crate::http::notices::NoticeKind;
use crate::ledger::BidId;
use crate::money::Micros;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// Entries in one generation; two are kept, so the last half million to a million reports are remembered.
const GENERATION: usize = 500_000;

/// A bounded memory of counted reports. Callers repeat notices and browsers reload pixels; a count must not follow. Lost on
/// restart: a report repeated across one is counted twice, which feedback bears and money (the ledger) does not depend on.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    new: HashSet<(u128, bool)>,
    old: HashSet<(u128, bool)>,
}

impl Seen {
    /// True the first time that a bid's impression or click is reported.
    pub fn first(&self, kind: NoticeKind, bid: BidId) -> bool {
        let key = (bid.0, kind == NoticeKind::Click);
        let mut seen = self.0.lock();
        if seen.old.contains(&key) || !seen.new.insert(key) {
            return false;
        }
        if seen.new.len() >= GENERATION {
            // The memory is used again: nothing is freed or grown while others wait for the lock.
            let seen = &mut *seen;
            std::mem::swap(&mut seen.old, &mut seen.new);
            seen.new.clear();
        }
        true
    }
}

/// What is remembered of a bid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// What its impression is expected to be worth, micros of the plan's currency; zero if that is not known any more.
    pub value: Micros,
    /// The part of the plan that made it; the first if that is not known any more.
    pub cell: Cell,
}

/// Predicted values of recent bids, so that an impression counts with what was expected of it, and where. Bounded and in memory
/// only: a value that is gone is reported as unknown, and pacing then steers by results alone.
#[derive(Debug, Default)]
pub struct Predicted(Mutex<[HashMap<u128, Expected>; 2]>);

impl Predicted {
    /// Remembers what a bid's impression is expected to be worth.
    pub fn remember(&self, bid: BidId, expected: Expected) {
        let mut maps = self.0.lock();
        maps[0].insert(bid.0, expected);
        if maps[0].len() >= GENERATION {
            // The memory is used again, as above.
            maps.swap(0, 1);
            maps[0].clear();
        }
    }

    /// What was expected of a bid.
    #[must_use]
    pub fn of(&self, bid: BidId) -> Expected {
        let maps = self.0.lock();
        maps.iter().find_map(|map| map.get(&bid.0).copied()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_once_and_memory_is_bounded() {
        let seen = Seen::default();
        assert!(seen.first(NoticeKind::Click, BidId(1)));
        assert!(!seen.first(NoticeKind::Click, BidId(1)));
        assert!(seen.first(NoticeKind::Impression, BidId(1)), "another kind");
        for bid in 10..10 + GENERATION as u128 * 3 {
            assert!(seen.first(NoticeKind::Click, BidId(bid)));
        }
        let inner = seen.0.lock();
        assert!(inner.new.len() + inner.old.len() <= 2 * GENERATION);
    }
}
