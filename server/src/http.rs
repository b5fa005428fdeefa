//! HTTP/1.1 from the socket to the handler: [`listener`] accepts and caps, [`connection`] times and answers, [`body`] reads
//! within limits, [`respond`] shapes answers and errors. What is answered is the business of a [`Handler`].

pub mod bid;
pub mod body;
pub mod connection;
pub mod events;
pub mod json;
pub mod listener;
pub mod notice;
pub mod notices;
pub mod openrtb;
mod panics;
pub mod rank;
mod registry;
pub mod request;
pub mod respond;
pub mod routes;
mod watched;

pub use body::BodyError;
pub use connection::Settings;
pub use listener::Listener;
pub use request::{Request, RequestId, path_id};
pub use respond::Response;

use std::future::Future;

/// What a port answers.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client closes the connection or the request's time is over, so
    /// whatever it holds must be freed on drop.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;
}
