//! What is read from the book: figures by hour, channel or creative, and periods for diagnosis.

use super::book::{Book, Live, PlanLog};
use super::rows::{Counts, Hour};
use crate::auction::diagnose::{ChannelFigures, CreativeFigures, Period};
use crate::ids::Id;
use crate::plans::Goal;
use serde::Serialize;
use std::collections::BTreeMap;

/// How figures are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// By hour.
    #[default]
    Hour,
    /// By channel.
    Channel,
    /// By creative.
    Creative,
    /// All as one.
    Total,
}

impl Grouping {
    /// The grouping of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "hour" => Self::Hour,
            "channel" => Self::Channel,
            "creative" => Self::Creative,
            "total" => Self::Total,
            _ => return None,
        })
    }
}

/// One row of figures. Amounts in micros of the plan's currency.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Start of the hour (Unix seconds as text), channel, creative, or `total`.
    pub key: String,
    /// Auctions with a priced candidate.
    pub chances: u64,
    /// Bids sent.
    pub bids: u64,
    /// Impressions charged.
    pub wins: u64,
    /// Impressions seen.
    pub impressions: u64,
    /// Clicks.
    pub clicks: u64,
    /// Orders.
    pub conversions: u64,
    /// Charged.
    pub spend_micros: i64,
    /// Sum of order values.
    pub order_value_micros: i64,
    /// Order value over spend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_on_spend: Option<f64>,
    /// Mean multiplier of the controller; hours and totals only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn of(key: String, counts: &Counts, multiplier: Option<f64>) -> Self {
        Self {
            key,
            chances: counts.chances,
            bids: counts.bids,
            wins: counts.wins,
            impressions: counts.impressions,
            clicks: counts.clicks,
            conversions: counts.conversions,
            spend_micros: counts.spend,
            order_value_micros: counts.value,
            return_on_spend: (counts.spend > 0).then(|| counts.value as f64 / counts.spend as f64),
            multiplier,
        }
    }
}

fn sum(hour: &Hour) -> Counts {
    let mut sum = Counts::default();
    hour.cells.iter().for_each(|cell| sum.add(&cell.counts));
    sum
}

fn mean(sum: f64, ticks: u32) -> Option<f64> {
    (ticks > 0).then(|| sum / f64::from(ticks))
}

impl PlanLog {
    /// Rows of the hours that begin in [from, to).
    fn rows(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, &Hour)> {
        let (first, end) = (from.div_euclid(3_600), to.div_euclid(3_600).max(from.div_euclid(3_600)));
        self.hours.range(first..end).map(|(&hour, row)| (hour, row))
    }

    /// Calls `each` with every setting and the seconds of [from, to) it held for.
    fn held(&self, from: i64, to: i64, mut each: impl FnMut(&super::Setting, f64)) {
        for (at, setting) in self.settings.iter().enumerate() {
            let until = self.settings.get(at + 1).map_or(i64::MAX, |next| next.at);
            // What was before the first that is known is taken to have been the same.
            let begin = if at == 0 { i64::MIN } else { setting.at };
            let (begin, until) = (begin.max(from), until.min(to));
            if until > begin {
                #[expect(clippy::cast_precision_loss, reason = "seconds of at most 30 days")]
                each(setting, (until - begin) as f64);
            }
        }
    }
}

impl Book {
    pub(super) fn figures(&self, plan: &Id, from: i64, to: i64, by: Grouping) -> Vec<Figures> {
        let Some(log) = self.plans.get(plan) else { return Vec::new() };
        match by {
            Grouping::Hour => log
                .rows(from, to)
                .map(|(hour, row)| {
                    let key = (hour * 3_600).to_string();
                    Figures::of(key, &sum(row), mean(row.multiplier_sum, row.ticks))
                })
                .collect(),
            Grouping::Total => {
                let (mut all, mut multiplier, mut ticks) = (Counts::default(), 0.0, 0);
                for (_, row) in log.rows(from, to) {
                    all.add(&sum(row));
                    multiplier += row.multiplier_sum;
                    ticks += row.ticks;
                }
                vec![Figures::of("total".to_owned(), &all, mean(multiplier, ticks))]
            }
            Grouping::Channel | Grouping::Creative => {
                let mut groups: BTreeMap<&str, Counts> = BTreeMap::new();
                for cell in log.rows(from, to).flat_map(|(_, row)| &row.cells) {
                    let key = match (by, &cell.creative) {
                        (Grouping::Channel, _) => cell.channel.as_str(),
                        (_, Some(creative)) => creative.as_str(),
                        (_, None) => continue,
                    };
                    groups.entry(key).or_default().add(&cell.counts);
                }
                groups.into_iter().map(|(key, counts)| Figures::of(key.to_owned(), &counts, None)).collect()
            }
        }
    }

    pub(super) fn period(&self, plan: &Id, from: i64, to: i64) -> Option<Period> {
        let log = self.plans.get(plan)?;
        let (from, to) = (from.div_euclid(3_600) * 3_600, to.div_euclid(3_600) * 3_600);
        #[expect(clippy::cast_precision_loss, reason = "seconds of at most 30 days")]
        let mut period = Period { seconds: (to - from).max(0) as f64, ..Period::default() };
        let mut factors = (0.0, 0.0);
        log.held(from, to, |setting, seconds| {
            match setting.live {
                Live::On => {}
                Live::Exhausted => period.exhausted_seconds += seconds,
                Live::Paused => period.paused_seconds += seconds,
                Live::Off => period.off_seconds += seconds,
            }
            factors.0 += factor(&setting.goal) * seconds;
            factors.1 += seconds;
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            let (budget, max_bid) = (setting.budget.0 as f64, setting.max_bid.0 as f64);
            (period.budget, period.max_bid) = (budget, max_bid);
        });
        period.target_factor = if factors.1 > 0.0 { factors.0 / factors.1 } else { 1.0 };
        let (mut multiplier, mut ticks) = (0.0, 0);
        let mut channels: BTreeMap<&Id, ChannelFigures> = BTreeMap::new();
        for (_, row) in log.rows(from, to) {
            multiplier += row.multiplier_sum;
            ticks += row.ticks;
            for cell in &row.cells {
                let channel = channels
                    .entry(&cell.channel)
                    .or_insert_with(|| ChannelFigures { name: cell.channel.to_string(), ..ChannelFigures::default() });
                add(channel, cell.creative.as_ref(), &cell.counts);
            }
        }
        period.multiplier = mean(multiplier, ticks).unwrap_or(1.0);
        period.channels = channels.into_values().collect();
        Some(period)
    }
}

/// What a bid is multiplied with by the goal.
pub(crate) fn factor(goal: &Goal) -> f64 {
    match *goal {
        Goal::Roi { target } => 1.0 / target.max(1e-9),
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        Goal::Cpa { target_micros } | Goal::Cpc { target_micros } => target_micros.0 as f64,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn add(channel: &mut ChannelFigures, creative: Option<&Id>, counts: &Counts) {
    channel.chances += counts.chances as f64;
    channel.bids += counts.priced as f64;
    channel.bid_sum += counts.priced_sum as f64;
    if let Some(own) = &counts.own {
        channel.own.add(own);
    }
    channel.wins += counts.wins as f64;
    channel.winning_bid_sum += counts.winning_bid_sum as f64;
    channel.winning_ln_sum += counts.winning_ln_sum;
    channel.spend += counts.spend as f64;
    channel.spend_squares += counts.spend_squares;
    channel.conversions += counts.conversions as f64;
    channel.value += counts.value as f64;
    channel.value_squares += counts.value_squares;
    if counts.wins == 0 && counts.clicks == 0 {
        return;
    }
    let name = creative.map_or(super::rows::OTHER, Id::as_str);
    let at = channel.creatives.iter().position(|known| known.name == name).unwrap_or_else(|| {
        channel.creatives.push(CreativeFigures { name: name.to_owned(), ..CreativeFigures::default() });
        channel.creatives.len() - 1
    });
    channel.creatives[at].shown += counts.wins as f64;
    channel.creatives[at].clicks += counts.clicks as f64;
}
