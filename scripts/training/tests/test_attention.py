import unittest
from unittest import mock

import torch
from torch.autograd import gradcheck

from longbow_train import attention
from longbow_train.attention import Geometry, attend, time_bucket

B, L, H, D, E, N = 2, 9, 2, 3, 4, 14


def naive(q, k, v, pos_w, ts_w, geometry):
    """The same with whole score matrices."""
    candidates = geometry.cuts is not None
    place = geometry.cuts if candidates else torch.arange(L - q.shape[1], L).expand(B, -1)
    distance = place[:, :, None] - torch.arange(L)
    seen = distance >= (1 if candidates else 0)
    bias = pos_w[(N - 1 - distance).clamp(0, 2 * N - 2)]
    if ts_w is not None:
        bias = bias + ts_w[time_bucket(geometry.row_times[:, :, None] - geometry.key_times[:, None, :], 128).long()]
    scores = torch.einsum("bmhd,blhd->bmlh", q, k) + bias[..., None]
    weights = torch.nn.functional.silu(scores) * seen[..., None] / N
    return torch.einsum("bmlh,blhe->bmhe", weights, v).flatten(2)


class Attention(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(3)
        times = torch.randint(0, 10**7, (B, L)).sort(1).values
        cuts = torch.tensor([[0, 3, 5, 9, 2], [1, 1, 4, 9, 8]])
        self.geometries = [
            lambda: Geometry(torch.cat([times[:, 1:], times[:, -1:] + 50], 1), times),
            lambda: Geometry(torch.cat([times[:, -3:], times[:, -1:] + 50], 1), times),
            lambda: Geometry(torch.randint(0, 10**7, cuts.shape), times, cuts),
        ]

    def inputs(self, queries):
        make = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        return make(B, queries, H, D), make(B, L, H, D), make(B, L, H, E), make(2 * N - 1), make(129)

    def test_values_and_gradients_are_those_of_whole_matrices(self):
        # Whole matrices in one block, and blocks of a few rows.
        for block in (1 << 19, 40):
            with mock.patch.object(attention, "BLOCK", block):
                for make in self.geometries:
                    geometry = make()
                    q, k, v, pos_w, ts_w = inputs = self.inputs(geometry.queries)
                    fast, slow = attend(q, k, v, (pos_w, ts_w), geometry, N), naive(*inputs, geometry)
                    torch.testing.assert_close(fast, slow)
                    along = torch.randn_like(slow)
                    found = torch.autograd.grad((fast * along).sum(), inputs)
                    wanted = torch.autograd.grad((slow * along).sum(), inputs)
                    for f, w in zip(found, wanted):
                        torch.testing.assert_close(f, w)
                    self.assertTrue(gradcheck(lambda *a: attend(*a[:3], a[3:], geometry, N), inputs))

    def test_times_can_be_left_out(self):
        for make in self.geometries:
            geometry = make()
            q, k, v, pos_w, _ = self.inputs(geometry.queries)
            torch.testing.assert_close(attend(q, k, v, (pos_w, None), geometry, N), naive(q, k, v, pos_w, None, geometry))

    def test_buckets_kept_or_computed_anew_are_the_same(self):
        geometry = self.geometries[0]()
        with mock.patch.object(attention, "KEPT_PAIRS", 0):
            anew = self.geometries[0]()
        q, k, v, pos_w, ts_w = self.inputs(L)
        both = [attend(q, k, v, (pos_w, ts_w), g, N) for g in (geometry, anew)]
        self.assertTrue(torch.equal(*both))
        self.assertEqual((len(geometry._kept), len(anew._kept)), (1, 0))

    def test_bfloat16_is_near(self):
        geometry = self.geometries[0]()
        inputs = [x.detach().float() for x in self.inputs(L)]
        exact = attend(*inputs[:3], tuple(inputs[3:]), geometry, N)
        near = attend(*[x.bfloat16() for x in inputs[:3]], tuple(inputs[3:]), geometry, N)
        self.assertLess(float((near.float() - exact).abs().max()), 0.03)

    def test_time_buckets(self):
        days = torch.tensor([0, 1, -1, 60, 365 * 86400, 1 << 40])
        self.assertEqual(time_bucket(days, 128).tolist(), [0, 0, 0, 13, 57, 92])
        self.assertEqual(int(time_bucket(torch.tensor(1 << 62), 128)), 128)
        self.assertEqual(int(time_bucket(torch.tensor(1 << 62), 500)), 142)


if __name__ == "__main__":
    unittest.main()
