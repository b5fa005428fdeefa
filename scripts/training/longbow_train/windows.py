"""Windows of histories and batches of windows of about one length."""

import dataclasses

import numpy as np
import torch

from .model import Batch

# Most share of a batch that is filling.
FILLING_MAX = 1 / 8


@dataclasses.dataclass(frozen=True)
class Window:
    """Events first..last of a user (numbers within the user), and where the position table starts. `kept`: the numbers
    of the events that a thinned window holds, ascending; all where absent."""

    user: int
    first: int
    last: int
    start: int = 0
    kept: np.ndarray | None = None

    @property
    def length(self):
        """Events in it."""
        return self.last - self.first if self.kept is None else len(self.kept)

    @property
    def events(self):
        """Numbers of its events."""
        return np.arange(self.first, self.last) if self.kept is None else self.kept


def thin(times, length, rng):
    """About `length` events of a long history, visits (pauses of an hour end one) kept or left out as a whole: few events
    that reach as far back as the whole."""
    visit = np.concatenate([[0], np.cumsum(np.diff(times) > 3600)])
    keep = rng.random(visit[-1] + 1) < 0.95 * length / len(times)
    return np.flatnonzero(keep[visit])[-length:]


def cut(histories, ends, rng, *, length, longest, long_share=0.0, thin_share=0.0, most=0, scatter=0):
    """Windows of one pass over all users. `ends`: events of each user to use.

    A user of more than `length` events is cut into windows of that length from a random place on, or with chance
    `long_share` kept whole (the newest `longest`), or with chance `thin_share` thinned to that length. `most`: windows of a user in one
    pass, 0 for all. `scatter`: rows of the position table over which windows are placed at
    random (0: all start at 0), so that every row sees data; half of the windows that begin a history keep their place.
    """
    windows = []

    def place(count, first):
        if not scatter or (first == 0 and rng.random() < 0.5):
            return 0
        return int(rng.integers(0, max(1, scatter - count)))

    for user, events in enumerate(ends):
        if events < 2:
            continue
        draw = rng.random()
        if events <= length + 1:
            spans = [(0, events)]
        elif draw < long_share:
            spans = [(max(0, events - longest), events)]
        elif draw < long_share + thin_share:
            base = histories.offsets[user]
            kept = thin(histories.times[base : base + events], length, rng)
            if len(kept) >= 2:
                windows.append(Window(user, 0, events, place(len(kept), 1), kept))
            continue
        else:
            phase = int(rng.integers(0, length))
            edges = [0, *range(phase, events - 1, length), events] if phase >= 2 else [*range(0, events - 1, length), events]
            spans = list(zip(edges, edges[1:]))
            if most and len(spans) > most:
                spans = [spans[i] for i in rng.choice(len(spans), most, replace=False)]
        for a, b in spans:
            windows.append(Window(user, a, b, place(b - a, a)))
    return windows


def pack(windows, tokens, rng):
    """Batches of windows: at most `tokens` rows each with filling (or one window), filling below its bound; shuffled."""
    order = rng.permutation(len(windows))
    order = sorted(order, key=lambda i: -windows[i].length)
    batches, batch = [], []
    for i in order:
        if batch:
            longest = windows[batch[0]].length
            if (len(batch) + 1) * longest > tokens or windows[i].length < longest * (1 - FILLING_MAX):
                batches.append(batch)
                batch = []
        batch.append(i)
    if batch:
        batches.append(batch)
    return [[windows[i] for i in batches[b]] for b in rng.permutation(len(batches))]


def _filled(parts, width, dtype=np.int64):
    out = np.zeros((len(parts), width, *parts[0].shape[1:]), dtype=dtype)
    for row, part in zip(out, parts):
        row[: len(part)] = part
    return torch.from_numpy(out)


def assemble(histories, windows, *, ends=None, impressions=0, rng=None):
    """The batch of some windows. `ends`: events of each user that may be known (of next items as well); `impressions`: most
    candidates of a window, chosen at random."""
    lengths = [w.length for w in windows]
    items, times, actions, next_items, next_times = [], [], [], [], []
    for w in windows:
        base = histories.offsets[w.user]
        end = histories.lengths[w.user] if ends is None else ends[w.user]
        here = w.events
        items.append(histories.items[base + here])
        times.append(histories.times[base + here])
        actions.append(histories.actions[base + here])
        after = np.append(here[1:], here[-1] + 1)
        after = after[after < end]
        # After a gap of a thinned window there is a time, but nothing to learn.
        following = np.where(after == here[: len(after)] + 1, histories.items[base + after], 0)
        at = histories.times[base + after]
        if len(following) < w.length:
            # Nothing follows the newest event: the request comes a step later, and there is nothing to learn.
            following, at = np.append(following, 0), np.append(at, times[-1][-1] + 60)
        next_items.append(following)
        next_times.append(at)
    width = max(lengths)
    batch = Batch(
        items=_filled(items, width), times=_filled(times, width), actions=_filled(actions, width),
        lengths=torch.tensor(lengths), next_items=_filled(next_items, width), next_times=_filled(next_times, width),
        starts=torch.tensor([w.start for w in windows]),
    )
    if impressions and histories.impressions is not None:
        _add_candidates(batch, histories.impressions, windows, impressions, rng)
    return batch


def _add_candidates(batch, shown, windows, most, rng):
    chosen = []
    for w in windows:
        mine = np.arange(shown.offsets[w.user], shown.offsets[w.user + 1])
        cuts = shown.cuts[mine]
        mine = mine[(cuts > w.events[0]) & (cuts <= w.last)]
        if len(mine) > most:
            mine = mine[np.sort(rng.choice(len(mine), most, replace=False))]
        chosen.append(mine)
    width = max(len(mine) for mine in chosen)
    if width == 0:
        return
    batch.candidates = _filled([shown.items[mine] for mine in chosen], width)
    batch.candidate_times = _filled([shown.times[mine] for mine in chosen], width)
    batch.candidate_cuts = _filled([np.searchsorted(w.events, shown.cuts[mine]) for mine, w in zip(chosen, windows)], width)
    batch.labels = _filled([shown.labels[mine] for mine in chosen], width, np.float32)
