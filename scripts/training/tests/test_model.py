import unittest

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors import safe_open

from longbow_train import bundle, data, losses, metrics, tables, weights, windows
from longbow_train.config import Config
from longbow_train.model import Batch, Hstu

from .worlds import GOLDEN

CONFIG = Config(
    max_sequence_len=40, max_output_len=4, embedding_dim=16, item_embedding_dim=12, action_embedding_dim=4, num_actions=8,
    num_blocks=2, num_heads=2, attention_dim=6, linear_dim=8, num_items=30, num_tasks=3,
)


def model(seed=0, **more):
    torch.manual_seed(seed)
    made = Hstu(CONFIG, **more).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "pos.weight" in name or name.endswith(".ts"):
                p.normal_()
    return made


def batch(lengths, seed=0):
    rng = np.random.default_rng(seed)
    width = max(lengths)
    shape = (len(lengths), width)
    times = np.cumsum(rng.integers(0, 100_000, shape), axis=1)
    inside = np.arange(width) < np.array(lengths)[:, None]
    t = torch.from_numpy
    next_times = np.concatenate([times[:, 1:], times[:, -1:] + 60], axis=1)
    return Batch(
        items=t(rng.integers(1, 31, shape) * inside), times=t(times * inside), actions=t(rng.integers(1, 8, shape) * inside),
        lengths=torch.tensor(lengths), next_items=t(rng.integers(1, 31, shape) * inside), next_times=t(next_times * inside),
        starts=torch.zeros(len(lengths), dtype=torch.long), candidates=t(rng.integers(1, 31, (len(lengths), 3))),
        candidate_times=t(times[:, :1] + 10**6 * np.arange(1, 4)),
        candidate_cuts=torch.tensor([[min(1, n), n // 2, n] for n in lengths]),
    )


class Golden(unittest.TestCase):
    def test_outputs_are_those_of_the_reference_code(self):
        files = sorted(GOLDEN.glob("hstu-*.safetensors"))
        if not files:
            print("skipped: ../shared is absent")
            return
        for path in files:
            with self.subTest(path.name), safe_open(path, "pt") as file, torch.no_grad():
                config = Config.from_json(file.metadata()["config"], path)
                tensors = load_file(path)
                golden = {n.removeprefix("golden."): t for n, t in tensors.items() if n.startswith("golden.")}
                plain = {n: t for n, t in tensors.items() if not n.startswith("golden.")}
                weights.check(config, plain, path)
                made = weights.from_tensors(config, plain)
                inputs = {n: golden[n] for n in ("item_ids", "actions", "timestamps", "lengths", "query_time", "candidate_ids") if n in golden}
                rows, candidates, logits = bundle.outputs(made, inputs)
                if "positions" in golden:
                    rows = rows[:, golden["positions"].long()]
                at = golden.get("positions", torch.arange(rows.shape[1]))
                known = at[None, :] < golden["lengths"][:, None]
                self.near(rows[known], golden["output"][known])
                self.near(candidates.flatten(0, 1), golden["candidate_rows"].flatten(0, 1))
                if logits is not None:
                    self.near(torch.sigmoid(logits).flatten(0, 1), golden["candidate_probs"].flatten(0, 1))

    def near(self, found, wanted):
        error = ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max()
        self.assertLess(float(error), 1e-4)


class Model(unittest.TestCase):
    def test_sequences_alone_and_in_a_filled_batch_are_the_same(self):
        made = model()
        lengths = [7, 19, 2, 40]
        many = batch(lengths)
        with torch.no_grad():
            rows, _, logits = made(many)
            for i, n in enumerate(lengths):
                one = Batch(**{name: None if value is None else value[i : i + 1] for name, value in vars(many).items()})
                for name in ("items", "times", "actions", "next_items", "next_times"):
                    setattr(one, name, getattr(one, name)[:, :n])
                alone, _, alone_logits = made(one)
                torch.testing.assert_close(alone[0], rows[i, :n], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(alone_logits[0], logits[i], rtol=1e-4, atol=1e-5)

    def test_last_rows_alone_are_as_among_all(self):
        made, many = model(), batch([40, 37])
        with torch.no_grad():
            rows, _, logits = made(many)
            some, _, same = made(many, last_rows=9)
        torch.testing.assert_close(some, rows[:, -9:])
        torch.testing.assert_close(same, logits)

    def test_candidates_see_only_what_was_before_them(self):
        made = model()
        first = batch([30])
        second = batch([30])
        second.items[0, 20:] = 1
        with torch.no_grad():
            before, after = made(first)[2], made(second)[2]
        # Cuts 1 and 15 lie before the change, 30 behind it.
        torch.testing.assert_close(before[0, :2], after[0, :2])
        self.assertGreater(float((before[0, 2] - after[0, 2]).abs().max()), 1e-5)

    def test_smooth_tables_are_written_out_as_they_are_used(self):
        contents = torch.randn(51, 8)
        contents[0] = 0
        made = model(pos_knots=7, contents=contents)
        with torch.no_grad():
            made.position.weight.normal_()
            written = weights.from_tensors(CONFIG, weights.to_tensors(made))
            some = batch([25, 12])
            torch.testing.assert_close(made(some)[0], written(some)[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(made(some)[2], written(some)[2], rtol=1e-4, atol=1e-5)

    def test_knots_cover_every_place(self):
        for length, knots in ((1, 4), (2, 4), (100, 8), (10_256, 24)):
            table = tables.Smooth(length, knots, (3,), 1.0)
            whole = table.table()
            self.assertEqual(tuple(whole.shape), (length, 3))
            torch.testing.assert_close(table.rows(torch.arange(length)), whole)
            torch.testing.assert_close(whole[0], table.weight[0])
            torch.testing.assert_close(whole[-1], table.weight[-1])


class Losses(unittest.TestCase):
    def test_full_softmax_is_cross_entropy(self):
        torch.manual_seed(1)
        q = torch.nn.functional.normalize(torch.randn(700, 8, dtype=torch.float64), dim=1).requires_grad_()
        items = torch.nn.functional.normalize(torch.randn(30, 8, dtype=torch.float64), dim=1).requires_grad_()
        target = torch.randint(0, 30, (700,))
        for smoothing in (0.0, 0.1):
            fast = losses.full_softmax(q, items, target, 0.05, smoothing)
            slow = torch.nn.functional.cross_entropy(q @ items.T / 0.05, target, label_smoothing=smoothing)
            torch.testing.assert_close(fast, slow)
            for f, s in zip(torch.autograd.grad(fast * 3, (q, items)), torch.autograd.grad(slow * 3, (q, items))):
                torch.testing.assert_close(f, s)

    def test_sampled_softmax_estimates_the_full_one(self):
        torch.manual_seed(2)
        q = torch.nn.functional.normalize(torch.randn(64, 8), dim=1)
        items = torch.nn.functional.normalize(torch.randn(300, 8), dim=1)
        target = torch.randint(0, 300, (64,))
        full = float(losses.full_softmax(q, items, target, 0.2))
        sample = torch.randint(0, 300, (20_000,))
        expected = torch.full((20_000,), 20_000 / 300)
        found = losses.sampled_softmax(q, items[target], items[sample], target[:, None] == sample, (0.0, expected.log()), 0.2)
        self.assertAlmostEqual(float(found), full, delta=0.02)

    def test_tasks_learn_only_where_they_are_known(self):
        logits = torch.zeros(1, 3, 3, requires_grad=True)
        labels = torch.tensor([[[1.0, 1.0, 0.8], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
        shown = torch.tensor([[True, True, False]])
        sum(losses.task_losses(logits, labels, shown)).backward()
        on = logits.grad[0] != 0
        self.assertEqual(on.tolist(), [[True, True, True], [True, True, False], [False, False, False]])


class Metrics(unittest.TestCase):
    def test_auc_counts_pairs(self):
        rng = np.random.default_rng(0)
        scores, truth = rng.integers(0, 6, 60), rng.integers(0, 2, 60)
        pairs = [(p > n) + 0.5 * (p == n) for p in scores[truth == 1] for n in scores[truth == 0]]
        self.assertAlmostEqual(metrics.auc(scores, truth), float(np.mean(pairs)))
        self.assertNotEqual(metrics.auc([1, 2], [1, 1]), metrics.auc([1, 2], [1, 1]))

    def test_entropy_of_the_mean_rate_is_one(self):
        truth = np.array([0, 0, 1, 0])
        self.assertAlmostEqual(metrics.normalised_entropy(np.full(4, 0.25), truth), 1.0)
        self.assertLess(metrics.normalised_entropy(np.array([0.1, 0.1, 0.9, 0.1]), truth), 0.5)

    def test_ranks(self):
        self.assertAlmostEqual(metrics.ranking([0, 9, 10, 500])["ndcg@10"], (1 + 1 / np.log2(11)) / 4)

    def test_calibration_finds_what_was_bent(self):
        rng = np.random.default_rng(0)
        logit = rng.normal(size=100_000)
        truth = rng.random(100_000) < 1 / (1 + np.exp(-logit))
        scale, shift = bundle.platt((logit - 0.7) / 1.9, truth)
        self.assertAlmostEqual(scale, 1.9, delta=0.06)
        self.assertAlmostEqual(shift, 0.7, delta=0.03)


class Windows(unittest.TestCase):
    def histories(self, lengths):
        rng = np.random.default_rng(0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        times = np.concatenate([np.cumsum(rng.integers(0, 9000, n)) for n in lengths])
        items = np.arange(1, offsets[-1] + 1)
        return data.Histories("made", offsets, items, np.ones_like(items), times, True, int(items.max()))

    def test_every_next_event_is_learned_once_a_pass(self):
        h = self.histories([2, 17, 40, 173, 1, 0])
        for seed in range(20):
            rng = np.random.default_rng(seed)
            seen = []
            for group in windows.pack(windows.cut(h, h.lengths, rng, length=16, longest=64), 128, rng):
                some = windows.assemble(h, group)
                seen += some.next_items[some.next_items > 0].tolist()
                # The next item is the one after it, and its time the next time.
                on = some.next_items > 0
                self.assertTrue((some.next_items[on] == some.items[on] + 1).all())
                self.assertTrue((some.next_times[on] == torch.from_numpy(h.times)[some.next_items[on] - 1]).all())
            firsts = {int(h.offsets[u]) + 1 for u in range(5)}
            self.assertEqual(sorted(seen), [i for i in range(1, 234) if i not in firsts])

    def test_filling_is_bounded(self):
        h = self.histories(list(np.random.default_rng(1).integers(2, 200, 300)))
        rng = np.random.default_rng(0)
        for group in windows.pack(windows.cut(h, h.lengths, rng, length=256, longest=256), 1000, rng):
            longest, whole = max(w.length for w in group), sum(w.length for w in group)
            self.assertLessEqual(len(group) * longest, 1000)
            self.assertGreaterEqual(whole, len(group) * longest * (1 - windows.FILLING_MAX))

    def test_thinned_windows_keep_whole_visits_and_their_order(self):
        h = self.histories([5000])
        rng = np.random.default_rng(0)
        (window,) = windows.cut(h, h.lengths, rng, length=300, longest=5000, thin_share=1.0)
        self.assertTrue(100 < window.length <= 300)
        some = windows.assemble(h, [window])
        kept = window.events
        self.assertTrue((np.diff(kept) > 0).all())
        self.assertTrue((some.next_times[0, :-1].numpy() == h.times[kept[1:]]).all())
        learn = some.next_items[0, :-1].numpy() > 0
        self.assertTrue((learn == (np.diff(kept) == 1)).all())

    def test_events_held_out_are_not_shown(self):
        h = self.histories([20])
        rng = np.random.default_rng(0)
        (window,) = windows.cut(h, np.array([19]), rng, length=64, longest=64)
        some = windows.assemble(h, [window], ends=np.array([19]))
        self.assertNotIn(20, some.items.tolist()[0] + some.next_items.tolist()[0])


if __name__ == "__main__":
    unittest.main()
