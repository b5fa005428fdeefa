//! Accepts connections within the caps, and drains them at the end.

use super::Handler;
use super::connection::{Server, Settings};
use super::registry::{Refused, Registry};
use crate::meters::{ConnectionEnd, Meters};
use crate::runtime::Lifecycle;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections the system may hold before they are accepted.
const BACKLOG: u32 = 4_096;
/// Bounds of the pause after a failed accept.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// Descriptors kept for files, the other port and clients of ours.
const FILES_KEPT: u64 = 512;
/// How often times are enforced, at most.
const SWEEP_MAX: Duration = Duration::from_millis(250);

/// A bound port, not yet served.
pub struct Listener {
    listener: TcpListener,
    settings: Settings,
    meters: Arc<Meters>,
    lifecycle: Lifecycle,
}

impl Listener {
    /// Binds the port of `settings`; a cap above the process's file limit is lowered and logged.
    pub fn bind(mut settings: Settings, meters: Arc<Meters>, lifecycle: Lifecycle) -> io::Result<Self> {
        let socket = if settings.listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", settings.listen));
        socket.bind(settings.listen).map_err(named)?;
        let listener = socket.listen(BACKLOG).map_err(named)?;
        if let Some(files) = crate::runtime::file_limit() {
            let room = usize::try_from(files.saturating_sub(FILES_KEPT).max(files / 2)).unwrap_or(usize::MAX);
            if settings.connections_max > room {
                tracing::warn!(
                    wanted = settings.connections_max,
                    room,
                    files,
                    "connection cap lowered to the file limit"
                );
                settings.connections_max = room;
            }
        }
        Ok(Self { listener, settings, meters, lifecycle })
    }

    /// The bound address, with the port that the system chose for port 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the lifecycle stops and the last connection has ended, or the drain's hard limit is over.
    pub async fn serve(self, handler: impl Handler) {
        let Self { listener, settings, meters, lifecycle } = self;
        let registry = Registry::new(settings.caps());
        let drain_limit = settings.drain_limit;
        let shortest = settings.header_timeout.min(settings.keep_alive).min(settings.write_timeout);
        let mut sweep = tokio::time::interval((shortest / 4).clamp(Duration::from_millis(10), SWEEP_MAX));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let server = Arc::new(Server::new(handler, settings, meters, lifecycle.clone()));
        let sweeping = async {
            loop {
                sweep.tick().await;
                registry.sweep();
            }
        };
        let serving = async {
            tokio::select! {
                never = accept(&listener, &server, &registry) => match never {},
                () = lifecycle.stopping() => {}
            }
            admit_waiting(listener, &server, &registry);
            if tokio::time::timeout(drain_limit, registry.emptied()).await.is_err() {
                let left = registry.end_all();
                tracing::warn!(connections = left, limit = ?drain_limit, "drain limit reached, connections closed");
                // Closing needs one turn of each task; a second is far more than that.
                let _ = tokio::time::timeout(Duration::from_secs(1), registry.emptied()).await;
            }
        };
        tokio::select! {
            () = serving => {}
            () = sweeping => {}
        }
    }
}

enum Never {}

async fn accept<H: Handler>(listener: &TcpListener, server: &Arc<Server<H>>, registry: &Arc<Registry>) -> Never {
    let port = server.settings.port;
    let mut backoff = BACKOFF.0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                server.meters.accept_errors.of(port).increment(1);
                // Out of descriptors, most likely: room for one, and a pause instead of a hot loop.
                let evicted = registry.evict_one();
                tracing::warn!(%error, evicted, pause = ?backoff, "accept failed");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
                continue;
            }
        };
        backoff = BACKOFF.0;
        server.meters.connections_accepted.of(port).increment(1);
        admit(stream, peer, server, registry);
    }
}

fn admit<H: Handler>(stream: TcpStream, peer: SocketAddr, server: &Arc<Server<H>>, registry: &Arc<Registry>) {
    match registry.admit(peer.ip()) {
        Ok(place) => {
            // Answers are small and must leave at once.
            let _ = stream.set_nodelay(true);
            tokio::spawn(server.clone().serve(stream, peer, place));
        }
        Err(refused) => {
            let end = match refused {
                Refused::Port => ConnectionEnd::Refused,
                Refused::Address => ConnectionEnd::RefusedAddress,
            };
            server.meters.connections_ended.of(server.settings.port, end).increment(1);
            refuse(&stream, server.settings.retry_after_s);
        }
    }
}

/// Takes in whom the system has connected already, then stops listening: closing the socket at once would reset them, with a
/// request perhaps on its way.
fn admit_waiting<H: Handler>(listener: TcpListener, server: &Arc<Server<H>>, registry: &Arc<Registry>) {
    let Ok(listener) = listener.into_std() else { return };
    // The queue's length bounds this even while more arrive.
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) else { continue };
        server.meters.connections_accepted.of(server.settings.port).increment(1);
        admit(stream, peer, server, registry);
    }
}

/// One try without waiting: a client that does not take it sees the connection closed.
fn refuse(stream: &TcpStream, retry_after_s: u32) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {retry_after_s}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let _ = stream.try_write(answer.as_bytes());
}

/// Errors that say something about the connection that was to be accepted, not about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
