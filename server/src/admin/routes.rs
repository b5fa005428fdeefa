//! Which path of the admin port does what.

use super::{CatalogAdmin, Kind, guard, import, records};
use crate::config::Config;
use crate::http::respond::{self, Fault, Response};
use crate::http::{Handler, Request};
use crate::ids::ID_BYTES_MAX;
use crate::meters::{Label as _, Meters};
use crate::runtime::Lifecycle;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// What /v1/<name> names.
const KINDS: &[Kind] = Kind::ALL;

/// The handler of the admin port.
pub struct Admin<C> {
    pub(super) app: Arc<C>,
    pub(super) config: Arc<Config>,
    pub(super) meters: Arc<Meters>,
    lifecycle: Lifecycle,
}

/// A path under /v1 that names records.
enum Target {
    All(Kind),
    One(Kind, String),
    Import(Kind),
    Balance(String),
}

impl<C: CatalogAdmin> Admin<C> {
    /// Serves the records of `app`.
    pub fn new(app: Arc<C>, config: Arc<Config>, meters: Arc<Meters>, lifecycle: Lifecycle) -> Self {
        Self { app, config, meters, lifecycle }
    }

    fn ready(&self) -> Response {
        let readiness = self.lifecycle.readiness();
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond::json(status, &readiness)
    }

    fn metrics(&self) -> Response {
        let ready = self.lifecycle.readiness().ready;
        self.meters.ready.set(f64::from(u8::from(ready)));
        respond::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.meters.render())
    }

    fn settings(&self, request: &Request) -> Response {
        if request.query("format").as_deref() == Some("toml") {
            return respond::with_type(StatusCode::OK, "text/plain; charset=utf-8", self.config.to_toml());
        }
        respond::json(StatusCode::OK, &self.config.to_json())
    }

    async fn answer(&self, mut request: Request) -> Result<Response, Fault> {
        guard::same_site(&request.headers, &self.config.admin)?;
        let open = match request.path() {
            "/livez" => Some(respond::json(StatusCode::OK, &serde_json::json!({ "live": true }))),
            "/readyz" => Some(self.ready()),
            "/metrics" => Some(self.metrics()),
            _ => None,
        };
        if let Some(response) = open {
            reading(&request)?;
            return Ok(response);
        }
        guard::authorised(&request.headers, &self.config.admin)?;
        if request.path() == "/config" {
            reading(&request)?;
            return Ok(self.settings(&request));
        }
        match target(request.path())? {
            Some(Target::All(kind)) => match request.method {
                Method::GET | Method::HEAD => records::list(self, kind, &request).await,
                Method::POST => records::create(self, kind, &mut request).await,
                _ => Err(Fault::method(&request.method, "GET, HEAD, POST")),
            },
            Some(Target::One(kind, id)) => match request.method {
                Method::GET | Method::HEAD => records::get(self, kind, &id).await,
                Method::PUT => records::put(self, kind, &id, &mut request).await,
                Method::PATCH => records::patch(self, kind, &id, &mut request).await,
                Method::DELETE => records::delete(self, kind, &id).await,
                _ => Err(Fault::method(&request.method, "GET, HEAD, PUT, PATCH, DELETE")),
            },
            Some(Target::Import(kind)) if request.method == Method::POST => import::run(self, kind, &mut request).await,
            Some(Target::Import(_)) => Err(Fault::method(&request.method, "POST")),
            Some(Target::Balance(plan)) => {
                reading(&request)?;
                let balance = self.app.balance(&plan).await.map_err(|error| error.fault())?;
                Ok(respond::json(StatusCode::OK, &balance))
            }
            None => Ok(self.app.other(request).await),
        }
    }
}

impl<C: CatalogAdmin> Handler for Admin<C> {
    async fn handle(&self, request: Request) -> Response {
        self.answer(request).await.unwrap_or_else(Fault::json)
    }
}

fn reading(request: &Request) -> Result<(), Fault> {
    match request.method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Fault::method(&request.method, "GET, HEAD")),
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
            None => Some(Target::One(kind, id(tail)?)),
            Some((plan, "balance")) if kind == Kind::Plans => Some(Target::Balance(id(plan)?)),
            Some(_) => None,
        },
        (Some(_), _) => None,
    })
}

fn id(encoded: &str) -> Result<String, Fault> {
    let id = percent_decode_str(encoded).decode_utf8().ok();
    id.filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()))
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| Fault::invalid("id", format!("must be 1 to {ID_BYTES_MAX} bytes of UTF-8, percent-encoded")))
}
