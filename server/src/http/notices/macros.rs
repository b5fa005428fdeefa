//! What the exchange substitutes into a notice: prices, codes and times as text.

use super::NoticeKind;
use crate::http::openrtb::cpm::{CpmFault, micros_from_cpm};
use crate::money::{Micros, Rounding};

/// The part of a notice URL that the exchange fills in.
pub(super) fn suffix(kind: NoticeKind) -> &'static str {
    // AUCTION_PRICE comes first: some exchanges cut long URLs.
    macro_rules! common {
        () => {
            "&price=${AUCTION_PRICE}&cur=${AUCTION_CURRENCY}&min=${AUCTION_MIN_TO_WIN}&ts=${AUCTION_IMP_TS}\
             &mult=${AUCTION_MULTIPLIER}&mbr=${AUCTION_MBR}&aid=${AUCTION_ID}&bidid=${AUCTION_BID_ID}\
             &impid=${AUCTION_IMP_ID}&seat=${AUCTION_SEAT_ID}&adid=${AUCTION_AD_ID}"
        };
    }
    match kind {
        NoticeKind::Win | NoticeKind::Billing => common!(),
        NoticeKind::Loss => concat!("&loss=${AUCTION_LOSS}", common!()),
        NoticeKind::Impression | NoticeKind::Click => "",
    }
}

/// Why a clearing price cannot be charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceFault {
    /// No price at all.
    #[error("is empty or missing; the exchange must put the clearing price there (AUCTION_PRICE)")]
    Empty,
    /// The macro itself came back.
    #[error("still holds the macro; the exchange did not substitute AUCTION_PRICE")]
    Unexpanded,
    /// An encrypted price (a macro or value with a suffix such as `:B64`).
    #[error("is encrypted; agree with the exchange on clear prices")]
    Encrypted,
    /// Rendered for a quality check (`AUDIT`): nothing was sold.
    #[error("is AUDIT: rendered for a quality check, nothing to charge")]
    Audit,
    /// Not a decimal number.
    #[error("is no decimal number; a CPM such as 2.35 is needed")]
    NotDecimal,
    /// Below zero.
    #[error("is negative")]
    Negative,
    /// Above the bid, or above any price accepted.
    #[error("is above the bid")]
    AboveBid,
}

/// A clearing price in CPM, at most `cap`, as micros per impression rounded up.
pub(super) fn clearing_price(text: Option<&str>, cap: Micros) -> Result<Micros, PriceFault> {
    let text = text.unwrap_or_default();
    if text.starts_with("${") {
        return Err(if text.contains(':') { PriceFault::Encrypted } else { PriceFault::Unexpanded });
    }
    if text == "AUDIT" {
        return Err(PriceFault::Audit);
    }
    let looks_encrypted = text.contains(':') || (text.len() >= 16 && text.bytes().any(|b| b.is_ascii_alphabetic()));
    // The cap is whole micros, so rounding up keeps a price under the cap there and lifts one above the cap over it.
    let price = micros_from_cpm(text, Rounding::Up).map_err(|fault| match fault {
        CpmFault::Empty => PriceFault::Empty,
        CpmFault::NotDecimal if looks_encrypted => PriceFault::Encrypted,
        CpmFault::NotDecimal => PriceFault::NotDecimal,
        CpmFault::Negative => PriceFault::Negative,
        CpmFault::TooLarge => PriceFault::AboveBid,
    })?;
    if price > cap { Err(PriceFault::AboveBid) } else { Ok(price) }
}

/// A price that is only told, not charged: unreadable ones are dropped.
pub(super) fn told_price(text: Option<&str>) -> Option<Micros> {
    micros_from_cpm(text?, Rounding::Up).ok()
}

/// True for an `AUCTION_MULTIPLIER` that is a number and not 1.
pub(super) fn several(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok_and(|number| number.total_cmp(&1.0).is_ne())
}

/// Why a bid lost (OpenRTB list of loss reason codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LossReason(pub u32);

impl LossReason {
    /// Reads the code of `AUCTION_LOSS`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok().map(Self))?
    }

    /// A label for meters: a closed set, so that codes from outside cannot grow it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self.0 {
            0 => "won",
            1 => "internal_error",
            2 => "opportunity_expired",
            3 => "invalid_response",
            4 => "invalid_deal",
            5 => "invalid_auction_id",
            6 => "invalid_domain",
            7 => "markup_missing",
            8 => "creative_id_missing",
            9 => "price_missing",
            10 => "approval_data_missing",
            100 => "below_floor",
            101 => "below_deal_floor",
            102 => "outbid",
            103 => "outbid_by_deal",
            104 => "seat_blocked",
            200 => "creative_filtered",
            201 => "creative_pending",
            202 => "creative_disapproved",
            203 => "creative_size",
            204 => "creative_format",
            205 => "creative_advertiser_excluded",
            206 => "creative_app_excluded",
            207 => "creative_not_secure",
            208 => "creative_language",
            209 => "creative_category",
            210 => "creative_attribute",
            211 => "creative_ad_type",
            212 => "creative_animation",
            213 => "creative_not_in_deal",
            1_000.. => "exchange_specific",
            _ => "other",
        }
    }
}
