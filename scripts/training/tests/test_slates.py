"""The first stage: the first layer alone must give what the whole model gives while the others are nothing."""

import pathlib
import tempfile
import unittest

import numpy as np
import torch

from longbow_train import cli, data, slates
from longbow_train.model import Batch

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
        for draw in range(4):
            batch = made.batch(users, np.random.default_rng(draw), most=9)
            self.holds(model, batch)
        self.assertGreater(len(model.layers), 1)
        model.drop_idle_layers()
        self.assertEqual((len(model.layers), model.config.num_blocks), (1, 1))
        self.holds(model, batch)

    def holds(self, model, batch):
        """What the first stage gives for each window of a batch is what the whole model gives for it."""
        logits, rows = slates.first_layer(model, batch)
        self.assertGreater(int((batch.shown > 0).sum()), 9)
        firsts = [first for first, _ in batch.next_rows]
        for i, (first, end) in enumerate(zip(firsts, [*firsts[1:], len(batch.items)])):
            part = lambda z: z[None, first:end]
            mine = [s for s, slate in enumerate(batch.slates) if slate[0] == first]
            seen = [(s, c) for s in mine for c in range(batch.shown.shape[1]) if batch.shown[s, c] > 0]
            at, last = batch.next_rows[i][1] - first, end - first - 1
            self.assertTrue(bool((at < last).all()))
            following = torch.cat([part(batch.times)[:, 1:], part(batch.times)[:, -1:]], dim=1)
            whole = Batch(
                items=part(batch.items), times=part(batch.times), actions=part(batch.actions), lengths=torch.tensor([end - first]),
                next_items=torch.zeros(1, end - first, dtype=torch.long), next_times=following, starts=torch.tensor([0]),
            )
            if seen:
                whole.candidates = torch.tensor([[int(batch.shown[s, c]) for s, c in seen]])
                whole.candidate_times = torch.tensor([[batch.slates[s][2] for s, _ in seen]])
                whole.candidate_cuts = torch.tensor([[batch.slates[s][1] - first for s, _ in seen]])
            events, _, expected = model.eval()(whole)
            if seen:
                found = torch.stack([logits[s, c] for s, c in seen])
                self.assertLess(float((found - expected[0]).abs().max()), 1e-9)
            self.assertLess(float((rows[i] - events[0, at]).abs().max()), 1e-9)
            self.assertTrue(bool((batch.next_items[i] == batch.items[first + at + 1]).all()))
            self.assertTrue(bool((batch.next_times[i] == batch.times[first + at + 1]).all()))

    def test_gradients_are_those_of_the_sums(self):
        rng = torch.Generator().manual_seed(1)
        normal = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64, requires_grad=True)
        spans = [
            (0, 4, torch.arange(4, 0, -1)[None], torch.tensor([[3, 2, 2, 0]])),
            (2, 7, torch.tensor([[1, 0, -1, -2, -3], [4, 3, 2, 1, 0], [2, 1, 0, -1, -2]]), torch.arange(15).view(3, 5) % 4),
        ]
        inputs = normal(2, 2, 3, 5), normal(2, 7, 5), normal(2, 7, 4), normal(8), normal(4)
        self.assertTrue(torch.autograd.gradcheck(lambda *x: slates._Look.apply(*x, spans), inputs))

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
