"""The first stage: the first layer alone must give what the whole model gives while the others are nothing."""

import pathlib
import tempfile
import unittest

import numpy as np
import torch

from longbow_train import cli, data, slates
from longbow_train.windows import Window, assemble

from . import worlds
from .worlds import SMALL, quietly


class FirstStage(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        made = worlds.tensors()
        # A constant entry, as content vectors of the demo world have it; and slates of more than one item.
        vectors = made["items.vectors"]
        made["items.vectors"] = np.concatenate([vectors, np.full((len(vectors), 5), 0.4, np.float32)], 1)
        made["items.vectors"][:, 8:12] = np.random.default_rng(1).normal(size=(len(vectors), 4)) * 0.2
        made["impressions.times"][1::2] = made["impressions.times"][::2]
        self.data = worlds.write(self.folder / "world.safetensors", made)

    def model(self):
        options = cli.options([self.data, "--format", "dataset", "--out", str(self.folder / "x"), *SMALL])
        histories = data.read("dataset", self.data)
        torch.manual_seed(3)
        model = cli.build(options, histories).double()
        model.items.contents = model.items.contents.double()
        return model, histories

    def test_logits_and_rows_are_those_of_the_whole_model(self):
        model, histories = self.model()
        self.assertTrue(slates.begin(model, histories.contents.double(), 1))
        with torch.no_grad():
            for layer in model.layers[:1]:
                layer.ts.normal_(std=0.3)
                layer.pos.weight.add_(torch.randn_like(layer.pos.weight))
        made = slates.Slates(histories, window=1_000)
        users = np.array([0, 3, 5])
        batch = made.batch(users, np.random.default_rng(1), most=9)
        logits, rows = slates.first_layer(model, batch, torch.zeros(3, dtype=torch.long))
        for i, user in enumerate(users):
            whole = assemble(histories, [Window(int(user), 0, int(histories.lengths[user]))])
            n, shown = int(whole.lengths[0]), batch["shown"][i]
            seen = [(s, c) for s in range(shown.shape[0]) for c in range(shown.shape[1]) if shown[s, c] > 0]
            self.assertGreater(len(seen), 3)
            whole.candidates = torch.tensor([[int(shown[s, c]) for s, c in seen]])
            whole.candidate_times = torch.tensor([[int(batch["time"][i, s]) for s, _ in seen]])
            whole.candidate_cuts = torch.tensor([[int(batch["cut"][i, s]) for s, _ in seen]])
            events, _, expected = model.eval()(whole)
            found = torch.stack([logits[i, s, c] for s, c in seen])
            self.assertLess(float((found - expected[0]).abs().max()), 1e-9)
            at = batch["next_row"][i]
            self.assertTrue(bool((at < n - 1).all()))
            self.assertLess(float((rows[i] - events[0, at]).abs().max()), 1e-9)

    def test_without_a_constant_entry_it_says_so(self):
        model, histories = self.model()
        plain = histories.contents.double().clone()
        plain[:, -1] = torch.randn(len(plain), dtype=torch.float64)
        self.assertFalse(slates.begin(model, plain, 1))

    def test_a_run_writes_weights_that_the_next_stage_begins_from(self):
        first, second = self.folder / "first", self.folder / "second"
        base = [self.data, "--format", "dataset", *SMALL, "--epochs", "1"]
        self.assertEqual(quietly([*base, "--out", first, "--slates", "4"]), 0)
        self.assertTrue((first / "bundle" / "bundle.json").is_file())
        self.assertEqual(quietly([*base, "--out", second, "--init", first]), 0)


if __name__ == "__main__":
    unittest.main()
