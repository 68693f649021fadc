"""Fréchet and kernel distances of features, against direct computations, and their intervals."""

import math
import random

import pytest
import scipy.linalg
import torch

from nasvid.metrics.frechet import GROUPS, GroupedMoments, Moments, frechet_distance
from nasvid.metrics.jackknife import half_width
from nasvid.metrics.kernel import KernelSums, kernel_distance


def features(n: int, dim: int, seed: int, noise: float = 0.0) -> torch.Tensor:
    """Correlated features with unlike variances and a mean; noise on top, if any."""
    fixed, own = torch.Generator().manual_seed(1), torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=fixed) * torch.logspace(0, -2, dim)
    x = torch.randn(n, dim, generator=own) @ mixing.T + torch.randn(dim, generator=fixed)
    return x + noise * torch.randn(n, dim, generator=own)


def frechet(x: torch.Tensor, y: torch.Tensor) -> float:
    return frechet_distance(Moments.of(x), Moments.of(y))


@pytest.mark.parametrize("dim", [1, 16, 60])
def test_fvd_is_that_of_a_general_matrix_square_root(dim, rng):
    x, y = (features(200, dim, rng.randrange(10**6)).double() for _ in range(2))
    y = 1.5 * y + 0.3
    a, b = (torch.cov(each.T).reshape(dim, dim).numpy() for each in (x, y))
    root = scipy.linalg.sqrtm(a @ b)
    apart = float((x.mean(dim=0) - y.mean(dim=0)).square().sum())
    wanted = apart + (a + b - 2 * root.real).trace()
    assert frechet(x, y) == pytest.approx(wanted, rel=1e-6)


def test_fvd_of_a_set_with_itself_is_zero_and_grows_with_noise(rng):
    x = features(400, 16, rng.randrange(10**6))
    scale = float(Moments.of(x).covariance.trace())
    assert abs(frechet(x, x)) < 1e-9 * scale
    found = [frechet(x, features(400, 16, 5, noise)) for noise in (0, 0.3, 1, 3)]
    assert found == sorted(found)
    assert found[-1] > 10 * found[0]


def test_moments_of_batches_are_those_of_all(rng):
    x = features(101, 16, rng.randrange(10**6)) + 1e4
    sizes = [1, 16, 0, 40, 3, 41]
    random.Random(rng.random()).shuffle(sizes)
    streamed = GroupedMoments(16)
    for part in x.split(sizes):
        streamed.add(part)
    assert streamed.count == 101
    for without in (None, 0, 7, GROUPS - 1):
        kept = x[[i for i in range(101) if i % GROUPS != without]].double()
        total = streamed.total() if without is None else streamed.left_out()[without]
        assert total.count == len(kept)
        torch.testing.assert_close(total.mean, kept.mean(dim=0), rtol=1e-12, atol=0)
        torch.testing.assert_close(total.covariance, torch.cov(kept.T), rtol=1e-6, atol=1e-9)


def direct(x: torch.Tensor, y: torch.Tensor) -> float:
    """KVD by two loops over pairs, in Python's own numbers."""
    xs, ys = x.double().tolist(), y.double().tolist()

    def kernel(a: list[float], b: list[float]) -> float:
        return (math.fsum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def mean(ours: list[list[float]], theirs: list[list[float]], pairs: int) -> float:
        same = ours is theirs
        return (
            math.fsum(
                kernel(a, b)
                for i, a in enumerate(ours)
                for j, b in enumerate(theirs)
                if not (same and i == j)
            )
            / pairs
        )

    n, m = len(xs), len(ys)
    return mean(xs, xs, n * (n - 1)) + mean(ys, ys, m * (m - 1)) - 2 * mean(xs, ys, n * m)


def test_kvd_is_that_of_a_double_loop(rng):
    x, y = features(45, 5, rng.randrange(10**6)), features(52, 5, 3, noise=0.5)
    assert kernel_distance(x, y) == pytest.approx(direct(x, y), rel=1e-9)
    sums = KernelSums(x, y)
    kept = [x[[i for i in range(45) if i % GROUPS != 4]], y[[i for i in range(52) if i % GROUPS]]]
    assert sums.distance((4, 0)) == pytest.approx(direct(*kept), rel=1e-9)


def test_an_interval_of_a_mean_is_students():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(GROUPS, generator=generator, dtype=torch.float64)
    left_out = [float((groups.sum() - each) / (GROUPS - 1)) for each in groups]
    error = float(groups.std()) / GROUPS**0.5
    assert half_width([left_out]) == pytest.approx(2.093 * error, rel=1e-9)
    assert half_width([left_out, left_out]) == pytest.approx(2.093 * error * 2**0.5, rel=1e-9)


def test_kvd_is_as_far_from_zero_as_its_interval_says():
    held = []
    for seed in range(20):
        sums = KernelSums(features(48, 16, seed), features(48, 16, 1000 + seed))
        left_out = (
            [sums.distance((group, None)) for group in range(GROUPS)],
            [sums.distance((None, group)) for group in range(GROUPS)],
        )
        held.append(abs(sums.distance()) <= half_width(left_out))
    assert sum(held) >= 17
