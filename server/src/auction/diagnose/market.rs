//! How often a bid wins and what a win costs, where our own bids and the highest bids of the others are both lognormal: what tells a
//! change of our own bid from a change of everybody else's.
//!
//! With `z = (ln bid - level) / width`, a bid wins with probability `F(z)` (the normal distribution function), where `width^2` is the
//! variance of our own log-bids and of the others' together. Wins come from our higher bids: their mean is `F(z + own) / F(z)` times the
//! mean bid, `own` being our variance over the width. They come from the lower prices of the others: a win's mean price goes with
//! `F(z - others) / F(z)`, `others` being their variance over the width. So mean bid, mean bid of the wins, win rate and mean price give all.

use std::f64::consts::FRAC_1_SQRT_2;

/// Width assumed where prices do not tell it (first-price auctions, too few wins).
const WIDTH: f64 = 0.85;
const WIDTHS: (f64, f64) = (0.1, 3.0);
/// Halvings of an interval: to the last digits that matter.
const HALVINGS: u32 = 50;

/// Standard normal distribution function (error below 2e-7, relative in the lower tail).
#[must_use]
pub fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    // A Chebyshev fit of the complementary error function.
    let fit = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let power = fit.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let upper = 0.5 * t * (-z * z + power).exp();
    if x < 0.0 { upper } else { 1.0 - upper }
}

/// Logarithm of [`normal_cdf`], finite everywhere.
fn ln_cdf(x: f64) -> f64 {
    normal_cdf(x).max(1e-300).ln()
}

/// The `x` between `low` and `high` at which a function that grows reaches 0.
fn solve((mut low, mut high): (f64, f64), grows: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if grows(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The inverse of [`normal_cdf`] between -8 and 8.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    solve((-8.0, 8.0), |x| normal_cdf(x) - p)
}

/// What was seen of one channel's auctions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auctions {
    /// Mean bid, any unit of money.
    pub bid: f64,
    /// Wins over chances.
    pub win_rate: f64,
    /// Mean price of a win, the same unit.
    pub price: f64,
    /// Mean own bid of the wins.
    pub winning_bid: f64,
}

impl Auctions {
    fn quantile(&self) -> f64 {
        normal_quantile(self.win_rate.clamp(1e-6, 1.0 - 1e-6))
    }

    /// The winner pays its own bid: prices follow bids one to one.
    fn first_price(&self) -> bool {
        self.winning_bid > 0.0 && self.price >= 0.98 * self.winning_bid
    }
}

/// How wide our own bids and the others' lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Standard deviation of both together, of the logarithm.
    pub width: f64,
    /// Variance of our own log-bids over `width`.
    pub own: f64,
}

impl Shape {
    /// The shape that gives these means.
    #[must_use]
    pub fn of(seen: &Auctions) -> Self {
        let z = seen.quantile();
        let known = seen.win_rate > 0.01 && seen.win_rate < 0.99 && seen.price > 0.0 && seen.bid > 0.0;
        let lifted = (seen.winning_bid / seen.bid).max(1e-9).ln();
        let own = if known && lifted > 0.0 {
            solve((0.0, WIDTHS.1), |own| ln_cdf(z + own) - ln_cdf(z) - lifted)
        } else {
            0.0
        };
        if !known || seen.first_price() {
            return Self { width: WIDTH.max(own), own };
        }
        // The mean price of a win over the mean bid falls as the width grows.
        let paid = (seen.price / seen.bid).ln();
        let narrow = WIDTHS.0.max(own);
        let width = solve((narrow, WIDTHS.1.max(narrow)), |width| {
            let others = width - own;
            paid - (-z * width + (others - own) * width / 2.0 + ln_cdf(z - others) - ln_cdf(z))
        });
        Self { width, own }
    }

    /// The middle of two.
    #[must_use]
    pub fn between(self, other: Self) -> Self {
        Self { width: 0.5 * (self.width + other.width), own: 0.5 * (self.own + other.own) }
    }
}

/// A market fitted to one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Market {
    /// The logarithm of the mean bid that would win every other auction.
    pub level: f64,
    /// How wide bids lie.
    pub shape: Shape,
    first_price: bool,
}

impl Market {
    /// Fits a market of a given shape to the win rate.
    #[must_use]
    pub fn fit(seen: &Auctions, shape: Shape) -> Self {
        Self { level: seen.bid.ln() - shape.width * seen.quantile(), shape, first_price: seen.first_price() }
    }

    fn z(&self, bid: f64) -> f64 {
        (bid.ln() - self.level) / self.shape.width
    }

    /// Logarithm of the win rate of a mean bid.
    #[must_use]
    pub fn ln_win_rate(&self, bid: f64) -> f64 {
        ln_cdf(self.z(bid))
    }

    /// Logarithm of the mean price of a win with a mean bid, up to a constant of the channel.
    #[must_use]
    pub fn ln_price(&self, bid: f64) -> f64 {
        let (z, Shape { width, own }) = (self.z(bid), self.shape);
        if self.first_price {
            return bid.ln() + ln_cdf(z + own) - ln_cdf(z);
        }
        self.level + ln_cdf(z - (width - own)) - ln_cdf(z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_is_right() {
        for (x, p) in [(0.0, 0.5), (1.0, 0.841_344_746), (-1.96, 0.024_997_895), (-4.0, 3.167_124e-5)] {
            assert!((normal_cdf(x) / p - 1.0).abs() < 1e-6, "{x}: {}", normal_cdf(x));
            assert!((normal_quantile(p) - x).abs() < 1e-5, "{p}");
        }
    }

    /// The four means of a market, from its own formulas written out by integration over our bid.
    fn show(mean_ln: f64, own_sd: f64, level: f64, others_sd: f64) -> Auctions {
        let (mut wins, mut bids, mut won_bids, mut paid, mut all) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for step in -400..=400 {
            let u = f64::from(step) / 50.0;
            let weight = (-0.5 * u * u).exp();
            let bid = mean_ln + own_sd * u;
            let x = (bid - level) / others_sd;
            let win = normal_cdf(x);
            all += weight;
            bids += weight * bid.exp();
            wins += weight * win;
            won_bids += weight * win * bid.exp();
            paid += weight * (level + 0.5 * others_sd * others_sd).exp() * normal_cdf(x - others_sd);
        }
        Auctions { bid: bids / all, win_rate: wins / all, price: paid / wins, winning_bid: won_bids / wins }
    }

    #[test]
    fn a_market_answers_another_bid_as_it_would() {
        let (seen, half) = (show(1.2, 0.5, 1.0, 0.7), show(1.2 + 0.5f64.ln(), 0.5, 1.0, 0.7));
        let shape = Shape::of(&seen);
        assert!(
            (shape.width - 0.74f64.sqrt()).abs() < 1e-3 && (shape.own - 0.25 / 0.74f64.sqrt()).abs() < 1e-3,
            "{shape:?}"
        );
        let market = Market::fit(&seen, shape);
        let won = market.ln_win_rate(half.bid) - market.ln_win_rate(seen.bid);
        let paid = market.ln_price(half.bid) - market.ln_price(seen.bid);
        assert!((won - (half.win_rate / seen.win_rate).ln()).abs() < 1e-3, "{won}");
        assert!((paid - (half.price / seen.price).ln()).abs() < 1e-3, "{paid}");
        // Where the winner pays its bid, the price of a win is our own mean bid of the wins.
        let first = |seen: Auctions| Auctions { price: seen.winning_bid, ..seen };
        let market = Market::fit(&first(seen), shape);
        let paid = market.ln_price(half.bid) - market.ln_price(seen.bid);
        assert!((paid - (half.winning_bid / seen.winning_bid).ln()).abs() < 1e-3, "{paid}");
    }
}
