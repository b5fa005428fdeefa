//! The HTTP client of commands that talk to a running server.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Between two tries while the server is busy.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a server is: `http://HOST[:PORT][/PREFIX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    authority: String,
    prefix: String,
}

impl Server {
    /// Reads a URL; the caller says which argument it is.
    ///
    /// # Errors
    /// It is no http URL.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}`"))?;
        let authority = uri.authority().map(ToString::to_string);
        let (Some("http"), Some(host)) = (uri.scheme_str(), authority) else {
            bail!("`{url}`: must be http://HOST:PORT");
        };
        let authority = if uri.port().is_some() { host } else { format!("{host}:80") };
        Ok(Self { authority, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

/// One keep-alive connection, opened at the first request and again when the server closed it.
#[derive(Debug)]
pub struct Connection {
    server: Server,
    tries_max: u32,
    patience: Duration,
    token: Option<String>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// A connection that tries a request up to `tries_max` times, a second apart, while the server is busy (429, 503) or
    /// closes it.
    #[must_use]
    pub fn new(server: Server, tries_max: u32) -> Self {
        Self { server, tries_max: tries_max.max(1), patience: PATIENCE, token: None, sender: None }
    }

    /// Waits this long for each answer instead of a minute, and shows this token.
    #[must_use]
    pub fn with(self, patience: Duration, token: Option<String>) -> Self {
        Self { patience, token, ..self }
    }

    /// Posts a JSON body; status and body of the answer. The request may reach the server twice.
    ///
    /// # Errors
    /// No connection, no answer in time, or busy at every try.
    pub async fn post(&mut self, path: &str, body: &Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        self.send(Method::POST, path, body).await
    }

    /// The same with any method.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn send(&mut self, method: Method, path: &str, body: &Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut last = String::new();
        for attempt in 0..self.tries_max {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let sender = match self.sender.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => self.connect().await?,
            };
            match tokio::time::timeout(self.patience, self.exchange(sender, (&method, path), body))
                .await
                .context("no answer in time")?
            {
                Ok((StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, text)) => {
                    last = String::from_utf8_lossy(&text).into_owned();
                }
                Ok(answer) => return Ok(answer),
                // An idle connection may have been closed by the server: tried again on a new one.
                Err(error) => last = format!("{error:#}"),
            }
        }
        bail!("the server did not take a request in {} tries: {last}", self.tries_max)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let authority = &self.server.authority;
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(authority)).await;
        let stream = stream.context("no connection in time")?.with_context(|| format!("connect to {authority}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// One request and its whole answer, after which the connection is kept.
    async fn exchange(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        (method, path): (&Method, &str),
        body: &Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server.prefix))
            .header("host", &self.server.authority)
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.clone()))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let text = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let text = text.map_err(|fault| anyhow::anyhow!(fault))?.to_bytes();
        self.sender = Some(sender);
        Ok((status, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_prefix() {
        let server = Server::parse("http://127.0.0.1:8080").unwrap();
        assert_eq!((server.authority.as_str(), server.prefix.as_str()), ("127.0.0.1:8080", ""));
        let server = Server::parse("http://ads.example/longbow/").unwrap();
        assert_eq!((server.authority.as_str(), server.prefix.as_str()), ("ads.example:80", "/longbow"));
        for wrong in ["https://ads.example", "127.0.0.1:8080", "/v1", ""] {
            assert!(Server::parse(wrong).is_err(), "{wrong}");
        }
    }
}
