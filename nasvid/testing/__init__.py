"""Conformance suites: derive from one, and every law of that kind of plug-in is tested."""

from nasvid.testing.evaluator import EvaluatorConformance
from nasvid.testing.sampler import SamplerConformance
from nasvid.testing.space import SpaceConformance
from nasvid.testing.strategy import StrategyConformance

__all__ = [
    "EvaluatorConformance",
    "SamplerConformance",
    "SpaceConformance",
    "StrategyConformance",
]
