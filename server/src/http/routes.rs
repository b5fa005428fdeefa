//! The public port: which path is answered by whom.

use super::respond::{self, Fault, SERVER_TIMING};
use super::{Handler, Request, Response};
use super::{bid, events, notice, rank};
use crate::app::App;
use crate::meters::StageTimes;
use crate::pipeline::Stop;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// Answers the public port.
pub struct Public(pub Arc<App>);

impl Handler for Public {
    async fn handle(&self, request: Request) -> Response {
        let endpoint = request.endpoint;
        let path = request.path();
        let allowed = match path {
            "/openrtb2/bid" | "/v1/rank" | "/v1/events" => Method::POST,
            _ if path.starts_with("/notice/") => Method::GET,
            "/" => return respond::with_type(StatusCode::OK, "text/plain; charset=utf-8", INDEX),
            _ => return Fault::not_found("such path; POST /openrtb2/bid, /v1/rank or /v1/events").respond(endpoint),
        };
        let method = &request.method;
        // Exchanges call notices with GET; some with POST. Both mean the same.
        if *method != allowed && !(allowed == Method::GET && *method == Method::POST) {
            let allow = if allowed == Method::GET { "GET, POST" } else { "POST" };
            return Fault::method(method, allow).respond(endpoint);
        }
        match path {
            "/openrtb2/bid" => Box::pin(bid::handle(&self.0, request)).await,
            "/v1/rank" => Box::pin(rank::handle(&self.0, request)).await,
            "/v1/events" => Box::pin(events::handle(&self.0, request)).await,
            _ => Box::pin(notice::handle(&self.0, request)).await,
        }
    }
}

const INDEX: &str = "longbow: POST /openrtb2/bid, POST /v1/rank, POST /v1/events\n";

/// Ends the times of a request and writes them on its answer.
pub(super) fn timed(app: &App, mut response: Response, times: &mut StageTimes) -> Response {
    times.finish(Instant::now(), &app.meters);
    if let Ok(value) = HeaderValue::from_str(&times.header()) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    response
}

/// A [`Stop`] in the terms of a feed: 503 for overload and where another replica may do better, 504 for a missed deadline.
pub(super) fn stop_fault(app: &App, stop: Stop) -> Fault {
    let retry = app.config.http.retry_after_s;
    match stop {
        Stop::Overloaded | Stop::QueueFull(_) => Fault::overloaded(stop.to_string(), retry),
        Stop::NotReady(_) => Fault::unavailable(stop.to_string(), retry),
        Stop::Invalid { field, fault } => Fault::invalid(field, fault),
        Stop::TooLittleTime | Stop::Deadline => Fault::new(StatusCode::GATEWAY_TIMEOUT, "deadline", stop.to_string()),
        Stop::Failed(fault) => {
            tracing::error!(fault, "a request failed");
            Fault::unavailable("a part of the server failed; the log has the details", retry)
        }
    }
}
