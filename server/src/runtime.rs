//! Threads, signals and the life of the process: starting, ready, leaving, gone.

mod lifecycle;
mod logs;

pub use lifecycle::{Lifecycle, Phase, Readiness, Reason};
pub use logs::init_logs;

use crate::config::Config;
use crate::http::{Handler, Listener, Settings};
use crate::meters::Meters;
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a wrong configuration or command line (`EX_USAGE` of sysexits.h); nothing was bound.
pub const EXIT_USAGE: u8 = 64;
/// Exit code after a second signal while draining.
const EXIT_FORCED: u8 = 130;

/// IO threads for `configured` (0: one for each four cores, from 1 to 4).
#[must_use]
pub fn io_threads(configured: usize) -> usize {
    if configured > 0 { configured } else { (cores() / 4).clamp(1, 4) }
}

/// Cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Raises the limit of open files to what the system allows; the limit in force.
pub fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    file_limit()
}

/// The limit of open files; `None` if there is none.
#[must_use]
pub fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Runs an application from its start to the end of its drain, on named IO threads. A first SIGTERM or SIGINT drains, a
/// second ends the process at once. A process that must end ([`Lifecycle::doom`]) drains likewise.
///
/// # Errors
/// What kept it from starting, or why it had to end.
pub fn run<F, App>(config: Config, app: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(Config, Lifecycle) -> App,
    App: Future<Output = anyhow::Result<()>>,
{
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(io_threads(config.runtime.io_threads))
        .thread_name_fn(|| {
            use std::sync::atomic::{AtomicUsize, Ordering};
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            format!("io-{}", NEXT.fetch_add(1, Ordering::Relaxed))
        })
        // Only file access of rare admin calls may block; the request path never does.
        .max_blocking_threads(8)
        .enable_all()
        .build()?;
    let lifecycle = Lifecycle::new();
    let delay = Duration::from_millis(config.drain.delay_ms);
    let result = runtime.block_on(async {
        let signals = Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
        let watching = tokio::spawn(watch(signals, lifecycle.clone(), delay));
        let result = app(config, lifecycle.clone()).await;
        watching.abort();
        result
    });
    // Whatever is still queued in the runtime has had the drain's time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result?;
    match lifecycle.doomed() {
        Some(why) => Err(anyhow::Error::msg(why)),
        None => Ok(ExitCode::SUCCESS),
    }
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

async fn watch(mut signals: Signals, lifecycle: Lifecycle, delay: Duration) {
    tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, ?delay, "leaving: not ready from now on; a second signal ends at once");
        }
        why = lifecycle.doom_comes() => {
            tracing::error!(why, ?delay, "leaving: not ready from now on; a signal ends at once");
        }
    }
    let drain = lifecycle.drain(delay);
    tokio::select! {
        () = drain => {}
        name = signals.next() => force(name),
    }
    force(signals.next().await);
}

fn force(name: &str) -> ! {
    tracing::warn!(signal = name, "second signal: ending at once");
    std::process::exit(i32::from(EXIT_FORCED));
}

/// A port served on a thread of its own.
pub struct PortThread {
    /// The bound address.
    pub address: SocketAddr,
    thread: std::thread::JoinHandle<()>,
}

impl PortThread {
    /// Waits until the port is drained. Blocks: call it after everything else has ended.
    pub fn join(self) {
        // A panic of the thread has been logged by its hook.
        let _ = self.thread.join();
    }
}

/// Serves a port on a named thread with a runtime of its own, so that its work never delays that of other ports. Binding
/// errors are returned.
pub fn serve_on_thread<H: Handler>(
    name: &str,
    settings: Settings,
    meters: Arc<Meters>,
    lifecycle: Lifecycle,
    handler: H,
) -> anyhow::Result<PortThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        Listener::bind(settings, meters, lifecycle)?
    };
    let address = listener.address()?;
    let body = move || {
        runtime.block_on(listener.serve(handler));
        runtime.shutdown_timeout(Duration::from_secs(1));
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(PortThread { address, thread })
}
