//! A real campaign replayed by the published rules: episodes of 1,000 auctions, each with its share of money.
//!
//! The money of an episode is (cost / impressions of the training log) x 1,000 x share; a bid of at least the market price wins
//! and pays the market price; a bid never exceeds the episode's money. Prices of lost auctions are never shown to the bidder.

mod bidders;

use super::value_iteration::PRICES;
use super::{Several, name_of, several};
use crate::out;
use anyhow::{Context, ensure};
use bidders::{Bidder, Policy, Seen};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Auctions of an episode.
const EPISODE: usize = 1_000;
/// Shares of the full budget: one in so many.
const DIVISORS: [u32; 5] = [32, 16, 8, 4, 2];
/// Best clicks of the listed bidders at those shares on campaign 2997.
const LISTED_2997: [u64; 5] = [80, 119, 176, 260, 389];
#[derive(Args)]
pub(super) struct IpinyouArgs {
    /// Folder with info.json and test.theta.txt (click, market price, predicted click rate)
    dir: PathBuf,
    /// Bidders, with commas between them, or `all`
    #[arg(long, value_parser = several::<Policy>, default_value = "learned")]
    policy: Several<Policy>,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
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
    /// What a click cost in the training log.
    click_cost: f64,
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

/// What several bidders print at their end.
#[derive(Serialize)]
struct All {
    policies: Vec<Figures>,
}

/// Runs the command.
pub(super) fn run(args: &IpinyouArgs) -> anyhow::Result<()> {
    let log = read(&args.dir)?;
    let mut all = Vec::new();
    for &policy in &args.policy.0 {
        all.push(figures(&log, policy));
        out::progress(format!("{} has bid", name_of(&policy)));
    }
    let lines = |figures: &Figures| {
        let line = |row: &Row| {
            let counts = [row.clicks, row.impressions, row.cost, row.listed].map(|n| n.to_string());
            let names = [figures.policy.clone(), row.share.clone()];
            names.into_iter().chain(counts).chain([format!("{:.3}", row.ratio)]).collect::<Vec<_>>()
        };
        figures.rows.iter().map(line).collect::<Vec<_>>()
    };
    out::table(
        &["policy", "share", "clicks", "impressions", "cost", "listed", "ratio"],
        &all.iter().flat_map(lines).collect::<Vec<_>>(),
    );
    match &all[..] {
        [one] => out::json(args.json, one),
        _ => out::json(args.json, &All { policies: all }),
    }
}

/// One bidder at every share of the budget.
fn figures(log: &Log, policy: Policy) -> Figures {
    let mut rows = Vec::new();
    for (divisor, listed) in DIVISORS.into_iter().zip(LISTED_2997) {
        let money = (log.full / f64::from(divisor)).floor();
        let Played { clicks, impressions, cost } = play(log, money, &mut *bidders::bidder(policy, log, money));
        let ratio = float(clicks) / float(listed);
        rows.push(Row { share: format!("1/{divisor}"), clicks, impressions, cost, listed, ratio });
    }
    Figures {
        policy: name_of(&policy),
        at_or_above: rows.iter().filter(|row| row.clicks >= row.listed).count(),
        worst_ratio: rows.iter().map(|row| row.ratio).fold(f64::INFINITY, f64::min),
        rows,
    }
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
        click_cost: float(info.cost_train) / float(info.clk_train.max(1)),
        prices: info.price_counter_train.iter().map(|&count| float(count) / total).collect(),
        auctions,
    })
}

/// What the whole log brought.
#[derive(Clone, Copy, Debug, Default)]
struct Played {
    clicks: u64,
    impressions: u64,
    cost: u64,
}

/// Plays the whole log, each episode with `money`.
#[expect(clippy::cast_precision_loss, reason = "a price up to 300")]
fn play(log: &Log, money: f64, bidder: &mut dyn Bidder) -> Played {
    let mut played = Played::default();
    for (episode, auctions) in log.auctions.chunks(EPISODE).enumerate() {
        let mut left = money;
        for (at, auction) in auctions.iter().enumerate() {
            let seen = Seen { episode, at, money, left, theta: auction.theta };
            let bid = bidder.bid(&seen).min(left).floor();
            let won = bid >= auction.price as f64;
            if won {
                left -= auction.price as f64;
                played.impressions += 1;
                played.cost += auction.price as u64;
                played.clicks += u64::from(auction.click);
            }
            bidder.result(&seen, bid, won.then_some(auction.price));
        }
    }
    played
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
        let mut rlb = bidders::bidder(Policy::Rlb, &log, money);
        let Played { clicks, impressions, cost } = play(&log, money, &mut *rlb);
        assert!((77..=79).contains(&clicks), "{clicks}");
        assert!(impressions.abs_diff(39_680) < 100 && cost.abs_diff(304_375) < 500, "{impressions}, {cost}");
    }
}
