"""The HSTU encoder in PyTorch, after the equations that model/src/reference.rs spells out: as a model is usually written, and as fast as PyTorch gets."""

import math

import torch
import torch.nn.functional as F

BUCKETS = 128


class Weights:
    """Random weights of one shape."""

    def __init__(self, n_max, width, layers, heads, dim, seed=3):
        gen = torch.Generator().manual_seed(seed)

        def normal(*shape, scale):
            return torch.randn(*shape, generator=gen) * scale

        self.n_max, self.width, self.heads, self.dim = n_max, width, heads, dim
        wide = heads * dim
        self.layers = [
            {
                "uvqk": normal(width, 4 * wide, scale=2 / math.sqrt(width)),
                "out": normal(wide, width, scale=1 / math.sqrt(wide)),
                "out_bias": normal(width, scale=0.02),
                "pos": normal(2 * n_max - 1, scale=0.3),
                "ts": normal(BUCKETS + 1, scale=0.3),
            }
            for _ in range(layers)
        ]

    def user(self, n, seed=4):
        """Rows of n events and their times in sessions, the request's time last."""
        gen = torch.Generator().manual_seed(seed)
        rows = torch.randn(n, self.width, generator=gen)
        pause = torch.rand(n + 1, generator=gen) < 0.05
        gaps = torch.where(pause, torch.randint(0, 72_000, (n + 1,), generator=gen), torch.randint(0, 120, (n + 1,), generator=gen))
        return rows, 1_600_000_000 + gaps.cumsum(0)


def bucket(difference):
    seconds = difference.abs().clamp(min=1).to(torch.float32)
    return (seconds.log() / 0.301).long().clamp(0, BUCKETS)


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def project(w, layer, x):
    wide = w.heads * w.dim
    return F.silu(norm(x) @ layer["uvqk"]).split(wide, dim=1)


def by_head(w, x):
    return x.view(x.shape[0], w.heads, w.dim).transpose(0, 1)


def finish(layer, x, u, attended):
    return x + (u * norm(attended)) @ layer["out"] + layer["out_bias"]


# --- eager: whole matrices, one operation after another


def eager_attention(w, layer, q, k, v, times):
    n = q.shape[0]
    scores = torch.einsum("nhd,mhd->hnm", q.view(n, w.heads, w.dim), k.view(n, w.heads, w.dim))
    place = torch.arange(n)
    position = layer["pos"][w.n_max - 1 + place[None, :] - place[:, None]]
    time = layer["ts"][bucket(times[1:, None] - times[None, :-1])]
    weights = F.silu(scores + (position + time)[None]) / w.n_max
    weights = weights * torch.tril(torch.ones(n, n))[None]
    return torch.einsum("hnm,mhd->nhd", weights, v.view(n, w.heads, w.dim)).reshape(n, -1)


def eager(w, x, times):
    for layer in w.layers:
        u, v, q, k = project(w, layer, x)
        x = finish(layer, x, u, eager_attention(w, layer, q, k, v, times))
    return x


# --- compiled and in chunks of rows. Keys are taken in reverse, so that the position bias of a chunk is a plain strided view
#     of the flipped table (both rows and keys move it forward), and time buckets are looked up once for all layers.


def bucket_pairs(next_times, times):
    return bucket(next_times[:, None] - times[None, :]).int()


def rows_behind(q, k, v, position, time, scale):
    """Rows against keys that all of them see: q [h, r, d], k and v [h, m, d], bias [r, m]."""
    return (F.silu(q @ k.transpose(1, 2) + (position + time)[None]) * scale) @ v


def rows_within(q, k, v, position, time, scale):
    """A chunk against its own keys (in reverse): row i sees the last i + 1 of them."""
    size = q.shape[1]
    place = torch.arange(size)
    mask = place[None, :] >= size - 1 - place[:, None]
    weights = F.silu(q @ k.transpose(1, 2) + (position + time)[None]) * scale
    return (weights * mask) @ v


class Chunked:
    """The same model, chunk by chunk with compiled steps. `dtype` is that of the attention's products."""

    def __init__(self, w, chunk, dtype=torch.float32, compile=True):
        self.w, self.chunk, self.dtype = w, chunk, dtype
        # One compiled step serves every length, but each operand layout seen is compiled once more.
        torch._dynamo.config.recompile_limit = 64
        make = (lambda f, **k: torch.compile(f, **k)) if compile else (lambda f, **k: f)
        self.behind = make(rows_behind, dynamic=True)
        self.within = make(rows_within, dynamic=True)
        self.project = make(project, dynamic=False)
        self.finish = make(finish, dynamic=False)
        self.bucket = make(bucket_pairs, dynamic=True)
        self.flipped = [layer["pos"].flip(0).contiguous() for layer in w.layers]

    def buckets(self, times):
        """Buckets of all pairs, keys in reverse, as bytes."""
        n = times.shape[0] - 1
        keys = times[:-1].flip(0)
        out = torch.empty(n, n, dtype=torch.int32)
        for start in range(0, n, 1024):
            out[start : start + 1024] = self.bucket(times[1 + start : 1025 + start][: n - start], keys)
        return out

    def attention(self, index, q, k, v, buckets):
        w, n = self.w, q.shape[0]
        layer, flipped = w.layers[index], self.flipped[index]
        q, k, v = (by_head(w, t).to(self.dtype).contiguous() for t in (q, k.flip(0), v.flip(0)))
        scale, out = 1.0 / w.n_max, torch.empty(n, w.heads, w.dim)
        for start in range(0, n, self.chunk):
            end = min(n, start + self.chunk)
            # Key m stands at position n - 1 - m, so the flipped table's entry is n_max - 1 + i - (n - 1 - m).
            first = n - end
            place = flipped.as_strided((end - start, n - first), (1, 1), w.n_max - 1 + start - (n - 1 - first))
            time = layer["ts"][buckets[start:end, first:]].to(self.dtype)
            place = place.to(self.dtype)
            size, rows = end - start, q[:, start:end]
            sums = self.within(rows, k[:, first : first + size], v[:, first : first + size], place[:, :size], time[:, :size], scale)
            if start:
                sums = sums + self.behind(rows, k[:, first + size :], v[:, first + size :], place[:, size:], time[:, size:], scale)
            out[start:end] = sums.transpose(0, 1).float()
        return out.view(n, -1)

    def __call__(self, x, times):
        buckets = self.buckets(times)
        for index, layer in enumerate(self.w.layers):
            u, v, q, k = self.project(self.w, layer, x)
            x = self.finish(layer, x, u, self.attention(index, q, k, v, buckets))
        return x
