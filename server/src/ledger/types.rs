//! What callers of the ledger say and hear: ids, settings, balances, notices, errors.

use crate::ids::Id;
use crate::money::Micros;
use sha2::{Digest, Sha256};
use std::fmt;

pub use crate::money::AMOUNT_MAX;

/// Most plans one ledger keeps.
pub const ACCOUNTS_MAX: usize = 1 << 20;

/// Dense number of a plan's account. Stable while the process lives; ask again by plan id after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u32);

/// Identity of a bid, 128 bits. Bids whose ids grow with time (see [`BidId::new`]) settle faster: their rows lie together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BidId(pub u128);

impl BidId {
    /// An id that starts with the time, like UUID version 7: 48 bits of milliseconds, then 80 bits of `random`.
    #[must_use]
    pub fn new(now_micros: i64, random: u128) -> Self {
        let millis = u128::from((now_micros.max(0) / 1_000).unsigned_abs()) & 0xffff_ffff_ffff;
        Self((millis << 80) | (random >> 48))
    }

    /// The id behind a text: 32 lower-case hexadecimal digits (what [`fmt::Display`] writes) are the number itself, any
    /// other text is hashed (SHA-256, first sixteen bytes).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let plain = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if plain && let Ok(number) = u128::from_str_radix(text, 16) {
            return Self(number);
        }
        Self(first_16_of_sha256(text))
    }
}

pub(crate) fn first_16_of_sha256(text: &str) -> u128 {
    let digest = Sha256::digest(text.as_bytes());
    let mut first = [0u8; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

impl fmt::Display for BidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for BidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BidId({:032x})", self.0)
    }
}

/// Which notice moves the money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChargeOn {
    /// The first of win (`nurl`) and billing (`burl`) notice.
    #[default]
    Win,
    /// The billing notice only; a win notice keeps the hold standing for another [`Options::hold_max_s`].
    Billing,
}

/// Settings of the ledger. Every limit has a default that works untuned.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest life of a hold, seconds. After a crash, held money returns to free after this long.
    pub hold_max_s: i64,
    /// How long a settled bid id is remembered, seconds: longer than the notice window plus the exchange's retries.
    /// A notice issued longer ago than this is refused ([`SettleError::TooOld`]), so no bid can be charged twice.
    pub dedupe_s: i64,
    /// Which notice charges.
    pub charge_on: ChargeOn,
    /// The pool is this many thousandths of the budget (50 means 5%), ...
    pub pool_permille: i64,
    /// ... or this many of the plan's largest holds if that is more; never more than what is left.
    pub pool_holds_min: i64,
    /// Most open holds in all plans together.
    pub holds_max: usize,
    /// Most operations waiting for the commit thread; beyond it they are refused as busy.
    pub queue_max: usize,
    /// Most operations in one commit.
    pub batch_max: usize,
    /// Rest between two sweeps (expired holds, recovered holds, old settlements), milliseconds.
    pub tick_ms: u64,
    /// Page cache of the ledger file, bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hold_max_s: 3_600,
            dedupe_s: 86_400,
            charge_on: ChargeOn::Win,
            pool_permille: 50,
            pool_holds_min: 16,
            holds_max: 4_000_000,
            queue_max: 8_192,
            batch_max: 1_024,
            tick_ms: 200,
            cache_bytes: 64 << 20,
        }
    }
}

/// What a plan's money is doing. `granted = held + spent + free`; all charges = `spent + late_over`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// The budget.
    pub granted: Micros,
    /// Held for bids in flight, or recovered after a crash.
    pub held: Micros,
    /// Charged within the budget.
    pub spent: Micros,
    /// Left to bid with, the pool included.
    pub free: Micros,
    /// Part of `free` that is ready to be carved into holds (on disk it counts as held).
    pub pool: Micros,
    /// Part of `held` that a crash left behind.
    pub recovered: Micros,
    /// Sum of the charges flagged late.
    pub late: Micros,
    /// Late charges which the budget could not cover.
    pub late_over: Micros,
}

/// Why a bid cannot be made. Counted by reason in [`super::Counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The pool is too small just now but the budget is not: a refill is under way. No bid this time.
    #[error("the plan's pool is being refilled")]
    PoolEmpty,
    /// Less is left than the bid.
    #[error("the plan's budget is used up")]
    BudgetSpent,
    /// A hold for this bid id stands already.
    #[error("a hold for this bid stands already")]
    DuplicateBid,
    /// The amount is not positive or beyond [`AMOUNT_MAX`].
    #[error("the amount must be 1 to {} micros", AMOUNT_MAX.0)]
    BadAmount,
    /// The hold would end in the past or later than [`Options::hold_max_s`] from now.
    #[error("expires_at must lie ahead by at most hold_max_s")]
    BadExpiry,
    /// [`Options::holds_max`] holds are open.
    #[error("too many open holds")]
    TooManyHolds,
    /// No such account.
    #[error("unknown account")]
    UnknownAccount,
    /// An I/O error happened, or the ledger was closed: restart.
    #[error("the ledger is poisoned or closed: restart the server")]
    Poisoned,
}

/// Which notice came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The auction was won (`nurl`).
    Win,
    /// The impression is billable (`burl`).
    Billing,
}

/// A win or billing notice whose signature has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The plan that pays.
    pub account: AccountId,
    /// The bid.
    pub bid: BidId,
    /// Kind of notice.
    pub notice: Notice,
    /// Clearing price, micros of the plan's currency, for this impression.
    pub price: Micros,
    /// What was bid, from the signed notice: the hold itself may be gone after a crash.
    pub bid_amount: Micros,
    /// Unix second at which the bid was made, from the signed notice.
    pub issued_at: i64,
}

/// How a charge relates to its hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// The hold stood.
    OnTime,
    /// No hold is known, but money held by a crashed process still is: the win most likely belongs to it. Flagged late.
    AfterRestart,
    /// The hold had run out or had been released. Flagged late.
    Late,
}

/// A settlement that is on disk (or needs no disk).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Charged now.
    Charged {
        /// Relation to its hold.
        timing: Timing,
    },
    /// This bid was charged before; nothing was charged now.
    Duplicate {
        /// Price of the first notice.
        first_price: Micros,
    },
    /// A win notice where the billing notice charges: the hold was extended if it stood.
    Noted,
}

/// Why nothing was charged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The price is negative or beyond [`AMOUNT_MAX`].
    #[error("price: {} micros is not within 0 to {}", .0.0, AMOUNT_MAX.0)]
    BadPrice(Micros),
    /// The price is higher than the bid.
    #[error("price: {} micros is more than the bid of {} micros", price.0, bid.0)]
    PriceAboveBid {
        /// Price in the notice.
        price: Micros,
        /// What was bid.
        bid: Micros,
    },
    /// Older than settled bids are remembered.
    #[error("the bid is older than what the ledger remembers ({0} s, ledger.remember_seconds)")]
    TooOld(i64),
    /// No such account.
    #[error("unknown account")]
    UnknownAccount,
    /// The queue is full: the exchange should try again.
    #[error("the ledger's queue is full: try again")]
    Busy,
    /// An I/O error happened, or the ledger was closed. Whether the charge reached the disk is known after a restart; a
    /// repeated notice then charges it or finds it charged.
    #[error("the ledger is poisoned: {0}")]
    Poisoned(String),
}

/// Why a budget was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Lower than what is held and spent.
    #[error("budget_micros: plan `{plan}` has held and spent {} micros, its budget cannot be lower", lowest.0)]
    BelowCommitted {
        /// The plan.
        plan: Id,
        /// Lowest budget allowed at this moment.
        lowest: Micros,
    },
    /// Negative or beyond [`AMOUNT_MAX`].
    #[error("budget_micros: plan `{plan}` must have 0 to {} micros", AMOUNT_MAX.0)]
    BadAmount {
        /// The plan.
        plan: Id,
    },
    /// [`ACCOUNTS_MAX`] reached.
    #[error("the ledger keeps at most {ACCOUNTS_MAX} plans")]
    TooManyAccounts,
    /// The queue is full.
    #[error("the ledger's queue is full: try again")]
    Busy,
    /// As in [`SettleError::Poisoned`].
    #[error("the ledger is poisoned: {0}")]
    Poisoned(String),
}

/// Why the ledger did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read or written.
    #[error("ledger `{file}`: {cause}")]
    Storage {
        /// The file.
        file: String,
        /// What redb says.
        cause: redb::Error,
    },
    /// The bytes of the file are not what was written.
    #[error("{file} is damaged ({what}): restore it from a backup")]
    DamagedFile {
        /// The file.
        file: String,
        /// What redb says.
        what: String,
    },
    /// A plan's record breaks the rules of [`super::Record`].
    #[error("ledger: the record of plan `{plan}` is damaged ({fault}): restore the file from a backup")]
    Damaged {
        /// The plan.
        plan: String,
        /// What is wrong.
        fault: RecordFault,
    },
    /// The commit thread could not be started, or the directory not be made.
    #[error("ledger: {0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for OpenError {
    fn from(cause: std::io::Error) -> Self {
        Self::Io(cause)
    }
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Wrong version or length.
    #[error("wrong version or length")]
    Malformed,
    /// A column is negative.
    #[error("a column is negative")]
    Negative,
    /// `granted` is not `held + spent + free`, or another rule between columns is broken.
    #[error("granted is not held + spent + free")]
    Unbalanced,
}
