"""Models as named tensors: the public names of the reference code, which the server loads."""

import torch

from . import Failure
from .model import Hstu

ITEM_EMB = "_embedding_module._item_emb.weight"
POS_EMB = "_input_features_preproc._pos_emb.weight"
ACTION_EMB = "_input_features_preproc._rating_emb.weight"
CONTENT_PROJ = "_item_content_proj.weight"
HEADS = "_multitask_module._prediction_module"
LAYER = "_hstu._attention_layers"


def shapes(config, hidden=None, content=None):
    """Shape of every tensor of a model. `hidden`: width of the heads' hidden layer; `content`: of a content vector."""
    d, n, v = config.embedding_dim, config.rows, config.v_width
    out = {ITEM_EMB: (config.num_items + 1, config.item_embedding_dim), POS_EMB: (n, d)}
    if config.action_embedding_dim:
        out[ACTION_EMB] = (config.num_actions, config.action_embedding_dim)
    if content:
        out[CONTENT_PROJ] = (config.item_embedding_dim, content)
    for i in range(config.num_blocks):
        out[f"{LAYER}.{i}._uvqk"] = (d, 2 * (v + config.k_width))
        out[f"{LAYER}.{i}._o.weight"] = (d, v)
        out[f"{LAYER}.{i}._o.bias"] = (d,)
        out[f"{LAYER}.{i}._rel_attn_bias._pos_w"] = (2 * n - 1,)
        out[f"{LAYER}.{i}._rel_attn_bias._ts_w"] = (config.num_time_buckets + 1,)
    if config.num_tasks:
        out[f"{HEADS}.0.weight"] = (hidden, config.item_embedding_dim)
        for name in ("0.bias", "1.weight", "1.bias"):
            out[f"{HEADS}.{name}"] = (hidden,)
        out[f"{HEADS}.2.weight"] = (config.num_tasks, hidden)
        out[f"{HEADS}.2.bias"] = (config.num_tasks,)
    return out


@torch.no_grad()
def to_tensors(model):
    """The tensors of a trained model: item rows with their content, tables written out, float32."""
    out = {ITEM_EMB: model.item_rows(), POS_EMB: model.position.table()}
    if model.actions is not None:
        out[ACTION_EMB] = model.actions.weight
    if model.items.projection is not None:
        out[CONTENT_PROJ] = model.items.projection.weight
    for i, layer in enumerate(model.layers):
        pos_w, _ = layer.bias_tables()
        out[f"{LAYER}.{i}._uvqk"] = layer.uvqk
        out[f"{LAYER}.{i}._o.weight"] = layer.output.weight
        out[f"{LAYER}.{i}._o.bias"] = layer.output.bias
        out[f"{LAYER}.{i}._rel_attn_bias._pos_w"] = pos_w
        out[f"{LAYER}.{i}._rel_attn_bias._ts_w"] = layer.ts
    if model.heads is not None:
        for at, part in enumerate((model.heads.inner, model.heads.norm, model.heads.outer)):
            out[f"{HEADS}.{at}.weight"], out[f"{HEADS}.{at}.bias"] = part.weight, part.bias
    return {name: tensor.detach().to("cpu", torch.float32).contiguous().clone() for name, tensor in out.items()}


def check(config, tensors, where):
    """Holds tensors to the shapes of a config: none absent, none strange, all finite."""
    inner = tensors.get(f"{HEADS}.0.weight")
    content = tensors.get(CONTENT_PROJ)
    expected = shapes(
        config, hidden=inner.shape[0] if inner is not None and inner.ndim == 2 else config.embedding_dim,
        content=content.shape[1] if content is not None and content.ndim == 2 else None,
    )
    for name, shape in expected.items():
        if name not in tensors:
            raise Failure(f"{where}: tensor `{name}` is absent: shape {list(shape)} expected")
        if tuple(tensors[name].shape) != shape:
            raise Failure(f"{where}: tensor `{name}` has shape {list(tensors[name].shape)}, but the config calls for {list(shape)}")
        if not torch.isfinite(tensors[name]).all():
            raise Failure(f"{where}: tensor `{name}` holds numbers that are not finite; the server refuses them")
    for name in tensors:
        if name not in expected:
            raise Failure(f"{where}: tensor `{name}` of shape {list(tensors[name].shape)} is no part of such a model")


@torch.no_grad()
def from_tensors(config, tensors):
    """The model of checked tensors, for computing with; its tables are free ones."""
    hidden = tensors[f"{HEADS}.0.weight"].shape[0] if config.num_tasks else 0
    model = Hstu(config, hidden=hidden).eval()
    model.items.id_vectors.weight.copy_(tensors[ITEM_EMB])
    model.position.weight.copy_(tensors[POS_EMB])
    if model.actions is not None:
        model.actions.weight.copy_(tensors[ACTION_EMB])
    for i, layer in enumerate(model.layers):
        layer.uvqk.copy_(tensors[f"{LAYER}.{i}._uvqk"])
        layer.output.weight.copy_(tensors[f"{LAYER}.{i}._o.weight"])
        layer.output.bias.copy_(tensors[f"{LAYER}.{i}._o.bias"])
        layer.pos.weight.copy_(tensors[f"{LAYER}.{i}._rel_attn_bias._pos_w"][: config.rows].flip(0))
        layer.ts.copy_(tensors[f"{LAYER}.{i}._rel_attn_bias._ts_w"])
    if model.heads is not None:
        for at, part in enumerate((model.heads.inner, model.heads.norm, model.heads.outer)):
            part.weight.copy_(tensors[f"{HEADS}.{at}.weight"])
            part.bias.copy_(tensors[f"{HEADS}.{at}.bias"])
    return model
