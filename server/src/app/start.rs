//! From settings to a serving process and back to nothing.

use super::catalogue::{self, Loaded};
use super::control::{self, ControlThread};
use super::late::LateRecords;
use super::{Accounts, App, BidIds, Predicted, Records, Seen, keys};
use crate::admin::Admin;
use crate::auction::choose::Chooser;
use crate::auction::pace::{ControlLoop, ControlsHandle, Outcomes};
use crate::batch::{Device, DeviceHandle, DeviceOptions};
use crate::catalog::EligibilityCache;
use crate::config::{self, Config};
use crate::deadline::{SystemClock, WallClock};
use crate::events::{EventLog, FileEventLog, LogOptions};
use crate::http::routes::Public;
use crate::http::{Listener, Settings};
use crate::ledger::{self, Ledger};
use crate::meters::Meters;
use crate::pipeline::{WindowCache, WindowLimits};
use crate::retrieve::{self, SearchOptions, SearchThread};
use crate::runtime::{Lifecycle, serve_on_thread};
use crate::store::{CatalogKind, CatalogStore, RedbUserStore, StoreOptions};
use anyhow::Context;
use arc_swap::ArcSwap;
use longbow_index::Retriever;
use longbow_kernels::Engine;
use longbow_model::{CpuEncoder, ItemTable, Model};
use rand::TryRng;
use rand::rngs::SysRng;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// The durable rooms of a data directory.
pub struct Stores {
    /// Plans, items, creatives and learned state.
    pub records: Arc<CatalogStore>,
    /// Histories.
    pub users: Arc<RedbUserStore>,
    /// Every event.
    pub log: Arc<dyn EventLog>,
    /// Money.
    pub ledger: Ledger,
}

impl Stores {
    /// Opens or makes everything under `data.dir`; recovers what a crash left.
    ///
    /// # Errors
    /// Names the file and what to do.
    pub fn open(config: &Config, clock: &Arc<dyn WallClock>) -> anyhow::Result<Self> {
        let dir = &config.data.dir;
        std::fs::create_dir_all(dir).with_context(|| format!("data.dir {}", dir.display()))?;
        let log = LogOptions {
            segment_bytes: config.events.segment_mib << 20,
            retention_bytes: config.events.retain_mib << 20,
            queue_max: config.events.queue_max,
            ..LogOptions::default()
        };
        let log: Arc<dyn EventLog> = Arc::new(FileEventLog::open(&dir.join("events"), log)?);
        let store = StoreOptions {
            history_events_max: config.store.history_events_max,
            cache_bytes: config.store.cache_mib << 20,
            ids_window_s: config.store.remember_seconds,
            load_queue_max: config.store.queue_max,
            queue_max: config.store.queue_max,
            ..StoreOptions::default()
        };
        let users = RedbUserStore::open(dir, store, Arc::clone(&log), Arc::clone(clock))?;
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
        let ledger = Ledger::open(dir, money, Arc::clone(clock))?;
        let records = Arc::new(CatalogStore::open(dir)?);
        Ok(Self { records, users: Arc::new(users), log, ledger })
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
/// called once when traffic is welcome.
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
    let handler = Admin::new(Arc::clone(&late), shared, Arc::clone(&meters), lifecycle.clone());
    let admin = serve_on_thread("admin", Settings::admin(&config), Arc::clone(&meters), lifecycle.clone(), handler)?;
    let bound = Bound { http: public.address()?, admin: admin.address };
    let upkeep = tokio::spawn({
        let meters = Arc::clone(&meters);
        async move { meters.keep_up().await }
    });

    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    let stores = Stores::open(&config, &clock)?;
    prepare(&config, &stores).await?;
    let booted = boot(config, stores, clock, (meters, lifecycle.clone(), bound)).await?;
    let app = booted.app;
    late.fill(Records::new(Arc::clone(&app), Arc::clone(&booted.records)));
    lifecycle.serving();
    ready(&app, bound);
    public.serve(Public(Arc::clone(&app))).await;

    // Threads end in the order in which they feed each other; money last, so that nothing can hold it after its close.
    drop(booted.control);
    drop(booted.device);
    drop(booted.search);
    upkeep.abort();
    admin.join();
    app.ledger.close().await.context("close the ledger")?;
    tracing::info!("stopped");
    Ok(())
}

/// An app and the threads that must outlive its requests.
struct Booted {
    app: Arc<App>,
    records: Arc<CatalogStore>,
    control: ControlThread,
    device: Device,
    search: SearchThread,
}

async fn boot(
    config: Config,
    stores: Stores,
    clock: Arc<dyn WallClock>,
    (meters, lifecycle, bound): (Arc<Meters>, Lifecycle, Bound),
) -> anyhow::Result<Booted> {
    let model = Arc::new(load_model(&config)?);
    let Loaded { catalog, items, index } = catalogue::load(&stores.records, &model, &config.index)?;
    let snapshot = catalog.snapshot();
    catalogue::grant_budgets(&snapshot, &stores.ledger).await?;
    let everyman = ArcSwap::from_pointee(catalogue::everyman(&snapshot, &items));
    let limits = window_limits(&model, &config);
    let items = Arc::new(ArcSwap::from_pointee(items));
    let index = Arc::new(index);
    let (device, handle) = start_device(&model, &items, &meters, &config)?;
    let (search, search_thread) = start_search(&index, &meters, &config)?;
    let public_url = match config.notices.public_url.as_str() {
        "" => format!("http://{}", bound.http),
        url => url.to_owned(),
    };
    if !public_url.starts_with("https://") {
        tracing::warn!(public_url, "notices.public_url is not https: slots that demand secure markup get no bid");
    }
    let app = Arc::new(App {
        fx: config.currencies.table(),
        filters: EligibilityCache::new(config.index.filter_cache_entries),
        controls: ControlsHandle::default(),
        chooser: Chooser::new(),
        outcomes: Outcomes::new(),
        accounts: Accounts::default(),
        windows: WindowCache::new(limits, config.store.cache_mib << 19),
        signer: keys::signer(&config.notices, &config.data.dir)?,
        seen: Seen::default(),
        predicted: Predicted::default(),
        bid_ids: BidIds::new(SysRng.try_next_u64()?),
        public_url,
        model_version: model.version().to_string(),
        tasks: model.config().num_tasks,
        no_bids_seen: std::sync::atomic::AtomicU64::new(0),
        ledger: stores.ledger,
        users: stores.users,
        log: stores.log,
        device: handle,
        everyman,
        catalog,
        clock,
        config,
        search,
        index,
        items,
        meters,
        lifecycle,
    });
    app.accounts.refresh(&snapshot, &app.ledger);
    app.show_counts(&snapshot);
    let pacing = restore(&app, &stores.records)?;
    let control = ControlThread::start(Arc::clone(&app), Arc::clone(&stores.records), pacing)?;
    tracing::info!(model = app.model_version, "warming up: every shape runs once before traffic is welcome");
    app.device.ready().await.context("warm up the device")?;
    Ok(Booted { app, records: stores.records, control, device, search: search_thread })
}

fn load_model(config: &Config) -> anyhow::Result<Model> {
    let stored = config.data.dir.join("model.safetensors");
    let path = if config.model.path.is_empty() { stored.as_path() } else { Path::new(&config.model.path) };
    if !path.exists() {
        anyhow::bail!(
            "no model: {} does not exist. Set model.path to a safetensors bundle, or run `longbow demo` to make a world with seeded weights",
            path.display()
        );
    }
    Model::load(path).with_context(|| format!("model {}", path.display()))
}

fn window_limits(model: &Model, config: &Config) -> WindowLimits {
    let shape = model.config();
    let model_rows = u32::try_from(shape.num_items + 1).unwrap_or(u32::MAX);
    let actions =
        if shape.action_embedding_dim == 0 { 0 } else { u16::try_from(shape.num_actions).unwrap_or(u16::MAX) };
    let events_max = shape.max_sequence_len;
    if config.store.history_events_max < events_max {
        tracing::warn!(
            kept = config.store.history_events_max,
            model = events_max,
            "store.history_events_max is below what the model reads"
        );
    }
    WindowLimits { events_max, model_rows, actions }
}

fn start_device(
    model: &Arc<Model>,
    items: &Arc<ArcSwap<ItemTable>>,
    meters: &Arc<Meters>,
    config: &Config,
) -> anyhow::Result<(Device, DeviceHandle)> {
    let engine = Arc::new(Engine::new(config.model.threads, None)?);
    let encoder = Box::new(CpuEncoder::new(Arc::clone(model), engine));
    let mut options = DeviceOptions {
        cache_bytes_max: config.model.state_cache_mib << 20,
        candidates_max: config.auction.candidates_max,
        ..DeviceOptions::default()
    };
    options.plan.requests_max = config.batch.queue_max;
    options.plan.batch_jobs_max = config.batch.requests_max;
    options.plan.background_max = config.batch.refresh_queue_max;
    options.ladder.recent_len_max = config.batch.short_history_rows;
    Ok(Device::start(encoder, Arc::clone(items), options, Arc::clone(meters))?)
}

fn start_search(
    index: &Arc<longbow_index::LiveIndex>,
    meters: &Arc<Meters>,
    config: &Config,
) -> anyhow::Result<(retrieve::SearchHandle, SearchThread)> {
    let share = config.index.recall_sample;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive interval")]
    let recall_every = if share > 0.0 { (1.0 / share).round() as u64 } else { 0 };
    let meters = Arc::clone(meters);
    // The gauge follows the last hundred samples or so.
    let mean = std::sync::Mutex::new(None::<f64>);
    let on_recall = Box::new(move |recall: f32| {
        let Ok(mut mean) = mean.lock() else { return };
        let recall = f64::from(recall);
        let next = mean.map_or(recall, |mean| mean + (recall - mean) / 100.0);
        *mean = Some(next);
        meters.recall.set(next);
        meters.recall_samples.increment(1);
    });
    let options =
        SearchOptions { queue_max: config.index.queue_max, recall_every, on_recall, ..SearchOptions::default() };
    let retriever: Arc<dyn Retriever> = Arc::clone(index) as Arc<dyn Retriever>;
    Ok(retrieve::start(retriever, options)?)
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
    let catalog = app.catalog.snapshot();
    if let Some(state) = read(&states, control::CHOOSER) {
        app.chooser.restore(&catalog, &state);
    }
    if let Some(state) = read(&states, control::OUTCOMES) {
        app.outcomes.restore(&catalog, &state);
    }
    Ok(read(&states, control::CONTROLS).map_or_else(ControlLoop::new, ControlLoop::restore))
}
