"""Figures of quality: recall and NDCG of a held-out item, AUC and normalised entropy of probabilities."""

import numpy as np


def ranking(ranks, ks=(10, 50, 100)):
    """Recall@k and NDCG@10 from the ranks (0: first) of the held-out items, one each."""
    ranks = np.asarray(ranks)
    out = {f"recall@{k}": float((ranks < k).mean()) for k in ks}
    out["ndcg@10"] = float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())
    return out


def auc(scores, truth):
    """Area under the ROC curve; ties count half. NaN where one class is absent."""
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth) > 0
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    total = mean_rank[inverse][truth].sum()
    return float((total - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def log_loss(probabilities, truth):
    """Mean cross-entropy; truth may lie between 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-7, 1 - 1e-7)
    y = np.asarray(truth, dtype=np.float64)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def normalised_entropy(probabilities, truth):
    """Cross-entropy over that of the mean rate: below 1 is better than knowing the rate alone."""
    rate = float(np.mean(truth))
    if not 0 < rate < 1:
        return float("nan")
    return log_loss(probabilities, truth) / log_loss(np.full(len(truth), rate), truth)
