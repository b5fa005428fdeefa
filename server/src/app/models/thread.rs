//! The thread `model`: one load after the other, and what becomes of the generation before.

use super::super::generation::{Pace, Prepared, Workshop};
use super::super::{App, Generation};
use super::{Job, record, served_of, until};
use crate::batch::Health;
use crate::catalog::Catalog;
use crate::meters::ModelLoad;
use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for a device that measures itself.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the requests of a former generation: far above any deadline. One still held then ends with its last request.
const LEAVE_MAX: Duration = Duration::from_secs(60);
/// Users that are worth encoding ahead of a switch, looked at.
const RECENT_USERS: usize = 4_096;

/// The running thread; ends when dropped, a load under way being given up at its next step.
pub(crate) struct ModelThread {
    workshop: Arc<Workshop>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ModelThread {
    /// Starts the thread.
    pub(crate) fn start(app: Arc<App>, workshop: Arc<Workshop>, jobs: Receiver<Job>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let loader = Loader { app, workshop: Arc::clone(&workshop) };
        let thread = std::thread::Builder::new().name("model".to_owned()).spawn(move || loader.run(&jobs, &stopped))?;
        Ok(Self { workshop, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ModelThread {
    fn drop(&mut self) {
        self.workshop.stop();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loader {
    app: Arc<App>,
    workshop: Arc<Workshop>,
}

impl Loader {
    fn run(self, jobs: &Receiver<Job>, stopped: &Receiver<()>) {
        loop {
            select! {
                recv(stopped) -> _ => break,
                recv(jobs) -> job => match job {
                    Ok(job) => self.job(&job),
                    Err(_) => break,
                },
            }
        }
        // Whoever still waits is told.
        if let Ok(job) = jobs.try_recv() {
            self.refuse(&job, "the server is stopping");
        }
    }

    fn job(&self, job: &Job) {
        let began = Instant::now();
        tracing::info!(path = %job.path.display(), "loading a model beside the one that serves");
        match self.load(job) {
            Ok(former) => {
                let meters = &self.app.meters;
                meters.model_loads.of(ModelLoad::Served).increment(1);
                meters.model_load_seconds.record(began.elapsed().as_secs_f64());
                self.retire(former);
            }
            Err(error) => self.refuse(job, &format!("{error:#}")),
        }
    }

    fn refuse(&self, job: &Job, reason: &str) {
        tracing::error!(path = %job.path.display(), reason, "the model was refused; the one before keeps serving");
        self.app.meters.model_loads.of(ModelLoad::Refused).increment(1);
        self.app.models.finish(job.number, Err((job.path.clone(), reason.to_owned())), self.app.clock.seconds());
    }

    /// Builds, switches, and gives the generation that served before.
    fn load(&self, job: &Job) -> anyhow::Result<Arc<Generation>> {
        let (prepared, built_from) = self.beside(job)?;
        let fresh = self.workshop.launch(prepared)?;
        self.wait_ready(&fresh)?;
        // Most of what the catalogue did meanwhile, while its writers go on; the rest below, when they cannot.
        let caught_up = self.app.catalog.snapshot();
        fresh.catch_up(&built_from, &caught_up)?;
        let former = {
            let _turn = self.app.writing.blocking_lock();
            let catalog = self.app.catalog.snapshot();
            fresh.catch_up(&caught_up, &catalog)?;
            fresh.everyman.store(Arc::new(fresh.middle(&catalog)));
            let (current, _) = self.app.models.served();
            record::write(&self.app.config, &served_of(&fresh.facts), Some(&current))?;
            self.app.switch(fresh)
        };
        let facts = self.app.generation().facts.clone();
        tracing::info!(name = facts.name, version = facts.version, "a new model serves");
        self.app.show_model(&former.facts, false);
        self.app.show_model(&facts, true);
        self.app.models.finish(job.number, Ok(facts), self.app.clock.seconds());
        Ok(former)
    }

    /// The work that takes long, on a thread that yields to those of requests.
    fn beside(&self, job: &Job) -> anyhow::Result<(Prepared, Arc<Catalog>)> {
        std::thread::scope(|scope| {
            let build = || {
                longbow_index::lower_thread_priority();
                self.build(job)
            };
            let thread = std::thread::Builder::new().name("model-build".to_owned()).spawn_scoped(scope, build)?;
            // The panic itself has been reported by the hook.
            thread.join().unwrap_or_else(|_| bail!("loading it made the server panic: see the log"))
        })
    }

    fn build(&self, job: &Job) -> anyhow::Result<(Prepared, Arc<Catalog>)> {
        let bundle = self.workshop.read(&job.path)?;
        let found = bundle.model().version().to_string();
        match &job.expected {
            Some(expected) if *expected != found => {
                bail!("{} now holds version {found}, not {expected} which served before", job.path.display())
            }
            None if !bundle.has_self_check() => {
                bail!("the bundle has no self-check.safetensors: without one a model is loaded at a start only")
            }
            _ => {}
        }
        let former = self.app.generation();
        if former.facts.version == found {
            bail!("version {found} serves already");
        }
        let recent = former.windows.recent(RECENT_USERS);
        drop(former);
        let catalog = self.app.catalog.snapshot();
        let prepared = self.workshop.prepare((bundle, &job.path), &catalog, recent, Pace::Beside)?;
        Ok((prepared, catalog))
    }

    fn wait_ready(&self, fresh: &Generation) -> anyhow::Result<()> {
        let settled = || self.workshop.stopped() || fresh.device.health() != Health::WarmingUp;
        until(READY_MAX, settled);
        match fresh.device.health() {
            _ if self.workshop.stopped() => bail!("the server is stopping"),
            Health::Ready => Ok(()),
            Health::WarmingUp => bail!("the encoder was not warm within {} s", READY_MAX.as_secs()),
            Health::Failed(why) => Err(anyhow::Error::msg(why)).context("warm up the encoder"),
        }
    }

    /// Takes the former generation apart once no request holds it: nobody waits for its device, its search or its memory.
    fn retire(&self, former: Arc<Generation>) {
        let alone = || Arc::strong_count(&former) == 1 || self.workshop.stopped();
        if !until(LEAVE_MAX, alone) {
            tracing::warn!(
                version = former.facts.version,
                "the former model is still in use; it ends with its last request"
            );
        }
        if Arc::strong_count(&former) == 1 {
            former.stop();
        }
        let version = former.facts.version.clone();
        drop(former);
        self.app.models.left();
        tracing::info!(version, "the former model is gone");
    }
}
