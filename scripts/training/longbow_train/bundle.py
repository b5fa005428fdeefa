"""Bundles: the directory in which a model is delivered to the server."""

import datetime
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save

from . import Failure, weights
from .config import Config
from .data import ACTIONS, TASKS
from .model import Batch

FORMAT = 1
MODEL, SELF_CHECK, MANIFEST = "model.safetensors", "self-check.safetensors", "bundle.json"
# Events of the longest recorded history, candidates of each, and content vectors.
EVENTS, CANDIDATES, CONTENTS = 256, 8, 8


def write(folder, config: Config, tensors, *, name, made_by, actions=None, tasks=None, calibration=(), training=None, seed=1):
    """Writes a bundle directory whole or not at all; one that is there is replaced. Gives its path.

    `calibration`: a dict of task, scale and shift for each task: probability = sigmoid(scale * logit + shift).
    """
    folder = pathlib.Path(folder)
    weights.check(config, tensors, folder)
    actions = ACTIONS if actions is None else actions
    tasks = (TASKS if config.num_tasks == len(TASKS) else []) if tasks is None else tasks
    if config.action_embedding_dim and len(actions) != config.num_actions:
        raise Failure(f"{folder}: {len(actions)} names of actions, but the model has {config.num_actions}")
    if len(tasks) != config.num_tasks:
        raise Failure(f"{folder}: {len(tasks)} names of tasks, but the model has {config.num_tasks}")
    calibration = list(calibration) or [{"task": task, "scale": 1.0, "shift": 0.0} for task in tasks]
    files = {
        MODEL: save({n: t.float().contiguous() for n, t in tensors.items()}, {"config": config.to_json()}),
        SELF_CHECK: save(self_check(config, tensors, calibration, seed)),
    }
    created = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = {
        "format": FORMAT, "name": name, "made_by": made_by, "created": created,
        "features": {"actions": list(actions), "tasks": list(tasks), "times": "unix_seconds"},
        "calibration": calibration,
        "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
        "training": training or {},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    _place(folder, files)
    return folder


def plain(figures):
    """Figures as JSON takes them: rounded, without those that are not numbers."""
    if isinstance(figures, dict):
        return {name: plain(value) for name, value in figures.items() if value == value}
    return round(figures, 6) if isinstance(figures, float) else figures


def _place(folder, files):
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (beside, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    beside.mkdir()
    for name, data in files.items():
        with open(beside / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        if not (folder / MANIFEST).is_file() and any(folder.iterdir()):
            raise Failure(f"{folder}: holds something that is no bundle; name another folder")
        folder.rename(old)
    beside.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _histories(config, rng):
    longest = min(EVENTS, config.max_sequence_len)
    lengths = sorted({1, min(2, longest), -(-longest // 2), longest})
    shape = (len(lengths), longest)
    # Pauses from none to months, so that all parts of the time table are used.
    pauses = (10 ** rng.uniform(0, 6.5, shape)).astype(np.int64) * rng.integers(0, 2, shape)
    times = 1_600_000_000 + np.cumsum(pauses, axis=1)
    lengths = np.array(lengths)
    ends = times[np.arange(len(lengths)), lengths - 1]
    inside = np.arange(longest) < lengths[:, None]
    items = rng.integers(1, config.num_items + 1, shape) * inside
    actions = (rng.integers(1, max(2, config.num_actions), shape) if config.num_actions > 1 else np.zeros(shape, np.int64)) * inside
    return {
        "item_ids": items, "actions": actions, "timestamps": times * inside, "lengths": lengths,
        "query_time": ends + rng.integers(1, 10_000, len(lengths)),
        "candidate_ids": rng.integers(1, config.num_items + 1, (len(lengths), CANDIDATES)),
    }


def batch_of(inputs):
    """The batch of recorded histories (tensors by the names of the golden files, int64)."""
    t = {name: torch.as_tensor(np.asarray(value)).long() for name, value in inputs.items()}
    lengths, times = t["lengths"], t["timestamps"]
    next_times = torch.cat([times[:, 1:], times[:, -1:]], dim=1)
    next_times[torch.arange(len(lengths)), lengths - 1] = t["query_time"]
    candidates = t["candidate_ids"]
    return Batch(
        items=t["item_ids"], times=times, actions=t.get("actions", torch.zeros_like(t["item_ids"])), lengths=lengths,
        next_items=torch.zeros_like(t["item_ids"]), next_times=next_times, starts=torch.zeros_like(lengths),
        candidates=candidates, candidate_times=t["query_time"][:, None].expand(candidates.shape),
        candidate_cuts=lengths[:, None].expand(candidates.shape),
    )


@torch.no_grad()
def outputs(model, inputs):
    """L2-normalised rows [B, N, D_item], candidate rows [B, C, D] and logits [B, C, T] (or None) of recorded histories."""
    rows, candidates, logits = model(batch_of(inputs))
    inside = torch.arange(rows.shape[1]) < torch.as_tensor(np.asarray(inputs["lengths"]))[:, None]
    return model.queries(rows) * inside[..., None], candidates, logits


def self_check(config, tensors, calibration, seed):
    """Seeded inputs and the float64 outputs that the calibrated model must give for them."""
    if config.num_items == 0:
        raise Failure("a model without items of its own cannot be checked: give it id rows")
    rng = np.random.default_rng(seed)
    inputs = _histories(config, rng)
    model = weights.from_tensors(config, tensors).double()
    rows, _, logits = outputs(model, inputs)
    out = {f"golden.{name}": torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
    out["golden.output"] = rows.float().contiguous()
    if logits is not None:
        scale = torch.tensor([c["scale"] for c in calibration], dtype=torch.float64)
        shift = torch.tensor([c["shift"] for c in calibration], dtype=torch.float64)
        out["golden.candidate_probs"] = torch.sigmoid(logits * scale + shift).float().contiguous()
    projection = tensors.get(weights.CONTENT_PROJ)
    if projection is not None:
        content = torch.from_numpy(rng.uniform(-1, 1, (CONTENTS, projection.shape[1]))).float()
        out["golden.content"] = content
        out["golden.content_rows"] = (content.double() @ projection.double().T).float()
    return out


def platt(logits, truth):
    """Scale and shift of the logits that fit the truth (0 to 1) best, by Newton's method with a weak pull to (1, 0)."""
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    theta, start = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    x = np.stack([z, np.ones_like(z)], axis=1)

    def loss(at):
        s = x @ at
        return (np.logaddexp(0, s) - y * s).sum() + ((at - start) ** 2).sum()

    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ theta, -60, 60)))
        gradient = x.T @ (p - y) + 2 * (theta - start)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 2 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while loss(theta - size * step) > loss(theta) and size > 1e-6:
            size /= 2
        theta = theta - size * step
        if np.abs(step * size).max() < 1e-9:
            break
    return float(max(theta[0], 1e-3)), float(theta[1])


def calibrate(logits, labels):
    """Calibration of the tasks from logits and labels [M, 3] of held-out impressions."""
    click, conversion, value = labels.T
    cases = [np.ones(len(click), bool), click > 0, conversion > 0]
    truths = [click, conversion, np.clip(value / 2, 0, 1)]
    out = []
    for task, at, on, truth in zip(TASKS, range(3), cases, truths):
        scale, shift = platt(logits[on, at], truth[on]) if on.any() else (1.0, 0.0)
        out.append({"task": task, "scale": scale, "shift": shift})
    return out
