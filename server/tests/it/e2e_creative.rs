//! Composed creatives over the wire: elements arrive while ads are served, are shown, clicked, and remembered.

use crate::e2e_bid::notice;
use crate::markup_check::{markup_shape, text_of};
use crate::world::{Answer, World};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn request(number: usize) -> Value {
    json!({"id": format!("auction-{number}"), "imp": [{"id": "1", "banner": {"format": [{"w": 970, "h": 250}]}}],
           "site": {"id": "s"}, "user": {"id": format!("u{}", number % 20 + 1)}, "at": 1, "tmax": 2000})
}

fn creative() -> Value {
    json!({"id": "composed", "plan": "plan-2", "format": "banner", "w": 970, "h": 250,
    "image_url": "https://img.example/base.png",
    "elements": {
        "m0": {"part": "template", "value": "split"},
        "m1": {"part": "template", "value": "text"},
        "t0": {"part": "title", "value": "Shoes <b>&amp;</b> \"more\""},
        "t1": {"part": "title", "value": "</span></a><script>alert(1)</script>"},
        "p0": {"part": "picture", "value": "https://img.example/one.png", "under": ["m0", "m1"]},
        "p1": {"part": "picture", "value": "https://img.example/two.png", "under": ["m0"]},
    }})
}

fn bid(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["seatbid"][0]["bid"][0].clone()
}

/// Path and query of the first URL in the markup that holds `what`.
fn link(markup: &str, what: &str) -> String {
    let at = markup.find(what).unwrap();
    let end = markup[at..].find('"').unwrap();
    notice(&markup[at..at + end].replace("&amp;", "&"), "")
}

#[test]
fn elements_come_by_the_admin_port_and_go_into_ads() {
    let world = World::new();
    assert_eq!(world.admin("POST", "/v1/creatives", creative()).status, 201);
    let mut shown = BTreeSet::new();
    for number in 0..40 {
        let bid = bid(&world.post("/openrtb2/bid", request(number)));
        let id = bid["crid"].as_str().unwrap().to_owned();
        assert!(id.starts_with("composed~"), "{id}");
        let markup = bid["adm"].as_str().unwrap();
        assert!(!markup_shape(markup).unwrap().iter().any(|tag| tag.name == "script" || tag.name == "b"));
        let text = text_of(markup);
        let titles = ["Shoes <b>&amp;</b> \"more\"", "</span></a><script>alert(1)</script>"];
        assert!(titles.contains(&text.as_str()), "{text}");
        assert_eq!(world.get(&link(markup, "http://127.0.0.1")).status, 302, "the click leads on");
        let pixel = link(&markup[markup.find("</a>").unwrap()..], "http://127.0.0.1");
        assert_eq!(world.get(&pixel).status, 200);
        shown.insert(id);
    }
    assert!(shown.len() > 2, "{shown:?}");
}

#[test]
fn an_element_is_added_changed_and_taken_away_by_a_merge_patch() {
    let world = World::new();
    assert_eq!(world.admin("POST", "/v1/creatives", creative()).status, 201);
    let patch = |change: Value| world.admin("PATCH", "/v1/creatives/composed", json!({ "elements": change }));
    let added = patch(json!({"t2": {"part": "title", "value": "Brand new"}}));
    assert_eq!(added.status, 200, "{added:?}");
    assert_eq!(added.json()["elements"].as_object().unwrap().len(), 7);
    for (change, field) in [
        (json!({"x": {"part": "title"}}), "elements"),
        (json!({"x": {"part": "title", "value": ""}}), "elements.x.value"),
        (json!({"x": {"part": "hat", "value": "a"}}), "elements"),
        (json!({"x": {"part": "picture", "value": "javascript:alert(1)"}}), "elements.x.value"),
        (json!({"x": {"part": "picture", "value": "http://img.example/x.png"}}), "elements.x.value"),
        (json!({"x": {"part": "background", "value": "red;}"}}), "elements.x.value"),
        (json!({"x": {"part": "template", "value": "mine"}}), "elements.x.value"),
        (json!({"x": {"part": "title", "value": "a", "under": ["nowhere"]}}), "elements.x.under"),
        (json!({"m0": null}), "elements.p0.under"),
        (json!({"x": {"part": "title", "value": "a", "hat": 1}}), "elements"),
    ] {
        let refused = patch(change.clone());
        assert_eq!(refused.status, 400, "{change}");
        let told = refused.json().to_string();
        assert!(told.contains(field), "{change}: {told}");
    }
    // What remains is as it was, and over a restart too.
    let world = world.restart();
    let stored = world.admin("GET", "/v1/creatives/composed", "").json();
    assert_eq!(stored, added.json());
    let removed = world.admin("PATCH", "/v1/creatives/composed", json!({"elements": {"t0": null, "t1": null}}));
    assert_eq!(removed.json()["elements"].as_object().unwrap().len(), 5);
    for number in 0..5 {
        let markup = bid(&world.post("/openrtb2/bid", request(number)))["adm"].as_str().unwrap().to_owned();
        assert_eq!(text_of(&markup), "Brand new");
    }
}

#[test]
fn what_was_learned_is_read_on_the_admin_port_and_explains_a_choice() {
    let world = World::new();
    assert_eq!(world.admin("POST", "/v1/creatives", creative()).status, 201);
    let learned = |world: &World| world.admin("GET", "/v1/creatives/composed/learned", "").json();
    let before = learned(&world);
    assert_eq!((&before["plan"], &before["impressions"]), (&json!("plan-2"), &json!(0.0)));
    let bid = bid(&world.post("/openrtb2/bid", request(1)));
    let shown = bid["crid"].as_str().unwrap();
    for (number, action) in ["impression", "click"].into_iter().enumerate() {
        let event = json!({"id": format!("e{number}"), "user": "u1", "item": "1", "action": action, "creative": shown});
        assert_eq!(world.post("/v1/events", event).json()["accepted"], 1);
    }
    let after = learned(&world);
    assert_eq!((&after["impressions"], &after["clicks"]), (&json!(1.0), &json!(1.0)));
    assert!(after["expected"].as_f64() > before["expected"].as_f64(), "{before} {after}");
    let shows =
        |figures: &Value| figures["elements"].as_array().unwrap().iter().filter(|e| e["impressions"] == 1.0).count();
    assert_eq!(shows(&after), 3, "one element of each part: {after}");
    let listed = world.admin("GET", "/v1/creatives:learned?plan=plan-2&limit=1000", "").json();
    let listed = listed["creatives"].as_array().unwrap();
    assert!(listed.contains(&after) && listed.iter().all(|one| one["plan"] == "plan-2"), "{listed:?}");
    for (path, status) in [
        ("/v1/creatives/nobody/learned", 404),
        ("/v1/creatives:learned", 400),
        ("/v1/creatives:learned?plan=nobody", 404),
        ("/v1/creatives:learned?plan=plan-2&limit=0", 400),
    ] {
        assert_eq!(world.admin("GET", path, "").status, status, "{path}");
    }
    let told = world.admin("POST", "/openrtb2/bid?explain=1", request(2)).json();
    let chosen = &told["bids"][0];
    let rivals = chosen["creatives"].as_array().unwrap();
    assert_eq!(rivals[0]["id"], chosen["creative"], "the highest draw wins: {chosen}");
    assert!(rivals.iter().any(|one| one["id"] == "composed" && one["clicks"] == 1.0 && one["elements"].is_array()));
}

#[test]
fn what_an_event_and_a_notice_tell_of_one_bid_counts_once() {
    let world = World::new();
    assert_eq!(world.admin("POST", "/v1/creatives", creative()).status, 201);
    let counts = || {
        let learned = world.admin("GET", "/v1/creatives/composed/learned", "").json();
        let figures = world.admin("GET", "/v1/plans/plan-2/figures?by=total", "").json()["total"].clone();
        let learned = ["impressions", "clicks"].map(|of| learned[of].as_f64().unwrap().round());
        (learned, ["impressions", "clicks"].map(|of| figures[of].as_f64().unwrap()))
    };
    for (number, events_first) in [(11, true), (12, false)] {
        let bid = bid(&world.post("/openrtb2/bid", request(number)));
        let events = || {
            for action in ["impression", "click"] {
                let event = json!({"id": format!("{action}-{number}"), "user": "u1", "item": "1", "action": action,
                    "plan": "plan-2", "creative": bid["crid"], "bid": bid["id"]});
                assert_eq!(world.post("/v1/events", event).json()["accepted"], 1);
            }
        };
        let notices = || {
            let markup = bid["adm"].as_str().unwrap();
            assert_eq!(world.get(&link(markup, "http://127.0.0.1")).status, 302);
            let pixel = link(&markup[markup.find("</a>").unwrap()..], "http://127.0.0.1");
            assert_eq!(world.get(&pixel).status, 200);
        };
        let (first, second): (&dyn Fn(), &dyn Fn()) =
            if events_first { (&events, &notices) } else { (&notices, &events) };
        let (learned, figures) = counts();
        first();
        let more = (learned.map(|count| count + 1.0), figures.map(|count| count + 1.0));
        assert_eq!(counts(), more);
        second();
        assert_eq!(counts(), more, "told twice, counted once");
    }
}
