//! Counts since the start, for the meters.

use super::ReserveError;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since the ledger was opened; each only grows.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        impl Counters {
            /// Every count with its name, in a fixed order.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters! {
    /// Holds made.
    reserved,
    /// Refused: pool being refilled.
    refused_pool_empty,
    /// Refused: budget used up.
    refused_budget_spent,
    /// Refused for any other reason.
    refused_other,
    /// Holds given back by a loss notice.
    released,
    /// Holds given back by their expiry.
    expired,
    /// Charges inside their hold.
    settled_on_time,
    /// Charges flagged late (after a restart, an expiry or a release).
    settled_late,
    /// Notices of bids charged before.
    settled_duplicate,
    /// Notices refused (price, age).
    settle_refused,
    /// Transactions synced.
    commits,
    /// Changes in them: divided by `commits`, the size of a group.
    committed_changes,
    /// Settled bids forgotten after `dedupe_s`.
    forgotten,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_reserve(&self, outcome: Result<(), ReserveError>) {
        let counter = match outcome {
            Ok(()) => &self.reserved,
            Err(ReserveError::PoolEmpty) => &self.refused_pool_empty,
            Err(ReserveError::BudgetSpent) => &self.refused_budget_spent,
            Err(_) => &self.refused_other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
