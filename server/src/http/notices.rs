//! Signed notices: the URLs that an exchange or a page calls back, and what they are checked for.
//!
//! A notice carries everything the ledger needs, signed with HMAC-SHA256 under a named key, so that nobody can invent a
//! win, move it to another plan, or raise its price above the bid. Exchanges retry: receivers are idempotent by bid id.
//! Macros that the exchange fills in stand after the signature and are checked on their own.

mod claim;
mod macros;
mod query;

pub use claim::{Claim, Key, KeyError, NoticeSigner, Windows};
pub use macros::{LossReason, PriceFault};

use crate::money::Micros;

/// What is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// The bid won (`nurl`).
    Win,
    /// The impression is billed (`burl`).
    Billing,
    /// The bid lost (`lurl`).
    Loss,
    /// The ad was shown.
    Impression,
    /// The ad was clicked.
    Click,
}

impl NoticeKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Win, Self::Billing, Self::Loss, Self::Impression, Self::Click];

    /// The last part of its path, and its label in meters.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Win => "win",
            Self::Billing => "billing",
            Self::Loss => "loss",
            Self::Impression => "impression",
            Self::Click => "click",
        }
    }

    /// The kind of a path such as `/notice/win`.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let label = path.strip_prefix("/notice/")?;
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }

    /// True when the exchange states a clearing price that will be charged.
    #[must_use]
    pub const fn charges(self) -> bool {
        matches!(self, Self::Win | Self::Billing)
    }
}

/// A notice whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What is reported.
    pub kind: NoticeKind,
    /// What was signed when the bid was made.
    pub claim: Claim<'static>,
    /// Seconds since the bid.
    pub age_s: i64,
    /// Clearing price per impression in the claim's currency, rounded up to whole micros. Always there for a win and
    /// for billing, and then at most `claim.cap`; for a loss it is what the winner paid, if told.
    pub price: Option<Micros>,
    /// Why the bid lost, if told.
    pub loss: Option<LossReason>,
    /// Price per impression that would have won, if told.
    pub min_to_win: Option<Micros>,
    /// The exchange bills the price for another number of impressions than one (`AUCTION_MULTIPLIER`), which was not offered.
    pub several: bool,
    /// When the impression happened, milliseconds since 1970, if told.
    pub impression_at_ms: Option<i64>,
}

/// Why a notice is refused. Faults found after the signature was checked carry what was signed, so that a receiver may
/// still flag the bid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// A signed field is missing or unreadable.
    #[error("{field}: is missing or malformed; call the URL exactly as it was given in the bid")]
    Malformed {
        /// Its name in the query.
        field: &'static str,
    },
    /// Signed under a key that is no longer, or was never, in use.
    #[error("k: names a key that is not in use")]
    UnknownKey,
    /// The signature does not match: something was changed.
    #[error("s: the signature does not match the notice")]
    BadSignature,
    /// Older than the window. The notice itself is sound.
    #[error("t: the notice is {age_s} s old, beyond its window")]
    Expired {
        /// Seconds since the bid.
        age_s: i64,
        /// The notice.
        notice: Box<Notice>,
    },
    /// From the future, beyond the skew allowed between clocks.
    #[error("t: the notice was signed in the future; check the clocks of this and the bidding machine")]
    FromFuture,
    /// The clearing price of a win or of billing cannot be charged.
    #[error("price: {fault}")]
    Price {
        /// Why.
        fault: PriceFault,
        /// What was signed.
        claim: Box<Claim<'static>>,
    },
    /// The clearing price is in another currency than the bid.
    #[error("cur: is not {}, the currency of the bid", claim.currency)]
    Currency {
        /// What was signed.
        claim: Box<Claim<'static>>,
    },
}
