//! The feed's and the operator's view of a whole server: rankings, events, records, restarts.

use crate::world::{ITEMS, World, call};
use serde_json::{Value, json};

fn ids(answer: &Value) -> Vec<String> {
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_ranking_has_every_score_and_is_the_same_for_the_same_time() {
    let world = World::new();
    let ask = json!({"user": "u9", "k": 10, "time": 1_900_000_000});
    let answer = world.post("/v1/rank", &ask);
    assert_eq!(answer.status, 200, "{answer:?}");
    let first = answer.json();
    let items = first["items"].as_array().unwrap();
    assert_eq!(items.len(), 10);
    assert_eq!(first["degraded"], "full");
    assert_eq!(first["history_events"], 9 * 12);
    for (item, rank) in items.iter().zip(1..) {
        assert_eq!(item["rank"], rank);
        for score in ["score", "click", "conversion", "value", "similarity"] {
            assert!(item[score].is_number(), "{score} of {item}");
        }
    }
    let scores: Vec<f64> = items.iter().map(|item| item["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b));
    assert_eq!(world.post("/v1/rank", &ask).json()["items"], first["items"]);
    let other = world.post("/v1/rank", json!({"user": "u3", "k": 10, "time": 1_900_000_000})).json();
    assert_ne!(ids(&other), ids(&first), "another user, another ranking");
}

#[test]
fn candidates_filters_and_histories_come_with_the_request() {
    let world = World::new();
    let ask = json!({"user": "u9", "candidates": ["5", 6, "7", "nosuch"], "k": 10, "objective": "click"});
    let answer = world.post("/v1/rank", ask).json();
    let mut found = ids(&answer);
    found.sort();
    assert_eq!(found, ["5", "6", "7"]);
    assert_eq!(answer["skipped"], json!(["nosuch"]));

    let blocked = world.post("/v1/rank", json!({"user": "u9", "k": 50, "bcat": ["IAB1", "IAB2"]})).json();
    for id in ids(&blocked) {
        assert!(!matches!(id.parse::<u32>().unwrap() % 20 + 1, 1 | 2), "item {id} is in a blocked category");
    }
    // The stored history sent along ranks as the stored one does.
    let history: Vec<Value> =
        (0..40).map(|n| json!({"item": n + 1, "action": "click", "time": 1_800_000_000 + n})).collect();
    let events: Vec<Value> = history
        .iter()
        .enumerate()
        .map(|(n, e)| json!({"id": format!("h-{n}"), "user": "fresh", "item": e["item"], "action": "click", "time": e["time"]}))
        .collect();
    let time = 1_800_001_000;
    let given = world.post("/v1/rank", json!({"history": history, "k": 10, "time": time})).json();
    // Times in the future of the server's clock are refused for stored events, so these are in the past of 2027 only.
    let stored = world.post("/v1/events", json!({"events": events}));
    if stored.json()["accepted"] == 40 {
        let known = world.post("/v1/rank", json!({"user": "fresh", "k": 10, "time": time})).json();
        assert_eq!(ids(&given), ids(&known));
    }
    let newcomer = world.post("/v1/rank", json!({"user": "never-seen", "k": 5})).json();
    assert_eq!((ids(&newcomer).len(), &newcomer["history_events"]), (5, &json!(0)));
}

#[test]
fn events_count_once_and_change_the_next_ranking() {
    let world = World::new();
    let before = world.post("/v1/rank", json!({"user": "u5", "k": 20})).json();
    let events: Vec<Value> = (0..30)
        .map(|n| json!({"id": format!("e{n}"), "user": "u5", "item": n % 3 + 400, "action": "purchase"}))
        .collect();
    let answer = world.post("/v1/events", json!({"events": events})).json();
    assert_eq!((&answer["accepted"], &answer["duplicate"]), (&json!(30), &json!(0)), "{answer}");
    let again = world.post("/v1/events", json!(events)).json();
    assert_eq!((&again["accepted"], &again["duplicate"]), (&json!(0), &json!(30)));
    let after = world.post("/v1/rank", json!({"user": "u5", "k": 20})).json();
    assert_eq!(after["history_events"].as_u64().unwrap(), before["history_events"].as_u64().unwrap() + 30);
    assert_ne!(ids(&after), ids(&before));

    let mixed = "{\"id\":\"x1\",\"user\":\"u5\",\"item\":1}\n{\"id\":\"x2\",\"user\":\"u5\"}\n{\"id\":\"x3\",\"user\":\"u5\",\"item\":2,\"action\":\"fly\"}\n{\"id\":\"x4\",\"user\":\"u5\",\"item\":-8999000000000000001,\"time\":1}\n";
    let answer = world.post("/v1/events", mixed).json();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(2), &json!(2)), "{answer}");
    assert_eq!(answer["errors"][0]["index"], 1);
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains("item"));
    assert_eq!(answer["errors"][1]["field"], "action");
}

#[test]
fn errors_name_the_field_in_a_json_body() {
    let world = World::new();
    let cases = [
        ("/v1/rank", json!({"k": 5}), "user"),
        ("/v1/rank", json!([]), "body"),
        ("/v1/rank", json!({"user": "u1", "k": 0}), "k"),
        ("/v1/rank", json!({"user": "u1", "candidates": []}), "candidates"),
        ("/v1/rank", json!({"user": "u1", "deadline_ms": 0}), "deadline_ms"),
        ("/v1/rank", json!({"history": [{"item": 1, "action": "fly", "time": 5}]}), "history[0].action"),
        ("/v1/events", json!({"events": 5}), "events"),
        ("/v1/events", json!("text"), "body"),
    ];
    for (path, body, field) in cases {
        let answer = world.post(path, &body);
        assert_eq!(answer.status, 400, "{body}");
        let error = &answer.json()["error"];
        assert_eq!(error["field"], field, "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let unknown = world.post("/v1/rank", json!({"user": "u1", "kk": 5}));
    assert!(unknown.json()["error"]["message"].as_str().unwrap().contains("kk"));
    // What no model reads is not taken in silence.
    let context = world.post("/v1/rank", json!({"user": "u1", "context": {"page": "home"}}));
    assert!(context.status == 400 && context.json()["error"]["message"].as_str().unwrap().contains("context"));
    assert_eq!(world.get("/v1/rank").status, 405);
    assert_eq!(world.get("/nowhere").status, 404);
    assert_eq!(call(world.http, "POST", "/v1/rank", &[("content-type", "text/html")], b"{}").status, 415);
}

#[test]
fn records_are_made_changed_found_and_removed_while_serving() {
    let world = World::new();
    let vector: Vec<f32> = (0..16).map(|n| if n == 3 { 1.0 } else { 0.01 }).collect();
    let item = json!({"id": "brand-new", "title": "New", "categories": ["IAB3"], "price_micros": 1_000_000,
        "url": "https://shop.example/new", "vector": vector});
    assert_eq!(world.admin("PUT", "/v1/items/brand-new", &item).status, 201);
    let ranked = world.post("/v1/rank", json!({"user": "u1", "candidates": ["brand-new"]})).json();
    assert_eq!(ids(&ranked), ["brand-new"], "an item is scored as soon as it is made");
    let all = world.post("/v1/rank", json!({"user": "u1", "k": ITEMS + 1})).json();
    assert!(ids(&all).contains(&"brand-new".to_owned()), "and retrieved");

    let wrong = json!({"id": "short", "vector": [1.0]});
    let answer = world.admin("PUT", "/v1/items/short", &wrong);
    assert_eq!((answer.status, &answer.json()["error"]["field"]), (400, &json!("vector")));
    let orphan = json!({"id": "p", "advertiser": "a", "domain": "d.example", "budget_micros": 1, "max_bid_micros": 1,
        "goal": {"cpc": {"target_micros": 1}}, "items": ["nosuch"]});
    assert_eq!(world.admin("PUT", "/v1/plans/p", &orphan).status, 400);

    assert_eq!(world.admin("DELETE", "/v1/items/5", "").status, 409, "a plan sells it");
    assert_eq!(world.admin("DELETE", "/v1/items/brand-new", "").status, 204);
    let gone = world.post("/v1/rank", json!({"user": "u1", "candidates": ["brand-new"]})).json();
    assert_eq!(gone["skipped"], json!(["brand-new"]));

    let lines: String = (0..50)
        .map(|n| {
            json!({"id": format!("bulk-{n}"), "vector": if n == 7 { vec![1.0] } else { vec![0.5; 16] }}).to_string()
                + "\n"
        })
        .collect();
    let answer = world.admin("POST", "/v1/items:import", lines).json();
    assert!(answer.to_string().contains("49"), "49 of 50 are taken: {answer}");
}

#[test]
fn a_restart_keeps_histories_records_and_money() {
    let world = World::new();
    let vector = vec![0.25_f32; 16];
    assert_eq!(world.admin("PUT", "/v1/items/kept", json!({"id": "kept", "vector": vector})).status, 201);
    assert_eq!(
        world.post("/v1/events", json!({"id": "k1", "user": "u2", "item": 7, "action": "click"})).json()["accepted"],
        1
    );
    let request =
        json!({"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "user": {"id": "u2"}, "tmax": 2000});
    let bid = world.post("/openrtb2/bid", request).json()["seatbid"][0]["bid"][0].clone();
    let plan = bid["cid"].as_str().unwrap();
    let held = world.balance(plan);
    let time = 1_900_000_000;
    let ranked = ids(&world.post("/v1/rank", json!({"user": "u2", "k": 20, "time": time})).json());

    let world = world.restart();
    assert_eq!(world.balance(plan), held, "the hold stands");
    assert_eq!(world.admin("GET", "/v1/items/kept", "").status, 200);
    assert_eq!(world.admin("GET", "/v1/users/u2", "").json()["events"], 25);
    assert_eq!(ids(&world.post("/v1/rank", json!({"user": "u2", "k": 20, "time": time})).json()), ranked);
    assert_eq!(world.post("/v1/events", json!({"id": "k1", "user": "u2", "item": 7})).json()["duplicate"], 1);
    assert_eq!(world.admin("DELETE", "/v1/users/u2", "").status, 204);
    assert_eq!(world.admin("GET", "/v1/users/u2", "").json()["events"], 0);
}

#[test]
fn health_and_metrics_follow_the_server() {
    let world = World::new();
    assert_eq!(call(world.admin, "GET", "/livez", &[], b"").status, 200);
    let ready = call(world.admin, "GET", "/readyz", &[], b"");
    assert_eq!(ready.status, 200, "{ready:?}");
    world.post("/v1/rank", json!({"user": "u1"}));
    let metrics = String::from_utf8(call(world.admin, "GET", "/metrics", &[], b"").body).unwrap();
    let sample = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is missing"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(sample("longbow_requests_total{endpoint=\"rank\",status=\"2xx\"}") >= 1.0);
    assert!(sample("longbow_stage_seconds_count{stage=\"encode\"}") >= 1.0);
    let histories =
        |outcome: &str| sample(&format!("longbow_cache_lookups_total{{cache=\"history\",outcome=\"{outcome}\"}}"));
    assert!(histories("hit") + histories("miss") >= 1.0);
    assert!((sample("longbow_records{kind=\"plans\"}") - 12.0).abs() < 1e-9);
    assert!((sample("longbow_no_bids_total{reason=\"deadline\"}") - 0.0).abs() < 1e-9);
}

#[test]
fn an_operator_reads_what_a_plan_is_expected_to_do() {
    let world = World::new();
    let answer = world.admin("GET", "/v1/forecasts/plan-1", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let facts = answer.json();
    assert_eq!((&facts["plan"], &facts["policy"]), (&json!("plan-1"), &json!("fixed")));
    assert_eq!(facts["multiplier"], 1.0);
    assert!(facts.get("forecast").is_none(), "a fixed multiplier forecasts nothing: {facts}");
    assert_eq!(world.admin("GET", "/v1/forecasts/nobody", "").status, 404);
    assert_eq!(world.admin("POST", "/v1/forecasts/plan-1", "").status, 405);
    let patch = json!({"policy": "mpc+rl", "strategy": {"day_shares": [0.5, 0.5], "costs": [{"name": "commission", "share": 0.1}]}});
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", &patch).status, 200);
    assert_eq!(world.admin("GET", "/v1/plans/plan-1", "").json()["strategy"]["costs"][0]["share"], 0.1);
    let bad = json!({"strategy": {"costs": [{"name": "all of it", "share": 1.0}]}});
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", &bad).status, 400);
}

#[test]
fn users_that_are_long_gone_are_forgotten_where_the_settings_say_so() {
    let world = World::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let event = json!({"id": "long-ago", "user": "ancient", "item": 7, "action": "click", "time": now - 20 * 86_400});
    assert_eq!(world.post("/v1/events", event).json()["accepted"], 1);
    let dir = world.dir.clone();
    drop(world);
    let world = World::start(dir, |config| config.store.forget_users_after_days = 10);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while world.admin("GET", "/v1/users/ancient", "").json()["events"] != 0 {
        assert!(std::time::Instant::now() < until, "never forgotten");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let counted = || String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap();
    while !counted().contains("longbow_users_forgotten_total 1\n") {
        assert!(std::time::Instant::now() < until, "{}", counted());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(world.admin("GET", "/v1/users/u2", "").json()["events"], 24, "who was here lately is known");
}
