//! The exchange's view of a whole server: bids that keep the request's rules, notices that move money, requests of every kind.

use crate::openrtb_validate::problems;
use crate::shared::shared;
use crate::world::{BUDGET, PLANS, World};
use serde_json::{Value, json};

fn banner(id: &str) -> Value {
    json!({"id": id, "imp": [{"id": "1", "banner": {"format": [{"w": 300, "h": 250}]}, "bidfloor": 0.01}],
           "site": {"id": "s"}, "user": {"id": "u7"}, "at": 1, "tmax": 2000})
}

/// Every rule of the request that the answer breaks, as an error.
fn validate(request: &Value, answer: &Value) -> Result<(), String> {
    let found = problems(request, answer, &|code| (code == "USD").then_some(1.0));
    if found.is_empty() { Ok(()) } else { Err(format!("{found:?} in {answer}")) }
}

fn bids(answer: &Value) -> Vec<&Value> {
    let seats = answer["seatbid"].as_array().unwrap();
    seats.iter().flat_map(|seat| seat["bid"].as_array().unwrap()).collect()
}

/// Micros an impression of a CPM price, rounded up as charges are.
#[expect(clippy::cast_possible_truncation, reason = "prices of this world are small")]
fn micros(cpm: f64) -> i64 {
    (cpm * 1000.0 - 1e-6).ceil() as i64
}

/// Path and query of a notice with its macros filled in.
pub(crate) fn notice(url: &str, price: &str) -> String {
    let at = url.find("/notice/").unwrap();
    let filled = url[at..].replace("${AUCTION_PRICE}", price).replace("${AUCTION_CURRENCY}", "USD");
    let mut out = String::new();
    let mut rest = filled.as_str();
    while let Some(start) = rest.find("${") {
        out += &rest[..start];
        rest = &rest[start + rest[start..].find('}').unwrap() + 1..];
    }
    out + rest
}

fn sum(world: &World, column: &str) -> i64 {
    (0..PLANS).map(|plan| world.balance(&format!("plan-{plan}"))[column].as_i64().unwrap()).sum()
}

#[test]
fn a_bid_is_priced_dressed_held_and_settled() {
    let world = World::new();
    let request = banner("auction-1");
    let answer = world.post("/openrtb2/bid", &request);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("server-timing").unwrap().contains("encode;dur="), "{answer:?}");
    assert!(answer.header("x-request-id").is_some());
    let body = answer.json();
    validate(&request, &body).unwrap();
    let bid = bids(&body)[0].clone();
    let plan = bid["cid"].as_str().unwrap().to_owned();
    let price = bid["price"].as_f64().unwrap();
    let price_micros = micros(price);

    let held = world.balance(&plan);
    assert_eq!(held["held_micros"], price_micros, "the price is the ledger's");
    let lower = price / 2.0;
    let win = notice(bid["nurl"].as_str().unwrap(), &format!("{lower:.6}"));
    assert_eq!(world.get(&win).status, 204);
    let spent = world.balance(&plan);
    assert_eq!(spent["held_micros"], 0);
    assert_eq!(spent["spent_micros"], micros(lower));
    assert_eq!(spent["free_micros"].as_i64().unwrap() + spent["spent_micros"].as_i64().unwrap(), BUDGET.0);

    // Repeats change nothing; a changed URL and a price above the bid are refused.
    assert_eq!(world.get(&win).status, 204);
    assert_eq!(world.balance(&plan)["spent_micros"], spent["spent_micros"]);
    assert_eq!(world.get(&win.replace("plan-", "plam-")).status, 403);
    let above = notice(bid["burl"].as_str().unwrap(), "999");
    assert_eq!(world.get(&above).status, 400);
    assert_eq!(world.balance(&plan)["spent_micros"], spent["spent_micros"]);
}

#[test]
fn a_loss_gives_the_hold_back_and_a_test_request_holds_nothing() {
    let world = World::new();
    let mut request = banner("lost");
    request["test"] = 1.into();
    let answer = world.post("/openrtb2/bid", &request).json();
    validate(&request, &answer).unwrap();
    assert_eq!(sum(&world, "held_micros"), 0, "a test holds nothing");
    let url = notice(bids(&answer)[0]["nurl"].as_str().unwrap(), "0.01");
    assert_eq!(world.get(&url).status, 204);
    assert_eq!(sum(&world, "spent_micros"), 0, "a test charges nothing");

    request["test"] = 0.into();
    let answer = world.post("/openrtb2/bid", &request).json();
    assert!(sum(&world, "held_micros") > 0);
    let loss = notice(bids(&answer)[0]["lurl"].as_str().unwrap(), "");
    assert_eq!(world.get(&loss).status, 204);
    assert_eq!(sum(&world, "held_micros"), 0);
    assert_eq!(world.get(&loss).status, 204, "a loss may be told twice");
}

#[test]
fn every_rule_of_a_request_is_kept() {
    // The whole budget is at hand at once: no bid waits for the disk to carve more.
    let world = World::start(tempfile::tempdir().unwrap().keep(), |config| config.ledger.pool_permille = 1_000);
    let rules = [
        json!({"bcat": ["IAB1", "IAB2", "IAB3", "IAB4", "IAB5"]}),
        json!({"badv": ["shop-1.example", "shop-2.example", "shop-4.example"]}),
        json!({"wseat": ["seat-1"]}),
        json!({"bseat": ["seat-1", "seat-2"]}),
        json!({"cur": ["XXX", "USD"]}),
        json!({"at": 2}),
        json!({"imp": [{"id": "v", "video": {"mimes": ["video/mp4"], "minduration": 5, "maxduration": 30, "w": 640, "h": 360}}]}),
        json!({"imp": [{"id": "n", "native": {"request": "{\"ver\":\"1.2\",\"assets\":[{\"id\":1,\"required\":1,\"title\":{\"len\":90}},{\"id\":2,\"required\":1,\"img\":{\"type\":3,\"w\":100,\"h\":100}}]}"}}]}),
        json!({"imp": [{"id": "a", "banner": {"format": [{"w": 300, "h": 250}], "battr": [6]}}]}),
        json!({"imp": [{"id": "a", "banner": {"w": 728, "h": 90}}, {"id": "b", "banner": {"format": [{"w": 300, "h": 600}]}}, {"id": "c", "audio": {"mimes": ["audio/mp3"]}}]}),
        json!({"imp": [{"id": "d", "banner": {"format": [{"w": 300, "h": 250}]}, "pmp": {"private_auction": 1, "deals": [{"id": "deal-3", "bidfloor": 0.02}]}}]}),
    ];
    for (number, rule) in rules.into_iter().enumerate() {
        let mut request = banner(&format!("rule-{number}"));
        request.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let answer = world.post("/openrtb2/bid", &request);
        assert_eq!(answer.status, 200, "rule {rule} leaves plans that can bid: {answer:?}");
        validate(&request, &answer.json()).unwrap_or_else(|fault| panic!("{rule}: {fault}"));
    }
    let nothing = [
        json!({"badv": ["example"]}),
        json!({"wseat": ["nobody"]}),
        json!({"cur": ["XXX"]}),
        json!({"imp": [{"id": "1", "banner": {"w": 1, "h": 1}}]}),
        json!({"imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 1000}]}),
        json!({"imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "secure": 1}]}),
        json!({"imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "pmp": {"private_auction": 1, "deals": [{"id": "other"}]}}]}),
        json!({"tmax": 1}),
    ];
    for rule in nothing {
        let mut request = banner("none");
        request.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let answer = world.post("/openrtb2/bid", &request);
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{rule}: {answer:?}");
        assert!(answer.header("x-longbow-no-bid").is_some(), "the reason is told");
    }
}

#[test]
fn the_same_request_is_answered_the_same() {
    let world = World::new();
    let strip = |mut answer: Value| {
        for seat in answer["seatbid"].as_array_mut().unwrap() {
            for bid in seat["bid"].as_array_mut().unwrap() {
                ["id", "nurl", "burl", "lurl", "adm"].iter().for_each(|field| bid[*field] = Value::Null);
            }
        }
        answer["bidid"] = Value::Null;
        answer
    };
    let mut request = banner("again");
    request["test"] = 1.into();
    let first = strip(world.post("/openrtb2/bid", &request).json());
    for _ in 0..3 {
        assert_eq!(strip(world.post("/openrtb2/bid", &request).json()), first);
    }
}

#[test]
fn real_exchange_requests_are_answered() {
    let Some(file) = shared("data/openrtb/exchange-requests.jsonl") else { return };
    let world = World::new();
    let (mut with_bid, mut without) = (0, 0);
    for (number, line) in std::fs::read_to_string(file).unwrap().lines().enumerate() {
        let answer = world.post("/openrtb2/bid", line);
        match answer.status {
            200 => {
                let request: Value = serde_json::from_str(line).unwrap();
                validate(&request, &answer.json()).unwrap_or_else(|fault| panic!("line {}: {fault}", number + 1));
                with_bid += 1;
            }
            204 => {
                assert!(answer.body.is_empty());
                without += 1;
            }
            status => panic!("line {}: {status} {:?}", number + 1, answer.header("x-longbow-error")),
        }
    }
    println!("{with_bid} bids, {without} no-bids");
    assert!(with_bid > 100, "{with_bid} of {} got a bid", with_bid + without);
}

#[test]
fn malformed_requests_get_400_with_the_field_and_no_body() {
    let Some(folder) = shared("data/openrtb-bad") else { return };
    let world = World::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let answer = world.post("/openrtb2/bid", std::fs::read_to_string(&path).unwrap());
        assert_eq!((answer.status, answer.body.len()), (400, 0), "{}: {answer:?}", path.display());
        let error = answer.header("x-longbow-error").unwrap();
        assert!(error.contains(": "), "{}: `{error}` names field and fault", path.display());
    }
    assert_eq!(world.post("/openrtb2/bid", banner("after")).status, 200, "the server lives on");
}

#[test]
fn an_explanation_names_a_reason_for_every_plan() {
    let world = World::new();
    assert_eq!(world.admin("PATCH", "/v1/plans/plan-1", json!({"state": "paused"})).status, 200);
    let mut request = banner("why");
    request["badv"] = json!(["shop-2.example"]);
    let answer = world.admin("POST", "/openrtb2/bid?explain=1", &request);
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    let plans = &told["imps"][0]["plans"];
    assert_eq!(plans["plan-1"], "paused");
    assert_eq!(plans["plan-2"], "domain_blocked");
    let bidding = told["bids"].as_array().unwrap().len();
    assert_eq!(bidding, 1, "one slot, one bid: {told}");
    assert_eq!(plans.as_object().unwrap().len(), PLANS as usize - bidding, "every other plan has its reason");
    assert_eq!(sum(&world, "held_micros"), 0, "an explanation holds nothing");
}

#[test]
fn no_plan_spends_more_than_its_budget() {
    let world = World::start(tempfile::tempdir().unwrap().keep(), |config| config.log.no_bid_sample = 1.0);
    for plan in 0..PLANS {
        let answer = world.admin("PATCH", &format!("/v1/plans/plan-{plan}"), json!({"budget_micros": 30_000}));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut wins = 0;
    for number in 0..400 {
        let answer = world.post("/openrtb2/bid", banner(&format!("spend-{number}")));
        if answer.status != 200 {
            continue;
        }
        for bid in bids(&answer.json()) {
            let url = notice(bid["nurl"].as_str().unwrap(), &bid["price"].to_string());
            assert_eq!(world.get(&url).status, 204);
            wins += 1;
        }
    }
    assert!(wins > 10);
    for plan in 0..PLANS {
        let balance = world.balance(&format!("plan-{plan}"));
        let column = |name: &str| balance[name].as_i64().unwrap();
        assert!(column("spent_micros") <= 30_000, "{balance}");
        assert_eq!(column("granted_micros"), column("spent_micros") + column("held_micros") + column("free_micros"));
    }
}
