//! Why a plan made no bid: one closed list for the explain answer, the sampled log and the metrics.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a plan, item or creative did not become a bid. Names are stable: dashboards and clients rely on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum NoBidReason { $($(#[doc = $doc])+ $variant,)+ }

        impl NoBidReason {
            /// Every reason, in the order a request meets them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable `snake_case` name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// The plan, item or creative is no longer in the catalogue.
    NotFound = "not_found",
    /// The plan is switched off.
    Paused = "paused",
    /// Before `starts_at` or from `ends_at` on.
    OutOfSchedule = "out_of_schedule",
    /// Created after the last control tick, which has not decided on it yet.
    AwaitingControl = "awaiting_control",
    /// No free budget, or less than the floor asks for.
    BudgetExhausted = "budget_exhausted",
    /// `wseat` is given and does not name the plan's seat.
    SeatNotAllowed = "seat_not_allowed",
    /// `bseat` names the plan's seat.
    SeatBlocked = "seat_blocked",
    /// `badv` names the plan's domain or a parent of it.
    DomainBlocked = "domain_blocked",
    /// A private auction, and no offered deal is the plan's.
    DealRequired = "deal_required",
    /// The slot offers no form that any creative of the plan has (format, size, type, length, assets).
    NoCreativeFits = "no_creative_fits",
    /// A creative would fit, but has a blocked attribute.
    AttributeBlocked = "attribute_blocked",
    /// A creative would fit, but is in a language that `wlang` does not list.
    LanguageNotAllowed = "language_not_allowed",
    /// A creative would fit, but loads something over http in a secure slot.
    NotSecure = "not_secure",
    /// Every item is in a category of `bcat`.
    CategoryBlocked = "category_blocked",
    /// `acat` is given and no item has only categories of it.
    CategoryNotAllowed = "category_not_allowed",
    /// The item is not one of the plan's, or the creative is another item's.
    ItemNotInPlan = "item_not_in_plan",
    /// Passed every filter, but none of its items were retrieved for this user.
    NotRetrieved = "not_retrieved",
    /// A probability from the model was no number.
    PredictionInvalid = "prediction_invalid",
    /// No rate is known for a currency of the request.
    CurrencyUnknown = "currency_unknown",
    /// The value of the impression rounds to a price of zero.
    PriceBelowMin = "price_below_min",
    /// The bid does not reach the floor.
    BelowFloor = "below_floor",
    /// Another plan, or another item of this plan, bid more for the slot.
    LostInternalAuction = "lost_internal_auction",
    /// The plan's money was being made ready by the ledger. Where nobody else bids that is waited for, so a bid may have followed.
    PoolRefilling = "pool_refilling",
    /// The ledger did not hold the money.
    LedgerRefused = "ledger_refused",
    /// The final check of the decided bid found that it breaks a rule of the request.
    FinalCheckFailed = "final_check_failed",
}

impl NoBidReason {
    /// Position in [`Self::ALL`]: the index of its counter.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for NoBidReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serde_names_and_positions_match() {
        for (position, reason) in NoBidReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
