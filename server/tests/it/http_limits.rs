//! Sizes, times and shapes of single requests.

use crate::wire::{BODY_MAX, Server};
use flate2::{Compression, write::GzEncoder};
use std::io::{Read as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn headers_that_drip_are_cut_off() {
    let server = Server::start(|s| s.header_timeout = Duration::from_millis(100));
    let mut client = server.client().await;
    client.send("GET /echo HTTP/1.1\r\n").await;
    let mut drips = 0;
    while client.try_send("x: y\r\n").await {
        drips += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(drips < 500, "still open after {drips} header lines");
    }
    assert!(client.closed().await);
    server.until("longbow_connections_ended_total{port=\"public\",reason=\"header_timeout\"}", 1.0).await;
    assert_eq!(server.seen.started.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_keep_alive_time() {
    let server = Server::start(|s| s.keep_alive = Duration::from_millis(100));
    let mut fresh = server.client().await;
    let mut used = server.client().await;
    assert_eq!(used.get("/hello").await.status, 200);
    assert!(fresh.closed().await && used.closed().await);
    server.until("longbow_connections_ended_total{port=\"public\",reason=\"keep_alive_timeout\"}", 2.0).await;
}

#[tokio::test]
async fn a_body_that_stalls_gets_408_in_the_shape_of_its_endpoint() {
    let server = Server::start(|s| s.body_timeout = Duration::from_millis(100));
    let mut client = server.client().await;
    client.send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"half").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert_eq!(reply.json()["error"]["code"], "timeout");
    assert!(client.closed().await);

    let mut client = server.client().await;
    client.send("POST /openrtb2/bid HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"half").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.body.len()), (408, 0));
    assert_eq!(reply.header("x-longbow-error"), Some("the body did not arrive in time"));
}

#[tokio::test]
async fn a_body_that_drips_for_ever_gets_408_too() {
    let server = Server::start(|s| s.body_timeout = Duration::from_millis(150));
    let mut client = server.client().await;
    client.send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n").await;
    for _ in 0..500 {
        if !client.try_send("x").await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        if server.metric("longbow_requests_total{endpoint=\"other\",status=\"4xx\"}") > 0.0 {
            break;
        }
    }
    assert_eq!(client.reply().await.status, 408);
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_unread() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    client.send(format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1)).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 413);
    assert_eq!(reply.json()["error"]["message"], format!("the body is larger than {BODY_MAX} bytes"));
    assert!(server.metric("longbow_limits_reached_total{limit=\"body_bytes\"}") > 0.0);
    // The limit itself is allowed.
    let reply = server.client().await.post("/echo", "", &vec![b' '; BODY_MAX]).await;
    assert_eq!((reply.status, reply.body.len()), (200, BODY_MAX));
    assert!(server.metric("longbow_body_bytes").abs() < 0.5, "memory of bodies is given back");
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    client.send("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..16 {
        if !client.try_send(&chunk).await {
            break;
        }
    }
    assert_eq!(client.reply().await.status, 413);
}

#[tokio::test]
async fn gzip_bodies_are_read_and_bombs_are_not() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    let coded = "content-encoding: gzip\r\n";
    let reply = client.post("/echo", coded, &gzip(b"{\"a\":1}")).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"{\"a\":1}".as_slice()));

    let bomb = gzip(&vec![0u8; 50 << 20]);
    assert!(bomb.len() < BODY_MAX, "the bomb passes the limit of compressed bytes");
    let reply = server.client().await.post("/echo", coded, &bomb).await;
    assert_eq!(reply.status, 413);
    assert_eq!(reply.json()["error"]["message"], format!("the body is larger than {BODY_MAX} bytes once decompressed"));
    assert!(server.metric("longbow_limits_reached_total{limit=\"inflated_bytes\"}") > 0.0);

    let whole = gzip(&vec![b'a'; 10_000]);
    let reply = server.client().await.post("/echo", coded, &whole[..whole.len() / 2]).await;
    assert_eq!((reply.status, reply.json()["error"]["code"].clone()), (400, "bad_gzip".into()));
    let reply = server.client().await.post("/openrtb2/bid", coded, b"not gzip at all").await;
    assert_eq!((reply.status, reply.body.len()), (400, 0));
    let reply = server.client().await.post("/echo", "content-encoding: br\r\n", b"x").await;
    assert_eq!((reply.status, reply.header("accept-encoding")), (415, Some("gzip")));
}

#[tokio::test]
async fn pieces_of_a_long_body_are_inflated_as_they_come() {
    let server = Server::start(|_| {});
    // Incompressible enough to come in several pieces, and larger than any single limit.
    let data: Vec<u8> = (0..3_000_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let reply = server.client().await.post("/pieces", "content-encoding: gzip\r\n", &gzip(&data)).await;
    assert_eq!((reply.status, reply.json()), (200, data.len().into()));
    let reply = server.client().await.post("/pieces", "", &data).await;
    assert_eq!((reply.status, reply.json()), (200, data.len().into()));
    assert!(server.metric("longbow_body_bytes").abs() < 0.5);
}

#[tokio::test]
async fn a_short_body_that_nobody_reads_does_not_cost_the_connection() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    for _ in 0..3 {
        client.send("POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n").await;
        client.send(vec![b'x'; 30_000]).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (200, None));
    }
    client.send("POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\nx").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "a long one is not read past");
}

#[tokio::test]
async fn all_bodies_together_have_a_limit() {
    let server = Server::start(|s| s.bodies_bytes_max = 10_000);
    let mut client = server.client().await;
    let reply = client.post("/echo", "", &[b' '; 10_001]).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    let reply = server.client().await.post("/echo", "", &[b' '; 9_000]).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    let burst: String = (0..20).map(|i| format!("GET /n{i} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(burst).await;
    for i in 0..20 {
        assert_eq!(client.reply().await.json(), format!("/n{i}"));
    }
    // One that waits holds back the one behind it.
    client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.until("longbow_requests_in_flight{endpoint=\"other\"}", 1.0).await;
    assert_eq!(server.seen.started.load(Ordering::SeqCst), 21);
    server.release.add_permits(1);
    assert_eq!(client.reply().await.status, 204);
    assert_eq!(client.reply().await.json(), "/next");
}

#[tokio::test]
async fn broken_requests_get_an_answer_and_the_server_lives() {
    let server = Server::start(|s| s.header_bytes_max = 8_192);
    for (bytes, status) in [
        ("not http\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(9_000)), 431),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101)), 431),
        ("POST /echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(), 400),
    ] {
        let mut client = server.client().await;
        client.send(&bytes).await;
        assert_eq!(client.reply().await.status, status, "{}", &bytes[..bytes.len().min(40)]);
        assert!(client.closed().await);
    }
    assert_eq!(server.client().await.get("/fine").await.status, 200);
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    let reply = client.get("/panic").await;
    assert_eq!((reply.status, reply.json()["error"]["code"].clone()), (500, "internal".into()));
    assert_eq!(client.get("/fine").await.status, 200, "the same connection goes on");
    assert!(server.metric("longbow_panics_total{endpoint=\"other\"}") > 0.0);
}

#[tokio::test]
async fn a_request_over_its_time_gets_503_and_its_work_is_dropped() {
    let server = Server::start(|s| s.request_timeout = Some(Duration::from_millis(50)));
    let reply = server.client().await.get("/wait").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(server.seen.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_work() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.until("longbow_requests_in_flight{endpoint=\"other\"}", 1.0).await;
    drop(client);
    server.until("longbow_requests_cancelled_total{endpoint=\"other\"}", 1.0).await;
    assert_eq!(server.seen.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(server.seen.finished.load(Ordering::SeqCst), 0);
    assert!(server.metric("longbow_requests_in_flight{endpoint=\"other\"}").abs() < 0.5);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = Server::start(|s| s.write_timeout = Duration::from_millis(100));
    let mut client = server.client().await;
    client.send("GET /huge HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.until("longbow_connections_ended_total{port=\"public\",reason=\"write_timeout\"}", 1.0).await;
    assert!(client.closed().await, "the answer never comes whole");
    // One that reads gets all of it.
    let reply = server.client().await.get("/huge").await;
    assert_eq!(reply.body.len(), 32 << 20);
}

#[tokio::test]
async fn large_answers_are_compressed_when_asked() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    let plain = client.get("/text").await;
    assert_eq!((plain.header("content-encoding"), plain.body.len()), (None, 20_000));
    client.send("GET /text HTTP/1.1\r\nhost: a\r\naccept-encoding: br, gzip;q=0.5\r\n\r\n").await;
    let small = client.reply().await;
    assert_eq!(small.header("content-encoding"), Some("gzip"));
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(small.body.as_slice()).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain.body);
    client.send("GET /text HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip;q=0\r\n\r\n").await;
    assert_eq!(client.reply().await.header("content-encoding"), None);
    client.send("GET /short HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n").await;
    assert_eq!(client.reply().await.header("content-encoding"), None);
}

#[tokio::test]
async fn request_ids_are_taken_if_sane_and_made_otherwise() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    let mut id_for = async |given: &str| {
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: {given}\r\n\r\n")).await;
        client.reply().await.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id_for("abc-123_X:9.z").await, "abc-123_X:9.z");
    let mut made = vec![id_for("has space").await, id_for(&"x".repeat(129)).await, id_for("<script>").await];
    assert!(made.iter().all(|id| id.len() > 16 && !id.contains(['<', ' '])), "{made:?}");
    made.dedup();
    assert_eq!(made.len(), 3);
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let server = Server::start(|_| {});
    let mut client = server.client().await;
    client.send("HEAD /text HTTP/1.1\r\nhost: a\r\n\r\nGET /after HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut raw = Vec::new();
    while !raw.windows(8).any(|w| w == b"\"/after\"") {
        raw.extend(client.raw().await);
    }
    let text = String::from_utf8(raw).unwrap();
    assert!(text.contains("content-length: 20000") && !text.contains("[["), "{text}");
}
