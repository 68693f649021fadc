"""Which architectures are worth training before the final choice."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from nasvid.evaluation import Evaluation
from nasvid.evaluator import Metric
from nasvid.search.candidates import candidates
from nasvid.search.driver import SearchResult
from nasvid.search.front import fronts, members
from nasvid.search.goals import Goals
from nasvid.testing.toy import SHAPES, ToySpace


def result(objectives: tuple[str, ...], quality: dict[str, int]) -> SearchResult:
    """Random architectures with random qualities: each depends on a seed."""
    space, rng = ToySpace.of(), np.random.default_rng(0)
    metrics = {name: Metric(name, "") for name in quality}
    cost = Goals.of(space, SHAPES, [], (), ()).known
    keys = {key: metric for metric in metrics.values() for key in metric.keys(SHAPES)}
    goals = Goals(space, SHAPES, {**keys, "macs": Metric("macs", "")}, cost, objectives, (), ())
    found = []
    for arch in {space.sample(rng) for _ in range(60)}:
        values = {
            name: float(np.random.default_rng([seed, len(found)]).random())
            for name, seed in quality.items()
        }
        each = {f"{name}@{side}": value for name, value in values.items() for side in SHAPES}
        known = {name: float(of.of(space.encode(arch)[None])[0]) for name, of in cost.items()}
        found.append(Evaluation(arch, {**values, **each, **known}, 0.0))
    return SearchResult(goals, tuple(found), ())


def macs(evaluations: list[Evaluation]) -> np.ndarray:
    return np.array([each.metrics["macs"] for each in evaluations])


def test_candidates_are_the_best_that_cost_no_more_than_a_member_of_the_front():
    found = result(("loss", "macs"), {"loss": 1})
    chosen = members(fronts(found), found.goals, 4)
    limits = [-math.inf, *macs(chosen)[:-1], math.inf]
    got = candidates(found, 4, 3)
    expected = []
    for low, high in pairwise(limits):
        here = [e for e in found.evaluations if low < e.metrics["macs"] <= high]
        expected += sorted(here, key=lambda e: e.metrics["loss"])[:3]
    assert [e.arch.id for e in got] == [e.arch.id for e in expected]
    assert {e.arch for e in chosen} <= {e.arch for e in got}


def test_with_one_objective_all_candidates_compete_for_one_place():
    found = result(("loss",), {"loss": 1})
    bad = [replace(each, violation=1.0) for each in found.evaluations[:20]]
    found = replace(found, evaluations=(*bad, *found.evaluations[20:]))
    ranked = sorted(found.evaluations[20:], key=lambda e: e.metrics["loss"])
    assert candidates(found, 8, 6) == ranked[:6]
    assert candidates(found, 1, 2) == ranked[:2]


def test_with_two_qualities_front_comes_after_front():
    found = result(("loss", "fvd"), {"loss": 1, "fvd": 2})
    got = candidates(found, 1, 60)
    assert len(got) == len(found.evaluations)
    for i, each in enumerate(got):
        for worse in got[:i]:
            assert not (
                each.metrics["loss"] < worse.metrics["loss"]
                and each.metrics["fvd"] < worse.metrics["fvd"]
            )
