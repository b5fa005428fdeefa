//! The last requests as they came and what was answered, to be explained by their id.

use crate::ids::Id;
use crate::meters::StageTimes;
use bytes::Bytes;
use std::collections::VecDeque;

/// Requests remembered.
const REQUESTS_MAX: usize = 1_024;
/// Longer bodies are not kept.
pub(super) const BODY_BYTES_MAX: usize = 16_384;

/// A bid of an answer.
#[derive(Clone, Debug)]
pub struct AnsweredBid {
    /// Its number.
    pub bid: u128,
    /// Who pays.
    pub plan: Id,
    /// What is advertised.
    pub item: Id,
    /// What is shown.
    pub creative: Id,
    /// Price as CPM.
    pub price_cpm: f64,
}

/// An answered bid request.
#[derive(Clone, Debug)]
pub struct RecentBid {
    /// Unix seconds.
    pub at: i64,
    /// `BidRequest.id`.
    pub auction: String,
    /// `x-request-id` of the answer.
    pub request: String,
    /// The body as it came.
    pub body: Bytes,
    /// Times of its stages.
    pub times: StageTimes,
    /// What was bid.
    pub bids: Vec<AnsweredBid>,
    /// Why nothing was.
    pub no_bid: Option<&'static str>,
}

impl RecentBid {
    /// True for a body that is small enough to keep.
    #[must_use]
    pub fn keeps(body: &Bytes) -> bool {
        body.len() <= BODY_BYTES_MAX
    }
}

#[derive(Default)]
pub(super) struct Recent(VecDeque<RecentBid>);

impl Recent {
    pub(super) fn push(&mut self, bid: RecentBid) {
        if self.0.len() >= REQUESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(bid);
    }

    pub(super) fn find(&self, id: &str) -> Option<RecentBid> {
        let bid = (id.len() == 32).then(|| u128::from_str_radix(id, 16).ok()).flatten();
        let is = |recent: &&RecentBid| {
            recent.auction == id || recent.request == id || recent.bids.iter().any(|own| Some(own.bid) == bid)
        };
        self.0.iter().rev().find(is).cloned()
    }

    pub(super) fn newest(&self, most: usize) -> Vec<(String, String)> {
        let told = |recent: &RecentBid| match recent.no_bid {
            Some(reason) => reason.to_owned(),
            None => format!("{} bids", recent.bids.len()),
        };
        self.0.iter().rev().take(most).map(|recent| (recent.auction.clone(), told(recent))).collect()
    }
}
