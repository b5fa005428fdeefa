//! Records over real sockets: ids that can stand in a path, and changes of two people at once.

use crate::world::{Answer, World, call};
use longbow::ids::Id;
use longbow::store::{CatalogKind, CatalogRecord, CatalogStore};
use serde_json::{Value, json};

fn creative(id: &str) -> Value {
    json!({"id": id, "plan": "plan-0", "format": "banner", "w": 300, "h": 250, "image_url": "https://img.example/a.png"})
}

fn item(id: &str) -> Value {
    json!({"id": id, "title": "x", "price_micros": 1_000_000, "url": "https://shop.example/x"})
}

fn plan(world: &World, id: &str) -> Value {
    let mut plan = world.admin("GET", "/v1/plans/plan-0", "").json();
    plan["id"] = id.into();
    plan
}

#[test]
fn an_id_that_no_path_can_hold_is_refused_where_it_is_new() {
    let world = World::new();
    for id in ["a/b", "..", ".", "a\\b", "tab\there", "new\nline", "\u{7f}"] {
        for (kind, record) in [("plans", plan(&world, id)), ("creatives", creative(id)), ("items", item(id))] {
            let answer = world.admin("POST", &format!("/v1/{kind}"), &record);
            let error = &answer.json()["error"];
            assert_eq!((answer.status, &error["field"]), (400, &json!("id")), "{kind} {id:?}: {error}");
            assert!(error["message"].as_str().unwrap().contains("any characters but /"), "{error}");
            let line = world.admin("POST", &format!("/v1/{kind}:import"), &record).json();
            assert!(line.to_string().contains("any characters but /"), "{line}");
        }
    }
    // Everything else arrives, percent-encoded where a path needs it.
    for (id, path) in [("...", "..."), ("a b?c#d%e", "a%20b%3Fc%23d%25e"), ("größe:1", "gr%C3%B6%C3%9Fe%3A1")] {
        assert_eq!(world.admin("POST", "/v1/creatives", creative(id)).status, 201, "{id}");
        assert_eq!(world.admin("GET", &format!("/v1/creatives/{path}"), "").json()["id"], id);
    }
}

#[test]
fn an_id_stored_before_that_rule_is_still_read_changed_and_deleted() {
    let world = World::new();
    let (dir, record) = (world.dir.clone(), plan(&world, "old/one"));
    drop(world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = CatalogStore::open(&dir).unwrap();
    let stored =
        CatalogRecord { kind: CatalogKind::Plan, id: Id::from("old/one"), json: record.to_string().into_bytes() };
    runtime.block_on(store.put_many(vec![stored])).unwrap();
    drop(store);
    let world = World::start(dir, |_| {});
    assert_eq!(world.admin("GET", "/v1/plans/old%2Fone", "").json(), record);
    let changed = world.admin("PATCH", "/v1/plans/old%2Fone", json!({"name": "kept"}));
    assert_eq!((changed.status, &changed.json()["name"]), (200, &json!("kept")));
    assert_eq!(world.admin("DELETE", "/v1/plans/old%2Fone", "").status, 204);
    let again = world.admin("PUT", "/v1/plans/old%2Fone", &record);
    assert_eq!((again.status, &again.json()["error"]["field"]), (400, &json!("id")));
}

fn with(world: &World, method: &str, path: &str, (if_match, body): (&str, Value)) -> Answer {
    let headers = [("content-type", "application/json"), ("if-match", if_match)];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(world.admin, method, path, &headers, body.as_bytes())
}

#[test]
fn of_two_who_make_a_record_the_second_is_told() {
    let world = World::new();
    let none_match = |method: &str, path: &str, (value, body): (&str, Value)| {
        let headers = [("content-type", "application/json"), ("if-none-match", value)];
        call(world.admin, method, path, &headers, body.to_string().as_bytes())
    };
    // The model does not know it: it comes with its content.
    let mut fresh = item("fresh");
    fresh["vector"] = json!(vec![0.25; 16]);
    for (kind, record) in [("plans", plan(&world, "fresh")), ("creatives", creative("fresh")), ("items", fresh)] {
        let path = format!("/v1/{kind}/fresh");
        assert_eq!(none_match("PUT", &path, ("*", record.clone())).status, 201, "{kind}");
        let stands = world.admin("GET", &path, "").json();
        for method in ["PUT", "PATCH", "DELETE"] {
            let second = none_match(method, &path, ("*", json!({"id": "fresh"})));
            assert_eq!((second.status, &second.json()["error"]["code"]), (412, &json!("changed")), "{method} {path}");
        }
        assert_eq!(world.admin("GET", &path, "").json(), stands, "and nothing of it is done");
        let tag = none_match("PUT", &path, ("\"abc\"", record.clone()));
        assert_eq!((tag.status, &tag.json()["error"]["field"]), (400, &json!("if-none-match")));
        let both = [("content-type", "application/json"), ("if-none-match", "*"), ("if-match", "*")];
        assert_eq!(call(world.admin, "PUT", &path, &both, record.to_string().as_bytes()).status, 400);
    }
}

#[test]
fn texts_and_lists_of_a_plan_have_limits_that_name_the_field() {
    let world = World::new();
    let deals = |count: usize| (0..count).map(|n| format!("deal-{n}")).collect::<Vec<_>>();
    let refused: [(Value, &str); 14] = [
        (json!({"seat": ""}), "seat"),
        (json!({"seat": " "}), "seat"),
        (json!({"seat": "s".repeat(129)}), "seat"),
        (json!({"name": "ü".repeat(257)}), "name"),
        (json!({"domain": format!("{}.example", "d".repeat(250))}), "domain"),
        (json!({"deals": deals(1_001)}), "deals"),
        (json!({"deals": vec!["same"; 1_000]}), "deals[1]"),
        (json!({"deals": ["a", ""]}), "deals[1]"),
        (json!({"deals": ["d".repeat(129)]}), "deals[0]"),
        (json!({"items": ["12", "24", "12"]}), "items[2]"),
        (json!({"goal": {}}), "goal"),
        (json!({"goal": {"roas": {"target": 2.0}}}), "goal.roas"),
        (json!({"goal": {"roi": {"target": 2.0}, "cpc": {"target_micros": 5}}}), "goal"),
        (json!({"goal": {"roi": {"target": "two"}}}), "goal.roi.target"),
    ];
    for (number, (change, field)) in refused.iter().enumerate() {
        let mut record = plan(&world, &format!("limited-{number}"));
        record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = world.admin("POST", "/v1/plans", &record);
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["field"].as_str()), (400, Some(*field)), "{error}");
        if field.starts_with("goal") && *field != "goal.roi.target" {
            let message = error["message"].as_str().unwrap();
            assert!(["roi", "cpa", "cpc"].iter().all(|kind| message.contains(kind)), "{message}");
        }
        let line = world.admin("POST", "/v1/plans:import", &record).json();
        assert_eq!((&line["imported"], line["errors"][0]["field"].as_str()), (&json!(0), Some(*field)), "{line}");
    }
    let mut record = plan(&world, "as-large-as-may-be");
    let most = json!({"name": "ü".repeat(256), "seat": "s".repeat(128), "deals": deals(1_000)});
    record.as_object_mut().unwrap().extend(most.as_object().unwrap().clone());
    assert_eq!(world.admin("POST", "/v1/plans", &record).status, 201);
    // From one kind of goal to another: the old one is taken out.
    let both = world.admin("PATCH", "/v1/plans/plan-1", json!({"goal": {"cpc": {"target_micros": 5}}}));
    assert_eq!((both.status, both.json()["error"]["field"].as_str()), (400, Some("goal")));
    let other = json!({"goal": {"roi": null, "cpc": {"target_micros": 5}}});
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", other).status, 200);
}

#[test]
fn a_plan_stored_before_its_limits_is_served() {
    let world = World::new();
    let (dir, mut record) = (world.dir.clone(), plan(&world, "old"));
    drop(world);
    record["seat"] = "".into();
    record["deals"] = json!(["same", "same"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = CatalogStore::open(&dir).unwrap();
    let stored = CatalogRecord { kind: CatalogKind::Plan, id: Id::from("old"), json: record.to_string().into_bytes() };
    runtime.block_on(store.put_many(vec![stored])).unwrap();
    drop(store);
    let world = World::start(dir, |_| {});
    assert_eq!(world.admin("GET", "/v1/plans/old", "").json(), record);
}

#[test]
fn of_two_who_change_a_record_the_second_is_told() {
    let world = World::new();
    for (kind, id) in [("plans", "plan-1"), ("creatives", "cr-1-0"), ("items", "1")] {
        let path = format!("/v1/{kind}/{id}");
        let read = world.admin("GET", &path, "");
        let (first, mut record) = (read.header("etag").expect("a version").to_owned(), read.json());
        assert!(first.len() > 2 && first.starts_with('"') && first.ends_with('"'), "{first}");
        assert_eq!(world.admin("GET", &path, "").header("etag"), Some(&*first), "the same while nothing changes");
        // Ann changes it, made from what she read; Bob read the same.
        let change = match kind {
            "plans" => json!({"name": "Ann's"}),
            "creatives" => json!({"language": "fr"}),
            _ => json!({"title": "Ann's"}),
        };
        let ann = with(&world, "PATCH", &path, (&first, change));
        let second = ann.header("etag").expect("a version").to_owned();
        assert_eq!(ann.status, 200);
        assert_ne!(second, first);
        for (method, body) in [("PUT", record.clone()), ("PATCH", json!({})), ("DELETE", Value::Null)] {
            let bob = with(&world, method, &path, (&first, body));
            assert_eq!((bob.status, &bob.json()["error"]["code"]), (412, &json!("changed")), "{method} {path}");
        }
        let now = world.admin("GET", &path, "");
        assert_eq!((now.header("etag"), now.json()), (Some(&*second), ann.json()), "and nothing of it is done");
        // One of several versions is enough, any will do with a star, and a weak tag is no version at all.
        let weak = with(&world, "PATCH", &path, (&format!("W/{second}"), json!({})));
        assert_eq!(weak.status, 412);
        let listed = with(&world, "PATCH", &path, (&format!("{first}, {second}"), json!({})));
        assert_eq!((listed.status, listed.header("etag")), (200, Some(&*second)), "it changed nothing");
        record["id"] = id.into();
        let third = with(&world, "PUT", &path, ("*", record));
        assert_eq!((third.status, third.header("etag")), (200, Some(&*first)), "equal records are one version");
        assert_eq!(with(&world, "PATCH", &path, ("seven", json!({}))).json()["error"]["field"], "if-match");
        let none = format!("/v1/{kind}/none");
        let record = world.admin("GET", &path, "").json();
        let mut fresh = record.clone();
        fresh["id"] = "none".into();
        assert_eq!(with(&world, "PUT", &none, ("*", fresh)).status, 412, "there is none to replace");
        assert_eq!(world.admin("GET", &none, "").status, 404);
    }
}

#[test]
fn a_read_that_names_the_version_it_has_is_answered_without_it() {
    let world = World::new();
    let read = |method: &str, path: &str, tags: &[&str]| {
        let headers: Vec<(&str, &str)> = tags.iter().map(|tags| ("if-none-match", *tags)).collect();
        call(world.admin, method, path, &headers, b"")
    };
    for path in ["/v1/plans/plan-3", "/v1/items/7", "/v1/creatives/cr-3-0"] {
        let first = read("GET", path, &[]);
        let tag = first.header("etag").expect("a version").to_owned();
        let weak = format!("W/{tag}");
        let among = format!("\"a,b\" , {weak},\"c\"");
        for same in [&[&*tag][..], &[&*weak], &["*"], &[&*among], &["\"other\"", &*tag], &[&*format!(", {tag} ,")]] {
            let known = read("GET", path, same);
            assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(&*tag)), "{same:?}");
            assert_eq!(known.header("content-type"), None, "{same:?}");
            assert_eq!(read("HEAD", path, same).status, 304, "{same:?}");
        }
        for other in ["\"other\"", "W/\"other\", \"and another\"", "\"a, *, b\""] {
            let fresh = read("GET", path, &[other]);
            assert_eq!((fresh.status, fresh.json()), (200, first.json()), "{other}");
        }
        for wrong in ["", "seven", "\"open", "*, \"a\"", "\"a\" \"b\"", &vec!["\"a\""; 17].join(",")] {
            let refused = read("GET", path, &[wrong]);
            assert_eq!((refused.status, &refused.json()["error"]["field"]), (400, &json!("if-none-match")), "{wrong}");
        }
    }
    // What was changed is told again, and what is not there is not "as you have it".
    let tag = read("GET", "/v1/plans/plan-3", &[]).header("etag").unwrap().to_owned();
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-3", json!({"name": "Another"})).status, 200);
    assert_eq!(read("GET", "/v1/plans/plan-3", &[&tag]).status, 200);
    assert_eq!(read("GET", "/v1/plans/none", &["*"]).status, 404);
}

#[test]
fn the_money_of_all_plans_is_read_in_pages() {
    let world = World::new();
    let request =
        json!({"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "user": {"id": "u2"}, "tmax": 2000});
    let bid = world.post("/openrtb2/bid", request).json()["seatbid"][0]["bid"][0].clone();
    let (mut read, mut path) = (Vec::new(), "/v1/balances?limit=5".to_owned());
    let sizes: Vec<usize> = std::iter::from_fn(|| {
        let page = (!path.is_empty()).then(|| world.admin("GET", &path, "").json())?;
        assert_eq!(page["total"], 12);
        path = page["next"].as_str().map(|next| format!("/v1/balances?limit=5&after={next}")).unwrap_or_default();
        let records = page["records"].as_array().unwrap();
        read.extend(records.clone());
        Some(records.len())
    })
    .collect();
    assert_eq!(sizes, [5, 5, 2]);
    let plans = world.admin("GET", "/v1/plans", "").json();
    let ids =
        |list: &[Value], name: &str| list.iter().map(|one| one[name].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&read, "plan"), ids(plans["records"].as_array().unwrap(), "id"), "the same order");
    for balance in &read {
        assert_eq!(*balance, world.balance(balance["plan"].as_str().unwrap()), "one by one it is the same");
    }
    let held: i64 =
        read.iter().filter(|one| one["plan"] == bid["cid"]).map(|one| one["held_micros"].as_i64().unwrap()).sum();
    assert!(held > 0, "{read:?}");
    assert_eq!(world.admin("GET", "/v1/balances?limit=0", "").json()["error"]["field"], "limit");
    assert_eq!(world.admin("POST", "/v1/balances", "{}").header("allow"), Some("GET, HEAD"));
}
