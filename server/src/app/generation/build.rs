//! From a bundle to a generation: checks, rows, index, a warm encoder, threads.

use super::{Generation, ItemRows, ModelFacts, RowsDraft, SelfCheck, middle};
use crate::actions;
use crate::batch::{Device, DeviceOptions, Rehearsal, UserWindow, WarmUp};
use crate::catalog::Catalog;
use crate::config::{Config, IndexKind, ModelDevice, StateFormat};
use crate::device::{self, Built, Gpu};
use crate::meters::Meters;
use crate::pipeline::{TASKS, WindowCache, WindowLimits};
use crate::retrieve::{self, ItemIndex, Items, SearchHandle, SearchOptions, SearchThread};
use crate::store::History;
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use longbow_index::{IndexOptions, Kind, LiveIndex, Retriever};
use longbow_kernels::{Engine, KvFormat};
use longbow_model::{Advance, Bundle, CpuEncoder, Encoder, Model, StateCache, StateKey};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Below this many items every search is exact under `index.kind = "auto"`: lists would not be faster.
const AUTO_LISTS_ITEMS_MIN: usize = 20_000;
/// Most users whose states are computed before a switch, and the longest that may take.
const AHEAD_USERS_MAX: usize = 4_096;
const AHEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest warm-up beside requests.
const WARM_TIME_MAX: Duration = Duration::from_secs(60);
/// Rows of a slice beside requests.
const SLICE_ROWS: usize = 512;

/// Who else wants the machine while a generation is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Nobody: the process starts.
    Start,
    /// Requests: one thread of low priority does all the work.
    Beside,
}

/// What every generation of a process is built with.
pub(crate) struct Workshop {
    config: Config,
    meters: Arc<Meters>,
    /// Serves all generations, one after the other.
    engine: Arc<Engine>,
    /// The path of the first generation, once it is taken: those after it take the same.
    device: OnceLock<ModelDevice>,
    /// Nobody waits for a build any more.
    stop: Arc<AtomicBool>,
}

/// A generation without its threads.
pub(crate) struct Prepared {
    bundle: Bundle,
    path: PathBuf,
    self_check: Option<SelfCheck>,
    self_check_bf16: Option<SelfCheck>,
    built: Built,
    states: StateCache,
    rows: ItemRows,
    index: ItemIndex,
    everyman: Box<[f32]>,
    pace: Pace,
}

impl Prepared {
    /// The version under which it will serve.
    pub(crate) fn version(&self) -> String {
        self.bundle.model().version().to_string()
    }
}

impl Workshop {
    pub(crate) fn new(config: &Config, meters: &Arc<Meters>) -> anyhow::Result<Self> {
        let engine = Arc::new(Engine::new(config.model.threads, None)?);
        let device = OnceLock::new();
        Ok(Self { config: config.clone(), meters: Arc::clone(meters), engine, device, stop: Arc::default() })
    }

    /// Has builds end early.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// True once builds are to end early.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Reads a bundle.
    pub(crate) fn read(&self, path: &Path) -> anyhow::Result<Bundle> {
        let bundle = Bundle::open(path)?;
        fits(&bundle)?;
        Ok(bundle)
    }

    /// Everything but threads. `recent` are users whose states are worth having, with their histories, best first.
    ///
    /// # Errors
    /// Why the model cannot serve here.
    pub(crate) fn prepare(
        &self,
        (bundle, path): (Bundle, &Path),
        catalog: &Catalog,
        recent: Vec<(u128, Arc<History>)>,
        pace: Pace,
    ) -> anyhow::Result<Prepared> {
        let model = Arc::clone(bundle.model());
        // An engine's results do not depend on its number of threads, so a check on one holds for the engine that will serve.
        let engine = match pace {
            Pace::Start => Arc::clone(&self.engine),
            Pace::Beside => Arc::new(Engine::new(1, Some(self.engine.isa()))?),
        };
        let mut cpu = CpuEncoder::new(Arc::clone(&model), Arc::clone(&engine));
        // In f32 whatever the states are kept in: a tolerance wide enough for bf16 would let wrong weights pass.
        let self_check = bundle.self_check(&mut cpu)?.map(SelfCheck::from);
        let (cpu, self_check_bf16) = self.rounded(&bundle, cpu)?;
        self.go_on()?;
        let mut built = self.place(&bundle, cpu, &engine)?;
        let mut draft = RowsDraft::new(&model);
        draft.give_all(catalog)?;
        let rows = draft.finish();
        let index = self.index(catalog, &rows, &built.gpu, pace)?;
        self.go_on()?;
        let mut states = StateCache::new(self.config.model.state_cache_mib << 20);
        if pace == Pace::Beside {
            let shapes = WarmUp { time_max: WARM_TIME_MAX, slice_rows: SLICE_ROWS, ..self.shapes(true) };
            let table = rows.table().load_full();
            let stopped = || self.stopped();
            Rehearsal::new(built.encoder(), &table, &shapes, &stopped).run()?;
            self.go_on()?;
            let limits = self.window_limits(&model);
            self.encode_ahead(built.encoder(), limits, (&rows, catalog), recent, &mut states)?;
        }
        let everyman = middle(catalog, &rows.view());
        let path = path.to_owned();
        Ok(Prepared { bundle, path, self_check, self_check_bf16, built, states, rows, index, everyman, pace })
    }

    /// An encoder that keeps states as `model.state_format` says, and where that rounds them, what it changes.
    fn rounded(&self, bundle: &Bundle, cpu: CpuEncoder) -> anyhow::Result<(CpuEncoder, Option<SelfCheck>)> {
        let asked = self.config.model.state_format;
        let mut cpu = cpu.keeping(asked.on(self.engine.isa()));
        if cpu.format() == KvFormat::F32 {
            return Ok((cpu, None));
        }
        match bundle.self_check_bf16(&mut cpu) {
            Ok(checked) => Ok((cpu, checked.map(SelfCheck::from))),
            Err(error) if asked == StateFormat::Auto => {
                tracing::warn!(%error, "this model's user states are kept in f32: in bf16 its self-check fails");
                Ok((cpu.keeping(KvFormat::F32), None))
            }
            Err(error) => {
                Err(error).context("with user states in bf16 (model.state_format = \"f32\" keeps them as computed)")
            }
        }
    }

    /// Puts a model where it will run, and says where that is.
    fn place(&self, bundle: &Bundle, cpu: CpuEncoder, engine: &Engine) -> anyhow::Result<Built> {
        let device = self.device.get().copied().unwrap_or(self.config.model.device);
        let config = &self.config.model;
        let room = device::Room { states: config.state_cache_mib << 20, host: config.host_cache_mib << 20 };
        let built = device::build(bundle, cpu, engine, device, room)?;
        let _ = self.device.set(built.again());
        let (states, cache_mib) = (built.state_format.to_string(), self.config.model.state_cache_mib);
        tracing::info!(path = built.path, states, cache_mib, "the encoder's path, and what user states are kept in");
        Ok(built)
    }

    fn go_on(&self) -> anyhow::Result<()> {
        if self.stopped() { bail!("the server is stopping") } else { Ok(()) }
    }

    /// Encodes recent users, so that the switch does not make all of them cold at once.
    fn encode_ahead(
        &self,
        encoder: &mut dyn Encoder,
        limits: WindowLimits,
        (rows, catalog): (&ItemRows, &Catalog),
        recent: Vec<(u128, Arc<History>)>,
        states: &mut StateCache,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let (table, version) = (rows.table().load_full(), encoder.version());
        let row_of = rows.by_key(catalog);
        // No more than the cache can hold.
        let (mut done, mut room) = (Vec::new(), self.config.model.state_cache_mib << 20);
        'users: for (user, history) in recent.into_iter().take(AHEAD_USERS_MAX) {
            let window: UserWindow = limits.translate(&row_of, &history);
            let part = window.part(0..window.len());
            let mut state = encoder.new_state();
            while state.rows_missing(&part) > 0 {
                if self.stopped() || began.elapsed() > AHEAD_TIME_MAX {
                    break 'users;
                }
                let rows_max = SLICE_ROWS;
                encoder.advance(&mut [Advance { state: &mut state, window: part, items: &table, rows_max }])?;
            }
            let Some(left) = room.checked_sub(state.bytes()) else { break };
            room = left;
            done.push((StateKey { user, version }, state));
        }
        let users = done.len();
        // The most recently used goes in last, so that it goes out last.
        done.into_iter().rev().for_each(|(key, state)| drop(states.put(key, state)));
        tracing::info!(users, took_ms = began.elapsed().as_millis(), "recent users encoded ahead of the switch");
        Ok(())
    }

    /// Starts the threads; the device then still measures itself ([`crate::batch::DeviceHandle::ready`]).
    pub(crate) fn launch(&self, prepared: Prepared) -> anyhow::Result<Generation> {
        let Prepared { bundle, path, self_check, self_check_bf16, built, states, rows, index, everyman, pace } =
            prepared;
        let model = Arc::clone(bundle.model());
        let config = model.config();
        let (path_taken, gpu) = (built.path.clone(), built.gpu.clone());
        let facts = ModelFacts {
            name: bundle.name().to_owned(),
            version: model.version().to_string(),
            path,
            items: config.num_items,
            history_events_max: config.max_sequence_len,
            device: path_taken,
            state_format: built.state_format.to_string(),
            search: index.path().to_owned(),
            self_check,
            self_check_bf16,
        };
        let index = Arc::new(index);
        let (search, search_thread) = self.start_search(&index)?;
        let mut options = DeviceOptions {
            cache_bytes_max: self.config.model.state_cache_mib << 20,
            candidates_max: self.config.auction.candidates_max,
            warm_up: match pace {
                Pace::Start => self.shapes(true),
                // The full length has been run already: what is left is to measure the engine that serves, in short turns.
                Pace::Beside => WarmUp { slice_rows: SLICE_ROWS / 4, ..self.shapes(false) },
            },
            ..DeviceOptions::default()
        };
        options.plan.requests_max = self.config.batch.queue_max;
        options.plan.batch_jobs_max = self.config.batch.requests_max;
        options.plan.background_max = self.config.batch.refresh_queue_max;
        options.ladder.recent_len_max = self.config.batch.short_history_rows;
        let encoder = built.on(Arc::clone(&self.engine));
        let table = Arc::clone(rows.table());
        let (device, handle) = Device::start_with(encoder, table, states, options, Arc::clone(&self.meters))?;
        let windows = WindowCache::new(self.window_limits(&model), self.config.store.cache_mib << 19);
        Ok(Generation {
            facts,
            tasks: config.num_tasks,
            content_dim: model.content_dim(),
            device: handle,
            gpu,
            search,
            index,
            rows,
            windows,
            everyman: ArcSwap::from_pointee(everyman),
            threads: Mutex::new(Some((device, search_thread))),
        })
    }

    fn shapes(&self, full_length: bool) -> WarmUp {
        WarmUp { full_length, candidates_max: self.config.auction.candidates_max, ..WarmUp::default() }
    }

    fn window_limits(&self, model: &Model) -> WindowLimits {
        let shape = model.config();
        let actions =
            if shape.action_embedding_dim == 0 { 0 } else { u16::try_from(shape.num_actions).unwrap_or(u16::MAX) };
        let events_max = shape.max_sequence_len;
        if self.config.store.history_events_max < events_max {
            tracing::warn!(
                kept = self.config.store.history_events_max,
                model = events_max,
                "store.history_events_max is below what the model reads"
            );
        }
        WindowLimits { events_max, actions }
    }

    /// Builds the index over the items present. Rows are normalised: an inner product is a cosine.
    fn index(&self, catalog: &Catalog, rows: &ItemRows, gpu: &Gpu, pace: Pace) -> anyhow::Result<ItemIndex> {
        let config = &self.config.index;
        let (count, _, _) = catalog.counts();
        let rows = rows.view();
        let dim = rows.dim();
        let lists = u32::try_from(config.lists)?;
        let ivf = Kind::IvfFlat { nlist: lists };
        let kind = match config.kind {
            IndexKind::Auto if count < AUTO_LISTS_ITEMS_MIN => Kind::Exact,
            IndexKind::Auto | IndexKind::Ivf => ivf,
            IndexKind::Exact => Kind::Exact,
            IndexKind::IvfPq => {
                let dim = u32::try_from(dim)?;
                if !dim.is_multiple_of(2) {
                    bail!("index.kind \"ivfpq\" needs an even item dimension, the model has {dim}; use \"ivf\"");
                }
                Kind::IvfPq { nlist: lists, m: dim / 2 }
            }
        };
        let mut options = IndexOptions::new(dim, kind);
        options.nprobe = config.probes;
        #[expect(clippy::cast_possible_truncation, reason = "a share between 0.5 and 1")]
        let recall_min = config.recall_min as f32;
        options.recall_min = recall_min;
        options.merge_rows = config.rebuild_delta_max.min(options.delta_rows_max);
        options.build_threads = match pace {
            Pace::Start => u16::try_from(crate::runtime::cores())?,
            Pace::Beside => 1,
        };
        let mut slots = Vec::with_capacity(count);
        let mut vectors = vec![0.0; count * dim];
        for ((slot, _), row) in catalog.items().zip(vectors.chunks_exact_mut(dim)) {
            if !rows.normalised(slot, row) {
                bail!("item slot {slot} has no row in the item table");
            }
            slots.push(slot);
        }
        let live = LiveIndex::build(options, &slots, &vectors).context("build the index")?;
        let index = ItemIndex::new(live, Items { slots: &slots, vectors: &vectors }, gpu, config)?;
        tracing::info!(path = index.path(), "the search's path");
        Ok(index)
    }

    fn start_search(&self, index: &Arc<ItemIndex>) -> anyhow::Result<(SearchHandle, SearchThread)> {
        let share = self.config.index.recall_sample;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive interval")]
        let recall_every = if share > 0.0 { (1.0 / share).round() as u64 } else { 0 };
        let meters = Arc::clone(&self.meters);
        // The mean of the first hundred samples, then an average that follows the last hundred or so: the first sample
        // weighs no more than any other.
        let followed = std::sync::Mutex::new((0.0_f64, 0.0_f64));
        let on_recall = Box::new(move |recall: f32| {
            let Ok(mut followed) = followed.lock() else { return };
            let (samples, mean) = *followed;
            let samples = (samples + 1.0).min(100.0);
            let next = mean + (f64::from(recall) - mean) / samples;
            *followed = (samples, next);
            meters.recall.set(next);
            meters.recall_samples.increment(1);
        });
        let queue_max = self.config.index.queue_max;
        let options = SearchOptions { queue_max, recall_every, on_recall, ..SearchOptions::default() };
        let retriever: Arc<dyn Retriever> = Arc::clone(index) as Arc<dyn Retriever>;
        Ok(retrieve::start(retriever, options)?)
    }
}

/// Holds a bundle's features to what this server feeds a model and reads from it.
fn fits(bundle: &Bundle) -> anyhow::Result<()> {
    let Some(manifest) = bundle.manifest() else { return Ok(()) };
    let features = &manifest.features;
    // A model may know fewer actions, or more behind those that have names here; it may lack the last tasks, or have more.
    for (field, listed, ours) in
        [("actions", &features.actions, &actions::NAMES[..]), ("tasks", &features.tasks, &TASKS[..])]
    {
        for (at, (listed, ours)) in listed.iter().zip(ours).enumerate() {
            if listed != ours {
                bail!(
                    "bundle.json, features.{field}[{at}]: `{listed}` does not fit this server, which has `{ours}` there"
                );
            }
        }
    }
    Ok(())
}
