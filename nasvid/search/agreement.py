"""How well the loss inside the supernet, or cost alone, predicts the loss of training alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from nasvid.host.streams import stream

BANDS = 4
"""Bands of equal cost: quarters of the architectures, by their MACs."""
RESAMPLES = 2000
FEWEST = 3
"""Architectures that have a correlation: that of two is 1 or -1, whatever they are."""
AT_ONCE = 4_000_000
"""Pairs of architectures that are compared at once."""

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""A function of predictions, losses and MACs, each `... n`; nan where it is not defined."""


def tau(predicted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b along the last axis; nan if all predictions or all values are tied.

    Source: Kendall, Biometrika 33 (1945).
    """
    ours, theirs = (np.sign(x[..., :, None] - x[..., None, :]) for x in (predicted, found))
    both = ((ours**2).sum(axis=(-2, -1)) * (theirs**2).sum(axis=(-2, -1))) ** 0.5
    return _ratio((ours * theirs).sum(axis=(-2, -1)), both)


def rho(predicted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return Spearman's rho along the last axis; nan as `tau`."""
    ours, theirs = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (predicted, found))
    both = ((ours**2).sum(axis=-1) * (theirs**2).sum(axis=-1)) ** 0.5
    return _ratio((ours * theirs).sum(axis=-1), both)


def tau_in_bands(predicted: np.ndarray, found: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """Return the mean of the bands' taus along the last axis, of those that have one."""
    order = np.argsort(macs, axis=-1, kind="stable")
    ours, theirs = (np.take_along_axis(x, order, axis=-1) for x in (predicted, found))
    bands = [tau(ours[..., band], theirs[..., band]) for band in _bands(macs.shape[-1])]
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # all are nan
        return np.nanmean(bands, axis=0)


STATISTICS: Mapping[str, Statistic] = {
    "tau": lambda predicted, found, macs: tau(predicted, found),
    "rho": lambda predicted, found, macs: rho(predicted, found),
    "tau_in_bands": tau_in_bands,
}


def agreement(
    inherited: np.ndarray, alone: np.ndarray, params: np.ndarray, macs: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return how well each of three predictors ranks n architectures by their loss alone.

    Of the inherited loss lower predicts better, of parameters and MACs more. All are float `(n,)`;
    the last architecture in MACs is the largest.

    Returns `predictors`, name -> statistic -> value and 95% interval of `RESAMPLES` resamplings of
    the architectures, null where it is not defined; `pairs`, how many are compared, and how many
    within bands; `ratio`, of the inherited loss to that alone: `median`, `max`, `largest`.
    """
    n, ratio = len(alone), inherited / alone
    resampled = stream(seed, "agreement").integers(n, size=(RESAMPLES, n))
    predictors = {"inherited": inherited, "macs": -macs, "params": -params}
    return {
        "predictors": {
            name: {
                key: _estimate(statistic, (predicted, alone, macs), resampled)
                for key, statistic in STATISTICS.items()
            }
            for name, predicted in predictors.items()
        },
        "pairs": {"all": _pairs(n), "in_bands": sum(_pairs(len(band)) for band in _bands(n))},
        "ratio": {
            "median": float(np.median(ratio)),
            "max": float(ratio.max()),
            "largest": float(ratio[macs.argmax()]),
        },
    }


def _estimate(
    statistic: Statistic, values: tuple[np.ndarray, ...], resampled: np.ndarray
) -> list[float] | None:
    """Return a statistic and its interval: value, low, high."""
    predicted, found, macs = values
    value = float(statistic(predicted, found, macs))
    if np.isnan(value) or len(found) < FEWEST:
        return None
    parts = np.array_split(resampled, -(-resampled.size * len(found) // AT_ONCE))
    again = [statistic(predicted[rows], found[rows], macs[rows]) for rows in parts]
    low, high = np.nanpercentile(np.concatenate(again), [2.5, 97.5])
    return [value, float(low), float(high)]


def _bands(n: int) -> list[np.ndarray]:
    """Return the places of each band's architectures, in the order of MACs."""
    return [band for band in np.array_split(np.arange(n), BANDS) if len(band) > 1]


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
