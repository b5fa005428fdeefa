import json
import os
import pathlib
import signal
import tempfile
import threading
import unittest
from unittest import mock

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from longbow_train import Failure, bundle, checkpoint, cli, convert, data, loop, weights
from longbow_train.config import Config

from . import worlds
from .worlds import GOLDEN, SMALL, quietly


class Runs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.data = worlds.write(self.folder / "world.safetensors")

    def trainer(self, name, *more):
        o = cli.options([self.data, "--format", "dataset", "--out", str(self.folder / name), *SMALL, "--epochs", "2", *more])
        histories = data.read("dataset", self.data)
        (self.folder / name).mkdir(exist_ok=True)
        return loop.Trainer(cli.build(o, histories), histories, o, self.folder / name)

    def test_a_run_learns_and_its_bundle_says_the_same(self):
        out = self.folder / "run"
        world = worlds.write(self.folder / "more.safetensors", worlds.tensors(users=120))
        learn = ["--epochs", "4", "--lr", "1e-2", "--ema", "0.9", "--validation-users", "30", "--next-weight", "0.1"]
        with mock.patch.object(loop, "PROGRESS_S", 0):
            code = quietly([world, "--format", "dataset", "--out", out, *SMALL, *learn])
        self.assertEqual(code, 0)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for name in ("loss_next", "loss_click"):
            losses = [line[name] for line in lines if name in line]
            self.assertLess(np.mean(losses[-30:]), 0.95 * np.mean(losses[:30]), name)
        judged = [line for line in lines if "held_out_auc_click" in line]
        self.assertEqual(len(judged), 4)
        # Chance is 10 of 50 items, and one half.
        self.assertGreater(max(line["held_out_recall@10"] for line in judged), 0.3)
        self.assertGreater(max(line["held_out_auc_click"] for line in judged), 0.6)
        for name in ("loss", "ranking", "auc", "entropy", "speed"):
            self.assertGreater((out / f"curve-{name}.png").stat().st_size, 5000)
        self.check_bundle(out / "bundle")
        manifest = json.loads((out / "bundle" / "bundle.json").read_text())
        self.assertEqual([c["task"] for c in manifest["calibration"]], data.TASKS)
        self.assertNotIn(str(self.folder), manifest["made_by"])
        self.assertIn("newest_10", manifest["training"])

    def check_bundle(self, folder):
        """Hashes, shapes and self-check of a bundle hold."""
        import hashlib

        manifest = json.loads((folder / "bundle.json").read_text())
        for name, digest in manifest["sha256"].items():
            self.assertEqual(hashlib.sha256((folder / name).read_bytes()).hexdigest(), digest)
        with safe_open(folder / "model.safetensors", "pt") as file:
            config = Config.from_json(file.metadata()["config"], folder)
        tensors = load_file(folder / "model.safetensors")
        weights.check(config, tensors, folder)
        recorded = {n.removeprefix("golden."): t for n, t in load_file(folder / "self-check.safetensors").items()}
        made = weights.from_tensors(config, tensors)
        rows, _, logits = bundle.outputs(made, recorded)
        self.assertLess(float((rows - recorded["output"]).abs().max()), 1e-4)
        if logits is not None:
            scale = torch.tensor([[c["scale"], c["shift"]] for c in manifest["calibration"]])
            probs = torch.sigmoid(logits * scale[:, 0] + scale[:, 1])
            self.assertLess(float((probs - recorded["candidate_probs"]).abs().max()), 1e-4)
        return config

    def test_a_resumed_run_goes_on_as_the_unbroken_one(self):
        whole, broken = self.trainer("whole"), self.trainer("broken")
        plan = whole.plan(0)
        self.assertGreaterEqual(len(plan), 6)

        def steps(trainer, count):
            made = []
            for _ in range(count):
                made.append(trainer.train_step(plan[trainer.batch_at]))
                trainer.step += 1
                trainer.batch_at += 1
            return made

        expected = steps(whole, 6)
        found = steps(broken, 3)
        broken.save()
        again = self.trainer("broken")
        with mock.patch.object(loop, "log"):
            again.resume()
        found += steps(again, 3)
        self.assertEqual(found, expected)
        for (name, a), (_, b) in zip(whole.average.state_dict().items(), again.average.state_dict().items()):
            self.assertTrue(torch.equal(a, b), name)

    def test_a_signal_ends_a_run_with_a_checkpoint_and_resume_completes_it(self):
        out = self.folder / "run"
        arguments = [self.data, "--format", "dataset", "--out", out, *SMALL, "--epochs", "400", "--validate-every", "500"]
        done = threading.Event()

        def interrupt():
            while not done.wait(0.3):
                if (out / "options.json").exists():
                    os.kill(os.getpid(), signal.SIGTERM)

        # Before the run has its handler, and after it, the signal is nothing: so it is sent again and again.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        thread = threading.Thread(target=interrupt)
        thread.start()
        code = quietly(arguments)
        done.set()
        thread.join()
        self.assertEqual(code, 2)
        state = checkpoint.newest(out)
        self.assertGreater(state["step"], 0)
        arguments[arguments.index("400")] = str(state["epoch"] + 1)
        self.assertEqual(quietly([*arguments, "--resume"]), 0)
        self.check_bundle(out / "bundle")

    def test_the_newest_two_checkpoints_are_kept_and_a_broken_one_is_passed_over(self):
        trainer = self.trainer("run")
        for trainer.step in (1, 2, 3):
            trainer.save()
        names = [path.name for path in checkpoint.steps(trainer.folder)]
        self.assertEqual(names, ["checkpoint-000000002.pt", "checkpoint-000000003.pt"])
        (trainer.folder / names[1]).write_bytes(b"cut short")
        self.assertEqual(checkpoint.newest(trainer.folder)["step"], 2)

    def test_sequences_without_times(self):
        path = self.folder / "ml.txt"
        rng = np.random.default_rng(0)
        path.write_text("".join(" ".join(map(str, rng.permutation(40)[: rng.integers(2, 40)] + 1)) + "\n" for _ in range(30)))
        out = self.folder / "run"
        (self.folder / "next.txt").write_text("1\n" * 30)
        code = quietly([path, "--test", path, self.folder / "next.txt", "--format", "ml1m", "--out", out, "--epochs", "2", "--item-dim", "8", "--blocks", "1", "--max-sequence-len", "20",
                        "--window", "20", "--batch-tokens", "200", "--validation-users", "5", "--threads", "1", "--report-lengths", "20"])
        self.assertEqual(code, 0)
        config = self.check_bundle(out / "bundle")
        manifest = json.loads((out / "bundle" / "bundle.json").read_text())
        self.assertEqual(manifest["training"]["test"]["users"], 30)
        self.assertEqual((config.num_items, config.num_tasks, config.action_embedding_dim), (40, 0, 0))


class Faults(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def fails(self, call, *words):
        with self.assertRaises(Failure) as raised:
            call()
        for word in words:
            self.assertIn(word, str(raised.exception))

    def test_datasets(self):
        path = self.folder / "world.safetensors"

        def with_(name, change):
            made = worlds.tensors()
            if change is None:
                del made[name]
            else:
                made[name] = change(made[name].copy())
            worlds.write(path, made)
            return lambda: data.read("dataset", path)

        def put(at, value):
            def change(array):
                array[at] = value
                return array

            return change

        self.fails(with_("events.items", None), "world.safetensors", "`events.items` is absent", "longbow dataset")
        self.fails(with_("events.items", put(7, 51)), "`events.items`, element 7", "item 51 is not in `items.ids`")
        self.fails(with_("events.times", put(2, 5)), "`events.times`, element 2")
        self.fails(with_("events.offsets", lambda a: a[:-1]), "`events.offsets`", "shape")
        self.fails(with_("events.offsets", put(-1, 3)), "`events.offsets`", "rise")
        self.fails(with_("items.vectors", put((3, 0), np.nan)), "`items.vectors`", "finite")
        self.fails(with_("impressions.click", lambda a: a.astype(np.float32)), "`impressions.click`", "float32")
        self.fails(lambda: data.read("dataset", self.folder / "none"), "none", "no such file")
        path.write_bytes(b"nonsense" * 9)
        self.fails(lambda: data.read("dataset", path), "not a dataset file", "longbow dataset")

    def test_sequences(self):
        path = self.folder / "ml.txt"
        path.write_text("1 2 3\n4 x\n")
        self.fails(lambda: data.read("ml1m", path), "ml.txt", "line 2")
        path.write_text("0 1\n")
        self.fails(lambda: data.read("ml1m", path), "line 1", "must be 1 to")
        path.write_text("\n")
        self.fails(lambda: data.read("ml1m", path), "no events")

    def test_options(self):
        path = worlds.write(self.folder / "world.safetensors")
        base = [path, "--format", "dataset", "--out", self.folder / "run", *SMALL]
        self.fails(lambda: quietly([*base, "--window", "65"]), "--window 65", "--max-sequence-len 64")
        self.fails(lambda: quietly([*base, "--num-actions", "3"]), "raise --num-actions")
        self.fails(lambda: quietly([*base, "--resume"]), "no checkpoint")
        self.fails(lambda: quietly([*base, "--init", self.folder / "no"]), "best.pt")
        if not torch.cuda.is_available():
            self.fails(lambda: quietly([*base, "--device", "cuda"]), "--device cpu")


class Conversion(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def checkpoint(self, file, change=None):
        path = GOLDEN / file
        tensors = {n: t for n, t in load_file(path).items() if not n.startswith("golden.")}
        with safe_open(path, "pt") as opened:
            config = json.loads(opened.metadata()["config"])
        state = {f"module.{n}": t for n, t in tensors.items()}
        state["module._hstu._attn_mask"] = torch.zeros(3, 3)
        if change:
            change(state)
        torch.save({"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}}, self.folder / "model.pt")
        return config, tensors

    def convert(self, *more):
        with mock.patch("sys.stderr"):
            return convert.convert([str(self.folder / "model.pt"), "--out", str(self.folder / "bundle"), *more])

    def test_a_checkpoint_becomes_the_bundle_of_its_tensors(self):
        if not GOLDEN.is_dir():
            print("skipped: ../shared is absent")
            return
        for file in ("hstu-ml1m-large.safetensors", "hstu-odd-shapes.safetensors", "hstu-rated-heads.safetensors"):
            config, tensors = self.checkpoint(file)
            self.convert("--heads", str(config["num_heads"]), "--max-sequence-len", str(config["max_sequence_len"]))
            Runs.check_bundle(self, self.folder / "bundle")
            with safe_open(self.folder / "bundle" / "model.safetensors", "pt") as opened:
                self.assertEqual(json.loads(opened.metadata()["config"]), config)
            written = load_file(self.folder / "bundle" / "model.safetensors")
            self.assertEqual(set(written), set(tensors))
            self.assertTrue(all(torch.equal(written[n], t) for n, t in tensors.items()))

    def test_what_is_wrong_is_named(self):
        if not GOLDEN.is_dir():
            print("skipped: ../shared is absent")
            return

        def fails(change, more, *words):
            self.checkpoint("hstu-ml1m-base.safetensors", change)
            with self.assertRaises(Failure) as raised:
                self.convert(*more)
            for word in words:
                self.assertIn(word, str(raised.exception))

        whole = ("--heads", "1", "--max-sequence-len", "200")
        fails(None, (), "--heads")
        fails(None, ("--heads", "1"), "211 positions", "--max-sequence-len")
        fails(None, ("--heads", "3", "--max-sequence-len", "200"), "--heads 3", "50")
        fails(None, ("--heads", "1", "--max-sequence-len", "200", "--max-output-len", "5"), "211 rows")
        fails(lambda s: s.pop("module._embedding_module._item_emb.weight"), whole, "_item_emb.weight` is absent")
        fails(lambda s: s.pop("module._hstu._attention_layers.1._o.bias"), whole, "layers.1._o.bias` is absent")
        fails(lambda s: s.update({"module.strange": torch.ones(2)}), whole, "`strange`", "no part")
        fails(lambda s: s["module._hstu._attention_layers.0._uvqk"].fill_(float("nan")), whole, "not finite")
        wide = lambda s: s.update({"module._hstu._attention_layers.0._o.weight": torch.ones(50, 150)})
        fails(wide, whole, "concat_ua")
        (self.folder / "model.pt").write_bytes(b"nonsense")
        with self.assertRaises(Failure) as raised:
            self.convert(*whole)
        self.assertIn("model.pt", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
