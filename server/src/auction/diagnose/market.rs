//! How often a bid wins and what a win costs, where our own bids and the highest bids of the others are both lognormal: what tells a
//! change of our own bid from a change of everybody else's.
//!
//! Our own log-bids are known: mean `o` and variance `s^2`. With `m` and `t^2` those of the others, `w^2 = s^2 + t^2` and
//! `z = (o - m) / w`, a bid wins with probability `F(z)` (the normal distribution function). Wins come from the lower prices of the others:
//! where the winner pays these, the mean price of a win is `exp(m + t^2/2) F(z - t^2/w) / F(z)`. So win rate and price give `m` and `t`. They
//! come from our higher bids: the mean logarithm of the bids that win is `s^2/w F'(z) / F(z)` above that of all. Where the winner pays its
//! own bid, this and the win rate give `m` and `t`.

use super::own::Spread;
use crate::auction::normal::{log_cdf, mills, quantile};

/// Width assumed where nothing tells it.
const WIDTH: f64 = 0.85;
const WIDTHS: (f64, f64) = (0.1, 3.0);
/// Least variance of our own log-bids whose effect on the bids that win can be read.
const OWN_MIN: f64 = 0.01;
/// Halvings of an interval: to the last digits that matter.
const HALVINGS: u32 = 50;

/// The `x` between `low` and `high` at which a function that grows reaches 0.
fn solve((mut low, mut high): (f64, f64), grows: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if grows(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// What was seen of one channel's auctions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auctions {
    /// Our own log-bids, of all chances; any unit of money.
    pub own: Spread,
    /// Wins over chances.
    pub win_rate: f64,
    /// Mean price of a win, the same unit.
    pub price: f64,
    /// Mean own bid of the wins.
    pub winning_bid: f64,
    /// Mean logarithm of these.
    pub winning_ln: f64,
}

impl Auctions {
    fn quantile(&self) -> f64 {
        quantile(self.win_rate.clamp(1e-6, 1.0 - 1e-6))
    }

    /// The winner pays its own bid: prices follow bids one to one.
    #[must_use]
    pub fn first_price(&self) -> bool {
        self.winning_bid > 0.0 && self.price >= 0.98 * self.winning_bid
    }

    /// Variance of the others' highest log-bids.
    #[must_use]
    pub fn others(&self) -> f64 {
        let (z, own) = (self.quantile(), self.own.variance);
        let narrow = WIDTHS.0.max(own.sqrt());
        let range = (narrow, WIDTHS.1.max(narrow));
        let of_width = |width: f64| (width * width - own).max(0.0);
        let known = self.win_rate > 0.01 && self.win_rate < 0.99 && self.price > 0.0;
        if !known || (self.first_price() && own < OWN_MIN) {
            return of_width(WIDTH.max(narrow));
        }
        if self.first_price() {
            // The wider the others lie, the less our higher bids are favoured.
            let lifted = (self.winning_ln - self.own.mean).max(1e-3);
            return of_width((own * mills(z) / lifted).clamp(range.0, range.1));
        }
        let mean_bid = self.own.mean + own / 2.0;
        // The mean price of a win over the mean bid falls as the width grows.
        let paid = self.price.ln() - mean_bid;
        of_width(solve(range, |width| {
            let others = of_width(width);
            paid - (-z * width + (others - own) / 2.0 + log_cdf(z - others / width) - log_cdf(z))
        }))
    }
}

/// A market fitted to one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Market {
    /// The others' highest log-bids.
    pub others: Spread,
    pub(super) first_price: bool,
}

impl Market {
    /// Fits a market whose others' log-bids have this variance to the win rate.
    #[must_use]
    pub fn fit(seen: &Auctions, variance: f64) -> Self {
        let width = (seen.own.variance + variance).sqrt();
        let mean = seen.own.mean - width * seen.quantile();
        Self { others: Spread { mean, variance }, first_price: seen.first_price() }
    }

    fn width_and_z(&self, own: Spread) -> (f64, f64) {
        let width = (own.variance + self.others.variance).sqrt().max(1e-6);
        (width, (own.mean - self.others.mean) / width)
    }

    /// Logarithm of the win rate of our bids.
    #[must_use]
    pub fn ln_win_rate(&self, own: Spread) -> f64 {
        log_cdf(self.width_and_z(own).1)
    }

    /// Logarithm of the mean price of a win with our bids.
    #[must_use]
    pub fn ln_price(&self, own: Spread) -> f64 {
        let (width, z) = self.width_and_z(own);
        if self.first_price {
            return own.mean + own.variance / 2.0 + log_cdf(z + own.variance / width) - log_cdf(z);
        }
        let others = self.others;
        others.mean + others.variance / 2.0 + log_cdf(z - others.variance / width) - log_cdf(z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auction::normal::cdf;

    /// The means of a market, from its own formulas written out by integration over our bid.
    fn show(own: Spread, level: f64, others_sd: f64) -> Auctions {
        let (mut wins, mut won_bids, mut won_lns, mut paid, mut all) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for step in -400..=400 {
            let u = f64::from(step) / 50.0;
            let weight = (-0.5 * u * u).exp();
            let bid = own.mean + own.variance.sqrt() * u;
            let x = (bid - level) / others_sd;
            let win = cdf(x);
            all += weight;
            wins += weight * win;
            won_bids += weight * win * bid.exp();
            won_lns += weight * win * bid;
            paid += weight * (level + 0.5 * others_sd * others_sd).exp() * cdf(x - others_sd);
        }
        let (winning_bid, winning_ln) = (won_bids / wins, won_lns / wins);
        Auctions { own, win_rate: wins / all, price: paid / wins, winning_bid, winning_ln }
    }

    #[test]
    fn a_market_answers_other_bids_as_it_would() {
        let own = |mean, sd: f64| Spread { mean, variance: sd * sd };
        // Half as high, and less spread.
        let (seen, half) = (show(own(1.2, 0.5), 1.0, 0.7), show(own(1.2 + 0.5f64.ln(), 0.3), 1.0, 0.7));
        // Where the winner pays its bid, the price of a win is our own mean bid of the wins.
        let first = |seen: Auctions| Auctions { price: seen.winning_bid, ..seen };
        for (seen, half) in [(seen, half), (first(seen), first(half))] {
            let others = seen.others();
            assert!((others - 0.49).abs() < 2e-3, "{others}");
            let market = Market::fit(&seen, others);
            assert!((market.others.mean - 1.0).abs() < 2e-3, "{market:?}");
            let won = market.ln_win_rate(half.own) - market.ln_win_rate(seen.own);
            let paid = market.ln_price(half.own) - market.ln_price(seen.own);
            assert!((won - (half.win_rate / seen.win_rate).ln()).abs() < 3e-3, "{won}");
            assert!((paid - (half.price / seen.price).ln()).abs() < 3e-3, "{paid}");
        }
    }
}
