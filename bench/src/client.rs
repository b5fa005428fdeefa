//! A small HTTP/1.1 client over real sockets: one keep-alive connection a worker, reconnecting after a fault.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// Largest answer read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where requests go: `http://host:port`.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `host:port`, for the connection and the `host` header.
    pub(crate) authority: String,
}

impl Target {
    /// Parses `http://host:port`, with or without a trailing slash.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else { bail!("{url}: must start with http://") };
        let authority = rest.trim_end_matches('/');
        if authority.contains('/') || authority.is_empty() {
            bail!("{url}: give scheme, host and port only, as in http://127.0.0.1:8080");
        }
        let authority = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority })
    }
}

/// One answer.
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// `x-longbow-error`, if any.
    pub(crate) error: Option<String>,
    /// `server-timing`, if any.
    pub(crate) timing: Option<String>,
    /// `x-longbow-no-bid`, if any.
    pub(crate) no_bid: Option<String>,
    /// Body.
    pub(crate) body: Bytes,
}

/// One keep-alive connection.
pub(crate) struct Connection {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// A connection that opens at its first request.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, sender: None }
    }

    async fn sender(&mut self) -> anyhow::Result<&mut SendRequest<Full<Bytes>>> {
        let alive = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !alive {
            let stream = TcpStream::connect(&self.target.authority)
                .await
                .with_context(|| format!("connect to {}", self.target.authority))?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("connection was just made")
    }

    /// Posts a JSON body; a fault closes the connection, and the next call opens a new one.
    pub(crate) async fn post(&mut self, path: &str, body: Bytes, timeout: Duration) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, body, timeout).await
    }

    /// The same with any method.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> anyhow::Result<Answer> {
        let authority = self.target.authority.clone();
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", authority)
            .header("content-type", "application/json")
            .header("x-openrtb-version", "2.6")
            .body(Full::new(body))?;
        let exchange = async {
            let response = self.sender().await?.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| anyhow::anyhow!("body: {e}"))?;
            let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                error: text("x-longbow-error"),
                timing: text("server-timing"),
                no_bid: text("x-longbow-no-bid"),
                body: body.to_bytes(),
            })
        };
        let outcome = tokio::time::timeout(timeout, exchange).await;
        match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => {
                self.sender = None;
                Err(fault)
            }
            Err(_) => {
                self.sender = None;
                bail!("no answer within {} ms", timeout.as_millis())
            }
        }
    }
}
