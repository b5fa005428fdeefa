"""Losses: softmax over items (all of them or a sample), and the heads' tasks."""

import torch
from torch.nn import functional as F

# Rows of scores against all items that exist at a time: sized for a core's cache.
SOFTMAX_ROWS = 256


class _FullSoftmax(torch.autograd.Function):
    """Mean cross-entropy of unit queries [T, D] over all unit items [V, D], scores / temperature; gradients are made on
    the way, so that no [T, V] matrix exists."""

    @staticmethod
    def forward(ctx, queries, items, targets, scale, smoothing):
        d_queries, d_items = torch.empty_like(queries), torch.zeros_like(items)
        total = queries.new_zeros(())
        count, width = len(targets), len(items)
        for at in range(0, count, SOFTMAX_ROWS):
            q, target = queries[at : at + SOFTMAX_ROWS], targets[at : at + SOFTMAX_ROWS, None]
            scores = (q * scale) @ items.T
            total -= (1 - smoothing) * scores.gather(1, target).sum()
            if smoothing:
                total -= smoothing / width * scores.sum()
            # Scores lie within +-scale, so that exp cannot overflow without subtracting the greatest.
            scores.exp_()
            norm = scores.sum(1, keepdim=True)
            total += norm.log().sum()
            scores /= norm
            if smoothing:
                scores -= smoothing / width
            scores.scatter_add_(1, target, scores.new_full(target.shape, smoothing - 1))
            d_queries[at : at + SOFTMAX_ROWS] = scores @ items
            d_items += scores.T @ q
        factor = scale / max(1, count)
        ctx.save_for_backward(d_queries.mul_(factor), d_items.mul_(factor))
        return total / max(1, count)

    @staticmethod
    def backward(ctx, gradient):
        d_queries, d_items = ctx.saved_tensors
        return d_queries * gradient, d_items * gradient, None, None, None


def full_softmax(queries, items, targets, temperature, smoothing=0.0):
    """Cross-entropy of `targets` (rows of `items`) over all items by cosine; `queries` and `items` are of unit length."""
    if 1 / temperature > 80:
        raise ValueError("temperature below 1/80 overflows float32")
    return _FullSoftmax.apply(queries, items, targets, 1 / temperature, smoothing)


def sampled_softmax(queries, positives, negatives, clash, correction, temperature):
    """Cross-entropy of each query's own positive against shared negatives.

    queries, positives [T, D]; negatives [K, D]; clash [T, K]: negatives that are the positive itself; correction
    ([T], [K]): log of the expected count of each item in the sample, taken off its score.
    """
    own = (queries * positives).sum(1) / temperature - correction[0]
    others = (queries @ negatives.T) / temperature - correction[1]
    others = others.masked_fill(clash, -1e4)
    top = torch.maximum(own, others.max(1).values).detach()
    total = (own - top).exp() + (others - top[:, None]).exp().sum(1)
    return (top + total.log() - own).mean()


def task_losses(logits, labels, shown):
    """Mean loss of each task on candidates: click on all, conversion where clicked, value (order value / list price / 2)
    where converted. logits [.., 3], labels [.., 3], shown [..] bool."""
    click, conversion, value = labels.unbind(-1)
    cases = [
        (logits[..., 0], click, shown),
        (logits[..., 1], conversion, shown & (click > 0)),
        (logits[..., 2], (value / 2).clamp(0, 1), shown & (conversion > 0)),
    ]
    return [F.binary_cross_entropy_with_logits(z[on], y[on]) if on.any() else z.sum() * 0 for z, y, on in cases]
