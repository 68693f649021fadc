"""Correlations of losses: the numbers of scipy, over all and within bands of cost."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from nasvid.search.agreement import agreement, rho, tau, tau_in_bands


def drawn(rng, n: int, *, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(rng.randrange(2**32))
    x = generator.normal(size=n)
    y = x + generator.normal(size=n)
    return (x.round(), y.round()) if tied else (x, y)


@pytest.mark.parametrize("tied", [False, True])
def test_tau_and_rho_are_scipys(rng, tied: bool) -> None:
    for n in (6, 12, 31):
        x, y = drawn(rng, n, tied=tied)
        for ours, theirs in ((tau, kendalltau), (rho, spearmanr)):
            expected = theirs(x, y).statistic
            assert float(ours(x, y)) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    both = np.stack([drawn(rng, 9), drawn(rng, 9)], axis=1)
    for ours, theirs in ((tau, kendalltau), (rho, spearmanr)):
        assert ours(*both) == pytest.approx(
            [theirs(*pair).statistic for pair in both.swapaxes(0, 1)]
        )


def test_what_is_tied_throughout_has_no_correlation() -> None:
    assert math.isnan(tau(np.ones(5), np.arange(5.0)))
    assert math.isnan(rho(np.arange(5.0), np.ones(5)))


def test_bands_are_quarters_by_cost(rng) -> None:
    x, y = drawn(rng, 14)
    macs = np.array(rng.sample(range(100), 14))
    order = np.argsort(macs)
    quarters = [order[:4], order[4:8], order[8:11], order[11:]]
    expected = np.mean([kendalltau(x[q], y[q]).statistic for q in quarters])
    assert float(tau_in_bands(x, y, macs)) == pytest.approx(expected)
    found = agreement(x + 9, y + 9, macs, macs, 0)
    assert found["pairs"] == {"all": 91, "in_bands": 6 + 6 + 3 + 3}
    assert found["predictors"]["inherited"]["tau_in_bands"][0] == pytest.approx(expected)


def test_more_macs_predict_a_lower_loss_and_intervals_come_from_the_seed(rng) -> None:
    macs = np.arange(1.0, 13.0)
    alone = 1 / macs
    inherited, _ = drawn(rng, 12)
    found = agreement(inherited + 9, alone, macs[::-1], macs, 3)
    assert found["predictors"]["macs"]["tau"] == [1.0, 1.0, 1.0]
    assert found["predictors"]["params"]["rho"] == [-1.0, -1.0, -1.0]
    value, low, high = found["predictors"]["inherited"]["tau"]
    assert value == pytest.approx(kendalltau(inherited, alone).statistic)
    assert low < value < high
    assert agreement(inherited + 9, alone, macs[::-1], macs, 3) == found
    assert agreement(inherited + 9, alone, macs[::-1], macs, 4) != found


def test_an_interval_is_that_of_resampled_architectures(rng) -> None:
    x, y = drawn(rng, 10)
    _, low, high = agreement(x + 9, y + 9, x, y, 0)["predictors"]["inherited"]["rho"]
    generator = np.random.default_rng(1)
    rows = generator.integers(10, size=(2000, 10))
    again = rho(x[rows], y[rows])
    assert [low, high] == pytest.approx(np.nanpercentile(again, [2.5, 97.5]), abs=0.08)


def test_ratios_are_of_the_inherited_loss_to_that_alone() -> None:
    alone = np.array([1.0, 2.0, 4.0])
    found = agreement(alone * [1.5, 1.1, 1.2], alone, np.ones(3), np.array([1.0, 3.0, 2.0]), 0)
    assert found["ratio"] == pytest.approx({"median": 1.2, "max": 1.5, "largest": 1.1})
    assert found["predictors"]["params"]["tau"] is None
    assert found["pairs"] == {"all": 3, "in_bands": 0}
    assert found["predictors"]["macs"]["tau_in_bands"] is None


def test_two_architectures_have_no_correlation() -> None:
    two = np.array([1.0, 2.0])
    found = agreement(two, two, two, two, 0)
    assert all(each is None for own in found["predictors"].values() for each in own.values())
    assert found["ratio"]["median"] == 1
