//! A real campaign replayed by the published rules: episodes of 1,000 auctions, each with its share of money.
//!
//! The money of an episode is (cost / impressions of the training log) x 1,000 x share; a bid of at least the market price wins
//! and pays the market price; a bid never exceeds the episode's money. Prices of lost auctions are never shown to the bidder.

use super::value_iteration::{Group, PRICES, PriceBook, Table};
use crate::out;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Auctions of an episode.
const EPISODE: usize = 1_000;
/// Shares of the full budget: one in so many.
const DIVISORS: [u32; 5] = [32, 16, 8, 4, 2];
/// Best clicks of the listed bidders at those shares on campaign 2997.
const LISTED_2997: [u64; 5] = [80, 119, 176, 260, 389];
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

#[derive(Args)]
pub(super) struct IpinyouArgs {
    /// Folder with info.json and test.theta.txt (click, market price, predicted click rate)
    dir: PathBuf,
    /// The bidder
    #[arg(long, value_enum, default_value_t = Bidder::Learned)]
    policy: Bidder,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bidder {
    /// Value iteration over the training log's prices (the published bidder)
    Rlb,
    /// Value iteration over prices by group of click probability, learned from wins and losses as the campaign runs
    Learned,
}

#[derive(Deserialize)]
struct Info {
    clk_train: u64,
    imp_train: u64,
    cost_train: u64,
    price_counter_train: Vec<u64>,
}

struct Log {
    /// Money of an episode at share 1.
    full: f64,
    mean_click: f64,
    prices: Vec<f64>,
    auctions: Vec<Auction>,
}

struct Auction {
    click: bool,
    price: usize,
    theta: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    share: String,
    clicks: u64,
    impressions: u64,
    cost: u64,
    /// Best clicks of the listed bidders on campaign 2997.
    listed: u64,
    ratio: f64,
}

#[derive(Serialize)]
struct Figures {
    policy: String,
    rows: Vec<Row>,
    at_or_above: usize,
    worst_ratio: f64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of a log")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Runs the command.
pub(super) fn run(args: &IpinyouArgs) -> anyhow::Result<()> {
    let log = read(&args.dir)?;
    let mut rows = Vec::new();
    for (divisor, listed) in DIVISORS.into_iter().zip(LISTED_2997) {
        let money = (log.full / f64::from(divisor)).floor();
        let (clicks, impressions, cost) = play(&log, money, args.policy);
        let ratio = float(clicks) / float(listed);
        rows.push(Row { share: format!("1/{divisor}"), clicks, impressions, cost, listed, ratio });
    }
    let cells = |row: &Row| {
        let counts = [row.clicks, row.impressions, row.cost, row.listed].map(|n| n.to_string());
        std::iter::once(row.share.clone()).chain(counts).chain([format!("{:.3}", row.ratio)]).collect::<Vec<_>>()
    };
    out::table(
        &["share", "clicks", "impressions", "cost", "listed", "ratio"],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    );
    let figures = Figures {
        policy: format!("{:?}", args.policy).to_lowercase(),
        at_or_above: rows.iter().filter(|row| row.clicks >= row.listed).count(),
        worst_ratio: rows.iter().map(|row| row.ratio).fold(f64::INFINITY, f64::min),
        rows,
    };
    out::json(args.json, &figures)
}

fn read(dir: &Path) -> anyhow::Result<Log> {
    let load = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let info: Info = serde_json::from_str(&load("info.json")?).context("info.json")?;
    ensure!(info.price_counter_train.len() == PRICES, "price_counter_train must have {PRICES} counts");
    ensure!(info.imp_train > 0, "imp_train must be above 0");
    let total = float(info.price_counter_train.iter().sum());
    let mut auctions = Vec::new();
    for (number, line) in load("test.theta.txt")?.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next().with_context(|| format!("test.theta.txt line {} is short", number + 1));
        let (click, price, theta) = (next()?, next()?.parse::<usize>()?, next()?.parse::<f64>()?);
        ensure!((0.0..=1.0).contains(&theta), "test.theta.txt line {}: {theta} is no probability", number + 1);
        auctions.push(Auction { click: click == "1", price, theta });
    }
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let episode = EPISODE as f64;
    Ok(Log {
        full: float(info.cost_train) / float(info.imp_train) * episode,
        mean_click: float(info.clk_train) / float(info.imp_train),
        prices: info.price_counter_train.iter().map(|&count| float(count) / total).collect(),
        auctions,
    })
}

/// Clicks, impressions and cost of the whole log.
fn play(log: &Log, money: f64, bidder: Bidder) -> (u64, u64, u64) {
    let whole = [Group { weight: 1.0, theta: log.mean_click, prices: log.prices.clone() }];
    let cells = if bidder == Bidder::Rlb { 400 } else { CELLS };
    let mut table = Table::solve(EPISODE, money, cells, &whole);
    let mut learner = Learner::default();
    let (mut clicks, mut impressions, mut cost) = (0, 0, 0);
    for (episode, auctions) in log.auctions.chunks(EPISODE).enumerate() {
        if bidder == Bidder::Learned && (episode == 1 || (episode > 0 && episode % EVERY == 0)) {
            table = Table::solve(EPISODE, money, cells, &learner.groups(&log.prices));
        }
        let mut left = money;
        for (at, auction) in auctions.iter().enumerate() {
            let bid = table.bid(EPISODE - at - 1, left, auction.theta);
            let won = bid >= auction.price;
            if won {
                #[expect(clippy::cast_precision_loss, reason = "a price up to 300")]
                let paid = auction.price as f64;
                left -= paid;
                impressions += 1;
                cost += auction.price as u64;
                clicks += u64::from(auction.click);
            }
            learner.record(auction.theta, bid, won.then_some(auction.price));
        }
    }
    (clicks, impressions, cost)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_bidder_is_reproduced_on_the_real_campaign() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bidding/ipinyou-2997");
        if !dir.exists() {
            println!("skipped: ../shared is absent");
            return;
        }
        let log = read(&dir).unwrap();
        assert_eq!(log.auctions.len(), 156_063);
        let money = (log.full / 32.0).floor();
        // Published: 78 clicks, 39,680 impressions, cost 304,375; the grid of money differs.
        let (clicks, impressions, cost) = play(&log, money, Bidder::Rlb);
        assert!((77..=79).contains(&clicks), "{clicks}");
        assert!(impressions.abs_diff(39_680) < 100 && cost.abs_diff(304_375) < 500, "{impressions}, {cost}");
    }
}
