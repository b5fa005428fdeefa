"""Command line of `scripts/train`."""

import argparse
import json
import pathlib

import numpy as np
import torch

from . import Failure, bundle, curves, data, evaluate, metrics, slates, weights
from .config import Config
from .loop import Trainer, log
from .model import Hstu

# Most runs in a row, each begun from the one before, that a bundle tells of.
STAGES_MAX = 16
# Defaults that hang on the data: shapes and recipe.
DEFAULTS = {
    "dataset": {
        "max_sequence_len": 10240, "max_output_len": 16, "item_dim": 48, "action_dim": 16, "blocks": 2, "heads": 2,
        "attention_dim": 48, "linear_dim": 48, "id_rows": 8192, "num_actions": 8, "window": 512, "batch_tokens": 4096,
        "long_share": 0.0, "thin_share": 0.8, "windows_max": 1, "epochs": 8, "lr": 2.5e-3, "dropout": 0.0, "id_dropout": 0.3, "negatives": 768,
        "temperature": 0.07, "smoothing": 0.0, "weight_decay": 0.01, "pos_knots": 24, "ts_smooth": 1e-4, "ema": 0.99,
        "select": "auc_conversion", "hold_out": "users", "once": False, "warmup": 100, "next_weight": 0.05, "last_rows": 128,
    },
    "ml1m": {
        "max_sequence_len": 256, "max_output_len": 8, "item_dim": 64, "action_dim": 0, "blocks": 4, "heads": 2,
        "attention_dim": 32, "linear_dim": 32, "id_rows": 0, "num_actions": 0, "window": 256, "batch_tokens": 8192,
        "long_share": 0.0, "thin_share": 0.0, "windows_max": 0, "epochs": 60, "lr": 1.5e-3, "dropout": 0.3, "id_dropout": 0.0, "negatives": 0,
        "temperature": 0.07, "smoothing": 0.0, "weight_decay": 0.05, "pos_knots": 0, "ts_smooth": 0.0, "ema": 0.998,
        "select": "ndcg@10", "hold_out": "last", "once": True, "warmup": 200, "next_weight": 1.0, "last_rows": 0,
    },
}

EXAMPLES = """examples:
  scripts/train --format ml1m train.txt --out runs/ml1m
  scripts/train --format dataset world.safetensors --validation heldout.safetensors --out runs/demo --time-limit 50
  scripts/train --format dataset world.safetensors --out runs/demo --resume

The run's folder gets metrics.jsonl, curves (PNG), checkpoints, and at the end bundle/, which `longbow serve` loads.
"""


def parser():
    """The options."""
    p = argparse.ArgumentParser(
        prog="scripts/train", description="Trains a ranking model and writes a bundle that the server loads.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("file", help="the training data")
    p.add_argument("--format", required=True, choices=sorted(DEFAULTS), help="what the file is: a dataset of `longbow dataset`, or MovieLens-1M sequences (one user a line)")
    p.add_argument("--out", required=True, help="folder of the run")
    p.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --out")
    p.add_argument("--init", help="folder of a run of the same shapes to begin from (fine-tuning)")
    p.add_argument("--validation", help="another file of the same format to validate on [default: users of FILE held out]")
    p.add_argument("--export-only", action="store_true", help="write curves and bundle from the best weights of --out, without training")
    p.add_argument("--name", help="name of the bundle [default: name of the folder]")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="bf16 autocast [default: on a GPU]")
    p.add_argument("--threads", type=int, help="CPU threads [default: all]")

    g = p.add_argument_group("shapes (defaults depend on --format)")
    for name, text in [
        ("max-sequence-len", "most events of a history that the server reads"),
        ("max-output-len", "rows kept free behind it"),
        ("item-dim", "width of an item embedding"),
        ("action-dim", "width of the action part; 0 for none"),
        ("num-actions", "rows of the action table"),
        ("blocks", "layers"), ("heads", "attention heads of a layer"),
        ("attention-dim", "width of q and k of a head"), ("linear-dim", "width of u and v of a head"),
        ("id-rows", "items with an id vector: ids 1 to this; 0 for all"),
        ("pos-knots", "knots of the position tables; 0 for free tables"),
    ]:
        g.add_argument("--" + name, type=int, help=text)
    g.add_argument("--head-hidden", type=int, default=32, help="hidden width of the heads")

    g = p.add_argument_group("recipe (defaults depend on --format)")
    for name, kind, text in [
        ("epochs", int, "passes over the data"),
        ("window", int, "events of a training window"),
        ("long-share", float, "share of the longer users that is trained whole"),
        ("thin-share", float, "share of the longer users that is thinned to a window's length, visit by visit"),
        ("windows-max", int, "most windows of a user in an epoch; 0 for all"),
        ("batch-tokens", int, "most events of a batch"),
        ("lr", float, "highest learning rate"), ("warmup", int, "steps until it is reached"),
        ("dropout", float, ""), ("id-dropout", float, "share of items trained without id vector"),
        ("negatives", int, "items of the sampled softmax; 0 for all items"),
        ("temperature", float, "of the softmax over cosines"), ("smoothing", float, "label smoothing (all items only)"),
        ("weight-decay", float, ""), ("ts-smooth", float, "penalty on jumps of the time table"),
        ("ema", float, "decay of the averaged weights, which are exported; 0 for none"),
    ]:
        g.add_argument("--" + name, type=kind, help=text or None)
    g.add_argument("--beta2", type=float, default=0.98)
    g.add_argument("--clip", type=float, default=1.0, help="most norm of a gradient")
    g.add_argument("--impressions", type=int, default=96, help="most impressions of a window in a step")
    g.add_argument("--targets-max", type=int, default=1024, help="most next items of a step (sampled softmax)")
    g.add_argument("--last-rows", type=int, help="rows at the end of each window whose next item is learned, 0 for all: long windows for the heads cost half")
    g.add_argument("--slates", type=int, default=0, help="first stage: learn the first layer alone, from at most so many slates of a window; go on with --init")
    # Scores over a small temperature make the next-item loss the steeper one by far: at equal weight it drowns the heads.
    g.add_argument("--next-weight", type=float, help="weight of the next-item loss [default: 0.05 beside heads, else 1]")
    g.add_argument("--head-weight", type=float, default=2.0, help="weight of each head's loss")

    g = p.add_argument_group("course")
    g.add_argument("--time-limit", type=float, help="minutes; the learning rate comes down in this time")
    g.add_argument("--checkpoint-minutes", type=float, default=3.0)
    g.add_argument("--validate-every", type=int, default=1, help="epochs")
    g.add_argument("--validation-users", type=int, default=1000)
    g.add_argument("--validation-impressions", type=int, default=20, help="most impressions of a user")
    g.add_argument("--report-lengths", type=lambda text: [int(x) for x in text.split(",")], default=[100, 1000, 10000], help="newest events that the last report is made for, with commas")
    g.add_argument("--test", nargs=2, metavar=("INPUTS", "OUTPUTS"), help="ml1m: sequences and their next items, judged once when all is done")
    g.add_argument("--select", help="figure that chooses the exported weights [default: ndcg@10, or auc_conversion]")
    return p


def options(arguments):
    """Parsed options with the defaults of the format filled in."""
    o = parser().parse_args(arguments)
    # File names without their folders: the bundle tells how it was made, not where.
    o.told = [word.rsplit("/", 1)[-1] for word in arguments]
    for name, value in DEFAULTS[o.format].items():
        if getattr(o, name, None) is None:
            setattr(o, name, value)
    if o.bf16 is None:
        o.bf16 = o.device.startswith("cuda")
    if o.device.startswith("cuda") and not torch.cuda.is_available():
        raise Failure("--device cuda: no CUDA device is usable here; use --device cpu")
    if o.test and o.format != "ml1m":
        raise Failure("--test: is for --format ml1m; a dataset brings its next events itself (--validation)")
    if o.window > o.max_sequence_len:
        raise Failure(f"--window {o.window}: more than --max-sequence-len {o.max_sequence_len}")
    if o.negatives == 0 and o.format == "dataset":
        raise Failure("--negatives 0: all items are affordable with --format ml1m only; use 1024 or so")
    return o


def build(o, histories):
    """The model of the options for the data."""
    id_rows = min(o.id_rows, histories.highest_id) if o.id_rows else histories.highest_id
    config = Config(
        max_sequence_len=o.max_sequence_len, max_output_len=o.max_output_len, embedding_dim=o.item_dim + o.action_dim,
        item_embedding_dim=o.item_dim, action_embedding_dim=o.action_dim, num_actions=o.num_actions,
        num_blocks=o.blocks, num_heads=o.heads, attention_dim=o.attention_dim, linear_dim=o.linear_dim,
        num_items=id_rows, num_tasks=len(data.TASKS) if histories.impressions is not None else 0,
    )
    if o.action_dim and int(histories.actions.max()) >= o.num_actions:
        raise Failure(f"{histories.name}: action {int(histories.actions.max())} occurs; raise --num-actions")
    torch.manual_seed(o.seed)
    model = Hstu(config, contents=histories.contents, hidden=o.head_hidden, pos_knots=o.pos_knots, timed=histories.timed)
    if model.heads is not None:
        click, conversion, value = histories.impressions.labels.T
        on = [click >= 0, click > 0, conversion > 0]
        rates = [part[where].mean() if where.any() else 0.5 for part, where in zip((click, conversion, value / 2), on)]
        model.heads.begin_at(rates)
    return model


def train(arguments):
    """Runs the command; exit code 0 when complete, 2 when stopped by a signal."""
    o = options(arguments)
    if o.threads:
        torch.set_num_threads(o.threads)
    folder = pathlib.Path(o.out)
    folder.mkdir(parents=True, exist_ok=True)
    if not (o.resume or o.export_only) and any(folder.glob("checkpoint-*.pt")):
        raise Failure(f"{folder}: holds a run already; add --resume to go on, or name another folder")
    histories = data.read(o.format, o.file)
    validation = data.read(o.format, o.validation) if o.validation else None
    model = build(o, histories)
    if o.export_only and (folder / "options.json").is_file():
        # The bundle tells how the weights were made, not how they were written.
        made = json.loads((folder / "options.json").read_text())
        o.told, o.init = made["told"], made["init"]
    if not o.export_only:
        (folder / "options.json").write_text(json.dumps(vars(o), indent=1, sort_keys=True) + "\n")
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log(f"{histories.name}: {histories.users} users, {len(histories.items)} events, {histories.highest_id} items; {count} parameters")
    if o.slates:
        if model.heads is None:
            raise Failure(f"{histories.name}: holds no impressions, so --slates has nothing to learn from")
        if not slates.begin(model, histories.contents, o.seed):
            log("content vectors have no constant entry: the heads begin slower")
    make = slates.SlateTrainer if o.slates else Trainer
    trainer = make(model, histories, o, folder, validation)
    if o.resume or o.export_only:
        trainer.resume()
    elif o.init:
        trainer.begin_from(pathlib.Path(o.init))
    if not o.export_only and not trainer.run():
        return 2
    for path in curves.draw(trainer.marks, folder):
        log(f"wrote {path}")
    export(trainer, o, folder)
    return 0


def export(trainer, o, folder):
    """Writes the bundle of the best weights, calibrated on the held-out impressions, and its figures by history length."""
    model, judged = trainer.judged_model(), trainer.judged
    trainer.take_best()
    idle = len(model.layers)
    model.drop_idle_layers()
    if len(model.layers) < idle:
        log(f"layers that do nothing yet are left out of the bundle: {len(model.layers)} of {idle} remain")
    figures = {"events": trainer.tokens, "minutes": round(trainer.elapsed / 60, 1), "seed": o.seed, "held_out_users": len(trainer.judges)}
    calibration = []
    if model.heads is not None and judged.impressions is not None:
        logits, places = trainer.logits(model)
        calibration = bundle.calibrate(logits, judged.impressions.labels[places])
        figures["calibrated"] = evaluate.head_figures(logits, judged.impressions.labels[places], calibration=calibration)
    for most in o.report_lengths:
        found = trainer.figures(model, most)
        figures[f"newest_{most}"] = found
        log(f"newest {most} events: " + ", ".join(f"{n} {v:.4f}" for n, v in found.items()))
    if o.test:
        figures["test"] = test(model, o, trainer.device)
        log("test: " + ", ".join(f"{n} {v:.4f}" for n, v in figures["test"].items()))
    path = bundle.write(
        folder / "bundle", model.config, weights.to_tensors(model), name=o.name or folder.resolve().name,
        made_by=" && ".join(commands(o)), calibration=calibration, training=bundle.plain(figures),
    )
    size = sum(file.stat().st_size for file in path.iterdir())
    log(f"wrote {path}: {size / 1e6:.1f} MB")


def commands(o):
    """The commands that made a run's weights, that of the first stage first."""
    told, folder = [o.told], o.init
    while folder and len(told) < STAGES_MAX:
        file = pathlib.Path(folder) / "options.json"
        if not file.is_file():
            break
        before = json.loads(file.read_text())
        told.append(before["told"])
        folder = before["init"]
    return ["scripts/train " + " ".join(words) for words in reversed(told)]


def test(model, o, device):
    """Figures on sequences whose next items stand in a file of their own."""
    histories = data.read_ml1m_next(*o.test)
    if histories.highest_id > model.config.num_items:
        raise Failure(f"{o.test[0]}: holds item {histories.highest_id}, but the model has {model.config.num_items}")
    # All items of the model are ranked.
    histories.highest_id = model.config.num_items
    cases = evaluate.Cases.last_events(histories, np.arange(histories.users), o.once)
    longest = model.config.max_sequence_len
    found = metrics.ranking(evaluate.ranks(model, cases, device=device, longest=longest, tokens=o.batch_tokens))
    return {"users": histories.users} | found
