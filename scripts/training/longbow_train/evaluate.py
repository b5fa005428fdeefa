"""Quality on held-out data: the place of the next item, and the heads on impressions."""

import dataclasses

import numpy as np
import torch
from torch.nn import functional as F

from . import metrics
from .windows import Window, assemble, pack

# Scores of queries against all items that exist at a time.
SCORES_MAX = 1 << 24


def window_start(events, longest):
    """First event of the window that the server reads of a history: it moves by an eighth of `longest` at a time."""
    over, step = max(0, events - longest), max(1, longest // 8)
    return min(-(-over // step) * step, events)


@dataclasses.dataclass
class Cases:
    """Held-out next items: of `users`, after their first `ends` events, at `times`."""

    histories: object
    users: np.ndarray
    ends: np.ndarray
    items: np.ndarray
    times: np.ndarray
    # Whether items of the history are no answer (a user takes each item once).
    once: bool

    @classmethod
    def last_events(cls, histories, users, once):
        """The last event of each of `users` held out."""
        ends = histories.lengths[users] - 1
        at = histories.offsets[users] + ends
        return cls(histories, users, ends, histories.items[at], histories.times[at], once)

    @classmethod
    def next_events(cls, histories, users, once):
        """The event that the file itself holds out of each of `users`."""
        return cls(histories, users, histories.lengths[users], histories.next_items[users], histories.next_times[users], once)


@torch.inference_mode()
def ranks(model, cases, *, device, longest, tokens, most=None):
    """Rank (0: first) of each case's item among all items; `most`: newest events read at most."""
    model.eval()
    h = cases.histories
    windows, case_of = [], {}
    for case, (user, end) in enumerate(zip(cases.users, cases.ends)):
        first = window_start(end, longest)
        if most is not None:
            first = max(first, end - most)
        windows.append(Window(int(user), int(first), int(end)))
        case_of[int(user)] = case
    queries = [None] * len(windows)
    for group in pack(windows, tokens, np.random.default_rng(0)):
        batch = assemble(h, group)
        which = torch.tensor([case_of[w.user] for w in group])
        rows = torch.arange(len(group))
        batch.next_times[rows, batch.lengths - 1] = torch.from_numpy(cases.times)[which]
        hidden, _, _ = model(batch.to(device))
        found = model.queries(hidden[rows.to(device), batch.lengths.to(device) - 1].float())
        for case, query in zip(which.tolist(), found):
            queries[case] = query
    return places(model, cases, torch.stack(queries))


@torch.inference_mode()
def places(model, cases, queries):
    """Rank (0: first) of each case's item among all items for its query."""
    h = cases.histories
    catalogue = torch.arange(1, h.highest_id + 1) if h.item_ids is None else torch.from_numpy(h.item_ids)
    place = torch.full((h.highest_id + 1,), -1)
    place[catalogue] = torch.arange(len(catalogue))
    vectors = torch.cat([F.normalize(model.items(part), dim=-1) for part in catalogue.to(queries.device).split(1 << 16)])
    targets = place[torch.from_numpy(cases.items)]
    found = np.zeros(len(cases.users), dtype=np.int64)
    for part in torch.arange(len(cases.users)).split(max(1, SCORES_MAX // len(catalogue))):
        scores = queries[part.to(queries.device)] @ vectors.T
        own = scores.gather(1, targets[part, None].to(queries.device))
        if cases.once:
            for row, case in zip(scores, part.tolist()):
                base = h.offsets[cases.users[case]]
                row[place[torch.from_numpy(h.items[base : base + cases.ends[case]])].to(row.device)] = -2
        found[part.numpy()] = (scores > own).sum(1).cpu().numpy()
    return found


@torch.inference_mode()
def impressions(model, histories, users, *, device, longest, tokens, most=None, per_user=1 << 30):
    """Logits of the heads on the impressions of `users`: ([M, T] logits, [M] places in the impressions).

    Each impression is seen from the newest `most` events before it. With `most` below the history's length that takes a
    window for each impression; without, one window serves all impressions of a user that fits.
    """
    model.eval()
    shown = histories.impressions
    logits, places = [], []
    rng = np.random.default_rng(0)
    groups = {}
    for user in users:
        mine = np.arange(shown.offsets[user], shown.offsets[user + 1])
        mine = mine[shown.cuts[mine] > 0]
        if len(mine) > per_user:
            mine = np.sort(rng.choice(mine, per_user, replace=False))
        for place in mine:
            end = int(shown.cuts[place])
            first = max(window_start(end, longest), 0 if most is None else end - most)
            groups.setdefault((int(user), first), []).append(int(place))
    windows = [Window(user, first, int(max(shown.cuts[p] for p in group))) for (user, first), group in groups.items()]
    for part in pack(windows, tokens, rng):
        batch = assemble(histories, part)
        lists = [groups[w.user, w.first] for w in part]
        width = max(map(len, lists))
        fill = lambda values, w: np.stack([np.pad(values(np.array(g), x), (0, width - len(g))) for g, x in zip(lists, w)])
        batch.candidates = torch.from_numpy(fill(lambda g, _: shown.items[g], part))
        batch.candidate_times = torch.from_numpy(fill(lambda g, _: shown.times[g], part))
        batch.candidate_cuts = torch.from_numpy(fill(lambda g, w: shown.cuts[g] - w.first, part))
        _, _, out = model(batch.to(device))
        for row, group in zip(out.float().cpu().numpy(), lists):
            logits.append(row[: len(group)])
            places.extend(group)
    return np.concatenate(logits), np.array(places)


def head_figures(logits, labels, truth=None, calibration=None):
    """AUC and normalised entropy of click and conversion, error of the value, from logits [M, 3] and labels [M, 3]."""
    z = logits.astype(np.float64)
    if calibration is not None:
        z = z * np.array([c["scale"] for c in calibration]) + np.array([c["shift"] for c in calibration])
    p = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
    click, conversion, value = labels.T
    clicked, converted = click > 0, conversion > 0
    out = {
        "impressions": len(click),
        "auc_click": metrics.auc(p[:, 0], click),
        "ne_click": metrics.normalised_entropy(p[:, 0], click),
        "auc_conversion": metrics.auc(p[:, 0] * p[:, 1], conversion),
        "ne_conversion": metrics.normalised_entropy(p[:, 0] * p[:, 1], conversion),
        "auc_conversion_given_click": metrics.auc(p[clicked, 1], conversion[clicked]) if clicked.any() else float("nan"),
    }
    if converted.any():
        out["value_error"] = float(np.sqrt(np.mean((2 * p[converted, 2] - value[converted]) ** 2)))
        out["value_spread"] = float(value[converted].std())
    if truth is not None:
        out["best_auc_click"] = metrics.auc(truth[:, 0], click)
        out["best_auc_conversion"] = metrics.auc(truth[:, 0] * truth[:, 1], conversion)
    return out
