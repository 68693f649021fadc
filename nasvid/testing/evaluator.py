"""The rules of an evaluator, as a test class to derive from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.evaluator import Context, Evaluator, Metric, Metrics
from nasvid.plugins.config import Config
from nasvid.recipe.constraint import Constraint
from nasvid.shapes import VideoShape
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.same import assert_same
from nasvid.testing.toy import ToySpace, toy_context


class EvaluatorConformance(Conformance):
    """Derive from it, set `evaluator`, and pytest checks every rule of an evaluator.

    class TestMine(EvaluatorConformance):
        evaluator = Mine
    """

    evaluator: ClassVar[type[Evaluator]]
    """The class under test."""

    def context(self) -> Context:
        """Return the context; by default a toy supernet at two resolutions."""
        return toy_context(ToySpace.of())

    def make(self, context: Context) -> Evaluator:
        """Return a new evaluator."""
        return self.made(self.evaluator, context)

    def config(self) -> Config:
        """Return the validated options."""
        return self.configured(self.evaluator)

    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that the class declares."""
        return self.evaluator.declare(self.config())

    def candidates(self, context: Context) -> list[Architecture]:
        """Return the smallest, the largest and some other architectures."""
        space, rng = context.supernet.space, np.random.default_rng(0)
        others = {space.sample(rng) for _ in range(4)} - {space.smallest, space.largest}
        return [space.smallest, space.largest, *sorted(others, key=lambda arch: arch.id)]

    def reproducible(self, found: list[Metrics]) -> list[Metrics]:
        """Return the metrics without those declared as measured."""
        measured = {metric.name for metric in self.metrics() if metric.measured}
        return [
            {key: value for key, value in row.items() if key.partition("@")[0] not in measured}
            for row in found
        ]

    def test_declares_metrics_before_it_is_made(self) -> None:
        """The class declares the instance's metrics, with names that constraints can parse."""
        declared = self.metrics()
        assert declared
        assert self.make(self.context()).metrics == declared
        names = [metric.name for metric in declared]
        assert len(set(names)) == len(names)
        for name in names:
            assert Constraint.parse(f"{name}@8 <= 1").metric == f"{name}@8"

    def test_says_whether_it_makes_videos(self) -> None:
        """`makes_videos` is true exactly if it samples: its metrics then depend on the sampling."""
        context, made = self.context(), 0

        def make_videos(
            model: nn.Module, prompts: Sequence[str], shape: VideoShape
        ) -> Iterator[torch.Tensor]:
            nonlocal made
            made += len(prompts)
            return context.make_videos(model, prompts, shape)

        watched = replace(context, make_videos=make_videos)
        self.make(watched).evaluate(self.candidates(watched))
        assert (made > 0) == self.evaluator.makes_videos

    def test_gives_what_it_declares(self) -> None:
        """It returns each declared metric, at each resolution if so declared, as a finite float."""
        context = self.context()
        expected = {key for metric in self.metrics() for key in metric.keys(context.shapes)}
        archs = self.candidates(context)
        found = self.make(context).evaluate(archs)
        assert len(found) == len(archs)
        for row in found:
            assert set(row) == expected
            for key, value in row.items():
                assert isinstance(value, float), f"{key} is of type {type(value).__name__}"
                assert math.isfinite(value), f"{key} is {value}"

    def test_the_bare_name_is_the_mean_over_the_resolutions(self) -> None:
        """`loss` is the mean of `loss@64`, `loss@128`, and so on."""
        context = self.context()
        for row in self.make(context).evaluate(self.candidates(context)):
            for metric in self.metrics():
                name, *resolutions = metric.keys(context.shapes)
                if resolutions:
                    assert row[name] == pytest.approx(
                        np.mean([row[resolution] for resolution in resolutions])
                    )

    def test_what_is_known_beforehand_is_what_it_evaluates(self) -> None:
        """`known` has the metrics declared as known, with the same values, within the bounds."""
        context = self.context()
        space, archs = context.supernet.space, self.candidates(context)
        known = self.evaluator.known(self.config(), space, context.shapes)
        declared = [key for m in self.metrics() if m.known for key in m.keys(context.shapes)]
        assert set(known) == set(declared)
        found = self.make(context).evaluate(archs)
        genomes = np.stack([space.encode(arch) for arch in archs])
        for key, cost in known.items():
            least, most = cost.bounds()
            values = cost.of(genomes)
            assert values.tolist() == pytest.approx([row[key] for row in found])
            assert least <= values.min() <= values.max() <= most

    def test_evaluates_alike_in_any_order_and_company(self) -> None:
        """A result depends on its architecture alone, not on order, batch or earlier calls."""
        context = self.context()
        evaluator, archs = self.make(context), self.candidates(context)
        together = self.reproducible(evaluator.evaluate(archs))
        backwards = self.reproducible(evaluator.evaluate(archs[::-1]))[::-1]
        alone = [self.reproducible(self.make(context).evaluate([arch]))[0] for arch in archs]
        assert together == backwards == alone

    def test_leaves_the_supernet_alone(self) -> None:
        """Weights, mode and gradients stay as they were."""
        context = self.context()
        net = context.supernet.net
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        self.make(context).evaluate(self.candidates(context))
        after = net.state_dict()
        for name, tensor in before.items():
            assert_same(after[name], tensor, f"{name}, afterwards,")
        assert all(parameter.grad is None for parameter in net.parameters())
        assert not any(module.training for module in net.modules())

    def test_leaves_global_random_state_alone(self) -> None:
        """Random numbers come from the evaluator's own generator."""
        context = self.context()
        with untouched_randomness():
            self.make(context).evaluate(self.candidates(context))
