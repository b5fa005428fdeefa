//! Who bids in the recorded campaign.

use super::super::served::{Bought, Served};
use super::super::value_iteration::{Group, PriceBook, Table};
use super::{EPISODE, Log};
use clap::ValueEnum;
use longbow::plans::PolicyKind;

/// Groups of click probability with prices of their own.
const GROUPS: usize = 8;
/// Weight of the training log's prices in each group, in auctions.
const PRIOR: f64 = 2_000.0;
/// Episodes between two solutions of the table.
const EVERY: usize = 10;
/// Recent auctions that the groups' sizes are counted over.
const RECENT: usize = 20_000;
/// Steps of money in a table.
const CELLS: usize = 100;
/// The same for the published bidder.
const RLB_CELLS: usize = 400;
/// Auctions between two ticks of a controller: 100 ticks in an episode.
const TICK: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Policy {
    /// The training log's cost of a click times the click probability
    Fixed,
    /// The server's PID on the budget, from that bid
    Pid,
    /// Dual descent on the budget, from that bid
    Dual,
    /// The multiplier that spends the money at the training log's prices and the click probabilities seen so far
    Linear,
    /// Value iteration over the training log's prices (the published bidder)
    Rlb,
    /// The server's model predictive control, a new plan in each episode
    Served,
    /// Value iteration over prices by group of click probability, learned from wins and losses as the campaign runs
    Learned,
    /// The best constant multiplier in hindsight
    Hindsight,
}

/// What a bidder knows before an auction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) episode: usize,
    /// Auctions of the episode that are over.
    pub(super) at: usize,
    /// The episode's money.
    pub(super) money: f64,
    pub(super) left: f64,
    pub(super) theta: f64,
}

pub(super) trait Bidder {
    /// The bid of an auction.
    fn bid(&mut self, seen: &Seen) -> f64;

    /// What became of it: the price if it won.
    fn result(&mut self, _seen: &Seen, _bid: f64, _paid: Option<usize>) {}
}

/// A constant multiplier.
pub(super) struct Constant(pub(super) f64);

impl Bidder for Constant {
    fn bid(&mut self, seen: &Seen) -> f64 {
        self.0 * seen.theta
    }
}

/// Dual descent: after each tick against the mean spend of what is left. Goes on from one episode to the next.
struct Dual {
    multiplier: f64,
    /// Money left at the last tick.
    before: f64,
}

impl Bidder for Dual {
    #[expect(clippy::cast_precision_loss, reason = "counts of auctions")]
    fn bid(&mut self, seen: &Seen) -> f64 {
        if seen.at == 0 {
            self.before = seen.money;
        } else if seen.at.is_multiple_of(TICK) {
            let wanted = self.before * TICK as f64 / (EPISODE - seen.at + TICK) as f64;
            let error = ((wanted - (self.before - seen.left)) / wanted.max(1e-9)).clamp(-1.0, 1.0);
            self.multiplier *= (0.1 * error).exp();
            self.before = seen.left;
        }
        self.multiplier * seen.theta
    }
}

/// A policy of the server; an episode is a day.
struct OfServer {
    served: Served,
    /// Value of a click.
    click: f64,
    bought: Bought,
    multiplier: f64,
}

impl Bidder for OfServer {
    #[expect(clippy::cast_precision_loss, reason = "counts of auctions")]
    fn bid(&mut self, seen: &Seen) -> f64 {
        if seen.at == 0 {
            self.served.begin(seen.money);
            self.bought = Bought::default();
        }
        if seen.at.is_multiple_of(TICK) {
            self.multiplier = self.served.multiplier(seen.at as f64 / EPISODE as f64, self.bought);
        }
        self.multiplier * self.click * seen.theta
    }

    #[expect(clippy::cast_precision_loss, reason = "a price up to 300")]
    fn result(&mut self, seen: &Seen, _bid: f64, paid: Option<usize>) {
        if let Some(price) = paid {
            self.bought.spent += price as f64;
            self.bought.expected += self.click * seen.theta;
            self.bought.impressions += 1;
            self.bought.results += seen.theta;
        }
    }
}

/// A constant multiplier from what is known before each tenth episode.
struct Linear<'a> {
    log: &'a Log,
    thetas: Vec<f64>,
    multiplier: f64,
}

impl Linear<'_> {
    /// At which the money is spent on average, by halving.
    #[expect(clippy::cast_precision_loss, reason = "prices up to 300, counts of auctions")]
    fn solve(&self, money: f64) -> f64 {
        let mean = [self.log.mean_click];
        let thetas = if self.thetas.is_empty() { &mean[..] } else { &self.thetas[..] };
        let mut cost_below = vec![0.0];
        for (price, share) in self.log.prices.iter().enumerate() {
            cost_below.push(cost_below[price] + share * price as f64);
        }
        let spend = |multiplier: f64| {
            let of = |theta: &f64| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
                let bid = (multiplier * theta) as usize;
                cost_below[(bid + 1).min(cost_below.len() - 1)]
            };
            thetas.iter().map(of).sum::<f64>() / thetas.len() as f64 * EPISODE as f64
        };
        let (mut low, mut high) = (0.0, 1e7);
        for _ in 0..50 {
            let middle = f64::midpoint(low, high);
            if spend(middle) <= money { low = middle } else { high = middle }
        }
        low
    }
}

impl Bidder for Linear<'_> {
    fn bid(&mut self, seen: &Seen) -> f64 {
        if seen.at == 0 && (seen.episode <= 1 || seen.episode.is_multiple_of(EVERY)) {
            self.multiplier = self.solve(seen.money);
        }
        self.thetas.push(seen.theta);
        self.multiplier * seen.theta
    }
}

/// Value iteration.
struct ByTable<'a> {
    table: Table,
    /// What the running campaign teaches, for the bidder that learns.
    learner: Option<(Learner, &'a Log)>,
}

impl Bidder for ByTable<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a price up to 300")]
    fn bid(&mut self, seen: &Seen) -> f64 {
        let due = seen.at == 0 && seen.episode > 0 && (seen.episode == 1 || seen.episode.is_multiple_of(EVERY));
        if let Some((learner, log)) = &mut self.learner
            && due
        {
            self.table = Table::solve(EPISODE, seen.money, CELLS, &learner.groups(&log.prices));
        }
        self.table.bid(EPISODE - seen.at - 1, seen.left, seen.theta) as f64
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a price up to 300")]
    fn result(&mut self, seen: &Seen, bid: f64, paid: Option<usize>) {
        if let Some((learner, _)) = &mut self.learner {
            learner.record(seen.theta, bid as usize, paid);
        }
    }
}

/// The bidder of a policy, for episodes of so much money.
pub(super) fn bidder<'a>(policy: Policy, log: &'a Log, money: f64) -> Box<dyn Bidder + 'a> {
    let table = |cells| {
        let whole = [Group { weight: 1.0, theta: log.mean_click, prices: log.prices.clone() }];
        Table::solve(EPISODE, money, cells, &whole)
    };
    let served = |kind| OfServer {
        served: Served::new(kind),
        click: log.click_cost,
        bought: Bought::default(),
        multiplier: 1.0,
    };
    match policy {
        Policy::Fixed => Box::new(Constant(log.click_cost)),
        Policy::Pid => Box::new(served(PolicyKind::Pid)),
        Policy::Served => Box::new(served(PolicyKind::Mpc)),
        Policy::Dual => Box::new(Dual { multiplier: log.click_cost, before: money }),
        Policy::Linear => Box::new(Linear { log, thetas: Vec::new(), multiplier: log.click_cost }),
        Policy::Rlb => Box::new(ByTable { table: table(RLB_CELLS), learner: None }),
        Policy::Learned => Box::new(ByTable { table: table(CELLS), learner: Some((Learner::default(), log)) }),
        Policy::Hindsight => Box::new(Constant(hindsight(log, money))),
    }
}

/// The constant multiplier with most clicks, in steps of 3%.
fn hindsight(log: &Log, money: f64) -> f64 {
    let grid = (-100..=60).map(|i| (0.03 * f64::from(i)).exp() * log.click_cost);
    let clicks = |m: f64| super::play(log, money, &mut Constant(m)).clicks;
    let scored = grid.map(|m| (clicks(m), m));
    scored.fold((0, log.click_cost), |best, new| if new.0 > best.0 { new } else { best }).1
}

/// What the running campaign teaches: the groups' sizes and prices.
#[derive(Default)]
struct Learner {
    edges: Vec<f64>,
    books: Vec<PriceBook>,
    thetas: Vec<f64>,
}

impl Learner {
    fn record(&mut self, theta: f64, bid: usize, paid: Option<usize>) {
        self.thetas.push(theta);
        if !self.books.is_empty() {
            let group = self.edges.partition_point(|edge| *edge <= theta);
            self.books[group].record(bid, paid);
        }
    }

    /// Groups of equal size by the first episode's click probabilities; sizes by the recent auctions.
    #[expect(clippy::cast_precision_loss, reason = "counts of auctions")]
    fn groups(&mut self, prior: &[f64]) -> Vec<Group> {
        if self.books.is_empty() {
            let mut sorted = self.thetas.clone();
            sorted.sort_by(f64::total_cmp);
            self.edges = (1..GROUPS).map(|i| sorted[sorted.len() * i / GROUPS]).collect();
            self.books = vec![PriceBook::new(); GROUPS];
        }
        let recent = &self.thetas[self.thetas.len().saturating_sub(RECENT)..];
        let mut sums = [(0.0, 0.0); GROUPS];
        for &theta in recent {
            let sum = &mut sums[self.edges.partition_point(|edge| *edge <= theta)];
            *sum = (sum.0 + 1.0, sum.1 + theta);
        }
        let groups = sums.iter().zip(&self.books).filter(|((count, _), _)| *count > 0.0);
        groups
            .map(|(&(count, sum), book)| Group {
                weight: count / recent.len() as f64,
                theta: sum / count,
                prices: book.estimate(prior, PRIOR),
            })
            .collect()
    }
}
