"""Histories from files: the dataset file of the demo world, and MovieLens-1M as sequences."""

import dataclasses
import json
import pathlib

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from . import Failure

# Between events of files without times, as `longbow import` has it.
STEP_S = 60
# Action of events of files without actions.
VIEW = 5
# Name of each action; the place is its number.
ACTIONS = ["none", "impression", "click", "cart", "purchase", "view", "like", "skip"]
# Tasks of the heads, in their order.
TASKS = ["click", "conversion", "value"]
# Highest item id: content vectors are held by id.
ID_MAX = 1 << 24


@dataclasses.dataclass
class Impressions:
    """Shown items with what came of them, grouped by user."""

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    # [M, 3]: click, conversion, value (order value / list price).
    labels: np.ndarray
    # Events before the impression, of its user.
    cuts: np.ndarray
    # True probabilities (click, conversion given a click) where the file tells them, [M, 2].
    truth: np.ndarray | None


@dataclasses.dataclass
class Histories:
    """Events of users, oldest first, one after another."""

    name: str
    offsets: np.ndarray
    items: np.ndarray
    actions: np.ndarray
    times: np.ndarray
    # Whether times mean anything.
    timed: bool
    highest_id: int
    # [highest_id + 1, C] by item id, and the ids that have one.
    contents: torch.Tensor | None = None
    item_ids: np.ndarray | None = None
    # Each user's next event, where the file holds it out: item and time.
    next_items: np.ndarray | None = None
    next_times: np.ndarray | None = None
    impressions: Impressions | None = None
    metadata: dict = dataclasses.field(default_factory=dict)

    @property
    def users(self):
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self):
        """Events of each user."""
        return np.diff(self.offsets)


def read(form, path):
    """Reads a file of the form `dataset` or `ml1m`."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise Failure(f"{path}: no such file")
    return {"dataset": read_dataset, "ml1m": read_ml1m}[form](path)


def read_ml1m(path):
    """One user a line, item numbers separated by blanks, oldest first; no times, so one event a minute."""
    users = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            items = np.array(line.split(), dtype=np.int64)
        except ValueError as error:
            raise Failure(f"{path}: line {number}: {error}: each word must be an item number") from error
        if items.size and (items.min() < 1 or items.max() > ID_MAX):
            raise Failure(f"{path}: line {number}: item numbers must be 1 to {ID_MAX}")
        users.append(items)
    if not any(len(items) for items in users):
        raise Failure(f"{path}: holds no events: one user a line, item numbers separated by blanks")
    items = np.concatenate(users)
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    times = np.concatenate([np.arange(len(user), dtype=np.int64) * STEP_S for user in users])
    actions = np.full(len(items), VIEW, dtype=np.int64)
    return Histories(path.name, offsets, items, actions, times, False, int(items.max()))


def read_ml1m_next(inputs, outputs):
    """Sequences of one file, each with its next item, the line of the same number of another file, as last event."""
    first, then = (pathlib.Path(path) for path in (inputs, outputs))
    for path in (first, then):
        if not path.is_file():
            raise Failure(f"{path}: no such file")
    lines = [path.read_text().splitlines() for path in (first, then)]
    if len(lines[0]) != len(lines[1]):
        raise Failure(f"{then}: has {len(lines[1])} lines, but {first} has {len(lines[0])}")
    users = [(a.split() + b.split()[:1]) for a, b in zip(*lines)]
    if any(not user or not all(word.isdecimal() for word in user) for user in users):
        raise Failure(f"{first} and {then}: each line must hold item numbers")
    items = np.array([int(word) for user in users for word in user], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    times = np.concatenate([np.arange(len(user), dtype=np.int64) * STEP_S for user in users])
    return Histories(first.name, offsets, items, np.full(len(items), VIEW), times, False, int(items.max()))


class _Tensors:
    """The tensors of a dataset file, each held to a shape."""

    def __init__(self, path):
        self.path = path
        try:
            self.file = safe_open(path, "numpy")
        except (SafetensorError, OSError) as error:
            raise Failure(f"{path}: {error}: not a dataset file (safetensors); `longbow dataset` writes one") from error
        self.names = set(self.file.keys())

    def get(self, name, kinds, shape):
        """A tensor; `shape` holds None where any size will do."""
        if name not in self.names:
            raise Failure(f"{self.path}: tensor `{name}` is absent; `longbow dataset` writes it")
        found = self.file.get_tensor(name)
        if found.dtype.kind not in kinds:
            raise Failure(f"{self.path}: tensor `{name}` has element type {found.dtype}, not of kind {kinds}")
        if len(found.shape) != len(shape) or any(w not in (None, f) for f, w in zip(found.shape, shape)):
            raise Failure(f"{self.path}: tensor `{name}` has shape {list(found.shape)}, expected {list(shape)}")
        return found.astype(np.int64) if kinds == "iu" else found.astype(np.float32)

    def offsets(self, name, users, total):
        """Offsets [users + 1] which rise from 0 to `total`."""
        found = self.get(name, "iu", (users + 1,))
        if found[0] != 0 or found[-1] != total or (np.diff(found) < 0).any():
            raise Failure(f"{self.path}: tensor `{name}` must rise from 0 to {total}")
        return found


def read_dataset(path):
    """The dataset file (safetensors) that `longbow dataset` writes."""
    tensors = _Tensors(path)
    item_ids = tensors.get("items.ids", "iu", (None,))
    vectors = tensors.get("items.vectors", "f", (len(item_ids), None))
    users = len(tensors.get("users.ids", "iu", (None,)))
    items = tensors.get("events.items", "iu", (None,))
    offsets = tensors.offsets("events.offsets", users, len(items))
    actions = tensors.get("events.actions", "iu", (len(items),))
    times = tensors.get("events.times", "iu", (len(items),))
    if not len(items):
        raise Failure(f"{path}: holds no events")
    if item_ids.size == 0 or item_ids.min() < 1 or item_ids.max() > ID_MAX:
        raise Failure(f"{path}: tensor `items.ids`: ids must be 1 to {ID_MAX}")
    if not np.isfinite(vectors).all():
        raise Failure(f"{path}: tensor `items.vectors` holds numbers that are not finite")
    contents = np.zeros((int(item_ids.max()) + 1, vectors.shape[1]), dtype=np.float32)
    contents[item_ids] = vectors
    known = np.zeros(len(contents), dtype=bool)
    known[item_ids] = True
    back = np.diff(times) < 0
    back[offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < len(times))] - 1] = False
    if back.any():
        raise Failure(f"{path}: tensor `events.times`, element {int(back.argmax()) + 1}: earlier than the one before")

    def check_ids(name, ids):
        bad = (ids < 0) | (ids >= len(known))
        bad |= ~known[np.where(bad, 0, ids)]
        if bad.any():
            raise Failure(f"{path}: tensor `{name}`, element {int(bad.argmax())}: item {ids[bad.argmax()]} is not in `items.ids`")

    check_ids("events.items", items)
    result = Histories(path.name, offsets, items, actions, times, True, int(item_ids.max()))
    result.contents, result.item_ids = torch.from_numpy(contents), item_ids
    if "next.items" in tensors.names:
        result.next_items = tensors.get("next.items", "iu", (users,))
        result.next_times = tensors.get("next.times", "iu", (users,))
        check_ids("next.items", result.next_items)
    if "impressions.items" in tensors.names:
        result.impressions = _impressions(tensors, users, result)
        check_ids("impressions.items", result.impressions.items)
    try:
        result.metadata = json.loads((tensors.file.metadata() or {}).get("longbow.dataset", "{}"))
    except ValueError as error:
        raise Failure(f"{path}: metadata key `longbow.dataset`: {error}") from error
    return result


def _impressions(tensors, users, histories):
    items = tensors.get("impressions.items", "iu", (None,))
    m = (len(items),)
    offsets = tensors.offsets("impressions.offsets", users, len(items))
    times = tensors.get("impressions.times", "iu", m)
    labels = [tensors.get(f"impressions.{task}", "iu" if task != "value" else "f", m) for task in TASKS]
    labels = np.stack([label.astype(np.float32) for label in labels], axis=1)
    truth = None
    if {"impressions.p_click", "impressions.p_conversion"} <= tensors.names:
        truth = np.stack([tensors.get(f"impressions.{p}", "f", m) for p in ("p_click", "p_conversion")], axis=1)
    cuts = np.zeros(len(items), dtype=np.int64)
    for user in range(users):
        events = histories.times[histories.offsets[user] : histories.offsets[user + 1]]
        mine = slice(offsets[user], offsets[user + 1])
        cuts[mine] = np.searchsorted(events, times[mine], side="left")
    return Impressions(offsets, items, times, labels, cuts, truth)
