//! `POST /v1/rank`: a feed asks for items ranked for a user.

use super::json::Object;
use super::respond::{self, Fault};
use super::routes::{stop_fault, timed};
use super::{Request, Response};
use crate::actions;
use crate::app::App;
use crate::auction::slot::Terms;
use crate::deadline::Deadline;
use crate::ids::{Id, ItemKey};
use crate::meters::{Stage, StageTimes};
use crate::pipeline::rank::{Exclude, Objective, RankAsk, Ranking, rank};
use crate::pipeline::{Asked, Subject, history_of};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Items that a request may exclude by name: as many as the longest history of most models.
pub const EXCLUDE_MAX: usize = 10_000;

/// Body of a ranking request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankBody {
    /// Whose history is read; unknown users are ranked for as newcomers.
    #[serde(default)]
    user: Option<Id>,
    /// A history that comes with the request and takes the place of the stored one; nothing of it is kept.
    #[serde(default)]
    history: Option<Vec<Object<HistoryEvent>>>,
    /// Items to rank; left out, items are retrieved.
    #[serde(default)]
    candidates: Option<Vec<Id>>,
    /// Items wanted.
    #[serde(default = "default_k")]
    k: usize,
    /// What to order by.
    #[serde(default)]
    objective: Objective,
    /// Blocked categories.
    #[serde(default)]
    bcat: Vec<String>,
    /// If given, only these categories.
    #[serde(default)]
    acat: Vec<String>,
    /// Leaves out every item of the user's history, stored or sent along: the answer holds only what is new to the user.
    #[serde(default)]
    exclude_history: bool,
    /// Items to leave out, at most [`EXCLUDE_MAX`]; ids that nobody knows do no harm.
    #[serde(default)]
    exclude: Vec<Id>,
    /// Time of the request, Unix seconds; the server's clock if left out.
    #[serde(default)]
    time: Option<i64>,
    /// Milliseconds to answer in.
    #[serde(default)]
    deadline_ms: Option<u64>,
}

/// One event of a history in a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryEvent {
    item: Id,
    #[serde(default)]
    action: Option<Value>,
    time: i64,
}

fn default_k() -> usize {
    20
}

/// Answer of a ranking.
#[derive(Serialize)]
struct RankAnswer {
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Id>,
    #[serde(flatten)]
    ranking: Ranking,
}

/// Answers a ranking request.
pub async fn handle(app: &App, mut request: Request) -> Response {
    let mut times = StageTimes::from(request.arrived);
    let endpoint = request.endpoint;
    let answer = async {
        request.expect_json()?;
        let bytes = request.bytes(app.config.http.body_bytes_max).await.map_err(|error| error.fault())?;
        let body: RankBody = super::json::parse(&bytes)?;
        let user = body.user.clone();
        let ask = ask_of(app, body, request.arrived)?;
        times.end(Stage::Parse, Instant::now());
        let ranking = rank(app, &ask, &mut times).await.map_err(|stop| stop_fault(app, stop))?;
        let answer = RankAnswer { request_id: request.id.to_string(), user, ranking };
        let response = respond::json(StatusCode::OK, &answer);
        times.end(Stage::Record, Instant::now());
        Ok::<_, Fault>(response)
    };
    let response = answer.await.unwrap_or_else(|fault| fault.respond(endpoint));
    timed(app, response, &mut times)
}

fn ask_of(app: &App, body: RankBody, arrived: Instant) -> Result<RankAsk, Fault> {
    let auction = &app.config.auction;
    if body.k == 0 || body.k > auction.candidates_max {
        return Err(Fault::invalid("k", format!("must be from 1 to {}", auction.candidates_max)));
    }
    if body.candidates.as_ref().is_some_and(|list| list.is_empty() || list.len() > auction.candidates_max) {
        return Err(Fault::invalid(
            "candidates",
            format!("must list 1 to {} item ids, or be left out", auction.candidates_max),
        ));
    }
    if body.exclude.len() > EXCLUDE_MAX {
        let found = body.exclude.len();
        return Err(Fault::invalid("exclude", format!("may list at most {EXCLUDE_MAX} item ids, found {found}")));
    }
    let deadline_ms = body.deadline_ms.unwrap_or(auction.tmax_default_ms);
    if deadline_ms < auction.tmax_min_ms || deadline_ms > auction.tmax_max_ms {
        let range = format!("must be from {} to {} milliseconds", auction.tmax_min_ms, auction.tmax_max_ms);
        return Err(Fault::invalid("deadline_ms", range));
    }
    let subject = match (body.history, body.user) {
        (Some(events), _) => {
            let most = app.generation().windows.limits().events_max;
            if events.len() > most {
                return Err(Fault::invalid(
                    "history",
                    format!("may hold at most {most} events, found {}", events.len()),
                ));
            }
            Subject::Given(history_of(events_of(&events)?))
        }
        (None, Some(user)) => Subject::Known(user),
        (None, None) => return Err(Fault::invalid("user", "is missing: name a user, or send a history")),
    };
    let time_max = 1_i64 << 40;
    let query_time = body.time.unwrap_or_else(|| app.clock.seconds());
    if !(0..time_max).contains(&query_time) {
        return Err(Fault::invalid("time", "must be Unix seconds"));
    }
    let deadline = Deadline::after(arrived, Duration::from_millis(deadline_ms));
    let terms = Terms { blocked_categories: body.bcat, allowed_categories: body.acat, ..Terms::default() };
    let asked = Asked { subject, query_time, deadline };
    let exclude = Exclude { history: body.exclude_history, items: body.exclude };
    Ok(RankAsk { asked, candidates: body.candidates, k: body.k, terms, exclude, objective: body.objective })
}

fn events_of(events: &[Object<HistoryEvent>]) -> Result<Vec<(ItemKey, u16, i64)>, Fault> {
    let mut list = Vec::with_capacity(events.len());
    for (position, Object(event)) in events.iter().enumerate() {
        let at = |field: &str| format!("history[{position}].{field}");
        let key = ItemKey::parse(event.item.as_str()).ok_or_else(|| Fault::invalid(at("item"), "is no identifier"))?;
        let action = actions::parse(event.action.as_ref()).map_err(|fault| Fault::invalid(at("action"), fault))?;
        if !(0..1_i64 << 40).contains(&event.time) {
            return Err(Fault::invalid(at("time"), "must be Unix seconds"));
        }
        list.push((key, action, event.time));
    }
    Ok(list)
}
