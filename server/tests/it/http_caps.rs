//! Connection caps: who comes in, who goes, and that stalled clients do not hurt good ones.

use crate::wire::Server;

const PARTIAL: &str = "POST /openrtb2/bid HTTP/1.1\r\nhost: a\r\nx-slow";

fn ended(reason: &str) -> String {
    format!("longbow_connections_ended_total{{port=\"public\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn at_the_cap_the_longest_stalled_makes_room() {
    let server = Server::start(|s| s.connections_max = 3);
    let mut first = server.client().await;
    first.send(PARTIAL).await;
    server.until("longbow_connections{port=\"public\"}", 1.0).await;
    let mut second = server.client().await;
    second.send(PARTIAL).await;
    server.until("longbow_connections{port=\"public\"}", 2.0).await;
    let mut good = server.client().await;
    assert_eq!(good.get("/a").await.status, 200);
    let mut next = server.client().await;
    assert_eq!(next.get("/b").await.status, 200);
    assert!(first.closed().await);
    assert_eq!(good.get("/c").await.status, 200, "a client that has been served keeps its place");
    server.until(&ended("evicted"), 1.0).await;
    second.send(": x\r\ncontent-length: 2\r\n\r\n{}").await;
    assert_eq!(second.reply().await.status, 200);
}

#[tokio::test]
async fn when_all_are_at_work_a_new_connection_gets_503() {
    let server = Server::start(|s| s.connections_max = 2);
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = server.client().await;
        client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
        busy.push(client);
    }
    server.until("longbow_requests_in_flight{endpoint=\"other\"}", 2.0).await;
    let mut refused = server.client().await;
    let reply = refused.reply().await;
    assert_eq!(
        (reply.status, reply.header("retry-after"), reply.header("connection")),
        (503, Some("1"), Some("close"))
    );
    assert!(refused.closed().await);
    server.until(&ended("refused"), 1.0).await;
    server.release.add_permits(2);
    for client in &mut busy {
        assert_eq!(client.reply().await.status, 204);
    }
    assert_eq!(server.client().await.get("/again").await.status, 200);
}

#[tokio::test]
async fn one_address_cannot_take_the_places_of_others() {
    let server = Server::start(|s| {
        s.connections_max = 10;
        s.connections_per_address_max = 2;
    });
    let mut other = server.client_from(0, 9).await;
    assert_eq!(other.get("/a").await.status, 200);
    let mut greedy = Vec::new();
    for _ in 0..2 {
        let mut client = server.client_from(0, 1).await;
        client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
        greedy.push(client);
    }
    server.until("longbow_requests_in_flight{endpoint=\"other\"}", 2.0).await;
    assert_eq!(server.client_from(0, 1).await.reply().await.status, 503);
    server.until(&ended("refused_address"), 1.0).await;
    assert_eq!(server.client_from(0, 2).await.get("/b").await.status, 200);
    assert_eq!(other.get("/c").await.status, 200);
    server.release.add_permits(2);
    for client in &mut greedy {
        assert_eq!(client.reply().await.status, 204);
    }
    // Idle ones of the same address make room for it.
    assert_eq!(server.client_from(0, 1).await.get("/d").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_clients_do_not_stop_good_ones() {
    const STALLED: usize = 2_000;
    let server = Server::start(|s| {
        s.connections_max = 300;
        s.connections_per_address_max = 100;
    });
    let mut kept = server.client_from(200, 1).await;
    assert_eq!(kept.get("/first").await.status, 200);
    let mut stalled = Vec::with_capacity(STALLED);
    for i in 0..STALLED {
        let address = u8::try_from(i % 50).unwrap();
        let mut client = server.client_from(1, address + 1).await;
        // A third is silent, a third stalls in headers, a third in a body.
        let sent = match i % 3 {
            0 => true,
            1 => client.try_send(PARTIAL).await,
            _ => client.try_send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{").await,
        };
        assert!(sent);
        stalled.push(client);
        if i % 100 == 0 {
            assert_eq!(kept.get("/kept").await.status, 200, "after {i}");
        }
    }
    for _ in 0..20 {
        let mut fresh = server.client_from(201, 1).await;
        assert_eq!(fresh.get("/fresh").await.status, 200);
    }
    assert_eq!(kept.get("/last").await.status, 200);
    server.until(&ended("evicted"), 1_700.0).await;
    assert!(server.metric("longbow_connections{port=\"public\"}") <= 301.0);
}
