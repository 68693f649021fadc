"""Conformance suites: derive a class, name a plug-in, and pytest checks every law of its kind."""

import pytest

for _kind in ("evaluator", "randomness", "sampler", "space", "strategy"):
    pytest.register_assert_rewrite(f"{__name__}.{_kind}")

from nasvid.testing.evaluator import EvaluatorConformance  # noqa: E402 (rewritten first)
from nasvid.testing.sampler import SamplerConformance  # noqa: E402
from nasvid.testing.strategy import StrategyConformance  # noqa: E402

__all__ = ["EvaluatorConformance", "SamplerConformance", "StrategyConformance"]
