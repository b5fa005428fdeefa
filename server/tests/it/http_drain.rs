//! Leaving: not ready, still serving, finishing, gone.

use crate::wire::{PATIENCE, Server};
use std::time::Duration;
use tokio::net::TcpStream;

const IN_FLIGHT: &str = "longbow_requests_in_flight{endpoint=\"other\"}";

#[tokio::test]
async fn a_drain_serves_on_then_finishes_what_is_in_flight() {
    let server = Server::start(|_| {});
    let mut idle = server.client().await;
    assert_eq!(idle.get("/a").await.header("connection"), None);
    let mut busy = server.client().await;
    busy.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.until(IN_FLIGHT, 1.0).await;
    assert!(server.lifecycle.readiness().ready);

    // A delay longer than the test: only `stop` below ends it.
    let draining = tokio::spawn({
        let lifecycle = server.lifecycle.clone();
        async move { lifecycle.drain(Duration::from_secs(3_600)).await }
    });
    server.lifecycle.draining_begins().await;
    assert!(!server.lifecycle.readiness().ready);
    let reply = server.client().await.get("/b").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "served, and sent elsewhere");

    draining.abort();
    server.lifecycle.stop();
    assert!(idle.closed().await, "a connection without a request is closed");
    server.release.add_permits(1);
    assert_eq!(busy.reply().await.status, 204, "a request in flight is answered");
    assert!(busy.closed().await);
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nothing listens any more");
}

#[tokio::test]
async fn a_drain_has_a_hard_limit() {
    let server = Server::start(|s| s.drain_limit = Duration::from_millis(100));
    let mut stuck = server.client().await;
    stuck.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.until(IN_FLIGHT, 1.0).await;
    server.lifecycle.stop();
    assert!(stuck.closed().await);
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap();
    let drained = "longbow_connections_ended_total{port=\"public\",reason=\"drained\"}";
    assert!((crate::wire::value(&server.meters.render(), drained) - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_component_that_is_not_well_is_named() {
    let server = Server::start(|_| {});
    server.lifecycle.not_ready("ledger", "poisoned: an I/O error; restart");
    let readiness = server.lifecycle.readiness();
    assert!(!readiness.ready);
    assert_eq!(readiness.reasons[0].component, "ledger");
    server.lifecycle.clear("ledger");
    assert!(server.lifecycle.readiness().ready);
}
