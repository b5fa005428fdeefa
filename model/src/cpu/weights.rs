//! The weights in the form that the fast path reads: shared with the model, not copied.

use std::sync::Arc;

use longbow_kernels::{BUCKETS, Bias, KernelError, MatrixRef, Scoring, Shape};

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
    pub(super) heads: Option<Heads>,
}

#[derive(Debug)]
pub(super) struct Layer {
    uvqk: Arc<[f32]>,
    output: Arc<[f32]>,
    pub(super) output_bias: Arc<[f32]>,
    pos_w: Arc<[f32]>,
    ts_w: Arc<[f32]>,
}

#[derive(Debug)]
pub(super) struct Heads {
    pub(super) hidden: usize,
    pub(super) tasks: usize,
    pub(super) input: Arc<[f32]>,
    pub(super) input_bias: Arc<[f32]>,
    pub(super) norm: Arc<[f32]>,
    pub(super) norm_bias: Arc<[f32]>,
    pub(super) output: Arc<[f32]>,
    pub(super) output_bias: Arc<[f32]>,
}

impl Weights {
    #[expect(clippy::cast_possible_truncation, reason = "the fast path computes in f32")]
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    pub(super) fn new(model: &Model) -> Self {
        let config = model.config().clone();
        let data = |name: &str| Arc::clone(&model.weight(name).data);
        let layers = (0..config.num_blocks).map(|at| Layer::new(model, at)).collect();
        let heads = (config.num_tasks > 0).then(|| Heads {
            hidden: model.head_hidden(),
            tasks: config.num_tasks,
            input: data(spec::HEAD_IN),
            input_bias: data(spec::HEAD_IN_BIAS),
            norm: data(spec::HEAD_NORM),
            norm_bias: data(spec::HEAD_NORM_BIAS),
            output: data(spec::HEAD_OUT),
            output_bias: data(spec::HEAD_OUT_BIAS),
        });
        Self {
            epsilon: config.epsilon as f32,
            input_scale: (config.embedding_dim as f32).sqrt(),
            position: data(spec::POS_EMB),
            action: (config.action_embedding_dim > 0).then(|| data(spec::ACTION_EMB)),
            layers,
            heads,
            config,
        }
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

    pub(super) fn uvqk(&self, layer: usize) -> Result<MatrixRef<'_>, KernelError> {
        MatrixRef::dense(&self.layers[layer].uvqk, self.config.embedding_dim, self.config.uvqk_width())
    }

    pub(super) fn output(&self, layer: usize) -> Result<MatrixRef<'_>, KernelError> {
        MatrixRef::dense(&self.layers[layer].output, self.config.embedding_dim, self.config.v_width())
    }
}

impl Layer {
    fn new(model: &Model, at: usize) -> Self {
        let data = |part: &str| Arc::clone(&model.weight(&spec::layer(at, part)).data);
        let mut ts_w = data("_rel_attn_bias._ts_w");
        if ts_w.len() != BUCKETS + 1 {
            // The kernels' table is as long as the public one. A shorter table is continued with its last entry,
            // which is what the clamp does; entries past it stand for times beyond the 2^53 s that are let in.
            let last = ts_w.last().copied().unwrap_or_default();
            ts_w = (0..=BUCKETS).map(|bucket| ts_w.get(bucket).copied().unwrap_or(last)).collect();
        }
        Self {
            uvqk: data("_uvqk"),
            output: data("_o.weight"),
            output_bias: data("_o.bias"),
            pos_w: data("_rel_attn_bias._pos_w"),
            ts_w,
        }
    }
}
