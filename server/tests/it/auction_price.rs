//! Prices, and the auction inside one response.

use crate::catalog_kit::plan;
use longbow::auction::NoBidReason;
use longbow::auction::price::{Market, PriceInput, Priced, Shade, bid};
use longbow::auction::select::{Candidate, Selection};
use longbow::auction::slot::{AuctionType, DealOffer, DurationFloor, Slot, Terms, VideoSlot};
use longbow::money::{Currency, FxTable, Micros, Rounding};
use longbow::plans::{Goal, Plan};
use proptest::prelude::*;

fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap()
}

fn input(plan: &Plan) -> PriceInput<'_> {
    PriceInput {
        plan,
        p_click: 0.02,
        p_conversion: 0.05,
        order_value: Micros(20_000_000),
        multiplier: 1.0,
        free: Micros(1_000_000_000),
        shading: Shade::Share(1.0),
    }
}

fn priced(input: &PriceInput<'_>, terms: &Terms, slot: &Slot) -> Result<Priced, NoBidReason> {
    bid(input, &Market::new(terms, slot, &FxTable::default())?)
}

#[test]
fn each_goal_gives_its_value() {
    let mut record = plan("p", &["a"]);
    let at = |record: &Plan| priced(&input(record), &Terms::default(), &Slot::default()).unwrap();
    // 0.02 x 0.05 x 20.00 / 2.0 = 0.01 a piece.
    let roi = at(&record);
    assert!((9_999..=10_000).contains(&roi.price.0), "{roi:?}");
    assert_eq!((roi.hold, roi.value, roi.strength, roi.currency), (roi.price, roi.price, roi.price, Currency::USD));
    record.goal = Goal::Cpa { target_micros: Micros(4_000_000) };
    assert!((3_999..=4_000).contains(&at(&record).price.0));
    record.goal = Goal::Cpc { target_micros: Micros(500_000) };
    assert_eq!(at(&record).price, Micros(10_000));
    record.max_bid_micros = Micros(7_000);
    let capped = at(&record);
    assert_eq!((capped.price, capped.value), (Micros(7_000), Micros(10_000)));
}

#[test]
fn reasons_are_told_apart() {
    let record = plan("p", &["a"]);
    let terms = Terms::default();
    let floor = Slot { floor: Micros(9_000), ..Slot::default() };
    let told = |change: &dyn Fn(&mut PriceInput<'_>), slot: &Slot| {
        let mut input = input(&record);
        change(&mut input);
        priced(&input, &terms, slot).map(|p| p.price).err()
    };
    assert_eq!(told(&|_| {}, &floor), None);
    assert_eq!(told(&|i| i.multiplier = 0.5, &floor), Some(NoBidReason::BelowFloor));
    assert_eq!(told(&|i| i.free = Micros(8_000), &floor), Some(NoBidReason::BudgetExhausted));
    assert_eq!(told(&|i| i.free = Micros(-5), &floor), Some(NoBidReason::BudgetExhausted));
    assert_eq!(told(&|i| i.p_click = 0.0, &floor), Some(NoBidReason::PriceBelowMin));
    assert_eq!(told(&|i| i.p_click = f64::NAN, &floor), Some(NoBidReason::PredictionInvalid));
    assert_eq!(told(&|i| i.p_conversion = 1.5, &floor), Some(NoBidReason::PredictionInvalid));
    assert_eq!(told(&|i| i.multiplier = f64::NAN, &floor), Some(NoBidReason::PredictionInvalid));
    assert_eq!(told(&|i| i.order_value = Micros(-1), &floor), Some(NoBidReason::PredictionInvalid));
    let yen = Slot { floor_currency: Some(currency("JPY")), ..floor.clone() };
    assert_eq!(told(&|_| {}, &yen), Some(NoBidReason::CurrencyUnknown));
    let odd = Terms { currencies: vec![currency("XAU")], ..Terms::default() };
    assert_eq!(priced(&input(&record), &odd, &floor).err(), Some(NoBidReason::CurrencyUnknown));
    let either = Terms { currencies: vec![currency("XAU"), Currency::USD], ..Terms::default() };
    assert_eq!(priced(&input(&record), &either, &floor).unwrap().currency, Currency::USD);
    let mut euro = plan("q", &["a"]);
    euro.currency = currency("EUR");
    assert_eq!(priced(&input(&euro), &terms, &floor).err(), Some(NoBidReason::CurrencyUnknown));
}

#[test]
fn shading_is_for_first_price_and_never_goes_below_the_floor() {
    let mut record = plan("p", &["a"]);
    record.goal = Goal::Cpc { target_micros: Micros(500_000) };
    let at = |auction_type, floor: i64| {
        let terms = Terms { auction_type, ..Terms::default() };
        let slot = Slot { floor: Micros(floor), ..Slot::default() };
        priced(&PriceInput { shading: Shade::Share(0.6), ..input(&record) }, &terms, &slot).unwrap()
    };
    assert_eq!(at(AuctionType::SecondPrice, 0).price, Micros(10_000));
    let shaded = at(AuctionType::FirstPrice, 0);
    assert_eq!((shaded.price, shaded.strength, shaded.hold), (Micros(6_000), Micros(10_000), Micros(6_000)));
    assert_eq!(at(AuctionType::FirstPrice, 8_000).price, Micros(8_000));
}

fn deal(id: &str, floor: i64, auction_type: AuctionType) -> DealOffer {
    DealOffer {
        id: id.into(),
        floor: Micros(floor),
        floor_currency: Currency::USD,
        auction_type,
        seats: vec![],
        domains: vec![],
    }
}

#[test]
fn deals_come_first_and_fixed_prices_are_paid_exactly() {
    let mut record = plan("p", &["a"]);
    record.goal = Goal::Cpc { target_micros: Micros(500_000) };
    record.deals = vec!["a".into(), "b".into(), "c".into()];
    let at = |deals: Vec<DealOffer>, private_auction, floor: i64| {
        let slot = Slot { deals, private_auction, floor: Micros(floor), ..Slot::default() };
        priced(&input(&record), &Terms::default(), &slot)
    };
    use AuctionType::{FirstPrice, Fixed};
    let fixed =
        at(vec![deal("z", 1, Fixed), deal("a", 9_000, FirstPrice), deal("b", 4_000, Fixed)], false, 20_000).unwrap();
    assert_eq!(
        (fixed.deal, fixed.price, fixed.hold, fixed.strength),
        (Some(2), Micros(4_000), Micros(4_000), Micros(10_000))
    );
    let first = at(vec![deal("a", 9_000, FirstPrice)], true, 0).unwrap();
    assert_eq!((first.deal, first.price, first.auction_type), (Some(0), Micros(10_000), FirstPrice));
    let open = at(vec![deal("a", 11_000, Fixed)], false, 5_000).unwrap();
    assert_eq!((open.deal, open.price, open.auction_type), (None, Micros(10_000), AuctionType::SecondPrice));
    assert_eq!(at(vec![deal("a", 11_000, Fixed)], true, 0), Err(NoBidReason::BelowFloor));
    assert_eq!(at(vec![deal("z", 1, Fixed)], true, 0), Err(NoBidReason::DealRequired));
}

#[test]
fn a_floor_by_length_binds_the_open_auction_only() {
    let record = plan("p", &["a"]);
    let video = VideoSlot {
        floor_per_second: Micros(500),
        duration_floors: vec![DurationFloor { duration_min_s: 1, duration_max_s: 15, floor: Micros(9_000) }],
        ..VideoSlot::default()
    };
    let slot = Slot { video: Some(video), ..Slot::default() };
    let (terms, fx) = (Terms::default(), FxTable::default());
    let market = Market::new(&terms, &slot, &fx).unwrap();
    let price = bid(&input(&record), &market).unwrap();
    assert_eq!(market.check_floor(&price, None), Ok(()));
    assert_eq!(market.check_floor(&price, Some(10)), Ok(()));
    assert_eq!(market.check_floor(&price, Some(30)), Err(NoBidReason::BelowFloor));
    assert_eq!(market.check_floor(&Priced { deal: Some(0), ..price }, Some(30)), Ok(()));
}

proptest! {
    /// The promise of the price: within every cap, at or above the floor, and held in full whatever the rates.
    #[test]
    fn the_hold_covers_every_clearing_price(
        (p_click, p_conversion, multiplier) in (0.0..=1.0f64, 0.0..=1.0f64, 0.0..150.0f64),
        (order, free, max_bid) in (0i64..1_000_000_000, 0i64..1_000_000_000, 1i64..10_000_000),
        (plan_rate, cur_rate, floor_rate) in (1i64..3_000_000, 1i64..3_000_000, 1i64..3_000_000),
        (floor, shading, at, clearing) in (0i64..200_000, 0.01..=1.0f64, 0usize..3, 0.0..=1.0f64),
    ) {
        let (own, cur, floors) = (currency("AAA"), currency("BBB"), currency("CCC"));
        let fx = FxTable::new([(own, plan_rate), (cur, cur_rate), (floors, floor_rate)]);
        let mut record = plan("p", &["a"]);
        record.currency = own;
        record.max_bid_micros = Micros(max_bid);
        record.deals = vec!["d".into()];
        let auction_type = [AuctionType::FirstPrice, AuctionType::SecondPrice, AuctionType::Fixed][at];
        let terms = Terms { currencies: vec![cur], auction_type: AuctionType::FirstPrice, ..Terms::default() };
        let offer = DealOffer { floor_currency: floors, ..deal("d", floor, auction_type) };
        let slot = Slot { deals: vec![offer], private_auction: true, ..Slot::default() };
        let market = Market::new(&terms, &slot, &fx).unwrap();
        let input = PriceInput {
            plan: &record, p_click, p_conversion, order_value: Micros(order), multiplier, free: Micros(free), shading: Shade::Share(shading),
        };
        if let Ok(priced) = bid(&input, &market) {
            prop_assert!(priced.price.0 >= 1 && priced.price <= priced.strength);
            prop_assert!(priced.hold.0 <= free.min(max_bid));
            let needed = fx.convert(Micros(floor), floors, cur, Rounding::Up).unwrap();
            prop_assert!(priced.price >= needed);
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share of the price")]
            let paid = Micros((priced.price.0 as f64 * clearing) as i64);
            for paid in [paid, priced.price] {
                prop_assert!(fx.convert(paid, cur, own, Rounding::Up).unwrap() <= priced.hold);
            }
        }
    }
}

fn candidate(slot: usize, plan: u32, item: u32, strength: i64) -> Candidate {
    let price = Micros(strength);
    let priced = Priced {
        price,
        currency: Currency::USD,
        hold: price,
        strength: price,
        value: price,
        wanted: price,
        affordable: price,
        floor: Micros(0),
        deal: None,
        auction_type: AuctionType::FirstPrice,
    };
    Candidate { slot, plan, item, priced }
}

fn winners(mut candidates: Vec<Candidate>, seed: u64) -> Vec<(usize, u32, u32)> {
    let mut selection = Selection::new(&mut candidates, seed);
    let mut won = Vec::new();
    while let Some(best) = selection.strongest() {
        selection.accept(&best);
        won.push((best.slot, best.plan, best.item));
    }
    won
}

#[test]
fn a_response_shows_a_plan_and_an_item_once() {
    let all = vec![
        candidate(0, 1, 10, 100),
        candidate(1, 1, 11, 90),
        candidate(1, 2, 10, 80),
        candidate(1, 3, 12, 70),
        candidate(2, 3, 12, 60),
    ];
    assert_eq!(winners(all.clone(), 5), [(0, 1, 10), (1, 3, 12)]);

    let mut list = all;
    let mut selection = Selection::new(&mut list, 5);
    let first = selection.strongest().unwrap();
    selection.refuse(&first);
    assert_eq!(selection.strongest().unwrap().item, 11);
    selection.refuse_plan(1);
    assert_eq!(selection.strongest().unwrap().plan, 2);
}

#[test]
fn ties_fall_by_the_seed_and_not_by_the_order() {
    let tied: Vec<Candidate> = (0..8).map(|plan| candidate(0, plan, plan, 100)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let forward = winners(tied.clone(), seed);
        let backward = winners(tied.iter().rev().copied().collect(), seed);
        assert_eq!(forward, backward);
        seen.insert(forward[0].1);
    }
    assert_eq!(seen.len(), 8, "every plan gets its turn");
}
