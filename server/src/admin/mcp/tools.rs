//! What each tool does.

use super::super::audit::Call;
use super::super::desk::Desk;
use super::super::plans::Span;
use super::super::{CatalogAdmin, IfMatch, Kind, Page, WriteMode, merge_patch, requests, routes, tag_of};
use super::arguments::{Arguments, check, object, text, whole};
use crate::http::respond::Fault;
use crate::ids::Id;
use crate::plans::Plan;
use crate::reports::Grouping;
use rmcp::model::{ErrorData, Tool};
use serde_json::{Map, Value, json};

/// Names, descriptions and schemas of the tools.
const TOOLS: &str = include_str!("../../../assets/mcp/tools.json");
/// Fields of a plan whose change can spend more money, or spend it otherwise.
const MONEY: &[&str] = &[
    "budget_micros",
    "goal",
    "max_bid_micros",
    "starts_at",
    "ends_at",
    "state",
    "policy",
    "items",
    "currency",
    "deals",
    "strategy",
    "seat",
];
const DAY: i64 = 86_400;
/// Records of a list when the call does not say.
const PAGE_DEFAULT: usize = 20;
/// How what is new is written.
const NEW: (WriteMode, &IfMatch) = (WriteMode::Create, &IfMatch::Anything);

/// The list of tools.
pub(super) fn list() -> Result<Vec<Tool>, ErrorData> {
    serde_json::from_str(TOOLS).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

fn told(value: &impl serde::Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value)
        .map_err(|error| Fault::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))
}

/// Runs a tool; `None` if there is none of this name.
pub(super) async fn run<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    tool: &str,
    mut arguments: Arguments,
) -> Option<Result<Value, Fault>> {
    if let Err(fault) = check(tool, &mut arguments) {
        return Some(Err(fault));
    }
    Some(match tool {
        "list_plans" => records(desk, call, Kind::Plans, &arguments).await,
        "list_items" => records(desk, call, Kind::Items, &arguments).await,
        "get_plan" => plan(desk, call, &arguments).await,
        "create_plan" => create(desk, call, arguments).await,
        "change_plan" => change(desk, call, "change_plan", arguments).await,
        "pause_plan" => pause(desk, call, &arguments).await,
        "resume_plan" => resume(desk, call, arguments).await,
        "forecast" => forecast(desk, call, arguments).await,
        "figures" => figures(desk, call, &arguments).await,
        "list_creatives" => match text(&arguments, "plan") {
            Ok(plan) => desk.creatives(call.caller, plan).await,
            Err(fault) => Err(fault),
        },
        "add_creative" => add_creative(desk, call, &arguments).await,
        "diagnose" => diagnose(desk, call, &arguments).await,
        "explain_bid" => match text(&arguments, "request") {
            Ok(id) => requests::explain_recent(desk, call.caller, id).await,
            Err(fault) => Err(fault),
        },
        _ => return None,
    })
}

async fn records<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    kind: Kind,
    arguments: &Arguments,
) -> Result<Value, Fault> {
    let after = arguments.get("after").and_then(Value::as_str).map(str::to_owned);
    let limit = whole(arguments, "limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_DEFAULT);
    let page = Page { after, limit, owner: None };
    let mut listing = desk.list(call.caller, kind, page).await?;
    for record in &mut listing.records {
        shorten(record);
    }
    told(&listing)
}

/// Long lists and vectors are of no use to a reader of words.
fn shorten(record: &mut Value) {
    let Some(fields) = record.as_object_mut() else { return };
    fields.remove("vector");
    if let Some(items) = fields.get("items").and_then(Value::as_array).filter(|items| items.len() > 20) {
        let (count, first) = (items.len(), items[..20].to_vec());
        fields.insert("items".to_owned(), first.into());
        fields.insert("items_total".to_owned(), count.into());
    }
}

async fn plan<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: &Arguments) -> Result<Value, Fault> {
    let id = text(arguments, "plan")?;
    let mut record = desk.get(call.caller, Kind::Plans, id).await?;
    shorten(&mut record);
    let balance = desk.balance(call.caller, id).await?;
    Ok(json!({ "plan": record, "balance": told(&balance)? }))
}

/// A plan as it would be, checked as far as one can without writing it.
fn checked(record: Value) -> Result<(), Fault> {
    let plan: Plan = serde_path_to_error::deserialize(record).map_err(|error| {
        let path = error.path().to_string();
        Fault::invalid(if path == "." { "plan".to_owned() } else { path }, error.into_inner().to_string())
    })?;
    plan.validate().and_then(|()| plan.check_lists()).map_err(|error| Fault::invalid(error.field, error.fault))
}

/// The answer of a first call.
fn ask<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    (tool, arguments): (&str, Arguments),
    (before, change): (Value, String),
) -> Result<Value, Fault> {
    let now = desk.now();
    let (token, expires_at) = desk.confirmations.ask((&call.caller.name, tool), arguments, before, now)?;
    Ok(json!({
        "done": false,
        "change": change,
        "confirmation": token,
        "expires_at": expires_at,
        "next": format!("If the person in charge agrees, call {tool} again with this confirmation alone."),
    }))
}

fn confirmation(arguments: &Arguments) -> Option<&str> {
    arguments.get("confirmation").and_then(Value::as_str)
}

async fn create<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: Arguments) -> Result<Value, Fault> {
    if confirmation(&arguments).is_some() {
        let waiting = desk.confirmations.take((&call.caller.name, "create_plan"), &arguments, desk.now())?;
        let record = object(&waiting.arguments, "plan")?;
        let id = text(record.as_object().unwrap_or(&Map::new()), "id")?.to_owned();
        let written = desk.put(call, Kind::Plans, (&id, record), NEW).await?;
        let mut record = written.record;
        shorten(&mut record);
        return Ok(json!({ "done": true, "plan": record }));
    }
    let mut record = object(&arguments, "plan")?;
    if let (Some(owner), Some(fields)) = (call.caller.owner(), record.as_object_mut()) {
        fields.entry("advertiser").or_insert_with(|| owner.as_str().into());
    }
    let id = text(record.as_object().unwrap_or(&Map::new()), "id")?.to_owned();
    checked(record.clone())?;
    Id::from(&*id).check_addressable().map_err(|fault| Fault::invalid("id", fault))?;
    let change = format!("Create plan {id}: {}", money(&Value::Null, &record));
    ask(desk, call, ("create_plan", arguments), (Value::Null, change))
}

async fn change<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    tool: &str,
    arguments: Arguments,
) -> Result<Value, Fault> {
    if confirmation(&arguments).is_some() {
        let waiting = desk.confirmations.take((&call.caller.name, tool), &arguments, desk.now())?;
        let id = text(&waiting.arguments, "plan")?;
        let agreed = IfMatch::Tags(vec![tag_of(&waiting.before)]);
        let written = write(desk, call, (id, object(&waiting.arguments, "change")?), &agreed).await;
        return written.map_err(|fault| match fault.status {
            hyper::StatusCode::PRECONDITION_FAILED => {
                let message = "the plan was changed meanwhile; describe the change again";
                Fault::new(hyper::StatusCode::CONFLICT, "not_confirmed", message)
            }
            _ => fault,
        });
    }
    let id = text(&arguments, "plan")?.to_owned();
    let patch = object(&arguments, "change")?;
    let before = desk.get(call.caller, Kind::Plans, &id).await?;
    let mut after = before.clone();
    merge_patch(&mut after, &patch);
    checked(after.clone())?;
    let spends = patch.as_object().is_some_and(|fields| fields.keys().any(|name| MONEY.contains(&name.as_str())));
    if !spends {
        return write(desk, call, (&id, patch), &IfMatch::Anything).await;
    }
    let change = format!("Change plan {id}: {}", money(&before, &after));
    ask(desk, call, (tool, arguments), (before, change))
}

async fn write<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    change: (&str, Value),
    if_match: &IfMatch,
) -> Result<Value, Fault> {
    let mut record = desk.patch(call, Kind::Plans, change, if_match).await?.record;
    shorten(&mut record);
    Ok(json!({ "done": true, "plan": record }))
}

/// What changes, in words: every field that differs.
fn money(before: &Value, after: &Value) -> String {
    let shown = |name: &str, value: &Value| match (name, value) {
        (name, Value::Number(micros)) if name.ends_with("_micros") => {
            format!("{:.2} {}", micros.as_f64().unwrap_or(0.0) / 1e6, after["currency"].as_str().unwrap_or("USD"))
        }
        ("items", Value::Array(items)) => format!("{} items", items.len()),
        (_, value) => value.to_string(),
    };
    let none = Map::new();
    let (then, now) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let changed = now.iter().filter(|(name, value)| then.get(*name) != Some(value));
    let parts: Vec<String> = changed
        .map(|(name, value)| match then.get(name) {
            Some(old) => format!("{name} from {} to {}", shown(name, old), shown(name, value)),
            None => format!("{name} {}", shown(name, value)),
        })
        .collect();
    if parts.is_empty() { "nothing differs".to_owned() } else { parts.join("; ") }
}

/// Pausing spends nothing: it is done at once.
async fn pause<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: &Arguments) -> Result<Value, Fault> {
    write(desk, call, (text(arguments, "plan")?, json!({ "state": "paused" })), &IfMatch::Anything).await
}

async fn resume<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, mut arguments: Arguments) -> Result<Value, Fault> {
    if confirmation(&arguments).is_none() {
        arguments.insert("change".to_owned(), json!({ "state": "active" }));
    }
    change(desk, call, "resume_plan", arguments).await
}

async fn forecast<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: Arguments) -> Result<Value, Fault> {
    let ask = routes::ask(Value::Object(arguments))?;
    told(&desk.forecast(call.caller, ask).await?)
}

async fn figures<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: &Arguments) -> Result<Value, Fault> {
    let names = ["from", "to"];
    let span = Span::read(whole(arguments, "from"), whole(arguments, "to"), (desk.now(), DAY), names)?;
    let word = arguments.get("by").and_then(Value::as_str).unwrap_or("total");
    let by = Grouping::parse(word).ok_or_else(|| Fault::invalid("by", "must be hour, channel, creative or total"))?;
    told(&desk.figures(call.caller, text(arguments, "plan")?, span, by).await?)
}

async fn add_creative<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: &Arguments) -> Result<Value, Fault> {
    let record = object(arguments, "creative")?;
    let id = text(record.as_object().unwrap_or(&Map::new()), "id")?.to_owned();
    let written = desk.put(call, Kind::Creatives, (&id, record), NEW).await?;
    Ok(json!({ "done": true, "creative": written.record }))
}

async fn diagnose<C: CatalogAdmin>(desk: &Desk<C>, call: &Call<'_>, arguments: &Arguments) -> Result<Value, Fault> {
    let (before, after) = (["before_from", "before_to"], ["after_from", "after_to"]);
    let span = |names: [&str; 2]| {
        let times = (whole(arguments, names[0]), whole(arguments, names[1]));
        if times.0.is_none() || times.1.is_none() {
            return Err(Fault::invalid(names[0], "name all four times, or none"));
        }
        Span::read(times.0, times.1, (desk.now(), DAY), names)
    };
    let any = before.iter().chain(&after).any(|name| arguments.contains_key(*name));
    let spans = if any { Some((span(before)?, span(after)?)) } else { None };
    told(&desk.diagnosis(call.caller, text(arguments, "plan")?, spans).await?)
}
