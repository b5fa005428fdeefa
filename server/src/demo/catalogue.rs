//! Items, plans and creatives of the demo world.

use super::DIM;
use super::taxonomy::{Taxonomy, near, skewed};
use crate::config;
use crate::ids::Id;
use crate::money::{Currency, Micros};
use crate::plans::{Creative, Format, Goal, Item, Plan, PlanState, PolicyKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

const LOOKS: [&str; 16] = [
    "Classic", "Compact", "Blue", "Nordic", "Light", "Urban", "Red", "Premium", "Simple", "Vintage", "Green", "Sturdy",
    "Soft", "Black", "Smart", "Handmade",
];

/// Banner sizes, in the order of how often real requests ask for them; every plan has the first.
const SIZES: [(u32, u32); 8] =
    [(300, 250), (320, 50), (728, 90), (300, 600), (160, 600), (970, 250), (336, 280), (468, 60)];

/// Currency micros of a price in units.
#[expect(clippy::cast_possible_truncation, reason = "clamped to a range that fits")]
fn micros(units: f64) -> Micros {
    Micros((units.clamp(0.01, 1e6) * 100.0).round() as i64 * 10_000)
}

/// `count` items with ids from 1, the same in every world, so that a model trained on one has seen the items of all. Popular
/// categories have more.
#[must_use]
pub fn items(taxonomy: &Taxonomy, count: usize) -> Vec<Item> {
    let mut rng = StdRng::seed_from_u64(0x17e5);
    let categories = &taxonomy.categories;
    debug_assert_eq!(categories[0].centre.len(), DIM);
    let mut items = Vec::with_capacity(count);
    for number in 1..=count {
        let category = &categories[skewed(&mut rng, 1.3, categories.len())];
        let look = LOOKS[rng.random_range(0..LOOKS.len())];
        let price = PRICE_SCALE * category.price * (0.5 * rng.sample::<f64, _>(StandardNormal)).exp();
        items.push(Item {
            id: Id::from(&*number.to_string()),
            title: format!("{look} {} {}", category.name, 100 + number % 900),
            categories: vec![category.code.clone()],
            price_micros: micros(price),
            url: format!("https://shop.example/item/{number}"),
            image_url: format!("https://img.example/item/{number}.jpg"),
            vector: content(&category.centre, &mut rng),
        });
    }
    items
}

/// A content vector near the middle of a category. All have the same last entry before they are scaled to length 1: vectors of
/// real encoders have a direction in common as well, and a linear projection of them gets its constant from it.
fn content(centre: &[f32], rng: &mut StdRng) -> Vec<f32> {
    let mut vector = near(centre, 0.5, rng);
    if let Some(last) = vector.last_mut() {
        *last = 0.4;
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// Prices of the demo against those of a shop. The world's users click and buy many times as often as people do, so that a small data
/// set teaches a model; its things cost less by a like factor, so that bids lie where bids lie.
const PRICE_SCALE: f64 = 0.01;

/// Plans that share out the items: neighbours in a category go to the same plan.
#[must_use]
pub fn plans(items: &[Item], demo: &config::Demo, now: i64) -> Vec<Plan> {
    let mut rng = StdRng::seed_from_u64(demo.seed ^ 0x91a5);
    let mut order: Vec<&Item> = items.iter().collect();
    order.sort_by(|a, b| a.categories.cmp(&b.categories));
    let each = items.len().div_ceil(demo.plans).max(1);
    let mut plans = Vec::with_capacity(demo.plans);
    for (number, share) in order.chunks(each).enumerate() {
        let shop = number / 4;
        let typical = share[share.len() / 2].price_micros;
        let goal = match number % 4 {
            0 => Goal::Cpc { target_micros: micros(PRICE_SCALE * (1.0 + 5.0 * rng.random::<f64>())) },
            1 => Goal::Cpa { target_micros: Micros(typical.0 / 4) },
            _ => Goal::Roi { target: 2.0 + f64::from(rng.random_range(0..5_u8)) },
        };
        let wealth: f64 = rng.sample(StandardNormal);
        plans.push(Plan {
            id: Id::from(&*format!("plan-{number:04}")),
            name: format!("Shop {shop}: {}", share[0].title.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" ")),
            advertiser: Id::from(&*format!("advertiser-{shop:03}")),
            domain: format!("shop-{shop}.example"),
            seat: Some(format!("seat-{}", shop % 20)),
            deals: if number % 20 == 0 { vec![format!("deal-{}", number / 20)] } else { Vec::new() },
            budget_micros: micros(300.0 * wealth.exp()),
            currency: Currency::USD,
            goal,
            max_bid_micros: Micros(50_000),
            starts_at: now - 3_600,
            ends_at: now + 30 * 86_400,
            state: PlanState::Active,
            policy: PolicyKind::Pid,
            strategy: crate::plans::Strategy::default(),
            items: share.iter().map(|item| item.id.clone()).collect(),
        });
    }
    plans
}

/// Creatives, dealt out to the plans in turn: a 300x250 first, then a native, a video, and further banners.
#[must_use]
pub fn creatives(plans: &[Plan], demo: &config::Demo) -> Vec<Creative> {
    let mut creatives = Vec::with_capacity(demo.creatives);
    for number in 0..demo.creatives {
        let plan_number = number % plans.len();
        let (plan, round) = (&plans[plan_number], number / plans.len());
        let shop = plan.domain.trim_end_matches(".example");
        let image = |kind: &str| format!("https://img.example/{}/{kind}-{round}.jpg", plan.id);
        let banner = |(w, h): (u32, u32)| Format::Banner { w, h, image_url: image(&format!("{w}x{h}")) };
        let format = match round {
            0 => banner(SIZES[0]),
            1 => Format::Native {
                title: format!("{} at {shop}", plan.name.split(": ").last().unwrap_or("New")),
                description: "Free returns for 30 days".to_owned(),
                image_url: image("native"),
                icon_url: image("icon"),
                cta: "Shop now".to_owned(),
            },
            2 => Format::Video {
                w: 1_280,
                h: 720,
                duration_s: [6, 15, 30][plan_number % 3],
                mime: "video/mp4".to_owned(),
                media_url: format!("https://img.example/{}/video.mp4", plan.id),
            },
            _ => banner(SIZES[(plan_number + round) % SIZES.len()]),
        };
        creatives.push(Creative {
            id: Id::from(&*format!("creative-{number:05}")),
            plan: plan.id.clone(),
            item: None,
            // 6 and 7 are in-banner video, started by itself and by the user.
            attributes: if number % 17 == 0 { vec![6] } else { Vec::new() },
            language: None,
            elements: Default::default(),
            format,
        });
    }
    creatives
}
