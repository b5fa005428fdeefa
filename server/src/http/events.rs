//! `POST /v1/events`: what users did, batched, idempotent by event id.

use super::json::Object;
use super::notices::NoticeKind;
use super::respond::{self, Fault};
use super::routes::timed;
use super::{Request, Response};
use crate::actions;
use crate::app::{App, Expected};
use crate::auction::choose::{Outcome, Sight};
use crate::auction::pace::{Cell, PlanOutcome};
use crate::batch::Urgency;
use crate::catalog::Catalog;
use crate::ids::{Id, ItemKey};
use crate::ledger::BidId;
use crate::meters::{EventOutcome, Stage, StageTimes};
use crate::money::Micros;
use crate::pipeline::user_key;
use crate::store::{self, StoreError, UserEvent};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;
use std::time::Instant;

/// Rejections listed in an answer; all are counted.
const LISTED_MAX: usize = 100;

/// One event as callers write it and as `longbow import` sends it. What is left out takes its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Sent again with the same id, an event counts once.
    pub id: Id,
    /// Who.
    pub user: Id,
    /// With what; 64-bit integers, negative ones too, keep their value.
    pub item: Id,
    /// Name or number; `view` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Value>,
    /// Unix seconds; now if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Order value, micros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_micros: Option<Micros>,
    /// Plan whose ad led to it: the event counts as its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Id>,
    /// Creative that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creative: Option<Id>,
    /// Bid that showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bid: Option<Id>,
}

/// A rejected event.
#[derive(Debug, Serialize)]
struct Rejection {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    field: String,
    message: String,
}

/// Answer: every event is exactly one of accepted, duplicate, rejected.
#[derive(Debug, Default, Serialize)]
struct EventsAnswer {
    accepted: usize,
    duplicate: usize,
    rejected: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Rejection>,
}

impl EventsAnswer {
    fn reject(&mut self, index: usize, id: Option<Id>, fault: Fault) {
        self.rejected += 1;
        if self.errors.len() < LISTED_MAX {
            let field = fault.field.unwrap_or_else(|| "event".to_owned());
            self.errors.push(Rejection { index, id, field, message: fault.message });
        }
    }
}

/// Takes a batch: `{"events": [...]}`, a list, one event, or one event a line. Answers when what was accepted is durable.
pub async fn handle(app: &App, mut request: Request) -> Response {
    let mut times = StageTimes::from(request.arrived);
    let response = answer(app, &mut request, &mut times).await.unwrap_or_else(|fault| fault.respond(request.endpoint));
    timed(app, response, &mut times)
}

async fn answer(app: &App, request: &mut Request, times: &mut StageTimes) -> Result<Response, Fault> {
    request.expect_json()?;
    let bytes = request.bytes(app.config.http.events_body_bytes_max).await.map_err(|error| error.fault())?;
    let values = split(&bytes)?;
    drop(bytes);
    let most = app.config.events.batch_max;
    if values.len() > most {
        return Err(Fault::invalid("events", format!("may hold at most {most} events, found {}", values.len())));
    }
    let now = app.clock.seconds();
    let mut answer = EventsAnswer::default();
    let mut taken: Vec<(usize, Event, UserEvent)> = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        match read(value, now) {
            Ok((body, event)) => taken.push((index, body, event)),
            Err((id, fault)) => answer.reject(index, id, fault),
        }
    }
    times.end(Stage::Parse, Instant::now());
    let events: Vec<UserEvent> = taken.iter().map(|(_, _, event)| event.clone()).collect();
    let outcomes = if events.is_empty() { Vec::new() } else { append(app, events).await? };
    let catalog = app.catalog.snapshot();
    let mut touched: HashSet<Id> = HashSet::new();
    for ((index, body, event), outcome) in taken.into_iter().zip(outcomes) {
        match outcome {
            store::EventOutcome::Accepted => {
                answer.accepted += 1;
                feed_back(app, &catalog, &body, event.action);
                touched.insert(event.user);
            }
            store::EventOutcome::Duplicate => answer.duplicate += 1,
            store::EventOutcome::Rejected(fault) => {
                answer.reject(index, Some(body.id), field_fault(&fault.to_string()))
            }
        }
    }
    for user in touched {
        refresh(app, &catalog, &user);
    }
    for (kind, count) in [
        (EventOutcome::Accepted, answer.accepted),
        (EventOutcome::Duplicate, answer.duplicate),
        (EventOutcome::Rejected, answer.rejected),
    ] {
        app.meters.events.of(kind).increment(count as u64);
    }
    times.end(Stage::Record, Instant::now());
    Ok(respond::json(StatusCode::OK, &answer))
}

async fn append(app: &App, events: Vec<UserEvent>) -> Result<Vec<store::EventOutcome>, Fault> {
    let retry = app.config.http.retry_after_s;
    app.users.append(events).await.map_err(|error| match error {
        StoreError::Busy(_) => Fault::overloaded("the store's queue is full; send the batch again", retry),
        StoreError::TooMany(most) => Fault::invalid("events", format!("may hold at most {most} events")),
        // Logged when it happened; the metric `longbow_poisoned` and /readyz say the rest.
        StoreError::Poisoned(_) => {
            Fault::unavailable("the user store takes no events until the server is restarted; /readyz says why", retry)
        }
        error => {
            tracing::error!(%error, "events were not stored");
            Fault::unavailable("events cannot be stored now; send the batch again", retry)
        }
    })
}

/// The events of a body, each still unread, so that one bad event does not spoil its batch.
fn split(bytes: &[u8]) -> Result<Vec<Value>, Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch {
        events: Vec<Value>,
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Array(events)) => Ok(events),
        Ok(value @ Value::Object(_)) if value.get("events").is_some() => {
            let batch = serde_json::from_value::<Batch>(value);
            batch.map(|batch| batch.events).map_err(|error| Fault::invalid("events", error.to_string()))
        }
        Ok(value @ Value::Object(_)) => Ok(vec![value]),
        Ok(_) => Err(Fault::invalid("body", "must be {\"events\": [...]}, a list of events, or one event a line")),
        Err(whole) => {
            let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
            let mut events = Vec::new();
            for (number, line) in lines.enumerate() {
                // The first line tells whether the body is line by line at all.
                let event = serde_json::from_slice(line).map_err(|error| {
                    let error = if number == 0 { whole.to_string() } else { format!("line {}: {error}", number + 1) };
                    Fault::invalid("body", error)
                })?;
                events.push(event);
            }
            if events.is_empty() { Err(Fault::invalid("body", "is empty")) } else { Ok(events) }
        }
    }
}

fn read(value: Value, now: i64) -> Result<(Event, UserEvent), (Option<Id>, Fault)> {
    let id = value.get("id").and_then(|id| serde_json::from_value(id.clone()).ok());
    let Object(body): Object<Event> = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (id.clone(), Fault::invalid(if path == "." { "event" } else { &path }, error.into_inner().to_string()))
    })?;
    let fault = |field: &str, message: String| (Some(body.id.clone()), Fault::invalid(field, message));
    let item = ItemKey::parse(body.item.as_str()).ok_or_else(|| fault("item", "is no identifier".to_owned()))?;
    let action = actions::parse(body.action.as_ref()).map_err(|error| fault("action", error))?;
    // Time and value are the store's to judge.
    let event = UserEvent {
        event_id: body.id.clone(),
        user: body.user.clone(),
        item,
        action,
        time: body.time.unwrap_or(now),
        value_micros: body.value_micros,
        plan: body.plan.clone(),
        creative: body.creative.clone(),
        bid: body.bid.clone(),
    };
    Ok((body, event))
}

/// A fault written as `field: what is wrong`.
fn field_fault(text: &str) -> Fault {
    let (field, fault) = text.split_once(": ").unwrap_or(("event", text));
    Fault::invalid(field, fault)
}

/// An accepted event that names an ad counts as its result.
fn feed_back(app: &App, catalog: &Catalog, body: &Event, action: u16) {
    let bid = body.bid.as_ref().map(|bid| BidId::parse(bid.as_str()));
    let expected = bid.map_or_else(Expected::default, |bid| app.predicted.of(bid));
    let shown = match action {
        actions::IMPRESSION => Some((Outcome::Impression, PlanOutcome::Impression(expected.value))),
        actions::CLICK => Some((Outcome::Click, PlanOutcome::Click)),
        _ => None,
    };
    let sight = body.creative.as_ref().and_then(|id| Sight::find(catalog, id.as_str()));
    let creative = sight.as_ref().map(|sight| sight.creative);
    let plan = body.plan.as_ref().and_then(|id| catalog.plan_slot(id));
    // The pixel or the click notice of the same bid may have told it already, or will: the first report counts.
    let kind = if action == actions::CLICK { NoticeKind::Click } else { NoticeKind::Impression };
    if let (Some(bid), Some(_)) = (bid, shown)
        && (plan.is_some() || sight.is_some())
        && !app.seen.first(kind, bid)
    {
        return;
    }
    if let (Some(sight), Some((outcome, _))) = (sight, shown) {
        let sight = Sight { user: user_key(&body.user), now_s: app.clock.seconds(), ..sight };
        app.chooser.record(catalog, sight, outcome);
    }
    let result = match (shown, action) {
        (Some((_, result)), _) => Some(result),
        (None, actions::PURCHASE) => Some(PlanOutcome::Conversion(body.value_micros.unwrap_or(Micros::ZERO))),
        _ => None,
    };
    if let (Some(plan), Some(result)) = (plan, result)
        && let Some(entry) = catalog.plan(plan)
    {
        // The arm is the user's, so that results which name no bid, or one long gone, still count on the right side.
        let cell = Cell::of(&entry.record, body.user.as_str(), expected.cell.channel);
        app.outcomes.record(plan, cell, result);
        app.report_result(bid, plan, creative, result);
    }
}

/// Has the user's state brought up to date in idle device time, if the history is in memory.
fn refresh(app: &App, catalog: &Catalog, user: &Id) {
    if let Some(history) = app.users.cached(user) {
        let key = user_key(user);
        let generation = app.generation();
        let window = generation.window(key, &history, catalog);
        generation.device.refresh(key, window, Urgency::Events);
    }
}
