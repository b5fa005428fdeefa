"""HSTU in its `rel_bias` flavour, as the server computes it."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from . import tables
from .attention import Geometry, attend

# Epsilon of the norm before the heads.
HEAD_INPUT_EPSILON = 1e-6
# Positions closer than this to the start of a window have a knot each on average; see tables.py.
POSITION_KNOTS = 32


@dataclasses.dataclass
class Batch:
    """Windows of events, [B, L], filled up behind `lengths`, and candidates, [B, M], each at its place in a window."""

    items: torch.Tensor
    times: torch.Tensor
    actions: torch.Tensor
    lengths: torch.Tensor
    # The next event's item where it is to be learned, else 0; and its time (of the newest event: the time of the request).
    next_items: torch.Tensor
    next_times: torch.Tensor
    # Positions of the windows' first events in the position table.
    starts: torch.Tensor
    # Candidates: item, time of the request, events before it (also its position, from the window's first event); 0 items are filling.
    candidates: torch.Tensor = None
    candidate_times: torch.Tensor = None
    candidate_cuts: torch.Tensor = None
    # Truth of the candidates, [B, M, 3]: click, conversion, value.
    labels: torch.Tensor = None

    def to(self, device):
        """The batch on a device."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Batch(**{name: part if part is None else part.to(device) for name, part in parts.items()})

    @property
    def tokens(self):
        """Events in it."""
        return int(self.lengths.sum())


class Items(nn.Module):
    """Item embeddings: an id vector for the ids that have one, plus the projected content vector."""

    def __init__(self, id_rows, dim, contents=None, scale=0.02):
        super().__init__()
        self.id_rows = id_rows
        self.id_vectors = nn.Embedding(id_rows + 1, dim, padding_idx=0)
        # Where there is content it says most of an item from the start; the id vector is what it leaves over.
        nn.init.normal_(self.id_vectors.weight, std=scale)
        with torch.no_grad():
            self.id_vectors.weight[0] = 0
        self.projection = None
        if contents is not None:
            # By id, row 0 for the filling; a fact of the data, so no part of a checkpoint.
            self.register_buffer("contents", contents, persistent=False)
            self.projection = nn.Linear(contents.shape[1], dim, bias=False)
            # Content vectors are of unit length: embeddings of some 0.14 a number, so that the heads' products are not tiny.
            nn.init.normal_(self.projection.weight, std=dim**-0.5)

    def forward(self, ids, id_dropout=0.0):
        """Embeddings of ids of any shape. `id_dropout`: share of the items that go without id vector."""
        known = ids <= self.id_rows
        rows = self.id_vectors(torch.where(known, ids, 0))
        if self.projection is None:
            return rows
        if id_dropout > 0:
            keep = torch.rand(ids.shape, device=ids.device) >= id_dropout
            rows = rows * keep[..., None].to(rows.dtype)
        return rows + self.projection(F.embedding(ids, self.contents))


def groups(config):
    """Number of the attention head that raises each number of an item at the start, [D_item, 1]."""
    return (torch.arange(config.item_embedding_dim) * config.num_heads // config.item_embedding_dim)[:, None]


class Layer(nn.Module):
    """One layer: projections, attention, gate."""

    def __init__(self, config, pos_knots, timed):
        super().__init__()
        self.config = config
        d = config.embedding_dim
        v, k = config.v_width, config.k_width
        self.uvqk = nn.Parameter(torch.empty(d, 2 * (v + k)))
        nn.init.normal_(self.uvqk, std=(1 / d) ** 0.5)
        self.output = nn.Linear(v, d)
        nn.init.zeros_(self.output.bias)
        self.begin_as_likeness()
        # By distance 0..N-1 from the query row back.
        self.pos = tables.make(config.rows, pos_knots)
        self.timed = timed
        self.ts = nn.Parameter(torch.zeros(config.num_time_buckets + 1), requires_grad=timed)

    @torch.no_grad()
    def begin_as_likeness(self):
        """Begins as a search for likeness, so that it need not be discovered."""
        c = self.config
        v, k, dim = c.v_width, c.k_width, c.item_embedding_dim
        u_part, v_part, q_part, k_part = self.uvqk.split([v, v, k, k], dim=1)
        # q and k are alike and look at items only: like items attend to each other, whatever was done.
        q_part[dim:] = 0
        k_part.copy_(q_part)
        # u and v are alike, and the output turns their product back into the direction of the item: what was gathered from like
        # items raises row . item, which is all that the index and the heads can see. Each head raises numbers of its own.
        u_part[dim:] = 0
        v_part[:dim] = u_part[:dim]
        self.output.weight.copy_(u_part)
        if c.num_tasks and c.num_heads > 1:
            mine = torch.arange(v) // c.linear_dim
            theirs = groups(c) == mine[None, :]
            self.output.weight[:dim] *= theirs * c.num_heads**0.5
            # What was done with like items goes to the last head, alike in all its numbers: a scale of purchases and views.
            v_part[dim:] = v_part[dim:, -1:] * (mine == c.num_heads - 1)
        # Sums are divided by the served N, training windows are shorter: keep them above the norm's epsilon.
        v_part *= max(1.0, c.rows / 1024) ** 0.5

    def bias_tables(self):
        """pos_w [2N - 1] as the server indexes it (keys behind the row are never seen: 0) and ts_w or None."""
        by_distance = self.pos.table()
        pos_w = torch.cat([by_distance.flip(0), by_distance.new_zeros(self.config.rows - 1)])
        return pos_w, (self.ts if self.timed else None)

    def project(self, x):
        """u, v, q, k of rows [B, M, D], the last three with heads apart."""
        c = self.config
        normed = F.layer_norm(x, x.shape[-1:], eps=c.epsilon)
        uvqk = F.silu(normed @ self.uvqk.to(normed.dtype))
        u, v, q, k = uvqk.split([c.v_width, c.v_width, c.k_width, c.k_width], dim=-1)
        shape = (*x.shape[:2], c.num_heads, -1)
        return u, v.reshape(shape), q.reshape(shape), k.reshape(shape)

    def finish(self, x, u, a, dropout):
        """y = x + (u * layer_norm(a)) W_o^T + b_o."""
        # The sum over events is divided by the served N, so it can be far below 1: the norm stays in float32.
        gated = u * F.layer_norm(a.float() if a.dtype == torch.bfloat16 else a, a.shape[-1:], eps=self.config.epsilon)
        return x + self.output(F.dropout(gated, dropout, self.training))


class Heads(nn.Module):
    """Task heads on candidate rows; gives logits."""

    def __init__(self, config, hidden):
        super().__init__()
        self.inner = nn.Linear(config.item_embedding_dim, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-5)
        self.outer = nn.Linear(hidden, config.num_tasks)
        # Each hidden unit adds up row * item over the numbers of one attention head, or of all: evidence from the start.
        reads = torch.arange(hidden)[:, None] % (config.num_heads + 1)
        with torch.no_grad():
            seen = (reads == groups(config).T) | (reads == config.num_heads)
            self.inner.weight.normal_(std=0.15).add_(0.5 * seen)

    @torch.no_grad()
    def begin_at(self, rates):
        """Sets the last bias to the mean rates of the tasks."""
        self.outer.bias.copy_(torch.logit(torch.as_tensor(rates).float().clamp(1e-4, 1 - 1e-4)))

    def forward(self, rows, items):
        z = F.layer_norm(rows, rows.shape[-1:], eps=HEAD_INPUT_EPSILON) * items
        h = self.inner(z)
        return self.outer(h * torch.sigmoid(self.norm(h)))


class Hstu(nn.Module):
    """The whole model. `contents` [highest id + 1, C]: content vectors by item id, where the data has them."""

    def __init__(self, config, *, contents=None, hidden=32, pos_knots=0, timed=True):
        super().__init__()
        self.config = config
        self.pos_knots = pos_knots
        self.items = Items(config.num_items, config.item_embedding_dim, contents)
        self.position = tables.make(config.rows, POSITION_KNOTS if pos_knots else 0, (config.embedding_dim,), 0.02)
        self.actions = None
        if config.action_embedding_dim:
            self.actions = nn.Embedding(config.num_actions, config.action_embedding_dim)
            nn.init.normal_(self.actions.weight, std=0.1 if contents is not None else 0.02)
        self.layers = nn.ModuleList(Layer(config, pos_knots, timed) for _ in range(config.num_blocks))
        self.heads = Heads(config, hidden) if config.num_tasks else None

    def drop_idle_layers(self):
        """Leaves out layers that pass every row on as it is (output projection 0), as those above a first stage are: they would cost a
        server their attention for nothing. The first always stays."""
        busy = [layer for at, layer in enumerate(self.layers) if at == 0 or any(p.any() for p in layer.output.parameters())]
        self.layers = nn.ModuleList(busy)
        self.config = dataclasses.replace(self.config, num_blocks=len(busy))

    def rows(self, embedded, actions, positions):
        """Input rows: concat(item, action) * sqrt(D) + position."""
        if self.actions is not None:
            embedded = torch.cat([embedded, self.actions(actions)], dim=-1)
        return embedded * self.config.embedding_dim**0.5 + self.position.rows(positions)

    def forward(self, batch, dropout=0.0, id_dropout=0.0, last_rows=0):
        """Rows [B, L, D] of the events, rows [B, M, D] and logits [B, M, T] of the candidates (None without).

        `last_rows`: only so many of the last rows are wanted of the events; the last layer then leaves out the others.
        """
        c = self.config
        steps = torch.arange(batch.items.shape[1], device=batch.items.device)
        positions = (batch.starts[:, None] + steps).clamp_(max=c.rows - 1)
        x = self.rows(self.items(batch.items, id_dropout), batch.actions, positions)
        x = F.dropout(x, dropout, self.training)
        history = Geometry(batch.next_times, batch.times, highest=c.num_time_buckets)
        y = ahead = shown = None
        if batch.candidates is not None:
            shown = self.items(batch.candidates, id_dropout)
            places = (batch.starts[:, None] + batch.candidate_cuts).clamp_(max=c.rows - 1)
            y = self.rows(shown, torch.zeros_like(batch.candidates), places)
            y = F.dropout(y, dropout, self.training)
            ahead = Geometry(batch.candidate_times, batch.times, batch.candidate_cuts, c.num_time_buckets)
        for at, layer in enumerate(self.layers):
            bias = layer.bias_tables()
            u, v, q, k = layer.project(x)
            if 0 < last_rows < x.shape[1] and at + 1 == len(self.layers):
                x, u, q = x[:, -last_rows:], u[:, -last_rows:], q[:, -last_rows:]
                history = Geometry(batch.next_times[:, -last_rows:], batch.times, highest=c.num_time_buckets)
            x = layer.finish(x, u, attend(q, k, v, bias, history, c.rows), dropout)
            if y is not None:
                u, v_own, q, k_own = layer.project(y)
                a = attend(q, k, v, bias, ahead, c.rows)
                # Itself: distance 0, and its own time is the time of the request, so time bucket 0.
                score = (q * k_own).sum(-1, keepdim=True) + bias[0][c.rows - 1]
                if bias[1] is not None:
                    score = score + bias[1][0]
                own = F.silu(score).to(v_own.dtype) * v_own / c.rows
                y = layer.finish(y, u, a + own.flatten(2), dropout)
        logits = None
        if y is not None and self.heads is not None:
            logits = self.heads(y[..., : c.item_embedding_dim], shown)
        return x, y, logits

    def queries(self, rows):
        """Retrieval queries of rows: L2-normalised first D_item entries."""
        return F.normalize(rows[..., : self.config.item_embedding_dim], dim=-1, eps=self.config.epsilon)

    @torch.no_grad()
    def item_rows(self, count=None):
        """The rows of ids 0..count as they are exported, id vector and content together; row 0 is zero."""
        count = self.config.num_items if count is None else count
        parts = torch.arange(count + 1, device=self.items.id_vectors.weight.device).split(1 << 16)
        rows = torch.cat([self.items(part) for part in parts])
        rows[0] = 0
        return rows
