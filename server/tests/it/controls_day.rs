//! A plan's day through the controls: it buys, its figures are counted by channel and creative, it is forecast, diagnosed and explained,
//! over the API and over the Model Context Protocol.

use crate::controls::{ANN, BOB, OPS, guarded, plan, with};
use crate::e2e_bid::notice;
use crate::world::{Answer, World, call};
use serde_json::{Value, json};

/// Buys `count` impressions from a site, clicks every third and orders after every sixth; bids seen.
fn trade(world: &World, site: &str, count: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    for number in 0..count {
        let request = json!({"id": format!("{site}-{number}"), "imp": [{"id": "1", "banner": {"format": [{"w": 300, "h": 250}]}}],
            "site": {"id": "s", "domain": site}, "user": {"id": format!("u{}", number % 20 + 1)}, "at": 1, "tmax": 2000});
        let answer = world.post("/openrtb2/bid", &request);
        if answer.status != 200 {
            continue;
        }
        let bid = answer.json()["seatbid"][0]["bid"][0].clone();
        let price = bid["price"].to_string();
        assert_eq!(world.get(&notice(bid["nurl"].as_str().unwrap(), &price)).status, 204);
        let (id, plan, creative) = (&bid["id"], &bid["cid"], &bid["crid"]);
        let event = |kind: &str, action: &str, value: Option<i64>| {
            let mut event = json!({"id": format!("{kind}-{site}-{number}"), "user": "u1", "item": "1", "action": action, "plan": plan, "creative": creative, "bid": id});
            if let Some(value) = value {
                event["value_micros"] = value.into();
            }
            assert_eq!(world.post("/v1/events", json!({"events": [event]})).json()["accepted"], 1);
        };
        event("view", "impression", None);
        if number % 3 == 0 {
            event("click", "click", None);
        }
        if number % 6 == 0 {
            event("order", "purchase", Some(50_000_000));
        }
        seen.push(bid);
    }
    assert!(seen.len() > count / 2, "{} of {count}", seen.len());
    seen
}

#[test]
fn figures_are_counted_by_channel_and_creative_and_survive_a_restart() {
    let world = World::new();
    let bids = trade(&world, "news.example", 40);
    trade(&world, "games.example", 20);
    let plan = bids[0]["cid"].as_str().unwrap().to_owned();
    let path = |by: &str| format!("/v1/plans/{plan}/figures?by={by}");
    let total = world.admin("GET", &path("total"), "").json()["total"].clone();
    let balance = world.balance(&plan);
    assert_eq!(total["spend_micros"], balance["spent_micros"], "the report agrees with the ledger");
    assert!(
        total["chances"].as_u64() >= total["bids"].as_u64() && total["bids"].as_u64() >= total["wins"].as_u64(),
        "{total}"
    );
    assert_eq!(total["impressions"], total["wins"]);
    for by in ["channel", "creative", "hour"] {
        let report = world.admin("GET", &path(by), "").json();
        let rows = report["rows"].as_array().unwrap();
        for column in ["wins", "clicks", "conversions", "spend_micros", "order_value_micros"] {
            let sum: i64 = rows.iter().map(|row| row[column].as_i64().unwrap()).sum();
            assert_eq!(Some(sum), total[column].as_i64(), "{by} {column}");
        }
    }
    let channels = world.admin("GET", &path("channel"), "").json();
    let names: Vec<&str> =
        channels["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert!(names.contains(&"news.example"), "{names:?}");
    let world = world.restart();
    assert_eq!(world.admin("GET", &path("total"), "").json()["total"], total, "saved at the end, read at the start");
    let empty = world.admin("GET", &format!("/v1/plans/{plan}/figures?from=1000&to=5000&by=total"), "").json();
    assert_eq!(empty["total"]["wins"], 0);
    assert_eq!(world.admin("GET", &format!("/v1/plans/{plan}/figures?from=9&to=5"), "").status, 400);
    assert_eq!(world.admin("GET", &path("moon"), "").status, 400);
}

#[test]
fn a_plan_is_forecast_diagnosed_and_its_bids_explained() {
    let world = guarded();
    let bids = trade(&world, "news.example", 60);
    let ours = bids.iter().find(|bid| bid["cid"] == "plan-0" || bid["cid"] == "plan-1");
    // Forecast: her own figures, or a mean over enough others, or nothing, and it says which.
    let ask = json!({"budget_micros": 5_000_000, "goal": {"roi": {"target": 2.0}}, "days": 7});
    let forecast = with(&world, OPS, "POST", "/v1/plans:forecast", &ask).json();
    let scope = forecast["based_on"]["scope"].as_str().unwrap();
    assert!(["similar_plans", "nothing"].contains(&scope), "{forecast}");
    assert_eq!(forecast["expected"].is_null(), scope == "nothing");
    if let Some(expected) = forecast["expected"].as_object() {
        let spend = &expected["spend_micros"];
        assert!(spend["low"].as_f64() <= spend["expected"].as_f64() && spend["high"].as_f64() <= Some(5e6), "{spend}");
    }
    for (bad, field) in [
        (json!({"budget_micros": 0, "goal": {"roi": {"target": 2.0}}}), "budget_micros"),
        (json!({"budget_micros": 1, "goal": {"roi": {"target": 2.0}}, "days": 1e9}), "days"),
        (json!({"budget_micros": 1}), "body"),
    ] {
        let answer = with(&world, OPS, "POST", "/v1/plans:forecast", &bad);
        assert_eq!((answer.status, answer.json()["error"]["field"].clone()), (400, field.into()));
    }
    // Diagnosis of two periods of which the first is empty: everything came from traffic.
    let id = bids[0]["cid"].as_str().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let query =
        format!("before_from={}&before_to={}&after_from={}&after_to={now}", now - 20_000, now - 10_000, now - 7_000);
    let told = with(&world, OPS, "GET", &format!("/v1/plans/{id}/diagnosis?{query}"), &Value::Null);
    assert_eq!(told.status, 200, "{told:?}");
    let told = told.json();
    let sum: f64 = told["parts"].as_array().unwrap().iter().map(|part| part["spend"].as_f64().unwrap()).sum();
    let change = told["spend"]["after"].as_f64().unwrap() - told["spend"]["before"].as_f64().unwrap();
    assert!(change > 0.0 && (sum / change - 1.0).abs() < 1e-9, "{told}");
    assert_eq!(with(&world, OPS, "GET", &format!("/v1/plans/{id}/diagnosis?before_from=1"), &Value::Null).status, 400);
    // Explain: by auction and by bid id; others' plans are left out for an advertiser.
    let told = with(&world, OPS, "GET", "/v1/requests/news.example-0", &Value::Null).json();
    assert_eq!(told["answered"][0]["bid"], bids[0]["id"], "{told}");
    assert!(told["stages"].as_str().unwrap().contains("encode;dur="));
    let by_bid =
        with(&world, OPS, "GET", &format!("/v1/requests/{}", bids[0]["id"].as_str().unwrap()), &Value::Null).json();
    assert_eq!(by_bid["auction"], told["auction"]);
    let foreign = bids.iter().find(|bid| bid["cid"] != "plan-0" && bid["cid"] != "plan-1").unwrap();
    let hers =
        with(&world, ANN, "GET", &format!("/v1/requests/{}", foreign["id"].as_str().unwrap()), &Value::Null).json();
    assert_eq!(hers["answered"], json!([]), "another's bid is not hers to see");
    let plans = hers["now"]["imps"][0]["plans"].as_object().unwrap();
    assert!(plans.keys().all(|plan| plan == "plan-0" || plan == "plan-1"), "{plans:?}");
    assert!(hers["now"]["imps"][0].get("counts").is_none());
    if let Some(ours) = ours {
        let hers =
            with(&world, ANN, "GET", &format!("/v1/requests/{}", ours["id"].as_str().unwrap()), &Value::Null).json();
        assert_eq!(hers["answered"].as_array().unwrap().len(), 1);
    }
    assert_eq!(with(&world, OPS, "GET", "/v1/requests/none", &Value::Null).status, 404);
    let posteriors = with(&world, ANN, "GET", "/v1/plans/plan-0/creatives", &Value::Null).json();
    let rate = &posteriors["creatives"][0]["click_rate"];
    assert!(rate["low"].as_f64() < rate["mean"].as_f64() && rate["mean"].as_f64() < rate["high"].as_f64(), "{rate}");
    let creative = &posteriors["creatives"][0];
    let path = format!("/v1/creatives/{}/learned", creative["creative"]["id"].as_str().unwrap());
    let learned = with(&world, ANN, "GET", &path, &Value::Null).json();
    for (here, there) in [("impressions", "impressions"), ("clicks", "clicks"), ("elements", "elements")] {
        assert_eq!(creative[here], learned[there], "one way to get what was learned");
    }
    assert_eq!(rate["mean"], learned["expected"]);
}

/// One message over a socket of its own.
fn rpc(world: &World, token: &str, message: &Value) -> Answer {
    rpc_bytes(world, token, message.to_string().as_bytes())
}

fn rpc_bytes(world: &World, token: &str, body: &[u8]) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", &*bearer),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-06-18"),
    ];
    call(world.admin, "POST", "/mcp", &headers, body)
}

#[test]
fn what_is_no_message_is_refused_in_the_terms_of_the_protocol() {
    let world = guarded();
    let cases: [(&[u8], i64, Value); 6] = [
        (b"{\"jsonrpc\":", -32_700, Value::Null),
        (b"", -32_700, Value::Null),
        (b"\xff\xfe", -32_700, Value::Null),
        (b"[]", -32_600, Value::Null),
        (b"{\"hello\": 1}", -32_600, Value::Null),
        (b"{\"jsonrpc\": \"1.0\", \"id\": 7, \"method\": \"tools/list\"}", -32_600, json!(7)),
    ];
    for (body, code, id) in cases {
        let answer = rpc_bytes(&world, ANN, body);
        let told = answer.json();
        let seen = (answer.status, told["jsonrpc"].clone(), told["error"]["code"].clone(), told["id"].clone());
        assert_eq!(seen, (400, json!("2.0"), json!(code), id), "{}", String::from_utf8_lossy(body));
        assert!(told["error"]["message"].as_str().is_some_and(|text| text.contains("JSON")), "{told}");
    }
    // A body that does not even claim to be JSON is another matter.
    let bearer = format!("Bearer {ANN}");
    let headers = [
        ("authorization", &*bearer),
        ("content-type", "text/plain"),
        ("accept", "application/json, text/event-stream"),
    ];
    assert_eq!(call(world.admin, "POST", "/mcp", &headers, b"hello").status, 415);
}

fn result(world: &World, token: &str, method: &str, params: &Value) -> Value {
    let answer = rpc(world, token, &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Calls a tool: true and its result, or false and its error.
fn tool(world: &World, token: &str, name: &str, arguments: &Value) -> (bool, Value) {
    let reply = result(world, token, "tools/call", &json!({"name": name, "arguments": arguments}));
    let told = &reply["result"];
    assert!(told.is_object(), "{reply}");
    (told["isError"] != true, told["structuredContent"].clone())
}

/// The plan `agent` of Ann's, made as an agent makes it: what cannot work is refused in the first of two calls, and only the second acts.
fn created(world: &World) {
    let (ok, told) = tool(world, ANN, "create_plan", &json!({"plan": {"id": "agent"}}));
    assert!(!ok && told["error"]["message"].as_str().unwrap().contains("missing field"), "{told}");
    let mut wanted = plan("agent", "adv-0");
    wanted.as_object_mut().unwrap().remove("advertiser");
    let (ok, asked) = tool(world, ANN, "create_plan", &json!({"plan": wanted}));
    assert!(
        ok && asked["done"] == false && asked["change"].as_str().unwrap().contains("budget_micros 1.00"),
        "{asked}"
    );
    assert_eq!(with(world, ANN, "GET", "/v1/plans/agent", &Value::Null).status, 404, "not yet");
    let confirm = json!({"confirmation": asked["confirmation"]});
    assert!(!tool(world, BOB, "create_plan", &confirm).0, "not Bob's to confirm");
    assert!(!tool(world, ANN, "change_plan", &confirm).0, "not of that tool");
    let (ok, made) = tool(world, ANN, "create_plan", &confirm);
    assert!(ok && made["done"] == true && made["plan"]["advertiser"] == "adv-0", "{made}");
    assert!(!tool(world, ANN, "create_plan", &confirm).0, "once only");
}

#[test]
fn an_argument_that_a_tool_does_not_have_is_refused_by_name() {
    let world = guarded();
    let list = result(&world, OPS, "tools/list", &json!({}))["result"]["tools"].clone();
    for known in list.as_array().unwrap() {
        assert_eq!(known["inputSchema"]["additionalProperties"], false, "{known}");
        let name = known["name"].as_str().unwrap();
        let (ok, told) = tool(&world, OPS, name, &json!({"plan": "plan-0", "form": 5}));
        let message = told["error"]["message"].as_str().unwrap_or_default();
        assert!(!ok && message.contains("is no argument of") && message.contains(name), "{name}: {told}");
    }
    let (ok, told) = tool(&world, OPS, "figures", &json!({"plan": "plan-0", "form": 5}));
    assert!(
        !ok && told["error"]["field"] == "form" && told["error"]["message"].as_str().unwrap().contains("from"),
        "{told}"
    );
    assert!(tool(&world, OPS, "figures", &json!({"plan": "plan-0", "from": 5})).0);
}

#[test]
fn an_argument_of_another_type_is_refused_and_not_taken_as_left_out() {
    let world = guarded();
    let list = result(&world, OPS, "tools/list", &json!({}))["result"]["tools"].clone();
    let mut tried = 0;
    for known in list.as_array().unwrap() {
        let name = known["name"].as_str().unwrap();
        for (argument, schema) in known["inputSchema"]["properties"].as_object().unwrap() {
            let (wrong, wanted, came) = match schema["type"].as_str() {
                Some("string") => (json!(17), "text", "17"),
                Some("integer") => (json!("17"), "a whole number", "\"17\""),
                Some("number") => (json!([17]), "a number", "[17]"),
                Some("object") => (json!("all of it"), "an object", "\"all of it\""),
                _ if schema["enum"].is_array() => (json!({"a": 1}), "one of hour, channel", "{\"a\":1}"),
                _ => continue,
            };
            let (ok, told) = tool(&world, OPS, name, &json!({argument: wrong}));
            let message = told["error"]["message"].as_str().unwrap_or_default();
            assert!(!ok && told["error"]["field"] == *argument, "{name} {argument}: {told}");
            assert!(
                message.contains(&format!("must be {wanted}")) && message.contains(came),
                "{name} {argument}: {told}"
            );
            tried += 1;
        }
    }
    assert!(tried > 25, "{tried}");
    for (limit, fits) in
        [(json!(0), false), (json!(101), false), (json!(1.5), false), (json!(3), true), (json!(null), true)]
    {
        let (ok, told) = tool(&world, OPS, "list_plans", &json!({"limit": limit}));
        assert_eq!(ok, fits, "{limit}: {told}");
        assert!(ok || told["error"]["message"].as_str().unwrap().contains("from 1 to 100"), "{told}");
    }
    // A confirmation that is no text is not a first call.
    let (ok, told) = tool(&world, OPS, "resume_plan", &json!({"plan": "plan-0", "confirmation": 5}));
    assert!(!ok && told["error"]["field"] == "confirmation", "{told}");
    let prompts = result(&world, OPS, "prompts/list", &json!({}))["result"]["prompts"].clone();
    for prompt in prompts.as_array().unwrap() {
        let names: Vec<&str> =
            prompt["arguments"].as_array().unwrap().iter().map(|argument| argument["name"].as_str().unwrap()).collect();
        for &wrong in &names {
            let given: serde_json::Map<String, Value> = names
                .iter()
                .map(|&name| (name.to_owned(), if name == wrong { json!(5) } else { json!("some") }))
                .collect();
            let reply = result(&world, OPS, "prompts/get", &json!({"name": prompt["name"], "arguments": given}));
            let message = reply["error"]["message"].as_str().unwrap_or_default();
            assert!(message.contains(wrong) && message.contains("must be text"), "{reply}");
        }
    }
}

#[test]
fn a_forecast_with_nothing_to_go_by_counts_nothing() {
    let world = guarded();
    let ask = json!({"budget_micros": 5_000_000, "goal": {"cpa": {"target_micros": 1_000_000}}});
    let text = String::from_utf8(with(&world, OPS, "POST", "/v1/plans:forecast", &ask).body).unwrap();
    assert!(text.contains("\"scope\":\"nothing\"") && text.contains("\"impressions\":0.0"), "{text}");
    assert!(!text.contains("-0.0"), "{text}");
}

#[test]
fn an_agent_changes_money_in_two_calls_and_the_rest_in_one() {
    let world = guarded();
    created(&world);
    // Money waits for a confirmation, a name does not.
    let (_, done) = tool(&world, ANN, "change_plan", &json!({"plan": "agent", "change": {"name": "By an agent"}}));
    assert_eq!(done["done"], true);
    let (_, asked) =
        tool(&world, ANN, "change_plan", &json!({"plan": "agent", "change": {"budget_micros": 2_000_000}}));
    assert_eq!(
        (asked["done"].clone(), asked["change"].as_str()),
        (false.into(), Some("Change plan agent: budget_micros from 1.00 USD to 2.00 USD"))
    );
    with(&world, ANN, "PATCH", "/v1/plans/agent", &json!({"max_bid_micros": 10_000}));
    let (ok, told) = tool(&world, ANN, "change_plan", &json!({"confirmation": asked["confirmation"]}));
    assert!(!ok && told["error"]["code"] == "not_confirmed", "changed meanwhile: {told}");
    let (_, asked) =
        tool(&world, ANN, "change_plan", &json!({"plan": "agent", "change": {"budget_micros": 2_000_000}}));
    assert_eq!(
        tool(&world, ANN, "change_plan", &json!({"confirmation": asked["confirmation"]})).1["plan"]["budget_micros"],
        2_000_000
    );
    assert_eq!(tool(&world, ANN, "pause_plan", &json!({"plan": "agent"})).1["plan"]["state"], "paused");
    let (_, asked) = tool(&world, ANN, "resume_plan", &json!({"plan": "agent"}));
    assert_eq!(
        tool(&world, ANN, "resume_plan", &json!({"confirmation": asked["confirmation"]})).1["plan"]["state"],
        "active"
    );
    let banner = json!({"creative": {"id": "agent-1", "plan": "agent", "format": "banner", "w": 300, "h": 250, "image_url": "https://img.example/x.png"}});
    assert!(tool(&world, ANN, "add_creative", &banner).0);
}

#[test]
fn an_agent_reads_its_own_and_nothing_of_others() {
    let world = guarded();
    created(&world);
    for (name, arguments) in [
        ("list_plans", json!({})),
        ("list_items", json!({"limit": 2})),
        ("get_plan", json!({"plan": "agent"})),
        ("figures", json!({"plan": "agent", "by": "hour"})),
        ("list_creatives", json!({"plan": "agent"})),
        ("forecast", json!({"plan": "agent", "budget_micros": 2_000_000, "goal": {"roi": {"target": 2.0}}})),
    ] {
        let (ok, told) = tool(&world, ANN, name, &arguments);
        assert!(ok && told.is_object(), "{name}: {told}");
        assert!(!told.to_string().contains("adv-1"), "{name}");
        if arguments.get("plan").is_some() {
            assert!(!tool(&world, BOB, name, &arguments).0, "{name} is not Bob's");
        }
    }
    for name in ["pause_plan", "resume_plan", "diagnose"] {
        let (ok, told) = tool(&world, BOB, name, &json!({"plan": "agent"}));
        assert!(!ok && told["error"]["code"] == "not_found", "{name}: {told}");
    }
    assert!(!tool(&world, BOB, "change_plan", &json!({"plan": "agent", "change": {"name": "x"}})).0);
}

#[test]
fn an_agent_finds_tools_resources_prompts_and_is_logged() {
    let world = guarded();
    let hello =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let told = result(&world, ANN, "initialize", &hello)["result"].clone();
    assert_eq!(told["serverInfo"]["name"], "longbow", "{told}");
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(rpc(&world, ANN, &ready).status, 202);
    let tools = result(&world, ANN, "tools/list", &json!({}))["result"]["tools"].clone();
    assert_eq!(tools.as_array().unwrap().len(), 13);
    created(&world);
    let list = result(&world, ANN, "resources/list", &json!({}))["result"]["resources"].clone();
    assert!(
        list.to_string().contains("longbow://plans/agent/report") && !list.to_string().contains("plan-2"),
        "{list}"
    );
    let read = result(&world, ANN, "resources/read", &json!({"uri": "longbow://plans/agent"}));
    assert!(read["result"]["contents"][0]["text"].as_str().unwrap().contains("shop.example"), "{read}");
    assert!(result(&world, BOB, "resources/read", &json!({"uri": "longbow://plans/agent"}))["error"].is_object());
    assert_eq!(result(&world, ANN, "prompts/list", &json!({}))["result"]["prompts"].as_array().unwrap().len(), 4);
    let prompt = result(&world, ANN, "prompts/get", &json!({"name": "daily_review", "arguments": {"plan": "agent"}}));
    assert!(prompt["result"]["messages"][0]["content"]["text"].as_str().unwrap().contains("plan agent"), "{prompt}");
    assert!(result(&world, ANN, "tools/call", &json!({"name": "nothing"}))["error"].is_object());
    let audit = with(&world, OPS, "GET", "/v1/audit", &Value::Null).json();
    let entries = audit["entries"].as_array().unwrap();
    assert!(entries.iter().any(|e| e["via"] == "mcp" && e["who"] == "ann" && e["action"] == "plans.create"), "{audit}");
    assert_eq!(rpc(&world, "wrong", &json!({})).status, 401);
    assert!((400..500).contains(&rpc(&world, ANN, &json!({"jsonrpc": "2.0"})).status));
}
