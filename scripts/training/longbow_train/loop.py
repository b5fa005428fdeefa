"""The training loop: batches, schedule, validation, checkpoints, progress."""

import copy
import json
import math
import signal
import sys
import time

import numpy as np
import torch

from . import Failure, checkpoint, evaluate, losses, metrics
from .windows import assemble, cut, pack

# Seconds between progress lines.
PROGRESS_S = 10


def log(text):
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def split_users(histories, options):
    """Training ends (events of each user to learn from) and the users held out for validation.

    With heads whole users are held out; without, only their last event, so that no user is lost to training.
    """
    rng = np.random.default_rng((options.seed, 7))
    lengths = histories.lengths
    able = np.flatnonzero(lengths >= 3)
    count = min(options.validation_users, len(able) // 2)
    held = np.sort(rng.choice(able, count, replace=False))
    ends = lengths.copy()
    ends[held] = 0 if options.hold_out == "users" else lengths[held] - 1
    return ends, held


class Objective:
    """The loss of a batch."""

    def __init__(self, histories, options, device):
        self.options, self.device = options, device
        self.ids = torch.arange(1, histories.highest_id + 1)
        if histories.item_ids is not None:
            self.ids = torch.from_numpy(histories.item_ids)
        self.targets = torch.from_numpy(histories.items)
        counts = np.bincount(histories.items, minlength=histories.highest_id + 1)
        self.share = torch.from_numpy(counts / counts.sum()).float()

    def __call__(self, model, batch):
        """Total loss and its parts by name."""
        o = self.options
        rows, _, logits = model(batch, o.dropout, o.id_dropout, o.last_rows)
        targets = batch.next_items[:, -rows.shape[1] :]
        learn = targets > 0
        queries = model.queries(rows[learn].float())
        parts = {"next": self.next_item(model, queries, targets[learn])}
        total = parts["next"] * o.next_weight
        if logits is not None:
            for name, part in zip(("click", "conversion", "value"), losses.task_losses(logits.float(), batch.labels, batch.candidates > 0)):
                parts[name] = part
                total = total + part * o.head_weight
        if o.ts_smooth and model.layers[0].timed:
            total = total + o.ts_smooth * sum(layer.ts.diff().square().sum() for layer in model.layers)
        return total, parts

    def next_item(self, model, queries, targets):
        """Softmax loss of the next items."""
        o = self.options
        unit = lambda ids: torch.nn.functional.normalize(model.items(ids, o.id_dropout).float(), dim=-1)
        if not o.negatives:
            # All items; id n stands in row n - 1.
            return losses.full_softmax(queries, unit(self.ids.to(self.device)), targets - 1, o.temperature, o.smoothing)
        half = o.negatives // 2
        popular = self.targets[torch.randint(len(self.targets), (half,))]
        uniform = self.ids[torch.randint(len(self.ids), (o.negatives - half,))]
        sample = torch.cat([popular, uniform]).to(self.device)
        expected = half * self.share.to(self.device)[sample] + (o.negatives - half) / len(self.ids)
        if len(targets) > o.targets_max:
            some = torch.randperm(len(targets), device=targets.device)[: o.targets_max]
            queries, targets = queries[some], targets[some]
        return losses.sampled_softmax(
            queries, unit(targets), unit(sample), targets[:, None] == sample, (0.0, expected.log()), o.temperature
        )


class Trainer:
    """One run in a folder."""

    def __init__(self, model, histories, options, folder, validation=None):
        self.model, self.histories, self.options, self.folder = model, histories, options, folder
        self.device = torch.device(options.device)
        self.model.to(self.device)
        self.objective = Objective(histories, options, self.device)
        self.validation = validation
        if validation is None:
            self.ends, held = split_users(histories, options)
            if options.hold_out == "users" and histories.next_items is not None:
                self.cases = evaluate.Cases.next_events(histories, held, options.once)
            else:
                self.cases = evaluate.Cases.last_events(histories, held, options.once)
            self.judged, self.judges = histories, held
        else:
            self.ends = histories.lengths.copy()
            few = np.sort(np.random.default_rng((options.seed, 7)).permutation(validation.users)[: options.validation_users])
            make = evaluate.Cases.last_events if validation.next_items is None else evaluate.Cases.next_events
            self.cases = make(validation, few, options.once)
            self.judged, self.judges = validation, few
        decay, plain = [], []
        for name, p in model.named_parameters():
            if p.requires_grad:
                (decay if p.ndim >= 2 and "position" not in name else plain).append(p)
        groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, options.beta2))
        self.average = copy.deepcopy(model).requires_grad_(False) if options.ema else None
        self.step = self.epoch = self.batch_at = self.tokens = 0
        self.elapsed = 0.0
        self.best, self.stopping, self.marks = -math.inf, None, []
        self.epoch_steps = len(self.plan(0))

    def plan(self, epoch):
        """Batches of windows of an epoch."""
        o = self.options
        rng = np.random.default_rng((o.seed, epoch))
        scatter = self.model.config.rows if self.model.pos_knots else 0
        longest = self.model.config.max_sequence_len
        shares = {"long_share": o.long_share, "thin_share": o.thin_share, "most": o.windows_max}
        windows = cut(self.histories, self.ends, rng, length=o.window, longest=longest, scatter=scatter, **shares)
        if not windows:
            raise Failure(f"{self.histories.name}: no user has two events to learn from")
        return pack(windows, o.batch_tokens, rng)

    def rate(self):
        """Learning rate: linear warm-up, then a cosine down to a fiftieth, over the epochs or the time given."""
        o = self.options
        done = self.step / max(1, o.epochs * self.epoch_steps)
        if o.time_limit:
            done = max(done, self.elapsed / (o.time_limit * 60))
        warm = min(1.0, (self.step + 1) / max(1, o.warmup))
        return o.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def train_step(self, windows):
        """One step of the optimiser; gives the parts of the loss as numbers."""
        o = self.options
        # Everything random in a step hangs on its number, so that a resumed run goes on as the unbroken one would.
        torch.manual_seed(o.seed * 1_000_003 + self.step)
        rng = np.random.default_rng((o.seed, 1, self.step))
        batch = assemble(self.histories, windows, ends=self.ends, impressions=o.impressions if self.model.heads else 0, rng=rng)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=o.bf16):
            total, parts = self.objective(self.model, batch.to(self.device))
        self.descend(total)
        self.tokens += batch.tokens
        return {name: float(part.detach()) for name, part in parts.items()}

    def descend(self, total):
        """One step down a loss, and the average of the weights with it."""
        o = self.options
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
        if not torch.isfinite(norm):
            raise Failure(f"step {self.step}: the loss is not finite; lower --lr or raise --temperature, then --resume")
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate() * group.get("faster", 1.0)
        self.optimiser.step()
        if self.average is not None:
            share = max(1 - o.ema, 1 / (self.step + 1))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), share)

    def judged_model(self):
        """The weights that are judged and exported."""
        return self.model if self.average is None else self.average

    def run(self):
        """Trains to the end, to the time limit or to a signal; True where training is complete."""
        previous = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._run()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)

    def _stop(self, number, _frame):
        self.stopping = signal.Signals(number).name

    def _run(self):
        o = self.options
        before = time.monotonic() - self.elapsed
        said = saved = time.monotonic()
        sums, count, tokens = {}, 0, self.tokens
        while self.epoch < o.epochs:
            plan, over = self.plan(self.epoch), False
            while self.batch_at < len(plan):
                for name, value in self.train_step(plan[self.batch_at]).items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                self.step += 1
                self.batch_at += 1
                now = time.monotonic()
                self.elapsed = now - before
                over = bool(o.time_limit) and self.elapsed > o.time_limit * 60
                if now - said > PROGRESS_S or (self.batch_at == len(plan) and self.epoch + 1 == o.epochs):
                    self._say({n: v / count for n, v in sums.items()}, (self.tokens - tokens) / max(1e-9, now - said))
                    said, tokens, sums, count = now, self.tokens, {}, 0
                if self.stopping or over:
                    break
                if now - saved > o.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
            if self.stopping:
                path = self.save()
                log(f"{self.stopping}: wrote {path}; go on with --resume")
                return False
            ended = self.batch_at >= len(plan)
            if ended:
                self.epoch, self.batch_at = self.epoch + 1, 0
            if over or self.epoch % o.validate_every == 0 or self.epoch == o.epochs:
                self.validate()
            if over:
                log(f"time limit of {o.time_limit} minutes reached in epoch {self.epoch + 1}")
                break
        self.save()
        return True

    def _say(self, parts, speed):
        o = self.options
        total = o.epochs * self.epoch_steps
        left = (total - self.step) * self.elapsed / max(1, self.step)
        if o.time_limit:
            left = min(left, o.time_limit * 60 - self.elapsed)
        text = ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
        log(f"epoch {self.epoch + 1}/{o.epochs} step {self.step}/{total}: {text}; {speed / 1000:.1f}k events/s, {max(0.0, left) / 60:.0f} min left")
        self._mark({"loss_" + name: value for name, value in parts.items()} | {"lr": self.rate(), "events_per_s": speed})

    def _mark(self, figures):
        entry = {"step": self.step, "epoch": self.epoch, "minutes": self.elapsed / 60, **figures}
        self.marks.append(entry)
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def logits(self, model, most=None, per_user=1 << 30):
        """Logits of the heads on the impressions of the held-out users and their places among all impressions."""
        tell = {"device": self.device, "longest": model.config.max_sequence_len, "tokens": self.options.batch_tokens, "most": most}
        return evaluate.impressions(model, self.judged, self.judges, per_user=per_user, **tell)

    def figures(self, model, most=None):
        """Figures on the held-out users; `most`: newest events read at most."""
        o = self.options
        tell = {"device": self.device, "longest": model.config.max_sequence_len, "tokens": o.batch_tokens, "most": most}
        out = metrics.ranking(evaluate.ranks(model, self.cases, **tell))
        if model.heads is not None and self.judged.impressions is not None:
            shown = self.judged.impressions
            logits, places = self.logits(model, most, o.validation_impressions)
            truth = None if shown.truth is None else shown.truth[places]
            out |= evaluate.head_figures(logits, shown.labels[places], truth)
        return out

    def validate(self):
        """Judges the weights, keeps the best."""
        found = self.figures(self.judged_model())
        log("  held out: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        self._mark({"held_out_" + name: value for name, value in found.items()})
        score = found[self.options.select]
        if score > self.best:
            self.best = score
            state = {"model": self.judged_model().state_dict(), "step": self.step, "figures": found}
            checkpoint.write_atomically(self.folder / "best.pt", lambda file: torch.save(state, file))

    def save(self):
        """Writes a checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step, "epoch": self.epoch, "batch_at": self.batch_at, "tokens": self.tokens,
            "elapsed": self.elapsed, "best": self.best, "marks": self.marks, "config": self.model.config.to_json(),
        }
        return checkpoint.write(self.folder, self.step, state)

    def begin_from(self, folder):
        """Takes the best weights of another run."""
        path = folder / "best.pt"
        if not path.is_file():
            raise Failure(f"{path}: no such file; --init names the folder of a run that has validated once")
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise Failure(f"{path}: {error}; --init needs a run of the same shapes") from error
        if self.average is not None:
            self.average.load_state_dict(state["model"])
        log(f"began with the weights of {path}, step {state['step']}: {state['figures']}")

    def take_best(self):
        """Puts the best weights into the judged model."""
        path = self.folder / "best.pt"
        if not path.is_file():
            raise Failure(f"{path}: no such file; the run has not validated yet")
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.judged_model().load_state_dict(state["model"])
        log(f"best weights: step {state['step']}")

    def resume(self):
        """Goes on from the newest checkpoint of the folder."""
        state = checkpoint.newest(self.folder)
        if state["config"] != self.model.config.to_json():
            raise Failure(f"{self.folder}: its checkpoint has other shapes ({state['config']}); use the same options, or another --out")
        self.model.load_state_dict(state["model"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name in ("step", "epoch", "batch_at", "tokens", "elapsed", "best", "marks"):
            setattr(self, name, state[name])
        # What was written after the checkpoint will be written again.
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in self.marks), encoding="utf-8")
        log(f"resumed at step {self.step}, epoch {self.epoch + 1}")
