"""Bias and position tables: free ones, and smooth ones which a few knots on a logarithmic scale determine.

A model that serves 10,000 events has tables of that length, most of whose entries short training windows never reach.
With knots every entry is defined, and neighbours agree.
"""

import math

import torch
from torch import nn


def log_knots(last, count):
    """`count` increasing places from 0 to `last`, dense at the front; and for all 0..last the weights of the two next to it."""
    count = min(count, last + 1)
    top = math.log1p(last)
    places = torch.tensor(sorted({round(math.expm1(top * i / max(1, count - 1))) for i in range(count)}))
    at = torch.arange(last + 1)
    right = torch.searchsorted(places, at).clamp(min=1, max=max(1, len(places) - 1))
    if len(places) == 1:
        return places, torch.zeros_like(at), torch.zeros_like(at), torch.zeros(last + 1)
    low, high = places[right - 1].log1p(), places[right].log1p()
    share = ((torch.log1p(at.float()) - low) / (high - low)).clamp(0, 1)
    return places, right - 1, right, share


class Smooth(nn.Module):
    """A table [length, *tail] interpolated between knots."""

    def __init__(self, length, knots, tail=(), scale=0.0):
        super().__init__()
        places, left, right, share = log_knots(length - 1, knots)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.register_buffer("share", share.reshape(-1, *[1] * len(tail)), persistent=False)
        self.weight = nn.Parameter(torch.randn(len(places), *tail) * scale)

    def rows(self, at):
        """Entries at the places `at` (any shape)."""
        low = nn.functional.embedding(self.left[at], self._matrix())
        high = nn.functional.embedding(self.right[at], self._matrix())
        return low + (high - low) * self.share[at].reshape(*at.shape, 1)

    def _matrix(self):
        return self.weight.reshape(self.weight.shape[0], -1)

    def table(self):
        """All entries."""
        low, high = self.weight[self.left], self.weight[self.right]
        return low + (high - low) * self.share


class Free(nn.Module):
    """A table whose entries are parameters."""

    def __init__(self, length, tail=(), scale=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, *tail) * scale)

    def rows(self, at):
        """Entries at the places `at`."""
        return nn.functional.embedding(at, self.weight)

    def table(self):
        """All entries."""
        return self.weight


def make(length, knots, tail=(), scale=0.0):
    """A smooth table where `knots` is above 0, else a free one."""
    return Smooth(length, knots, tail, scale) if knots else Free(length, tail, scale)
