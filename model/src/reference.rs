//! The readable encoder: the model's equations one by one on candle tensors in f64, with whole score matrices
//! (in chunks of rows). The yardstick for the fast paths; never used to serve.

mod stu;

use candle_core::{D, DType, Device, IndexOp, Tensor};
use longbow_kernels::time_bucket;

use crate::config::Config;
use crate::encoder::EncodeError;
use crate::items::{ItemTable, l2_normalise};
use crate::load;
use crate::model::Model;
use crate::spec;
use crate::window::{Window, check_items, check_time};
pub use stu::ReferenceStuEncoder;

type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

impl From<candle_core::Error> for EncodeError {
    fn from(e: candle_core::Error) -> Self {
        Self::Kernel(e.to_string())
    }
}

/// Most numbers of the score matrix that exist at a time, over all heads.
const SCORES_MAX: usize = 1 << 23;
/// Epsilon of the norm before the heads, and of the heads' own norm.
const HEAD_INPUT_EPSILON: f64 = 1e-6;
const HEAD_NORM_EPSILON: f64 = 1e-5;

/// A model's weights as candle tensors.
#[derive(Debug)]
pub struct ReferenceEncoder {
    config: Config,
    position: Tensor,
    action: Option<Tensor>,
    layers: Vec<Layer>,
    heads: Option<Heads>,
}

#[derive(Debug)]
struct Layer {
    uvqk: Tensor,
    output: Tensor,
    output_bias: Tensor,
    pos_w: Tensor,
    ts_w: Tensor,
}

#[derive(Debug)]
struct Heads {
    input: Tensor,
    input_bias: Tensor,
    norm: Tensor,
    norm_bias: Tensor,
    output: Tensor,
    output_bias: Tensor,
}

/// A history as the reference encoded it.
#[derive(Debug)]
pub struct ReferenceHistory {
    /// Rows of the last layer, `[n, D]`, not normalised.
    rows: Tensor,
    /// K `[H, n, d_qk]` and V `[H, n, d_v]` of each layer.
    keys: Vec<(Tensor, Tensor)>,
    times: Vec<i64>,
    query_time: i64,
}

/// Queries of one attention call: `q` is `[H, m, d_qk]`; row i stands at `positions[i]` with `next_times[i]`.
struct Queries<'a> {
    q: Tensor,
    positions: &'a [usize],
    next_times: &'a [i64],
}

fn tensor(data: &load::Tensor) -> Result<Tensor> {
    Tensor::from_slice(&data.data, data.shape.as_slice(), &Device::Cpu)?.to_dtype(DType::F64)
}

/// (x - mean) / sqrt(variance + epsilon) over the last dimension.
fn layer_norm(x: &Tensor, epsilon: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + epsilon)?.sqrt()?)
}

/// Rows of the score matrix of `n` keys that are computed at a time.
fn chunk_rows(n: usize, heads: usize) -> usize {
    (SCORES_MAX / (n * heads).max(1)).clamp(1, 256)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// x * sigmoid(x).
fn silu(x: &Tensor) -> Result<Tensor> {
    x * sigmoid(x)?
}

/// `[m, H * d]` to `[H, m, d]`.
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    x.reshape((rows, heads, width / heads))?.transpose(0, 1)?.contiguous()
}

/// `[H, m, d]` to `[m, H * d]`.
fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (heads, rows, d) = x.dims3()?;
    x.transpose(0, 1)?.contiguous()?.reshape((rows, heads * d))
}

impl Layer {
    fn new(model: &Model, at: usize) -> Result<Self> {
        let part = |part: &str| tensor(model.weight(&spec::layer(at, part)));
        Ok(Self {
            uvqk: part("_uvqk")?,
            output: part("_o.weight")?,
            output_bias: part("_o.bias")?,
            pos_w: part("_rel_attn_bias._pos_w")?,
            ts_w: part("_rel_attn_bias._ts_w")?,
        })
    }

    /// u, v, q, k = split(silu(layer_norm(x) W)).
    fn project(&self, x: &Tensor, config: &Config) -> Result<[Tensor; 4]> {
        let uvqk = silu(&layer_norm(x, config.epsilon)?.matmul(&self.uvqk)?)?;
        let (v, k) = (config.v_width(), config.k_width());
        Ok([uvqk.narrow(1, 0, v)?, uvqk.narrow(1, v, v)?, uvqk.narrow(1, 2 * v, k)?, uvqk.narrow(1, 2 * v + k, k)?])
    }

    /// y = x + (u * layer_norm(a)) W_o^T + b_o.
    fn output(&self, x: &Tensor, u: &Tensor, a: &Tensor, config: &Config) -> Result<Tensor> {
        let gated = (u * layer_norm(a, config.epsilon)?)?;
        x + gated.matmul(&self.output.t()?)?.broadcast_add(&self.output_bias)?
    }

    /// bias[i, j] = pos_w[(N-1) + j - i] + ts_w[bucket(t_{i+1} - t_j)], for keys at positions 0.. with `times`.
    fn bias(&self, queries: &Queries<'_>, times: &[i64], config: &Config) -> Result<Tensor> {
        let (m, n) = (queries.positions.len(), times.len());
        let (mut distance, mut bucket) = (Vec::with_capacity(m * n), Vec::with_capacity(m * n));
        for (&i, &next) in queries.positions.iter().zip(queries.next_times) {
            for (j, &time) in times.iter().enumerate() {
                // Keys behind a query are masked later; their entry does not matter, so it is clamped into the table.
                distance.push(index((config.max_len() - 1 + j).saturating_sub(i), 2 * config.max_len() - 2));
                bucket.push(index(time_bucket(next - time), config.num_time_buckets));
            }
        }
        let pick = |table: &Tensor, at: Vec<u32>| {
            table.index_select(&Tensor::from_vec(at, m * n, &Device::Cpu)?, 0)?.reshape((m, n))
        };
        pick(&self.pos_w, distance)? + pick(&self.ts_w, bucket)?
    }

    /// a_i = sum_{j <= i} silu(q_i . k_j + bias_ij) / N * v_j, heads joined.
    fn attend(&self, queries: &Queries<'_>, kv: (&Tensor, &Tensor), times: &[i64], c: &Config) -> Result<Tensor> {
        let n = times.len();
        let (k, v) = (kv.0.narrow(1, 0, n)?, kv.1.narrow(1, 0, n)?);
        let scores = queries.q.matmul(&k.t()?)?.broadcast_add(&self.bias(queries, times, c)?)?;
        let seen: Vec<f64> =
            queries.positions.iter().flat_map(|&i| (0..n).map(move |j| f64::from(u8::from(j <= i)))).collect();
        let mask = Tensor::from_vec(seen, (queries.positions.len(), n), &Device::Cpu)?;
        let weights = (silu(&scores)?.broadcast_mul(&mask)? / real(c.max_len()))?;
        join_heads(&weights.matmul(&v)?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
fn real(n: usize) -> f64 {
    n as f64
}

/// An index as candle takes it, no higher than `last`.
fn index(at: usize, last: usize) -> u32 {
    u32::try_from(at.min(last)).unwrap_or(u32::MAX)
}

impl ReferenceEncoder {
    /// An encoder of `model`.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`] where candle cannot hold the weights.
    pub fn new(model: &Model) -> Result<Self, EncodeError> {
        let config = model.config().clone();
        let weight = |name: &str| tensor(model.weight(name));
        let action = (config.action_embedding_dim > 0).then(|| weight(spec::ACTION_EMB)).transpose()?;
        let heads = if config.num_tasks > 0 {
            Some(Heads {
                input: weight(spec::HEAD_IN)?,
                input_bias: weight(spec::HEAD_IN_BIAS)?,
                norm: weight(spec::HEAD_NORM)?,
                norm_bias: weight(spec::HEAD_NORM_BIAS)?,
                output: weight(spec::HEAD_OUT)?,
                output_bias: weight(spec::HEAD_OUT_BIAS)?,
            })
        } else {
            None
        };
        let layers = (0..config.num_blocks).map(|at| Layer::new(model, at)).collect::<Result<_>>()?;
        Ok(Self { position: weight(spec::POS_EMB)?, action, layers, heads, config })
    }

    /// Encodes a window: row i takes event i + 1's time as its next time, the last row `query_time`.
    ///
    /// # Errors
    /// [`EncodeError`] where the window does not fit the model.
    pub fn history(
        &self,
        window: Window<'_>,
        items: &ItemTable,
        query_time: i64,
    ) -> Result<ReferenceHistory, EncodeError> {
        window.check(&self.config, items)?;
        check_time(query_time, window.len())?;
        let times = window.times.to_vec();
        let next_times: Vec<i64> = times.iter().copied().skip(1).chain([query_time]).collect();
        let positions: Vec<usize> = (0..times.len()).collect();
        let mut x = self.input(window.items, window.actions, items, &positions)?;
        let mut keys = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            if times.is_empty() {
                break;
            }
            let [u, v, q, k] = layer.project(&x, &self.config)?;
            let heads = self.config.num_heads;
            let (q, k, v) = (split_heads(&q, heads)?, split_heads(&k, heads)?, split_heads(&v, heads)?);
            let mut chunks = Vec::new();
            let step = chunk_rows(times.len(), heads);
            for start in (0..times.len()).step_by(step) {
                let end = (start + step).min(times.len());
                let queries = Queries {
                    q: q.narrow(1, start, end - start)?,
                    positions: &positions[start..end],
                    next_times: &next_times[start..end],
                };
                chunks.push(layer.attend(&queries, (&k, &v), &times[..end], &self.config)?);
            }
            x = layer.output(&x, &u, &Tensor::cat(&chunks, 0)?, &self.config)?;
            keys.push((k, v));
        }
        Ok(ReferenceHistory { rows: x, keys, times, query_time })
    }

    /// Candidate rows `[C, D]` of the last layer: each stands at position n with action 0 and sees the history
    /// and itself.
    ///
    /// # Errors
    /// [`EncodeError`] where a candidate is not in the table.
    pub fn candidate_rows(
        &self,
        history: &ReferenceHistory,
        items: &ItemTable,
        candidates: &[u32],
    ) -> Result<Vec<f32>, EncodeError> {
        check_items(candidates, 0, &self.config, items)?;
        let mut rows = Vec::new();
        for &candidate in candidates {
            rows.extend(flat(&self.candidate(history, items, candidate)?)?);
        }
        Ok(rows)
    }

    /// One candidate: a history of n + 1 rows of which only the last is computed.
    fn candidate(&self, history: &ReferenceHistory, items: &ItemTable, candidate: u32) -> Result<Tensor> {
        let n = history.times.len();
        let mut x = self.input(&[candidate], &[0], items, &[n])?;
        let times: Vec<i64> = history.times.iter().copied().chain([history.query_time]).collect();
        for (at, layer) in self.layers.iter().enumerate() {
            let [u, v, q, k] = layer.project(&x, &self.config)?;
            let heads = self.config.num_heads;
            let (q, mut k, mut v) = (split_heads(&q, heads)?, split_heads(&k, heads)?, split_heads(&v, heads)?);
            if let Some((keys, values)) = history.keys.get(at) {
                k = Tensor::cat(&[keys, &k], 1)?;
                v = Tensor::cat(&[values, &v], 1)?;
            }
            let queries = Queries { q, positions: &[n], next_times: &[history.query_time] };
            let a = layer.attend(&queries, (&k, &v), &times, &self.config)?;
            x = layer.output(&x, &u, &a, &self.config)?;
        }
        Ok(x)
    }

    /// x_i = concat(item_emb[id_i], action_emb[a_i]) * sqrt(D) + pos_emb[i].
    fn input(&self, slots: &[u32], actions: &[u16], items: &ItemTable, positions: &[usize]) -> Result<Tensor> {
        let d = self.config.embedding_dim;
        if slots.is_empty() {
            return Tensor::zeros((0, d), DType::F64, &Device::Cpu);
        }
        let mut x = item_rows(slots, items)?;
        if let Some(table) = &self.action {
            let at: Vec<u32> = actions.iter().map(|&a| u32::from(a)).collect();
            x = Tensor::cat(&[x, table.index_select(&Tensor::new(at, &Device::Cpu)?, 0)?], 1)?;
        }
        let at: Vec<u32> = positions.iter().map(|&i| index(i, self.config.max_len() - 1)).collect();
        (x * real(d).sqrt())? + self.position.index_select(&Tensor::new(at, &Device::Cpu)?, 0)?
    }

    /// Head probabilities `[C, T]` of candidate rows `[C, D]`: `z = layer_norm(row[:D_item]) * item_emb`, Linear,
    /// x * sigmoid(layer_norm(x)), Linear, sigmoid.
    ///
    /// # Errors
    /// [`EncodeError::NoHeads`].
    pub fn probabilities(&self, rows: &[f32], items: &ItemTable, candidates: &[u32]) -> Result<Vec<f32>, EncodeError> {
        let heads = self.heads.as_ref().ok_or(EncodeError::NoHeads)?;
        check_items(candidates, 0, &self.config, items)?;
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let rows = Tensor::from_slice(rows, (candidates.len(), self.config.embedding_dim), &Device::Cpu)?;
        Ok(flat(&heads.probabilities(&rows.to_dtype(DType::F64)?, &item_rows(candidates, items)?)?)?)
    }
}

impl Heads {
    fn probabilities(&self, rows: &Tensor, items: &Tensor) -> Result<Tensor> {
        let z = (layer_norm(&rows.narrow(1, 0, items.dim(1)?)?, HEAD_INPUT_EPSILON)? * items)?;
        let h = z.matmul(&self.input.t()?)?.broadcast_add(&self.input_bias)?;
        let gate = layer_norm(&h, HEAD_NORM_EPSILON)?.broadcast_mul(&self.norm)?.broadcast_add(&self.norm_bias)?;
        let h = (h * sigmoid(&gate)?)?;
        sigmoid(&h.matmul(&self.output.t()?)?.broadcast_add(&self.output_bias)?)
    }
}

impl ReferenceHistory {
    /// Rows of the last layer, `[n, D]`, not normalised.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`].
    pub fn rows(&self) -> Result<Vec<f32>, EncodeError> {
        Ok(flat(&self.rows)?)
    }

    /// The retrieval query: the first `dim` entries of the last row, L2-normalised; nothing for no events.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`].
    pub fn query(&self, dim: usize, epsilon: f32) -> Result<Option<Vec<f32>>, EncodeError> {
        let Some(last) = self.times.len().checked_sub(1) else { return Ok(None) };
        let mut query = self.rows.i((last, ..dim))?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        l2_normalise(&mut query, epsilon);
        Ok(Some(query))
    }
}

/// Embeddings of `slots`, `[n, D_item]`; they have been checked.
fn item_rows(slots: &[u32], items: &ItemTable) -> Result<Tensor> {
    let rows: Vec<f32> = slots.iter().flat_map(|&slot| items.row(slot).unwrap_or_default()).copied().collect();
    Tensor::from_vec(rows, (slots.len(), items.dim()), &Device::Cpu)?.to_dtype(DType::F64)
}

fn flat(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
