//! Bidding by value iteration over (auctions left, money left): the optimal policy where auctions are independent draws.
//!
//! `V(n, b)`: expected clicks of `n` auctions with money `b`. Winning at price `d` is worth `theta + V(n-1, b-d) - V(n-1, b)`, which
//! falls with `d`; so the best bid is the highest price at which it is not negative, and
//! `V(n, b) = V(n-1, b) + sum_g w_g sum_d h_g(d) max(0, theta_g + V(n-1, b-d) - V(n-1, b))` over groups `g` of auctions with click
//! probability `theta_g` and prices `h_g`. (One group, prices of the training log: the published bidder. Money is kept on a grid
//! with linear interpolation.)

/// Highest price that exists in the log.
pub(super) const PRICES: usize = 301;

/// Auctions of like click probability.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Share of auctions.
    pub(super) weight: f64,
    /// Mean click probability.
    pub(super) theta: f64,
    /// Distribution of prices.
    pub(super) prices: Vec<f64>,
}

/// `V` on a grid.
pub(super) struct Table {
    step: f64,
    cells: usize,
    values: Vec<f64>,
}

impl Table {
    /// Solves for `auctions` and money up to `budget` on `cells` steps.
    pub(super) fn solve(auctions: usize, budget: f64, cells: usize, groups: &[Group]) -> Self {
        let row = cells + 1;
        #[expect(clippy::cast_precision_loss, reason = "a grid size")]
        let step = budget / cells as f64;
        let mut table = Self { step, cells, values: vec![0.0; (auctions + 1) * row] };
        let mut loss = [0.0; PRICES];
        for n in 1..=auctions {
            for cell in 0..row {
                #[expect(clippy::cast_precision_loss, reason = "a grid position")]
                let money = step * cell as f64;
                let base = table.at(n - 1, money);
                let affordable = PRICES.min(price(money) + 1);
                for (loss, paid) in loss[..affordable].iter_mut().zip(0_u32..) {
                    *loss = table.at(n - 1, money - f64::from(paid)) - base;
                }
                let gains = groups.iter().map(|group| {
                    let worth = loss[..affordable].iter().map(|loss| group.theta + loss);
                    let gain = worth.zip(&group.prices).take_while(|(worth, _)| *worth > 0.0);
                    group.weight * gain.map(|(worth, share)| share * worth).sum::<f64>()
                });
                let gain: f64 = gains.sum();
                table.values[n * row + cell] = base + gain;
            }
        }
        table
    }

    /// Expected clicks of `n` auctions with `money`.
    pub(super) fn at(&self, n: usize, money: f64) -> f64 {
        let row = &self.values[n * (self.cells + 1)..][..=self.cells];
        let at = (money / self.step).max(0.0);
        let cell = price(at).min(self.cells - 1);
        #[expect(clippy::cast_precision_loss, reason = "a grid position")]
        let part = (at - cell as f64).min(1.0);
        row[cell] * (1.0 - part) + row[cell + 1] * part
    }

    /// The bid for an auction of click probability `theta` with `n` auctions after it.
    pub(super) fn bid(&self, n: usize, money: f64, theta: f64) -> usize {
        let base = self.at(n, money);
        #[expect(clippy::cast_precision_loss, reason = "a price")]
        let worth = |paid: usize| theta + self.at(n, money - paid as f64) - base;
        let (mut low, mut high) = (0, (PRICES - 1).min(price(money)));
        while low < high {
            let middle = (low + high).div_ceil(2);
            if worth(middle) >= 0.0 { low = middle } else { high = middle - 1 }
        }
        low
    }
}

/// A whole number of money units, rounded down.
fn price(money: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates at 0")]
    let whole = money as usize;
    whole
}

/// Auctions of a scaled table.
const SCALED_AUCTIONS: usize = 500;
/// Steps of money in a scaled table.
const SCALED_CELLS: usize = 100;
/// Money in a scaled table over what falls on its auctions at the start.
const SCALED_MONEY: f64 = 4.0;

/// The published bidder where prices, values and the number of auctions have any size: prices in steps, one table for [`SCALED_AUCTIONS`]
/// auctions, and with more left to come the money that falls on so many of them (the paper's mapping of actions).
pub(super) struct Scaled {
    table: Table,
    /// One step of price.
    unit: f64,
    /// Auctions of a day.
    auctions: usize,
}

impl Scaled {
    /// From the auctions of some earlier days, (value, price) each, for a day like them with a `budget`.
    #[expect(clippy::cast_precision_loss, reason = "counts of auctions and steps of price")]
    pub(super) fn learn(auctions: &[(f64, f64)], days: usize, budget: f64) -> Self {
        let (count, of_day) = (auctions.len().max(1), (auctions.len() / days.max(1)).max(1));
        let mut sorted: Vec<f64> = auctions.iter().map(|auction| auction.1).collect();
        sorted.sort_by(f64::total_cmp);
        // Dearer than all but one in a thousand: never bought.
        let unit = sorted.get(sorted.len() * 999 / 1_000).map_or(1.0, |high| high.max(1e-9)) / (PRICES - 1) as f64;
        let mut prices = vec![0.0; PRICES];
        for &(_, cost) in auctions {
            if let Some(share) = prices.get_mut(price((cost / unit).ceil())) {
                *share += 1.0 / count as f64;
            }
        }
        let theta = auctions.iter().map(|auction| auction.0).sum::<f64>() / count as f64;
        let groups = [Group { weight: 1.0, theta, prices }];
        let money = SCALED_MONEY * budget / unit * SCALED_AUCTIONS as f64 / of_day as f64;
        Self { table: Table::solve(SCALED_AUCTIONS, money.max(1.0), SCALED_CELLS, &groups), unit, auctions: of_day }
    }

    /// The multiplier of an auction's `value` when `seen` of the day's auctions are over and `money` is left.
    #[expect(clippy::cast_precision_loss, reason = "counts of auctions and steps of price")]
    pub(super) fn multiplier(&self, seen: usize, money: f64, value: f64) -> f64 {
        let left = self.auctions.saturating_sub(seen + 1).max(1);
        let mapped = (SCALED_AUCTIONS as f64 / left as f64).min(1.0);
        let bid = self.table.bid(left.min(SCALED_AUCTIONS), money / self.unit * mapped, value);
        bid as f64 * self.unit / value.max(1e-12)
    }
}

/// Prices of a group, learned from won and lost auctions: a lost bid only tells that the price was higher.
#[derive(Clone, Debug)]
pub(super) struct PriceBook {
    won: Vec<f64>,
    lost: Vec<f64>,
}

impl PriceBook {
    pub(super) fn new() -> Self {
        Self { won: vec![0.0; PRICES], lost: vec![0.0; PRICES] }
    }

    pub(super) fn record(&mut self, bid: usize, paid: Option<usize>) {
        match paid {
            Some(paid) => self.won[paid] += 1.0,
            None => self.lost[bid] += 1.0,
        }
    }

    /// Product-limit estimate, with a prior distribution that weighs as much as `weight` auctions. Above the highest bid ever
    /// made the prior alone speaks.
    pub(super) fn estimate(&self, prior: &[f64], weight: f64) -> Vec<f64> {
        let mut at_risk = vec![0.0; PRICES + 1];
        for price in (0..PRICES).rev() {
            // A lost bid `b` says "above b": it was at risk at every price up to b.
            at_risk[price] = at_risk[price + 1] + self.won[price] + self.lost[price];
        }
        let (mut left, mut prior_left) = (1.0, 1.0);
        let estimate = |price: usize| {
            let hazard = (weight * prior[price] + self.won[price]) / (weight * prior_left + at_risk[price]).max(1e-12);
            let share = left * hazard.min(1.0);
            left -= share;
            prior_left = f64::max(prior_left - prior[price], 0.0);
            share
        };
        (0..PRICES).map(estimate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(high: usize) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let share = 1.0 / high as f64;
        (0..PRICES).map(|p| if (1..=high).contains(&p) { share } else { 0.0 }).collect()
    }

    /// The same recursion over whole money, by its definition.
    fn naive(auctions: usize, budget: usize, group: &Group) -> Vec<Vec<f64>> {
        let mut v = vec![vec![0.0; budget + 1]];
        for n in 1..=auctions {
            let before = &v[n - 1];
            let best = |b: usize| {
                let of_bid = |bid: usize| -> f64 {
                    (0..=bid).map(|d| group.prices[d] * (group.theta + before[b - d])).sum::<f64>()
                        + (1.0 - group.prices[..=bid].iter().sum::<f64>()) * before[b]
                };
                (0..=b.min(PRICES - 1)).map(of_bid).fold(0.0, f64::max)
            };
            v.push((0..=budget).map(best).collect());
        }
        v
    }

    #[test]
    fn the_table_is_the_best_bid_by_definition() {
        let group = Group { weight: 1.0, theta: 0.01, prices: uniform(9) };
        let (table, naive) = (Table::solve(12, 40.0, 40, std::slice::from_ref(&group)), naive(12, 40, &group));
        for (n, row) in naive.iter().enumerate() {
            for (b, slow) in (0..=40_u32).zip(row) {
                let fast = table.at(n, f64::from(b));
                assert!((fast - slow).abs() < 1e-12, "V({n}, {b}) = {fast}, by definition {slow}");
            }
        }
    }

    #[test]
    fn a_scaled_table_spends_the_money_of_a_long_day_where_a_value_fits_its_price() {
        // 5,000 auctions of value .02 to .06 at prices .01 to .05, drawn apart: money for a fifth of them.
        let auction = |i: u32| (0.02 + 0.01 * f64::from((i * 7) % 5), 0.01 + 0.01 * f64::from((i / 5) % 5));
        let day: Vec<(f64, f64)> = (0..5_000).map(auction).collect();
        let scaled = Scaled::learn(&day, 1, 30.0);
        let (mut left, mut value) = (30.0, 0.0);
        for (seen, &(worth, cost)) in day.iter().enumerate() {
            if scaled.multiplier(seen, left, worth) * worth >= cost && cost <= left {
                (left, value) = (left - cost, value + worth);
            }
        }
        // The best of a constant multiplier for the same money.
        let constant = |m: f64| {
            let (mut left, mut value) = (30.0, 0.0);
            for &(worth, cost) in &day {
                if m * worth >= cost && cost <= left {
                    (left, value) = (left - cost, value + worth);
                }
            }
            value
        };
        let best = (1..60).map(|i| constant(0.05 * f64::from(i))).fold(0.0, f64::max);
        assert!(left < 2.0, "{left} of 30 is left");
        assert!(value > 0.9 * best, "{value} of {best}");
    }

    #[test]
    fn prices_are_learned_from_wins_and_losses() {
        let (truth, prior) = (uniform(20), uniform(200));
        let mut book = PriceBook::new();
        for round in 0..20_000_usize {
            let (price, bid) = (1 + round % 20, if round % 3 == 0 { 8 } else { 15 });
            book.record(bid, (bid >= price).then_some(price));
        }
        let learned = book.estimate(&prior, 10.0);
        for price in 1..=15 {
            assert!((learned[price] - truth[price]).abs() < 0.01, "{price}: {}", learned[price]);
        }
        assert!((learned.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    }
}
