//! One day of the market while it runs.

use super::world::{self, PlanWorld, Stream};
use super::{Bidder, DAY_S, MarketOptions, PlanResult, START, Scaled, Scenario, TickResult, Told, micros, units};
use anyhow::Context;
use longbow::auction::pace::rl::Features;
use longbow::auction::pace::{Cell, ControlLoop, Controls, NO_FACTORS, Outcomes, PlanOutcome, PlanTotals};
use longbow::auction::price::{self, Market, PriceInput, Priced, Shade};
use longbow::auction::shade::{Shading, WinRates};
use longbow::auction::slot::{AuctionType, CHANNELS, Channel, Slot, Terms};
use longbow::catalog::{Catalog, CatalogHandle, Change};
use longbow::ids::Id;
use longbow::money::{Currency, FxTable, Micros};
use longbow::plans::{Arm, Goal, Item, Plan, PlanState, PolicyKind, Strategy};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What lasts from day to day.
pub(super) struct MarketRun<'a> {
    options: &'a MarketOptions,
    bidder: &'a Bidder,
    told: Told,
    catalog: CatalogHandle,
    control: ControlLoop,
    outcomes: Outcomes,
    rates: WinRates,
    fx: FxTable,
    terms: Terms,
    slot: Slot,
}

impl<'a> MarketRun<'a> {
    pub(super) fn new(options: &'a MarketOptions, bidder: &'a Bidder, told: Told) -> anyhow::Result<Self> {
        let catalog = CatalogHandle::new();
        let item = Item {
            id: Id::from("item"),
            title: String::new(),
            categories: Vec::new(),
            price_micros: Micros::ZERO,
            url: String::new(),
            image_url: String::new(),
            vector: Vec::new(),
        };
        catalog.apply(vec![Change::Item(item)])?;
        let mut control = ControlLoop::new();
        if let Bidder::Server(_, policy) = bidder {
            control.set_learned(policy.clone());
        }
        let first = options.scenario == Scenario::FirstPrice;
        let auction_type = if first { AuctionType::FirstPrice } else { AuctionType::SecondPrice };
        Ok(Self {
            options,
            bidder,
            told,
            catalog,
            control,
            outcomes: Outcomes::new(),
            rates: WinRates::default(),
            fx: FxTable::default(),
            terms: Terms { auction_type, ..Terms::default() },
            slot: Slot::default(),
        })
    }

    fn policy(&self) -> PolicyKind {
        match self.bidder {
            Bidder::Server(kind, _) => *kind,
            _ => PolicyKind::Fixed,
        }
    }
}

/// What a bidder outside the control loop brings to a day, for each plan.
pub(super) enum Given {
    Nothing,
    Multipliers(Vec<f64>),
    Tables(Vec<Scaled>),
}

#[derive(Clone, Debug)]
struct PlanDay {
    spent: Micros,
    value: f64,
    wins: u64,
    conversions: u64,
    /// Auctions so far.
    seen: usize,
    multiplier: f64,
    /// The channels' factors on it.
    factors: [f64; CHANNELS],
    /// Spent in the tick before, for dual descent.
    last_spend: f64,
    /// Forecast and actual spend of the ticks so far, micros.
    record: [f64; 2],
    step: Option<(Features, f64)>,
    path: Vec<TickResult>,
}

/// The day while it runs.
pub(super) struct Day<'m, 'a> {
    market: &'m mut MarketRun<'a>,
    catalog: Arc<Catalog>,
    plans: &'m [PlanWorld],
    streams: &'m [Stream],
    /// Slot of the first plan of the day.
    first: u32,
    starts_at: i64,
    given: Given,
    days: Vec<PlanDay>,
    /// Conversions to come: when, whose, of which win.
    late: BTreeMap<(i64, u32, u64), (Cell, Micros)>,
}

impl<'m, 'a> Day<'m, 'a> {
    /// Begins a day: its plans enter the catalogue.
    pub(super) fn new(
        market: &'m mut MarketRun<'a>,
        plans: &'m [PlanWorld],
        streams: &'m [Stream],
        day: u32,
        given: Given,
    ) -> anyhow::Result<Self> {
        let starts_at = START + DAY_S * i64::from(day);
        let policy = market.policy();
        let changes = plans.iter().zip(streams).enumerate().map(|(index, (plan, stream))| {
            Change::Plan(Plan {
                id: Id::from(format!("plan-{day}-{index}").as_str()),
                name: String::new(),
                advertiser: Id::from("advertiser"),
                domain: "shop.example".into(),
                seat: None,
                deals: Vec::new(),
                budget_micros: stream.budget,
                currency: Currency::USD,
                goal: Goal::Roi { target: plan.target },
                max_bid_micros: micros(100.0),
                starts_at,
                ends_at: starts_at + DAY_S,
                state: PlanState::Active,
                policy,
                strategy: Strategy::default(),
                items: vec![Id::from("item")],
            })
        });
        market.catalog.apply(changes.collect())?;
        let catalog = market.catalog.snapshot();
        let first = catalog.plan_slot(&Id::from(format!("plan-{day}-0").as_str())).context("the day has no plans")?;
        let fresh = PlanDay {
            spent: Micros::ZERO,
            value: 0.0,
            wins: 0,
            conversions: 0,
            seen: 0,
            multiplier: 1.0,
            factors: NO_FACTORS,
            last_spend: 0.0,
            record: [0.0; 2],
            step: None,
            path: Vec::new(),
        };
        let days = vec![fresh; plans.len()];
        Ok(Self { market, catalog, plans, streams, first, starts_at, given, days, late: BTreeMap::new() })
    }

    /// Runs the control tick and then the tick's auctions.
    pub(super) fn tick(&mut self, tick: u32) -> anyhow::Result<()> {
        let now = self.starts_at + DAY_S * i64::from(tick) / i64::from(self.market.options.ticks);
        self.deliver(now);
        let (days, first, outcomes) = (&self.days, self.first, &self.market.outcomes);
        #[expect(clippy::cast_precision_loss, reason = "Unix seconds")]
        let controls = self.market.control.tick(now as f64, &self.catalog, |slot, plan| {
            let spent = slot.checked_sub(first).map_or(Micros::ZERO, |index| days[index as usize].spent);
            PlanTotals { spent, free: Micros(plan.budget_micros.0 - spent.0), results: outcomes.cells(slot) }
        });
        let shading = self.market.rates.shading(usize::MAX);
        for index in 0..self.plans.len() {
            self.surprise(index, &controls);
            self.set_multiplier(index, tick, &controls);
            self.auctions(index, tick, now, &shading)?;
        }
        Ok(())
    }

    /// Notes how the tick before went against its forecast.
    fn surprise(&mut self, index: usize, controls: &Controls) {
        let day = &mut self.days[index];
        let Some(forecast) = controls.forecast(slot_of(self.first, index)) else { return };
        day.step = Some((forecast.state, forecast.adjusted));
        let record = forecast.record;
        let (promised, spent) = (record[0] - day.record[0], record[1] - day.record[1]);
        if let Some(last) = day.path.last_mut()
            && promised > 0.0
        {
            last.surprise = (spent.max(1.0) / promised.max(1.0)).ln();
        }
        day.record = record;
    }

    fn set_multiplier(&mut self, index: usize, tick: u32, controls: &Controls) {
        let ticks = self.market.options.ticks;
        let day = &mut self.days[index];
        day.multiplier = match (&self.given, self.market.bidder) {
            (Given::Multipliers(given), _) => given[index],
            (Given::Nothing, Bidder::Dual) => {
                let left = units(self.streams[index].budget) - units(day.spent);
                let wanted = (left + day.last_spend) / f64::from(ticks - tick + 1);
                let error = ((wanted - day.last_spend) / wanted.max(1e-9)).clamp(-1.0, 1.0);
                if tick == 0 { 1.0 } else { (day.multiplier * (0.1 * error).exp()).min(1.0) }
            }
            _ => {
                let control = controls.of(slot_of(self.first, index), Arm::First);
                day.factors = control.channels;
                control.multiplier
            }
        };
    }

    fn auctions(&mut self, index: usize, tick: u32, now: i64, shading: &Shading) -> anyhow::Result<()> {
        let (stream, plan) = (&self.streams[index], slot_of(self.first, index));
        let market = &mut *self.market;
        let Some(entry) = self.catalog.plan(plan) else { return Ok(()) };
        let exchange =
            Market::new(&market.terms, &market.slot, &market.fx).map_err(|no| anyhow::anyhow!("no market: {no}"))?;
        let first_price = market.options.scenario == Scenario::FirstPrice;
        let day = &mut self.days[index];
        let before = day.spent;
        for auction in &stream.ticks[tick as usize] {
            let channel = if market.told.channels { auction.channel } else { Channel::default() };
            let cell = Cell { channel, ..Cell::default() };
            if let Given::Tables(tables) = &self.given {
                let free = units(Micros(stream.budget.0 - day.spent.0));
                day.multiplier =
                    tables[index].multiplier(day.seen, free, auction.predicted(self.plans[index].target)).min(1.0);
            }
            day.seen += 1;
            let input = PriceInput {
                plan: &entry.record,
                p_click: auction.predicted_click,
                p_conversion: auction.p_conversion,
                order_value: auction.order_value,
                multiplier: day.multiplier * day.factors[cell.channel as usize],
                free: Micros(stream.budget.0 - day.spent.0),
                shading: if market.told.shaded { Shade::Learned(shading, index) } else { Shade::Share(1.0) },
            };
            let Ok(priced) = price::bid(&input, &exchange) else { continue };
            let won = priced.price >= auction.price;
            if first_price {
                market.rates.record(index, units(priced.price) * super::UNIT, won);
            }
            if !won {
                continue;
            }
            day.spent.0 += paid(&priced, auction).0;
            day.value += auction.value();
            day.wins += 1;
            market.outcomes.record(plan, cell, PlanOutcome::Impression(priced.value));
            market.outcomes.record(plan, cell, PlanOutcome::Paid(paid(&priced, auction)));
            if let Some(delay) = auction.conversion {
                day.conversions += 1;
                self.late.insert((now + i64::from(delay), plan, day.wins), (cell, auction.order_value));
            }
        }
        day.last_spend = units(Micros(day.spent.0 - before.0));
        day.path.push(TickResult { spent: units(day.spent), value: day.value, surprise: f64::NAN, step: day.step });
        Ok(())
    }

    /// Reports the conversions that happened before `until`.
    fn deliver(&mut self, until: i64) {
        let still_to_come = self.late.split_off(&(until, 0, 0));
        for ((_, plan, _), (cell, value)) in std::mem::replace(&mut self.late, still_to_come) {
            self.market.outcomes.record(plan, cell, PlanOutcome::Conversion(value));
        }
    }

    /// Ends the day: late conversions come in. `best` is each plan's best constant multiplier in hindsight and its value.
    pub(super) fn finish(mut self, best: &[(f64, f64)]) -> Vec<PlanResult> {
        self.deliver(i64::MAX);
        let days = std::mem::take(&mut self.days);
        let all = days.into_iter().enumerate().zip(self.plans.iter().zip(self.streams));
        all.map(|((index, day), (plan, stream))| {
            let (best, hindsight_value) = best.get(index).copied().unwrap_or_default();
            PlanResult {
                name: format!("plan-{index}"),
                budget: units(stream.budget),
                target: plan.target,
                spent: units(day.spent),
                order_value: units(self.market.outcomes.of(slot_of(self.first, index)).order_value),
                value: day.value,
                hindsight_value,
                hindsight_miss: match self.market.options.scenario {
                    Scenario::FirstPrice => f64::NAN, // counted by the others' bids, which are not what is paid there
                    _ => world::miss_chance(stream, plan.target, best, 0.05),
                },
                wins: day.wins,
                conversions: day.conversions,
                multiplier: day.multiplier,
                path: day.path,
            }
        })
        .collect()
    }
}

/// Second-price winners pay the others' highest bid, first-price winners their own.
fn paid(priced: &Priced, auction: &world::Auction) -> Micros {
    match priced.auction_type {
        AuctionType::FirstPrice => priced.price,
        _ => auction.price,
    }
}

fn slot_of(first: u32, index: usize) -> u32 {
    first + u32::try_from(index).unwrap_or(u32::MAX)
}
