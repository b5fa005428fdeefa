//! What is refused changes nothing, and what was bid is charged as it was bid: over real sockets, with restarts in between.

use crate::e2e_bid::notice;
use crate::world::{BUDGET, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longbow::http::notices::{Claim, Key, NoticeKind, NoticeSigner, Windows};
use longbow::money::{Currency, Micros};
use serde_json::{Value, json};

/// Numbers of a content vector of the world's model.
const DIM: usize = 16;

#[test]
fn a_refused_change_of_a_plan_leaves_its_money_alone() {
    let world = World::new();
    let change = json!({"budget_micros": 777_000_000, "items": ["nope"]});
    let answer = world.admin("PATCH", "/v1/plans/plan-1", &change);
    assert_eq!((answer.status, answer.json()["error"]["field"].as_str()), (400, Some("items[0]")), "{answer:?}");
    assert_eq!(world.balance("plan-1")["granted_micros"], BUDGET.0);
    let record = world.admin("GET", "/v1/plans/plan-1", "").json();
    assert_eq!(record["budget_micros"], BUDGET.0);
    // A budget below what is spent is refused, and a change that leaves the budget alone is not.
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", json!({"state": "paused"})).status, 200);
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", json!({"currency": "XTS"})).status, 400);
    // A new plan that names a missing item gets no budget either.
    let mut other = record;
    other["id"] = "fresh".into();
    other["items"] = json!(["nope"]);
    assert_eq!(world.admin("POST", "/v1/plans", &other).status, 400);
    assert_eq!(world.admin("GET", "/v1/plans/fresh/balance", "").status, 404);
    other["items"] = json!(["1"]);
    other["currency"] = "EUR".into();
    let answer = world.admin("POST", "/v1/plans", &other);
    assert_eq!((answer.status, answer.json()["error"]["field"].as_str()), (400, Some("currency")), "no rate is known");
}

#[test]
fn an_item_that_cannot_be_served_is_refused_and_the_others_of_its_batch_are_kept() {
    let world = World::new();
    let vector = |x: f64| vec![x; DIM];
    for (id, bad) in [("z", vector(0.0)), ("y", vector(1e38)), ("w", vec![1.0; DIM - 1])] {
        let answer = world.admin("POST", "/v1/items", json!({"id": id, "vector": bad}));
        assert_eq!((answer.status, answer.json()["error"]["field"].as_str()), (400, Some("vector")), "{answer:?}");
        assert_eq!(world.admin("GET", &format!("/v1/items/{id}"), "").status, 404);
        let mut plan = world.admin("GET", "/v1/plans/plan-1", "").json();
        plan["id"] = format!("of-{id}").into();
        plan["items"] = json!([id]);
        assert_eq!(world.admin("POST", "/v1/plans", &plan).status, 400, "its item does not exist");
    }
    let lines: Vec<String> = (0..10)
        .map(|n| {
            json!({"id": format!("new-{n}"), "vector": vector(if n == 4 { 0.0 } else { 1.0 + f64::from(n) })})
                .to_string()
        })
        .collect();
    let answer = world.admin("POST", "/v1/items:import", lines.join("\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let kept = |world: &World| -> Vec<bool> {
        (0..10).map(|n| world.admin("GET", &format!("/v1/items/new-{n}"), "").status == 200).collect()
    };
    let expected: Vec<bool> = (0..10).map(|n| n != 4).collect();
    assert_eq!(kept(&world), expected);
    let world = world.restart();
    assert_eq!(kept(&world), expected, "and durable");
}

/// A plan that pays in yen and alone sits on its seat.
fn yen_plan(world: &World) -> Value {
    let mut plan = world.admin("GET", "/v1/plans/plan-2", "").json();
    plan["id"] = "yen".into();
    plan["currency"] = "JPY".into();
    plan["seat"] = "seat-yen".into();
    plan["budget_micros"] = 5_000_000_000_i64.into();
    plan["max_bid_micros"] = 3_000_000.into();
    plan["goal"] = json!({"cpc": {"target_micros": 60_000_000}});
    plan
}

#[test]
fn a_win_is_charged_at_the_rate_of_its_bid() {
    let dir = tempfile::tempdir().unwrap().keep();
    let with_rate = |rate: f64| {
        move |config: &mut longbow::config::Config| {
            config.currencies.rates.insert("JPY".to_owned(), rate);
            config.ledger.pool_permille = 1_000;
        }
    };
    let world = World::start(dir.clone(), with_rate(0.0067));
    let plan = yen_plan(&world);
    assert_eq!(world.admin("POST", "/v1/plans", &plan).status, 201);
    let mut creative = world.admin("GET", "/v1/creatives/cr-2-1", "").json();
    creative["id"] = "cr-yen".into();
    creative["plan"] = "yen".into();
    assert_eq!(world.admin("POST", "/v1/creatives", &creative).status, 201);
    let request = json!({"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 0.001}], "user": {"id": "u7"},
                         "wseat": ["seat-yen"], "at": 1, "tmax": 2000});
    let mut bids = Vec::new();
    // The plan bids once a control tick has seen it.
    for _ in 0..200 {
        let answer = world.post("/openrtb2/bid", &request);
        if answer.status == 200 {
            bids.push(answer.json()["seatbid"][0]["bid"][0].clone());
            if bids.len() == 2 {
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    assert_eq!(bids.len(), 2, "the plan in yen bids");
    let held = world.balance("yen")["held_micros"].as_i64().unwrap();
    assert!(held > 0 && held <= 6_000_000, "{held}");
    let win = |world: &World, bid: &Value| {
        let price = bid["price"].as_f64().unwrap();
        world.get(&notice(bid["nurl"].as_str().unwrap(), &format!("{price}"))).status
    };
    drop(world);
    // Another rate, then none, and no plan any more.
    let world = World::start(dir.clone(), with_rate(0.001));
    assert_eq!(win(&world, &bids[0]), 204);
    assert_eq!(world.balance("yen")["spent_micros"], held / 2);
    assert_eq!(world.admin("DELETE", "/v1/plans/yen", "").status, 204);
    assert_eq!(win(&world, &bids[1]), 204);
    assert_eq!(world.admin("POST", "/v1/plans", &plan).status, 201);
    assert_eq!(world.balance("yen")["spent_micros"], held / 2 * 2, "two equal bids, both at the price they held");
}

#[test]
fn an_explanation_lists_the_plan_that_is_asked_for() {
    let world = World::new();
    let request = json!({"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "wseat": ["seat-0"]});
    let ask = |query: &str| world.admin("POST", &format!("/openrtb2/bid?explain=1{query}"), &request).json();
    let plans = |told: &Value| told["imps"][0]["plans"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(plans(&ask("")).len() > 5);
    let one = ask("&plan=plan-1");
    assert_eq!(plans(&one), ["plan-1"], "{one}");
    assert_eq!(one["imps"][0]["plans"]["plan-1"], ask("")["imps"][0]["plans"]["plan-1"]);
}

#[test]
fn a_plan_without_money_is_the_reason_also_after_the_control_tick_has_seen_it() {
    let world = World::new();
    for plan in 1..crate::world::PLANS {
        let paused = world.admin("PATCH", &format!("/v1/plans/plan-{plan}"), json!({"state": "paused"}));
        assert_eq!(paused.status, 200);
    }
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-0", json!({"budget_micros": 30_000})).status, 200);
    let ask = |id: String, w: u32| {
        let imp = json!([{"id": "1", "banner": {"w": w, "h": 250}, "bidfloor": 0.01}]);
        let body = json!({"id": id, "imp": imp, "site": {"domain": "news.example"}, "user": {"id": "u3"}, "at": 1, "tmax": 2000});
        let answer = world.post("/openrtb2/bid", body);
        (answer.status, answer.header("x-longbow-no-bid").unwrap_or_default().to_owned())
    };
    // Its pool may have to be filled anew first.
    let (mut bids, mut told) = (0, Vec::new());
    let spent = (0..400).any(|n| {
        let (status, reason) = ask(format!("spend-{n}"), 300);
        bids += u32::from(status == 200);
        told.push(reason);
        bids > 0 && told[n] == "budget_exhausted"
    });
    assert!(spent, "it bids until nothing is left: {bids} bids, {told:?}");
    // Over many ticks of 50 ms: first pricing finds the money gone, then the filters do.
    let mut reasons = Vec::new();
    for n in 0..40 {
        reasons.push(ask(format!("after-{n}"), 300).1);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let known = |reason: &String| reason == "budget_exhausted" || reason == "not_held";
    assert!(reasons.iter().all(known) && reasons[39] == "budget_exhausted", "{reasons:?}");
    // Where it would not have bid with money either, money is not the reason.
    assert_eq!(ask("narrow".to_owned(), 7), (204, "nothing_eligible".to_owned()));
    let metrics = String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap();
    assert!(metrics.contains("longbow_no_bids_total{reason=\"nothing_eligible\"} 1\n"), "{metrics}");
}

/// A pool of a thousandth of the budget is smaller than a hold: the first bid, and any burst, waits for the ledger's refill
/// and is made all the same.
#[test]
fn a_bid_waits_for_the_refill_of_its_plans_pool() {
    let dir = tempfile::tempdir().unwrap().keep();
    let world = World::start(dir, |config| config.ledger.pool_permille = 1);
    let creative = json!({"id": "wide", "plan": "plan-2", "format": "banner", "w": 970, "h": 250,
                          "image_url": "https://img.example/wide.png"});
    assert_eq!(world.admin("POST", "/v1/creatives", creative).status, 201);
    for number in 0..40 {
        let request = json!({"id": format!("burst-{number}"), "imp": [{"id": "1", "banner": {"w": 970, "h": 250}}],
                             "site": {"id": "s"}, "user": {"id": "u7"}, "at": 1, "tmax": 2000});
        let answer = world.post("/openrtb2/bid", &request);
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
    }
    let metrics = world.admin("GET", "/metrics", "").body;
    let metrics = String::from_utf8(metrics).unwrap();
    let waited = metrics.lines().find(|line| line.contains("reason=\"pool_refilling\"")).unwrap();
    assert!(!waited.ends_with(" 0"), "a pool ran dry: {waited}");
}

/// An address without a host, or with a blank in it, cannot be written into an ad: it is refused where it comes in.
#[test]
fn an_address_that_no_ad_can_hold_is_refused_by_field() {
    let world = World::new();
    let banner =
        |url: &str| json!({"id": "x", "plan": "plan-2", "format": "banner", "w": 300, "h": 250, "image_url": url});
    let video = json!({"id": "x", "plan": "plan-2", "format": "video", "w": 640, "h": 360, "duration_s": 15,
                       "mime": "video/mp4", "media_url": "https:///a.mp4"});
    for (kind, record, field) in [
        ("creatives", banner("https://"), "image_url"),
        ("creatives", banner("https://a b/x.png"), "image_url"),
        ("creatives", banner("http://me@host/x.png"), "image_url"),
        ("creatives", video, "media_url"),
    ] {
        let answer = world.admin("POST", &format!("/v1/{kind}"), &record);
        assert_eq!(
            (answer.status, answer.json()["error"]["field"].as_str()),
            (400, Some(field)),
            "{record} {answer:?}"
        );
    }
    let item = json!({"url": "https://?x"});
    let answer = world.admin("PATCH", "/v1/items/1", &item);
    assert_eq!((answer.status, answer.json()["error"]["field"].as_str()), (400, Some("url")), "{answer:?}");
    assert_eq!(world.admin("POST", "/v1/creatives", banner("https://img.example/a b.png")).status, 201);
}

/// Of two clocks one is wrong, and the win is genuine: the exchange is told to come again, and is charged when it does.
#[test]
fn a_win_signed_ahead_of_the_clock_is_charged_by_a_later_try() {
    let world = World::new();
    let line = std::fs::read_to_string(world.dir.join("notices.key")).unwrap();
    let (id, secret) = line.trim().split_once(':').unwrap();
    let key = Key::new(id, &STANDARD.decode(secret).unwrap()).unwrap();
    let signer = NoticeSigner::new(key, None, Windows::default()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let ahead = |seconds| Claim {
        auction: "ahead".into(),
        bid: "ahead".into(),
        plan: "plan-1".into(),
        item: "1".into(),
        creative: "cr-1-0".into(),
        user: 0,
        cap: Micros(900),
        currency: Currency::USD,
        hold: Micros(900),
        time_s: now + seconds,
        test: false,
    };
    let ask = |kind, seconds| world.get(&notice(&signer.url("", kind, &ahead(seconds)), "0.9"));
    for kind in [NoticeKind::Win, NoticeKind::Billing] {
        let answer = ask(kind, 3_600);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    }
    assert_eq!(ask(NoticeKind::Loss, 3_600).status, 410);
    assert_eq!(world.balance("plan-1")["spent_micros"], 0);
    // As an exchange does: again and again until it is taken.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let first = ask(NoticeKind::Win, 68).status;
    assert_eq!(first, 503);
    while ask(NoticeKind::Win, 68).status == 503 {
        assert!(std::time::Instant::now() < until, "never taken");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(world.balance("plan-1")["spent_micros"], 900);
    assert_eq!(ask(NoticeKind::Win, 68).status, 204);
    assert_eq!(world.balance("plan-1")["spent_micros"], 900, "once");
}
