//! Models loaded, refused, switched and gone back to in a whole server, over real sockets.

use crate::models_kit::{
    CONTENT, change_expectation, dir, drop_self_check, edit, exchange_tensors, load, serving, truncate, two, world,
    write,
};
use crate::world::{ITEMS, USERS, World};
use longbow_model::bundle::{MANIFEST, MODEL, SELF_CHECK};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Requests whose answers are known for each model: retrieved and named candidates, stored and sent histories, a newcomer.
fn asks() -> Vec<Value> {
    let time = 1_900_000_000;
    let mut asks: Vec<Value> =
        (1..=USERS).step_by(3).map(|user| json!({"user": format!("u{user}"), "k": 10, "time": time})).collect();
    asks.push(json!({"user": "nobody", "k": 7, "time": time}));
    asks.push(json!({"user": "u9", "candidates": [1, 50, 599], "k": 3, "time": time, "objective": "click"}));
    let history: Vec<Value> =
        (0..30).map(|n| json!({"item": n * 7 + 1, "action": "click", "time": time - 50 + n})).collect();
    asks.push(json!({"history": history, "k": 5, "time": time}));
    asks
}

/// The part of an answer that only request and model decide.
fn rank(world: &World, ask: &Value) -> (String, Value) {
    let answer = world.post("/v1/rank", ask);
    assert_eq!(answer.status, 200, "{ask}: {answer:?}");
    let mut answer = answer.json();
    let version = answer["model"].as_str().unwrap().to_owned();
    assert_eq!(answer["degraded"], "full");
    answer.as_object_mut().unwrap().remove("request_id");
    (version, answer)
}

fn known(world: &World) -> Vec<Value> {
    asks().iter().map(|ask| rank(world, ask).1).collect()
}

#[test]
fn under_load_every_answer_is_of_one_model_and_none_fails() {
    let (data, a, b) = two();
    let world = world(&data);
    let of_a = known(&world);
    assert_eq!(load(&world, "b").0, 200);
    let of_b = known(&world);
    assert!(of_a.iter().zip(&of_b).all(|(a, b)| a["items"] != b["items"]), "the models answer differently");
    let (asks, done) = (asks(), AtomicBool::new(false));
    let counts: Vec<[u32; 2]> = std::thread::scope(|scope| {
        let (world, asks, done, of_a, of_b, a, b) = (&world, &asks, &done, &of_a, &of_b, &a, &b);
        let ask_on = move |first: usize| {
            let mut counts = [0; 2];
            for at in (0..asks.len()).cycle().skip(first) {
                if done.load(Relaxed) {
                    break;
                }
                let (version, answer) = rank(world, &asks[at]);
                let which = usize::from(version == *b);
                assert!(version == [a, b][which].as_str(), "an unknown model {version}");
                assert_eq!(answer, [of_a, of_b][which][at], "request {at} by {version}");
                counts[which] += 1;
            }
            counts
        };
        let askers: Vec<_> = (0..3).map(|first| scope.spawn(move || ask_on(first))).collect();
        let switches = || {
            for _ in 0..3 {
                let answer = world.admin("POST", "/v1/models/rollback?wait=true", "");
                assert_eq!(answer.status, 200, "{answer:?}");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        // The askers must end even if a switch fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(switches));
        done.store(true, Relaxed);
        let counts = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        outcome.unwrap();
        counts
    });
    for which in 0..2 {
        assert!(counts.iter().map(|count| count[which]).sum::<u32>() > 0, "both models answered: {counts:?}");
    }
    assert_eq!(serving(&world), "a", "b, then a, b, a");
}

#[test]
fn bids_go_on_while_models_change() {
    let (data, ..) = two();
    let world = world(&data);
    let done = AtomicBool::new(false);
    let banner = |number: usize| {
        let user = format!("u{}", number % USERS as usize + 1);
        json!({"id": format!("r{number}"), "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 0.0}],
            "site": {"domain": "news.example"}, "user": {"id": user}, "tmax": 2000, "test": 1})
    };
    std::thread::scope(|scope| {
        let (world, done) = (&world, &done);
        let asker = scope.spawn(move || {
            let mut answered = 0;
            for number in 0.. {
                if done.load(Relaxed) {
                    break;
                }
                let answer = world.post("/openrtb2/bid", banner(number));
                assert_eq!(answer.status, 200, "{answer:?}");
                answered += 1;
            }
            answered
        });
        let switches = [load(world, "b"), load(world, "a")].map(|(status, _)| status);
        done.store(true, Relaxed);
        assert!(asker.join().unwrap() > 0);
        assert_eq!(switches, [200, 200]);
    });
}

#[test]
fn a_bundle_that_does_not_hold_is_refused_and_the_old_model_serves_on() {
    let (data, version, _) = two();
    let world = world(&data);
    let before = known(&world);
    type Damage = fn(&Path);
    let damage: [(&str, Damage, &[&str]); 9] = [
        ("truncated", truncate, &[MODEL, "truncated"]),
        ("exchanged", exchange_tensors, &["self-check failed", "row", "relative error"]),
        (
            "expectation",
            change_expectation,
            &["self-check failed", "candidate_probs of history 0, row 0", "relative error"],
        ),
        ("unchecked", drop_self_check, &["no self-check"]),
        ("hash", |d| edit(d, |m| m["sha256"][MODEL] = "00".into()), &[MODEL, "SHA-256"]),
        ("missing", |d| std::fs::remove_file(d.join(SELF_CHECK)).unwrap(), &[SELF_CHECK, "missing"]),
        ("unnamed", |d| std::fs::remove_file(d.join(MANIFEST)).unwrap(), &[MANIFEST, "missing"]),
        ("schema", |d| edit(d, |m| m["features"]["actions"][2] = "cart".into()), &["features.actions[2]", "click"]),
        ("tasks", |d| edit(d, |m| m["features"]["tasks"][1] = "like".into()), &["features.tasks[1]", "conversion"]),
    ];
    for (name, damage, words) in damage {
        write(&data, name, (9, ITEMS), |_| {});
        damage(&dir(&data, name));
        let (status, answer) = load(&world, name);
        assert_eq!(status, 422, "{name}: {answer}");
        let reason = answer["error"]["message"].as_str().unwrap();
        for word in words {
            assert!(reason.contains(word), "{name}: {reason}");
        }
        let told = world.admin("GET", "/v1/models", "").json();
        assert_eq!(told["refused"]["reason"], reason);
        assert_eq!((&told["current"]["version"], &told["loading"]), (&json!(version), &Value::Null));
    }
    // Whole, but it lacks items of the catalogue that bring no content vector.
    write(&data, "small", (9, ITEMS - 50), |_| {});
    let (status, answer) = load(&world, "small");
    let reason = answer["error"]["message"].as_str().unwrap();
    assert!(status == 422 && reason.contains("catalogue item `") && reason.contains("6 numbers"), "{reason}");
    assert_eq!(known(&world), before, "answers are as before, bit for bit");
    let metrics = String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap();
    assert!(metrics.contains("longbow_model_loads_total{outcome=\"refused\"} 10"), "{metrics}");
    assert!(metrics.contains(&format!("longbow_model_info{{name=\"a\",version=\"{version}\"}} 1")), "{metrics}");
}

#[test]
fn a_restart_serves_the_model_switched_to_and_a_rollback_the_one_before() {
    let (data, a, b) = two();
    let first = world(&data);
    let of_a = known(&first);
    assert_eq!(first.admin("POST", "/v1/models/rollback", "").status, 409, "there is nothing to go back to");
    let (status, told) = load(&first, "b");
    assert_eq!(status, 200, "{told}");
    assert_eq!((&told["current"]["version"], &told["previous"]["version"]), (&json!(b), &json!(a)));
    assert_eq!(told["current"]["items"], ITEMS + 100);
    assert!(told["current"]["self_check"]["error_max"].as_f64().unwrap() < 1e-4);
    assert_eq!(told["available"], json!(["a", "b"]));
    let of_b = known(&first);
    drop(first);

    let second = world(&data);
    assert_eq!(serving(&second), "b");
    assert_eq!(known(&second), of_b);
    assert_eq!(second.admin("POST", "/v1/models/rollback?wait=true", "").status, 200);
    assert_eq!(known(&second), of_a);
    drop(second);

    let third = world(&data);
    assert_eq!(serving(&third), "a");
    // A bundle whose files were exchanged since is not what served before.
    std::fs::remove_dir_all(dir(&data, "b")).unwrap();
    write(&data, "b", (10, ITEMS), |_| {});
    let answer = third.admin("POST", "/v1/models/rollback?wait=true", "");
    assert!(answer.status == 422 && answer.json()["error"]["message"].as_str().unwrap().contains(&b), "{answer:?}");
    assert_eq!(load(&third, "b").0, 200, "as a new model it is welcome");
    let metrics = String::from_utf8(third.admin("GET", "/metrics", "").body).unwrap();
    assert!(metrics.contains(&format!("longbow_model_info{{name=\"a\",version=\"{a}\"}} 0")), "{metrics}");
    drop(third);

    // Settings that were changed since the last switch decide.
    let path = dir(&data, "a").join(MODEL).to_string_lossy().into_owned();
    let fourth = World::start(data, move |config| config.model.path = path);
    assert_eq!(serving(&fourth), "model", "the bare file");
    assert!(fourth.admin("GET", "/v1/models", "").json()["current"].get("self_check").is_none());
}

fn item(id: &str, entry: usize) -> Value {
    let mut vector = vec![0.1; CONTENT];
    vector[entry] = 1.0;
    json!({"id": id, "title": id, "price_micros": 1_000_000, "vector": vector})
}

fn wait_for(world: &World, name: &str) {
    let limit = Instant::now() + Duration::from_secs(60);
    while serving(world) != name {
        assert!(Instant::now() < limit, "{name} never serves: {}", world.admin("GET", "/v1/models", "").json());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every item that a ranking of everything finds.
fn found(world: &World) -> Vec<String> {
    let ask = json!({"user": "u3", "k": 2_000, "objective": "similarity"});
    let answer = world.post("/v1/rank", ask).json();
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_the_catalogue_does_during_a_load_is_not_lost() {
    let (data, ..) = two();
    let world = world(&data);
    assert_eq!(world.admin("PUT", "/v1/items/gone", item("gone", 0)).status, 201);
    assert_eq!(world.admin("PUT", "/v1/items/650", item("650", 1)).status, 201);
    assert_eq!(world.admin("PUT", "/v1/items/back", item("back", 2)).status, 201);
    assert_eq!(world.admin("POST", "/v1/models", json!({"path": "b"})).status, 202);
    assert_eq!(world.admin("POST", "/v1/models", json!({"path": "b"})).status, 409, "one at a time");
    assert_eq!(world.admin("DELETE", "/v1/items/back", "").status, 204);
    assert_eq!(world.admin("PUT", "/v1/items/back", item("back", 3)).status, 201, "with another content vector");
    assert_eq!(world.admin("PUT", "/v1/items/twin", item("twin", 3)).status, 201);
    // Changes go on, if it does not take too long, until after the switch.
    let mut added = Vec::new();
    for number in 0..500 {
        let id = format!("fresh-{number}");
        assert_eq!(world.admin("PUT", &format!("/v1/items/{id}"), item(&id, number % CONTENT)).status, 201);
        added.push(id);
        if number == 0 {
            assert_eq!(world.admin("DELETE", "/v1/items/gone", "").status, 204);
        }
        if serving(&world) == "b" {
            break;
        }
    }
    wait_for(&world, "b");
    let found = found(&world);
    assert_eq!(found.len(), ITEMS as usize + 3 + added.len());
    assert!(added.iter().all(|id| found.contains(id)) && !found.contains(&"gone".to_owned()));
    let ask = json!({"user": "u3", "candidates": ["fresh-0", "650", "gone"], "k": 3});
    let ranked = world.post("/v1/rank", ask).json();
    assert_eq!((ranked["items"].as_array().unwrap().len(), &ranked["skipped"]), (2, &json!(["gone"])));

    let twins = json!({"user": "u3", "candidates": ["back", "twin"], "k": 2, "time": 1_900_000_000});
    let twins = world.post("/v1/rank", twins).json()["items"].clone();
    for score in ["score", "similarity", "click"] {
        assert_eq!(twins[0][score], twins[1][score], "equal content, equal {score}");
    }

    // And back, and on: items added under one model are there under the other.
    assert_eq!(world.admin("POST", "/v1/models/rollback", "").status, 202);
    wait_for(&world, "a");
    assert_eq!(self::found(&world).len(), found.len());
}

#[test]
fn only_bundles_of_the_model_directory_are_read_and_faults_are_named() {
    let (data, ..) = two();
    let world = world(&data);
    for path in ["../../etc", "/etc", "nosuch", "", "a/bundle.json"] {
        let answer = world.admin("POST", "/v1/models?wait=true", json!({ "path": path }));
        assert_eq!((answer.status, &answer.json()["error"]["field"]), (400, &json!("path")), "{path}");
    }
    assert_eq!(world.admin("POST", "/v1/models", json!({"name": "a"})).status, 400);
    assert_eq!(world.admin("POST", "/v1/models?wait=maybe", json!({"path": "b"})).status, 400);
    assert_eq!(world.admin("DELETE", "/v1/models", "").status, 405);
    assert_eq!(world.admin("GET", "/v1/models/rollback", "").status, 405);
    let (status, answer) = load(&world, "a");
    assert!(status == 422 && answer["error"]["message"].as_str().unwrap().contains("serves already"), "{answer}");
}

#[test]
fn the_command_line_lists_loads_and_goes_back() {
    let (data, a, _) = two();
    let world = world(&data);
    let admin = format!("http://{}", world.admin);
    let models = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longbow"));
        let output = command.arg("models").args(args).args(["--admin", &admin, "--json"]).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let last = out.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
        (output.status.code().unwrap(), last, out + &err)
    };
    let (code, told, text) = models(&["list"]);
    assert_eq!((code, &told["current"]["name"]), (0, &json!("a")), "{text}");
    assert!(text.contains("bundles that can be loaded: a, b"), "{text}");
    let (code, told, text) = models(&["load", "b"]);
    assert_eq!((code, &told["current"]["name"], &told["previous"]["name"]), (0, &json!("b"), &json!("a")), "{text}");
    // A bare file, here the weights of `a` without its calibration, becomes a bundle of its own.
    let bare = dir(&data, "a").join(MODEL);
    let made =
        Command::new(env!("CARGO_BIN_EXE_longbow")).arg("bundle").arg(bare).arg(dir(&data, "c")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let (code, told, text) = models(&["load", "c"]);
    assert_eq!((code, &told["current"]["name"]), (0, &json!("c")), "{text}");
    assert_ne!(told["current"]["version"], a);
    assert_eq!(models(&["load", "a"]).1["current"]["version"], a);
    assert_eq!(models(&["load", "b"]).1["previous"]["version"], a);
    truncate(&dir(&data, "a"));
    let (code, _, text) = models(&["rollback"]);
    assert!(code == 1 && text.contains("refused") && text.contains("truncated"), "{text}");
    assert_eq!(serving(&world), "b");
}
