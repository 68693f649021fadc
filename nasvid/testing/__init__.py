"""Conformance suites: a subclass tests that a plug-in follows every rule of its kind."""

from importlib.util import find_spec

if find_spec("pytest") is None:
    raise ModuleNotFoundError(
        "The conformance suites need pytest: pip install 'nasvid[testing]'", name="pytest"
    )

from nasvid.testing.engine import EngineConformance
from nasvid.testing.evaluator import EvaluatorConformance
from nasvid.testing.feature_extractor import FeatureExtractorConformance
from nasvid.testing.objective import ObjectiveConformance
from nasvid.testing.sampler import SamplerConformance
from nasvid.testing.space import SpaceConformance
from nasvid.testing.strategy import StrategyConformance
from nasvid.testing.text_encoder import TextEncoderConformance
from nasvid.testing.vae import VaeConformance

__all__ = [
    "EngineConformance",
    "EvaluatorConformance",
    "FeatureExtractorConformance",
    "ObjectiveConformance",
    "SamplerConformance",
    "SpaceConformance",
    "StrategyConformance",
    "TextEncoderConformance",
    "VaeConformance",
]
