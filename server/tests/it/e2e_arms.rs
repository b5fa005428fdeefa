//! Experiments and channels on a whole server: who is in which arm, where, and what the admin port says of both.

use crate::e2e_bid::notice;
use crate::world::{PLANS, World};
use longbow::http::openrtb;
use longbow::ids::Id;
use longbow::plans::{Arm, Experiment, PolicyKind};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

fn ask(number: usize, user: &str, channel: &str) -> Value {
    json!({"id": format!("arms-{number}"), "imp": [{"id": "1", "banner": {"format": [{"w": 300, "h": 250}]}}],
           "site": {"id": "s"}, "user": {"id": user}, "at": 1, "tmax": 2000, "ext": {"channel": channel}})
}

/// Facts of a plan, once the control tick has taken up (or dropped) its experiment.
fn facts(world: &World, plan: &str, tried: bool) -> Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let facts = world.admin("GET", &format!("/v1/forecasts/{plan}"), "").json();
        if facts.get("experiment").is_some() == tried {
            return facts;
        }
        assert!(Instant::now() < until, "no tick followed the experiment: {facts}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn both_arms_of_every_plan_are_told_apart_by_user() {
    let world = World::new();
    let experiment = Experiment { policy: PolicyKind::Pid, share: 0.5 };
    for plan in 0..PLANS {
        let patch = json!({"strategy": {"experiment": {"policy": "pid", "share": 0.5}}});
        assert_eq!(world.admin("PATCH", &format!("/v1/plans/plan-{plan}"), patch).status, 200);
    }
    for plan in 0..PLANS {
        facts(&world, &format!("plan-{plan}"), true);
    }
    // Impressions that each plan's arms should show.
    let mut expected: HashMap<String, [u64; 2]> = HashMap::new();
    for number in 0..60 {
        let user = format!("u{number}");
        let answer = world.post("/openrtb2/bid", ask(number, &user, "feed"));
        if answer.status != 200 {
            continue;
        }
        let body = answer.json();
        let bid = &body["seatbid"][0]["bid"][0];
        let plan = bid["cid"].as_str().unwrap();
        let win = notice(bid["nurl"].as_str().unwrap(), &bid["price"].to_string());
        assert_eq!(world.get(&win).status, 204);
        let event = |action: &str, value: Value| {
            json!({"id": format!("{action}-{number}"), "user": user, "item": "1", "action": action, "plan": plan,
                   "bid": bid["id"], "value_micros": value})
        };
        let events = json!({"events": [event("impression", Value::Null), event("purchase", json!(1_000_000))]});
        assert_eq!(world.post("/v1/events", events).json()["accepted"], 2);
        let arm = experiment.arm(&Id::from(plan), &user);
        expected.entry(plan.to_owned()).or_default()[usize::from(arm == Arm::Second)] += 1;
    }
    let sums = expected.values().fold([0, 0], |sum, arms| [sum[0] + arms[0], sum[1] + arms[1]]);
    assert!(sums[0] > 5 && sums[1] > 5, "both arms were shown: {sums:?}");
    for (plan, arms) in &expected {
        let facts = facts(&world, plan, true);
        let of = |arm: usize, field: &str| facts["experiment"][arm][field].as_u64().unwrap_or(0);
        assert_eq!([of(0, "impressions"), of(1, "impressions")], *arms, "{facts}");
        assert_eq!([of(0, "conversions"), of(1, "conversions")], *arms, "{facts}");
        assert_eq!(
            (&facts["experiment"][0]["policy"], &facts["experiment"][1]["policy"]),
            (&json!("fixed"), &json!("pid"))
        );
        let spent = world.balance(plan)["spent_micros"].as_u64().unwrap();
        assert_eq!(of(0, "spent_micros") + of(1, "spent_micros"), spent, "the ledger's spend, divided without loss");
        for (arm, shown) in arms.iter().enumerate() {
            assert_eq!(of(arm, "spent_micros") > 0, *shown > 0, "{facts}");
            assert_eq!(of(arm, "expected_micros") > 0, *shown > 0, "the bid was remembered with its value: {facts}");
        }
        for channel in ["exchange", "feed", "search", "live"] {
            assert!(facts["channels"][channel].as_f64().unwrap() > 0.0, "{facts}");
        }
    }
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", json!({"strategy": {"experiment": null}})).status, 200);
    facts(&world, "plan-1", false);
    let bad = json!({"strategy": {"experiment": {"policy": "pid", "share": 1.0}}});
    let refused = world.admin("PATCH", "/v1/plans/plan-1", bad);
    assert_eq!(refused.status, 400);
    assert!(refused.json().to_string().contains("strategy.experiment.share"));
}

#[test]
fn a_request_names_its_channel_and_an_unknown_name_is_an_exchange() {
    let read = |ext: Value| {
        let mut body = ask(1, "u", "feed");
        body["ext"] = ext;
        let request = openrtb::parse(body.to_string().as_bytes()).unwrap();
        (request.terms.channel.name(), request.tally.total())
    };
    for name in ["exchange", "feed", "search", "live"] {
        assert_eq!(read(json!({"channel": name})), (name, 0));
    }
    assert_eq!(read(json!({"channel": "billboard"})), ("exchange", 1));
    assert_eq!(read(json!({"other": 1})), ("exchange", 0));
    assert_eq!(read(json!({"channel": {"a": 1}})).0, "exchange");
}
