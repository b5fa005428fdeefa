//! A device whose time is promised to others, over real sockets: whoever comes is told at once, in the terms of the endpoint.

use crate::world::World;
use longbow::batch::{Claim, DeviceError, Ticket};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When what takes the device's time is due: long after every request of the test, which could all be served before it if it could
/// wait.
const DUE: Duration = Duration::from_secs(600);

/// Takes all the time that the device has until then, in ever smaller claims.
fn occupy(world: &World) -> Vec<Arc<Ticket>> {
    let by = Instant::now() + DUE;
    let (mut tickets, mut candidates) = (Vec::new(), 1 << 36);
    while candidates > 0 {
        match world.device.claim(Claim { candidates, encode_by: by, score_by: by }) {
            Ok(ticket) => tickets.push(ticket),
            Err(DeviceError::Overloaded | DeviceError::DeadlineTooNear) => candidates /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    tickets
}

fn bid(id: &str) -> serde_json::Value {
    json!({
        "id": id, "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 0.01}],
        "site": {"domain": "news.example"}, "user": {"id": "u3"}, "at": 1, "tmax": 2000
    })
}

#[test]
fn what_cannot_be_served_in_time_is_refused_at_once_with_the_reason() {
    let world = World::new();
    let rank = json!({"user": "u3", "k": 5, "deadline_ms": 2000});
    assert_eq!(world.post("/v1/rank", &rank).status, 200);
    assert_eq!(world.post("/openrtb2/bid", bid("before")).status, 200);

    let tickets = occupy(&world);
    let refusals = world.device.stats().overloaded.get();
    let refused = world.post("/v1/rank", &rank);
    let error = refused.json()["error"].clone();
    assert_eq!((refused.status, &error["code"]), (503, &json!("overloaded")), "{error}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let no_bid = world.post("/openrtb2/bid", bid("beside"));
    assert_eq!((no_bid.status, no_bid.header("x-longbow-no-bid")), (204, Some("overloaded")));
    assert_eq!(no_bid.body, b"");
    // What needs no device is served as ever.
    let event = json!({"id": "e-1", "user": "u3", "item": "7", "action": "click"});
    assert_eq!(world.post("/v1/events", event).json()["accepted"], 1);
    let metrics = String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap();
    assert!(metrics.contains("longbow_no_bids_total{reason=\"overloaded\"} 1\n"), "{metrics}");
    assert_eq!(world.device.stats().overloaded.get(), refusals + 2, "one for each, and none for the event");

    drop(tickets);
    assert_eq!(world.post("/v1/rank", &rank).status, 200);
    assert_eq!(world.post("/openrtb2/bid", bid("after")).status, 200);
}

#[test]
fn a_ranking_that_is_late_is_counted_apart_from_what_failed() {
    let world = World::start(tempfile::tempdir().unwrap().keep(), |config| config.auction.tmax_min_ms = 0);
    let late = world.post("/v1/rank", json!({"user": "u3", "k": 5, "deadline_ms": 0}));
    assert_eq!((late.status, &late.json()["error"]["code"]), (504, &json!("deadline")));
    let metrics = String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap();
    let count = |status: &str| {
        let series = format!("longbow_requests_total{{endpoint=\"rank\",status=\"{status}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&*series)).map(str::to_owned)
    };
    assert_eq!((count("504").as_deref(), count("5xx").as_deref()), (Some("1"), Some("0")), "{metrics}");
}
