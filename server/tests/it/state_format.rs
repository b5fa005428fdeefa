//! User states in bf16: a server's answers stay within the bound that its self-check tells, and its cache holds less for as
//! many users.

use crate::models_kit::{dir, load, two};
use crate::world::{ITEMS, PLANS, World};
use longbow::config::StateFormat;
use serde_json::{Value, json};

/// Users of this test by the length of their history: the model reads 256 events.
const LENGTHS: [usize; 4] = [1, 9, 120, 250];
/// Long ago, so that a second more or less changes no bucket of time.
const FIRST_TIME: i64 = 1_690_000_000;
/// Time of the rankings.
const TIME: i64 = 1_700_000_000;

/// What a server answered.
struct Seen {
    /// Click, conversion and value heads of each item of plan-0, for each user.
    rows: Vec<Vec<[f64; 3]>>,
    /// The bid for each user, CPM.
    prices: Vec<f64>,
    cache_bytes: f64,
    /// What it tells of its model.
    model: Value,
    /// The same of the next model.
    next: Value,
}

/// Items that plan-0 sells.
fn sold() -> Vec<String> {
    (1..=ITEMS).filter(|item| item % PLANS == 0).map(|item| item.to_string()).collect()
}

fn serve(format: StateFormat) -> Seen {
    let (data, _, _) = two();
    let path = dir(&data, "a").to_string_lossy().into_owned();
    let world = World::start(data, move |config| {
        config.model.path = path;
        config.model.state_format = format;
        // Every item is retrieved, so that no bid depends on which of two near items came last.
        config.auction.candidates = ITEMS as usize;
    });
    for (user, events) in LENGTHS.into_iter().enumerate() {
        let events: Vec<Value> = (0..events)
            .map(|n| {
                let (item, time) = (user * 37 % 600 + n * n % 400 + 1, FIRST_TIME + 600 * n as i64);
                json!({"id": format!("{user}-{n}"), "user": format!("b{user}"), "item": item, "action": "click", "time": time})
            })
            .collect();
        assert_eq!(world.post("/v1/events", json!({ "events": events })).json()["accepted"], events.len());
    }
    // One plan bids, and nothing caps its bids: they follow the predictions.
    for number in 0..PLANS {
        let at = format!("/v1/plans/plan-{number}");
        let mut plan = world.admin("GET", &at, "").json();
        match number {
            0 => (plan["max_bid_micros"], plan["budget_micros"]) = (json!(100_000_000), json!(1_000_000_000_000_i64)),
            _ => plan["state"] = json!("paused"),
        }
        assert_eq!(world.admin("PUT", &at, &plan).status, 200, "{plan}");
    }
    let (mut rows, mut prices) = (Vec::new(), Vec::new());
    for user in 0..LENGTHS.len() {
        let ask = json!({"user": format!("b{user}"), "candidates": sold(), "k": 100, "time": TIME});
        let ranked = world.post("/v1/rank", ask).json();
        let mut items: Vec<&Value> = ranked["items"].as_array().unwrap().iter().collect();
        items.sort_by_key(|item| item["id"].as_str().unwrap().parse::<u32>().unwrap());
        assert_eq!(items.len(), sold().len(), "{ranked}");
        let head = |item: &Value, name: &str| item[name].as_f64().unwrap();
        // The value shown is twice its head's output.
        let row = |item: &&Value| [head(item, "click"), head(item, "conversion"), head(item, "value") / 2.0];
        rows.push(items.iter().map(row).collect());
        let request = json!({"id": format!("a{user}"), "user": {"id": format!("b{user}")}, "site": {"id": "s"},
            "imp": [{"id": "1", "banner": {"format": [{"w": 300, "h": 250}]}}], "at": 1, "tmax": 2000});
        let bid = world.post("/openrtb2/bid", request).json()["seatbid"][0]["bid"][0].clone();
        assert_eq!(bid["cid"], "plan-0", "{bid}");
        prices.push(bid["price"].as_f64().unwrap());
    }
    let metrics = String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap();
    let held = metrics.lines().find_map(|line| line.strip_prefix("longbow_cache_bytes{cache=\"state\"} ")).unwrap();
    let model = world.admin("GET", "/v1/models", "").json()["current"].clone();
    let (status, told) = load(&world, "b");
    assert_eq!(status, 200, "{told}");
    Seen { rows, prices, cache_bytes: held.parse().unwrap(), model, next: told["current"].clone() }
}

fn norm(row: &[f64; 3]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn bids_agree_with_f32_within_the_bound_that_the_server_tells() {
    let (exact, rounded) = (serve(StateFormat::F32), serve(StateFormat::Bf16));
    for (told, other) in [(&exact.model, &rounded.model), (&exact.next, &rounded.next)] {
        assert_eq!((&told["state_format"], &other["state_format"]), (&json!("f32"), &json!("bf16")));
        // The bundle is held to its promise in f32 whatever states are kept in.
        assert_eq!(told["self_check"], other["self_check"]);
        assert!(told.get("self_check_bf16").is_none(), "{told}");
        let number = |check: &str, name: &str| other[check][name].as_f64().unwrap();
        let (error, bound) = (number("self_check_bf16", "error_max"), number("self_check_bf16", "tolerance"));
        assert!(error > number("self_check", "error_max"), "rounding shows: {other}");
        // Where the CPU multiplies in bf16 (AMX, AVX-512 BF16) the rule rounds queries and weights too, which is wide for random weights;
        // what is found stays small.
        assert!(error <= bound && error < 0.05, "{other}");
    }
    let bound = rounded.model["self_check_bf16"]["tolerance"].as_f64().unwrap();
    let mut moved = 0;
    for (user, (exact_rows, rows)) in exact.rows.iter().zip(&rounded.rows).enumerate() {
        for (wanted, found) in exact_rows.iter().zip(rows) {
            let off = norm(&[found[0] - wanted[0], found[1] - wanted[1], found[2] - wanted[2]]) / norm(wanted);
            assert!(off <= bound, "user {user}: {found:?} for {wanted:?}, {off:e} above {bound:e}");
            moved += usize::from(off > 0.0);
        }
        // A bid of a plan that pays for clicks is the probability of one times a constant.
        let worst = exact_rows.iter().map(|row| bound * norm(row) / row[0]).fold(0.0, f64::max);
        let off = rounded.prices[user] / exact.prices[user] - 1.0;
        assert!(off.abs() <= worst, "user {user}: {} for {}", rounded.prices[user], exact.prices[user]);
    }
    assert!(moved > 0, "the states were not rounded");
    assert!(rounded.cache_bytes < exact.cache_bytes, "{} and {}", rounded.cache_bytes, exact.cache_bytes);
}

#[test]
fn left_to_itself_a_server_keeps_bf16_where_its_cpu_multiplies_it() {
    use longbow_kernels::{Isa, KvFormat};
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
        assert_eq!(StateFormat::Auto.on(isa), KvFormat::F32, "{isa}");
    }
    for isa in [Isa::Avx512Bf16, Isa::Amx] {
        assert_eq!(StateFormat::Auto.on(isa), KvFormat::Bf16, "{isa}");
        assert_eq!(StateFormat::F32.on(isa), KvFormat::F32, "{isa}");
    }
    let (data, _, _) = two();
    let path = dir(&data, "a").to_string_lossy().into_owned();
    let world = World::start(data, move |config| config.model.path = path);
    let told = world.admin("GET", "/v1/models", "").json()["current"].clone();
    let multiplies = Isa::detect().multiplies_bf16();
    assert_eq!(told["state_format"], if multiplies { "bf16" } else { "f32" });
    assert_eq!(told.get("self_check_bf16").is_some(), multiplies, "{told}");
}
