"""Small synthetic data for the tests: users who come back to the categories that they like."""

import contextlib
import io
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from longbow_train import cli

GOLDEN = pathlib.Path(__file__).resolve().parents[3] / "../shared/golden"
SMALL = [
    "--item-dim", "12", "--action-dim", "4", "--blocks", "2", "--heads", "2", "--attention-dim", "6", "--linear-dim", "8",
    "--id-rows", "30", "--max-sequence-len", "64", "--max-output-len", "4", "--window", "16", "--batch-tokens", "128",
    "--negatives", "16", "--pos-knots", "6", "--warmup", "5", "--validation-users", "10", "--report-lengths", "10,64",
    "--threads", "1",
]


def tensors(users=40, items=50, categories=5, seed=0):
    """The tensors of a dataset file: an item's click follows from whether its category is among the user's."""
    rng = np.random.default_rng(seed)
    category = rng.integers(0, categories, items + 1)
    centres = rng.normal(size=(categories, 8))
    vectors = centres[category[1:]] + 0.3 * rng.normal(size=(items, 8))
    out = {name: [] for name in ("items", "actions", "times", "shown", "shown_times", "click", "conversion", "value")}
    offsets, shown_offsets = [0], [0]
    for _ in range(users):
        liked = rng.choice(categories, 2, replace=False)
        mine = np.flatnonzero(np.isin(category[1:], liked)) + 1
        count = int(rng.integers(5, 60))
        times = 1_700_000_000 + np.cumsum(rng.integers(0, 40_000, count))
        out["items"].append(rng.choice(mine, count))
        out["actions"].append(rng.integers(2, 8, count))
        out["times"].append(times)
        shown = rng.integers(1, items + 1, 6)
        click = (np.isin(category[shown], liked) & (rng.random(6) < 0.9)).astype(np.uint8)
        conversion = click * (rng.random(6) < 0.5).astype(np.uint8)
        out["shown"].append(shown)
        out["shown_times"].append(np.sort(rng.integers(times[0] + 1, times[-1] + 100, 6)))
        out["click"].append(click)
        out["conversion"].append(conversion)
        out["value"].append(conversion * rng.uniform(0.5, 1.5, 6))
        offsets.append(offsets[-1] + count)
        shown_offsets.append(shown_offsets[-1] + 6)
    one = {name: np.concatenate(parts) for name, parts in out.items()}
    return {
        "items.ids": np.arange(1, items + 1), "items.vectors": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        "items.prices": np.full(items, 1_000_000), "users.ids": np.arange(users), "events.offsets": np.array(offsets),
        "events.items": one["items"], "events.actions": one["actions"].astype(np.int32), "events.times": one["times"],
        "impressions.offsets": np.array(shown_offsets), "impressions.items": one["shown"], "impressions.times": one["shown_times"],
        "impressions.click": one["click"], "impressions.conversion": one["conversion"], "impressions.value": one["value"].astype(np.float32),
    }


def write(path, made=None):
    """Writes a dataset file."""
    save_file(tensors() if made is None else made, path, {"longbow.dataset": json.dumps({"format": 1})})
    return str(path)


def quietly(arguments):
    """Runs `scripts/train`; gives its exit code."""
    with contextlib.redirect_stderr(io.StringIO()):
        return cli.train([str(a) for a in arguments])
