//! What one impression is worth to a plan, and what the plan bids for it.
//!
//! Probabilities and multipliers are floats; the value becomes money once, rounded down, and every later step is exact
//! integer arithmetic: caps, currency, floors.
//!
//! **The hold covers the charge.** A price of `r` micros in the response currency is made from a bid of `b` micros in the
//! plan's currency by rounding down, so `r` converted back and rounded **up** is at most `b`. [`Priced::hold`] is that
//! amount: any clearing price up to `r`, converted at the same rates and rounded up, is covered by it, and it is never
//! above the plan's free budget. Settle at the rates of the bid.

use super::NoBidReason;
use super::shade::Shading;
use super::slot::{AuctionType, DealOffer, Slot, Terms};
use crate::catalog::deal_admits;
use crate::money::{Currency, FxTable, Micros, Rounding};
use crate::plans::{Goal, Plan};

/// The slot's side of a price: made once for each slot of a request.
#[derive(Clone, Copy, Debug)]
pub struct Market<'a> {
    slot: &'a Slot,
    fx: &'a FxTable,
    auction_type: AuctionType,
    currency: Currency,
    floor_currency: Currency,
    floor: Micros,
}

impl<'a> Market<'a> {
    /// Picks the response currency (the first of the request's that has a known rate; USD if it names none) and converts
    /// the floor into it, rounded up.
    ///
    /// # Errors
    /// [`NoBidReason::CurrencyUnknown`] when no rate is known for any allowed currency, or for the floor's.
    pub fn new(terms: &Terms, slot: &'a Slot, fx: &'a FxTable) -> Result<Self, NoBidReason> {
        let currency = if terms.currencies.is_empty() {
            Currency::USD
        } else {
            let known = terms.currencies.iter().copied().find(|&currency| fx.knows(currency));
            known.ok_or(NoBidReason::CurrencyUnknown)?
        };
        let floor_currency = slot.floor_currency.unwrap_or(Currency::USD);
        let floor =
            fx.convert(slot.floor, floor_currency, currency, Rounding::Up).ok_or(NoBidReason::CurrencyUnknown)?;
        Ok(Self { slot, fx, auction_type: terms.auction_type, currency, floor_currency, floor })
    }

    /// Checks a decided bid's price once its creative is chosen: the floor of an open bid may depend on the length of a
    /// video ([`crate::render::FormUsed::video_duration_s`]), which [`bid`], made before the choice, does not know.
    ///
    /// # Errors
    /// [`NoBidReason::BelowFloor`], or `CurrencyUnknown` if the floor cannot be converted.
    pub fn check_floor(&self, priced: &Priced, video_duration_s: Option<u32>) -> Result<(), NoBidReason> {
        if priced.deal.is_some() || video_duration_s.is_none() {
            return Ok(());
        }
        let floor = self.slot.open_floor(video_duration_s);
        let floor = self.fx.convert(floor, self.floor_currency, self.currency, Rounding::Up);
        if priced.price >= floor.ok_or(NoBidReason::CurrencyUnknown)? { Ok(()) } else { Err(NoBidReason::BelowFloor) }
    }

    /// An amount of `own`, none of it below 0, in the response currency, rounded down.
    fn in_response(&self, amount: Micros, own: Currency) -> Result<Micros, NoBidReason> {
        let converted = self.fx.convert(amount.max(Micros::ZERO), own, self.currency, Rounding::Down);
        converted.ok_or(NoBidReason::CurrencyUnknown)
    }

    /// Currency of the response (`cur`).
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.currency
    }
}

/// The plan's side of a price.
#[derive(Clone, Copy, Debug)]
pub struct PriceInput<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Probability of a click on the impression.
    pub p_click: f64,
    /// Probability of a conversion given a click.
    pub p_conversion: f64,
    /// What one conversion brings, micros of the plan's currency. Read for a return goal only.
    pub order_value: Micros,
    /// The control loop's multiplier for the plan.
    pub multiplier: f64,
    /// Free budget of the plan, micros of its currency.
    pub free: Micros,
    /// How much of the bid is offered in a first-price auction. Second-price bids are truthful and ignore it.
    pub shading: Shade<'a>,
}

/// Share of a first-price bid that is offered.
#[derive(Clone, Copy, Debug)]
pub enum Shade<'a> {
    /// This share, in (0, 1]: 1 pays what the impression is worth to the plan.
    Share(f64),
    /// `argmax (v - b) F(b)` under the win-rate model of the slot's group.
    Learned(&'a Shading, usize),
}

impl Shade<'_> {
    fn share(&self, strength: Micros) -> f64 {
        match self {
            Self::Share(share) => *share,
            Self::Learned(table, group) => table.share(*group, float(strength)),
        }
    }
}

/// A price for one impression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Priced {
    /// Offered, micros of `currency` for one impression (`bid.price` is this as CPM).
    pub price: Micros,
    /// Response currency.
    pub currency: Currency,
    /// To hold in the ledger, micros of the plan's currency: covers every clearing price up to `price`.
    pub hold: Micros,
    /// The most the plan would give, micros of `currency`; candidates of one slot compare by it. At least `price`.
    pub strength: Micros,
    /// Predicted value to the plan before the multiplier, micros of the plan's currency.
    pub value: Micros,
    /// That times the multiplier, micros of the plan's currency.
    pub wanted: Micros,
    /// Of which the plan's highest bid and free budget allow, micros of its currency.
    pub affordable: Micros,
    /// Floor that had to be reached, micros of `currency`.
    pub floor: Micros,
    /// Deal bought through: position in [`Slot::deals`].
    pub deal: Option<usize>,
    /// How the winner pays.
    pub auction_type: AuctionType,
}

impl Priced {
    /// How the bid came about.
    #[must_use]
    pub fn steps(&self) -> Steps {
        Steps { value: self.value, wanted: self.wanted, affordable: self.affordable, offered: self.hold }
    }
}

/// How a bid came about: amounts in micros of the plan's currency, each made from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Predicted value to the plan.
    pub value: Micros,
    /// After the controller's multiplier.
    pub wanted: Micros,
    /// After the plan's highest bid and its free budget.
    pub affordable: Micros,
    /// After first-price shading and floors: the bid.
    pub offered: Micros,
}

/// Largest amount that a prediction may become; far above any plan's `max_bid_micros` worth setting.
const VALUE_MAX: f64 = 9.0e15;

/// Money from a computed amount, rounded down; `None` for anything that is no amount.
fn micros_floor(amount: f64) -> Option<Micros> {
    if !(0.0..=f64::INFINITY).contains(&amount) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "from 0 to VALUE_MAX, below 2^53: cutting off is rounding down"
    )]
    Some(Micros(amount.min(VALUE_MAX) as i64))
}

#[expect(clippy::cast_precision_loss, reason = "money below 2^53 micros is exact; above, the value is capped anyway")]
fn float(amount: Micros) -> f64 {
    amount.0 as f64
}

/// Predicted value of one impression to the plan, micros of its currency: what it may cost on average while the goal is
/// met exactly.
fn value(input: &PriceInput<'_>) -> Result<f64, NoBidReason> {
    let probability = |p: f64| if (0.0..=1.0).contains(&p) { Ok(p) } else { Err(NoBidReason::PredictionInvalid) };
    let click = probability(input.p_click)?;
    Ok(match input.plan.goal {
        Goal::Roi { target } => {
            click * probability(input.p_conversion)? * float(input.plan.strategy.net(input.order_value, 1)) / target
        }
        Goal::Cpa { target_micros } => click * probability(input.p_conversion)? * float(target_micros),
        Goal::Cpc { target_micros } => click * float(target_micros),
    })
}

/// What a plan gives for an impression, before any floor. Micros of its currency but for `strength`.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// Predicted value.
    value: Micros,
    /// That times the multiplier.
    wanted: Micros,
    /// What `max_bid_micros` leaves of it.
    capped: Micros,
    /// What the free budget leaves of that.
    affordable: Micros,
    /// The same in the response currency, none of it below 0.
    strength: Micros,
}

impl Worth {
    /// Pure; allocates nothing.
    ///
    /// # Errors
    /// [`NoBidReason::PredictionInvalid`] or `CurrencyUnknown`.
    pub fn of(input: &PriceInput<'_>, market: &Market<'_>) -> Result<Self, NoBidReason> {
        let value = value(input)?;
        let money = |amount: f64| micros_floor(amount).ok_or(NoBidReason::PredictionInvalid);
        let wanted = money(value * input.multiplier)?;
        let capped = wanted.min(input.plan.max_bid_micros);
        let affordable = capped.min(input.free);
        let strength = market.in_response(affordable, input.plan.currency)?;
        Ok(Self { value: money(value)?, wanted, capped, affordable, strength })
    }

    /// The price. `input` and `market` are those it was made from.
    ///
    /// # Errors
    /// As [`bid`], but for what [`Self::of`] has ruled out.
    pub fn bid(&self, input: &PriceInput<'_>, market: &Market<'_>) -> Result<Priced, NoBidReason> {
        let &Self { value, wanted, capped, affordable, strength } = self;
        let own = input.plan.currency;
        let route = match route(input.plan, market, strength) {
            Ok(route) => route,
            // Told apart for the advertiser: raise the budget, or raise the bid.
            Err(_)
                if affordable < capped && self::route(input.plan, market, market.in_response(capped, own)?).is_ok() =>
            {
                return Err(NoBidReason::BudgetExhausted);
            }
            Err(reason) => return Err(reason),
        };
        let price = match route.auction_type {
            AuctionType::Fixed => route.floor.max(Micros(1)),
            AuctionType::SecondPrice => strength,
            AuctionType::FirstPrice => shaded(strength, input.shading.share(strength)).max(route.floor).max(Micros(1)),
        };
        let hold = market.fx.convert(price, market.currency, own, Rounding::Up).ok_or(NoBidReason::CurrencyUnknown)?;
        debug_assert!(price <= strength && hold <= affordable, "the hold never exceeds the bid");
        Ok(Priced {
            price,
            currency: market.currency,
            hold,
            strength,
            value,
            wanted,
            affordable,
            floor: route.floor,
            deal: route.deal,
            auction_type: route.auction_type,
        })
    }

    /// What would be offered if there were no floor: for reports on impressions whose floor is out of reach. `None` where the
    /// offer has no amount in the plan's currency.
    #[must_use]
    pub fn without_floor(&self, input: &PriceInput<'_>, market: &Market<'_>) -> Option<Steps> {
        let affordable = self.affordable.max(Micros::ZERO);
        let mut offered = affordable;
        if market.auction_type == AuctionType::FirstPrice {
            let price = shaded(self.strength, input.shading.share(self.strength));
            offered = market.fx.convert(price, market.currency, input.plan.currency, Rounding::Up)?.min(affordable);
        }
        Some(Steps { value: self.value, wanted: self.wanted, affordable, offered })
    }
}

/// Prices one impression for one plan. Pure; allocates nothing.
///
/// The bid is `value * multiplier`, at most `max_bid_micros` and the free budget. An offered deal of the plan that the bid
/// can afford is preferred over the open auction (the cheapest such deal, then the first): exchanges rank deals first.
///
/// # Errors
/// [`NoBidReason::PredictionInvalid`], `CurrencyUnknown`, `PriceBelowMin` (the price rounds to zero), `BudgetExhausted`
/// (only the free budget is in the way), `DealRequired` or `BelowFloor`.
pub fn bid(input: &PriceInput<'_>, market: &Market<'_>) -> Result<Priced, NoBidReason> {
    Worth::of(input, market)?.bid(input, market)
}

fn shaded(strength: Micros, shading: f64) -> Micros {
    if shading > 0.0 && shading < 1.0 {
        micros_floor(float(strength) * shading).unwrap_or(strength).min(strength)
    } else {
        strength
    }
}

/// The way a bid of `strength` goes.
struct Route {
    deal: Option<usize>,
    floor: Micros,
    auction_type: AuctionType,
}

fn route(plan: &Plan, market: &Market<'_>, strength: Micros) -> Result<Route, NoBidReason> {
    if strength.0 < 1 {
        return Err(NoBidReason::PriceBelowMin);
    }
    let mut best: Option<Route> = None;
    let mut own_deal = false;
    for (position, deal) in market.slot.deals.iter().enumerate() {
        if !deal_admits(deal, plan) {
            continue;
        }
        own_deal = true;
        // A deal whose floor is in an unknown currency cannot be priced; others and the open auction still can.
        let Some(floor) = deal_floor(deal, market) else { continue };
        if strength >= floor && best.as_ref().is_none_or(|best| floor < best.floor) {
            best = Some(Route { deal: Some(position), floor, auction_type: deal.auction_type });
        }
    }
    if let Some(route) = best {
        return Ok(route);
    }
    if market.slot.private_auction {
        return Err(if own_deal { NoBidReason::BelowFloor } else { NoBidReason::DealRequired });
    }
    if strength < market.floor {
        return Err(NoBidReason::BelowFloor);
    }
    Ok(Route { deal: None, floor: market.floor, auction_type: market.auction_type })
}

fn deal_floor(deal: &DealOffer, market: &Market<'_>) -> Option<Micros> {
    market.fx.convert(deal.floor, deal.floor_currency, market.currency, Rounding::Up)
}
