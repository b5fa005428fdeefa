//! Request bodies within limits: size before and after decompression, time, and the memory of all bodies together.

use super::registry::Connection;
use super::respond::Fault;
use crate::meters::{Bound, Meters};
use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap};
use parking_lot::Mutex;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Compressed bytes inflated at a time: gzip grows at most about 1,030 times, so one step makes at most 4 MiB.
const INFLATE_STEP_BYTES: usize = 4_096;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Over its size limit.
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// Over its size limit once decompressed.
    #[error("the body is larger than {bytes_max} bytes once decompressed")]
    TooLargeInflated {
        /// The limit.
        bytes_max: usize,
    },
    /// Not complete in time.
    #[error("the body did not arrive in time")]
    TimedOut,
    /// All bodies together hold as much memory as is allowed.
    #[error("the server holds as many request bodies as it may; try again later")]
    NoMemory,
    /// A content coding that is not served.
    #[error("content-encoding `{0}` is not understood; send gzip or none")]
    UnknownCoding(String),
    /// Not gzip although it says so.
    #[error("the body is not valid gzip: {0}")]
    BadGzip(String),
    /// The client broke off, or its framing is wrong.
    #[error("the body ended early")]
    Broken,
}

impl BodyError {
    /// The fault as an answer.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let (status, code) = match self {
            Self::TooLarge { .. } | Self::TooLargeInflated { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "timeout"),
            Self::NoMemory => return Fault::unavailable(self.to_string(), 1),
            Self::UnknownCoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
            Self::BadGzip(_) => (StatusCode::BAD_REQUEST, "bad_gzip"),
            Self::Broken => (StatusCode::BAD_REQUEST, "incomplete"),
        };
        Fault::new(status, code, self.to_string())
    }
}

/// Memory that all bodies together may hold.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    bytes_max: usize,
}

impl Memory {
    /// A budget of `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { used: AtomicUsize::new(0), bytes_max }
    }

    fn take(&self, bytes: usize) -> bool {
        let free = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.bytes_max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok()
    }
}

/// Where a body leaves its socket side when the handler is done with it.
pub(super) type Rest = Arc<Mutex<Option<Incoming>>>;

/// Unread bytes that are read past to keep a connection; beyond it, closing is cheaper.
const PAST_BYTES_MAX: usize = 65_536;
/// Time for reading past them.
const PAST_TIME: Duration = Duration::from_millis(500);

/// Reads past what a handler left of a body (it refused the request by its headers, say), so that the connection can go
/// on. False if that would take too long: the connection must close.
pub(super) async fn read_past(rest: &Rest) -> bool {
    let Some(mut incoming) = rest.lock().take() else { return true };
    if incoming.is_end_stream() {
        return true;
    }
    if incoming.size_hint().lower() > PAST_BYTES_MAX as u64 {
        return false;
    }
    let reading = async {
        let mut past = 0;
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else { return false };
            past += frame.data_ref().map_or(0, Bytes::len);
            if past > PAST_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(PAST_TIME, reading).await.unwrap_or(false)
}

/// What bodies share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) memory: Arc<Memory>,
    pub(super) meters: Arc<Meters>,
}

/// A body not yet read.
pub(super) struct Body {
    /// `None` once the end was seen.
    incoming: Option<Incoming>,
    rest: Rest,
    deadline: Instant,
    connection: Arc<Connection>,
    shared: Shared,
    taken: usize,
    inflater: Option<Inflater>,
    ended: bool,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.give_back();
        *self.rest.lock() = self.incoming.take();
    }
}

impl Body {
    pub(super) fn new(incoming: Incoming, time: Duration, connection: Arc<Connection>, shared: Shared) -> Self {
        let deadline = Instant::now() + time;
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        Self { incoming, rest: Rest::default(), deadline, connection, shared, taken: 0, inflater: None, ended: false }
    }

    /// Where to find what is left of it after it was dropped.
    pub(super) fn rest(&self) -> Rest {
        self.rest.clone()
    }

    fn give_back(&mut self) {
        self.shared.memory.used.fetch_sub(self.taken, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.shared.meters.body_bytes.decrement(self.taken as f64);
        self.taken = 0;
    }

    fn take(&mut self, bytes: usize) -> Result<(), BodyError> {
        if !self.shared.memory.take(bytes) {
            self.shared.meters.bounds.of(Bound::BodiesMemory).increment(1);
            return Err(BodyError::NoMemory);
        }
        self.taken += bytes;
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.shared.meters.body_bytes.increment(bytes as f64);
        Ok(())
    }

    fn too_large(&self, bytes_max: usize) -> BodyError {
        self.shared.meters.bounds.of(Bound::BodyBytes).increment(1);
        BodyError::TooLarge { bytes_max }
    }

    async fn frame(&mut self, until: Instant) -> Result<Option<Bytes>, BodyError> {
        let Some(incoming) = &mut self.incoming else { return Ok(None) };
        loop {
            self.connection.body_awaited();
            let frame = tokio::time::timeout_at(until, incoming.frame()).await;
            self.connection.body_came();
            match frame {
                Err(_) => return Err(BodyError::TimedOut),
                Ok(None) => {
                    self.incoming = None;
                    return Ok(None);
                }
                Ok(Some(Err(_))) => return Err(BodyError::Broken),
                // Trailers are read past.
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    pub(super) async fn collect(&mut self, headers: &HeaderMap, bytes_max: usize) -> Result<Bytes, BodyError> {
        let gzip = is_gzip(headers)?;
        // The declared length first: nothing of a body that is too large is read.
        if declared_length(headers).is_some_and(|length| length > bytes_max as u64) {
            return Err(self.too_large(bytes_max));
        }
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        let mut size = 0usize;
        while let Some(data) = self.frame(self.deadline).await? {
            size += data.len();
            if size > bytes_max {
                return Err(self.too_large(bytes_max));
            }
            self.take(data.len())?;
            match first.take() {
                // Most bodies come in one piece and are not copied.
                None if rest.is_empty() => first = Some(data),
                earlier => {
                    rest.extend_from_slice(earlier.as_deref().unwrap_or_default());
                    rest.extend_from_slice(&data);
                }
            }
        }
        let body = first.unwrap_or_else(|| rest.freeze());
        if !gzip {
            return Ok(body);
        }
        let mut inflater = Inflater::new(bytes_max);
        let mut out = BytesMut::new();
        for step in body.chunks(INFLATE_STEP_BYTES) {
            let piece = self.inflated(&mut inflater, step)?;
            self.take(piece.len())?;
            out.extend_from_slice(&piece);
        }
        out.extend_from_slice(&inflater.finish()?);
        Ok(out.freeze())
    }

    fn inflated(&self, inflater: &mut Inflater, step: &[u8]) -> Result<Vec<u8>, BodyError> {
        inflater.push(step).inspect_err(|error| {
            if matches!(error, BodyError::TooLargeInflated { .. }) {
                self.shared.meters.bounds.of(Bound::InflatedBytes).increment(1);
            }
        })
    }

    pub(super) async fn piece(&mut self, headers: &HeaderMap, idle: Duration) -> Result<Option<Bytes>, BodyError> {
        // What came before has been used up by the caller.
        self.give_back();
        if self.ended {
            return Ok(None);
        }
        let gzip = is_gzip(headers)?;
        loop {
            let Some(data) = self.frame(Instant::now() + idle).await? else {
                self.ended = true;
                return match self.inflater.take() {
                    Some(inflater) => Ok(Some(inflater.finish()?.into()).filter(|last: &Bytes| !last.is_empty())),
                    None => Ok(None),
                };
            };
            self.take(data.len())?;
            if !gzip {
                return Ok(Some(data));
            }
            let mut inflater = self.inflater.take().unwrap_or_else(|| Inflater::new(usize::MAX));
            let mut out = BytesMut::new();
            for step in data.chunks(INFLATE_STEP_BYTES) {
                let piece = self.inflated(&mut inflater, step)?;
                self.take(piece.len())?;
                out.extend_from_slice(&piece);
            }
            self.inflater = Some(inflater);
            if !out.is_empty() {
                return Ok(Some(out.freeze()));
            }
        }
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, BodyError> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    let coding = coding.to_str().unwrap_or("?").trim();
    if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
        Ok(true)
    } else if coding.is_empty() || coding.eq_ignore_ascii_case("identity") {
        Ok(false)
    } else {
        Err(BodyError::UnknownCoding(coding.chars().take(64).collect()))
    }
}

/// Inflates gzip piece by piece up to a size.
struct Inflater(MultiGzDecoder<Capped>);

struct Capped {
    out: Vec<u8>,
    left: usize,
    bytes_max: usize,
}

impl Write for Capped {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(data.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.out.extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inflater {
    fn new(bytes_max: usize) -> Self {
        Self(MultiGzDecoder::new(Capped { out: Vec::new(), left: bytes_max, bytes_max }))
    }

    fn error(&self, error: &io::Error) -> BodyError {
        if error.kind() == io::ErrorKind::FileTooLarge {
            BodyError::TooLargeInflated { bytes_max: self.0.get_ref().bytes_max }
        } else {
            BodyError::BadGzip(error.to_string())
        }
    }

    fn push(&mut self, data: &[u8]) -> Result<Vec<u8>, BodyError> {
        self.0.write_all(data).map_err(|error| self.error(&error))?;
        Ok(std::mem::take(&mut self.0.get_mut().out))
    }

    fn finish(mut self) -> Result<Vec<u8>, BodyError> {
        self.0.try_finish().map_err(|error| self.error(&error))?;
        Ok(std::mem::take(&mut self.0.get_mut().out))
    }
}
