//! One pass of packed rows through all layers.

use longbow_kernels::{CandidateSeq, CausalSeq, Engine, KernelError, KvBlock, Linear, MatrixMut, MatrixRef, recycle};

use super::watch::{Stage, Watch};
use super::weights::Weights;
use crate::encoder::Finish;
use crate::items::ItemTable;
use crate::state::{Block, Encoded, UserState};
use crate::window::Window;

/// Row matrices of a pass; grown as needed and kept.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[rows, D]`: the residual stream.
    pub(super) x: Vec<f32>,
    /// `[rows, D_item]`: the heads' input.
    pub(super) norm: Vec<f32>,
    /// `[rows, u|v|q|k]`.
    uvqk: Vec<f32>,
    /// `[rows, H d_v]`: attention.
    attention: Vec<f32>,
    /// `[rows, hidden]`, twice, and `[rows, tasks]`: the heads.
    pub(super) hidden: Vec<f32>,
    pub(super) hidden_norm: Vec<f32>,
    pub(super) probs: Vec<f32>,
    pub(super) watch: Watch,
    lists: Lists,
}

/// Lists of the attention calls, kept empty between them for their memory.
#[derive(Debug, Default)]
struct Lists {
    blocks: Vec<KvBlock<'static>>,
    ends: Vec<usize>,
    causal: Vec<CausalSeq<'static>>,
    candidates: Vec<CandidateSeq<'static>>,
}

/// Gives a buffer room for `len` numbers; what is in it does not matter.
pub(super) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Consecutive rows of one history.
pub(super) trait HistoryRows {
    /// Position of the first row.
    fn first(&self) -> usize;
    fn next_times(&self) -> &[i64];
    /// Item and action of each row.
    fn events(&self) -> impl Iterator<Item = (u32, u16)>;
    fn items(&self) -> &ItemTable;
    /// Takes K and V of these rows.
    fn write(&mut self, layer: usize, k: MatrixRef<'_>, v: MatrixRef<'_>);
    /// All keys up to the last of these rows.
    fn keys<'s>(&'s self, layer: usize, out: &mut Vec<KvBlock<'s>>) -> Result<(), KernelError>;
}

/// Rows to be kept in a state, which has reserved them.
#[derive(Debug)]
pub(super) struct Slice<'a> {
    pub(super) state: &'a mut UserState,
    pub(super) window: Window<'a>,
    pub(super) items: &'a ItemTable,
    pub(super) first: usize,
    pub(super) next_times: &'a [i64],
}

impl Slice<'_> {
    fn end(&self) -> usize {
        self.first + self.next_times.len()
    }

    /// Makes the rows count.
    pub(super) fn commit(self) {
        if let Some(&last) = self.next_times.last() {
            self.state.commit(self.first + self.next_times.len(), last);
        }
    }
}

impl HistoryRows for Slice<'_> {
    fn first(&self) -> usize {
        self.first
    }

    fn next_times(&self) -> &[i64] {
        self.next_times
    }

    fn events(&self) -> impl Iterator<Item = (u32, u16)> {
        let range = self.first..self.end();
        self.window.items[range.clone()].iter().copied().zip(self.window.actions[range].iter().copied())
    }

    fn items(&self) -> &ItemTable {
        self.items
    }

    fn write(&mut self, layer: usize, k: MatrixRef<'_>, v: MatrixRef<'_>) {
        self.state.write(layer, self.first, k, v);
    }

    fn keys<'s>(&'s self, layer: usize, out: &mut Vec<KvBlock<'s>>) -> Result<(), KernelError> {
        self.state.keys(layer, self.end(), out)
    }
}

/// The last row of a request: its K/V go to a block of their own, the state stays as it is.
#[derive(Debug)]
pub(super) struct Tail<'a> {
    job: Finish<'a>,
    block: Block,
}

impl<'a> Tail<'a> {
    /// The window must not be empty.
    pub(super) fn new(job: &Finish<'a>) -> Self {
        let time = job.window.times.last().copied().unwrap_or_default();
        Self { job: *job, block: Block::single(job.state.shape(), time) }
    }

    pub(super) fn into_block(self) -> Block {
        self.block
    }
}

impl HistoryRows for Tail<'_> {
    fn first(&self) -> usize {
        self.job.window.len() - 1
    }

    fn next_times(&self) -> &[i64] {
        std::slice::from_ref(&self.job.query_time)
    }

    fn events(&self) -> impl Iterator<Item = (u32, u16)> {
        let last = self.first();
        std::iter::once((self.job.window.items[last], self.job.window.actions[last]))
    }

    fn items(&self) -> &ItemTable {
        self.job.items
    }

    fn write(&mut self, layer: usize, k: MatrixRef<'_>, v: MatrixRef<'_>) {
        self.block.write(layer, 0, k, v);
    }

    fn keys<'s>(&'s self, layer: usize, out: &mut Vec<KvBlock<'s>>) -> Result<(), KernelError> {
        self.job.state.keys(layer, self.first(), out)?;
        out.push(self.block.keys(layer, 1)?);
        Ok(())
    }
}

/// Candidates of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates<'a> {
    pub(super) encoded: &'a Encoded,
    pub(super) items: &'a ItemTable,
    pub(super) candidates: &'a [u32],
}

pub(super) struct Pass<'a> {
    pub(super) engine: &'a Engine,
    pub(super) weights: &'a Weights,
    pub(super) scratch: &'a mut Scratch,
    pub(super) rows: usize,
}

impl<'a> Pass<'a> {
    pub(super) fn new(engine: &'a Engine, weights: &'a Weights, scratch: &'a mut Scratch) -> Self {
        Self { engine, weights, scratch, rows: 0 }
    }

    /// D.
    pub(super) fn width(&self) -> usize {
        self.weights.config.embedding_dim
    }

    /// D_item.
    pub(super) fn item_dim(&self) -> usize {
        self.weights.config.item_embedding_dim
    }

    pub(super) fn epsilon(&self) -> f32 {
        self.weights.epsilon
    }

    /// The packed rows as they stand.
    pub(super) fn rows(&self) -> &[f32] {
        &self.scratch.x[..self.rows * self.width()]
    }

    /// Runs history rows through the layers. Without `outputs` only the K/V of the last layer are wanted, so its
    /// attention and the other half of its projection are left out.
    pub(super) fn history<R: HistoryRows>(&mut self, parts: &mut [R], outputs: bool) -> Result<(), KernelError> {
        self.start(parts.iter().map(|part| part.next_times().len()).sum());
        let mut at = 0;
        for part in parts.iter() {
            for (i, (item, action)) in part.events().enumerate() {
                self.embed(at, part.items().row(item).unwrap_or_default(), action, part.first() + i);
                at += 1;
            }
        }
        self.lap(Stage::Embed);
        let layers = self.weights.layers.len();
        for layer in 0..layers {
            let whole = outputs || layer + 1 < layers;
            let [v, k] = if whole { self.project(layer)? } else { self.project_kept()? };
            let mut at = 0;
            for part in parts.iter_mut() {
                let count = part.next_times().len();
                part.write(layer, k.rows_at(at, count), v.rows_at(at, count));
                at += count;
            }
            self.lap(Stage::Keep);
            if whole {
                self.attend_history(layer, parts)?;
                self.lap(Stage::Attend);
                self.output(layer)?;
                self.lap(Stage::Output);
            }
        }
        Ok(())
    }

    /// Runs candidate rows through the layers; each part comes with the number of its job.
    pub(super) fn candidates(&mut self, parts: &[(usize, Candidates<'_>)]) -> Result<(), KernelError> {
        self.start(parts.iter().map(|(_, part)| part.candidates.len()).sum());
        let mut at = 0;
        for (_, part) in parts {
            for &item in part.candidates {
                self.embed(at, part.items.row(item).unwrap_or_default(), 0, part.encoded.events());
                at += 1;
            }
        }
        self.lap(Stage::Embed);
        for layer in 0..self.weights.layers.len() {
            self.project(layer)?;
            self.attend_candidates(layer, parts)?;
            self.lap(Stage::Attend);
            self.output(layer)?;
            self.lap(Stage::Output);
        }
        Ok(())
    }

    fn lap(&mut self, stage: Stage) {
        self.scratch.watch.lap(stage);
    }

    fn start(&mut self, rows: usize) {
        self.scratch.watch.begin();
        let config = &self.weights.config;
        self.rows = rows;
        room(&mut self.scratch.x, rows * config.embedding_dim);
        room(&mut self.scratch.uvqk, rows * config.uvqk_width());
        room(&mut self.scratch.attention, rows * config.v_width());
    }

    /// Row `at` = concat(item, action) * sqrt(D) + position.
    fn embed(&mut self, at: usize, item: &[f32], action: u16, position: usize) {
        let weights = self.weights;
        let (d, action_dim) = (weights.config.embedding_dim, weights.config.action_embedding_dim);
        let row = &mut self.scratch.x[at * d..(at + 1) * d];
        row[..item.len()].copy_from_slice(item);
        if let Some(table) = &weights.action {
            let first = usize::from(action) * action_dim;
            row[item.len()..].copy_from_slice(&table[first..first + action_dim]);
        }
        for (x, p) in row.iter_mut().zip(&weights.position[position * d..(position + 1) * d]) {
            *x = *x * weights.input_scale + p;
        }
    }

    /// [u|v|q|k] = silu(norm(x) W). Gives v and k.
    fn project(&mut self, layer: usize) -> Result<[MatrixRef<'_>; 2], KernelError> {
        self.project_by(self.weights.uvqk(layer), self.weights.config.uvqk_width())?;
        let [v, _, k] = vqk(&self.scratch.uvqk, self.rows, self.weights)?;
        Ok([v, k])
    }

    /// v and k alone, of the last layer: the same numbers.
    fn project_kept(&mut self) -> Result<[MatrixRef<'_>; 2], KernelError> {
        let config = &self.weights.config;
        self.project_by(self.weights.kept(), config.kept_width())?;
        let kept = MatrixRef::dense(&self.scratch.uvqk, self.rows, config.kept_width())?;
        Ok([kept.cols_at(0, config.v_width()), kept.cols_at(config.v_width(), config.k_width())])
    }

    fn project_by(&mut self, linear: Linear<'_>, width: usize) -> Result<(), KernelError> {
        let Scratch { x, uvqk, .. } = &mut *self.scratch;
        let x = MatrixRef::dense(x, self.rows, self.weights.config.embedding_dim)?;
        let uvqk = MatrixMut::dense(uvqk, self.rows, width)?;
        self.engine.project(x, self.weights.norm(), linear, (width, uvqk))?;
        self.lap(Stage::Project);
        Ok(())
    }

    /// x += (u * norm(a)) W_o^T + b_o.
    fn output(&mut self, layer: usize) -> Result<(), KernelError> {
        let (d, rows) = (self.width(), self.rows);
        let (width, v_width) = (self.weights.config.uvqk_width(), self.weights.config.v_width());
        let Scratch { x, uvqk, attention, .. } = &mut *self.scratch;
        let u = MatrixRef::dense(uvqk, rows, width)?.cols_at(0, v_width);
        let a = MatrixRef::dense(attention, rows, v_width)?;
        let x = MatrixMut::dense(x, rows, d)?;
        self.engine.gated_output((u, a), self.weights.norm(), self.weights.output(layer), x)
    }

    fn attend_history<R: HistoryRows>(&mut self, layer: usize, parts: &[R]) -> Result<(), KernelError> {
        let v_width = self.weights.config.v_width();
        let Scratch { uvqk, attention, lists, .. } = &mut *self.scratch;
        let [_, q, _] = vqk(uvqk, self.rows, self.weights)?;
        let Lists { blocks, ends, causal, candidates } = std::mem::take(lists);
        let (mut blocks, mut ends, mut seqs) = (recycle(blocks), recycle(ends), recycle(causal));
        for part in parts {
            part.keys(layer, &mut blocks)?;
            ends.push(blocks.len());
        }
        let mut out = MatrixMut::dense(attention, self.rows, v_width)?;
        let (mut at, mut begin) = (0, 0);
        for (part, end) in parts.iter().zip(&ends) {
            let count = part.next_times().len();
            let (mine, rest) = out.split_rows(count);
            out = rest;
            seqs.push(CausalSeq {
                q: q.rows_at(at, count),
                next_times: part.next_times(),
                first_position: part.first(),
                kv: &blocks[begin..*end],
                out: mine,
            });
            (at, begin) = (at + count, *end);
        }
        let result = self.engine.causal(self.weights.shape(), &self.weights.scoring(layer), &mut seqs);
        let causal = recycle(seqs);
        self.scratch.lists = Lists { blocks: recycle(blocks), ends, causal, candidates };
        result
    }

    fn attend_candidates(&mut self, layer: usize, parts: &[(usize, Candidates<'_>)]) -> Result<(), KernelError> {
        let v_width = self.weights.config.v_width();
        let Scratch { uvqk, attention, lists, .. } = &mut *self.scratch;
        let [v, q, k] = vqk(uvqk, self.rows, self.weights)?;
        let Lists { blocks, ends, causal, candidates } = std::mem::take(lists);
        let (mut blocks, mut ends, mut seqs) = (recycle(blocks), recycle(ends), recycle(candidates));
        for (_, part) in parts {
            part.encoded.keys(layer, &mut blocks)?;
            ends.push(blocks.len());
        }
        let mut out = MatrixMut::dense(attention, self.rows, v_width)?;
        let (mut at, mut begin) = (0, 0);
        for ((_, part), end) in parts.iter().zip(&ends) {
            let count = part.candidates.len();
            let (mine, rest) = out.split_rows(count);
            out = rest;
            seqs.push(CandidateSeq {
                q: q.rows_at(at, count),
                own_k: k.rows_at(at, count),
                own_v: v.rows_at(at, count),
                query_time: part.encoded.query_time(),
                kv: &blocks[begin..*end],
                out: mine,
            });
            (at, begin) = (at + count, *end);
        }
        let result = self.engine.candidates(self.weights.shape(), &self.weights.scoring(layer), &mut seqs);
        let candidates = recycle(seqs);
        self.scratch.lists = Lists { blocks: recycle(blocks), ends, causal, candidates };
        result
    }
}

/// The v, q and k columns of the projection.
fn vqk<'m>(uvqk: &'m [f32], rows: usize, weights: &Weights) -> Result<[MatrixRef<'m>; 3], KernelError> {
    let (v, k) = (weights.config.v_width(), weights.config.k_width());
    let all = MatrixRef::dense(uvqk, rows, weights.config.uvqk_width())?;
    Ok([all.cols_at(v, v), all.cols_at(2 * v, k), all.cols_at(2 * v + k, k)])
}
