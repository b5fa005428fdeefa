//! The book: rows by plan and hour, settings by plan, and which bid came by which channel.

use super::rows::{Counts, Hour, OTHER};
use super::{CELLS_MAX, Fact, HOURS_MAX, Outcome};
use crate::auction::diagnose::own::ln;
use crate::catalog::Catalog;
use crate::ids::{CreativeSlot, Id, PlanSlot};
use crate::money::Micros;
use crate::plans::Goal;
use crate::store::{CatalogKind, CatalogRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Settings remembered of one plan.
const SETTINGS_MAX: usize = 512;
/// A plan whose budget flickers between nothing and something is written down this often at most, seconds.
const FLICKER_S: i64 = 30;
/// Bids in one generation of the channel memory; two are kept.
const GENERATION: usize = 250_000;
/// Changed rows written at once.
const WRITES_MAX: usize = 20_000;

/// Whether a plan could bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Live {
    /// It could.
    On,
    /// Its budget was used up.
    Exhausted,
    /// A person paused it.
    Paused,
    /// Before its start or after its end.
    Off,
}

/// How a plan stood from a time on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Unix seconds.
    pub at: i64,
    /// Whole budget.
    pub budget: Micros,
    /// Goal.
    pub goal: Goal,
    /// Highest bid.
    pub max_bid: Micros,
    /// Whether it could bid.
    pub live: Live,
}

/// One plan.
#[derive(Debug, Default)]
pub(super) struct PlanLog {
    pub(super) settings: VecDeque<Setting>,
    pub(super) hours: BTreeMap<i64, Hour>,
    settings_changed: bool,
}

#[derive(Default)]
pub(super) struct Book {
    pub(super) plans: HashMap<Id, PlanLog>,
    channels: [HashMap<u128, Id>; 2],
    cells: usize,
    changed: BTreeSet<(i64, Id)>,
    /// Keys of saved records that are no more.
    gone: Vec<Id>,
    newest: i64,
}

fn key(hour: i64, plan: &Id) -> Id {
    Id::from(&*format!("hour/{hour:010}/{plan}"))
}

fn settings_key(plan: &Id) -> Id {
    Id::from(&*format!("settings/{plan}"))
}

impl Book {
    pub(super) fn take(&mut self, catalog: &Catalog, at: i64, fact: Fact) {
        match fact {
            Fact::Chances { channel, plans } => {
                for &(plan, steps, reached) in &plans {
                    self.count(catalog, (at, plan, None), &channel, |counts| {
                        counts.chances += 1;
                        if reached {
                            counts.priced += 1;
                            counts.priced_sum = counts.priced_sum.saturating_add(steps.offered.0);
                        }
                        counts.own.get_or_insert_default().note(steps);
                    });
                }
            }
            Fact::Bid { channel, bid, plan, creative, amount } => {
                self.count(catalog, (at, plan, Some(creative)), &channel, |counts| {
                    counts.bids += 1;
                    counts.bid_sum = counts.bid_sum.saturating_add(amount.0);
                });
                self.remember(bid, channel);
            }
            Fact::Win { bid, plan, creative, price, amount } => {
                let channel = self.channel_of(Some(bid));
                self.count(catalog, (at, plan, creative), &channel, |counts| {
                    counts.wins += 1;
                    counts.winning_bid_sum = counts.winning_bid_sum.saturating_add(amount.0);
                    counts.winning_ln_sum += ln(amount);
                    counts.spend = counts.spend.saturating_add(price.0);
                    counts.spend_squares += square(price);
                });
            }
            Fact::Result { bid, plan, creative, outcome } => {
                let channel = self.channel_of(bid);
                self.count(catalog, (at, plan, creative), &channel, |counts| match outcome {
                    Outcome::Impression => counts.impressions += 1,
                    Outcome::Click => counts.clicks += 1,
                    Outcome::Conversion(value) => {
                        counts.conversions += 1;
                        counts.value = counts.value.saturating_add(value.0);
                        counts.value_squares += square(value);
                    }
                });
            }
        }
    }

    fn count(
        &mut self,
        catalog: &Catalog,
        (at, plan, creative): (i64, PlanSlot, Option<CreativeSlot>),
        channel: &Id,
        change: impl FnOnce(&mut Counts),
    ) {
        let Some(plan) = catalog.plan(plan).map(|entry| entry.record.id.clone()) else { return };
        let creative = creative.and_then(|slot| catalog.creative(slot)).map(|entry| entry.record.id.clone());
        let hour = at.div_euclid(3_600);
        self.newest = self.newest.max(hour);
        let log = self.plans.entry(plan.clone()).or_default();
        let (counts, new) = log.hours.entry(hour).or_default().cell(channel, creative.as_ref());
        change(counts);
        self.cells += usize::from(new);
        self.changed.insert((hour, plan));
    }

    fn remember(&mut self, bid: u128, channel: Id) {
        self.channels[0].insert(bid, channel);
        if self.channels[0].len() >= GENERATION {
            self.channels[1] = std::mem::take(&mut self.channels[0]);
        }
    }

    fn channel_of(&self, bid: Option<u128>) -> Id {
        let found = bid.and_then(|bid| self.channels.iter().find_map(|map| map.get(&bid)));
        found.cloned().unwrap_or_else(|| Id::from(OTHER))
    }

    pub(super) fn tick(&mut self, now: i64, plan: Id, setting: Setting, multiplier: f64) {
        let hour = now.div_euclid(3_600);
        let log = self.plans.entry(plan.clone()).or_default();
        if let Some(row) = log.hours.get_mut(&hour) {
            row.multiplier_sum += multiplier;
            row.ticks += 1;
            self.changed.insert((hour, plan));
        }
        let last = log.settings.back();
        let same = last.is_some_and(|last| Setting { at: setting.at, ..last.clone() } == setting);
        let flickers = last.is_some_and(|last| {
            let but_live = Setting { at: setting.at, live: setting.live, ..last.clone() } == setting;
            let budget_only = [last.live, setting.live].iter().all(|live| matches!(live, Live::On | Live::Exhausted));
            but_live && budget_only && setting.at - last.at < FLICKER_S
        });
        if !same && !flickers {
            log.settings.push_back(setting);
            log.settings_changed = true;
            if log.settings.len() > SETTINGS_MAX {
                log.settings.pop_front();
            }
        }
    }

    /// Lets go of what is too old or too much.
    pub(super) fn bound(&mut self) {
        let oldest = self.newest - HOURS_MAX;
        let mut limit = oldest;
        let all_hours = |plans: &HashMap<Id, PlanLog>| -> BTreeSet<i64> {
            plans.values().flat_map(|log| log.hours.keys().copied()).collect()
        };
        if self.cells > CELLS_MAX {
            // A twentieth of the hours at a time, so that this is rare.
            let hours = all_hours(&self.plans);
            limit = hours.iter().nth(hours.len() / 20 + 1).copied().unwrap_or(oldest).max(oldest);
        }
        for (plan, log) in &mut self.plans {
            while let Some(entry) = log.hours.first_entry()
                && *entry.key() < limit
            {
                let (hour, row) = entry.remove_entry();
                self.cells -= row.cells.len();
                self.changed.remove(&(hour, plan.clone()));
                self.gone.push(key(hour, plan));
            }
        }
        let gone = &mut self.gone;
        self.plans.retain(|plan, log| {
            let fresh = log.settings.back().is_some_and(|last| last.at.div_euclid(3_600) >= limit);
            let keep = fresh || !log.hours.is_empty();
            if !keep {
                gone.push(settings_key(plan));
            }
            keep
        });
    }

    pub(super) fn span(&self, plan: &Id) -> Option<(i64, i64)> {
        let log = self.plans.get(plan)?;
        let first = log.hours.first_key_value().map(|(hour, _)| hour * 3_600);
        let first = first.or_else(|| log.settings.front().map(|setting| setting.at))?;
        let last = log.hours.last_key_value().map_or(first, |(hour, _)| (hour + 1) * 3_600);
        Some((first, last))
    }

    pub(super) fn changes(&mut self) -> (Vec<CatalogRecord>, Vec<(CatalogKind, Id)>) {
        let kind = CatalogKind::Report;
        let mut records = Vec::new();
        while records.len() < WRITES_MAX
            && let Some((hour, plan)) = self.changed.pop_first()
        {
            let row = self.plans.get(&plan).and_then(|log| log.hours.get(&hour));
            if let Some(json) = row.and_then(|row| serde_json::to_vec(row).ok()) {
                records.push(CatalogRecord { kind, id: key(hour, &plan), json });
            }
        }
        for (plan, log) in self.plans.iter_mut().filter(|(_, log)| log.settings_changed) {
            log.settings_changed = false;
            if let Ok(json) = serde_json::to_vec(&log.settings) {
                records.push(CatalogRecord { kind, id: settings_key(plan), json });
            }
        }
        let gone = std::mem::take(&mut self.gone);
        (records, gone.into_iter().map(|key| (kind, key)).collect())
    }

    pub(super) fn restore(&mut self, key: &str, json: &[u8]) -> Result<(), serde_json::Error> {
        if let Some(plan) = key.strip_prefix("settings/") {
            self.plans.entry(Id::from(plan)).or_default().settings = serde_json::from_slice(json)?;
        } else if let Some((hour, plan)) = key.strip_prefix("hour/").and_then(|rest| rest.split_once('/'))
            && let Ok(hour) = hour.parse::<i64>()
        {
            let row: Hour = serde_json::from_slice(json)?;
            self.cells += row.cells.len();
            self.newest = self.newest.max(hour);
            self.plans.entry(Id::from(plan)).or_default().hours.insert(hour, row);
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "prices are far below 2^53")]
fn square(amount: Micros) -> f64 {
    (amount.0 as f64) * (amount.0 as f64)
}
