//! Launches: each takes what its kernel reads and writes as regions of buffers, and holds their lengths to the shapes.

use super::engine::{CudaEngine, SHARED_SM80, SHARED_SM90, dense_shared};
use super::ffi::{Region, arg};
use super::pages::{HeadShape, PageStore};
use super::params;
use super::{CudaError, Form, PageCopy, Sums, TimeBias, Work};

/// The relative bias of one layer, as [`super::time_bias`] and halved position weights give it.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a> {
    /// `2 * max_len - 1` position weights, halved.
    pub pos_w: Region<'a, f32>,
    /// One table.
    pub time: Region<'a, TimeBias>,
    /// `N`.
    pub max_len: usize,
}

/// Attention of work items over pages.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Work items.
    pub work: Region<'a, Work>,
    /// Rows [u|v|q|k].
    pub packed: Region<'a, u16>,
    /// Next times, one for each row.
    pub next_times: Region<'a, i64>,
    /// Pages of the jobs.
    pub tables: Region<'a, i32>,
    /// The pages.
    pub pages: &'a PageStore,
    /// Layer.
    pub layer: usize,
    /// Bias, or none.
    pub bias: Option<Bias<'a>>,
    /// Sums, rows of `width`.
    pub out: Region<'a, f32>,
    /// Multiplies `q.k`.
    pub alpha: f32,
    /// Multiplies the sums.
    pub scale: f32,
    /// Rows of one item stand one after another and see keys up to their own.
    pub causal: bool,
    /// The code to run; normally the engine's own.
    pub form: Form,
}

/// Rows of the first layer.
#[derive(Debug, Clone, Copy)]
pub struct Embedding<'a> {
    /// Row of the item table of each row.
    pub items: Region<'a, u32>,
    /// Action of each row.
    pub actions: Region<'a, u16>,
    /// Position of each row.
    pub positions: Region<'a, i32>,
    /// Page * 64 + row in the page, or -1.
    pub slots: Region<'a, i32>,
    /// Time of each row.
    pub times: Region<'a, i64>,
    /// `[items, item_dim]`.
    pub item_table: Region<'a, f32>,
    /// `[actions, action_dim]`; not looked at where `action_dim` is 0.
    pub action_table: Region<'a, f32>,
    /// `[positions, item_dim + action_dim]`.
    pub pos_table: Region<'a, f32>,
    /// Columns of an item.
    pub item_dim: usize,
    /// Columns of an action.
    pub action_dim: usize,
    /// Multiplies items and actions.
    pub scale: f32,
    /// Rows of `width`.
    pub x: Region<'a, f32>,
    /// Columns of a row, padded.
    pub width: usize,
    /// Takes the times of rows with a slot.
    pub pages: &'a PageStore,
}

/// What all dense layers need.
#[derive(Debug, Clone, Copy)]
pub struct DenseIn<'a> {
    /// Rows.
    pub rows: usize,
    /// The residual stream, `d` columns.
    pub x: Region<'a, f32>,
    /// Columns of the residual stream, padded to 64.
    pub d: usize,
    /// Weights `[n, k]`, padded to 64 rows.
    pub weights: Region<'a, u16>,
    /// Epsilon of the norm.
    pub epsilon: f32,
}

/// [u|v|q|k] = silu(norm(x) W).
#[derive(Debug, Clone, Copy)]
pub struct Project<'a> {
    /// Rows and weights.
    pub dense: DenseIn<'a>,
    /// Columns of x that count.
    pub d_true: usize,
    /// Rows [u|v|q|k].
    pub packed: Region<'a, u16>,
    /// Page * 64 + row in the page, or -1: K and V stay in the packed row.
    pub slots: Region<'a, i32>,
    /// The pages.
    pub pages: &'a PageStore,
    /// Layer.
    pub layer: usize,
}

/// x += (u * norm(a)) W^T + b.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Rows and weights.
    pub dense: DenseIn<'a>,
    /// `d` numbers.
    pub bias: Region<'a, f32>,
    /// Rows [u|v|q|k].
    pub packed: Region<'a, u16>,
    /// Sums of attention.
    pub sums: Region<'a, f32>,
    /// Where each row's lie.
    pub rows_sums: Region<'a, Sums>,
    /// Heads.
    pub shape: HeadShape,
    /// Heads and columns of a head that count.
    pub counting: (usize, usize),
    /// Multiplies `q.k` of a row's own key.
    pub alpha: f32,
    /// Halved bias of a row's own key.
    pub own_bias: f32,
    /// Multiplies a row's own value.
    pub scale: f32,
}

/// hidden = (norm(row) * item) W^T + b.
#[derive(Debug, Clone, Copy)]
pub struct HeadsIn<'a> {
    /// Rows and weights.
    pub dense: DenseIn<'a>,
    /// `hidden` numbers, padded.
    pub bias: Region<'a, f32>,
    /// `[items, item_dim]`.
    pub item_table: Region<'a, f32>,
    /// Row of the item table of each row.
    pub items: Region<'a, u32>,
    /// Columns of an item.
    pub item_dim: usize,
    /// Rows of `hidden_width`.
    pub hidden: Region<'a, f32>,
    /// Columns of a hidden row, padded to 64.
    pub hidden_width: usize,
}

/// From hidden rows to probabilities.
#[derive(Debug, Clone, Copy)]
pub struct HeadsEnd<'a> {
    /// Rows of `hidden_width`.
    pub hidden: Region<'a, f32>,
    /// Columns of a hidden row, padded.
    pub hidden_width: usize,
    /// Columns that count.
    pub hidden_dim: usize,
    /// Weight and bias of the norm, `hidden_dim` each.
    pub norm: (Region<'a, f32>, Region<'a, f32>),
    /// `[tasks, hidden_dim]` and `tasks`.
    pub output: (Region<'a, f32>, Region<'a, f32>),
    /// Tasks.
    pub tasks: usize,
    /// Rows.
    pub rows: usize,
    /// `[rows, tasks]`.
    pub probs: Region<'a, f32>,
}

fn int(what: &'static str, found: usize) -> Result<i32, CudaError> {
    i32::try_from(found).map_err(|_| CudaError::Shape { what, found, limit: "below 2^31" })
}

fn holds<T>(what: &'static str, region: &Region<'_, T>, needed: usize) -> Result<(), CudaError> {
    if region.len >= needed {
        Ok(())
    } else {
        Err(CudaError::Shape { what, found: region.len, limit: "as long as the rows ask for" })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "grids of at most 2^31 rows")]
fn blocks(rows: usize, each: usize) -> u32 {
    rows.div_ceil(each) as u32
}

#[expect(clippy::cast_possible_wrap, reason = "device memory is below 2^63 numbers")]
fn long(x: usize) -> i64 {
    x as i64
}

impl CudaEngine {
    /// Sums of attention for every work item.
    ///
    /// # Errors
    /// [`CudaError::Shape`] where a region is too short; [`CudaError`] of the launch.
    pub fn attend(&self, a: &Attention<'_>) -> Result<(), CudaError> {
        if a.work.is_empty() {
            return Ok(());
        }
        let (shape, width) = (a.pages.shape, a.pages.shape.width());
        let rows = a.packed.len / (4 * width);
        let layer = a.pages.layer_offset(a.layer);
        let mut p = params::Attend {
            work: a.work.address,
            q: a.packed.address + 4 * width as u64,
            next_times: a.next_times.address,
            pool: a.pages.pool.region().address,
            times: a.pages.times().address,
            tables: a.tables.address,
            pos_w: 0,
            time_bias: 0,
            out: a.out.address,
            q_stride: long(4 * width),
            out_stride: long(width),
            page_stride: long(a.pages.stride()),
            layer_offset: long(layer),
            v_offset: long(a.pages.v_offset()),
            work_count: int("work items", a.work.len)?,
            max_len: 0,
            layer_rows: int("rows of a layer", layer / shape.head_dim)?,
            page_rows: int("rows of a page", a.pages.stride() / shape.head_dim)?,
            v_rows: int("rows of K", a.pages.v_offset() / shape.head_dim)?,
            half_alpha: a.alpha / 2.0,
            scale: a.scale,
            reserved: 0,
        };
        if let Some(bias) = &a.bias {
            holds("position weights", &bias.pos_w, 2 * bias.max_len - 1)?;
            holds("next times", &a.next_times, 1)?;
            (p.pos_w, p.time_bias) = (bias.pos_w.address, bias.time.address);
            p.max_len = int("max_len", bias.max_len)?;
        }
        let rows_kind = if a.causal { "history" } else { "candidates" };
        let bias = if a.bias.is_some() { "bias" } else { "plain" };
        match a.form {
            Form::Sm80 => {
                let f = self.function(&format!("longbow_{rows_kind}_sm80_{}_{bias}", shape.head_dim))?;
                self.device().launch(f, (blocks(a.work.len, 1), 1), (256, SHARED_SM80), &[arg(&p)])
            }
            Form::Sm90 => {
                let f = self.function(&format!("longbow_{rows_kind}_sm90_{}_{bias}", shape.head_dim))?;
                let columns = if shape.head_dim == 32 { 32 } else { 64 };
                let dims = (rows as u64, width as u64, 4 * width as u64);
                let q = self.device().tensor_map(p.q, dims, columns)?;
                let most = u32::try_from(self.device().info().multiprocessors).unwrap_or(1);
                let grid = blocks(a.work.len, 1).min(most);
                self.device().launch(f, (grid, 1), (384, SHARED_SM90), &[arg(&p), arg(&q), arg(&a.pages.map)])
            }
        }
    }

    /// Rows of the first layer.
    ///
    /// # Errors
    /// As [`CudaEngine::attend`].
    pub fn embed(&self, e: &Embedding<'_>, rows: usize) -> Result<(), CudaError> {
        holds("items", &e.items, rows)?;
        holds("positions", &e.positions, rows)?;
        holds("slots", &e.slots, rows)?;
        holds("times", &e.times, rows)?;
        holds("x", &e.x, rows * e.width)?;
        let p = params::Embed {
            items: e.items.address,
            actions: e.actions.address,
            positions: e.positions.address,
            slots: e.slots.address,
            row_times: e.times.address,
            item_table: e.item_table.address,
            action_table: e.action_table.address,
            pos_table: e.pos_table.address,
            x: e.x.address,
            times: e.pages.times().address,
            rows: int("rows", rows)?,
            item_dim: int("item_dim", e.item_dim)?,
            action_dim: int("action_dim", e.action_dim)?,
            width: int("width", e.width)?,
            scale: e.scale,
            reserved: 0,
        };
        self.device().launch(self.function("longbow_embed")?, (blocks(rows, 8), 1), (256, 0), &[arg(&p)])
    }

    /// The projection of one layer.
    ///
    /// # Errors
    /// As [`CudaEngine::attend`].
    pub fn project(&self, l: &Project<'_>) -> Result<(), CudaError> {
        let width = l.pages.shape.width();
        holds("packed rows", &l.packed, l.dense.rows * 4 * width)?;
        holds("slots", &l.slots, l.dense.rows)?;
        let p = params::Dense {
            out_packed: l.packed.address,
            pool: l.pages.pool.region().address,
            slots: l.slots.address,
            page_stride: long(l.pages.stride()),
            layer_offset: long(l.pages.layer_offset(l.layer)),
            v_offset: long(l.pages.v_offset()),
            k_true: int("columns", l.d_true)?,
            block: int("columns", l.dense.d)?,
            block_true: int("columns", l.d_true)?,
            width: int("width", width)?,
            head_dim: int("width of a head", l.pages.shape.head_dim)?,
            ..params::Dense::default()
        };
        self.dense("project", &l.dense, (4 * width, l.dense.d), p)
    }

    /// The output of one layer, added to the rows.
    ///
    /// # Errors
    /// As [`CudaEngine::attend`].
    pub fn output(&self, l: &Output<'_>) -> Result<(), CudaError> {
        let width = l.shape.width();
        holds("packed rows", &l.packed, l.dense.rows * 4 * width)?;
        holds("sums of rows", &l.rows_sums, l.dense.rows)?;
        let p = params::Dense {
            bias: l.bias.address,
            packed: l.packed.address,
            sums: l.sums.address,
            rows_sums: l.rows_sums.address,
            out: l.dense.x.address,
            k_true: int("columns", l.counting.0 * l.counting.1)?,
            block: int("columns", l.shape.head_dim)?,
            block_true: int("columns", l.counting.1)?,
            out_stride: int("columns", l.dense.d)?,
            width: int("width", width)?,
            head_dim: int("width of a head", l.shape.head_dim)?,
            half_alpha: l.alpha / 2.0,
            own_bias: l.own_bias,
            scale: l.scale,
            ..params::Dense::default()
        };
        self.dense("output", &l.dense, (l.dense.d, width), p)
    }

    /// The hidden rows of the heads.
    ///
    /// # Errors
    /// As [`CudaEngine::attend`].
    pub fn heads_in(&self, l: &HeadsIn<'_>) -> Result<(), CudaError> {
        holds("hidden rows", &l.hidden, l.dense.rows * l.hidden_width)?;
        holds("items", &l.items, l.dense.rows)?;
        let k = l.item_dim.next_multiple_of(64);
        let p = params::Dense {
            bias: l.bias.address,
            item_table: l.item_table.address,
            items: l.items.address,
            out: l.hidden.address,
            k_true: int("columns", l.item_dim)?,
            block: int("columns", k)?,
            block_true: int("columns", l.item_dim)?,
            out_stride: int("columns", l.hidden_width)?,
            item_dim: int("item_dim", l.item_dim)?,
            ..params::Dense::default()
        };
        self.dense("heads", &l.dense, (l.hidden_width, k), p)
    }

    fn dense(
        &self,
        layer: &str,
        d: &DenseIn<'_>,
        (n, k): (usize, usize),
        mut p: params::Dense,
    ) -> Result<(), CudaError> {
        if k > self.columns_max() {
            let limit = "at most 1,024, or 512 where a block has little shared memory";
            return Err(CudaError::Shape { what: "columns of a dense layer", found: k, limit });
        }
        holds("rows x", &d.x, d.rows * d.d)?;
        holds("weights", &d.weights, n.next_multiple_of(64) * k)?;
        let (tiles, row_blocks) = (n.div_ceil(64), d.rows.div_ceil(64));
        // Few rows: many blocks of few columns each; many rows: each block makes its rows once.
        let spread =
            (2 * usize::try_from(self.device().info().multiprocessors).unwrap_or(1)).div_ceil(row_blocks.max(1));
        let each = tiles.div_ceil(spread.clamp(1, tiles));
        (p.x, p.b) = (d.x.address, d.weights.address);
        (p.rows, p.n, p.k) = (int("rows", d.rows)?, int("n", n)?, int("k", k)?);
        (p.x_stride, p.tiles, p.epsilon) = (int("d", d.d)?, int("tiles", each)?, d.epsilon);
        let most = if k <= 256 {
            256
        } else if k <= 512 {
            512
        } else {
            1024
        };
        let f = self.function(&format!("longbow_{layer}_{most}"))?;
        let grid = (blocks(d.rows, 64), blocks(tiles, each));
        self.device().launch(f, grid, (256, dense_shared(k)), &[arg(&p)])
    }

    /// Probabilities of hidden rows.
    ///
    /// # Errors
    /// As [`CudaEngine::attend`].
    pub fn heads_end(&self, h: &HeadsEnd<'_>) -> Result<(), CudaError> {
        holds("hidden rows", &h.hidden, h.rows * h.hidden_width)?;
        holds("probabilities", &h.probs, h.rows * h.tasks)?;
        let p = params::Heads {
            hidden: h.hidden.address,
            norm: h.norm.0.address,
            norm_bias: h.norm.1.address,
            output: h.output.0.address,
            output_bias: h.output.1.address,
            probs: h.probs.address,
            rows: int("rows", h.rows)?,
            hidden_dim: int("hidden", h.hidden_dim)?,
            hidden_stride: int("hidden", h.hidden_width)?,
            tasks: int("tasks", h.tasks)?,
        };
        self.device().launch(self.function("longbow_heads_output")?, (blocks(h.rows, 8), 1), (256, 0), &[arg(&p)])
    }

    /// Copies rows between pages.
    ///
    /// # Errors
    /// As [`CudaEngine::attend`].
    pub fn copy_pages(&self, copies: Region<'_, PageCopy>, pages: &PageStore) -> Result<(), CudaError> {
        let (pool, times) = (pages.pool.region().address, pages.times().address);
        let (stride, head_dim) = (long(pages.stride()), int("width of a head", pages.shape.head_dim)?);
        let args = [arg(&copies.address), arg(&pool), arg(&times), arg(&stride), arg(&head_dim)];
        self.device().launch(self.function("longbow_copy_rows")?, (blocks(copies.len, 1), 1), (256, 0), &args)
    }
}
