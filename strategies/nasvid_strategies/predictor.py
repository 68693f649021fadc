"""Predictors of measured values from genomes: ridge regression and Gaussian processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nasvid.space import SearchSpace

Kind = Literal["ridge", "gaussian_process"]
Cost = Callable[[np.ndarray], np.ndarray]

FOLDS = 5
"""Of the cross-validation."""
GROWTH = 1.25
"""How much more values there are when hyperparameters are optimised again."""
MOST_FITTED = 1024
"""Values that a Gaussian process is fitted to: its time grows with their third power."""
ALPHAS = np.logspace(-3, 3, 13)
"""Penalties among which ridge regression chooses."""


class Features:
    """What a predictor sees of a genome: its options, one-hot, and the logarithms of its costs."""

    def __init__(self, space: SearchSpace, costs: Sequence[Cost]) -> None:
        self._sizes = [len(choice.options) for choice in space.choices]
        self._costs = costs

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Return the features of genomes `(n, choices)`: float64 `(n, features)`."""
        pairs = zip(genomes.T, self._sizes, strict=True)
        columns = [np.eye(size)[options] for options, size in pairs]
        columns += [np.log1p(np.maximum(cost(genomes), 0))[:, None] for cost in self._costs]
        return np.concatenate(columns, axis=1)


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a predictor predicts what it was not fitted to: 5-fold cross-validation.

    r2: the share of the variance that it explains; below 0 if the mean predicts better.
    tau: Kendall's rank correlation.
    """

    r2: float
    tau: float

    def __str__(self) -> str:
        return f"R² {self.r2:.2f}, Kendall's tau {self.tau:.2f}"


class Predictor:
    """Predicts one measured value; a deterministic function of what it is fitted to.

    scikit-learn is imported on first use.
    """

    def __init__(self, kind: Kind, features: Features) -> None:
        self._kind = kind
        self._features = features
        self._scale = (0.0, 1.0)
        self._center = (np.zeros(0), np.ones(0))
        self._model: Any = None
        self._optimised_at = 0

    def fit(self, genomes: np.ndarray, values: np.ndarray) -> Fit:
        """Fit the predictor to n finite values, float64 `(n,)`, and return how well it predicts.

        A Gaussian process optimises its hyperparameters when the number of values has grown by a
        quarter since it last did. Of more than `MOST_FITTED` values, it learns from the last half
        as many, which a search found near its front, and from others spread over those before.
        """
        known = len(values)
        if self._kind == "gaussian_process":
            kept = _kept(known)
            genomes, values = genomes[kept], values[kept]
        x = self._features(genomes)
        deviation = x.std(axis=0)
        self._center = (x.mean(axis=0), np.where(deviation > 1e-9, deviation, 1.0))
        self._scale = (float(values.mean()), max(float(values.std()), 1e-12))
        x, y = self._standard(x), (values - self._scale[0]) / self._scale[1]
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # Hyperparameters at a bound, which few or noiseless values lead to, serve as well.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model = self._made(known).fit(x, y)
            return self._cross_validated(x, y)

    def predict(self, genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation of each prediction; float64 `(n,)` each.

        Ridge regression has no deviation: 0.
        """
        x = self._standard(self._features(genomes))
        if self._kind == "ridge":
            mean, deviation = self._model.predict(x), np.zeros(len(x))
        else:
            mean, deviation = self._model.predict(x, return_std=True)
        return mean * self._scale[1] + self._scale[0], deviation * self._scale[1]

    def last_optimised(self, counts: Sequence[int]) -> int:
        """Return the last number of values at which fits to these numbers of them would optimise.

        0 if none would.
        """
        at, last = self._optimised_at, 0
        for n in counts if self._kind == "gaussian_process" else ():
            if n >= GROWTH * at:
                at = last = n
        return last

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self._center[0]) / self._center[1]

    def _made(self, n: int) -> Any:
        if self._kind == "ridge":
            from sklearn.linear_model import RidgeCV

            return RidgeCV(ALPHAS)
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        if self._model is not None and n < GROWTH * self._optimised_at:
            return self._as_optimised()
        self._optimised_at = n
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(10.0, (1e-1, 1e3))
        return GaussianProcessRegressor(kernel + WhiteKernel(0.1, (1e-6, 1.0)))

    def _as_optimised(self) -> Any:
        """Return a model that is not fitted yet, with the hyperparameters of the present one."""
        from sklearn.base import clone

        model: Any = clone(self._model)
        if self._kind == "gaussian_process":
            model.set_params(kernel=self._model.kernel_, optimizer=None)
        return model

    def _cross_validated(self, x: np.ndarray, y: np.ndarray) -> Fit:
        from scipy.stats import kendalltau

        model = self._as_optimised()
        predicted, fold = np.empty(len(y)), np.arange(len(y)) % FOLDS
        for number in range(min(FOLDS, len(y))):
            held_out = fold == number
            predicted[held_out] = model.fit(x[~held_out], y[~held_out]).predict(x[held_out])
        r2 = 1 - float(((predicted - y) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12))
        tau = float(kendalltau(predicted, y)[0])  # pyright: ignore[reportArgumentType]
        return Fit(r2, tau if np.isfinite(tau) else 0.0)


def _kept(n: int) -> np.ndarray:
    """Return the places of the values, of n, that a Gaussian process is fitted to."""
    if n <= MOST_FITTED:
        return np.arange(n)
    half = MOST_FITTED // 2
    return np.concatenate([np.arange(half) * (n - half) // half, np.arange(n - half, n)])
