//! Costs of the auction's rooms at the size of the demo world: 100,000 items, 2,000 plans, 10,000 creatives.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use criterion::{Criterion, criterion_group, criterion_main};
use longbow::auction::choose::{Ask, Chooser, Context, Outcome, Sight};
use longbow::auction::pace::{ControlLoop, PlanResults, PlanTotals};
use longbow::auction::price::{Market, PriceInput, Shade, bid};
use longbow::auction::select::{Candidate, Selection};
use longbow::auction::shade::WinRates;
use longbow::auction::slot::{AuctionType, BannerSlot, Slot, Terms};
use longbow::catalog::{Bitmap, Catalog, CatalogHandle, Change, EligibilityCache, PlanSet};
use longbow::ids::Id;
use longbow::money::{Currency, FxTable, Micros};
use longbow::plans::{Creative, Element, Format, Goal, Item, Part, Plan, PlanState, PolicyKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

const SIZES: [(u32, u32); 8] =
    [(300, 250), (728, 90), (320, 50), (160, 600), (300, 600), (970, 250), (336, 280), (320, 100)];

fn name(kind: &str, n: usize) -> Id {
    Id::from(format!("{kind}{n}").as_str())
}

fn changes(items: usize, plans: usize, creatives: usize) -> Vec<Change> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut all = Vec::new();
    for n in 0..items {
        all.push(Change::Item(Item {
            id: name("i", n),
            title: String::new(),
            categories: vec![format!("IAB{}-{}", rng.random_range(1..26), rng.random_range(1..20))],
            price_micros: Micros(20_000_000),
            url: "https://shop.example/".into(),
            image_url: String::new(),
            vector: vec![],
        }));
    }
    for n in 0..plans {
        all.push(Change::Plan(Plan {
            id: name("p", n),
            name: String::new(),
            advertiser: Id::from("a"),
            domain: format!("shop{n}.example"),
            seat: Some(format!("s{}", n % 100)),
            deals: vec![],
            budget_micros: Micros(1_000_000_000),
            currency: Currency::USD,
            goal: Goal::Roi { target: 2.0 },
            max_bid_micros: Micros(1_000_000),
            starts_at: 0,
            ends_at: 2_000_000_000,
            state: PlanState::Active,
            policy: PolicyKind::Pid,
            strategy: longbow::plans::Strategy::default(),
            items: (0..items / plans.max(1)).map(|k| name("i", (n * 50 + k * 7) % items)).collect(),
        }));
    }
    for n in 0..creatives {
        let (w, h) = SIZES[rng.random_range(0..SIZES.len())];
        all.push(Change::Creative(Creative {
            id: name("c", n),
            plan: name("p", n % plans),
            item: None,
            attributes: if rng.random_bool(0.2) { vec![rng.random_range(1..17)] } else { vec![] },
            language: None,
            elements: Default::default(),
            format: Format::Banner { w, h, image_url: "https://i.example/x.jpg".into() },
        }));
    }
    all
}

fn built(items: usize, plans: usize, creatives: usize) -> CatalogHandle {
    let handle = CatalogHandle::new();
    handle.apply(changes(items, plans, creatives)).unwrap();
    handle
}

fn request() -> (Terms, Slot) {
    let terms = Terms {
        blocked_categories: (1..12).map(|n| format!("IAB{}-3", n * 2)).collect(),
        blocked_domains: (0..50).map(|n| format!("shop{}.example", n * 31)).collect(),
        ..Terms::default()
    };
    let banner =
        BannerSlot { sizes: vec![(300, 250), (336, 280)], blocked_attributes: vec![1, 3], ..BannerSlot::default() };
    (terms, Slot { imp_id: "1".into(), secure: true, banner: Some(banner), ..Slot::default() })
}

fn catalogue(c: &mut Criterion) {
    let mut group = c.benchmark_group("catalog");
    group.sample_size(10);
    let all = changes(100_000, 2_000, 10_000);
    group.bench_function("build 100k items, 2k plans, 10k creatives", |b| {
        b.iter_batched(
            || all.clone(),
            |all| {
                let handle = CatalogHandle::new();
                handle.apply(all).unwrap();
                handle
            },
            criterion::BatchSize::PerIteration,
        );
    });
    let handle = built(100_000, 2_000, 10_000);
    for (what, of) in [("item", 500), ("plan", 100_500), ("creative", 102_500)] {
        let change = all[of].clone();
        group.bench_function(format!("change one {what}"), |b| b.iter(|| handle.apply(vec![change.clone()]).unwrap()));
    }
    group.finish();
    let catalog = handle.snapshot();
    let live = PlanSet { version: 1, plans: Bitmap::full(2_000), spent: Bitmap::new(), known: 2_000 };
    let (terms, slot) = request();
    let feed = Slot::default();
    c.bench_function("eligible, uncached, exchange", |b| b.iter(|| black_box(catalog.eligible(&terms, &slot, &live))));
    c.bench_function("eligible, uncached, every plan passes", |b| {
        b.iter(|| black_box(catalog.eligible(&Terms::default(), &feed, &live)));
    });
    let cache = EligibilityCache::new(256);
    c.bench_function("eligible, cached", |b| b.iter(|| black_box(cache.get(&catalog, &live, &terms, &slot))));
    c.bench_function("explain 2k plans", |b| b.iter(|| black_box(catalog.explain(&terms, &slot, &live, 5))));
}

fn price_500(catalog: &Catalog, market: &Market<'_>, shading: Shade<'_>, into: &mut Vec<Candidate>) {
    into.clear();
    for n in 0..500u32 {
        let Some(entry) = catalog.plan(n * 3) else { continue };
        let input = PriceInput {
            plan: &entry.record,
            p_click: 0.001 * f64::from(n % 40),
            p_conversion: 0.05,
            order_value: Micros(20_000_000),
            multiplier: 1.1,
            free: Micros(1_000_000_000),
            shading,
        };
        if let Ok(priced) = bid(&input, market) {
            into.push(Candidate { slot: 0, plan: n * 3, item: n, priced });
        }
    }
}

fn auction(c: &mut Criterion) {
    let handle = built(100_000, 2_000, 10_000);
    let catalog = handle.snapshot();
    let (terms, mut slot) = request();
    slot.floor = Micros(500);
    let euro = Currency::parse("EUR").unwrap();
    let fx = FxTable::new([(euro, 1_090_000_000_000)]);
    let mut candidates = Vec::with_capacity(500);
    for (what, currency) in [("", Currency::USD), (", converted", euro)] {
        let terms = Terms { currencies: vec![currency], ..terms.clone() };
        let market = Market::new(&terms, &slot, &fx).unwrap();
        c.bench_function(&format!("price 500 candidates{what}"), |b| {
            b.iter(|| price_500(&catalog, &market, Shade::Share(1.0), black_box(&mut candidates)));
        });
    }
    let mut rates = WinRates::default();
    (0..1_000).for_each(|n| rates.record(0, f64::from(n % 50) * 100.0 + 100.0, n % 3 == 0));
    let shading = rates.shading(1);
    let first = Terms { auction_type: AuctionType::FirstPrice, ..terms.clone() };
    let market = Market::new(&first, &slot, &fx).unwrap();
    c.bench_function("price 500 candidates, first price, shaded", |b| {
        b.iter(|| price_500(&catalog, &market, Shade::Learned(&shading, 0), black_box(&mut candidates)));
    });
    c.bench_function("internal auction of 500, one slot", |b| {
        b.iter_batched_ref(
            || candidates.clone(),
            |list| {
                let mut selection = Selection::new(list, 7);
                let best = selection.strongest();
                best.inspect(|best| selection.accept(best))
            },
            criterion::BatchSize::SmallInput,
        );
    });
    choosing(c, &catalog);
}

/// Choosing with a record of every creative, for a known user, from 5 and from 50 plain and from 5 composed ones.
fn choosing(c: &mut Criterion, catalog: &Catalog) {
    let chooser = Chooser::default();
    let mut rng = StdRng::seed_from_u64(3);
    let ask = Ask { context: Context::of(&[0.3, -0.2, 0.5, 0.1], 700), user: 77, now_s: 1_700_000_000 };
    for n in 0..2_000 {
        let sight =
            Sight { context: ask.context, user: u128::from(n % 90), now_s: ask.now_s, ..(n % 100 * 100).into() };
        chooser.record(catalog, sight, Outcome::Impression);
        if n % 30 == 0 {
            chooser.record(catalog, sight, Outcome::Click);
        }
    }
    chooser.learn(catalog, 1.0);
    for count in [5, 50] {
        c.bench_function(&format!("choose one of {count} creatives"), |b| {
            b.iter(|| chooser.choose(catalog, &ask, (0..count).map(|n| n * 100), &mut rng));
        });
    }
    let composed = built(10, 1, 0);
    let elements = elements();
    let records = (0..5).map(|n| {
        let format = Format::Banner { w: 300, h: 250, image_url: "https://i.example/x.jpg".into() };
        let (id, plan, elements) = (name("c", n), name("p", 0), elements.clone());
        Change::Creative(Creative { id, plan, item: None, attributes: vec![], language: None, elements, format })
    });
    composed.apply(records.collect()).unwrap();
    let catalog = composed.snapshot();
    c.bench_function("choose and compose one of 5 creatives of 24 elements", |b| {
        b.iter(|| chooser.choose(&catalog, &ask, 0..5, &mut rng));
    });
    let sight: Sight = chooser.choose(&catalog, &ask, 0..5, &mut rng).map_or(0.into(), |choice| Sight {
        composition: choice.composition,
        context: ask.context,
        user: 77,
        ..choice.creative.into()
    });
    c.bench_function("record an impression of a composed creative", |b| {
        b.iter(|| chooser.record(&catalog, sight, Outcome::Impression));
    });
}

/// Four templates, six titles, six texts, four calls to action below the templates, four colours.
fn elements() -> BTreeMap<Id, Element> {
    let templates = ["picture", "caption", "split", "text"];
    let mut all = BTreeMap::new();
    let mut add = |id: String, part, value: String, under: Vec<Id>| {
        all.insert(Id::from(&*id), Element { part, value, under });
    };
    templates.iter().enumerate().for_each(|(n, name)| add(format!("m{n}"), Part::Template, (*name).into(), vec![]));
    (0..6).for_each(|n| add(format!("t{n}"), Part::Title, format!("Title {n}"), vec![]));
    (0..6).for_each(|n| add(format!("x{n}"), Part::Text, format!("A selling point, number {n}"), vec![]));
    (0..4).for_each(|n| add(format!("a{n}"), Part::Cta, format!("Buy {n}"), (0..4).map(|m| name("m", m)).collect()));
    (0..4).for_each(|n| add(format!("b{n}"), Part::Background, format!("#ff00{n}0"), vec![]));
    all
}

fn pace(c: &mut Criterion) {
    for policy in [PolicyKind::Pid, PolicyKind::Mpc] {
        let handle = CatalogHandle::new();
        let mut all = changes(10_000, 10_000, 0);
        for change in &mut all {
            if let Change::Plan(plan) = change {
                plan.policy = policy;
            }
        }
        handle.apply(all).unwrap();
        let catalog: Arc<Catalog> = handle.snapshot();
        let mut control = ControlLoop::new();
        let (mut now, mut results) = (1_000_000.0, PlanResults::default());
        c.bench_function(&format!("control tick of 10k plans, {policy:?}"), |b| {
            b.iter(|| {
                now += 1.0;
                results.impressions += 3;
                results.expected.0 += 3_000;
                let spent = Micros(results.expected.0 / 2);
                control.tick(now, &catalog, |_, _| PlanTotals { spent, free: Micros(5), results: results.into() })
            });
        });
    }
}

criterion_group!(benches, catalogue, auction, pace);
criterion_main!(benches);
