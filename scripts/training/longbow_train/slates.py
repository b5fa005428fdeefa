"""The first stage of a model with heads: its first layer alone, learned from slates.

All items of a slate are asked for at one time, so they share cut, times and bias, and the first layer needs no attention
among the events: a step costs a small part of one over whole windows. Rows whose next item is learned are slates of one. The
layers above begin as nothing (output projection 0), so that a second stage goes on from here without a jump.
"""

import numpy as np
import torch
from torch.nn import functional as F

from . import losses
from .attention import MASKED, time_bucket
from .loop import Trainer
from .windows import thin

# Rows of a window whose next item is learned in a step.
NEXT_ROWS = 12
# Share of long users whose window is thinned by whole visits instead of cut out.
THINNED = 0.7
# Users with fewer events teach nothing about histories.
EVENTS_MIN = 20
# Weights of the losses of the heads: conversions and values are rare.
TASK_WEIGHTS = (4.0, 1.0, 0.25)
# Bias of a pair at the start: what is not alike is hardly seen.
START_BIAS = -4.0
# Share of the length of an item's vector in its constant numbers at the start.
CONSTANT = 0.5


class Slates:
    """Batches of windows with slates."""

    def __init__(self, histories, window, next_rows=NEXT_ROWS):
        self.h, self.window, self.next_rows = histories, window, next_rows
        shown = histories.impressions
        at = shown.offsets
        new = np.ones(len(shown.items), dtype=bool)
        new[1:] = shown.times[1:] != shown.times[:-1]
        new[at[:-1][at[:-1] < len(new)]] = True
        self.first = np.flatnonzero(new)
        self.size = np.diff(np.append(self.first, len(new)))
        self.of_user = np.searchsorted(self.first, at)

    def batch(self, users, rng, most):
        """Tensors of a batch: events [B, L], slates [B, S, C] with cuts and times, next rows [B, R]."""
        h, shown = self.h, self.h.impressions
        kept, slates = [], []
        for user in users:
            base, end = h.offsets[user], h.offsets[user + 1]
            count = end - base
            if count > self.window:
                here = thin(h.times[base:end], self.window, rng) if rng.random() < THINNED else None
                if here is None or len(here) < 8:
                    first = int(rng.integers(0, count - self.window + 1))
                    here = np.arange(first, first + self.window)
            else:
                here = np.arange(count)
            mine = np.arange(self.of_user[user], self.of_user[user + 1])
            cuts = shown.cuts[self.first[mine]]
            mine = mine[(cuts > here[0]) & (cuts <= here[-1] + 1)]
            if len(mine) > most:
                mine = np.sort(rng.choice(mine, most, replace=False))
            kept.append(here)
            slates.append(mine)
        b, length = len(users), max(map(len, kept))
        s = max(1, max(map(len, slates)))
        c = int(max([self.size[m].max() for m in slates if len(m)], default=1))
        out = {name: np.zeros((b, length), np.int64) for name in ("items", "actions", "times")}
        lists = {name: np.zeros((b, s), np.int64) for name in ("cut", "time")}
        cand, labels = np.zeros((b, s, c), np.int64), np.zeros((b, s, c, 3), np.float32)
        r = self.next_rows
        nxt = {name: np.zeros((b, r), np.int64) for name in ("row", "time", "item")}
        for i, (user, here, mine) in enumerate(zip(users, kept, slates)):
            base, n = h.offsets[user], len(here)
            out["items"][i, :n], out["actions"][i, :n], out["times"][i, :n] = h.items[base + here], h.actions[base + here], h.times[base + here]
            for j, slate in enumerate(mine):
                a, size = self.first[slate], self.size[slate]
                lists["cut"][i, j] = np.searchsorted(here, shown.cuts[a])
                lists["time"][i, j] = shown.times[a]
                cand[i, j, :size] = shown.items[a : a + size]
                labels[i, j, :size] = shown.labels[a : a + size]
            # Half of the rows are the last of a visit: what the next visit begins with.
            after = here[:-1] + 1
            times = h.times[base + after]
            ends = np.flatnonzero(times - out["times"][i, : n - 1] > 3600)
            rows = rng.integers(0, max(1, n - 1), r)
            if len(ends):
                rows[: r // 2] = rng.choice(ends, r // 2)
            if n >= 2:
                nxt["row"][i], nxt["time"][i] = rows, times[rows]
                nxt["item"][i] = h.items[base + after[rows]]
        t = torch.from_numpy
        return {**{k: t(v) for k, v in out.items()}, **{k: t(v) for k, v in lists.items()}, "shown": t(cand), "labels": t(labels),
                "next_row": t(nxt["row"]), "next_time": t(nxt["time"]), "next_item": t(nxt["item"])}


def first_layer(model, batch, starts, id_dropout=0.0):
    """Logits [B, S, C, T] of slates and rows [B, R, D] of the next rows, through the first layer."""
    config, layer = model.config, model.layers[0]
    rows_n, heads = config.rows, config.num_heads
    b, length = batch["items"].shape
    positions = (starts[:, None] + torch.arange(length)).clamp_(max=rows_n - 1)
    x = model.rows(model.items(batch["items"], id_dropout), batch["actions"], positions)
    u, v, q, k = layer.project(x)
    pos_w, ts_w = layer.bias_tables()

    def attend(q, times, last, offset):
        # q [B, S, C, H, d]; row s sees keys up to last[s], key j at distance last + offset - j.
        steps = torch.arange(length)
        distance = last[..., None] - steps
        bias = torch.take(pos_w, (rows_n - 1 - offset - distance).clamp(0, pos_w.numel() - 1))
        bias = bias + torch.take(ts_w, time_bucket(times[..., None] - batch["times"][:, None, :], config.num_time_buckets).long())
        bias = bias.masked_fill(distance < 0, MASKED)
        out = []
        for h in range(heads):
            qh, kh, vh = q[..., h, :], k[:, :, h], v[:, :, h]
            shape = qh.shape
            scores = torch.bmm(qh.reshape(b, -1, shape[-1]), kh.transpose(1, 2)).view(b, shape[1], shape[2], length)
            weights = F.silu(scores + bias[:, :, None]) / rows_n
            out.append(torch.bmm(weights.view(b, -1, length), vh).view(*shape[:3], -1))
        return torch.stack(out, 3).flatten(3)

    shown = model.items(batch["shown"], id_dropout)
    s, c = batch["shown"].shape[1:]
    places = (starts[:, None] + batch["cut"]).clamp_(max=rows_n - 1)
    y = model.rows(shown, torch.zeros_like(batch["shown"]), places[:, :, None].expand(b, s, c))
    uy, vy, qy, ky = layer.project(y.flatten(1, 2))
    shape = (b, s, c)
    qy5 = qy.view(*shape, heads, -1)
    a = attend(qy5, batch["time"], batch["cut"] - 1, 1)
    own = F.silu((qy * ky).sum(-1, keepdim=True) + pos_w[rows_n - 1] + ts_w[0]) * vy / rows_n
    y = layer.finish(y, uy.view(*shape, -1), a + own.flatten(2).view(*shape, -1), 0.0)
    logits = model.heads(y[..., : config.item_embedding_dim], shown)

    at = batch["next_row"]
    pick = lambda z: torch.gather(z, 1, at[..., None].expand(*at.shape, z.shape[-1]))
    qr = torch.gather(q.flatten(2), 1, at[..., None].expand(*at.shape, q.shape[2] * q.shape[3])).view(b, at.shape[1], 1, heads, -1)
    a = attend(qr, batch["next_time"], at, 0)[:, :, 0]
    rows = layer.finish(pick(x), pick(u), a, 0.0)
    return logits, rows


@torch.no_grad()
def begin(model, contents, seed):
    """A start from which evidence reaches the heads at once.

    The heads read row x item number by number, so only numbers that are the same for every item pass evidence on unturned:
    a sixth of an item's numbers is made of the content's constant entry. Layers compare contents (q and k alike, each
    direction with its opposite), half of a head's values tell what was done, the other half with what. The layers above
    the first begin as nothing.
    """
    c = model.config
    rng = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=rng).to(contents.dtype)
    dim, width = c.item_embedding_dim, c.embedding_dim
    spread = contents[1:].std(0)
    constant = int(spread.argmin())
    if spread[constant] > 0.2 * spread.median():
        return False
    plain = [i for i in range(contents.shape[1]) if i != constant]
    told = dim - dim // 6
    if model.items.projection is None or told > len(plain):
        return False
    projection = model.items.projection.weight.zero_()
    turn, _ = torch.linalg.qr(normal(len(plain), len(plain)))
    projection[:told, plain] = turn[:told]
    projection[told:, constant] = CONSTANT / (dim - told) ** 0.5 / float(contents[1:, constant].mean())
    half_k, half_v = c.attention_dim // 2, c.linear_dim // 2
    for number, layer in enumerate(model.layers):
        u, v, q, k = layer.uvqk.zero_().split([c.v_width, c.v_width, c.k_width, c.k_width], dim=1)
        for head in range(c.num_heads):
            at = head * c.attention_dim
            directions = 1.6 * normal(told, half_k) / told**0.5
            k[:told, at : at + half_k], k[:told, at + half_k : at + 2 * half_k] = directions, -directions
            at = head * c.linear_dim
            done, what = slice(at, at + half_v), slice(at + half_v, at + 2 * half_v)
            v[dim:, done] = normal(width - dim, half_v)
            u[:, done] = 0.05 * normal(width, half_v)
            u[told:dim, done] += 1
            v[:told, what] = u[:told, what] = normal(told, half_v) / told**0.5
        q.copy_(k)
        # Sums are divided by the served N: keep them above the norm's epsilon.
        v *= max(1.0, c.rows / 1024) ** 0.5
        layer.output.weight.copy_(normal(*layer.output.weight.shape) / c.v_width**0.5)
        layer.output.weight[:told] *= 0.3
        layer.output.weight *= number == 0
        layer.pos.weight.fill_(START_BIAS)
    model.heads.inner.weight.copy_(0.5 * normal(*model.heads.inner.weight.shape))
    if model.actions is not None:
        model.actions.weight.copy_(0.25 * normal(*model.actions.weight.shape))
    return True


class SlateTrainer(Trainer):
    """Trains the first layer from slates; everything but the steps is as in any run."""

    def __init__(self, model, histories, options, folder, validation=None):
        self.slates = Slates(histories, options.window)
        super().__init__(model, histories, options, folder, validation)

    def plan(self, epoch):
        """Batches of users of an epoch."""
        able = np.flatnonzero(self.ends >= EVENTS_MIN)
        order = np.random.default_rng((self.options.seed, epoch)).permutation(able)
        size = max(1, self.options.batch_tokens // self.options.window)
        return np.array_split(order, max(1, len(order) // size))

    def train_step(self, users):
        """One step of the optimiser; gives the parts of the loss as numbers."""
        o = self.options
        torch.manual_seed(o.seed * 1_000_003 + self.step)
        batch = self.slates.batch(users, np.random.default_rng((o.seed, 1, self.step)), o.slates)
        count = len(batch["items"])
        starts = torch.randint(0, max(1, self.model.config.rows - o.window), (count,))
        starts = torch.where(torch.rand(count) < 0.5, 0, starts)
        self.model.train()
        logits, rows = first_layer(self.model, batch, starts, o.id_dropout)
        learn = batch["next_item"] > 0
        parts = {"next": self.objective.next_item(self.model, self.model.queries(rows[learn]), batch["next_item"][learn])}
        total = parts["next"] * o.next_weight
        tasks = losses.task_losses(logits, batch["labels"], batch["shown"] > 0)
        for name, part, weight in zip(("click", "conversion", "value"), tasks, TASK_WEIGHTS):
            parts[name] = part
            total = total + weight * part
        self.descend(total)
        self.tokens += int((batch["items"] > 0).sum())
        return {name: float(part.detach()) for name, part in parts.items()}
