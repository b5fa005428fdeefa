//! Win rate and price of a win: what our own bids did to them, and what others did.

use super::market::{Auctions, Market};
use super::own::{self, Move, OwnBids, Spread};
use super::steps::{Pair, Step, luck, luck_of_mean, ratio};
use super::{Cause, ChannelFigures, Period};

/// The controller's multiplier and the mean bid differ this much from one day to the next without a reason (standard deviation of the
/// logarithm).
const CONTROL_NOISE: f64 = 0.03;
/// The lognormal market is off by about this share of what it says our own bids did.
const FORM_ERROR: f64 = 0.1;
/// Where the winner pays its bid, and nothing moved by more than this, a change of price is luck.
const FIRST_PRICE_MIN: f64 = 1e-3;
/// Shortest step of a difference quotient.
const SLOPE_STEP: f64 = 1e-4;

/// Our own bids of a channel, with the controller's multiplier of the period.
fn own_bids(channel: &ChannelFigures, multiplier: f64) -> Option<OwnBids> {
    if channel.own.count > 0.0 {
        return Some(channel.own);
    }
    (channel.bids > 0.0 && channel.bid_sum > 0.0).then(|| OwnBids::around(channel.bid_sum / channel.bids, multiplier))
}

impl ChannelFigures {
    /// What a market can be fitted to; `None` where nothing was won. `multiplier`: the controller's, for figures that do not tell how
    /// the bids came about.
    #[must_use]
    pub fn auctions(&self, multiplier: f64) -> Option<Auctions> {
        let own = own_bids(self, multiplier)?;
        (self.wins > 0.0 && self.chances > 0.0 && self.spend > 0.0).then(|| Auctions {
            own: own.offered(),
            win_rate: self.wins / self.chances,
            price: self.spend / self.wins,
            winning_bid: self.winning_bid_sum / self.wins,
            winning_ln: self.winning_ln_sum / self.wins,
        })
    }
}

/// Win rate or price: by how much its logarithm changed, and what the others' bids did to it as far as the fitted markets tell.
struct Factor {
    cause: Cause,
    whole: f64,
    luck: f64,
    of: fn(&Market, Spread) -> f64,
}

/// Win rate and price: what our own bid did to them, and what others did.
pub(super) fn auctions(steps: &mut Vec<Step>, pair: &Pair, before: &Period, after: &Period) {
    let (a, b) = (&pair.before, &pair.after);
    let won = ratio([a.wins, b.wins], [a.chances, b.chances]);
    let paid = if a.spend > 0.0 && b.spend > 0.0 { ratio([a.spend, b.spend], [a.wins, b.wins]) } else { 0.0 };
    let luck_of_price = luck_of_mean(a.spend, a.spend_squares, a.wins) + luck_of_mean(b.spend, b.spend_squares, b.wins);
    let win_rate = Factor { cause: Cause::WinRate, whole: won, luck: luck(a.wins, b.wins), of: Market::ln_win_rate };
    let price = Factor { cause: Cause::Price, whole: paid, luck: luck_of_price, of: Market::ln_price };
    let own = (own_bids(a, before.multiplier), own_bids(b, after.multiplier));
    let seen = (a.auctions(before.multiplier), b.auctions(after.multiplier));
    let ((Some(own_then), Some(own_now)), (Some(then), Some(now))) = (own, seen) else {
        // A side without a win says nothing of our own bid.
        for Factor { cause, whole, luck, .. } in [win_rate, price] {
            steps.push(Step {
                cause,
                name: None,
                change: whole,
                variance: luck,
                in_value: cause == Cause::WinRate,
                in_spend: true,
            });
        }
        return;
    };
    let others = f64::midpoint(then.others(), now.others());
    let markets = [Market::fit(&then, others), Market::fit(&now, others)];
    let moves = own::moves((&own_then, &own_now), (before, after));
    let luck_of_bid = then.own.variance / a.chances + now.own.variance / b.chances + CONTROL_NOISE * CONTROL_NOISE;
    for factor in [win_rate, price] {
        let split = split(&factor, &markets, (then.own, now.own), &moves);
        let in_value = factor.cause == Cause::WinRate;
        let mut push = |cause, change, variance| {
            steps.push(Step { cause, name: None, change, variance, in_value, in_spend: true })
        };
        for (part, change) in moves.iter().zip(split.own) {
            let variance = match part.cause {
                Cause::Target => 1e-6,
                Cause::TrafficQuality => luck_of_bid,
                _ => 2.0 * CONTROL_NOISE * CONTROL_NOISE,
            };
            push(part.cause, change, split.slope * split.slope * variance);
        }
        // What is left to others is as uncertain as the market's form is in what our own bids did.
        let form = FORM_ERROR * split.own.iter().map(|part| part.abs()).sum::<f64>();
        push(factor.cause, split.rest, factor.luck + split.slope * split.slope * luck_of_bid + form * form);
    }
}

/// One factor split over what moved our own bid, and the rest.
struct Split {
    own: [f64; 5],
    rest: f64,
    /// How strongly the factor follows the mean of our bids.
    slope: f64,
}

/// Two places to measure a slope between: the given ones, or where they are too near, places about their middle, so that the way back
/// has the same slope. None is below `least`.
fn ends(then: f64, now: f64, least: f64) -> [f64; 2] {
    if (now - then).abs() >= SLOPE_STEP {
        return [then, now];
    }
    let low = (f64::midpoint(then, now) - SLOPE_STEP / 2.0).max(least);
    [low, low + SLOPE_STEP]
}

/// How much a factor changes with the mean and the variance of our log-bids, between `then` and `now`: the mean over both markets and
/// over which of the two is changed first.
fn slopes(factor: &Factor, markets: &[Market; 2], (then, now): (Spread, Spread)) -> [f64; 2] {
    let (means, variances) = (ends(then.mean, now.mean, f64::NEG_INFINITY), ends(then.variance, now.variance, 0.0));
    let mut sums = [0.0; 2];
    for market in markets {
        let of = |mean: f64, variance: f64| (factor.of)(market, Spread { mean, variance });
        for other in [then, now] {
            sums[0] += (of(means[1], other.variance) - of(means[0], other.variance)) / (means[1] - means[0]);
            sums[1] += (of(other.mean, variances[1]) - of(other.mean, variances[0])) / (variances[1] - variances[0]);
        }
    }
    // Bounded, so that causes which cancel each other stay apart.
    sums.map(|sum| (sum / 4.0).clamp(-20.0, 20.0))
}

fn split(factor: &Factor, markets: &[Market; 2], own: (Spread, Spread), moves: &[Move; 5]) -> Split {
    let slopes = slopes(factor, markets, own);
    let mut parts: [f64; 5] = std::array::from_fn(|at| slopes[0] * moves[at].mean + slopes[1] * moves[at].variance);
    let mut rest = factor.whole - parts.iter().sum::<f64>();
    if factor.cause == Cause::Price && markets.iter().all(|market| market.first_price) {
        // What a win costs is our own bid. Others move it only by which of our bids they let win; what the form of the market leaves
        // unexplained beyond that goes with what moved.
        let of = |at: usize, own: Spread| (factor.of)(&markets[at], own);
        let theirs = 0.5 * [own.0, own.1].map(|own| of(1, own) - of(0, own)).iter().sum::<f64>();
        let whole = theirs.abs() + parts.iter().map(|part| part.abs()).sum::<f64>();
        if whole > FIRST_PRICE_MIN {
            let unexplained = rest - theirs;
            rest = theirs + unexplained * theirs.abs() / whole;
            parts.iter_mut().for_each(|part| *part += unexplained * part.abs() / whole);
        }
    }
    Split { own: parts, rest, slope: slopes[0] }
}
