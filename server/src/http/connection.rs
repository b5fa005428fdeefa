//! One connection: requests in turn, each within its time, each answered in full.

use super::body::{self, Body, Memory, Shared};
use super::panics::Caught;
use super::registry::{Caps, Connection, Place};
use super::respond::{self, Fault, Response, X_REQUEST_ID};
use super::watched::Watched;
use super::{Handler, Request, RequestId};
use crate::config;
use crate::meters::{Bound, ConnectionEnd, Counter, Endpoint, InFlight, Meters, Port, StatusClass};
use crate::runtime::Lifecycle;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long a stopping server waits for the first request of a connection that it has accepted: it may be on its way.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(500);

/// Limits of one port.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which port this is, for metrics.
    pub port: Port,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Open connections at most.
    pub connections_max: usize,
    /// Open connections from one address at most.
    pub connections_per_address_max: usize,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// Silence between two requests.
    pub keep_alive: Duration,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// A response of which no byte moves.
    pub write_timeout: Duration,
    /// From the end of the headers to the answer. `None`: the handler bounds itself.
    pub request_timeout: Option<Duration>,
    /// Request line and headers.
    pub header_bytes_max: usize,
    /// Header fields.
    pub headers_max: usize,
    /// All bodies together.
    pub bodies_bytes_max: usize,
    /// Responses from this size on are compressed.
    pub gzip_bytes_min: usize,
    /// The retry-after of 503.
    pub retry_after_s: u32,
    /// Hard limit of the drain.
    pub drain_limit: Duration,
}

impl Settings {
    /// The public port of a configuration.
    #[must_use]
    pub fn public(config: &config::Config) -> Self {
        let http = &config.http;
        let ms = Duration::from_millis;
        Self {
            port: Port::Public,
            listen: http.listen,
            connections_max: http.connections_max,
            connections_per_address_max: http.connections_per_address_max,
            header_timeout: ms(http.header_timeout_ms),
            keep_alive: ms(http.keep_alive_ms),
            body_timeout: ms(http.body_timeout_ms),
            write_timeout: ms(http.write_timeout_ms),
            request_timeout: Some(ms(http.request_timeout_ms)),
            header_bytes_max: http.header_bytes_max,
            headers_max: http.headers_max,
            bodies_bytes_max: http.bodies_mib_max << 20,
            gzip_bytes_min: http.gzip_bytes_min,
            retry_after_s: http.retry_after_s,
            drain_limit: ms(config.drain.limit_ms),
        }
    }

    /// The admin port: fewer connections, and imports may take long, bounded by their own idle time and size.
    #[must_use]
    pub fn admin(config: &config::Config) -> Self {
        let admin = &config.admin;
        Self {
            port: Port::Admin,
            listen: admin.listen,
            connections_max: admin.connections_max,
            connections_per_address_max: admin.connections_max,
            request_timeout: None,
            ..Self::public(config)
        }
    }

    pub(super) fn caps(&self) -> Caps {
        Caps {
            connections: self.connections_max,
            per_address: self.connections_per_address_max,
            header: self.header_timeout,
            keep_alive: self.keep_alive,
            write: self.write_timeout,
        }
    }
}

/// What all connections of a port share.
pub(super) struct Server<H> {
    pub(super) handler: H,
    pub(super) settings: Settings,
    pub(super) meters: Arc<Meters>,
    pub(super) lifecycle: Lifecycle,
    pub(super) bodies: Shared,
    builder: http1::Builder,
}

impl<H: Handler> Server<H> {
    pub(super) fn new(handler: H, settings: Settings, meters: Arc<Meters>, lifecycle: Lifecycle) -> Self {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // The registry's sweep enforces both times separately; this is the net below it.
            .header_read_timeout(settings.header_timeout + settings.keep_alive)
            .max_buf_size(settings.header_bytes_max.max(8_192))
            .max_headers(settings.headers_max)
            .half_close(false)
            .keep_alive(true);
        let memory = Arc::new(Memory::new(settings.bodies_bytes_max));
        let bodies = Shared { memory, meters: meters.clone() };
        Self { handler, settings, meters, lifecycle, bodies, builder }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, place: Place) {
        let open = InFlight::enter(self.meters.connections.of(self.settings.port));
        let state = place.connection.clone();
        let io = TokioIo::new(Watched::new(stream, state.clone()));
        let service = service_fn(|request| {
            let (server, state) = (self.clone(), state.clone());
            async move {
                state.request_begins();
                let response = server.answer(request, peer, &state).await;
                state.request_ends();
                Ok::<_, Infallible>(response)
            }
        });
        let mut stopping = pin!(async {
            self.lifecycle.stopping().await;
            if state.is_new() {
                tokio::time::sleep(FIRST_REQUEST_TIME).await;
            }
        });
        let mut stop_seen = false;
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let end = loop {
            tokio::select! {
                biased;
                end = state.told_to_close() => break Some(end),
                result = connection.as_mut() => break result.err().map(|error| reason(&error)),
                () = stopping.as_mut(), if !stop_seen => {
                    stop_seen = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Some(end) = end {
            self.meters.connections_ended.of(self.settings.port, end).increment(1);
        }
        drop(open);
        drop(place);
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        peer: SocketAddr,
        state: &Arc<Connection>,
    ) -> hyper::Response<Full<Bytes>> {
        let arrived = Instant::now();
        let (parts, incoming) = request.into_parts();
        let version = parts.version;
        let endpoint = Endpoint::of_path(parts.uri.path());
        let id = RequestId::take_or_make(&parts.headers);
        let gzip = respond::accepts_gzip(&parts.headers);
        let mut watch = Watch::new(&self.meters, endpoint);
        let body = Body::new(incoming, self.settings.body_timeout, state.clone(), self.bodies.clone());
        let rest = body.rest();
        let line = Line { method: parts.method.clone(), path_and_id: (parts.uri.clone(), id.clone()) };
        let request = Request {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            peer,
            arrived,
            id: id.clone(),
            endpoint,
            body,
        };
        let mut response = match unnamed_host(&request, version) {
            Some(fault) => fault.respond(endpoint),
            None => self.handled(request, endpoint, &line).await,
        };
        watch.answered(response.status(), arrived);
        if gzip {
            response = respond::compressed(response, self.settings.gzip_bytes_min);
        }
        // A body that came too late or is too long to be read past leaves the connection out of step; a draining server
        // wants its clients elsewhere.
        let late = response.status() == StatusCode::REQUEST_TIMEOUT;
        if late || self.lifecycle.draining() || !body::read_past(&rest).await {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.headers_mut().insert(X_REQUEST_ID, id.header());
        response.map(Full::new)
    }

    async fn handled(&self, request: Request, endpoint: Endpoint, line: &Line) -> Response {
        let handled = Caught::new(self.handler.handle(request));
        let result = match self.settings.request_timeout {
            Some(limit) => tokio::time::timeout(limit, handled).await,
            None => Ok(handled.await),
        };
        match result {
            Ok(Ok(response)) => response,
            Ok(Err(())) => {
                self.meters.panics.of(endpoint).increment(1);
                tracing::error!(request_id = %line.path_and_id.1, method = %line.method, path = line.path_and_id.0.path(), "handler panicked");
                let message = "an internal fault; the log has the details under this request id";
                Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).respond(endpoint)
            }
            Err(_) => {
                self.meters.bounds.of(Bound::RequestTime).increment(1);
                Fault::unavailable("the request took too long", self.settings.retry_after_s).respond(endpoint)
            }
        }
    }
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 names its host, and none names it twice.
fn unnamed_host(request: &Request, version: Version) -> Option<Fault> {
    match request.headers.get_all(HOST).iter().count() {
        1 => None,
        0 if version != Version::HTTP_11 => None,
        0 => Some(Fault::invalid("host", "is missing: HTTP/1.1 asks for it")),
        _ => Some(Fault::invalid("host", "stands there more than once")),
    }
}

/// What is logged of a request that failed.
struct Line {
    method: Method,
    path_and_id: (hyper::Uri, RequestId),
}

/// Counts a request once: answered, or cancelled when the future is dropped.
struct Watch<'a> {
    meters: &'a Meters,
    endpoint: Endpoint,
    cancelled: Option<&'a Counter>,
    _in_flight: InFlight<'a>,
}

impl<'a> Watch<'a> {
    fn new(meters: &'a Meters, endpoint: Endpoint) -> Self {
        let cancelled = Some(meters.requests_cancelled.of(endpoint));
        Self { meters, endpoint, cancelled, _in_flight: InFlight::enter(meters.requests_in_flight.of(endpoint)) }
    }

    fn answered(&mut self, status: StatusCode, arrived: Instant) {
        self.cancelled = None;
        self.meters.requests.of(self.endpoint, StatusClass::of(status.as_u16())).increment(1);
        // A body that was never sent in time says how slow the client is, not the server.
        if status != StatusCode::REQUEST_TIMEOUT {
            self.meters.request_seconds.of(self.endpoint).record(arrived.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(cancelled) = self.cancelled {
            cancelled.increment(1);
        }
    }
}

fn reason(error: &hyper::Error) -> ConnectionEnd {
    if error.is_timeout() {
        ConnectionEnd::HeaderTimeout
    } else if error.is_parse() {
        ConnectionEnd::BadRequest
    } else {
        ConnectionEnd::ClientGone
    }
}
