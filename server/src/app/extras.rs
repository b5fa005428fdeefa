//! The admin port beyond health and records: models, forecasts of plans, and users.

use super::App;
use crate::admin::{learned, models};
use crate::auction::pace::{ArmFigures, Forecast};
use crate::auction::slot::Channel;
use crate::http::respond::{self, Fault};
use crate::http::{Request, Response, path_id};
use crate::ids::Id;
use crate::pipeline::user_key;
use crate::plans::Arm;
use hyper::{Method, StatusCode};
use serde::Serialize;
use std::collections::BTreeMap;

/// Answers `/v1/models`, `GET /v1/creatives/{id}/learned`, `GET /v1/creatives:learned`,
/// `GET /v1/forecasts/{plan}` and `GET|DELETE /v1/users/{id}`; the guard of the port has passed already, and its routes let only
/// reads through to what is only read.
pub(super) async fn handle(app: &App, mut request: Request) -> Response {
    let path = request.path().to_owned();
    let result = match (path.as_str(), path.strip_prefix("/v1/users/")) {
        ("/v1/models" | "/v1/models/rollback", _) => models::handle(app, &mut request).await,
        (learned::OF_PLAN, _) => learned::of_plan(app, &request),
        (path, _) if let Some(id) = learned::named(path) => learned::one(app, id),
        (_, Some(user)) => of_user(app, &request, user).await,
        (path, None) if let Some(plan) = path.strip_prefix("/v1/forecasts/") => of_plan(app, plan),
        _ => Err(Fault::not_found(&format!("`{path}`"))),
    };
    result.unwrap_or_else(Fault::json)
}

#[derive(Serialize)]
struct PlanFacts {
    plan: Id,
    policy: crate::plans::PolicyKind,
    multiplier: f64,
    /// Multiplier in each channel.
    channels: BTreeMap<&'static str, f64>,
    /// Both arms of the experiment since it began: the plan's own policy, and the one it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    experiment: Option<[ArmFigures; 2]>,
    /// Absent while the policy does not forecast, or has not seen an impression yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast: Option<Forecast>,
}

fn of_plan(app: &App, plan: &str) -> Result<Response, Fault> {
    let plan = Id::from(&*path_id(plan)?);
    let catalog = app.catalog.snapshot();
    let slot = catalog.plan_slot(&plan).ok_or_else(|| Fault::not_found(&format!("plan `{plan}`")))?;
    let entry = catalog.plan(slot).ok_or_else(|| Fault::not_found(&format!("plan `{plan}`")))?;
    let controls = app.controls.load();
    let control = controls.of(slot, Arm::First);
    let channel = |channel: Channel| (channel.name(), control.multiplier * control.channels[channel as usize]);
    let experiment = controls.trial(slot).map(|trial| {
        let balance = app.accounts.of(slot).and_then(|account| app.ledger.balance(account)).unwrap_or_default();
        let multipliers = [control.multiplier, controls.of(slot, Arm::Second).multiplier];
        trial.figures(&entry.record, &app.outcomes.cells(slot), balance.spent, multipliers)
    });
    let facts = PlanFacts {
        plan,
        policy: entry.record.policy,
        multiplier: control.multiplier,
        channels: Channel::ALL.map(channel).into_iter().collect(),
        experiment,
        forecast: control.forecast,
    };
    Ok(respond::json(StatusCode::OK, &facts))
}

#[derive(Serialize)]
struct UserFacts {
    user: Id,
    events: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_time: Option<i64>,
}

async fn of_user(app: &App, request: &Request, user: &str) -> Result<Response, Fault> {
    let user = Id::from(&*path_id(user)?);
    let failed = |error: crate::store::StoreError| Fault::unavailable(error.to_string(), app.config.http.retry_after_s);
    match request.method {
        Method::GET | Method::HEAD => {
            let history = app.users.load(&user).await.map_err(failed)?;
            let times = &history.times;
            let facts = UserFacts {
                user,
                events: times.len(),
                first_time: times.first().copied(),
                last_time: times.last().copied(),
            };
            Ok(respond::json(StatusCode::OK, &facts))
        }
        Method::DELETE => {
            app.users.delete(&user).await.map_err(failed)?;
            if !app.generation().device.forget(user_key(&user)) {
                let retry = app.config.http.retry_after_s;
                return Err(Fault::unavailable(
                    "the history is forgotten, the user's state not yet: repeat this",
                    retry,
                ));
            }
            Ok(respond::no_content())
        }
        _ => Err(Fault::method(&request.method, "GET, HEAD, DELETE")),
    }
}
