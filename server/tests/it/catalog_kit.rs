//! Small records and seeded random catalogues for the tests of the catalogue and the auction.

use longbow::auction::slot::{
    AuctionType, BannerSlot, DealOffer, NativeAsset, NativeAssetKind, NativeSlot, Slot, Terms, VideoSlot,
};
use longbow::catalog::{CatalogHandle, Change};
use longbow::ids::Id;
use longbow::money::{Currency, Micros};
use longbow::plans::{Creative, Format, Goal, Item, Plan, PlanState, PolicyKind};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

pub(crate) fn id(text: impl AsRef<str>) -> Id {
    Id::from(text.as_ref())
}

pub(crate) fn item(name: &str, categories: &[&str]) -> Item {
    Item {
        id: id(name),
        title: name.to_owned(),
        categories: categories.iter().map(|&c| c.to_owned()).collect(),
        price_micros: Micros(20_000_000),
        url: "https://shop.example/x".into(),
        image_url: "https://img.example/x.jpg".into(),
        vector: vec![],
    }
}

pub(crate) fn plan(name: &str, items: &[&str]) -> Plan {
    Plan {
        id: id(name),
        name: name.to_owned(),
        advertiser: id("adv"),
        domain: "shop.example".into(),
        seat: None,
        deals: vec![],
        budget_micros: Micros(1_000_000_000),
        currency: Currency::USD,
        goal: Goal::Roi { target: 2.0 },
        max_bid_micros: Micros(1_000_000),
        starts_at: 0,
        ends_at: 4_102_444_800,
        state: PlanState::Active,
        policy: PolicyKind::Pid,
        strategy: longbow::plans::Strategy::default(),
        items: items.iter().map(id).collect(),
    }
}

pub(crate) fn banner(name: &str, plan: &str, item: Option<&str>) -> Creative {
    Creative {
        id: id(name),
        plan: id(plan),
        item: item.map(id),
        attributes: vec![],
        language: None,
        elements: Default::default(),
        format: Format::Banner { w: 300, h: 250, image_url: "https://img.example/b.png".into() },
    }
}

pub(crate) fn banner_slot() -> Slot {
    Slot {
        imp_id: "1".into(),
        banner: Some(BannerSlot { sizes: vec![(300, 250)], ..BannerSlot::default() }),
        ..Slot::default()
    }
}

pub(crate) fn handle() -> CatalogHandle {
    CatalogHandle::new()
}

fn some<'a>(rng: &mut StdRng, from: &[&'a str], most: usize) -> Vec<&'a str> {
    let count = rng.random_range(0..=most);
    (0..count).map(|_| *from.choose(rng).unwrap()).collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

const CATEGORIES: [&str; 8] = ["IAB1", "IAB1-2", "IAB1-2-3", "IAB2", "IAB2-1", "iab3", "IAB10", "x"];
const DOMAINS: [&str; 6] = ["a.com", "x.a.com", "www.b.org", "b.org", "xa.com", "y.x.a.com"];
const SEATS: [&str; 3] = ["s1", "s2", "s3"];
const DEALS: [&str; 3] = ["d1", "d2", "d3"];
const LANGUAGES: [&str; 3] = ["en", "de-AT", "fr"];
const SIZES: [(u32, u32); 3] = [(300, 250), (728, 90), (320, 50)];

pub(crate) fn random_item(rng: &mut StdRng, n: usize) -> Change {
    let categories = some(rng, &CATEGORIES, 3);
    Change::Item(item(&format!("i{n}"), &categories))
}

/// A plan over items `i0..items`; may refer to items that are gone, which is refused.
pub(crate) fn random_plan(rng: &mut StdRng, n: usize, items: usize) -> Change {
    let names: Vec<String> = (0..rng.random_range(1..5)).map(|_| format!("i{}", rng.random_range(0..items))).collect();
    let mut record = plan(&format!("p{n}"), &names.iter().map(String::as_str).collect::<Vec<_>>());
    record.domain = (*DOMAINS.choose(rng).unwrap()).to_owned();
    record.seat = rng.random_bool(0.7).then(|| (*SEATS.choose(rng).unwrap()).to_owned());
    record.deals = texts(&some(rng, &DEALS, 2));
    record.state = if rng.random_bool(0.15) { PlanState::Paused } else { PlanState::Active };
    Change::Plan(record)
}

pub(crate) fn random_creative(rng: &mut StdRng, n: usize, (plans, items): (usize, usize)) -> Change {
    let scheme = if rng.random_bool(0.7) { "https" } else { "http" };
    let (w, h) = *SIZES.choose(rng).unwrap();
    let ending = ["jpg", "PNG", "gif", "bin"].choose(rng).unwrap();
    let format = match rng.random_range(0..3) {
        0 => Format::Banner { w, h, image_url: format!("{scheme}://i.example/p.{ending}?v=1") },
        1 => Format::Video {
            w,
            h,
            duration_s: [6, 15, 30][rng.random_range(0..3)],
            mime: ["video/mp4", "video/webm"][rng.random_range(0..2)].into(),
            media_url: format!("{scheme}://i.example/v"),
        },
        _ => Format::Native {
            title: "Title".into(),
            description: ["", "Text"][rng.random_range(0..2)].into(),
            image_url: format!("{scheme}://i.example/m.jpg"),
            icon_url: ["", "https://i.example/i.png"][rng.random_range(0..2)].into(),
            cta: ["", "Buy"][rng.random_range(0..2)].into(),
        },
    };
    let item = rng.random_bool(0.3).then(|| id(format!("i{}", rng.random_range(0..items))));
    Change::Creative(Creative {
        id: id(format!("c{n}")),
        plan: id(format!("p{}", rng.random_range(0..plans))),
        item,
        attributes: (0..rng.random_range(0..3)).map(|_| rng.random_range(1..5)).collect(),
        language: rng.random_bool(0.4).then(|| (*LANGUAGES.choose(rng).unwrap()).to_owned()),
        elements: Default::default(),
        format,
    })
}

pub(crate) fn random_terms(rng: &mut StdRng) -> Terms {
    let mut terms = Terms { languages: texts(&some(rng, &["en", "DE", "fr"], 1)), ..Terms::default() };
    match rng.random_range(0..4) {
        0 => terms.seats_allowed = texts(&some(rng, &SEATS, 2)),
        1 => terms.seats_blocked = texts(&some(rng, &SEATS, 2)),
        _ => {}
    }
    match rng.random_range(0..3) {
        0 => terms.blocked_categories = texts(&some(rng, &CATEGORIES, 2)),
        1 => terms.allowed_categories = texts(&some(rng, &CATEGORIES, 4)),
        _ => {}
    }
    terms.blocked_domains = texts(&some(rng, &["a.com", "X.A.com", "www.b.org", "com", "nobody.net"], 1));
    terms
}

pub(crate) fn random_slot(rng: &mut StdRng) -> Slot {
    let attributes =
        |rng: &mut StdRng| (0..rng.random_range(0..2)).map(|_| rng.random_range(1..5)).collect::<Vec<u32>>();
    let banner = rng.random_bool(0.6).then(|| BannerSlot {
        sizes: (0..rng.random_range(0..3)).map(|_| *SIZES.choose(rng).unwrap()).collect(),
        blocked_attributes: attributes(rng),
        mimes: texts(&some(rng, &["image/jpg", "image/png", "text/html", "image/gif"], 2)),
    });
    let video = rng.random_bool(0.4).then(|| VideoSlot {
        mimes: texts(&["video/mp4", "video/webm"][..rng.random_range(1..=2)]),
        duration_min_s: 5,
        duration_max_s: rng.random_range(10..40),
        durations_s: if rng.random_bool(0.3) { vec![15] } else { vec![] },
        protocols: if rng.random_bool(0.3) { vec![rng.random_range(1..9)] } else { vec![] },
        blocked_attributes: attributes(rng),
        ..VideoSlot::default()
    });
    let kinds = [
        NativeAssetKind::Title { len: 25 },
        NativeAssetKind::Image { kind: 1, w: 50, h: 50 },
        NativeAssetKind::Image { kind: 3, w: 50, h: 50 },
        NativeAssetKind::Data { kind: 2, len: Some(10) },
        NativeAssetKind::Data { kind: 12, len: None },
        NativeAssetKind::Data { kind: 6, len: None },
        NativeAssetKind::Other,
    ];
    let native = rng.random_bool(0.4).then(|| NativeSlot {
        assets: (0..rng.random_range(0..4))
            .map(|n| NativeAsset { id: n, required: rng.random_bool(0.5), kind: kinds.choose(rng).unwrap().clone() })
            .collect(),
        blocked_attributes: attributes(rng),
        ..NativeSlot::default()
    });
    let deals = (0..rng.random_range(0..3)).map(|_| DealOffer {
        id: (*DEALS.choose(rng).unwrap()).to_owned(),
        floor: Micros(0),
        floor_currency: Currency::USD,
        auction_type: AuctionType::FirstPrice,
        seats: texts(&some(rng, &SEATS, 1)),
        domains: texts(&some(rng, &["a.com", "B.org"], 1)),
    });
    Slot {
        deals: deals.collect(),
        imp_id: if rng.random_bool(0.85) { "1".into() } else { String::new() },
        private_auction: rng.random_bool(0.25),
        secure: rng.random_bool(0.4),
        banner,
        video,
        native,
        ..Slot::default()
    }
}
