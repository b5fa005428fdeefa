//! A server on a port of its own with a handler for tests, and a client that speaks raw bytes to it.

use bytes::Bytes;
use longbow::config::Config;
use longbow::http::respond::{self, Fault, Response};
use longbow::http::{Handler, Listener, Request, Settings};
use longbow::meters::Meters;
use longbow::runtime::Lifecycle;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Longest any wait in these tests may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Bodies of the test handler.
pub(crate) const BODY_MAX: usize = 65_536;

/// Counts what the handler saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) started: AtomicUsize,
    pub(crate) finished: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

pub(crate) struct TestHandler {
    pub(crate) seen: Arc<Seen>,
    /// Wakes every `/wait` request.
    pub(crate) release: Arc<tokio::sync::Semaphore>,
}

struct OnDrop(Arc<Seen>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl TestHandler {
    async fn answer(&self, mut request: Request) -> Result<Response, Fault> {
        match request.path() {
            "/openrtb2/bid" | "/echo" => {
                let body = request.bytes(BODY_MAX).await.map_err(|error| error.fault())?;
                Ok(respond::json_bytes(hyper::StatusCode::OK, body))
            }
            "/wait" => {
                let guard = OnDrop(self.seen.clone());
                if let Ok(permit) = self.release.acquire().await {
                    permit.forget();
                }
                self.seen.finished.fetch_add(1, Ordering::SeqCst);
                std::mem::forget(guard);
                Ok(respond::no_content())
            }
            "/huge" => Ok(respond::with_type(hyper::StatusCode::OK, "application/octet-stream", vec![7u8; 32 << 20])),
            "/text" => Ok(respond::json_bytes(hyper::StatusCode::OK, Bytes::from("[".repeat(20_000)))),
            "/panic" => panic!("asked to"),
            "/pieces" => {
                let mut size = 0;
                while let Some(piece) = request.piece(PATIENCE).await.map_err(|error| error.fault())? {
                    size += piece.len();
                }
                Ok(respond::json(hyper::StatusCode::OK, &size))
            }
            _ => Ok(respond::json(hyper::StatusCode::OK, &request.path())),
        }
    }
}

impl Handler for TestHandler {
    async fn handle(&self, request: Request) -> Response {
        self.seen.started.fetch_add(1, Ordering::SeqCst);
        let endpoint = request.endpoint;
        self.answer(request).await.unwrap_or_else(|fault| fault.respond(endpoint))
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) meters: Arc<Meters>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) seen: Arc<Seen>,
    pub(crate) release: Arc<tokio::sync::Semaphore>,
    pub(crate) task: JoinHandle<()>,
}

/// Default settings on a port that the system picks, changed by `change`.
pub(crate) fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut config = Config::default();
    config.http.listen.set_port(0);
    let mut settings = Settings::public(&config);
    change(&mut settings);
    settings
}

impl Server {
    pub(crate) fn start(change: impl FnOnce(&mut Settings)) -> Self {
        longbow::runtime::raise_file_limit();
        let (meters, lifecycle) = (Arc::new(Meters::new()), Lifecycle::new());
        let seen = Arc::new(Seen::default());
        let release = Arc::new(tokio::sync::Semaphore::new(0));
        let listener = Listener::bind(settings(change), meters.clone(), lifecycle.clone()).unwrap();
        let address = listener.address().unwrap();
        let handler = TestHandler { seen: seen.clone(), release: release.clone() };
        let task = tokio::spawn(listener.serve(handler));
        lifecycle.serving();
        Self { address, meters, lifecycle, seen, release, task }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::from(TcpStream::connect(self.address).await.unwrap())
    }

    /// A client whose own address is 127.0.`a`.`b`.
    pub(crate) async fn client_from(&self, a: u8, b: u8) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::from([127, 0, a, b]), 0)).unwrap();
        Client::from(socket.connect(self.address).await.unwrap())
    }

    /// The value of a series, written as in the exposition.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        value(&self.meters.render(), series)
    }

    /// Waits until a series has at least this value.
    pub(crate) async fn until(&self, series: &str, least: f64) {
        eventually(series, || self.metric(series) >= least).await;
    }
}

/// Waits until `done`.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never came: {what}");
}

/// The value of one series in an exposition.
pub(crate) fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no series {series}")).parse().unwrap()
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A connection.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }
}

impl Client {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// False if the server has closed.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer; `None` if the connection is closed before it is whole.
    pub(crate) async fn try_reply(&mut self) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, self.reply_or_end()).await.expect("an answer or an end in time")
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("an answer")
    }

    /// Waits for the server to close; false if an answer comes instead.
    pub(crate) async fn closed(&mut self) -> bool {
        self.try_reply().await.is_none()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        self.reply().await
    }

    pub(crate) async fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n", body.len());
        self.send(head).await;
        // The server may answer and close before it has read everything.
        let _ = self.try_send(body).await;
        self.reply().await
    }

    pub(crate) async fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> Reply {
        self.request("POST", path, headers, body).await
    }

    /// Whatever bytes come next.
    pub(crate) async fn raw(&mut self) -> Vec<u8> {
        assert!(tokio::time::timeout(PATIENCE, self.more()).await.unwrap(), "closed");
        std::mem::take(&mut self.read)
    }

    async fn more(&mut self) -> bool {
        self.read.reserve(16_384);
        self.stream.read_buf(&mut self.read).await.is_ok_and(|n| n > 0)
    }

    async fn reply_or_end(&mut self) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
        self.read.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        if status == 100 {
            return Box::pin(self.reply_or_end()).await;
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
        while self.read.len() < length {
            if !self.more().await {
                return None;
            }
        }
        let body = self.read.drain(..length).collect();
        Some(Reply { status, headers, body })
    }
}
