//! What one impression offers and what the auction demands: the form in which every caller's request reaches the stages.
//!
//! `http/openrtb` makes these from a bid request; a feed request makes one slot without a format. Prices are **per
//! impression** in the stated currency, already rounded up where they are floors.

use crate::money::{Currency, Micros};
use serde::{Deserialize, Serialize};

/// How the winner pays (OpenRTB `at`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuctionType {
    /// `at = 1`: the bid is the price.
    FirstPrice,
    /// `at = 2`, the default: the second bid is the price.
    #[default]
    SecondPrice,
    /// `at = 3` in a deal: the deal's floor is the price agreed on.
    Fixed,
}

/// Kind of place where an impression is sold. A bid request names it in `ext.channel`; an exchange that does not is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// An ad exchange.
    #[default]
    Exchange,
    /// A feed of our own or of a partner.
    Feed,
    /// Search results.
    Search,
    /// A live room.
    Live,
}

/// Number of channels.
pub const CHANNELS: usize = 4;

impl Channel {
    /// Every channel.
    pub const ALL: [Self; CHANNELS] = [Self::Exchange, Self::Feed, Self::Search, Self::Live];

    /// Its name in requests and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Feed => "feed",
            Self::Search => "search",
            Self::Live => "live",
        }
    }
}

/// Banner part of an impression.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BannerSlot {
    /// Exact sizes that fit; empty means the request named none, and then any size is allowed.
    pub sizes: Vec<(u32, u32)>,
    /// Blocked creative attributes.
    pub blocked_attributes: Vec<u32>,
    /// Allowed image MIME types; empty allows all.
    pub mimes: Vec<String>,
}

/// A floor for videos of some lengths (OpenRTB `durfloors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationFloor {
    /// Shortest length it holds for, in seconds.
    pub duration_min_s: u32,
    /// Longest length it holds for.
    pub duration_max_s: u32,
    /// Floor per impression, in the currency of the impression's floor.
    pub floor: Micros,
}

/// Video part of an impression.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VideoSlot {
    /// Allowed media types, never empty.
    pub mimes: Vec<String>,
    /// Shortest length in seconds.
    pub duration_min_s: u32,
    /// Longest length in seconds.
    pub duration_max_s: u32,
    /// Exact lengths allowed (2.6 `rqddurs`); empty allows the range.
    pub durations_s: Vec<u32>,
    /// Player width, if given. A video of another size still plays (it is scaled); the aspect is a preference, not a rule.
    pub w: Option<u32>,
    /// Player height.
    pub h: Option<u32>,
    /// VAST protocols accepted (list 5.8); empty accepts all.
    pub protocols: Vec<u32>,
    /// Blocked creative attributes.
    pub blocked_attributes: Vec<u32>,
    /// Floor per impression for each second of length (`mincpmpersec`), rounded up; 0 if none is stated.
    pub floor_per_second: Micros,
    /// Floors by length (`durfloors`).
    pub duration_floors: Vec<DurationFloor>,
}

impl VideoSlot {
    /// The floor per impression of a video of `duration_s`, if the request states one by length: the higher of the
    /// two ways to state it.
    #[must_use]
    pub fn floor(&self, duration_s: u32) -> Option<Micros> {
        let by_second = (self.floor_per_second.0 > 0)
            .then(|| Micros(self.floor_per_second.0.saturating_mul(i64::from(duration_s))));
        let holds = |floor: &&DurationFloor| (floor.duration_min_s..=floor.duration_max_s).contains(&duration_s);
        let by_range = self.duration_floors.iter().filter(holds).map(|floor| floor.floor).max();
        by_second.max(by_range)
    }
}

/// Native part of an impression.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NativeSlot {
    /// Version of the native request, for example `1.2`.
    pub version: String,
    /// True when the request had an outer `native` key: the answer then has one too.
    pub wrapped: bool,
    /// True when the request offers to fire an image at the impression (`eventtrackers`, event 1 by method 1).
    pub image_trackers: bool,
    /// Asked assets, in order.
    pub assets: Vec<NativeAsset>,
    /// Blocked creative attributes.
    pub blocked_attributes: Vec<u32>,
}

/// One asset of a native request.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeAsset {
    /// Id to repeat in the answer.
    pub id: i64,
    /// Must be present in the answer.
    pub required: bool,
    /// What it is.
    pub kind: NativeAssetKind,
}

/// Kinds of native assets that we can fill, and those we cannot.
#[derive(Clone, Debug, PartialEq)]
pub enum NativeAssetKind {
    /// Title of at most `len` characters.
    Title {
        /// Longest title.
        len: usize,
    },
    /// Picture. `kind` 1 icon, 3 main.
    Image {
        /// Image asset type.
        kind: u32,
        /// Smallest or wanted width.
        w: u32,
        /// Smallest or wanted height.
        h: u32,
    },
    /// Text. `kind` is the data asset type (1 sponsored, 2 description, 12 call to action, ...).
    Data {
        /// Data asset type.
        kind: u32,
        /// Longest text, if limited.
        len: Option<usize>,
    },
    /// Anything else (video, unknown): can be left out only if not required.
    Other,
}

/// A private deal offered with an impression.
#[derive(Clone, Debug, PartialEq)]
pub struct DealOffer {
    /// Deal id.
    pub id: String,
    /// Its floor per impression; it replaces the impression's.
    pub floor: Micros,
    /// Currency of its floor (USD unless stated: it does not inherit).
    pub floor_currency: Currency,
    /// How the winner pays; the request's rule if the deal states none.
    pub auction_type: AuctionType,
    /// Seats allowed; empty allows all.
    pub seats: Vec<String>,
    /// Advertiser domains allowed; empty allows all.
    pub domains: Vec<String>,
}

/// One impression on offer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slot {
    /// `imp.id`; empty for a feed.
    pub imp_id: String,
    /// Banner, if offered.
    pub banner: Option<BannerSlot>,
    /// Video, if offered.
    pub video: Option<VideoSlot>,
    /// Native, if offered.
    pub native: Option<NativeSlot>,
    /// Floor per impression for open bids.
    pub floor: Micros,
    /// Currency of that floor.
    pub floor_currency: Option<Currency>,
    /// Deals.
    pub deals: Vec<DealOffer>,
    /// True when only deals may bid (`pmp.private_auction = 1`).
    pub private_auction: bool,
    /// True when every URL in the markup must be https.
    pub secure: bool,
    /// Placement identifier (`tagid`), if given: the key of learned statistics.
    pub tag_id: Option<String>,
}

impl Slot {
    /// True when the slot offers a form that we can fill.
    #[must_use]
    pub fn offers_anything(&self) -> bool {
        self.banner.is_some() || self.video.is_some() || self.native.is_some()
    }

    /// The floor per impression of an open bid: for a video of `video_duration_s` the one stated by length, if any,
    /// else the impression's. A deal's floor replaces both.
    #[must_use]
    pub fn open_floor(&self, video_duration_s: Option<u32>) -> Micros {
        let by_length = |duration_s| self.video.as_ref()?.floor(duration_s);
        video_duration_s.and_then(by_length).unwrap_or(self.floor)
    }
}

/// What holds for the whole request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Auction id.
    pub auction_id: String,
    /// Where the impressions are sold.
    pub channel: Channel,
    /// How the winner pays, outside deals.
    pub auction_type: AuctionType,
    /// Currencies we may bid in; the first known one is used. Empty means USD.
    pub currencies: Vec<Currency>,
    /// Seats allowed; empty allows all.
    pub seats_allowed: Vec<String>,
    /// Seats blocked.
    pub seats_blocked: Vec<String>,
    /// Blocked content categories. Blocking `IAB1` blocks `IAB1-2` too.
    pub blocked_categories: Vec<String>,
    /// If not empty, only these categories (2.6 `acat`).
    pub allowed_categories: Vec<String>,
    /// Blocked advertiser domains. Blocking `a.com` blocks `x.a.com` too.
    pub blocked_domains: Vec<String>,
    /// Languages allowed (`wlang`); empty allows all.
    pub languages: Vec<String>,
    /// `test = 1`: answered like any other, but no money is held and nothing is counted.
    pub test: bool,
}
