//! The life of models in a serving process: loaded beside requests, switched in one step, freed after their last request.
//!
//! ```text
//! POST /v1/models --> one job at a time --> thread "model" --> thread "model-build" (low priority): read, hashes, self-check,
//!                                             |                  rows, index, full-size warm-up, recent users
//!                                             |<-----------------'
//!                                             |  device and search threads; what the catalogue did meanwhile
//!                                             |  switch: one atomic store, under the catalogue's lock
//!                                             '  the former generation: held until its last request, then taken apart here
//! ```
//!
//! A refusal at any point leaves everything as it was.

mod record;
mod thread;

pub(crate) use record::{NoModel, chosen_model, find_model, models_dir};
pub(super) use record::{Served, served_before, write};
pub(super) use thread::ModelThread;

use super::Generation;
use super::generation::ModelFacts;
use crate::config::Config;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Longest wait of a caller for the end of a load.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes of a path at most.
const PATH_BYTES_MAX: usize = 1_024;

/// What a job does.
#[derive(Clone, Debug)]
pub(super) struct Job {
    number: u64,
    path: PathBuf,
    /// The version that must come, where it has served here before.
    expected: Option<String>,
}

/// The current model.
#[derive(Clone, Debug, Serialize)]
struct Current {
    #[serde(flatten)]
    facts: ModelFacts,
    state: &'static str,
    /// Unix seconds.
    since: i64,
}

/// A model that answers its last requests.
#[derive(Clone, Debug, Serialize)]
struct Leaving {
    name: String,
    version: String,
    state: &'static str,
    since: i64,
}

/// A load under way.
#[derive(Clone, Debug, Serialize)]
struct Loading {
    path: PathBuf,
    since: i64,
}

/// A load that was refused.
#[derive(Clone, Debug, Serialize)]
struct Refusal {
    path: PathBuf,
    reason: String,
    at: i64,
}

/// How the last job ended.
#[derive(Clone, Debug, Default)]
struct Finished {
    number: u64,
    refused: Option<String>,
}

#[derive(Debug)]
struct State {
    current: Current,
    previous: Option<Served>,
    leaving: Option<Leaving>,
    loading: Option<Loading>,
    refusal: Option<Refusal>,
    next: u64,
    finished: Finished,
}

/// What is told of the models.
#[derive(Debug, Serialize)]
pub struct ModelsStatus {
    current: Current,
    /// What a rollback would load.
    previous: Option<Served>,
    /// Every model in memory.
    loaded: Vec<Leaving>,
    /// The load under way.
    loading: Option<Loading>,
    /// The last refusal.
    refused: Option<Refusal>,
    /// Bundles of the model directory.
    available: Vec<String>,
}

/// Why a job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// There is one already.
    #[error("a model is being loaded: wait for its end, see GET /v1/models")]
    Busy,
    /// Nothing to go back to.
    #[error("there is no previous model to go back to")]
    NoPrevious,
    /// The path is no bundle that may be loaded.
    #[error("{0}")]
    Path(String),
    /// The process ends.
    #[error("the server is stopping")]
    Stopping,
}

/// How a wait for a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It serves.
    Served,
    /// It was refused; the reason.
    Refused(String),
    /// It is not done yet.
    Waiting,
}

/// The door to the thread `model`.
#[derive(Debug)]
pub struct Models {
    state: watch::Sender<State>,
    jobs: Sender<Job>,
    dir: PathBuf,
}

impl Models {
    /// The models of a process that begins with `generation`, and the thread's end of the queue.
    pub(super) fn new(
        config: &Config,
        generation: &Generation,
        previous: Option<Served>,
        now: i64,
    ) -> (Self, Receiver<Job>) {
        let current = Current { facts: generation.facts.clone(), state: "serving", since: now };
        let finished = Finished::default();
        let state = State { current, previous, leaving: None, loading: None, refusal: None, next: 1, finished };
        let (jobs, taken) = bounded(1);
        (Self { state: watch::channel(state).0, jobs, dir: models_dir(config) }, taken)
    }

    /// Everything there is to tell.
    #[must_use]
    pub fn status(&self) -> ModelsStatus {
        let available = record::list(&self.dir);
        let state = self.state.borrow();
        let Current { facts, since, .. } = &state.current;
        let serving =
            Leaving { name: facts.name.clone(), version: facts.version.clone(), state: "serving", since: *since };
        ModelsStatus {
            current: state.current.clone(),
            previous: state.previous.clone(),
            loaded: [Some(serving), state.leaving.clone()].into_iter().flatten().collect(),
            loading: state.loading.clone(),
            refused: state.refusal.clone(),
            available,
        }
    }

    /// Begins to load a bundle of the model directory; gives the job's number.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn load(&self, path: &str, now: i64) -> Result<u64, NotTaken> {
        if path.is_empty() || path.len() > PATH_BYTES_MAX {
            return Err(NotTaken::Path(format!("must have 1 to {PATH_BYTES_MAX} bytes")));
        }
        let path = record::within(&self.dir, path).map_err(|error| NotTaken::Path(format!("{error:#}")))?;
        self.begin(path, None, now)
    }

    /// Begins to load the previous model again.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn roll_back(&self, now: i64) -> Result<u64, NotTaken> {
        let previous = self.state.borrow().previous.clone().ok_or(NotTaken::NoPrevious)?;
        self.begin(previous.path, Some(previous.version), now)
    }

    fn begin(&self, path: PathBuf, expected: Option<String>, now: i64) -> Result<u64, NotTaken> {
        let mut job = None;
        self.state.send_if_modified(|state| {
            if state.loading.is_none() {
                state.loading = Some(Loading { path: path.clone(), since: now });
                job = Some(Job { number: state.next, path: path.clone(), expected: expected.clone() });
                state.next += 1;
            }
            job.is_some()
        });
        let job = job.ok_or(NotTaken::Busy)?;
        let number = job.number;
        if self.jobs.try_send(job).is_err() {
            self.finish(number, Err((path, "the server is stopping".to_owned())), now);
            return Err(NotTaken::Stopping);
        }
        Ok(number)
    }

    /// Waits for the end of a job, at most ten minutes.
    pub async fn wait(&self, number: u64) -> Ended {
        let mut state = self.state.subscribe();
        let done = tokio::time::timeout(WAIT_MAX, state.wait_for(|state| state.finished.number >= number)).await;
        match done.as_ref().map(|state| state.as_ref().map(|state| &state.finished)) {
            Ok(Ok(finished)) if finished.number == number => {
                finished.refused.clone().map_or(Ended::Served, Ended::Refused)
            }
            _ => Ended::Waiting,
        }
    }

    /// The current model as a restart needs it, and the one before.
    fn served(&self) -> (Served, Option<Served>) {
        let state = self.state.borrow();
        (served_of(&state.current.facts), state.previous.clone())
    }

    /// A job ended: with the facts of the model that serves now, or with a path and the reason of its refusal.
    fn finish(&self, number: u64, outcome: Result<ModelFacts, (PathBuf, String)>, now: i64) {
        self.state.send_modify(|state| {
            state.loading = None;
            state.finished = Finished { number, refused: None };
            match outcome {
                Ok(facts) => {
                    let next = Current { facts, state: "serving", since: now };
                    let Current { facts, .. } = std::mem::replace(&mut state.current, next);
                    state.previous = Some(served_of(&facts));
                    let ModelFacts { name, version, .. } = facts;
                    state.leaving = Some(Leaving { name, version, state: "leaving", since: now });
                }
                Err((path, reason)) => {
                    state.finished.refused = Some(reason.clone());
                    state.refusal = Some(Refusal { path, reason, at: now });
                }
            }
        });
    }

    /// The former generation is gone.
    fn left(&self) {
        self.state.send_modify(|state| state.leaving = None);
    }
}

pub(super) fn served_of(facts: &ModelFacts) -> Served {
    Served { path: facts.path.clone(), name: facts.name.clone(), version: facts.version.clone() }
}

/// Waits, on a thread of its own, until `done` or the time is up; true if done.
fn until(limit: Duration, done: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !done() {
        if began.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
