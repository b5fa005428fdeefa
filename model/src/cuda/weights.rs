//! The weights in device memory: bf16 for the products, padded to the kernels' tiles with zeros.

use std::sync::Arc;

use longbow_kernels::BUCKETS;
use longbow_kernels::cuda::{Buffer, CudaEngine, CudaError, Device, HeadShape, Plain, TimeBias, bf16, time_bias};

use crate::config::Config;
use crate::model::Model;
use crate::spec;

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) config: Config,
    pub(super) shape: HeadShape,
    /// D, padded to 64.
    pub(super) d: usize,
    pub(super) epsilon: f32,
    pub(super) position: Buffer<f32>,
    pub(super) action: Buffer<f32>,
    pub(super) layers: Vec<Layer>,
    pub(super) heads: Option<Heads>,
}

#[derive(Debug)]
pub(super) struct Layer {
    /// `[4 width, d]`.
    pub(super) uvqk: Buffer<u16>,
    /// `[d, width]`.
    pub(super) output: Buffer<u16>,
    pub(super) output_bias: Buffer<f32>,
    pub(super) pos_w: Buffer<f32>,
    pub(super) time: Buffer<TimeBias>,
    /// Halved bias of a row and itself.
    pub(super) own_bias: f32,
}

#[derive(Debug)]
pub(super) struct Heads {
    pub(super) hidden: usize,
    /// Padded to 64.
    pub(super) hidden_width: usize,
    pub(super) tasks: usize,
    pub(super) input: Buffer<u16>,
    pub(super) input_bias: Buffer<f32>,
    pub(super) norm: Buffer<f32>,
    pub(super) norm_bias: Buffer<f32>,
    pub(super) output: Buffer<f32>,
    pub(super) output_bias: Buffer<f32>,
}

fn put<T: Plain>(device: &Arc<Device>, data: &[T]) -> Result<Buffer<T>, CudaError> {
    let buffer = device.alloc(data.len())?;
    device.upload_slice(&buffer, 0, data)?;
    Ok(buffer)
}

/// `rows` numbers, then zeros.
fn padded(data: &[f32], len: usize) -> Vec<f32> {
    let mut all = data.to_vec();
    all.resize(len, 0.0);
    all
}

/// A bf16 matrix `[rows, cols]` of which `of(row, col)` gives the numbers that are not padding.
fn matrix(rows: usize, cols: usize, of: impl Fn(usize, usize) -> Option<f32>) -> Vec<u16> {
    (0..rows * cols).map(|i| of(i / cols, i % cols).map_or(0, bf16)).collect()
}

impl Weights {
    #[expect(clippy::cast_possible_truncation, reason = "an epsilon of 1e-6 needs no more than f32")]
    pub(super) fn new(model: &Model, engine: &CudaEngine) -> Result<Self, CudaError> {
        let device = engine.device();
        let config = model.config().clone();
        let shape = HeadShape::new(config.num_heads, config.attention_dim.max(config.linear_dim))?;
        let d = config.embedding_dim.next_multiple_of(64);
        for (what, found) in [("embedding_dim", d), ("heads times their width", shape.width())] {
            if found > engine.columns_max() {
                let limit = "at most 1,024, or 512 where a block has little shared memory";
                return Err(CudaError::Shape { what, found, limit });
            }
        }
        let data = |name: &str| &model.weight(name).data;
        let action: &[f32] = if config.action_embedding_dim > 0 { data(spec::ACTION_EMB) } else { &[0.0] };
        let heads = if config.num_tasks > 0 { Some(Heads::new(model, device)?) } else { None };
        let layers = (0..config.num_blocks).map(|at| Layer::new(model, device, (at, shape, d)));
        Ok(Self {
            position: put(device, data(spec::POS_EMB))?,
            action: put(device, action)?,
            layers: layers.collect::<Result<_, _>>()?,
            heads,
            epsilon: config.epsilon as f32,
            shape,
            d,
            config,
        })
    }
}

impl Layer {
    fn new(model: &Model, device: &Arc<Device>, (at, shape, d): (usize, HeadShape, usize)) -> Result<Self, CudaError> {
        let config = model.config();
        let data = |part: &str| Arc::clone(&model.weight(&spec::layer(at, part)).data);
        let (w, o, width) = (data("_uvqk"), data("_o.weight"), shape.width());
        let (d_true, columns) = (config.embedding_dim, config.uvqk_width());
        let uvqk = matrix(4 * width, d, |n, k| {
            let (part, head, column) = (n / width, n % width / shape.head_dim, n % shape.head_dim);
            // u, v, q, k: widths and where each begins in the model's own layout.
            let dim = if part < 2 { config.linear_dim } else { config.attention_dim };
            let begin =
                if part < 2 { part * config.v_width() } else { 2 * config.v_width() + (part - 2) * config.k_width() };
            let inside = k < d_true && head < config.num_heads && column < dim;
            inside.then(|| w[k * columns + begin + head * dim + column])
        });
        let output = matrix(d, width, |n, k| {
            let (head, column) = (k / shape.head_dim, k % shape.head_dim);
            let inside = n < d_true && head < config.num_heads && column < config.linear_dim;
            inside.then(|| o[n * config.v_width() + head * config.linear_dim + column])
        });
        let (pos_w, mut ts_w) = (data("_rel_attn_bias._pos_w"), data("_rel_attn_bias._ts_w").to_vec());
        // A shorter table is continued with its last entry, which is what the public clamp does.
        ts_w.resize(BUCKETS + 1, ts_w.last().copied().unwrap_or_default());
        let halved: Vec<f32> = pos_w.iter().map(|w| w / 2.0).collect();
        Ok(Self {
            uvqk: put(device, &uvqk)?,
            output: put(device, &output)?,
            output_bias: put(device, &padded(&data("_o.bias"), d))?,
            pos_w: put(device, &halved)?,
            time: put(device, &[time_bias(&ts_w)])?,
            own_bias: (pos_w[config.max_len() - 1] + ts_w[0]) / 2.0,
        })
    }
}

impl Heads {
    fn new(model: &Model, device: &Arc<Device>) -> Result<Self, CudaError> {
        let (hidden, item_dim) = (model.head_hidden(), model.config().item_embedding_dim);
        let data = |name: &str| &model.weight(name).data;
        let hidden_width = hidden.next_multiple_of(64);
        let input = data(spec::HEAD_IN);
        let input = matrix(hidden_width, item_dim.next_multiple_of(64), |n, k| {
            (n < hidden && k < item_dim).then(|| input[n * item_dim + k])
        });
        Ok(Self {
            hidden,
            hidden_width,
            tasks: model.config().num_tasks,
            input: put(device, &input)?,
            input_bias: put(device, &padded(data(spec::HEAD_IN_BIAS), hidden_width))?,
            norm: put(device, data(spec::HEAD_NORM))?,
            norm_bias: put(device, data(spec::HEAD_NORM_BIAS))?,
            output: put(device, data(spec::HEAD_OUT))?,
            output_bias: put(device, data(spec::HEAD_OUT_BIAS))?,
        })
    }
}
