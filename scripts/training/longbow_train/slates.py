"""The first stage of a model with heads: its first layer alone, learned from slates over whole histories.

All items of a slate are asked for at one time, so they share cut, times and bias, and the first layer needs no attention
among the events: a step costs candidates x events, whatever the length of a history. Nothing is filled up: the events of a batch
stand one behind the other. The layers above begin as nothing (output projection 0), so that a second stage goes on from here
without a jump.
"""

import dataclasses
import math

import numpy as np
import torch
from torch.nn import functional as F

from . import evaluate, losses, metrics
from .attention import MASKED, time_bucket
from .loop import Trainer

# Rows of a window whose next item is learned in a step, and the share of them that is the last of a visit.
NEXT_ROWS, NEXT_OPENINGS = 8, 0.75
# Share of the steps of a user that see the whole history; the others see the newest events before a slate, at least so many.
WHOLE, LEAST = 0.4, 50
# Users with fewer events teach nothing about histories.
EVENTS_MIN = 20
# Weights of the losses of the heads: conversions and values are rare.
TASK_WEIGHTS = (4.0, 1.0, 0.25)
# How much faster the tables of the biases learn than the matrices: their entries must move by tens.
TABLE_RATE = 5.0


@dataclasses.dataclass
class SlateBatch:
    """Events of several windows, [T], one window behind the other, with what is asked about them."""

    items: torch.Tensor
    actions: torch.Tensor
    times: torch.Tensor
    places: torch.Tensor
    # Slates: (first event, end, time of the request) of each; items [S, C], 0 for filling; labels [S, C, 3].
    slates: list
    shown: torch.Tensor
    labels: torch.Tensor
    # Rows whose next item is learned: (first event of the window, rows [R] in [T]) of each window, next times and items [W, R].
    next_rows: list
    next_times: torch.Tensor
    next_items: torch.Tensor


class Slates:
    """Batches of windows with slates."""

    def __init__(self, histories, window):
        self.h, self.window = histories, window
        shown = histories.impressions
        at = shown.offsets
        new = np.ones(len(shown.items), dtype=bool)
        new[1:] = shown.times[1:] != shown.times[:-1]
        new[at[:-1][at[:-1] < len(new)]] = True
        self.first = np.flatnonzero(new)
        self.size = np.diff(np.append(self.first, len(new)))
        self.of_user = np.searchsorted(self.first, at)

    def place(self, user, rng):
        """A window of a user: (first event, end, slates in it)."""
        end = int(self.h.lengths[user])
        mine = np.arange(self.of_user[user], self.of_user[user + 1])
        cuts = self.h.impressions.cuts[self.first[mine]]
        first = max(0, end - self.window)
        if len(mine) and rng.random() >= WHOLE:
            end = max(2, int(rng.choice(cuts)))
            longest = min(end, self.window)
            if longest > LEAST:
                longest = int(math.exp(rng.uniform(math.log(LEAST), math.log(longest))))
            first = end - longest
        return first, end, mine[(cuts > first) & (cuts <= end)]

    def batch(self, users, rng, most):
        """The batch of some users with at most `most` slates each."""
        h, shown = self.h, self.h.impressions
        parts, places, slates, chosen, rows, ask = [], [], [], [], [], []
        total = 0
        for user in users:
            first, end, mine = self.place(user, rng)
            if end - first < 2:
                continue
            if len(mine) > most:
                mine = np.sort(rng.choice(mine, most, replace=False))
            base = h.offsets[user] + first
            parts.append(np.arange(base, base + end - first))
            places.append(np.arange(end - first))
            for slate in mine:
                a = self.first[slate]
                slates.append((total, total + int(shown.cuts[a]) - first, int(shown.times[a])))
            chosen.extend(mine)
            here = self.next_of(h.times[parts[-1]], rng)
            rows.append((total, torch.from_numpy(here + total)))
            ask.append(base + here + 1)
            total += end - first
        at, ask = np.concatenate(parts), np.stack(ask)
        width = int(max((self.size[slate] for slate in chosen), default=1))
        cand, labels = np.zeros((len(chosen), width), np.int64), np.zeros((len(chosen), width, 3), np.float32)
        for i, slate in enumerate(chosen):
            a, size = self.first[slate], self.size[slate]
            cand[i, :size], labels[i, :size] = shown.items[a : a + size], shown.labels[a : a + size]
        t = torch.from_numpy
        return SlateBatch(t(h.items[at]), t(h.actions[at]), t(h.times[at]), t(np.concatenate(places)), slates, t(cand), t(labels),
                          rows, t(h.times[ask]), t(h.items[ask]))

    def known(self, user, asked, time):
        """One window, the events before `asked` (first, end): for judging; with all that is shown at its end where `time` is None,
        else with its last row and that as the time of the request."""
        h, shown = self.h, self.h.impressions
        first, end = asked
        at = np.arange(h.offsets[user] + first, h.offsets[user] + end)
        t = torch.from_numpy
        events = t(h.items[at]), t(h.actions[at]), t(h.times[at]), torch.arange(end - first)
        nothing = torch.zeros(0, 1, dtype=torch.long)
        if time is not None:
            rows = [(0, torch.tensor([end - first - 1]))]
            return SlateBatch(*events, [], nothing, None, rows, torch.tensor([[time]]), None), None
        mine = np.arange(shown.offsets[user], shown.offsets[user + 1])
        mine = mine[shown.cuts[mine] == end]
        mine = mine[shown.times[mine] == shown.times[mine[0]]]
        slates = [(0, end - first, int(shown.times[mine[0]]))]
        return SlateBatch(*events, slates, t(shown.items[mine])[None], None, [], None, None), mine

    @staticmethod
    def next_of(times, rng):
        """Rows of a window whose next item is learned; most of them the last of a visit."""
        rows = rng.integers(0, len(times) - 1, NEXT_ROWS)
        ends = np.flatnonzero(np.diff(times) > 3600)
        if len(ends):
            count = int(NEXT_ROWS * NEXT_OPENINGS)
            rows[:count] = rng.choice(ends, count)
        return rows


class _Look(torch.autograd.Function):
    """q [B, H, M, d] over keys k [H, T, d] and values v [H, T, e] -> [B, H, M, e]: entry b looks at the keys of `spans[b]`
    only, a tuple (first key, end, distances, time buckets); the last two are [1 or M, end - first], distances below 0 of
    keys that are not seen. `near` [N] and `ts` are the bias by distance and time bucket."""

    @staticmethod
    def forward(ctx, q, k, v, near, ts, spans):
        out, kept = [], []
        for at, (first, end, distance, bucket) in enumerate(spans):
            bias = (near[distance.clamp(min=0)] + ts[bucket]).masked_fill_(distance < 0, MASKED)
            scores = torch.baddbmm(bias[None], q[at], k[:, first:end].transpose(1, 2))
            out.append(torch.bmm(F.silu(scores), v[:, first:end]))
            kept.append(scores)
        ctx.save_for_backward(q, k, v, near, ts)
        ctx.spans, ctx.kept = spans, kept
        return torch.stack(out)

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, near, ts = ctx.saved_tensors
        dq, dk, dv, d_near, d_ts = (torch.zeros_like(x) for x in (q, k, v, near, ts))
        for at, (first, end, distance, bucket) in enumerate(ctx.spans):
            scores, do = ctx.kept[at], d_out[at]
            ds = torch.ops.aten.silu_backward(torch.bmm(do, v[:, first:end].transpose(1, 2)), scores)
            dv[:, first:end].baddbmm_(F.silu(scores).transpose(1, 2), do)
            dk[:, first:end].baddbmm_(ds.transpose(1, 2), q[at])
            dq[at] = torch.bmm(ds, k[:, first:end])
            gradient = ds.sum(0) if distance.shape[0] > 1 else ds.sum((0, 1))[None]
            d_near += torch.bincount(distance.clamp(min=0).flatten(), gradient.flatten(), len(near)).to(near.dtype)
            d_ts += torch.bincount(bucket.flatten(), gradient.flatten(), len(ts)).to(ts.dtype)
        return dq, dk, dv, d_near, d_ts, None


def first_layer(model, batch, id_dropout=0.0):
    """Logits [S, C, T] of the slates and rows [W, R, D] of the next rows, through the first layer; None where none are asked for."""
    layer = model.layers[0]
    x = model.rows(model.items(batch.items, id_dropout), batch.actions, batch.places)[None]
    u, v, q, k = layer.project(x)
    tables = [z[0].transpose(0, 1).contiguous() for z in (k, v)] + [layer.pos.table(), layer.ts]
    logits = _of_slates(model, batch, tables, id_dropout) if batch.slates else None
    if not batch.next_rows:
        return logits, None
    at = torch.stack([rows for _, rows in batch.next_rows])
    spans = []
    for (first, rows), times in zip(batch.next_rows, batch.next_times):
        end = int(rows.max()) + 1
        spans.append((first, end, rows[:, None] - torch.arange(first, end), _aged(model, batch, times[:, None], first, end)))
    a = _Look.apply(q[0][at].transpose(1, 2).contiguous(), *tables, spans).transpose(1, 2)
    return logits, layer.finish(x[0, at], u[0, at], a.flatten(2) / model.config.rows, 0.0)


def _aged(model, batch, time, first, end):
    return time_bucket(time - batch.times[first:end], model.config.num_time_buckets).long()


def _of_slates(model, batch, tables, id_dropout):
    layer, (_, _, near, ts) = model.layers[0], tables
    shown = model.items(batch.shown, id_dropout)
    cuts = torch.tensor([end - first for first, end, _ in batch.slates])
    y = model.rows(shown, torch.zeros_like(batch.shown), cuts[:, None].expand(batch.shown.shape))
    u, v, q, k = layer.project(y)
    spans = []
    for first, end, time in batch.slates:
        spans.append((first, end, torch.arange(end - first, 0, -1)[None], _aged(model, batch, torch.tensor([[time]]), first, end)))
    a = _Look.apply(q.transpose(1, 2).contiguous(), *tables, spans).transpose(1, 2)
    # Itself: distance 0, and its own time is the time of the request, so time bucket 0.
    a = a + F.silu((q * k).sum(-1, keepdim=True) + near[0] + ts[0]) * v
    y = layer.finish(y, u, a.flatten(2) / model.config.rows, 0.0)
    return model.heads(y[..., : model.config.item_embedding_dim], shown)


# Share of the length of an item's vector in its constant numbers at the start.
CONSTANT = 0.5
# The start of the attention: score of a pair that is wholly alike before the bias, the bias, and that of a candidate to itself.
SHARPNESS, START_BIAS, OWN_BIAS = 45.0, -18.0, 30.0
# What the first head, which the candidates read, adds to it: without it the tables serve the last head only. Heads between the two add
# less, one after the other: they begin by seeing less of the past.
OWN_OFFSET = 3.0
# Spread of what the values tell about actions.
DONE = 0.6
# What the rows of events, which ask for what comes next, add to the scores of the last head: they look at everything.
PROFILE = 20.0


@torch.no_grad()
def begin(model, contents, seed):
    """A start from which evidence reaches the heads at once; False where the content has no constant entry.

    The heads read row x item number by number, so only numbers that are the same for every item pass evidence on unturned:
    an eighth of an item's numbers is made of the content's constant entry. The scores compare contents, so sharply that what is
    not alike adds nothing even over 10,000 events (q and k alike, each direction with its opposite). The values of the first head tell
    what was done and with what; those of the last one are contents, which its output turns back into the direction of items.
    """
    c = model.config
    rng = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=rng).to(contents.dtype)
    turned = lambda size: torch.linalg.qr(normal(size, size))[0]
    dim, width = c.item_embedding_dim, c.embedding_dim
    spread = contents[1:].std(0)
    constant = int(spread.argmin())
    if spread[constant] > 0.2 * spread.median():
        return False
    plain = [i for i in range(contents.shape[1]) if i != constant]
    told = dim - max(1, dim // 8)
    if model.items.projection is None or told > len(plain) or not c.action_embedding_dim or c.attention_dim < 6:
        return False
    projection = model.items.projection.weight.zero_()
    projection[:told, plain] = turned(len(plain))[:told]
    projection[told:, constant] = CONSTANT / (dim - told) ** 0.5 / float(contents[1:, constant].mean())
    # Number 0 of the action part tells candidates from events.
    model.actions.weight.copy_(0.15 * normal(*model.actions.weight.shape))
    model.actions.weight[:, 0] = 0.15
    model.actions.weight[0, 0] = -0.15
    # What the norm at the layer's input makes of the three parts.
    some = contents[1 : 1 + min(4096, len(contents) - 1)]
    x = model.rows(some @ projection.T, torch.full((len(some),), c.num_actions - 1), torch.zeros(len(some), dtype=torch.long))
    x = F.layer_norm(x, x.shape[-1:], eps=c.epsilon)
    length = float(x[:, :told].norm(dim=1).mean())
    steady, flag = float(x[:, told:dim].mean()), float(x[:, dim].mean())
    always = 1 / (steady * (dim - told))
    pairs = min((c.attention_dim - 1) // 2, told)
    for number, layer in enumerate(model.layers):
        u, v, q, k = layer.uvqk.zero_().split([c.v_width, c.v_width, c.k_width, c.k_width], dim=1)
        layer.output.weight.zero_()
        for head in range(c.num_heads):
            last = head + 1 == c.num_heads
            offset = 1.0 if last else OWN_OFFSET - (OWN_OFFSET - 1.0) * head / (c.num_heads - 1)
            at, mine = head * c.attention_dim, turned(told)[:, :pairs]
            mine = mine * (SHARPNESS * told / pairs) ** 0.5 / length
            k[:told, at : at + pairs], k[:told, at + pairs : at + 2 * pairs] = mine, -mine
            q[:told, at : at + 2 * pairs] = k[:told, at : at + 2 * pairs]
            extra = at + 2 * pairs
            k[told:dim, extra] = PROFILE**0.5 * always
            q[dim, extra] = PROFILE**0.5 / flag * (1.0 if last else 0.02)
            # A bias of the head's own, in numbers that are the same for every row.
            if c.attention_dim > 2 * pairs + 1:
                k[told:dim, extra + 1] = q[told:dim, extra + 1] = offset**0.5 * always
            # Values: what was done; in the last head contents.
            mine = slice(head * c.linear_dim, (head + 1) * c.linear_dim)
            u[told:dim, mine] = 2 * always
            u[:, mine] += 0.02 * normal(width, c.linear_dim)
            if last:
                contrast = normal(told, c.linear_dim)
                v[:told, mine] = 0.5 * contrast / length
                layer.output.weight[:told, mine] = contrast / contrast.norm(dim=0)
            else:
                v[dim:, mine] = DONE * normal(width - dim, c.linear_dim)
                layer.output.weight[told:dim, mine] = normal(dim - told, c.linear_dim) / c.linear_dim**0.5
        layer.output.weight *= number == 0
        layer.pos.weight.fill_(START_BIAS)
        layer.pos.weight[0] = OWN_BIAS
    model.heads.inner.weight.copy_(0.5 * normal(*model.heads.inner.weight.shape))
    model.heads.inner.weight[:, told:] *= 2
    return True


class SlateTrainer(Trainer):
    """Trains the first layer from slates; everything but the steps is as in any run."""

    def __init__(self, model, histories, options, folder, validation=None):
        self.slates = Slates(histories, options.window)
        super().__init__(model, histories, options, folder, validation)
        tables = {id(p) for layer in model.layers for p in (layer.pos.weight, layer.ts)}
        for group in list(self.optimiser.param_groups):
            fast = [p for p in group["params"] if id(p) in tables]
            group["params"] = [p for p in group["params"] if id(p) not in tables]
            if fast:
                self.optimiser.add_param_group({"params": fast, "weight_decay": 0.0, "faster": TABLE_RATE})

    @torch.inference_mode()
    def logits(self, model, most=None):
        """Logits of the heads on the impressions of the held-out users and their places, from the newest `most` events."""
        judged, shown, longest = Slates(self.judged, self.options.window), self.judged.impressions, model.config.max_sequence_len
        logits, places = [], []
        for user in self.judges:
            cuts = np.unique(shown.cuts[shown.offsets[user] : shown.offsets[user + 1]])
            for end in cuts[cuts > 0]:
                first = max(evaluate.window_start(end, longest), 0 if most is None else end - most)
                batch, mine = judged.known(user, (first, end), None)
                logits.append(first_layer(model, batch)[0][0].numpy())
                places.append(mine)
        return np.concatenate(logits), np.concatenate(places)

    @torch.inference_mode()
    def figures(self, model, most=None):
        """As of any run, at a fraction of the cost."""
        model.eval()
        judged, longest, cases = Slates(self.judged, self.options.window), model.config.max_sequence_len, self.cases
        queries = []
        for user, end, time in zip(cases.users, cases.ends, cases.times):
            first = max(evaluate.window_start(end, longest), 0 if most is None else end - most)
            batch, _ = judged.known(user, (int(first), int(end)), int(time))
            queries.append(model.queries(first_layer(model, batch)[1][0]))
        out = metrics.ranking(evaluate.places(model, cases, torch.cat(queries)))
        logits, at = self.logits(model, most)
        shown = self.judged.impressions
        return out | evaluate.head_figures(logits, shown.labels[at], None if shown.truth is None else shown.truth[at])

    def plan(self, epoch):
        """Batches of users of an epoch: of mixed lengths, about `batch_tokens` events each."""
        able = np.flatnonzero(self.ends >= EVENTS_MIN)
        order = np.random.default_rng((self.options.seed, epoch)).permutation(able)
        heavy = np.minimum(self.ends[order], self.options.window).cumsum() // self.options.batch_tokens
        return np.split(order, np.flatnonzero(np.diff(heavy)) + 1)

    def train_step(self, users):
        """One step of the optimiser; gives the parts of the loss as numbers."""
        o = self.options
        torch.manual_seed(o.seed * 1_000_003 + self.step)
        batch = self.slates.batch(users, np.random.default_rng((o.seed, 1, self.step)), o.slates)
        self.model.train()
        logits, rows = first_layer(self.model, batch, o.id_dropout)
        queries = self.model.queries(rows.flatten(0, 1))
        parts = {"next": self.objective.next_item(self.model, queries, batch.next_items.flatten())}
        total = parts["next"] * o.next_weight
        tasks = losses.task_losses(logits, batch.labels, batch.shown > 0)
        for name, part, weight in zip(("click", "conversion", "value"), tasks, TASK_WEIGHTS):
            parts[name] = part
            total = total + weight * part
        if o.ts_smooth:
            total = total + o.ts_smooth * self.model.layers[0].ts.diff().square().sum()
        self.descend(total)
        self.tokens += len(batch.items)
        return {name: float(part.detach()) for name, part in parts.items()}
