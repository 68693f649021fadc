"""An NNI tuner as a source of new architectures in canonical form."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.strategy import Problem
from nasvid_strategies.nni import binding
from nasvid_strategies.nni.config import search_space

PATIENCE = 200
"""Known or infeasible proposals in a row after which a tuner counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An infeasible proposal, with the size of its violation and the value reported for it."""

    arch: Architecture
    violation: float
    value: float


class NniTuner:
    """An NNI tuner that proposes only architectures that need to be evaluated.

    Two proposals of the same architecture are evaluated once: the second receives the result of the
    first. A proposal that violates the constraints on cost receives a value worse than any so far,
    increased by its violation.

    refused: infeasible proposals that have not been taken yet.
    """

    def __init__(self, problem: Problem, name: str, arguments: Mapping[str, Any]) -> None:
        self.problem = problem
        self.refused: list[Refused] = []
        self._space, arguments = _search_space(problem, name, dict(arguments))
        self._tuner = binding.make_tuner(name, arguments, self._space, problem.seed)
        self._rng = random.Random(problem.seed)
        self._asked = 0
        self._values: dict[Architecture, float] = {}
        self._open: dict[Architecture, list[tuple[int, Any]]] = {}

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures to evaluate."""
        self._open = {}
        for _ in range(PATIENCE):
            if len(self._open) == n or not self._propose():
                break
        return list(self._open)

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Report the results to the tuner."""
        values = self.problem.objective_values(results)[:, 0]
        for result, value in zip(results, values, strict=True):
            self._values[result.arch] = self._finite(float(value))
        for arch, proposals in self._open.items():
            for number, parameters in proposals:
                self._receive(number, parameters, self._values[arch])

    def _propose(self) -> bool:
        """Take one proposal; return whether there may be more."""
        number, self._asked = self._asked, self._asked + 1
        with binding.seeded(self._rng):
            parameters = binding.propose(self._tuner, number)
        if parameters is None:
            return False
        space = self.problem.space
        arch = space.architecture(parameters.get("architecture", parameters))
        violation = float(self.problem.violation(space.encode(arch)[None])[0])
        if arch in self._values:
            self._receive(number, parameters, self._values[arch])
        elif violation > 0:
            value = max(self._values.values(), default=1.0) + violation
            self.refused.append(Refused(arch, violation, value))
            self._receive(number, parameters, value)
        else:
            self._open.setdefault(arch, []).append((number, parameters))
        return True

    def _receive(self, number: int, parameters: Any, value: float) -> None:
        with binding.seeded(self._rng):
            self._tuner.receive_trial_result(number, parameters, {"default": value})  # pyright: ignore[reportArgumentType]
            self._tuner.trial_end(number, True)

    def _finite(self, value: float) -> float:
        return value if math.isfinite(value) else max(self._values.values(), default=1.0) + 1


def _search_space(
    problem: Problem, name: str, arguments: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the space in NNI's format, and the remaining arguments for the tuner."""
    space = problem.space
    if name != "Batch":
        return search_space(space), arguments
    largest = dict(space.largest)
    try:
        archs = [dict(space.architecture({**largest, **a})) for a in arguments.pop("architectures")]
    except (TypeError, ValueError) as error:
        raise UserError(f"search.strategy.arguments.architectures: {error}") from error
    batch = [{"architecture": arch} for arch in archs]
    return {"batch": {"_type": "choice", "_value": batch}}, arguments
