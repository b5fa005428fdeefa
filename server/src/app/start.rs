//! From settings to a serving process and back to nothing.

use super::catalogue;
use super::control::{self, ControlThread};
use super::generation::{Pace, Workshop};
use super::late::LateRecords;
use super::models::{self, ModelThread, Models};
use super::{Accounts, App, BidIds, Generation, Predicted, Records, Seen, keys};
use crate::admin::{Admin, Audit, Tokens};
use crate::auction::choose::Chooser;
use crate::auction::pace::{ControlLoop, ControlsHandle, Outcomes};
use crate::catalog::{Catalog, EligibilityCache};
use crate::config::{self, Config};
use crate::deadline::{SystemClock, WallClock};
use crate::events::{EventLog, LogOptions};
use crate::http::routes::Public;
use crate::http::{Listener, Settings};
use crate::ledger::{self, Ledger};
use crate::meters::Meters;
use crate::runtime::{Lifecycle, serve_on_thread};
use crate::store::{CatalogKind, CatalogStore, StoreOptions, UserStore};
use anyhow::Context;
use arc_swap::ArcSwap;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

/// The durable rooms of a data directory.
pub struct Stores {
    /// Plans, items, creatives and learned state.
    pub records: Arc<CatalogStore>,
    /// Histories.
    pub users: Arc<UserStore>,
    /// Money.
    pub ledger: Arc<Ledger>,
}

/// Makes `data.dir` if need be.
fn make_dir(config: &Config) -> anyhow::Result<()> {
    let dir = &config.data.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("data.dir {}", dir.display()))
}

impl Stores {
    /// Opens or makes everything under `data.dir`; recovers what a crash left.
    ///
    /// # Errors
    /// Names the file and what to do.
    pub fn open(config: &Config, clock: &Arc<dyn WallClock>) -> anyhow::Result<Self> {
        make_dir(config)?;
        let dir = &config.data.dir;
        let log = LogOptions {
            segment_bytes: config.events.segment_mib << 20,
            retention_bytes: config.events.retain_mib << 20,
            queue_max: config.events.queue_max,
        };
        let log = Arc::new(EventLog::open(&dir.join("events"), log)?);
        let store = StoreOptions {
            history_events_max: config.store.history_events_max,
            cache_bytes: config.store.cache_mib << 20,
            ids_window_s: config.store.remember_seconds,
            forget_after_days: config.store.forget_users_after_days,
            load_queue_max: config.store.queue_max,
            queue_max: config.store.queue_max,
            ..StoreOptions::default()
        };
        let users = UserStore::open(dir, store, log, Arc::clone(clock))?;
        let money = ledger::Options {
            hold_max_s: i64::try_from(config.ledger.hold_seconds)?,
            dedupe_s: i64::try_from(config.ledger.remember_seconds)?,
            charge_on: match config.ledger.charge_on {
                config::ChargeOn::Win => ledger::ChargeOn::Win,
                config::ChargeOn::Billing => ledger::ChargeOn::Billing,
            },
            pool_permille: i64::from(config.ledger.pool_permille),
            queue_max: config.ledger.queue_max,
            ..ledger::Options::default()
        };
        let records = Arc::new(CatalogStore::open(dir)?);
        // Last, as it must be closed: dropped unclosed, it counts as crashed.
        let ledger = Arc::new(Ledger::open(dir, money, Arc::clone(clock))?);
        Ok(Self { records, users: Arc::new(users), ledger })
    }
}

/// The addresses that were bound.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Bound {
    /// Public port.
    pub http: SocketAddr,
    /// Admin port.
    pub admin: SocketAddr,
}

/// Serves until the lifecycle stops. `prepare` fills an empty data directory (the demo world) before anything is loaded; `ready` is
/// called once when traffic is welcome. A process that is asked to leave before that leaves at once.
///
/// # Errors
/// Whatever keeps the server from starting, by name.
pub async fn serve(
    config: Config,
    lifecycle: Lifecycle,
    prepare: impl AsyncFnOnce(&Config, &Stores) -> anyhow::Result<()>,
    ready: impl FnOnce(&App, Bound),
) -> anyhow::Result<()> {
    longbow_index::cpu_supported().map_err(anyhow::Error::msg)?;
    let meters = Arc::new(Meters::new());
    // Ports are bound first: an address that is taken is known before minutes of loading.
    let public = Listener::bind(Settings::public(&config), Arc::clone(&meters), lifecycle.clone())?;
    let late = Arc::new(LateRecords::default());
    let shared = Arc::new(config.clone());
    make_dir(&config)?;
    let audit = Audit::open(&config.data.dir.join("audit"), config.admin.audit_file_mib << 20)?;
    let tokens = Tokens::load(&config.admin)?;
    let handler = Admin::guarded(Arc::clone(&late), shared, (Arc::clone(&meters), lifecycle.clone()), (tokens, audit));
    let admin = serve_on_thread("admin", Settings::admin(&config), Arc::clone(&meters), lifecycle.clone(), handler)?;
    let bound = Bound { http: public.address()?, admin: admin.address };
    let upkeep = tokio::spawn({
        let meters = Arc::clone(&meters);
        async move { meters.keep_up().await }
    });

    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    let stores = Stores::open(&config, &clock)?;
    let ledger = Arc::clone(&stores.ledger);
    let life = lifecycle.clone();
    let starting = async move {
        prepare(&config, &stores).await?;
        boot(config, stores, clock, (meters, life, bound)).await
    };
    let booted = match unless_leaving(&lifecycle, starting).await {
        Ok(Some(booted)) => booted,
        ended => {
            // Nothing to drain, and what was being made is made again by the next start. Money is left as it was found.
            lifecycle.stop();
            upkeep.abort();
            let closed = ledger.close().await.context("close the ledger");
            admin.join();
            return not_started(ended.map(drop), closed);
        }
    };
    let app = booted.app;
    late.fill(Records::new(Arc::clone(&app), Arc::clone(&booted.records)));
    lifecycle.serving();
    ready(&app, bound);
    public.serve(Public(Arc::clone(&app))).await;

    // Threads end in the order in which they feed each other; money last, so that nothing can hold it after its close.
    drop(booted.control);
    drop(booted.models);
    app.generation().stop();
    upkeep.abort();
    admin.join();
    ledger.close().await.context("close the ledger")?;
    tracing::info!("stopped");
    Ok(())
}

/// How a start ends that was given up or failed, once the ledger was closed.
fn not_started(ended: anyhow::Result<()>, closed: anyhow::Result<()>) -> anyhow::Result<()> {
    if let (Err(_), Err(fault)) = (&ended, &closed) {
        // The first fault is the answer.
        tracing::error!(fault = format!("{fault:#}"), "the start failed, and so did its end");
    }
    ended.and(closed)?;
    tracing::info!("stopped before the start was over");
    Ok(())
}

/// What `starting` gives, or `None` as soon as the process is asked to leave.
async fn unless_leaving<T>(
    lifecycle: &Lifecycle,
    starting: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        biased;
        () = lifecycle.draining_begins() => Ok(None),
        started = starting => match started {
            // A step that takes long gives up by itself.
            Err(error) if lifecycle.draining() => {
                tracing::info!(error = format!("{error:#}"), "the start was given up");
                Ok(None)
            }
            started => started.map(Some),
        },
    }
}

/// An app and the threads that must outlive its requests.
struct Booted {
    app: Arc<App>,
    records: Arc<CatalogStore>,
    control: ControlThread,
    models: ModelThread,
}

async fn boot(
    config: Config,
    stores: Stores,
    clock: Arc<dyn WallClock>,
    (meters, lifecycle, bound): (Arc<Meters>, Lifecycle, Bound),
) -> anyhow::Result<Booted> {
    let catalog = catalogue::load(&stores.records)?;
    let snapshot = catalog.snapshot();
    let served_before = models::served_before(&config);
    if served_before {
        catalogue::expect_ledger(&snapshot, &stores.ledger, &config.data.dir)?;
    }
    catalogue::grant_budgets(&snapshot, &stores.ledger).await?;
    let workshop = Arc::new(Workshop::new(&config, &meters)?);
    // The build runs on this thread and would hear of no signal.
    let leaving = tokio::spawn({
        let (lifecycle, workshop) = (lifecycle.clone(), Arc::clone(&workshop));
        async move {
            lifecycle.draining_begins().await;
            workshop.stop();
        }
    });
    let first = first_generation(&config, &workshop, &snapshot);
    // From here on loads of models end with their thread.
    leaving.abort();
    let (generation, previous) = first?;
    let (models, jobs) = Models::new(&config, &generation, previous, clock.seconds());
    let public_url = public_url(&config, &bound);
    let app = Arc::new(App {
        fx: config.currencies.table(),
        filters: EligibilityCache::new(config.index.filter_cache_entries),
        controls: ControlsHandle::default(),
        chooser: Chooser::new(config.auction.choosing()),
        outcomes: Outcomes::new(),
        accounts: Accounts::default(),
        generation: ArcSwap::from_pointee(generation),
        models,
        writing: tokio::sync::Mutex::new(()),
        signer: keys::signer(&config.notices, &config.data.dir, served_before)?,
        seen: Seen::default(),
        predicted: Predicted::default(),
        reports: crate::reports::Reports::default(),
        shades: super::Shades::default(),
        bid_ids: BidIds::new(SysRng.try_next_u64()?),
        public_url,
        no_bids_seen: std::sync::atomic::AtomicU64::new(0),
        ledger: stores.ledger,
        users: stores.users,
        catalog,
        clock,
        config,
        meters,
        lifecycle,
    });
    app.accounts.refresh(&snapshot, &app.ledger);
    app.show_counts(&snapshot);
    let pacing = restore(&app, &stores.records)?;
    let control = ControlThread::start(Arc::clone(&app), Arc::clone(&stores.records), pacing)?;
    let generation = app.generation();
    app.show_model(&generation.facts, true);
    tracing::info!(
        name = generation.facts.name,
        version = generation.facts.version,
        "warming up: every shape runs once before traffic is welcome"
    );
    generation.device.ready().await.with_context(|| {
        if generation.gpu.lost() {
            "warm up the GPU (model.device = \"cpu\" goes without it)"
        } else {
            "warm up the device"
        }
    })?;
    let models = ModelThread::start(Arc::clone(&app), workshop, jobs)?;
    Ok(Booted { app, records: stores.records, control, models })
}

/// Where exchanges and browsers reach this server. Warns of what a face to the world lacks.
fn public_url(config: &Config, bound: &Bound) -> String {
    let public_url = match config.notices.public_url.as_str() {
        "" => format!("http://{}", bound.http),
        url => url.to_owned(),
    };
    if !public_url.starts_with("https://") {
        tracing::warn!(public_url, "notices.public_url is not https: slots that demand secure markup get no bid");
    }
    let admin = &config.admin;
    if !admin.listen.ip().is_loopback() && admin.token.is_empty() && admin.token_file.is_empty() {
        let listen = admin.listen;
        tracing::warn!(%listen, "the admin port is open to other machines without a token: set admin.token or admin.token_file");
    }
    public_url
}

/// The generation that the process begins with, and what served before it: by the data directory's record of the last switch,
/// else by the settings.
fn first_generation(
    config: &Config,
    workshop: &Workshop,
    catalog: &Catalog,
) -> anyhow::Result<(Generation, Option<models::Served>)> {
    let (path, record) = models::chosen_model(config)?;
    let origin = if record.is_some() { " (of the last switch; set model.path to serve another)" } else { "" };
    let named = || format!("model {}{origin}", path.display());
    let bundle = workshop.read(&path).with_context(named)?;
    if !bundle.has_self_check() {
        tracing::warn!(
            path = %path.display(),
            "the model brings no self-check and no calibration: that it computes what it should is taken on trust"
        );
    }
    let prepared = workshop.prepare((bundle, &path), catalog, Vec::new(), Pace::Start).with_context(named)?;
    let found = prepared.version();
    if let Some(recorded) = record.as_ref().map(|record| &record.current.version).filter(|recorded| **recorded != found)
    {
        tracing::warn!(
            recorded,
            found,
            "the model of the last switch was replaced by another version while the server was down"
        );
    }
    let generation = workshop.launch(prepared)?;
    if record.is_none() {
        // So that a bundle put beside it later leaves no doubt which one serves.
        models::write(config, &models::served_of(&generation.facts), None)?;
    }
    let previous = record.and_then(|record| record.previous);
    Ok((generation, previous))
}

/// Puts back what was learned before the last stop. State that cannot be read is logged and begun anew: none of it is money.
fn restore(app: &App, store: &CatalogStore) -> anyhow::Result<ControlLoop> {
    let mut states = std::collections::HashMap::new();
    store.load_all(CatalogKind::Learned, &mut |name, json| drop(states.insert(name.to_owned(), json.to_vec())))?;
    fn read<T: DeserializeOwned>(states: &std::collections::HashMap<String, Vec<u8>>, name: &str) -> Option<T> {
        serde_json::from_slice(states.get(name)?)
            .inspect_err(|error| tracing::warn!(name, %error, "learned state cannot be read; it begins anew"))
            .ok()
    }
    store.load_all(CatalogKind::Report, &mut |key, json| app.reports.restore(key, json))?;
    let catalog = app.catalog.snapshot();
    if let Some(state) = read(&states, control::CHOOSER) {
        app.chooser.restore(&catalog, &state);
    }
    if let Some(state) = read(&states, control::OUTCOMES) {
        app.outcomes.restore(&catalog, &state);
    }
    Ok(read(&states, control::CONTROLS).map_or_else(ControlLoop::new, ControlLoop::restore))
}
