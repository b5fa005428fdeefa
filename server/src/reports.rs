//! What each plan did, hour by hour: chances, bids, wins, spend, clicks, orders by channel and creative, and when its settings changed.
//!
//! Requests, notices and events only drop a [`Fact`] into a bounded queue and never wait; the control tick (and whoever reads)
//! folds the queue into the book. The book is bounded ([`HOURS_MAX`], [`CELLS_MAX`]) and saved with the learned state, so that a
//! restart loses at most the seconds since the last save. It is a report, not money: the ledger is the truth of what was spent.

mod book;
mod recent;
mod rows;
mod view;

pub use book::{Live, Setting};
pub use recent::{AnsweredBid, RecentBid};
pub use rows::{Cell, Counts, Hour, OTHER as OTHER_CHANNEL};
pub(crate) use view::factor;
pub use view::{Figures, Grouping};

use crate::auction::diagnose::Period;
use crate::auction::price::Steps;
use crate::catalog::Catalog;
use crate::ids::{CreativeSlot, Id, PlanSlot};
use crate::money::Micros;
use crate::store::{CatalogKind, CatalogRecord};
use book::Book;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use recent::Recent;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hours kept of each plan: 30 days.
pub const HOURS_MAX: i64 = 720;
/// Cells (plan, hour, channel, creative) kept of all plans together; beyond it the oldest hour goes.
pub const CELLS_MAX: usize = 1_000_000;
/// Facts waiting for the next tick at most; beyond it they are dropped and counted.
const QUEUE_MAX: usize = 131_072;

/// Something that happened. Amounts in micros of the plan's currency.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Plans had a candidate in an auction of a channel.
    Chances {
        /// Domain, bundle or publisher.
        channel: Id,
        /// Each once, with how its highest bid came about, and whether that reached the floor.
        plans: Box<[(PlanSlot, Steps, bool)]>,
    },
    /// A bid was sent.
    Bid {
        /// Domain, bundle or publisher.
        channel: Id,
        /// Its number.
        bid: u128,
        /// Who pays.
        plan: PlanSlot,
        /// What is shown.
        creative: CreativeSlot,
        /// The amount.
        amount: Micros,
    },
    /// An impression was charged.
    Win {
        /// The bid.
        bid: u128,
        /// Who paid.
        plan: PlanSlot,
        /// What was shown.
        creative: Option<CreativeSlot>,
        /// The charge.
        price: Micros,
        /// Our own bid.
        amount: Micros,
    },
    /// An impression was seen, a click came, or an order.
    Result {
        /// The bid, if it is known.
        bid: Option<u128>,
        /// Whose result it is.
        plan: PlanSlot,
        /// What was shown, if it is known.
        creative: Option<CreativeSlot>,
        /// What came.
        outcome: Outcome,
    },
}

/// A result of an ad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was seen.
    Impression,
    /// It was clicked.
    Click,
    /// It led to an order of this value.
    Conversion(Micros),
}

struct Noted {
    at: i64,
    fact: Fact,
}

/// The reports of all plans.
pub struct Reports {
    facts: (Sender<Noted>, Receiver<Noted>),
    dropped: AtomicU64,
    book: Mutex<Book>,
    recent: Mutex<Recent>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            facts: bounded(QUEUE_MAX),
            dropped: AtomicU64::new(0),
            book: Mutex::new(Book::default()),
            recent: Mutex::new(Recent::default()),
        }
    }
}

impl Reports {
    /// Takes a fact at `at` (Unix seconds). Never waits.
    pub fn note(&self, at: i64, fact: Fact) {
        if self.facts.0.try_send(Noted { at, fact }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Facts dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Folds what waits into the book. Slots are resolved by `catalog`.
    pub fn settle(&self, catalog: &Catalog) {
        let mut book = self.book.lock();
        // The length now bounds the work of one call.
        for _ in 0..self.facts.1.len() {
            let Ok(Noted { at, fact }) = self.facts.1.try_recv() else { break };
            book.take(catalog, at, fact);
        }
        book.bound();
    }

    /// Writes down how a plan stands at a tick: settings when they change, the multiplier of the hour.
    pub fn tick(&self, now: i64, plans: impl Iterator<Item = (Id, Setting, f64)>) {
        let mut book = self.book.lock();
        for (plan, setting, multiplier) in plans {
            book.tick(now, plan, setting, multiplier);
        }
    }

    /// A plan between two times, in whole hours, as diagnosis reads it; `None` for a plan without any row or setting.
    #[must_use]
    pub fn period(&self, plan: &Id, from: i64, to: i64) -> Option<Period> {
        self.book.lock().period(plan, from, to)
    }

    /// Figures of a plan between two times.
    #[must_use]
    pub fn figures(&self, plan: &Id, from: i64, to: i64, by: Grouping) -> Vec<Figures> {
        self.book.lock().figures(plan, from, to, by)
    }

    /// First and last second with a row, if any.
    #[must_use]
    pub fn span(&self, plan: &Id) -> Option<(i64, i64)> {
        self.book.lock().span(plan)
    }

    /// Records that changed since the last call, and keys that are gone.
    #[must_use]
    pub fn changes(&self) -> (Vec<CatalogRecord>, Vec<(CatalogKind, Id)>) {
        self.book.lock().changes()
    }

    /// Puts one saved record back.
    pub fn restore(&self, key: &str, json: &[u8]) {
        if let Err(error) = self.book.lock().restore(key, json) {
            tracing::warn!(key, %error, "a saved report row cannot be read; it is left out");
        }
    }

    /// Remembers an answered request, so that it can be explained by its id.
    pub fn answered(&self, bid: RecentBid) {
        self.recent.lock().push(bid);
    }

    /// A recent request by auction id, request id or bid id.
    #[must_use]
    pub fn recent(&self, id: &str) -> Option<RecentBid> {
        self.recent.lock().find(id)
    }

    /// Ids of the newest recent requests, newest first: auction id and what became of it.
    #[must_use]
    pub fn recent_ids(&self, most: usize) -> Vec<(String, String)> {
        self.recent.lock().newest(most)
    }
}
