//! What exchanges and feeds send beside the usual: over real sockets, what is understood, what is refused, and why.

use crate::e2e_bid::notice;
use crate::wire::value;
use crate::world::{Answer, World, call};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// A request for one banner of 300x250, with these fields added to it and to its impression.
fn request(id: &str, more: &Value, of_imp: &Value) -> Value {
    let mut imp = json!({"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 0.01});
    imp.as_object_mut().unwrap().extend(of_imp.as_object().unwrap().clone());
    let mut request = json!({"id": id, "imp": [imp], "site": {"domain": "news.example"}, "user": {"id": "u7"}, "at": 1, "tmax": 2000});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

fn told(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("x-longbow-no-bid"))
}

fn metric(world: &World, series: &str) -> f64 {
    value(&String::from_utf8(world.admin("GET", "/metrics", "").body).unwrap(), series)
}

#[test]
fn several_impressions_for_one_price_are_not_bid_for() {
    let world = World::new();
    for (number, multiplier) in
        [json!(2), json!(14.2), json!(0.5), json!("3"), json!(0), json!(-1), json!("many"), json!([1])]
            .iter()
            .enumerate()
    {
        let of_imp = json!({"qty": {"multiplier": multiplier, "sourcetype": 1}});
        let body = request(&format!("several-{number}"), &json!({}), &of_imp);
        let answer = world.post("/openrtb2/bid", &body);
        assert_eq!(told(&answer), (204, Some("unsupported_imp")), "{multiplier}: {answer:?}");
        let explained = world.admin("POST", "/openrtb2/bid?explain=1", &body).json();
        let why = &explained["imps"][0]["unusable"];
        assert_eq!(why, &json!(["imp: several impressions for one price (qty) are not sold here"]), "{explained}");
    }
    for (number, qty) in
        [json!({"multiplier": 1}), json!({"multiplier": 1.0}), json!({"multiplier": "1"}), json!({}), Value::Null]
            .iter()
            .enumerate()
    {
        let answer = world.post("/openrtb2/bid", request(&format!("one-{number}"), &json!({}), &json!({"qty": qty})));
        assert_eq!(answer.status, 200, "{qty}: {answer:?}");
    }
    // Others of the same request are bid for.
    let mut both = request("both", &json!({}), &json!({"qty": {"multiplier": 5}}));
    both["imp"].as_array_mut().unwrap().push(json!({"id": "2", "banner": {"w": 300, "h": 250}}));
    let answer = world.post("/openrtb2/bid", both).json();
    assert_eq!(answer["seatbid"][0]["bid"][0]["impid"], "2", "{answer}");
    assert_eq!(answer["seatbid"].as_array().unwrap().len(), 1);
}

#[test]
fn a_win_billed_several_times_is_charged_once_and_flagged() {
    let world = World::new();
    let series =
        |outcome: &str| metric(&world, &format!("longbow_notices_total{{kind=\"win\",outcome=\"{outcome}\"}}"));
    let win = |id: &str, multiplier: &str| {
        let bid =
            world.post("/openrtb2/bid", request(id, &json!({}), &json!({}))).json()["seatbid"][0]["bid"][0].clone();
        let url = bid["nurl"].as_str().unwrap().replace("${AUCTION_MULTIPLIER}", multiplier);
        let url = notice(&url, &bid["price"].to_string());
        let spent = || world.balance(bid["cid"].as_str().unwrap())["spent_micros"].as_i64().unwrap();
        let before = spent();
        assert_eq!(world.get(&url).status, 204, "{multiplier:?}");
        #[expect(clippy::cast_possible_truncation, reason = "prices of this world are small")]
        let price = (bid["price"].as_f64().unwrap() * 1000.0).round() as i64;
        assert_eq!(spent() - before, price, "one impression at the price of the bid");
        assert_eq!(world.get(&url).status, 204, "again");
        assert_eq!(spent() - before, price);
    };
    for (id, plain) in [("a", ""), ("b", "1"), ("c", "1.0"), ("d", "x")] {
        win(id, plain);
    }
    assert_eq!((series("settled"), series("multiplied")), (4.0, 0.0));
    for (id, odd) in [("e", "7"), ("f", "0.5")] {
        win(id, odd);
    }
    assert_eq!((series("settled"), series("multiplied"), series("duplicate")), (4.0, 2.0, 6.0));
}

#[test]
fn categories_of_a_taxonomy_that_items_do_not_carry_get_no_bid() {
    let world = World::new();
    let ask = |id: &str, more: Value| world.post("/openrtb2/bid", request(id, &more, &json!({})));
    for (number, more) in [
        json!({"cattax": 7, "bcat": ["1"]}),
        json!({"cattax": 6, "acat": ["211"]}),
        json!({"cattax": "2", "bcat": ["IAB1"]}),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = ask(&format!("foreign-{number}"), more.clone());
        assert_eq!(told(&answer), (204, Some("category_taxonomy")), "{more}");
        let body = request("explained", &more, &json!({}));
        assert_eq!(world.admin("POST", "/openrtb2/bid?explain=1", body).json()["no_bid"], "category_taxonomy");
    }
    for (number, more) in [
        json!({"cattax": 7}),
        json!({"cattax": 7, "bcat": [], "acat": null}),
        json!({"cattax": 1, "bcat": ["IAB1"]}),
        json!({"cattax": 0, "bcat": ["IAB1"]}),
        json!({"bcat": ["IAB1"]}),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(ask(&format!("own-{number}"), more.clone()).status, 200, "{more}");
    }
    assert!((metric(&world, "longbow_no_bids_total{reason=\"category_taxonomy\"}") - 3.0).abs() < 1e-9);
}

#[test]
fn half_an_emoji_in_a_field_of_no_account_is_read_past() {
    let world = World::new();
    let whole = request("cut", &json!({}), &json!({})).to_string();
    let post = |body: &str| world.post("/openrtb2/bid", body);
    let with = |name: &str, fields: &str| whole.replace("\"cut\"", &format!("\"{name}\",{fields}"));
    for (name, fields) in [
        ("a", r#""source":{"ext":{"note":"cut \ud83d"}}"#),
        ("b", r#""ext":{"data":"cut \ud83d","id":"\ude00"}"#),
        ("c", r#""app":{"name":"cut \ud83d","bundle":"\ud83d","publisher":{"id":"p\ud83d","name":"\ud83d"}}"#),
        ("d", r#""ext":{"cut \ud83d":1}"#),
        ("e", r#""bapp":["\ud83d"]"#),
        ("f", r#""ext":{"whole":"\ud83d\ude00"}"#),
    ] {
        let answer = post(&with(name, fields));
        assert_eq!(answer.status, 200, "{fields}: {answer:?}");
        assert_eq!(answer.json()["id"], name);
    }
    let leniency = "longbow_leniencies_total{kind=\"lone_surrogate\"}";
    // Names and what lies below fields that are not read were never decoded.
    assert!(metric(&world, leniency) >= 2.0);
    // Where it counts, it is refused by name.
    for (body, field) in [
        (whole.replace("\"cut\"", r#""cut\ud83d""#), "id: "),
        (with("x", r#""bcat":["IAB1\ud83d"]"#), "bcat[0]: "),
        (with("x", r#""badv":["\ud83d"]"#), "badv[0]: "),
    ] {
        let answer = post(&body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.header("x-longbow-error").unwrap().starts_with(field), "{answer:?}");
    }
    assert_eq!(post(&with("x", r#""ext":"\ud83d"#)).status, 400, "broken otherwise");
    assert_eq!(post(&with("x", r#""ext":"\ud8zz""#)).status, 400);
}

#[test]
fn a_size_beside_formats_is_no_offer() {
    let world = World::new();
    let size = |id: &str, banner: Value| {
        let answer = world.post("/openrtb2/bid", request(id, &json!({}), &json!({"banner": banner})));
        (answer.status == 200).then(|| {
            let bid = answer.json()["seatbid"][0]["bid"][0].clone();
            (bid["w"].as_u64().unwrap(), bid["h"].as_u64().unwrap())
        })
    };
    let formats = json!([{"w": 728, "h": 90}]);
    for id in ["a", "b", "c", "d"] {
        assert_eq!(size(id, json!({"w": 300, "h": 250, "format": formats})), Some((728, 90)));
    }
    assert_eq!(size("e", json!({"w": 300, "h": 250, "format": [{"w": 1, "h": 1}]})), None);
    assert_eq!(size("f", json!({"w": 300, "h": 250, "format": [{"wratio": 16, "hratio": 9, "wmin": 100}]})), None);
    assert_eq!(size("g", json!({"w": 300, "h": 250, "format": []})), Some((300, 250)));
    assert_eq!(size("h", json!({"w": 300, "h": 250, "format": [{}]})), Some((300, 250)), "a format that says nothing");
}

#[test]
fn a_request_of_http_1_1_names_its_host_once() {
    let world = World::new();
    let status = |address: SocketAddr, head: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), answer)
    };
    for (address, path) in [(world.http, "/"), (world.admin, "/livez")] {
        let (missing, answer) = status(address, &format!("GET {path} HTTP/1.1\r\n"));
        assert!(missing == 400 && answer.contains("\"field\":\"host\""), "{answer}");
        assert_eq!(status(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n")).0, 400);
        assert_eq!(status(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n")).0, 200);
    }
    assert_eq!(status(world.http, "GET / HTTP/1.0\r\n").0, 200, "HTTP/1.0 has none");
}

#[test]
fn rankings_and_events_are_objects() {
    let world = World::new();
    let error = |path: &str, body: &str| {
        let answer = call(world.http, "POST", path, &[("content-type", "application/json")], body.as_bytes());
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let error = answer.json()["error"].clone();
        (error["code"].as_str().unwrap().to_owned(), error["field"].as_str().map(str::to_owned))
    };
    let invalid = |field: &str| ("invalid".to_owned(), Some(field.to_owned()));
    assert_eq!(error("/v1/rank", r#"["user-00001"]"#), invalid("body"));
    assert_eq!(error("/v1/rank", "[]"), invalid("body"));
    assert_eq!(error("/v1/rank", r#"{"history": [["1", 2, 5]]}"#), invalid("history[0]"));
    for body in ["{", "{user", r#"{"user": "u1"} x"#, ""] {
        assert_eq!(error("/v1/rank", body), ("bad_json".to_owned(), None), "{body}");
    }
    for (events, rejected) in [(json!(["user-00001"]), 1), (json!([["e1", "u1", "1", "click"], ["e2", "u1", "1"]]), 2)]
    {
        let told = world.post("/v1/events", &events).json();
        assert_eq!((&told["accepted"], &told["rejected"]), (&json!(0), &json!(rejected)), "{told}");
        assert_eq!(told["errors"][0]["field"], "event");
        assert!(told["errors"][0]["message"].as_str().unwrap().contains("a JSON object"), "{told}");
    }
}

#[test]
fn an_order_value_has_a_limit() {
    let world = World::new();
    let order = |id: &str, value: i64| {
        let event =
            json!({"id": id, "user": "u1", "item": "1", "action": "purchase", "value_micros": value, "plan": "plan-1"});
        world.post("/v1/events", event).json()
    };
    for (id, value) in [("a", 4_611_686_018_427_387_904), ("b", 1_000_000_000_000_001), ("c", -1), ("d", i64::MAX)] {
        let told = order(id, value);
        assert_eq!((&told["accepted"], &told["errors"][0]["field"]), (&json!(0), &json!("value_micros")), "{told}");
        let message = told["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("0 to 1000000000000000"), "{message}");
    }
    assert_eq!(order("e", 1_000_000_000_000_000)["accepted"], 1);
    assert_eq!(order("f", 0)["accepted"], 1);
    let total = world.admin("GET", "/v1/plans/plan-1/figures?by=total", "").json()["total"].clone();
    assert_eq!(total["order_value_micros"], 1_000_000_000_000_000_i64, "{total}");
}
