//! The bid response: written straight from decided bids.

use crate::money::{Currency, Micros};
use crate::render::FormUsed;
use serde::Serialize;
use serde::ser::Serializer;

/// Reasons for not bidding (OpenRTB list of no-bid reason codes), sent only when a no-bid has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NoBidCode {
    /// Unknown.
    Unknown = 0,
    /// Something failed here.
    TechnicalError = 1,
    /// The request breaks a rule.
    InvalidRequest = 2,
    /// The user is unknown.
    UnmatchedUser = 8,
    /// Too little time was left.
    InsufficientTime = 15,
}

/// One bid, decided and dressed.
#[derive(Clone, Debug)]
pub struct DecidedBid<'a> {
    /// Our id of the bid: the key of its hold in the ledger.
    pub bid_id: &'a str,
    /// `imp.id` it answers.
    pub imp_id: &'a str,
    /// Seat it is made for.
    pub seat: Option<&'a str>,
    /// Price per impression in the response's currency; written as CPM.
    pub price: Micros,
    /// `adid`: the ad that is served if it wins (the plan's id).
    pub ad_id: &'a str,
    /// `cid`: campaign, for the exchange's reports.
    pub campaign_id: &'a str,
    /// `crid`: the creative.
    pub creative_id: &'a str,
    /// Advertiser domain.
    pub domain: &'a str,
    /// Content categories, IAB content taxonomy 1.0.
    pub categories: &'a [String],
    /// Creative attributes.
    pub attributes: &'a [u32],
    /// Language of the creative.
    pub language: Option<&'a str>,
    /// Picture for the exchange's quality check, without the page's macros.
    pub image_url: Option<&'a str>,
    /// The form chosen.
    pub form: FormUsed,
    /// Deal it buys through.
    pub deal_id: Option<&'a str>,
    /// Markup.
    pub markup: &'a str,
    /// Win notice.
    pub win_url: &'a str,
    /// Billing notice.
    pub billing_url: &'a str,
    /// Loss notice.
    pub loss_url: &'a str,
    /// Seconds between auction and impression that we wait.
    pub expires_s: Option<u32>,
}

/// Writes the response to a request. Bids are grouped by seat, in the order in which seats first occur; with no bids it
/// is a no-bid (better answered 204, without a body).
///
/// # Errors
/// Never in practice: only if serialisation to memory fails.
pub fn bid_response(
    request_id: &str,
    currency: Currency,
    bids: &[DecidedBid<'_>],
) -> Result<Vec<u8>, serde_json::Error> {
    let mut seats: Vec<SeatBid<'_>> = Vec::new();
    for bid in bids {
        let bid_out = BidOut::new(bid);
        match seats.iter_mut().find(|seat| seat.seat == bid.seat) {
            Some(seat) => seat.bid.push(bid_out),
            None => seats.push(SeatBid { bid: vec![bid_out], seat: bid.seat, group: 0 }),
        }
    }
    let markup: usize = bids.iter().map(|bid| bid.markup.len() + 2_048).sum();
    let mut out = Vec::with_capacity(256 + markup);
    let response =
        Response { id: request_id, seatbid: seats, bidid: bids.first().map(|bid| bid.bid_id), cur: currency };
    serde_json::to_writer(&mut out, &response)?;
    Ok(out)
}

/// Writes a no-bid with its reason, for exchanges that ask for a body.
///
/// # Errors
/// As [`bid_response`].
pub fn no_bid_response(request_id: &str, reason: NoBidCode) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct NoBid<'a> {
        id: &'a str,
        seatbid: [(); 0],
        nbr: u32,
    }
    serde_json::to_vec(&NoBid { id: request_id, seatbid: [], nbr: reason as u32 })
}

#[derive(Serialize)]
struct Response<'a> {
    id: &'a str,
    seatbid: Vec<SeatBid<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bidid: Option<&'a str>,
    cur: Currency,
}

#[derive(Serialize)]
struct SeatBid<'a> {
    bid: Vec<BidOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seat: Option<&'a str>,
    group: u8,
}

#[derive(Serialize)]
struct BidOut<'a> {
    id: &'a str,
    impid: &'a str,
    #[serde(serialize_with = "cpm")]
    price: Micros,
    nurl: &'a str,
    burl: &'a str,
    lurl: &'a str,
    adm: &'a str,
    adid: &'a str,
    adomain: [&'a str; 1],
    cid: &'a str,
    crid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cat: &'a [String],
    cattax: u32,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    attr: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    iurl: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dealid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    w: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    h: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u32>,
    mtype: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u32>,
}

/// The shortest decimal of `micros / 1000` is that number exactly for every price below 10^15 micros (15 digits always
/// survive a 64-bit float), and prices end at 10^12.
fn cpm<S: Serializer>(price: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(price.as_cpm())
}

impl<'a> BidOut<'a> {
    fn new(bid: &DecidedBid<'a>) -> Self {
        let (w, h, dur, protocol) = match bid.form {
            FormUsed::Banner { w, h } => (Some(w), Some(h), None, None),
            FormUsed::Video { w, h, duration_s, vast } => (Some(w), Some(h), Some(duration_s), Some(vast.protocol())),
            FormUsed::Native => (None, None, None, None),
        };
        Self {
            id: bid.bid_id,
            impid: bid.imp_id,
            price: bid.price,
            nurl: bid.win_url,
            burl: bid.billing_url,
            lurl: bid.loss_url,
            adm: bid.markup,
            adid: bid.ad_id,
            adomain: [bid.domain],
            cid: bid.campaign_id,
            crid: bid.creative_id,
            cat: bid.categories,
            cattax: super::ITEM_TAXONOMY,
            attr: bid.attributes,
            iurl: bid.image_url,
            protocol,
            language: bid.language,
            dealid: bid.deal_id,
            w,
            h,
            dur,
            mtype: bid.form.markup_type(),
            exp: bid.expires_s,
        }
    }
}
