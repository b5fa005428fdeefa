"""`scripts/convert`: a checkpoint of the public HSTU reference code to a bundle."""

import argparse
import pathlib
import pickle
import re
import sys

import torch

from . import Failure, bundle, run, weights
from .config import Config

EXAMPLES = """example:
  scripts/convert checkpoint.pt --out bundle --max-sequence-len 200 --max-output-len 11 --heads 1

Takes a file of torch.save: a dict of tensors, or one with them under `model_state_dict`, names with or without the
prefix `module.`. Shapes are read from the tensors; what they do not tell is asked for.
"""

# Tensors of a training checkpoint that are no weights of the served model.
IGNORED = re.compile(r"(_attn_mask|_negatives_sampler|_ndp_module|_dummy|num_batches_tracked)")
PREFIXES = ("module.", "_orig_mod.")


def read(path):
    """The tensors of a checkpoint by their public names."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise Failure(f"{path}: no such file") from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"{path}: {reason}: not a checkpoint of tensors; save `model.state_dict()` with torch.save") from error
    if isinstance(state, dict) and isinstance(state.get("model_state_dict"), dict):
        state = state["model_state_dict"]
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise Failure(f"{path}: holds no tensors by name; save `model.state_dict()` with torch.save")
    tensors = {}
    for name, value in state.items():
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if isinstance(value, torch.Tensor) and not IGNORED.search(name):
            tensors[name] = value.float().contiguous()
    return tensors


def infer(tensors, options, path):
    """The config of the tensors; what they leave open comes from the options."""

    def shape(name, dims):
        found = tensors.get(name)
        if found is None:
            near = [n for n in tensors if n.split(".")[-2:] == name.split(".")[-2:]]
            hint = f"; did you mean `{near[0]}`?" if near else f"; the file has {', '.join(sorted(tensors)[:5])}, ..."
            raise Failure(f"{path}: tensor `{name}` is absent{hint}")
        if found.ndim != dims:
            raise Failure(f"{path}: tensor `{name}` has shape {list(found.shape)}, expected {dims} dimensions")
        return found.shape

    items, item_dim = shape(weights.ITEM_EMB, 2)
    rows, width = shape(weights.POS_EMB, 2)
    actions, action_dim = shape(weights.ACTION_EMB, 2) if weights.ACTION_EMB in tensors else (0, 0)
    blocks = 1 + max((int(m[1]) for n in tensors if (m := re.match(re.escape(weights.LAYER) + r"\.(\d+)\._uvqk$", n))), default=-1)
    if blocks == 0:
        raise Failure(f"{path}: tensor `{weights.LAYER}.0._uvqk` is absent: no layers of the rel_bias form")
    uvqk = shape(f"{weights.LAYER}.0._uvqk", 2)[1]
    values = shape(f"{weights.LAYER}.0._o.weight", 2)[1]
    buckets = shape(f"{weights.LAYER}.0._rel_attn_bias._ts_w", 1)[0] - 1
    if 2 * values >= uvqk:
        raise Failure(f"{path}: tensor `{weights.LAYER}.0._o.weight` has {values} columns, too many for {uvqk} of _uvqk: a model with concat_ua is not supported")
    if options.heads is None:
        raise Failure(f"{path}: the number of heads cannot be read from tensors; give --heads (1 and 2 in the published configs)")
    keys = uvqk // 2 - values
    for what, total in (("u and v", values), ("q and k", keys)):
        if total <= 0 or total % options.heads:
            raise Failure(f"--heads {options.heads}: does not divide {total}, the width of {what} in {path}")
    output_len = options.max_output_len
    if options.max_sequence_len is not None and output_len is None:
        output_len = rows - options.max_sequence_len
    if output_len is None:
        raise Failure(f"{path}: has {rows} positions, history and output together; give --max-sequence-len or --max-output-len")
    sequence_len = rows - output_len if options.max_sequence_len is None else options.max_sequence_len
    if sequence_len + output_len != rows:
        raise Failure(f"{path}: tensor `{weights.POS_EMB}` has {rows} rows, not --max-sequence-len {sequence_len} + --max-output-len {output_len}")
    tasks = shape(f"{weights.HEADS}.2.weight", 2)[0] if f"{weights.HEADS}.2.weight" in tensors else 0
    return Config(
        max_sequence_len=sequence_len, max_output_len=output_len, embedding_dim=width, item_embedding_dim=item_dim,
        action_embedding_dim=action_dim, num_actions=actions, num_blocks=blocks, num_heads=options.heads,
        attention_dim=keys // options.heads, linear_dim=values // options.heads, num_items=items - 1,
        num_time_buckets=buckets, num_tasks=tasks, epsilon=options.epsilon,
    )


def parser():
    """The options."""
    p = argparse.ArgumentParser(
        prog="scripts/convert", description="Turns a checkpoint of the public HSTU reference code into a bundle that the server loads.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("checkpoint", help="file of torch.save")
    p.add_argument("--out", required=True, help="bundle to write (a folder)")
    p.add_argument("--heads", type=int, help="attention heads of a layer")
    p.add_argument("--max-sequence-len", type=int, help="most events of a history")
    p.add_argument("--max-output-len", type=int, help="rows of the position table behind the history")
    p.add_argument("--epsilon", type=float, default=1e-6, help="of the norms [default: 1e-6]")
    p.add_argument("--actions", help="names of the actions by number, with commas, `none` first [default: those of Longbow]")
    p.add_argument("--tasks", help="names of the heads' tasks, with commas [default: click,conversion,value]")
    p.add_argument("--name", help="name of the model [default: name of the file]")
    return p


def convert(arguments):
    """Runs the command."""
    o = parser().parse_args(arguments)
    path = pathlib.Path(o.checkpoint)
    tensors = read(path)
    config = infer(tensors, o, path)
    split = lambda text: None if text is None else [word.strip() for word in text.split(",")]
    if split(o.tasks) is None and config.num_tasks not in (0, 3):
        raise Failure(f"{path}: has {config.num_tasks} tasks; name them with --tasks")
    if split(o.actions) is None and config.action_embedding_dim and config.num_actions != 8:
        raise Failure(f"{path}: has {config.num_actions} actions; name them with --actions, `none` first")
    weights.check(config, tensors, path)
    words = " ".join(word.rsplit("/", 1)[-1] for word in arguments)
    out = bundle.write(
        o.out, config, tensors, name=o.name or path.stem, made_by=f"scripts/convert {words}",
        actions=split(o.actions), tasks=split(o.tasks),
    )
    print(f"wrote {out}: {config.to_json()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(convert)
