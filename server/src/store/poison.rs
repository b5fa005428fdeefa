//! One-way switch thrown by the first I/O error: what is in memory may no longer match the disk, so only a restart helps.

use std::sync::OnceLock;

/// Healthy until [`Poison::set`]; never healthy again. Reading costs one atomic load.
#[derive(Debug, Default)]
pub struct Poison(OnceLock<String>);

impl Poison {
    /// Records and logs the first reason; later ones are ignored, so that what is refused from then on logs nothing more.
    pub fn set(&self, reason: impl Into<String>) {
        if self.0.set(reason.into()).is_ok() {
            let reason = self.reason();
            tracing::error!(reason, "a durable room failed: it takes nothing until the server is restarted");
        }
    }

    /// Why it is poisoned, or `None` while healthy.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// Poisons on drop unless [`PoisonGuard::disarm`] was called: a worker thread that panics must not look healthy.
#[derive(Debug)]
pub(crate) struct PoisonGuard<'a> {
    poison: &'a Poison,
    thread: &'static str,
}

impl<'a> PoisonGuard<'a> {
    pub(crate) fn new(poison: &'a Poison, thread: &'static str) -> Self {
        Self { poison, thread }
    }

    pub(crate) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for PoisonGuard<'_> {
    fn drop(&mut self) {
        self.poison.set(format!("the {} thread panicked", self.thread));
    }
}
