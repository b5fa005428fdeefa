//! Which path of the admin port does what.

use super::audit::{Audit, Call};
use super::desk::{Desk, READ_ONLY, forbidden};
use super::mcp::{Confirmations, Mcp};
use super::plans::{ForecastAsk, Span};
use super::tags::{self, IfMatch};
use super::tokens::{Caller, Me, Role, Tokens};
use super::{CatalogAdmin, Kind, console, guard, import, learned, mcp, openapi, records, requests};
use crate::config::Config;
use crate::http::respond::{self, Fault, Response};
use crate::http::{Handler, Request, path_id};
use crate::meters::{Label as _, Meters};
use crate::reports::Grouping;
use crate::runtime::Lifecycle;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use std::sync::Arc;

/// What /v1/<name> names.
const KINDS: &[Kind] = Kind::ALL;
const DAY: i64 = 86_400;

/// The handler of the admin port.
pub struct Admin<C> {
    desk: Arc<Desk<C>>,
    lifecycle: Lifecycle,
    mcp: Mcp<C>,
}

/// A path under /v1 that names records.
enum Target {
    All(Kind),
    One(Kind, String),
    Import(Kind),
    Balance(String),
    Figures(String),
    Diagnosis(String),
    Creatives(String),
}

impl<C: CatalogAdmin> Admin<C> {
    /// Serves the records of `app` with the token of the settings and an audit log in memory.
    pub fn new(app: Arc<C>, config: Arc<Config>, meters: Arc<Meters>, lifecycle: Lifecycle) -> Self {
        let tokens = Tokens::of_settings(&config.admin);
        Self::guarded(app, config, (meters, lifecycle), (tokens, Audit::default()))
    }

    /// Serves the records of `app` to the holders of `tokens`; changes are written to `audit`.
    pub fn guarded(
        app: Arc<C>,
        config: Arc<Config>,
        (meters, lifecycle): (Arc<Meters>, Lifecycle),
        (tokens, audit): (Tokens, Audit),
    ) -> Self {
        let confirmations = Confirmations::default();
        let desk = Arc::new(Desk { app, config, meters, tokens, audit, confirmations });
        let mcp = Mcp::new(&desk);
        Self { desk, lifecycle, mcp }
    }

    fn ready(&self) -> Response {
        let readiness = self.lifecycle.readiness();
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond::json(status, &readiness)
    }

    fn metrics(&self) -> Response {
        let ready = self.lifecycle.readiness().ready;
        self.desk.meters.ready.set(f64::from(u8::from(ready)));
        respond::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.desk.meters.render())
    }

    fn settings(&self, caller: &Caller, request: &Request) -> Result<Response, Fault> {
        if !matches!(caller.role, Role::Operator | Role::Read) {
            return Err(forbidden("settings are for operators and readers"));
        }
        if request.query("format").as_deref() == Some("toml") {
            return Ok(respond::with_type(StatusCode::OK, "text/plain; charset=utf-8", self.desk.config.to_toml()));
        }
        Ok(respond::json(StatusCode::OK, &self.desk.config.to_json()))
    }

    /// What needs no token: health, metrics, the API's description, the console's own files.
    fn open(&self, request: &Request) -> Result<Option<Response>, Fault> {
        let response = match request.path() {
            "/livez" => respond::json(StatusCode::OK, &serde_json::json!({ "live": true })),
            "/readyz" => self.ready(),
            "/metrics" => self.metrics(),
            "/openapi.json" => openapi::answer(),
            path => match console::file(path) {
                Some(response) => response,
                None => return Ok(None),
            },
        };
        reading(request)?;
        Ok(Some(response))
    }

    async fn answer(&self, mut request: Request) -> Result<Response, Fault> {
        let desk = &*self.desk;
        guard::same_site(&request.headers, &desk.config.admin)?;
        if let Some(response) = self.open(&request)? {
            return Ok(response);
        }
        let caller = desk.tokens.caller(&request.headers)?;
        let call = Call { caller: &caller, via: "api", request: request.id.as_str().to_owned() };
        if let Some(target) = target(request.path())? {
            return self.of_records(&call, target, &mut request).await;
        }
        let path = request.path().to_owned();
        match path.as_str() {
            "/mcp" => return mcp::answer(&self.mcp, desk, &caller, request).await,
            "/v1/plans:forecast" => return self.forecast(&caller, &mut request).await,
            "/openrtb2/bid" => return requests::explain_body(desk, &caller, request).await,
            _ => {}
        }
        if let Some(user) = path.strip_prefix("/v1/users/") {
            return requests::of_user(desk, &call, user, request).await;
        }
        if let Some(id) = path.strip_prefix("/v1/requests/") {
            reading(&request)?;
            return Ok(respond::json(StatusCode::OK, &requests::explain_recent(desk, &caller, &path_id(id)?).await?));
        }
        match path.as_str() {
            "/v1/me" | "/v1/audit" | "/v1/requests" | "/v1/balances" | "/config" => reading(&request)?,
            _ => return self.rest(&call, &path, request).await,
        }
        match path.as_str() {
            "/v1/me" => Ok(respond::json(StatusCode::OK, &Me::from(&caller))),
            "/config" => self.settings(&caller, &request),
            "/v1/audit" => requests::audit(desk, &caller, &request),
            "/v1/balances" => records::balances(desk, &caller, &request).await,
            _ => requests::recent(desk, &caller, &request),
        }
    }

    /// What the rooms behind the records answer themselves: forecasts of a plan's policy and what was learned of creatives for
    /// whom they are there, models for operators (readers may look), and anything else for operators alone.
    async fn rest(&self, call: &Call<'_>, path: &str, request: Request) -> Result<Response, Fault> {
        let desk = &*self.desk;
        if let Some(plan) = path.strip_prefix("/v1/forecasts/") {
            reading(&request)?;
            desk.get(call.caller, Kind::Plans, &path_id(plan)?).await?;
            return Ok(desk.app.other(request).await);
        }
        if let Some(creative) = learned::named(path) {
            reading(&request)?;
            desk.get(call.caller, Kind::Creatives, &path_id(creative)?).await?;
            return Ok(desk.app.other(request).await);
        }
        if path == learned::OF_PLAN {
            reading(&request)?;
            let plan = request.query("plan").ok_or_else(|| Fault::invalid("plan", "is missing: name the plan"))?;
            desk.get(call.caller, Kind::Plans, &plan).await?;
            return Ok(desk.app.other(request).await);
        }
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let models = path.strip_prefix("/v1/models");
        match call.caller.role {
            Role::Operator => {}
            Role::Read if reads && models.is_some() => {}
            Role::Read if models.is_some() => return Err(forbidden(READ_ONLY)),
            _ => return Err(Fault::not_found(&format!("`{path}`"))),
        }
        if !reads {
            desk.may_audit()?;
        }
        let response = desk.app.other(request).await;
        if let Some(action) = models.filter(|_| !reads && response.status().is_success()) {
            let told = serde_json::from_slice(response.body()).unwrap_or_default();
            let action = if action == "/rollback" { "models.rollback" } else { "models.load" };
            desk.audited(call, action.to_owned(), "", (None, Some(&told)));
        }
        Ok(response)
    }

    async fn of_records(&self, call: &Call<'_>, target: Target, request: &mut Request) -> Result<Response, Fault> {
        let desk = &*self.desk;
        match target {
            Target::All(kind) => match request.method {
                Method::GET | Method::HEAD => records::list(desk, call, kind, request).await,
                Method::POST => records::create(desk, call, kind, request).await,
                _ => Err(Fault::method(&request.method, "GET, HEAD, POST")),
            },
            Target::One(kind, id) => match request.method {
                Method::GET | Method::HEAD => {
                    let record = desk.get(call.caller, kind, &id).await?;
                    tags::answer(request, &record)
                }
                Method::PUT => records::put(desk, call, (kind, &id), request).await,
                Method::PATCH => records::patch(desk, call, (kind, &id), request).await,
                Method::DELETE => {
                    let if_match = IfMatch::of(request)?;
                    desk.delete(call, kind, &id, &if_match).await.map(|()| respond::no_content())
                }
                _ => Err(Fault::method(&request.method, "GET, HEAD, PUT, PATCH, DELETE")),
            },
            Target::Import(kind) if request.method == Method::POST => import::run(desk, call, kind, request).await,
            Target::Import(_) => Err(Fault::method(&request.method, "POST")),
            Target::Balance(plan) => {
                reading(request)?;
                Ok(json(&desk.balance(call.caller, &plan).await?))
            }
            Target::Figures(plan) => {
                reading(request)?;
                let span = span(request, ["from", "to"], (desk.now(), DAY))?;
                let by = match request.query("by") {
                    None => Grouping::default(),
                    Some(word) => Grouping::parse(&word)
                        .ok_or_else(|| Fault::invalid("by", "must be hour, channel, creative or total"))?,
                };
                Ok(json(&desk.figures(call.caller, &plan, span, by).await?))
            }
            Target::Diagnosis(plan) => {
                reading(request)?;
                let spans = spans(request, desk.now())?;
                Ok(json(&desk.diagnosis(call.caller, &plan, spans).await?))
            }
            Target::Creatives(plan) => {
                reading(request)?;
                Ok(json(&desk.creatives(call.caller, &plan).await?))
            }
        }
    }

    async fn forecast(&self, caller: &Caller, request: &mut Request) -> Result<Response, Fault> {
        if request.method != Method::POST {
            return Err(Fault::method(&request.method, "POST"));
        }
        let body = serde_json::Value::Object(records::object(&self.desk, request).await?);
        Ok(json(&self.desk.forecast(caller, ask(body)?).await?))
    }
}

/// A forecast's body or arguments.
pub(super) fn ask(body: serde_json::Value) -> Result<ForecastAsk, Fault> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        Fault::invalid(if path == "." { "body".to_owned() } else { path }, error.into_inner().to_string())
    })
}

fn json(value: &impl serde::Serialize) -> Response {
    respond::json(StatusCode::OK, value)
}

impl<C: CatalogAdmin> Handler for Admin<C> {
    async fn handle(&self, request: Request) -> Response {
        let mut response = Box::pin(self.answer(request)).await.unwrap_or_else(Fault::json);
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) fn reading(request: &Request) -> Result<(), Fault> {
    match request.method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Fault::method(&request.method, "GET, HEAD")),
    }
}

fn time(request: &Request, name: &str) -> Result<Option<i64>, Fault> {
    let Some(text) = request.query(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Fault::invalid(name, "must be Unix seconds"))
}

fn span(request: &Request, names: [&str; 2], now_and_last: (i64, i64)) -> Result<Span, Fault> {
    Span::read(time(request, names[0])?, time(request, names[1])?, now_and_last, names)
}

/// Both periods of a diagnosis: all four times or none.
fn spans(request: &Request, now: i64) -> Result<Option<(Span, Span)>, Fault> {
    let (before, after) = (["before_from", "before_to"], ["after_from", "after_to"]);
    let given = before.iter().chain(&after).filter(|name| request.query(name).is_some()).count();
    match given {
        0 => Ok(None),
        4 => Ok(Some((span(request, before, (now, DAY))?, span(request, after, (now, DAY))?))),
        _ => Err(Fault::invalid("before_from", "name all of before_from, before_to, after_from, after_to, or none")),
    }
}

fn target(path: &str) -> Result<Option<Target>, Fault> {
    let Some(rest) = path.strip_prefix("/v1/") else { return Ok(None) };
    let (head, tail) = rest.split_once('/').map_or((rest, None), |(head, tail)| (head, Some(tail)));
    let (name, action) = head.split_once(':').map_or((head, None), |(name, action)| (name, Some(action)));
    let Some(&kind) = KINDS.iter().find(|kind| kind.name() == name) else { return Ok(None) };
    Ok(match (action, tail) {
        (None, None) => Some(Target::All(kind)),
        (Some("import"), None) => Some(Target::Import(kind)),
        (None, Some(tail)) => match tail.split_once('/') {
            None => Some(Target::One(kind, path_id(tail)?)),
            Some((plan, part)) if kind == Kind::Plans => {
                let plan = path_id(plan)?;
                match part {
                    "balance" => Some(Target::Balance(plan)),
                    "figures" => Some(Target::Figures(plan)),
                    "diagnosis" => Some(Target::Diagnosis(plan)),
                    "creatives" => Some(Target::Creatives(plan)),
                    _ => None,
                }
            }
            Some(_) => None,
        },
        (Some(_), _) => None,
    })
}
