"""Pointwise attention `a_i = sum_j silu(q_i . k_j + pos_w[d_ij] + ts_w[bucket_ij]) / N * v_j` in memory that grows with
the rows and not with their square: forward and backward go over blocks of rows, and the backward computes scores anew.
"""

import torch

# Natural log of the width of a time bucket.
BUCKET_WIDTH = 0.301
# A score so low that silu and its derivative are exactly 0 in float32 and float64.
MASKED = -1e5
# Scores of one block over all its sequences, for one head: sized for a core's cache.
BLOCK = 1 << 19
# Time buckets of a batch are kept for all layers up to this many pairs, else computed anew per block.
KEPT_PAIRS = 1 << 26


def time_bucket(delta, highest):
    """Bucket of a difference of times in seconds, int64 in and uint8/int16 out; float32 arithmetic as the server's."""
    bucket = torch.log(delta.abs().clamp_(min=1).to(torch.float32)).div_(BUCKET_WIDTH).clamp_(0, highest)
    return bucket.to(torch.uint8 if highest < 256 else torch.int16)


class Geometry:
    """Where query rows and key rows stand, shared by the layers and heads of one batch.

    `row_times` [B, M]: the next event's time of each query row. `key_times` [B, L]. Row i of a history sees keys 0..i at
    distance i - j, and the query rows are the last M of L; with `cuts` [B, M] (candidates) row m sees the keys below its
    cut, which is also its position.
    """

    def __init__(self, row_times, key_times, cuts=None, highest=128):
        self.row_times, self.key_times, self.cuts, self.highest = row_times, key_times, cuts, highest
        self.first = 0 if cuts is not None else key_times.shape[1] - row_times.shape[1]
        self.batch, self.queries = row_times.shape
        self.keys = key_times.shape[1]
        self._kept = {}
        self._keep = self.batch * self.queries * self.keys <= KEPT_PAIRS
        # Times without meaning (all the same table entry) are switched off by the model.
        self.timed = True
        self.blocks = list(self._blocks())

    def _blocks(self):
        rows = max(8, min(self.queries, 256, BLOCK // max(1, self.keys)))
        for first in range(0, self.queries, rows):
            last = min(first + rows, self.queries)
            keys = self.keys
            if self.cuts is None:
                keys = self.first + last
            else:
                keys = int(self.cuts[:, first:last].max()) if self.cuts.numel() else 0
            if keys == 0:
                continue
            share = max(1, BLOCK // ((last - first) * keys))
            for b in range(0, self.batch, share):
                yield b, min(b + share, self.batch), first, last, keys

    def buckets(self, block):
        """Time buckets [b, r, k] of a block as int64."""
        found = self._kept.get(block)
        if found is None:
            b0, b1, r0, r1, keys = block
            delta = self.row_times[b0:b1, r0:r1, None] - self.key_times[b0:b1, None, :keys]
            found = time_bucket(delta, self.highest)
            if self._keep:
                self._kept[block] = found
        return found.long()

    def distances(self, block):
        """Distances [b, r, k] of a block with cuts, below 0 where a key is not seen."""
        b0, b1, r0, r1, keys = block
        return self.cuts[b0:b1, r0:r1, None] - torch.arange(keys, device=self.cuts.device)

    def bias(self, block, pos_w, ts_w, rows_n):
        """Bias of a block, [b or 1, r, k], masked."""
        _, _, r0, r1, keys = block
        if self.cuts is None:
            # Entry (r, j) is pos_w[N - 1 + j - r]: a strided view of the table with the rows upside down.
            start = rows_n - 1 - (self.first + r1 - 1)
            table = pos_w[start : start + keys + r1 - r0]
            bias = table.as_strided((r1 - r0, keys), (1, 1), table.storage_offset()).flip(0)
            behind = torch.arange(keys, device=bias.device) > torch.arange(self.first + r0, self.first + r1, device=bias.device)[:, None]
            bias = bias.masked_fill_(behind, MASKED)[None]
        else:
            distance = self.distances(block)
            # A candidate stands at its cut: key j is at distance cut - j, at least 1.
            bias = torch.take(pos_w, (rows_n - 1 - distance).clamp_(0, pos_w.numel() - 1))
            bias.masked_fill_(distance <= 0, MASKED)
        if ts_w is None:
            return bias
        return torch.take(ts_w, self.buckets(block)).add_(bias)

    def add_bias_gradient(self, block, gradient, d_pos, d_ts, rows_n):
        """Sums a block's gradient of the bias [b, r, k] into those of the two tables."""
        _, _, r0, r1, keys = block
        rows = r1 - r0
        if self.cuts is None:
            # The adjoint of the strided view: shift row r' right by r' and sum the columns.
            shared = torch.nn.functional.pad(gradient.sum(0).flip(0), (0, rows))
            width = keys + rows - 1
            start = rows_n - 1 - (self.first + r1 - 1)
            d_pos[start : start + width] += shared.flatten()[: rows * width].view(rows, width).sum(0)
        else:
            at = (rows_n - 1 - self.distances(block)).clamp_(0, d_pos.numel() - 1)
            d_pos += torch.bincount(at.flatten(), gradient.flatten(), d_pos.numel()).to(d_pos.dtype)
        if d_ts is not None:
            at = self.buckets(block).flatten()
            d_ts += torch.bincount(at, gradient.flatten(), d_ts.numel()).to(d_ts.dtype)


def _scores(bias, q, k):
    if q.dtype == bias.dtype:
        return torch.baddbmm(bias, q, k.transpose(1, 2))
    return torch.bmm(q, k.transpose(1, 2)).to(bias.dtype) + bias


class _Attend(torch.autograd.Function):
    """q [H, B, M, d], k [H, B, L, d], v [H, B, L, e], tables -> [H, B, M, e]."""

    @staticmethod
    def forward(ctx, q, k, v, pos_w, ts_w, geometry, rows_n):
        ctx.save_for_backward(q, k, v, pos_w, ts_w)
        ctx.geometry, ctx.rows_n = geometry, rows_n
        out = q.new_zeros((*q.shape[:3], v.shape[3]))
        for block in geometry.blocks:
            b0, b1, r0, r1, keys = block
            bias = geometry.bias(block, pos_w, ts_w, rows_n)
            for h in range(q.shape[0]):
                s = _scores(bias, q[h, b0:b1, r0:r1], k[h, b0:b1, :keys])
                weights = torch.nn.functional.silu(s, inplace=True).to(v.dtype)
                out[h, b0:b1, r0:r1] = torch.bmm(weights, v[h, b0:b1, :keys])
        return out.div_(rows_n)

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, pos_w, ts_w = ctx.saved_tensors
        geometry, rows_n = ctx.geometry, ctx.rows_n
        d_out = d_out.div(rows_n)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_pos = torch.zeros_like(pos_w)
        d_ts = None if ts_w is None else torch.zeros_like(ts_w)
        for block in geometry.blocks:
            b0, b1, r0, r1, keys = block
            bias = geometry.bias(block, pos_w, ts_w, rows_n)
            gradient = None
            for h in range(q.shape[0]):
                qb, kb, vb = q[h, b0:b1, r0:r1], k[h, b0:b1, :keys], v[h, b0:b1, :keys]
                do = d_out[h, b0:b1, r0:r1]
                s = _scores(bias, qb, kb)
                ds = torch.ops.aten.silu_backward(torch.bmm(do, vb.transpose(1, 2)).to(s.dtype), s)
                weights = torch.nn.functional.silu(s, inplace=True).to(v.dtype)
                dv[h, b0:b1, :keys] += torch.bmm(weights.transpose(1, 2), do)
                low = ds.to(q.dtype)
                dq[h, b0:b1, r0:r1] = torch.bmm(low, kb)
                dk[h, b0:b1, :keys] += torch.bmm(low.transpose(1, 2), qb)
                gradient = ds if gradient is None else gradient.add_(ds)
            geometry.add_bias_gradient(block, gradient, d_pos, d_ts, rows_n)
        return dq, dk, dv, d_pos, d_ts, None, None


def attend(q, k, v, tables, geometry, rows_n):
    """Attention of query rows over key rows.

    q [B, M, H, d], k [B, L, H, d], v [B, L, H, e]; `tables` is (pos_w [2N - 1], ts_w [buckets + 1] or None); returns
    [B, M, H * e]. Rows behind a sequence's end may hold anything finite: no row in front of them sees them.
    """
    heads_first = [x.permute(2, 0, 1, 3).contiguous() for x in (q, k, v)]
    out = _Attend.apply(*heads_first, *tables, geometry, rows_n)
    return out.permute(1, 2, 0, 3).flatten(2)
