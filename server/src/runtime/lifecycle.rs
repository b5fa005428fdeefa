//! What the process is about to do, for everyone who must know: listeners, probes, background work.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Phases, in order; there is no way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Loading and warming.
    Starting,
    /// Serving.
    Serving,
    /// Still serving, but asking for no more traffic.
    Draining,
    /// Accepting nothing new, finishing what is in flight.
    Stopping,
}

/// Why the server is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Which part, for example `model` or `ledger`.
    pub component: String,
    /// What it waits for or what is broken.
    pub message: String,
}

/// The answer of /readyz.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True if traffic is welcome.
    pub ready: bool,
    /// The phase.
    pub phase: Phase,
    /// Everything that stands in the way.
    pub reasons: Vec<Reason>,
}

struct Inner {
    phase: watch::Sender<Phase>,
    faults: Mutex<BTreeMap<&'static str, String>>,
    doomed: watch::Sender<Option<String>>,
}

/// Shared handle of the process's life. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle(Arc<Inner>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// Starting, nothing in the way but the start itself.
    #[must_use]
    pub fn new() -> Self {
        let (phase, _) = watch::channel(Phase::Starting);
        let (doomed, _) = watch::channel(None);
        Self(Arc::new(Inner { phase, faults: Mutex::default(), doomed }))
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Everything is loaded and warm. Has no effect once the drain has begun.
    pub fn serving(&self) {
        self.advance(Phase::Serving);
    }

    /// Records that `component` keeps the server from being ready: still loading, or broken (a poisoned ledger, a failed
    /// device).
    pub fn not_ready(&self, component: &'static str, message: impl Into<String>) {
        self.0.faults.lock().insert(component, message.into());
    }

    /// `component` is well again.
    pub fn clear(&self, component: &'static str) {
        self.0.faults.lock().remove(component);
    }

    /// The answer for probes.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let phase = self.phase();
        let mut reasons: Vec<_> = self
            .0
            .faults
            .lock()
            .iter()
            .map(|(component, message)| Reason { component: (*component).to_owned(), message: message.clone() })
            .collect();
        let process = match phase {
            Phase::Starting => Some("still starting"),
            Phase::Serving => None,
            Phase::Draining => Some("leaving: still serving, send new traffic elsewhere"),
            Phase::Stopping => Some("leaving: finishing requests in flight"),
        };
        reasons.extend(process.map(|message| Reason { component: "process".to_owned(), message: message.to_owned() }));
        Readiness { ready: reasons.is_empty(), phase, reasons }
    }

    /// True once traffic is no longer welcome.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Says "not ready" at once, keeps serving for `delay`, then stops.
    pub async fn drain(&self, delay: Duration) {
        self.advance(Phase::Draining);
        tokio::time::sleep(delay).await;
        self.stop();
    }

    /// Stops without a delay: nothing new is accepted, requests in flight are finished.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// Says that this process cannot get well again: it drains as after SIGTERM, and ends with a failure, so that whoever
    /// watches it starts another. The first reason counts.
    pub fn doom(&self, why: impl Into<String>) {
        self.0.doomed.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(why.into());
            }
            first
        });
    }

    /// Why the process must end, if it must.
    #[must_use]
    pub fn doomed(&self) -> Option<String> {
        self.0.doomed.borrow().clone()
    }

    /// Resolves when the process must end, with the reason.
    pub async fn doom_comes(&self) -> String {
        let mut reason = self.0.doomed.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let why = reason.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Resolves when the drain begins.
    pub async fn draining_begins(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves when nothing new is accepted any more.
    pub async fn stopping(&self) {
        self.reached(Phase::Stopping).await;
    }

    async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn advance(&self, to: Phase) {
        self.0.phase.send_if_modified(|now| {
            let forward = to > *now;
            if forward {
                *now = to;
            }
            forward
        });
    }
}
