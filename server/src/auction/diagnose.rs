//! "Why did my return fall?" The change between two periods, split exactly into what caused it.
//!
//! Order value and spend of a channel are products: time live x chances a second x win rate x click rate x conversion rate x order
//! value, and time live x chances a second x win rate x price. The change of a product is split over the logarithms of its factors
//! (the log-mean Divisia decomposition, Ang 2004): exact, the same whichever factor is named first, and nothing is left over. Inside
//! win rate and price, a fitted market ([`market`]) tells our own bid from the bids of others, and how our bids came about ([`own`]) tells
//! the target, pacing, the worth of the users on offer, the highest bid and shading from each other; inside the click rate, each
//! creative has its own part.
//!
//! A part counts as **moved** only if it is larger than the luck of its counts explains ([`SIGMAS`] standard deviations and
//! [`EFFECT_MIN`] of the whole). Pure: figures in, words out.

mod bids;
pub mod market;
pub mod own;
mod parts;
mod steps;
mod words;

use own::OwnBids;
use serde::{Deserialize, Serialize};

/// Standard deviations of its own noise that a part must be away from nothing.
pub const SIGMAS: f64 = 3.5;
/// Least change, of the logarithm of order value or return, that is worth a word.
pub const EFFECT_MIN: f64 = 0.04;

/// One creative in one channel and period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreativeFigures {
    /// Its id.
    pub name: String,
    /// Times shown and paid for.
    pub shown: f64,
    /// Clicks.
    pub clicks: f64,
}

/// One channel (site, app, publisher) in one period. Money in micros of the plan's currency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelFigures {
    /// Domain, bundle or publisher.
    pub name: String,
    /// Auctions in which the plan had a candidate with a price, below the floor or not.
    pub chances: f64,
    /// Of which with a bid at or above the floor. Those that were beaten by another plan of the same server and never sent are among them:
    /// the mean of what was sent alone would not follow a lower bid that loses at home.
    pub bids: f64,
    /// Sum of their amounts.
    pub bid_sum: f64,
    /// How the bids of all chances came about, below the floor or not; without any, what is known is `bid_sum`.
    pub own: OwnBids,
    /// Impressions paid for.
    pub wins: f64,
    /// Sum of our own bids of those.
    pub winning_bid_sum: f64,
    /// Sum of the logarithms of these bids.
    pub winning_ln_sum: f64,
    /// Paid for them.
    pub spend: f64,
    /// Sum of squares of single prices.
    pub spend_squares: f64,
    /// Orders.
    pub conversions: f64,
    /// Sum of order values.
    pub value: f64,
    /// Sum of squares of single order values.
    pub value_squares: f64,
    /// By creative; their clicks are the channel's.
    pub creatives: Vec<CreativeFigures>,
}

impl ChannelFigures {
    /// Clicks of all creatives.
    #[must_use]
    pub fn clicks(&self) -> f64 {
        self.creatives.iter().map(|creative| creative.clicks).sum()
    }
}

/// A plan in one period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// Its length.
    pub seconds: f64,
    /// Of which paused by a person.
    pub paused_seconds: f64,
    /// Of which the budget was used up.
    pub exhausted_seconds: f64,
    /// Of which out of the plan's schedule.
    pub off_seconds: f64,
    /// What a bid is multiplied with by the goal: 1 / target for a return goal, the target for a cost goal. Mean over the period.
    pub target_factor: f64,
    /// The controller's multiplier, mean over the period.
    pub multiplier: f64,
    /// Budget at the end of the period, micros.
    pub budget: f64,
    /// The plan's highest bid at the end of the period, micros.
    pub max_bid: f64,
    /// By channel.
    pub channels: Vec<ChannelFigures>,
}

impl Period {
    fn sum(&self, of: impl Fn(&ChannelFigures) -> f64) -> f64 {
        self.channels.iter().map(of).sum()
    }

    /// Seconds in which the plan could bid.
    #[must_use]
    pub fn live_seconds(&self) -> f64 {
        (self.seconds - self.paused_seconds - self.exhausted_seconds - self.off_seconds).max(0.0)
    }

    fn a_day(&self, amount: f64) -> f64 {
        amount * 86_400.0 / self.seconds
    }
}

/// What may change a return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Auctions on offer, by channel.
    Traffic,
    /// Predicted worth of the users on offer.
    TrafficQuality,
    /// How often others bid more.
    WinRate,
    /// What others made us pay.
    Price,
    /// Clicks an impression, by creative.
    ClickRate,
    /// Which creatives were shown.
    CreativeMix,
    /// Orders a click.
    ConversionRate,
    /// Value of an order.
    OrderValue,
    /// The plan's target was changed.
    Target,
    /// The controller bid more or less.
    Pacing,
    /// The plan's highest bid, or money that ran short, held bids back more or less.
    HighestBid,
    /// The win-rate model takes more or less off first-price bids.
    Shading,
    /// The budget was used up for longer or shorter.
    Budget,
    /// The plan was paused.
    Pause,
    /// The plan was out of its schedule.
    Schedule,
}

impl Cause {
    /// The group it belongs to, as the waterfall shows it.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Traffic | Self::TrafficQuality => "traffic",
            Self::WinRate | Self::Price => "competition",
            Self::ClickRate | Self::CreativeMix => "click_rate",
            Self::ConversionRate => "conversion_rate",
            Self::OrderValue => "order_value",
            Self::Target
            | Self::Pacing
            | Self::HighestBid
            | Self::Shading
            | Self::Budget
            | Self::Pause
            | Self::Schedule => "control",
        }
    }
}

/// A figure in both periods.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// What it is, with its unit.
    pub what: String,
    /// In the earlier period.
    pub before: f64,
    /// In the later period.
    pub after: f64,
}

/// A whole in both periods.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Whole {
    /// In the earlier period.
    pub before: f64,
    /// In the later period.
    pub after: f64,
}

/// One part of the change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What it is.
    pub cause: Cause,
    /// Group of the waterfall.
    pub group: &'static str,
    /// Channel or creative, where the cause has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Part of the change of order value a day, micros.
    pub order_value: f64,
    /// Part of the change of spend a day, micros.
    pub spend: f64,
    /// Part of the change of order value over spend; absent where one side has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_on_spend: Option<f64>,
    /// Larger than its luck: only such parts are causes.
    pub moved: bool,
    /// Distance from nothing in standard deviations of its own noise, at most 99.
    pub sigmas: f64,
    /// The figures behind it.
    pub evidence: Vec<Evidence>,
    /// What one may do about it; empty if it did not move.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub suggestion: String,
    /// Share of the logarithm of order value or return, whichever it moved more.
    #[serde(skip)]
    pub(crate) weight: f64,
    /// Its part of the logarithm of return, 0 if that is within its luck.
    #[serde(skip)]
    pub(crate) ln_return: f64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Order value a day, micros.
    pub order_value: Whole,
    /// Spend a day, micros.
    pub spend: Whole,
    /// Order value over spend; absent where one side has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_on_spend: Option<Whole>,
    /// The largest part that moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Its channel or creative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause_name: Option<String>,
    /// One sentence for people.
    pub summary: String,
    /// Every part, those that moved first, the largest first. Each column sums to the change of its whole.
    pub parts: Vec<Part>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEnough {
    /// A period of no length, or figures that are no numbers.
    #[error("the {0} period has no length")]
    NoLength(&'static str),
    /// Nothing was bought in either period.
    #[error("no impression was paid for in either period")]
    NothingBought,
}

/// Splits the change from `before` to `after`.
///
/// # Errors
/// [`NotEnough`].
pub fn diagnose(before: &Period, after: &Period) -> Result<Diagnosis, NotEnough> {
    for (name, period) in [("earlier", before), ("later", after)] {
        if period.seconds.is_nan() || period.seconds <= 0.0 {
            return Err(NotEnough::NoLength(name));
        }
    }
    if before.sum(|c| c.wins) + after.sum(|c| c.wins) <= 0.0 {
        return Err(NotEnough::NothingBought);
    }
    let whole = |of: fn(&ChannelFigures) -> f64| Whole {
        before: before.a_day(before.sum(of)),
        after: after.a_day(after.sum(of)),
    };
    let (order_value, spend) = (whole(|c| c.value), whole(|c| c.spend));
    let pairs = steps::pair_channels(before, after);
    let mut parts = parts::split(&pairs, (before, after), order_value, spend);
    parts::judge(&mut parts);
    words::explain(&mut parts, &pairs, (before, after));
    parts.sort_by(|a, b| b.moved.cmp(&a.moved).then(b.weight.total_cmp(&a.weight)));
    let return_on_spend = parts::returns(order_value, spend);
    let main = parts.first().filter(|part| part.moved);
    let (cause, cause_name) = (main.map(|part| part.cause), main.and_then(|part| part.name.clone()));
    let summary = words::summary(order_value, spend, &parts);
    Ok(Diagnosis { order_value, spend, return_on_spend, cause, cause_name, summary, parts })
}
