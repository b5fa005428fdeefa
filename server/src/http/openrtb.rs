//! OpenRTB 2.5 and 2.6: what an exchange sends, checked and mapped to [`Terms`] and [`Slot`]s, and the answer.
//!
//! Reading is lenient where nobody can lose by it (unknown fields and enum values, nulls, `933.33` for an integer, a
//! number written as text) and strict about money and about what the specification says a request must hold. Each
//! leniency is counted ([`Tally`]), so that a meter can show which exchange sends what.
//!
//! Everything here is pure: bytes in, values or bytes out.

mod consent;
pub mod cpm;
mod imp;
mod json;
mod native;
mod person;
mod read;
mod request;
mod response;
mod version;

pub use imp::{DEALS_MAX, SIZES_MAX};
pub use native::ASSETS_MAX;
pub use person::{HistoryBar, UserRef, UserSource};
pub use request::{IMPS_MAX, parse};
pub use response::{DecidedBid, NoBidCode, bid_response, no_bid_response};
pub use version::check_version;

use crate::auction::slot::{Slot, Terms};
use std::cell::Cell;
use std::fmt;

/// A request that breaks a must rule: answered 400, with this in the `x-longbow-error` header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct BadRequest {
    /// JSON path of the field, for example `imp[0].banner.h`; `body` for the body as a whole.
    pub field: String,
    /// What is wrong and what would be right. Never quotes text of the request.
    pub fault: String,
}

impl BadRequest {
    /// `field: fault` as a header value: visible ASCII and spaces, at most 300 bytes.
    #[must_use]
    pub fn header_text(&self) -> String {
        let text = self.to_string();
        text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).take(300).collect()
    }
}

/// A departure from the specification that was read anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leniency {
    /// A null where a value, array or object is expected: read as absent.
    Null,
    /// A number with a fraction or exponent where an integer is expected: cut off.
    FractionForInteger,
    /// A text where a number is expected.
    TextForNumber,
    /// A number where a text is expected.
    NumberForText,
    /// `true` or `false` where 0 or 1 is expected.
    BooleanForInteger,
    /// A lone value where an array is expected.
    ScalarForList,
    /// An empty array where an object is expected.
    EmptyListForObject,
    /// A value outside its list of codes: read as the safest known one.
    UnknownValue,
    /// A negative `imp.bidfloor`: read as 0, since every bid is above it.
    NegativeFloor,
    /// A native request that is no native request: the form is not used.
    NativeUnreadable,
    /// Context of a wrong type: ignored.
    IgnoredValue,
    /// Half of a surrogate pair (an emoji cut in its middle): read past where the text counts for nothing.
    LoneSurrogate,
    /// `site` and `app` both present, of which the specification allows one.
    SiteAndApp,
    /// An allow list beside a block list, of which the specification allows one: both are obeyed.
    AllowAndBlock,
}

impl Leniency {
    /// Every kind, in the order of [`Tally::counts`].
    pub const ALL: [Self; 14] = [
        Self::Null,
        Self::FractionForInteger,
        Self::TextForNumber,
        Self::NumberForText,
        Self::BooleanForInteger,
        Self::ScalarForList,
        Self::EmptyListForObject,
        Self::UnknownValue,
        Self::NegativeFloor,
        Self::NativeUnreadable,
        Self::IgnoredValue,
        Self::LoneSurrogate,
        Self::SiteAndApp,
        Self::AllowAndBlock,
    ];

    /// A label for meters, snake case.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::FractionForInteger => "fraction_for_integer",
            Self::TextForNumber => "text_for_number",
            Self::NumberForText => "number_for_text",
            Self::BooleanForInteger => "boolean_for_integer",
            Self::ScalarForList => "scalar_for_list",
            Self::EmptyListForObject => "empty_list_for_object",
            Self::UnknownValue => "unknown_value",
            Self::NegativeFloor => "negative_floor",
            Self::NativeUnreadable => "native_unreadable",
            Self::IgnoredValue => "ignored_value",
            Self::LoneSurrogate => "lone_surrogate",
            Self::SiteAndApp => "site_and_app",
            Self::AllowAndBlock => "allow_and_block",
        }
    }
}

/// How often each [`Leniency`] was used on one request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally([u32; Leniency::ALL.len()]);

impl Tally {
    /// The kinds that occurred, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (Leniency, u32)> + '_ {
        Leniency::ALL.iter().map(|&kind| (kind, self.0[kind as usize])).filter(|&(_, count)| count > 0)
    }

    /// Sum over all kinds.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }
}

/// A [`Tally`] while it is being filled, from behind shared references.
#[derive(Default)]
struct Counter([Cell<u32>; Leniency::ALL.len()]);

impl Counter {
    fn count(&self, kind: Leniency) {
        let cell = &self.0[kind as usize];
        cell.set(cell.get().saturating_add(1));
    }

    fn tally(&self) -> Tally {
        Tally(self.0.each_ref().map(Cell::get))
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counts().map(|(kind, count)| (kind.label(), count))).finish()
    }
}

/// Where the ad will be seen, as far as the request says: context for models and logs, never a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// `site.domain`.
    pub site_domain: Option<String>,
    /// `app.bundle`.
    pub app_bundle: Option<String>,
    /// `site.publisher.id` or `app.publisher.id`.
    pub publisher: Option<String>,
    /// `device.geo.country` (or the user's), ISO-3166-1 alpha-3 as a rule.
    pub country: Option<String>,
    /// `device.geo.region`.
    pub region: Option<String>,
    /// `device.geo.city`.
    pub city: Option<String>,
    /// `device.os`.
    pub os: Option<String>,
    /// `device.language`.
    pub language: Option<String>,
    /// `device.devicetype` (AdCOM list of device types).
    pub device_type: Option<u32>,
}

/// A form that an impression offers but that cannot be filled, and why: for the reasons shown to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// `imp.id`.
    pub imp_id: String,
    /// `banner`, `video`, `audio`, `native`, or `imp` when nothing at all is offered.
    pub form: &'static str,
    /// Why.
    pub why: &'static str,
}

/// Taxonomy of the categories of items (`cattax`): the IAB content taxonomy 1.0.
pub(crate) const ITEM_TAXONOMY: u32 = 1;

/// A bid request, checked and mapped.
#[derive(Clone, Debug, PartialEq)]
pub struct BidRequest {
    /// Rules of the whole auction. `terms.auction_id` is the request's `id`.
    pub terms: Terms,
    /// One slot for each impression, in the request's order, also for those that offer nothing usable
    /// ([`Slot::offers_anything`]).
    pub slots: Vec<Slot>,
    /// Milliseconds the exchange waits, network included; `None` if it does not say (0 counts as not said).
    pub tmax_ms: Option<u32>,
    /// Whose history may be used.
    pub user: UserRef,
    /// Where the ad is seen.
    pub context: Context,
    /// Taxonomy of the blocked and allowed categories (`cattax`, list of AdCOM; 1 is the IAB content taxonomy 1.0,
    /// the one of catalogue items).
    pub category_taxonomy: u32,
    /// Forms that cannot be filled.
    pub unusable: Vec<Unusable>,
    /// Leniencies used.
    pub tally: Tally,
}

impl BidRequest {
    /// True when the request blocks or allows categories by codes that items do not carry: what would break it cannot be told.
    #[must_use]
    pub fn foreign_categories(&self) -> bool {
        let names = !(self.terms.blocked_categories.is_empty() && self.terms.allowed_categories.is_empty());
        names && self.category_taxonomy != ITEM_TAXONOMY
    }
}
