"""The sampler `attentive`: of several subnets of about the same cost, the most or least promising.

Source: Wang et al., "AttentiveNAS: Improving Neural Architecture Search via Attentive Sampling",
arXiv 2011.09011, section 4. There, subnets are compared by a predictor or by their losses on a
batch. Plans do not depend on losses, so here an estimate is fixed before training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.plugins.config import Config, RecipePath
from nasvid.sampler import PlannedSubnet, Role, Sampler, Step, StepPlan
from nasvid.search.record import read_record
from nasvid.space import SearchSpace

Estimate = Callable[[np.ndarray], np.ndarray]
"""Genomes `(n, choices)` -> `(n,)`: what is estimated of each; lower is better."""
PENALTY = 1.0
"""Of the ridge regression, whose values are in standard deviations."""
LEAST = 16
"""Evaluations that a record must have."""


class AttentiveConfig(Config):
    """Options of attentive."""

    prefer: Literal["best", "worst"] = "best"
    """Which of the candidates is trained: `best` attends to what a front will consist of, `worst`
    to what lags behind."""
    candidates: int = Field(default=16, ge=2, le=1000)
    """Number of subnets compared."""
    metric: Literal["params", "macs"] = "macs"
    """The cost over which subnets are drawn uniformly. In a warm-up, it is the warm-up's metric."""
    record: RecipePath | None = None
    """`search/record.jsonl` of an earlier run on the same space, from which the objective is
    predicted. Without one, the candidate is best that has most of the other cost: of subnets with
    equal MACs the one with most parameters. Keep the file: a resumed training and `nasvid rank`
    read it again."""
    objective: str = "loss"
    """The metric of the record that is predicted; lower is better."""


class Attentive(Sampler[AttentiveConfig]):
    """Draws a cost uniformly, several subnets of about this cost, and trains the best or the worst.

    Best is what a fixed estimate says: a prediction from the record of an earlier search, or a
    cost.
    """

    def __init__(self, config: AttentiveConfig) -> None:
        super().__init__(config)
        self._evaluations = _read(config, Path(config.record)) if config.record else None
        self._estimates: dict[SearchSpace, Estimate] = {}

    def check_space(self, space: SearchSpace) -> None:
        """Check that the record is of this space."""
        if self._evaluations is not None:
            self._predicted(space, self._evaluations)

    def plan(self, step: Step) -> StepPlan:
        """Plan one subnet."""
        space, floor, shape = step.space, step.floor, step.shape
        metric = self.config.metric if floor is None else floor.metric
        bottom = space.cost(space.smallest, metric, shape) / space.cost(
            space.largest, metric, shape
        )
        target = step.rng.uniform(max(bottom, floor.fraction if floor else 0.0), 1.0)
        archs = [
            space.smallest_above(step.rng, metric, target, shape)
            for _ in range(self.config.candidates)
        ]
        genomes = np.stack([space.encode(arch) for arch in archs])
        if self._evaluations is None:
            other = "params" if metric == "macs" else "macs"
            values = -space.costs(genomes, shape)[other]
        else:
            values = self._predicted(space, self._evaluations)(genomes)
        place = values.argmin() if self.config.prefer == "best" else values.argmax()
        return step.plan([PlannedSubnet(archs[int(place)], Role.RANDOM)])

    def _predicted(self, space: SearchSpace, evaluations: list[Evaluation]) -> Estimate:
        if space not in self._estimates:
            self._estimates[space] = _ridge(self.config, space, evaluations)
        return self._estimates[space]


def _read(config: AttentiveConfig, path: Path) -> list[Evaluation]:
    found = read_record(path, fix="name the record of another search")
    known = [each for each in found if math.isfinite(each.metrics.get(config.objective, math.nan))]
    if len(known) < LEAST:
        held = f"has {len(known)} evaluations with a finite '{config.objective}'"
        raise UserError(
            f"The record {path} {held if path.exists() else 'does not exist'}; attentive needs "
            f"at least {LEAST}, from a search of the same space"
        )
    return known


def _ridge(config: AttentiveConfig, space: SearchSpace, evaluations: list[Evaluation]) -> Estimate:
    """Return a ridge regression over one-hot options.

    Its weights are whole numbers, so that all ranks order candidates alike, whichever way their
    processors round.
    """
    try:
        archs = [space.architecture(each.arch) for each in evaluations]
    except ValueError as error:
        raise UserError(
            f"The record {config.record} is not of this space ({error}); name that of a search of "
            "the same space"
        ) from error
    sizes = [len(choice.options) for choice in space.choices]

    def one_hot(genomes: np.ndarray) -> np.ndarray:
        return np.hstack([np.eye(n)[column] for n, column in zip(sizes, genomes.T, strict=True)])

    x = one_hot(np.stack([space.encode(arch) for arch in archs]))
    y = np.array([each.metrics[config.objective] for each in evaluations])
    x, y = x - x.mean(axis=0), (y - y.mean()) / max(float(y.std()), 1e-12)
    weights = np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ y)
    whole = np.round(weights * 1e6).astype(np.int64)
    return lambda genomes: one_hot(genomes).astype(np.int64) @ whole
