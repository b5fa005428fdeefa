//! The demo world, small: made in an empty directory, served, and found again.

use crate::world::{World, call};
use serde_json::{Value, json};

fn ids(answer: &Value) -> Vec<String> {
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_demo_world_is_made_once_and_answers_both_callers() {
    let dir = tempfile::tempdir().unwrap().keep();
    let world = World::demo(dir.clone());
    let metrics = String::from_utf8(call(world.admin, "GET", "/metrics", &[], b"").body).unwrap();
    assert!(metrics.contains("longbow_records{kind=\"items\"} 3000"), "every item is there");

    let ask =
        json!({"user": "user-00001", "k": 30, "time": 1_900_000_000, "objective": "similarity", "deadline_ms": 2_000});
    let ranked = world.post("/v1/rank", &ask).json();
    assert_eq!(ranked["history_events"], 800, "a long user");
    let first = ids(&ranked);
    assert_eq!(first.len(), 30);
    let other =
        json!({"user": "user-00002", "k": 30, "time": 1_900_000_000, "objective": "similarity", "deadline_ms": 2_000});
    assert_ne!(ids(&world.post("/v1/rank", other).json()), first);

    let mut bids = 0;
    for number in 0..20 {
        let request = json!({"id": format!("d{number}"), "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}],
            "user": {"id": format!("user-{:05}", number + 1)}, "tmax": 2000});
        bids += usize::from(world.post("/openrtb2/bid", request).status == 200);
    }
    assert_eq!(bids, 20, "every plan has a 300x250");
    drop(world);

    let world = World::demo(dir);
    assert_eq!(ids(&world.post("/v1/rank", &ask).json()), first, "the same world after a restart");
}
