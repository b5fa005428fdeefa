//! The public tensor names and the shape of each, from a configuration.

use crate::config::{Config, StuConfig};

/// Item embeddings, `[num_items + 1, item_embedding_dim]`; row 0 is padding.
pub const ITEM_EMB: &str = "_embedding_module._item_emb.weight";
/// Position embeddings, `[N, embedding_dim]`.
pub const POS_EMB: &str = "_input_features_preproc._pos_emb.weight";
/// Action embeddings, `[num_actions, action_embedding_dim]`.
pub const ACTION_EMB: &str = "_input_features_preproc._rating_emb.weight";
/// Optional projection of a content vector to an item embedding, `[item_embedding_dim, content]`.
pub const CONTENT_PROJ: &str = "_item_content_proj.weight";
/// First linear layer of the heads, `[hidden, item_embedding_dim]`.
pub const HEAD_IN: &str = "_multitask_module._prediction_module.0.weight";
/// Bias of the first linear layer of the heads.
pub const HEAD_IN_BIAS: &str = "_multitask_module._prediction_module.0.bias";
/// Weight of the heads' norm.
pub const HEAD_NORM: &str = "_multitask_module._prediction_module.1.weight";
/// Bias of the heads' norm.
pub const HEAD_NORM_BIAS: &str = "_multitask_module._prediction_module.1.bias";
/// Last linear layer of the heads, `[tasks, hidden]`.
pub const HEAD_OUT: &str = "_multitask_module._prediction_module.2.weight";
/// Bias of the last linear layer of the heads.
pub const HEAD_OUT_BIAS: &str = "_multitask_module._prediction_module.2.bias";

/// A tensor that a file must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Public name.
    pub name: String,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
}

fn expected(name: impl Into<String>, shape: &[usize]) -> Expected {
    Expected { name: name.into(), shape: shape.to_vec() }
}

/// Name of a tensor of layer `layer` of a `rel_bias` model.
#[must_use]
pub fn layer(layer: usize, part: &str) -> String {
    format!("_hstu._attention_layers.{layer}.{part}")
}

/// Name of a tensor of layer `layer` of an `stu` model.
#[must_use]
pub fn stu_layer(layer: usize, part: &str) -> String {
    format!("_stu_layers.{layer}.{part}")
}

/// Tensors of a `rel_bias` model. `hidden` is the width of the heads' hidden layer, which the configuration
/// does not tell; `content` the width of a content vector where the model has a projection for it.
#[must_use]
pub fn rel_bias(config: &Config, hidden: usize, content: Option<usize>) -> Vec<Expected> {
    let (d, n) = (config.embedding_dim, config.max_len());
    let mut list =
        vec![expected(ITEM_EMB, &[config.num_items + 1, config.item_embedding_dim]), expected(POS_EMB, &[n, d])];
    if config.action_embedding_dim > 0 {
        list.push(expected(ACTION_EMB, &[config.num_actions, config.action_embedding_dim]));
    }
    if let Some(content) = content {
        list.push(expected(CONTENT_PROJ, &[config.item_embedding_dim, content]));
    }
    for at in 0..config.num_blocks {
        list.push(expected(layer(at, "_uvqk"), &[d, config.uvqk_width()]));
        list.push(expected(layer(at, "_o.weight"), &[d, config.v_width()]));
        list.push(expected(layer(at, "_o.bias"), &[d]));
        list.push(expected(layer(at, "_rel_attn_bias._pos_w"), &[2 * n - 1]));
        list.push(expected(layer(at, "_rel_attn_bias._ts_w"), &[config.num_time_buckets + 1]));
    }
    if config.num_tasks > 0 {
        list.push(expected(HEAD_IN, &[hidden, config.item_embedding_dim]));
        list.push(expected(HEAD_IN_BIAS, &[hidden]));
        list.push(expected(HEAD_NORM, &[hidden]));
        list.push(expected(HEAD_NORM_BIAS, &[hidden]));
        list.push(expected(HEAD_OUT, &[config.num_tasks, hidden]));
        list.push(expected(HEAD_OUT_BIAS, &[config.num_tasks]));
    }
    list
}

/// Tensors of an `stu` model.
#[must_use]
pub fn stu(config: &StuConfig) -> Vec<Expected> {
    let (d, v) = (config.embedding_dim, config.v_width());
    (0..config.num_blocks)
        .flat_map(|at| {
            [
                expected(stu_layer(at, "_input_norm_weight"), &[d]),
                expected(stu_layer(at, "_input_norm_bias"), &[d]),
                expected(stu_layer(at, "_uvqk_weight"), &[d, config.uvqk_width()]),
                expected(stu_layer(at, "_uvqk_beta"), &[config.uvqk_width()]),
                expected(stu_layer(at, "_output_norm_weight"), &[v]),
                expected(stu_layer(at, "_output_norm_bias"), &[v]),
                expected(stu_layer(at, "_output_weight"), &[3 * v, d]),
            ]
        })
        .collect()
}
