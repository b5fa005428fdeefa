//! The weights in the form that the fast path reads: matrices packed once for the products, the rest shared with the model.

use std::sync::Arc;

use longbow_kernels::{BUCKETS, Bias, KernelError, LayerNorm, Linear, MatrixRef, PackedMatrix, Scoring, Shape};

use crate::config::Config;
use crate::model::Model;
use crate::spec;

#[derive(Debug)]
pub(super) struct Weights {
    pub(super) config: Config,
    pub(super) epsilon: f32,
    /// sqrt(D).
    pub(super) input_scale: f32,
    pub(super) position: Arc<[f32]>,
    pub(super) action: Option<Arc<[f32]>>,
    pub(super) layers: Vec<Layer>,
    /// The v and k columns of the last layer's projection: of a history that is only kept nothing else is wanted there.
    kept: PackedMatrix,
    pub(super) heads: Option<Heads>,
}

#[derive(Debug)]
pub(super) struct Layer {
    uvqk: PackedMatrix,
    output: PackedMatrix,
    output_bias: Arc<[f32]>,
    pos_w: Arc<[f32]>,
    ts_w: Arc<[f32]>,
}

#[derive(Debug)]
pub(super) struct Heads {
    pub(super) hidden: usize,
    pub(super) tasks: usize,
    input: PackedMatrix,
    input_bias: Arc<[f32]>,
    pub(super) norm: Arc<[f32]>,
    pub(super) norm_bias: Arc<[f32]>,
    output: PackedMatrix,
    output_bias: Arc<[f32]>,
}

impl Weights {
    #[expect(clippy::cast_possible_truncation, reason = "the fast path computes in f32")]
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    pub(super) fn new(model: &Model) -> Result<Self, KernelError> {
        let config = model.config().clone();
        let data = |name: &str| Arc::clone(&model.weight(name).data);
        let layers = (0..config.num_blocks).map(|at| Layer::new(model, at)).collect::<Result<_, _>>()?;
        let heads = if config.num_tasks > 0 { Some(Heads::new(model)?) } else { None };
        Ok(Self {
            epsilon: config.epsilon as f32,
            input_scale: (config.embedding_dim as f32).sqrt(),
            position: data(spec::POS_EMB),
            action: (config.action_embedding_dim > 0).then(|| data(spec::ACTION_EMB)),
            layers,
            kept: PackedMatrix::new(MatrixRef::dense(&kept(model), config.embedding_dim, config.kept_width())?),
            heads,
            config,
        })
    }

    pub(super) fn shape(&self) -> Shape {
        let c = &self.config;
        Shape { heads: c.num_heads, d_qk: c.attention_dim, d_v: c.linear_dim }
    }

    #[expect(clippy::cast_precision_loss, reason = "N is far below 2^24")]
    pub(super) fn scoring(&self, layer: usize) -> Scoring<'_> {
        let Layer { pos_w, ts_w, .. } = &self.layers[layer];
        let max_len = self.config.max_len();
        Scoring { bias: Some(Bias { pos_w, ts_w, max_len }), alpha: 1.0, scale: 1.0 / max_len as f32 }
    }

    /// The norms inside a layer, which have no affine part.
    pub(super) fn norm(&self) -> LayerNorm<'static> {
        LayerNorm { epsilon: self.epsilon, affine: None }
    }

    pub(super) fn uvqk(&self, layer: usize) -> Linear<'_> {
        Linear { weight: &self.layers[layer].uvqk, bias: None }
    }

    pub(super) fn kept(&self) -> Linear<'_> {
        Linear { weight: &self.kept, bias: None }
    }

    pub(super) fn output(&self, layer: usize) -> Linear<'_> {
        let layer = &self.layers[layer];
        Linear { weight: &layer.output, bias: Some(&layer.output_bias) }
    }
}

/// The v and k columns of the last layer's projection, row by row.
fn kept(model: &Model) -> Vec<f32> {
    let config = model.config();
    let (v, k) = (config.v_width(), config.k_width());
    let all = &model.weight(&spec::layer(config.num_blocks - 1, "_uvqk")).data;
    all.chunks_exact(config.uvqk_width())
        .flat_map(|row| [&row[v..2 * v], &row[2 * v + k..]])
        .flatten()
        .copied()
        .collect()
}

impl Heads {
    fn new(model: &Model) -> Result<Self, KernelError> {
        let data = |name: &str| Arc::clone(&model.weight(name).data);
        let (hidden, tasks) = (model.head_hidden(), model.config().num_tasks);
        let packed = |name: &str, rows, cols| {
            Ok::<_, KernelError>(PackedMatrix::transposed(MatrixRef::dense(&model.weight(name).data, rows, cols)?))
        };
        Ok(Self {
            hidden,
            tasks,
            input: packed(spec::HEAD_IN, hidden, model.config().item_embedding_dim)?,
            input_bias: data(spec::HEAD_IN_BIAS),
            norm: data(spec::HEAD_NORM),
            norm_bias: data(spec::HEAD_NORM_BIAS),
            output: packed(spec::HEAD_OUT, tasks, hidden)?,
            output_bias: data(spec::HEAD_OUT_BIAS),
        })
    }

    pub(super) fn input(&self) -> Linear<'_> {
        Linear { weight: &self.input, bias: Some(&self.input_bias) }
    }

    pub(super) fn output(&self) -> Linear<'_> {
        Linear { weight: &self.output, bias: Some(&self.output_bias) }
    }
}

impl Layer {
    fn new(model: &Model, at: usize) -> Result<Self, KernelError> {
        let config = model.config();
        let data = |part: &str| Arc::clone(&model.weight(&spec::layer(at, part)).data);
        let mut ts_w = data("_rel_attn_bias._ts_w");
        if ts_w.len() != BUCKETS + 1 {
            // The kernels' table is as long as the public one. A shorter table is continued with its last entry,
            // which is what the clamp does; entries past it stand for times beyond the 2^53 s that are let in.
            let last = ts_w.last().copied().unwrap_or_default();
            ts_w = (0..=BUCKETS).map(|bucket| ts_w.get(bucket).copied().unwrap_or(last)).collect();
        }
        let (d, v) = (config.embedding_dim, config.v_width());
        Ok(Self {
            uvqk: PackedMatrix::new(MatrixRef::dense(&data("_uvqk"), d, config.uvqk_width())?),
            output: PackedMatrix::transposed(MatrixRef::dense(&data("_o.weight"), d, v)?),
            output_bias: data("_o.bias"),
            pos_w: data("_rel_attn_bias._pos_w"),
            ts_w,
        })
    }
}
