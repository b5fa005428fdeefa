//! Eligibility against the plain rules: every index and cache must say what the records say.

use crate::catalog_kit::{
    banner, banner_slot, handle, id, item, plan, random_creative, random_item, random_plan, random_slot, random_terms,
};
use longbow::auction::NoBidReason;
use longbow::auction::slot::{AuctionType, BannerSlot, DealOffer, Slot, Terms};
use longbow::catalog::{Bitmap, Catalog, CatalogHandle, Change, Decided, EligibilityCache, PlanSet};
use longbow::money::{Currency, Micros};
use longbow::plans::{Format, PlanState};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;

const NOW: i64 = 1_000;

/// A catalogue after a random walk of changes; refused ones (missing references) change nothing.
fn random_catalog(rng: &mut StdRng) -> CatalogHandle {
    let handle = handle();
    let (items, plans, creatives) = (24, 10, 30);
    for n in 0..items {
        handle.apply(vec![random_item(rng, n)]).unwrap();
    }
    for _ in 0..160 {
        let (item, plan, creative) =
            (rng.random_range(0..items), rng.random_range(0..plans), rng.random_range(0..creatives));
        let change = match rng.random_range(0..10) {
            0 => random_item(rng, item),
            1..4 => random_plan(rng, plan, items),
            4..8 => random_creative(rng, creative, (plans, items)),
            8 => Change::DeleteCreative(id(format!("c{creative}"))),
            _ if rng.random_bool(0.3) => Change::DeletePlan(id(format!("p{plan}"))),
            _ => Change::DeleteItem(id(format!("i{item}"))),
        };
        let _refused_where_a_reference_is_missing = handle.apply(vec![change]);
    }
    handle
}

/// Every (plan, item, creative) that the final check lets through; a deal is named where one admits the plan.
fn allowed(catalog: &Catalog, terms: &Terms, slot: &Slot, live: &PlanSet) -> BTreeSet<(u32, u32, Option<u32>)> {
    let deals: Vec<Option<usize>> = [None].into_iter().chain((0..slot.deals.len()).map(Some)).collect();
    let mut all = BTreeSet::new();
    for (plan, entry) in catalog.plans().filter(|(plan, _)| live.plans.get(*plan)) {
        let creatives: Vec<Option<u32>> = if slot.imp_id.is_empty() {
            vec![None]
        } else {
            catalog.creatives().filter(|(_, c)| c.plan == plan).map(|(slot, _)| Some(slot)).collect()
        };
        for &item in &*entry.items {
            for &creative in &creatives {
                let passes = |&deal: &Option<usize>| {
                    catalog.final_check(terms, slot, Decided { plan, item, creative, deal }, NOW).is_ok()
                };
                if deals.iter().any(passes) {
                    all.insert((plan, item, creative));
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn indexes_say_what_the_records_say(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let handle = random_catalog(&mut rng);
        let catalog = handle.snapshot();
        let cache = EligibilityCache::new(8);
        let plans: Bitmap = (0..catalog.plan_slots()).filter(|_| rng.random_bool(0.85)).collect();
        let live = PlanSet { version: 1, plans, spent: Bitmap::new(), known: catalog.plan_slots() };
        for _ in 0..12 {
            let (terms, slot) = (random_terms(&mut rng), random_slot(&mut rng));
            let expected = allowed(&catalog, &terms, &slot, &live);
            let answer = cache.get(&catalog, &live, &terms, &slot);
            let mut found = BTreeSet::new();
            for item in answer.items.iter() {
                for plan in answer.plans_of(&catalog, item) {
                    if slot.imp_id.is_empty() {
                        found.insert((plan, item, None));
                    }
                    found.extend(answer.creatives(&catalog, plan, item).filter(|_| !slot.imp_id.is_empty()).map(|c| (plan, item, Some(c))));
                }
            }
            prop_assert_eq!(&found, &expected, "{:?} {:?}", terms, slot);
            let items: Bitmap = expected.iter().map(|&(_, item, _)| item).collect();
            prop_assert_eq!(&*answer.items, &items, "no item is retrieved in vain");
            for filtered in catalog.explain(&terms, &slot, &live, NOW) {
                let may = expected.iter().any(|&(plan, ..)| plan == filtered.plan);
                prop_assert_eq!(filtered.reason.is_none(), may, "{:?}", filtered);
            }
        }
    }
}

fn one_plan(change: impl FnOnce(&mut longbow::plans::Plan)) -> CatalogHandle {
    let handle = handle();
    let mut record = plan("p", &["a"]);
    change(&mut record);
    handle
        .apply(vec![
            Change::Item(item("a", &["IAB1-2"])),
            Change::Plan(record),
            Change::Creative(banner("c", "p", None)),
        ])
        .unwrap();
    handle
}

fn reason(handle: &CatalogHandle, terms: &Terms, slot: &Slot) -> Option<NoBidReason> {
    let live = PlanSet { version: 1, plans: Bitmap::full(1), spent: Bitmap::new(), known: 1 };
    let told = handle.snapshot().explain(terms, slot, &live, NOW);
    assert_eq!(told.len(), 1);
    assert_eq!(handle.snapshot().eligible(terms, slot, &live).item_count, usize::from(told[0].reason.is_none()));
    told[0].reason
}

#[test]
fn each_rule_has_its_reason() {
    let usual = one_plan(|_| {});
    let (terms, slot) = (Terms::default(), banner_slot());
    let list = |text: &str| vec![text.to_owned()];
    assert_eq!(reason(&usual, &terms, &slot), None);
    for (blocked, hit) in [("IAB1", true), ("iab1-2", true), ("IAB1-2-3", false), ("IAB", false), ("IAB12", false)] {
        let terms = Terms { blocked_categories: list(blocked), ..Terms::default() };
        assert_eq!(reason(&usual, &terms, &slot), hit.then_some(NoBidReason::CategoryBlocked), "{blocked}");
        let terms = Terms { allowed_categories: list(blocked), ..Terms::default() };
        assert_eq!(reason(&usual, &terms, &slot), (!hit).then_some(NoBidReason::CategoryNotAllowed), "{blocked}");
    }
    for (blocked, hit) in [("example", true), ("SHOP.example", true), ("www.shop.example", true), ("op.example", false)]
    {
        let terms = Terms { blocked_domains: list(blocked), ..Terms::default() };
        assert_eq!(reason(&usual, &terms, &slot), hit.then_some(NoBidReason::DomainBlocked), "{blocked}");
    }
    let seats = Terms { seats_allowed: list("s"), ..Terms::default() };
    assert_eq!(reason(&usual, &seats, &slot), Some(NoBidReason::SeatNotAllowed));
    let seated = one_plan(|plan| plan.seat = Some("s".into()));
    assert_eq!(reason(&seated, &seats, &slot), None);
    let seats = Terms { seats_blocked: list("s"), ..Terms::default() };
    assert_eq!(reason(&seated, &seats, &slot), Some(NoBidReason::SeatBlocked));

    let sized = Slot { banner: Some(BannerSlot { sizes: vec![(728, 90)], ..BannerSlot::default() }), ..banner_slot() };
    assert_eq!(reason(&usual, &terms, &sized), Some(NoBidReason::NoCreativeFits));
    let nothing = Slot { banner: None, ..banner_slot() };
    assert_eq!(reason(&usual, &terms, &nothing), Some(NoBidReason::NoCreativeFits), "an exchange's slot is no feed");
    assert_eq!(reason(&usual, &terms, &Slot::default()), None, "a feed needs no creative");

    assert_eq!(reason(&one_plan(|plan| plan.state = PlanState::Paused), &terms, &slot), Some(NoBidReason::Paused));
}

#[test]
fn schedule_budget_and_new_plans_have_their_reasons() {
    let (terms, slot) = (Terms::default(), banner_slot());
    let told = |handle: &CatalogHandle, live: &PlanSet| handle.snapshot().explain(&terms, &slot, live, NOW)[0].reason;
    let live = PlanSet { version: 1, plans: Bitmap::full(1), spent: Bitmap::new(), known: 1 };
    let broke = PlanSet { version: 1, plans: Bitmap::new(), spent: Bitmap::new(), known: 1 };
    let before_it = PlanSet { version: 1, plans: Bitmap::new(), spent: Bitmap::new(), known: 0 };
    let usual = one_plan(|_| {});
    assert_eq!(told(&usual, &broke), Some(NoBidReason::BudgetExhausted));
    assert_eq!(told(&usual, &before_it), Some(NoBidReason::AwaitingControl));
    assert_eq!(told(&one_plan(|plan| plan.starts_at = NOW + 1), &live), Some(NoBidReason::OutOfSchedule));
    assert_eq!(told(&one_plan(|plan| plan.ends_at = NOW), &live), Some(NoBidReason::OutOfSchedule));
    assert_eq!(told(&one_plan(|plan| (plan.starts_at, plan.ends_at) = (NOW, NOW + 1)), &live), None);
}

#[test]
fn creatives_are_told_why_they_do_not_fit() {
    let handle = one_plan(|_| {});
    let mut other = banner("c", "p", None);
    other.attributes = vec![9];
    other.language = Some("de".into());
    other.format = Format::Banner { w: 300, h: 250, image_url: "http://img.example/b.png".into() };
    handle.apply(vec![Change::Creative(other)]).unwrap();
    let slot = banner_slot();
    assert_eq!(reason(&handle, &Terms::default(), &slot), None);
    let terms = Terms { languages: vec!["en".into()], ..Terms::default() };
    assert_eq!(reason(&handle, &terms, &slot), Some(NoBidReason::LanguageNotAllowed));
    let secure = Slot { secure: true, ..slot.clone() };
    assert_eq!(reason(&handle, &Terms::default(), &secure), Some(NoBidReason::NotSecure));
    let blocking = Slot { banner: Some(BannerSlot { blocked_attributes: vec![9], ..BannerSlot::default() }), ..slot };
    assert_eq!(reason(&handle, &Terms::default(), &blocking), Some(NoBidReason::AttributeBlocked));
}

#[test]
fn a_private_auction_needs_a_deal_of_the_plans() {
    let handle = one_plan(|plan| {
        plan.deals = vec!["d".into()];
        plan.seat = Some("s".into());
    });
    let deal = |change: &dyn Fn(&mut DealOffer)| {
        let mut deal = DealOffer {
            id: "d".into(),
            floor: Micros(1),
            floor_currency: Currency::USD,
            auction_type: AuctionType::Fixed,
            seats: vec![],
            domains: vec![],
        };
        change(&mut deal);
        Slot { private_auction: true, deals: vec![deal], ..banner_slot() }
    };
    let told = |slot: Slot| reason(&handle, &Terms::default(), &slot);
    assert_eq!(told(deal(&|_| {})), None);
    assert_eq!(told(deal(&|d| d.seats = vec!["s".into()])), None);
    assert_eq!(told(deal(&|d| d.domains = vec!["example".into()])), None);
    assert_eq!(told(deal(&|d| d.id = "e".into())), Some(NoBidReason::DealRequired));
    assert_eq!(told(deal(&|d| d.seats = vec!["t".into()])), Some(NoBidReason::DealRequired));
    assert_eq!(told(deal(&|d| d.domains = vec!["other.example".into()])), Some(NoBidReason::DealRequired));
    assert_eq!(told(Slot { private_auction: false, ..deal(&|d| d.id = "e".into()) }), None);
    let bid = Decided { plan: 0, item: 1, creative: Some(0), deal: None };
    let check = |bid| handle.snapshot().final_check(&Terms::default(), &deal(&|_| {}), bid, NOW);
    assert_eq!(check(bid), Err(NoBidReason::DealRequired));
    assert_eq!(check(Decided { deal: Some(0), ..bid }), Ok(()));
    assert_eq!(check(Decided { deal: Some(1), ..bid }), Err(NoBidReason::DealRequired));
}
