//! Rankings that leave items out: compared with the whole list, filtered by hand.

use crate::world::{ITEMS, World};
use serde_json::{Value, json};
use std::collections::HashSet;

fn ids(answer: &Value) -> Vec<String> {
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// The first `k` of the whole catalogue's order that pass.
fn naive(all: &[String], passes: impl Fn(&str) -> bool, k: usize) -> Vec<String> {
    all.iter().filter(|id| passes(id)).take(k).cloned().collect()
}

/// Items of the world's user `user`, as the world makes them.
fn stored(user: u32) -> HashSet<String> {
    (0..user * 12).map(|event| ((user * 37 + event * event) % ITEMS + 1).to_string()).collect()
}

#[test]
fn items_of_a_history_and_named_items_give_way_to_others() {
    let world = World::new();
    let history: Vec<Value> =
        (0..90).map(|n| json!({"item": n * 5 % 300 + 1, "action": "click", "time": 1_800_000_000 + n})).collect();
    let sent: HashSet<String> = history.iter().map(|event| event["item"].to_string()).collect();
    let subjects = [(json!({"history": history}), sent), (json!({"user": "u15"}), stored(15))];
    for (subject, seen) in &subjects {
        let rank = |more: Value| {
            let mut ask = json!({"objective": "similarity", "time": 1_900_000_000, "k": 40});
            for part in [subject, &more] {
                ask.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            }
            let answer = world.post("/v1/rank", &ask);
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()
        };
        let all = ids(&rank(json!({"k": ITEMS})));
        assert_eq!(all.len(), ITEMS as usize);
        let named: Vec<String> = all.iter().step_by(3).take(60).cloned().collect();
        let is_named = |id: &str| named.iter().any(|other| other == id);

        let without = rank(json!({"exclude_history": true}));
        assert_eq!(ids(&without), naive(&all, |id| !seen.contains(id), 40));
        assert!(ids(&without) != ids(&rank(json!({}))), "the user's own items were among the first");
        let without = rank(json!({"exclude": named}));
        assert_eq!(ids(&without), naive(&all, |id| !is_named(id), 40));
        let both = json!({"exclude": named, "exclude_history": true, "bcat": ["IAB3"]});
        let third = |id: &str| id.parse::<u32>().unwrap() % 20 + 1 == 3;
        assert_eq!(ids(&rank(both)), naive(&all, |id| !is_named(id) && !seen.contains(id) && !third(id), 40));
        assert_eq!(ids(&rank(json!({"exclude_history": false, "exclude": []}))), naive(&all, |_| true, 40));

        // Candidates are held to the same rule and named as skipped; nobody minds an unknown id.
        let old = seen.iter().next().unwrap();
        let new = naive(&all, |id| !seen.contains(id), 2);
        let answer =
            rank(json!({"candidates": [old, new[0], new[1]], "exclude": [new[1], "nosuch"], "exclude_history": true}));
        assert_eq!((ids(&answer), &answer["skipped"]), (vec![new[0].clone()], &json!([old, new[1]])));
    }
    let everything: Vec<u32> = (1..=ITEMS).collect();
    let nothing = world.post("/v1/rank", json!({"user": "u15", "exclude": everything})).json();
    assert_eq!((ids(&nothing).len(), &nothing["candidates"]), (0, &json!(0)));
    let long: Vec<u32> = (1..=10_001).collect();
    let refused = world.post("/v1/rank", json!({"user": "u15", "exclude": long}));
    assert_eq!((refused.status, &refused.json()["error"]["field"]), (400, &json!("exclude")));
}
