//! Tokens and roles over every route, the audit log, the API's description and the console, on a whole server.

use crate::world::{Answer, World, call};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

pub(crate) const OPS: &str = "token-of-ops";
pub(crate) const ANN: &str = "token-of-ann";
pub(crate) const BOB: &str = "token-of-bob";
const BOARD: &str = "token-of-board";
const FEED: &str = "token-of-feed";

/// A world whose plans 0 and 1 are Ann's (adv-0) and 2 and 3 Bob's (adv-1).
pub(crate) fn guarded() -> World {
    guarded_in(tempfile::tempdir().unwrap().keep())
}

fn guarded_in(dir: PathBuf) -> World {
    let tokens = dir.join("tokens");
    let line = |name: &str, role: &str, token: &str| {
        let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} {role} {hash}\n")
    };
    let text = [
        line("ops", "operator", OPS),
        line("ann", "advertiser:adv-0", ANN),
        line("bob", "advertiser:adv-1", BOB),
        line("board", "read", BOARD),
        line("feed", "ingest", FEED),
    ];
    std::fs::write(&tokens, text.concat()).unwrap();
    World::start(dir, |config| config.admin.token_file = tokens.display().to_string())
}

pub(crate) fn with(world: &World, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("content-type", "application/json")];
    if !token.is_empty() {
        headers.push(("authorization", &bearer));
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(world.admin, method, path, &headers, body.as_bytes())
}

pub(crate) fn plan(id: &str, advertiser: &str) -> Value {
    json!({"id": id, "advertiser": advertiser, "domain": "shop.example", "budget_micros": 1_000_000, "goal": {"roi": {"target": 2.0}},
           "max_bid_micros": 20_000, "items": ["1", "2"]})
}

fn creative(id: &str, plan: &str) -> Value {
    json!({"id": id, "plan": plan, "format": "banner", "w": 300, "h": 250, "image_url": "https://img.example/a.png"})
}

/// Method and path of every operation in the description, with `id` filled in by kind.
fn operations() -> Vec<(String, String)> {
    let doc: Value = serde_json::from_str(longbow::admin::OPENAPI).unwrap();
    let mut all = Vec::new();
    for (path, item) in doc["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            all.push((method.to_uppercase(), path.clone()));
        }
    }
    assert!(all.len() > 30);
    all
}

#[test]
fn one_advertiser_neither_sees_nor_changes_anothers_on_any_route() {
    let world = guarded();
    // What Bob has, and every way to it that the description knows.
    let before: Vec<Value> = ["/v1/plans/plan-2", "/v1/creatives/cr-2-0", "/v1/plans/plan-2/balance"]
        .iter()
        .map(|path| with(&world, OPS, "GET", path, &Value::Null).json())
        .collect();
    for (method, path) in operations() {
        let target = match path.as_str() {
            p if p.starts_with("/v1/plans/{id}") => path.replace("{id}", "plan-2"),
            p if p.starts_with("/v1/creatives/{id}") => path.replace("{id}", "cr-2-0"),
            "/v1/users/{id}" => path.replace("{id}", "u7"),
            _ => path.replace("{id}", "none"),
        };
        let body = match (method.as_str(), path.as_str()) {
            ("PUT", "/v1/plans/{id}") => plan("plan-2", "adv-0"),
            ("POST", "/v1/plans") => plan("plan-2", "adv-0"),
            ("PUT", "/v1/creatives/{id}") => creative("cr-2-0", "plan-0"),
            ("POST", "/v1/creatives") => creative("stolen", "plan-2"),
            ("PATCH", _) => json!({"state": "paused", "plan": "plan-0"}),
            ("POST", "/v1/plans:forecast") => {
                json!({"plan": "plan-2", "budget_micros": 1, "goal": {"roi": {"target": 1.0}}})
            }
            ("POST", _) => {
                json!({"id": "x", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "site": {"id": "s"}})
            }
            _ => Value::Null,
        };
        let target = if path == "/openrtb2/bid" { format!("{target}?explain=1") } else { target };
        let answer = with(&world, ANN, &method, &target, &body);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let own =
            path.starts_with("/v1/plans/{id}") || path.starts_with("/v1/creatives/{id}") || path == "/v1/users/{id}";
        if own {
            assert!(matches!(answer.status, 403 | 404), "{method} {path}: {} {text}", answer.status);
        }
        if !path.starts_with("/v1/items") && !["/metrics", "/openapi.json", "/"].contains(&path.as_str()) {
            for secret in ["shop-2.example", "\"adv-1\"", "\"plan-2\"", "cr-2-"] {
                let echo = answer.status >= 400;
                assert!(echo || !text.contains(secret), "{method} {path} tells {secret}: {text}");
            }
        }
    }
    let after: Vec<Value> = ["/v1/plans/plan-2", "/v1/creatives/cr-2-0", "/v1/plans/plan-2/balance"]
        .iter()
        .map(|path| with(&world, OPS, "GET", path, &Value::Null).json())
        .collect();
    assert_eq!(before, after, "nothing of Bob's has changed");
    assert_eq!(with(&world, OPS, "GET", "/v1/creatives/stolen", &Value::Null).status, 404);
    let users = with(&world, OPS, "GET", "/v1/users/u7", &Value::Null).json();
    assert!(users["events"].as_u64().unwrap() > 0, "still there");
    // Her own lists hold hers only, and say so.
    let list = with(&world, ANN, "GET", "/v1/plans", &Value::Null).json();
    assert_eq!((list["total"].clone(), list["records"].as_array().unwrap().len()), (2.into(), 2));
    let list = with(&world, ANN, "GET", "/v1/creatives?limit=1000", &Value::Null).json();
    assert_eq!(list["total"], 14);
    let list = with(&world, ANN, "GET", "/v1/balances", &Value::Null).json();
    let plans: Vec<&str> =
        list["records"].as_array().unwrap().iter().map(|one| one["plan"].as_str().unwrap()).collect();
    assert_eq!((list["total"].clone(), plans), (2.into(), vec!["plan-0", "plan-1"]));
    // She cannot hand a plan over, nor move a creative to Bob's plan.
    assert_eq!(with(&world, ANN, "PATCH", "/v1/plans/plan-0", &json!({"advertiser": "adv-1"})).status, 403);
    assert_eq!(with(&world, ANN, "PATCH", "/v1/creatives/cr-0-0", &json!({"plan": "plan-2"})).status, 400);
    // An item that Bob's plan sells is not hers to change; one that only she sells is.
    assert_eq!(with(&world, ANN, "PATCH", "/v1/items/2", &json!({"url": "https://evil.example"})).status, 403);
    assert_eq!(with(&world, ANN, "PATCH", "/v1/items/1", &json!({"title": "Mine"})).status, 200);
}

#[test]
fn roles_do_what_they_may_and_nothing_else() {
    let world = guarded();
    let status = |token: &str, method: &str, path: &str, body: Value| with(&world, token, method, path, &body).status;
    let pause = || json!({"state": "paused"});
    let cases = [
        ("", "GET", "/v1/plans", Value::Null, 401),
        ("wrong", "GET", "/v1/plans", Value::Null, 401),
        ("", "GET", "/livez", Value::Null, 200),
        ("", "GET", "/openapi.json", Value::Null, 200),
        (BOARD, "GET", "/v1/plans/plan-2", Value::Null, 200),
        (BOARD, "GET", "/config", Value::Null, 200),
        (BOARD, "GET", "/v1/audit", Value::Null, 403),
        (BOARD, "PATCH", "/v1/plans/plan-2", pause(), 403),
        (BOARD, "GET", "/v1/models", Value::Null, 200),
        (BOARD, "POST", "/v1/models", json!({"path": "x"}), 403),
        (BOARD, "POST", "/v1/models/rollback", Value::Null, 403),
        (ANN, "POST", "/v1/models", json!({"path": "x"}), 404),
        (BOARD, "DELETE", "/v1/users/u7", Value::Null, 403),
        (FEED, "GET", "/v1/plans", Value::Null, 403),
        (FEED, "GET", "/v1/plans/plan-2/balance", Value::Null, 403),
        (FEED, "GET", "/v1/balances", Value::Null, 403),
        ("", "GET", "/v1/balances", Value::Null, 401),
        (BOARD, "GET", "/v1/balances", Value::Null, 200),
        (FEED, "PATCH", "/v1/items/5", json!({"title": "New"}), 200),
        (FEED, "POST", "/v1/items:import", json!({"id": "6", "title": "Newer"}), 200),
        (FEED, "POST", "/v1/plans:import", json!({}), 403),
        (FEED, "PATCH", "/v1/plans/plan-2", pause(), 403),
        (FEED, "GET", "/config", Value::Null, 403),
        (FEED, "POST", "/openrtb2/bid?explain=1", json!({}), 403),
        (ANN, "POST", "/v1/items:import", json!({"id": "6"}), 403),
        (ANN, "GET", "/config", Value::Null, 403),
        (ANN, "GET", "/v1/requests", Value::Null, 403),
        (ANN, "GET", "/v1/no-such-thing", Value::Null, 404),
        (ANN, "PATCH", "/v1/plans/plan-1", pause(), 200),
        (OPS, "PATCH", "/v1/plans/plan-2", pause(), 200),
        (OPS, "GET", "/v1/audit", Value::Null, 200),
    ];
    for (token, method, path, body, wanted) in cases {
        assert_eq!(status(token, method, path, body), wanted, "{token} {method} {path}");
    }
    let refused = with(&world, "", "GET", "/v1/plans", &Value::Null);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let told = with(&world, BOARD, "POST", "/v1/models", &json!({"path": "x"})).json();
    assert_eq!(told["error"]["message"], "the role read changes nothing");
    let bearer = format!("bearer {ANN}");
    let lower = call(world.admin, "GET", "/v1/me", &[("authorization", &*bearer)], b"");
    assert_eq!((lower.status, &lower.json()["name"]), (200, &json!("ann")), "a scheme is written in any case");
    let me = with(&world, ANN, "GET", "/v1/me", &Value::Null).json();
    assert_eq!(me, json!({"name": "ann", "role": "advertiser", "advertiser": "adv-0"}));
}

#[test]
fn every_change_is_audited_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap().keep();
    let world = guarded_in(dir.clone());
    assert_eq!(with(&world, ANN, "POST", "/v1/plans", &json!({"id": "new", "domain": "a.example", "budget_micros": 5_000_000, "goal": {"roi": {"target": 2.0}}, "max_bid_micros": 9_000, "items": ["1"]})).status, 201);
    assert_eq!(with(&world, ANN, "PATCH", "/v1/plans/new", &json!({"budget_micros": 7_000_000})).status, 200);
    assert_eq!(
        with(&world, ANN, "PATCH", "/v1/plans/new", &json!({"budget_micros": -1})).status,
        400,
        "refused: not in the log"
    );
    assert_eq!(with(&world, OPS, "DELETE", "/v1/plans/new", &Value::Null).status, 204);
    assert_eq!(with(&world, OPS, "DELETE", "/v1/users/u7", &Value::Null).status, 204);
    drop(world);
    let world = guarded_in(dir);
    let audit = with(&world, OPS, "GET", "/v1/audit?limit=10", &Value::Null).json();
    let entries = audit["entries"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        entries.iter().map(|e| (e["who"].as_str().unwrap(), e["action"].as_str().unwrap())).collect();
    assert_eq!(
        told,
        [("ops", "users.forget"), ("ops", "plans.delete"), ("ann", "plans.change"), ("ann", "plans.create")]
    );
    assert_eq!(
        (&entries[2]["before"], &entries[2]["after"]),
        (&json!({"budget_micros": 5_000_000}), &json!({"budget_micros": 7_000_000}))
    );
    assert!(!audit.to_string().contains("u7"), "who was forgotten is not named");
    assert_eq!(entries[3]["after"]["advertiser"], "adv-0", "filled in for her");
}

#[test]
fn a_bad_escape_in_a_path_is_the_same_error_on_every_route() {
    let world = guarded();
    let routes: Vec<String> =
        operations().into_iter().map(|(_, path)| path).filter(|path| path.contains("{id}")).collect();
    for path in routes {
        for bad in ["%zz", "100%", "%f", "%ff", &"x".repeat(129)] {
            let answer = with(&world, OPS, "GET", &path.replace("{id}", bad), &Value::Null);
            let error = answer.json()["error"].clone();
            assert_eq!(
                (answer.status, &error["code"], &error["field"]),
                (400, &json!("invalid"), &json!("id")),
                "{path} {bad}"
            );
            assert_eq!(error["message"], "must be 1 to 128 bytes of UTF-8, percent-encoded", "{path} {bad}");
        }
    }
    let encoded = with(&world, OPS, "GET", "/v1/plans/%70lan%2D0", &Value::Null);
    assert_eq!(encoded.json()["id"], "plan-0");
    // The log knows a user by the id, however the path wrote it.
    for path in ["/v1/users/u7", "/v1/users/%75%37"] {
        assert_eq!(with(&world, OPS, "DELETE", path, &Value::Null).status, 204);
    }
    let entries = with(&world, OPS, "GET", "/v1/audit?limit=2", &Value::Null).json()["entries"].clone();
    assert_eq!(entries[0]["id"], entries[1]["id"], "{entries}");
}

#[test]
fn the_description_names_what_the_port_answers() {
    let world = guarded();
    let doc = with(&world, "", "GET", "/openapi.json", &Value::Null).json();
    assert_eq!(doc["openapi"], "3.1.0");
    for (method, path) in operations() {
        let target = path.replace("{id}", "x");
        let answer = with(&world, OPS, &method, &target, &Value::Null);
        let told = doc["paths"][&path][method.to_lowercase()]["responses"].as_object().unwrap();
        assert!(told.contains_key(&answer.status.to_string()), "{method} {path} answers {}", answer.status);
        assert_ne!(answer.status, 405, "{method} {path}");
        // A method that is not described is not answered either.
        let other = with(&world, OPS, "OPTIONS", &target, &Value::Null);
        assert_eq!(other.status, 405, "OPTIONS {path}");
        assert!(other.header("allow").is_some_and(|allow| allow.contains(&method)), "{method} {path}: {other:?}");
    }
    // References lead somewhere.
    let text = doc.to_string();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(doc["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

#[test]
fn the_console_is_served_with_its_policy() {
    let world = guarded();
    let page = with(&world, "", "GET", "/", &Value::Null);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().contains("script-src 'self'"));
    let text = String::from_utf8(page.body).unwrap();
    for quoted in text.split('"').filter(|part| part.starts_with("/console/")) {
        assert_eq!(with(&world, "", "GET", quoted, &Value::Null).status, 200, "{quoted}");
    }
}
