//! One pass of packed rows through all layers on the device.

use std::collections::HashMap;
use std::sync::Arc;

use longbow_kernels::cuda::{
    Attention, Bias, Buffer, CudaEngine, CudaError, DenseIn, Device, Embedding, Graph, HeadsEnd, HeadsIn, Output,
    PageCopy, PageStore, Plan, Project, Region, Rows,
};

use super::items::ItemMirror;
use super::stage::{Layout, Stage, Staged, room, staged, write};
use super::weights::{Heads, Weights};

/// Passes kept as graphs.
const GRAPHS_MAX: usize = 64;
/// Passes of more rows are not kept as graphs: launches are a small part of them.
const GRAPH_ROWS_MAX: usize = 4096;

/// What a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Final rows: only their K/V are wanted.
    Keep,
    /// Rows of the last layer are wanted.
    Rows,
    /// Candidates' rows of the last layer.
    CandidateRows,
    /// Candidates' probabilities.
    Probabilities,
}

/// The rows of a pass, one after another, and the jobs they belong to.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<u32>,
    pub(super) actions: Vec<u16>,
    pub(super) positions: Vec<i32>,
    pub(super) slots: Vec<i32>,
    pub(super) times: Vec<i64>,
    pub(super) next_times: Vec<i64>,
    pub(super) tables: Vec<i32>,
    pub(super) copies: Vec<PageCopy>,
    pub(super) jobs: Vec<Rows>,
}

/// Everything that the launches of a pass depend on beside the contents of the staged lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    kind: Kind,
    rows: usize,
    pub(super) work: usize,
    pub(super) copies: usize,
    pub(super) tables: usize,
    stage: usize,
}

/// Device memory of passes, and passes that were written down as graphs.
///
/// The lists of a pass go up on a stream of their own, so that those of the next one do while it runs; each stage belongs to
/// one pass at a time. Everything else is used by passes one after the other.
#[derive(Debug)]
pub(super) struct Scratch {
    stages: [Stage; 2],
    /// The stage of a pass that was started and whose results were not waited for.
    open: Option<usize>,
    x: Buffer<f32>,
    packed: Buffer<u16>,
    sums: Buffer<f32>,
    hidden: Buffer<f32>,
    probs: Buffer<f32>,
    graphs: HashMap<Key, Option<Graph>>,
}

/// A pass that was started: its stage, and how many results it gives.
#[derive(Debug, Clone, Copy)]
#[must_use = "results are to be waited for"]
pub(super) struct Started {
    stage: usize,
    results: usize,
}

impl Scratch {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        let scratch = Self {
            stages: [Stage::new(device)?, Stage::new(device)?],
            open: None,
            x: device.alloc(0)?,
            packed: device.alloc(0)?,
            sums: device.alloc(0)?,
            hidden: device.alloc(0)?,
            probs: device.alloc(0)?,
            graphs: HashMap::new(),
        };
        // As in `Stage::room`.
        device.synchronize()?;
        Ok(scratch)
    }

    /// Waits for the results of a pass, the last that was started or the one before.
    pub(super) fn results(&mut self, started: Started) -> Result<&[f32], CudaError> {
        let stage = &self.stages[started.stage];
        stage.over.wait()?;
        self.open = self.open.filter(|&open| open != started.stage);
        Ok(&stage.results.as_slice()[..started.results])
    }

    /// Waits for all passes.
    pub(super) fn settle(&mut self, device: &Device) -> Result<(), CudaError> {
        self.open = None;
        device.synchronize()
    }

    /// Graphs hold addresses: they go when memory moves.
    pub(super) fn forget_graphs(&mut self) {
        self.graphs.clear();
    }
}

/// A pass: what it reads and where it runs.
pub(super) struct Pass<'a> {
    pub(super) engine: &'a CudaEngine,
    pub(super) weights: &'a Weights,
    pub(super) items: &'a ItemMirror,
    pub(super) pages: &'a PageStore,
    pub(super) scratch: &'a mut Scratch,
}

impl Pass<'_> {
    /// Starts the batch, beside one that may still run. The results are rows of `d` numbers, or `[rows, tasks]`
    /// probabilities; none for [`Kind::Keep`].
    pub(super) fn start(mut self, batch: &Batch, kind: Kind) -> Result<Started, CudaError> {
        let started = self.try_start(batch, kind);
        if started.is_err() {
            // Nothing of it may still run when its stage is used again.
            let _ = self.scratch.settle(self.engine.device());
        }
        started
    }

    fn try_start(&mut self, batch: &Batch, kind: Kind) -> Result<Started, CudaError> {
        let own = matches!(kind, Kind::CandidateRows | Kind::Probabilities);
        let plan = Plan::new(&batch.jobs, self.weights.shape.groups(), own);
        let rows = batch.items.len();
        let device = Arc::clone(self.engine.device());
        let (d, width) = (self.weights.d, self.weights.shape.width());
        let heads = self.weights.heads.as_ref().map_or((0, 0), |h| (h.hidden_width, h.tasks));
        let layout = Layout::of(batch, &plan);
        let results = match kind {
            Kind::Keep => 0,
            Kind::Rows | Kind::CandidateRows => rows * d,
            Kind::Probabilities => rows * heads.1,
        };
        let scratch = &mut *self.scratch;
        // A pass alone always has the same stage, and so the same graph.
        let stage = scratch.open.map_or(0, |open| 1 - open);
        scratch.stages[stage].over.wait()?;
        // Whole tiles: the copy engine reads past the last row.
        let moved = [
            room(&device, &mut scratch.x, rows * d)?,
            room(&device, &mut scratch.packed, rows * 4 * width)?,
            room(&device, &mut scratch.sums, plan.sum_rows * width)?,
            room(&device, &mut scratch.hidden, rows * heads.0)?,
            room(&device, &mut scratch.probs, rows * heads.1)?,
            scratch.stages[stage].room(&device, layout.bytes, results)?,
        ];
        if moved.contains(&true) {
            scratch.graphs.clear();
        }
        let mine = &mut scratch.stages[stage];
        write(mine.lists.as_mut_slice(), &layout, batch, &plan);
        device.upload_beside(&mine.staged, &mine.lists, layout.bytes, &mine.arrived)?;
        device.wait_for(&mine.arrived)?;
        let tables = layout.at[7] - layout.at[6];
        let key = Key { kind, rows, work: plan.work.len(), copies: batch.copies.len(), tables, stage };
        let view = View {
            engine: self.engine,
            weights: self.weights,
            items: self.items,
            pages: self.pages,
            staged: staged(&mine.staged, &layout, key, rows),
            x: &scratch.x,
            packed: &scratch.packed,
            sums: &scratch.sums,
            hidden: &scratch.hidden,
            probs: &scratch.probs,
            rows,
        };
        start(&device, &mut scratch.graphs, key, || view.launch(kind))?;
        let from = if kind == Kind::Probabilities { &scratch.probs } else { &scratch.x };
        device.download(from, &mut mine.results, results)?;
        device.reach(&mine.over)?;
        scratch.open = Some(stage);
        Ok(Started { stage, results })
    }
}

/// Launches, or replays a graph of the same launches: a pass is written down when it comes a second time.
fn start(
    device: &Arc<Device>,
    graphs: &mut HashMap<Key, Option<Graph>>,
    key: Key,
    launch: impl Fn() -> Result<(), CudaError>,
) -> Result<(), CudaError> {
    if key.rows > GRAPH_ROWS_MAX {
        return launch();
    }
    if graphs.len() >= GRAPHS_MAX && !graphs.contains_key(&key) {
        graphs.clear();
    }
    match graphs.get_mut(&key) {
        None => {
            launch()?;
            graphs.insert(key, None);
        }
        Some(graph @ None) => {
            match device.capture(&launch) {
                Ok(made) => {
                    device.replay(&made)?;
                    *graph = Some(made);
                }
                // What cannot be written down can still be launched.
                Err(error) if !error.lost() => launch()?,
                Err(error) => return Err(error),
            }
        }
        Some(Some(graph)) => device.replay(graph)?,
    }
    Ok(())
}

/// The launches of a pass.
struct View<'a> {
    engine: &'a CudaEngine,
    weights: &'a Weights,
    items: &'a ItemMirror,
    pages: &'a PageStore,
    staged: Staged<'a>,
    x: &'a Buffer<f32>,
    packed: &'a Buffer<u16>,
    sums: &'a Buffer<f32>,
    hidden: &'a Buffer<f32>,
    probs: &'a Buffer<f32>,
    rows: usize,
}

impl View<'_> {
    fn launch(&self, kind: Kind) -> Result<(), CudaError> {
        self.engine.copy_pages(self.staged.copies, self.pages)?;
        self.embed()?;
        let layers = self.weights.layers.len();
        for layer in 0..layers {
            self.project(layer)?;
            // Without outputs only the K/V of the last layer are wanted.
            if kind != Kind::Keep || layer + 1 < layers {
                self.attend(layer, kind)?;
                self.output(layer)?;
            }
        }
        match &self.weights.heads {
            Some(heads) if kind == Kind::Probabilities => self.heads(heads),
            _ => Ok(()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    fn embed(&self) -> Result<(), CudaError> {
        let config = &self.weights.config;
        let embedding = Embedding {
            items: self.staged.items,
            actions: self.staged.actions,
            positions: self.staged.positions,
            slots: self.staged.slots,
            times: self.staged.times,
            item_table: self.items.region(),
            action_table: self.weights.action.region(),
            pos_table: self.weights.position.region(),
            item_dim: config.item_embedding_dim,
            action_dim: config.action_embedding_dim,
            scale: (config.embedding_dim as f32).sqrt(),
            x: self.x.region(),
            width: self.weights.d,
            pages: self.pages,
        };
        self.engine.embed(&embedding, self.rows)
    }

    fn dense<'s>(&'s self, weights: &'s Buffer<u16>, epsilon: f32) -> DenseIn<'s> {
        DenseIn { rows: self.rows, x: self.x.region(), d: self.weights.d, weights: weights.region(), epsilon }
    }

    fn packed(&self) -> Region<'_, u16> {
        self.packed.part(0, self.rows * 4 * self.weights.shape.width())
    }

    fn project(&self, layer: usize) -> Result<(), CudaError> {
        self.engine.project(&Project {
            dense: self.dense(&self.weights.layers[layer].uvqk, self.weights.epsilon),
            d_true: self.weights.config.embedding_dim,
            packed: self.packed(),
            slots: self.staged.slots,
            pages: self.pages,
            layer,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "N is far below 2^24")]
    fn attend(&self, layer: usize, kind: Kind) -> Result<(), CudaError> {
        let (weights, max_len) = (&self.weights.layers[layer], self.weights.config.max_len());
        self.engine.attend(&Attention {
            work: self.staged.work,
            packed: self.packed(),
            next_times: self.staged.next_times,
            tables: self.staged.tables,
            pages: self.pages,
            layer,
            bias: Some(Bias { pos_w: weights.pos_w.region(), time: weights.time.region(), max_len }),
            out: self.sums.region(),
            alpha: 1.0,
            scale: 1.0 / max_len as f32,
            causal: matches!(kind, Kind::Keep | Kind::Rows),
            form: self.engine.form(),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "N is far below 2^24")]
    fn output(&self, layer: usize) -> Result<(), CudaError> {
        let (weights, config) = (&self.weights.layers[layer], &self.weights.config);
        self.engine.output(&Output {
            dense: self.dense(&weights.output, self.weights.epsilon),
            bias: weights.output_bias.region(),
            packed: self.packed(),
            sums: self.sums.region(),
            rows_sums: self.staged.sums,
            shape: self.weights.shape,
            counting: (config.num_heads, config.linear_dim),
            alpha: 1.0,
            own_bias: weights.own_bias,
            scale: 1.0 / config.max_len() as f32,
        })
    }

    fn heads(&self, heads: &Heads) -> Result<(), CudaError> {
        self.engine.heads_in(&HeadsIn {
            // The public epsilon of the norm before the heads, whatever the model's own.
            dense: self.dense(&heads.input, 1e-6),
            bias: heads.input_bias.region(),
            item_table: self.items.region(),
            items: self.staged.items,
            item_dim: self.weights.config.item_embedding_dim,
            hidden: self.hidden.region(),
            hidden_width: heads.hidden_width,
        })?;
        self.engine.heads_end(&HeadsEnd {
            hidden: self.hidden.region(),
            hidden_width: heads.hidden_width,
            hidden_dim: heads.hidden,
            norm: (heads.norm.region(), heads.norm_bias.region()),
            output: (heads.output.region(), heads.output_bias.region()),
            tasks: heads.tasks,
            rows: self.rows,
            probs: self.probs.region(),
        })
    }
}
