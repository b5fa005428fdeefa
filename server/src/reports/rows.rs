//! One hour of one plan.

use crate::auction::diagnose::own::OwnBids;
use crate::ids::Id;
use serde::{Deserialize, Serialize};

/// Channels kept by name in one hour of a plan; further ones are counted as [`OTHER`].
pub(super) const CHANNELS_MAX: usize = 16;
/// Creatives kept by name in one channel and hour.
pub(super) const CREATIVES_MAX: usize = 32;
/// What is beyond the caps, or of unknown origin.
pub const OTHER: &str = "other";

/// What happened. Amounts in micros of the plan's currency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Auctions with a candidate that had a price, below the floor or not.
    pub chances: u64,
    /// Of which with a bid at or above the floor, sent or beaten by another plan here.
    pub priced: u64,
    /// Sum of those bids.
    pub priced_sum: i64,
    /// How the bids of all chances came about; none in the rows of creatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Box<OwnBids>>,
    /// Bids sent.
    pub bids: u64,
    /// Sum of their amounts.
    pub bid_sum: i64,
    /// Impressions charged.
    pub wins: u64,
    /// Sum of our own bids of those.
    pub winning_bid_sum: i64,
    /// Sum of the logarithms of these bids.
    pub winning_ln_sum: f64,
    /// Charged.
    pub spend: i64,
    /// Sum of squares of the charges.
    pub spend_squares: f64,
    /// Impressions seen by their pixel.
    pub impressions: u64,
    /// Clicks.
    pub clicks: u64,
    /// Orders.
    pub conversions: u64,
    /// Sum of order values.
    pub value: i64,
    /// Sum of squares of the order values.
    pub value_squares: f64,
}

impl Counts {
    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.chances += other.chances;
        self.priced += other.priced;
        self.priced_sum = self.priced_sum.saturating_add(other.priced_sum);
        if let Some(own) = &other.own {
            self.own.get_or_insert_default().add(own);
        }
        self.bids += other.bids;
        self.bid_sum = self.bid_sum.saturating_add(other.bid_sum);
        self.wins += other.wins;
        self.winning_bid_sum = self.winning_bid_sum.saturating_add(other.winning_bid_sum);
        self.winning_ln_sum += other.winning_ln_sum;
        self.spend = self.spend.saturating_add(other.spend);
        self.spend_squares += other.spend_squares;
        self.impressions += other.impressions;
        self.clicks += other.clicks;
        self.conversions += other.conversions;
        self.value = self.value.saturating_add(other.value);
        self.value_squares += other.value_squares;
    }
}

/// Counts of one channel and creative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Domain, bundle or publisher.
    pub channel: Id,
    /// What was shown; none for what is counted before a creative is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creative: Option<Id>,
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// One hour of one plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hour {
    /// By channel and creative, in the order in which they came.
    pub cells: Vec<Cell>,
    /// Sum of the multiplier over the ticks.
    #[serde(default)]
    pub multiplier_sum: f64,
    /// Ticks counted.
    #[serde(default)]
    pub ticks: u32,
}

impl Hour {
    /// The cell of a channel and creative; the second value is true if it is new.
    pub(super) fn cell(&mut self, channel: &Id, creative: Option<&Id>) -> (&mut Counts, bool) {
        let other = Id::from(OTHER);
        let channels_full = || {
            let mut names: Vec<&Id> = self.cells.iter().map(|cell| &cell.channel).collect();
            names.sort_unstable();
            names.dedup();
            names.len() >= CHANNELS_MAX && !names.contains(&channel)
        };
        let channel = if channels_full() { &other } else { channel };
        let of_channel = self.cells.iter().filter(|cell| cell.channel == *channel && cell.creative.is_some());
        let known = |creative: &Id| self.cells.iter().any(|cell| cell.creative.as_ref() == Some(creative));
        let creative = match creative {
            Some(creative) if of_channel.count() >= CREATIVES_MAX && !known(creative) => Some(&other),
            creative => creative,
        };
        let found = self.cells.iter().position(|cell| cell.channel == *channel && cell.creative.as_ref() == creative);
        let at = found.unwrap_or_else(|| {
            let counts = Counts::default();
            self.cells.push(Cell { channel: channel.clone(), creative: creative.cloned(), counts });
            self.cells.len() - 1
        });
        (&mut self.cells[at].counts, found.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_bounded_and_loses_nothing() {
        let mut hour = Hour::default();
        for channel in 0..100 {
            for creative in 0..100 {
                let (channel, creative) = (format!("c{channel}"), format!("k{creative}"));
                let (counts, _) = hour.cell(&Id::from(&*channel), Some(&Id::from(&*creative)));
                counts.wins += 1;
            }
        }
        assert!(hour.cells.len() <= (CHANNELS_MAX + 1) * (CREATIVES_MAX + 1), "{}", hour.cells.len());
        assert_eq!(hour.cells.iter().map(|cell| cell.counts.wins).sum::<u64>(), 10_000);
    }
}
