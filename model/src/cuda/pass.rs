//! One pass of packed rows through all layers on the device.

use std::collections::HashMap;
use std::sync::Arc;

use longbow_kernels::cuda::{
    Attention, Bias, Buffer, CudaEngine, CudaError, DenseIn, Device, Embedding, Graph, HeadsEnd, HeadsIn, Output,
    PageCopy, PageStore, Pinned, Plain, Plan, Project, Region, Rows, Sums, Work, bytes_of,
};

use super::items::ItemMirror;
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
struct Key {
    kind: Kind,
    rows: usize,
    work: usize,
    copies: usize,
    tables: usize,
}

/// Device memory of passes, and passes that were written down as graphs.
#[derive(Debug)]
pub(super) struct Scratch {
    stage: Pinned<u8>,
    staged: Buffer<u8>,
    x: Buffer<f32>,
    packed: Buffer<u16>,
    sums: Buffer<f32>,
    hidden: Buffer<f32>,
    probs: Buffer<f32>,
    results: Pinned<f32>,
    graphs: HashMap<Key, Option<Graph>>,
}

/// Where each staged list begins.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    at: [usize; 10],
    bytes: usize,
}

impl Layout {
    /// Room for lists of these byte lengths; the lengths are rounded up so that similar passes share a layout.
    fn new(lens: [usize; 10]) -> Self {
        let mut layout = Self::default();
        for (at, len) in layout.at.iter_mut().zip(lens) {
            *at = layout.bytes;
            layout.bytes += len.next_multiple_of(4096).max(4096);
        }
        layout
    }
}

/// The lists of a pass on the device.
struct Staged<'a> {
    items: Region<'a, u32>,
    actions: Region<'a, u16>,
    positions: Region<'a, i32>,
    slots: Region<'a, i32>,
    times: Region<'a, i64>,
    next_times: Region<'a, i64>,
    tables: Region<'a, i32>,
    copies: Region<'a, PageCopy>,
    work: Region<'a, Work>,
    sums: Region<'a, Sums>,
}

impl Scratch {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        Ok(Self {
            stage: device.pinned(1 << 16)?,
            staged: device.alloc(1 << 16)?,
            x: device.alloc(0)?,
            packed: device.alloc(0)?,
            sums: device.alloc(0)?,
            hidden: device.alloc(0)?,
            probs: device.alloc(0)?,
            results: device.pinned(0)?,
            graphs: HashMap::new(),
        })
    }

    /// Graphs hold addresses: they go when memory moves.
    pub(super) fn forget_graphs(&mut self) {
        self.graphs.clear();
    }
}

/// Makes a buffer at least `len` long; true where it moved.
fn room<T: Plain>(device: &Arc<Device>, buffer: &mut Buffer<T>, len: usize) -> Result<bool, CudaError> {
    if buffer.len() >= len {
        return Ok(false);
    }
    // The old memory goes first: both together may not fit.
    *buffer = device.alloc(0)?;
    *buffer = device.alloc(len.next_power_of_two())?;
    Ok(true)
}

/// A pass: what it reads and where it runs.
pub(super) struct Pass<'a> {
    pub(super) engine: &'a CudaEngine,
    pub(super) weights: &'a Weights,
    pub(super) items: &'a ItemMirror,
    pub(super) pages: &'a PageStore,
    pub(super) scratch: &'a mut Scratch,
}

impl<'a> Pass<'a> {
    /// Runs the batch. The results are rows of `d` numbers, or `[rows, tasks]` probabilities; none for [`Kind::Keep`].
    pub(super) fn run(self, batch: &Batch, kind: Kind) -> Result<&'a [f32], CudaError> {
        let own = matches!(kind, Kind::CandidateRows | Kind::Probabilities);
        let plan = Plan::new(&batch.jobs, self.weights.shape.groups(), own);
        let rows = batch.items.len();
        let device = Arc::clone(self.engine.device());
        let (d, width) = (self.weights.d, self.weights.shape.width());
        let heads = self.weights.heads.as_ref().map_or((0, 0), |h| (h.hidden_width, h.tasks));
        let layout = Layout::new([
            4 * rows,
            2 * rows,
            4 * rows,
            4 * rows,
            8 * rows,
            8 * rows,
            4 * batch.tables.len(),
            16 * batch.copies.len(),
            32 * plan.work.len(),
            16 * rows,
        ]);
        let scratch = self.scratch;
        // Whole tiles: the copy engine reads past the last row.
        let moved = [
            room(&device, &mut scratch.x, rows * d)?,
            room(&device, &mut scratch.packed, rows * 4 * width)?,
            room(&device, &mut scratch.sums, plan.sum_rows * width)?,
            room(&device, &mut scratch.hidden, rows * heads.0)?,
            room(&device, &mut scratch.probs, rows * heads.1)?,
            room(&device, &mut scratch.staged, layout.bytes)?,
        ];
        if moved.contains(&true) {
            scratch.graphs.clear();
        }
        if scratch.stage.as_slice().len() < layout.bytes {
            scratch.stage = device.pinned(layout.bytes.next_power_of_two())?;
        }
        stage(scratch.stage.as_mut_slice(), &layout, batch, &plan);
        device.upload(&scratch.staged, &scratch.stage, layout.bytes)?;
        let key =
            Key { kind, rows, work: plan.work.len(), copies: batch.copies.len(), tables: layout.at[7] - layout.at[6] };
        let results = match kind {
            Kind::Keep => 0,
            Kind::Rows | Kind::CandidateRows => rows * d,
            Kind::Probabilities => rows * heads.1,
        };
        let view = View {
            engine: self.engine,
            weights: self.weights,
            items: self.items,
            pages: self.pages,
            staged: staged(&scratch.staged, &layout, key, rows),
            x: &scratch.x,
            packed: &scratch.packed,
            sums: &scratch.sums,
            hidden: &scratch.hidden,
            probs: &scratch.probs,
            rows,
        };
        start(&device, &mut scratch.graphs, key, || view.launch(kind))?;
        if scratch.results.as_slice().len() < results {
            scratch.results = device.pinned(results.next_power_of_two())?;
        }
        let from = if kind == Kind::Probabilities { &scratch.probs } else { &scratch.x };
        device.download(from, &mut scratch.results, results)?;
        device.synchronize()?;
        Ok(&scratch.results.as_slice()[..results])
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

fn stage(to: &mut [u8], layout: &Layout, batch: &Batch, plan: &Plan) {
    let lists = [
        bytes_of(&batch.items),
        bytes_of(&batch.actions),
        bytes_of(&batch.positions),
        bytes_of(&batch.slots),
        bytes_of(&batch.times),
        bytes_of(&batch.next_times),
        bytes_of(&batch.tables),
        bytes_of(&batch.copies),
        bytes_of(&plan.work),
        bytes_of(&plan.sums),
    ];
    for (at, list) in layout.at.iter().zip(lists) {
        to[*at..*at + list.len()].copy_from_slice(list);
    }
}

fn staged<'a>(from: &'a Buffer<u8>, layout: &Layout, key: Key, rows: usize) -> Staged<'a> {
    let at = layout.at;
    Staged {
        items: from.part(at[0], rows),
        actions: from.part(at[1], rows),
        positions: from.part(at[2], rows),
        slots: from.part(at[3], rows),
        times: from.part(at[4], rows),
        next_times: from.part(at[5], rows),
        tables: from.part(at[6], key.tables / 4),
        copies: from.part(at[7], key.copies),
        work: from.part(at[8], key.work),
        sums: from.part(at[9], rows),
    }
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
