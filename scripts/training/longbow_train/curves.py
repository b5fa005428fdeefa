"""Curves of a run, one picture for each group of figures."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend must be chosen first

GROUPS = {
    "loss": ("loss", lambda n: n.startswith("loss_")),
    "ranking": ("recall and NDCG of held-out next items", lambda n: n.startswith(("held_out_recall", "held_out_ndcg"))),
    "auc": ("AUC on held-out impressions", lambda n: "auc" in n and n.startswith("held_out_")),
    "entropy": ("normalised entropy on held-out impressions", lambda n: n.startswith("held_out_ne_")),
    "speed": ("events a second", lambda n: n == "events_per_s"),
}


def draw(marks, folder):
    """Writes curve-*.png of the figures in `marks` (the lines of metrics.jsonl) and gives their paths."""
    written = []
    for group, (title, belongs) in GROUPS.items():
        names = sorted({name for mark in marks for name in mark if belongs(name)})
        if not names:
            continue
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for name in names:
            points = [(m["step"], m[name]) for m in marks if name in m and m[name] == m[name]]
            label = name.removeprefix("held_out_").removeprefix("loss_").replace("_", " ")
            style = {"linestyle": "--", "color": "grey"} if "best" in name else {}
            if points:
                axes.plot(*zip(*points), label=label, linewidth=1.3, marker="." if len(points) < 40 else None, **style)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8)
        path = pathlib.Path(folder) / f"curve-{group}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        written.append(path)
    return written
