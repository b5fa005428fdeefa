//! Connections that stall, held open on a thread of their own.

use anyhow::bail;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// Connections being opened at one time.
const OPENING_MAX: usize = 128;
/// Longest wait for one to open.
const OPEN_TIME: Duration = Duration::from_secs(5);
/// Longest wait for all.
const GATHER_TIME: Duration = Duration::from_secs(60);
/// Share of the crowd that must be there before it counts as gathered, in hundredths: the rest is being ended and opened again.
const GATHERED_PERCENT: usize = 98;

/// Stops in the middle of a header.
const HALF_HEADER: &[u8] = b"POST /openrtb2/bid HTTP/1.1\r\nhost: stall.example\r\nuser-agent: st";
/// Stops in the middle of a body.
const HALF_BODY: &[u8] = b"POST /openrtb2/bid HTTP/1.1\r\nhost: stall.example\r\ncontent-type: application/json\r\n\
    content-length: 1000\r\n\r\n{\"id\":\"stall\",\"imp\":[{\"id\":\"1\",\"banner\":{\"w\":300,";

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    ended: AtomicU64,
}

/// The crowd; leaves when told or dropped.
pub(crate) struct Crowd {
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Crowd {
    /// Opens `connections` to `server` and returns once they stand.
    pub(crate) fn gather(server: SocketAddr, connections: u32, per_address: u32) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("crowd".to_owned()).spawn({
            let counts = Arc::clone(&counts);
            move || hold(server, (connections, per_address), &counts, stopped)
        })?;
        let crowd = Self { counts, stop: Some(stop), thread: Some(thread) };
        let began = Instant::now();
        while crowd.open() * 100 < connections as usize * GATHERED_PERCENT {
            if began.elapsed() > GATHER_TIME {
                bail!("only {} of {connections} connections stay open: see the caps of the server", crowd.open());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(crowd)
    }

    /// Stalled connections now.
    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Relaxed)
    }

    /// Closes all; how many the server had ended.
    pub(crate) fn leave(mut self) -> u64 {
        let ended = self.counts.ended.load(Relaxed);
        self.end();
        ended
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its only fault is that of building a runtime, and then no connection ever stood.
            let _ = thread.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

fn hold(
    server: SocketAddr,
    (connections, per_address): (u32, u32),
    counts: &Arc<Counts>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    for number in 0..connections {
        let source = source(server, number / per_address);
        runtime.spawn(stall(server, source, number % 3, Arc::clone(&opening), Arc::clone(counts)));
    }
    // Resolves with an error when the other half is dropped: that is the sign to leave.
    let _ = runtime.block_on(stopped);
    Ok(())
}

/// An address of its own for each group, where the system has them: all of 127.0.0.0/8 is this machine.
fn source(server: SocketAddr, group: u32) -> Option<SocketAddr> {
    let base = u32::from(Ipv4Addr::new(127, 64, 0, 1));
    server.ip().is_loopback().then(|| SocketAddr::from((Ipv4Addr::from(base + group), 0))).filter(|_| server.is_ipv4())
}

async fn stall(
    server: SocketAddr,
    source: Option<SocketAddr>,
    kind: u32,
    opening: Arc<Semaphore>,
    counts: Arc<Counts>,
) {
    loop {
        let opened = {
            let Ok(_turn) = opening.acquire().await else { return };
            tokio::time::timeout(OPEN_TIME, open(server, source, kind)).await
        };
        let Ok(Ok(mut stream)) = opened else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        counts.open.fetch_add(1, Relaxed);
        let mut answer = [0; 512];
        // An answer (408, say) may come before the end.
        while matches!(stream.read(&mut answer).await, Ok(1..)) {}
        counts.open.fetch_sub(1, Relaxed);
        counts.ended.fetch_add(1, Relaxed);
    }
}

async fn open(server: SocketAddr, source: Option<SocketAddr>, kind: u32) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(source)?;
    }
    let mut stream = socket.connect(server).await?;
    match kind {
        0 => {}
        1 => stream.write_all(HALF_HEADER).await?,
        _ => stream.write_all(HALF_BODY).await?,
    }
    Ok(stream)
}
