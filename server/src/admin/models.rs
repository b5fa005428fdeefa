//! Models: which one serves, loading another, going back.

use crate::app::{App, Ended, NotTaken};
use crate::http::respond::{self, Fault};
use crate::http::{Request, Response};
use hyper::{Method, StatusCode};
use serde::Deserialize;

/// Body of `POST /v1/models`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadBody {
    /// A bundle of the model directory, by its name or path.
    path: String,
}

/// Answers `GET|POST /v1/models` and `POST /v1/models/rollback`. A load takes seconds: it is answered 202 at once, or at its
/// end with `?wait=true`.
pub(crate) async fn handle(app: &App, request: &mut Request) -> Result<Response, Fault> {
    let roll_back = request.path() == "/v1/models/rollback";
    match request.method {
        Method::GET | Method::HEAD if !roll_back => Ok(respond::json(StatusCode::OK, &app.models.status())),
        Method::POST => {
            let wait = match request.query("wait").as_deref() {
                None | Some("false") => false,
                Some("true") => true,
                Some(other) => return Err(Fault::invalid("wait", format!("is {other:?}, must be true or false"))),
            };
            let taken = if roll_back {
                app.models.roll_back(app.clock.seconds())
            } else {
                let body = body(app, request).await?;
                app.models.load(&body.path, app.clock.seconds())
            };
            let job = taken.map_err(|error| fault(&error))?;
            let ended = if wait { app.models.wait(job).await } else { Ended::Waiting };
            match ended {
                Ended::Served => Ok(respond::json(StatusCode::OK, &app.models.status())),
                Ended::Waiting => Ok(respond::json(StatusCode::ACCEPTED, &app.models.status())),
                Ended::Refused(reason) => Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "model_refused", reason)),
            }
        }
        _ if roll_back => Err(Fault::method(&request.method, "POST")),
        _ => Err(Fault::method(&request.method, "GET, HEAD, POST")),
    }
}

async fn body(app: &App, request: &mut Request) -> Result<LoadBody, Fault> {
    request.expect_json()?;
    let bytes = request.bytes(app.config.admin.body_bytes_max).await.map_err(|error| error.fault())?;
    crate::http::json::parse(&bytes)
}

fn fault(error: &NotTaken) -> Fault {
    let text = error.to_string();
    match error {
        NotTaken::Busy => Fault::new(StatusCode::CONFLICT, "busy", text),
        NotTaken::NoPrevious => Fault::new(StatusCode::CONFLICT, "no_previous", text),
        NotTaken::Path(fault) => Fault::invalid("path", fault.clone()),
        NotTaken::Stopping => Fault::unavailable(text, 1),
    }
}
