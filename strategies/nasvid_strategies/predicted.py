"""Proposals by prediction: an evolution against predicted objectives, then the best of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from nasvid.evaluation import Evaluation
from nasvid.host.streams import stream
from nasvid.search.pareto import nondominated
from nasvid.strategy import Problem
from nasvid_strategies.breeding import Breeding
from nasvid_strategies.chosen import Chosen
from nasvid_strategies.predictor import Features, Fit, Kind, Predictor
from nasvid_strategies.unasked import Unasked

LEAST = 8
"""Results from which on anything is predicted."""
MOST = 128
"""Candidates among which those that improve the hypervolume are chosen."""
OPTIMISM = 1.0
"""Standard deviations by which a prediction is improved before it is compared."""


GENERATIONS, SIZE = 16, 128
"""Of the evolution against predictions."""
TRUSTED = 0.3
"""Kendall's tau, cross-validated, from which on a predictor is used."""


class Promising:
    """Chooses architectures to evaluate by what is predicted of them.

    They are found by an evolution against the predictions, which begins with the best that was
    found so far, and chosen for what they add to its hypervolume.
    """

    def __init__(self, problem: Problem, kind: Kind, breeding: Breeding, unasked: Unasked) -> None:
        self.problem = problem
        self._breeding = breeding
        self._unasked = unasked
        self._predicted = Predicted(problem, kind)
        self._before = Chosen(problem, f"{kind} {breeding}")
        self._skipped: list[int] = []
        self._results: list[Evaluation] = []
        self._generation = 0
        self._reported = 0

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Learn from results; those that are not finite teach nothing."""
        values = self.problem.objective_values(results)
        known = np.isfinite(values).all(axis=1) & np.isfinite([r.violation for r in results])
        self._results += [result for result, finite in zip(results, known, strict=True) if finite]
        self._generation += 1
        self._before.tell(results)

    def take(self, n: int) -> list[np.ndarray]:
        """Take up to n genomes from those unasked; none if too little is known to predict."""
        if n == 0 or len(self._results) < LEAST:
            return []
        chosen = self._before.get(n)
        if chosen is None:
            chosen = self._chosen(n)
            self._before.keep(n, chosen)
        else:
            self._skipped.append(len(self._results))
        return list(chosen[self._unasked.take(chosen)])

    def _chosen(self, n: int) -> np.ndarray:
        from threadpoolctl import threadpool_limits

        # How sums are rounded depends on the number of threads; a resumed search may have another.
        with threadpool_limits(1):
            self._predicted.catch_up(self._results, self._skipped)
            self._skipped = []
            return self._best_predicted(n)

    def _best_predicted(self, n: int) -> np.ndarray:
        fits = self._predicted.fit(self._results)
        self._report(fits)
        if any(fit.tau < TRUSTED for fit in fits.values()):
            return np.zeros((0, len(self.problem.space.choices)), dtype=np.int64)
        best = [result for result in self._results if result.feasible] or self._results
        found = self.problem.objective_values(best)
        genomes = self._evolved(np.stack([self.problem.space.encode(r.arch) for r in best]))
        genomes = genomes[self._unasked.free(genomes)]
        values, violations = self._predicted(genomes)
        genomes, values = genomes[violations == 0], values[violations == 0]
        return genomes[improving(found, values, n)]

    def _report(self, fits: Mapping[str, Fit]) -> None:
        """Print how well each objective is predicted, whenever the results have doubled."""
        known = len(self._results)
        if self.problem.run is None or known < 2 * self._reported:
            return
        self._reported = known
        for name, fit in fits.items():
            use = "" if fit.tau >= TRUSTED else "; too little to choose by"
            self.problem.run.print(f"search: {name} predicted from {known} subnets: {fit}{use}")

    def _evolved(self, first: np.ndarray) -> np.ndarray:
        """Return all genomes of an evolution against the predictions, feasible and distinct."""
        space = self.problem.space
        rng = stream(self.problem.seed, "predicted", self._generation)
        seen = Unasked(self.problem, rng)
        pool = first[seen.take(first)]
        everyone = [pool]
        values, violations = self._predicted(pool)
        for _ in range(GENERATIONS):
            kept = survivors(values, violations, SIZE)
            children = self._breeding.children(space, rng, pool[kept], SIZE)
            children = children[seen.take(children)]
            if len(children) == 0:
                break
            everyone.append(children)
            pool = np.concatenate([pool[kept], children])
            new_values, new_violations = self._predicted(children)
            values = np.concatenate([values[kept], new_values])
            violations = np.concatenate([violations[kept], new_violations])
        return np.concatenate(everyone)


class Predicted:
    """The objectives of unseen genomes: costs exactly, measured ones as predicted.

    If an evaluated architecture violates a measured constraint, its violation is predicted, too.
    """

    def __init__(self, problem: Problem, kind: Kind) -> None:
        self.problem = problem
        self._signs = [-1.0 if name in problem.maximised else 1.0 for name in problem.objectives]
        features = Features(problem.space, list(problem.costs.values()))
        measured = [name for name in problem.objectives if name not in problem.costs]
        self._predictors = {name: Predictor(kind, features) for name in measured}
        self._violation = Predictor(kind, features)
        self._violated = False

    def fit(self, results: Sequence[Evaluation]) -> dict[str, Fit]:
        """Fit the predictors to results whose values are finite; return how well each predicts."""
        fits = {name: self._fit(name, results) for name in self._predictors}
        self._violated = any(result.violation > 0 for result in results)
        if self._violated:
            self._fit("", results)
        return fits

    def catch_up(self, results: Sequence[Evaluation], counts: Sequence[int]) -> None:
        """Optimise hyperparameters where fits would have, which a resumed search leaves out.

        counts: the numbers of results, the first ones, to which they would have been fitted.
        """
        violated = [n for n in counts if any(each.violation > 0 for each in results[:n])]
        for name in (*self._predictors, ""):
            predictor = self._predictors.get(name, self._violation)
            if last := predictor.last_optimised(counts if name else violated):
                self._fit(name, results[:last])

    def _fit(self, name: str, results: Sequence[Evaluation]) -> Fit:
        """Fit the predictor of an objective, or of the violation if no name is given."""
        genomes = np.stack([self.problem.space.encode(result.arch) for result in results])
        if name:
            column = self.problem.objectives.index(name)
            values = self.problem.objective_values(results)[:, column]
        else:
            values = np.array([result.violation for result in results])
        predictor = self._predictors.get(name, self._violation)
        return predictor.fit(genomes, _without_outliers(values))

    def __call__(self, genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predicted objectives, `(n, objectives)`, to be minimised, and violations `(n,)`.

        What is predicted is optimistic by a standard deviation.
        """
        columns = []
        for name, sign in zip(self.problem.objectives, self._signs, strict=True):
            if name in self._predictors:
                mean, deviation = self._predictors[name].predict(genomes)
                columns.append(mean - OPTIMISM * deviation)
            else:
                columns.append(sign * self.problem.costs[name](genomes))
        violation = np.zeros(len(genomes))
        if self._violated:
            mean, deviation = self._violation.predict(genomes)
            violation = np.maximum(mean - OPTIMISM * deviation, 0)
        return np.stack(columns, axis=1), violation


def survivors(values: np.ndarray, violations: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of n members of a generation: by violation, then by nondomination.

    values: `(m, objectives)`, to be minimised. violations: `(m,)`. Of the last front that does not
    fit as a whole, those are taken that are spread over the first objective.
    """
    ranks = np.where(violations > 0, len(values), moocore.pareto_rank(values))
    order = np.lexsort([values[:, 0], violations, ranks])
    last = ranks[order][min(n, len(order)) - 1]
    whole, split = order[ranks[order] < last], order[ranks[order] == last]
    room = min(n - len(whole), len(split))
    return np.concatenate([whole, split[np.linspace(0, len(split) - 1, room).round().astype(int)]])


def improving(found: np.ndarray, candidates: np.ndarray, n: int) -> list[int]:
    """Return up to n candidates that together add most to the hypervolume of what was found.

    found: objectives `(m, objectives)` of evaluated architectures. candidates: predicted ones. All
    are to be minimised; the hypervolume's reference is the worst value found of each. Greedy: one
    after the other, each taken at its prediction.
    """
    low, high = found.min(axis=0), found.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    front = (found[nondominated(found)] - low) / span
    points = (candidates - low) / span
    reference = np.full(len(span), 1.1)
    volume = float(moocore.hypervolume(front, ref=reference))
    order = [int(i) for i in nondominated(points)][:MOST]
    chosen: list[int] = []
    while order and len(chosen) < n:
        volumes = [
            float(moocore.hypervolume(np.vstack([front, points[i]]), ref=reference)) for i in order
        ]
        best = int(np.argmax(volumes))
        if volumes[best] <= volume * (1 + 1e-9):
            break
        front, volume = np.vstack([front, points[order[best]]]), volumes[best]
        chosen.append(order.pop(best))
    return chosen


def _without_outliers(values: np.ndarray) -> np.ndarray:
    """Return values in which what is far worse than most is no worse than a bound."""
    low, high = np.quantile(values, [0.25, 0.75])
    return np.minimum(values, high + 3 * max(high - low, 1e-12))
