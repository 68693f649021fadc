"""Neural architecture search over video diffusion models.

Everything a plug-in author needs: the nouns, `register`, `Config` and the conformance suites.
Each name is imported on first use, so `import nasvid` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasvid.architecture import Architecture, AtLeast, Choice
    from nasvid.costs import Costs
    from nasvid.evaluation import Evaluation
    from nasvid.evaluator import Context, Evaluator, KnownCost, Metric, Metrics
    from nasvid.feature_extractor import FeatureExtractor
    from nasvid.layout import Layout, Part
    from nasvid.objective import Objective, ObjectiveConfig
    from nasvid.plugins import Config, ModelPath, Need, RecipePath, register
    from nasvid.sampler import PlannedSubnet, Role, Sampler, SamplerSection, Step, StepPlan
    from nasvid.shapes import DenoiserInput, Domain, Resolution, VideoShape
    from nasvid.slices import Segments
    from nasvid.space import SearchSpace
    from nasvid.strategy import Problem, RunContext, SearchObserver, Strategy
    from nasvid.supernet import Supernet
    from nasvid.testing import (
        EngineConformance,
        EvaluatorConformance,
        FeatureExtractorConformance,
        ObjectiveConformance,
        SamplerConformance,
        SpaceConformance,
        StrategyConformance,
        TextEncoderConformance,
        VaeConformance,
    )
    from nasvid.text_encoder import TextEncoder
    from nasvid.units import Place, Units
    from nasvid.vae import Compression, Vae, VaeConfig

__version__ = "0.1.0"

_WHERE = {
    "architecture": ("Architecture", "AtLeast", "Choice"),
    "costs": ("Costs",),
    "evaluation": ("Evaluation",),
    "evaluator": ("Context", "Evaluator", "KnownCost", "Metric", "Metrics"),
    "feature_extractor": ("FeatureExtractor",),
    "layout": ("Layout", "Part"),
    "objective": ("Objective", "ObjectiveConfig"),
    "plugins": ("Config", "ModelPath", "Need", "RecipePath", "register"),
    "sampler": ("PlannedSubnet", "Role", "Sampler", "SamplerSection", "Step", "StepPlan"),
    "shapes": ("DenoiserInput", "Domain", "Resolution", "VideoShape"),
    "slices": ("Segments",),
    "space": ("SearchSpace",),
    "strategy": ("Problem", "RunContext", "SearchObserver", "Strategy"),
    "supernet": ("Supernet",),
    "testing": (
        "EngineConformance",
        "EvaluatorConformance",
        "FeatureExtractorConformance",
        "ObjectiveConformance",
        "SamplerConformance",
        "SpaceConformance",
        "StrategyConformance",
        "TextEncoderConformance",
        "VaeConformance",
    ),
    "text_encoder": ("TextEncoder",),
    "units": ("Place", "Units"),
    "vae": ("Compression", "Vae", "VaeConfig"),
}
"""Module of this package -> the names exported from it."""
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Architecture",
    "AtLeast",
    "Choice",
    "Compression",
    "Config",
    "Context",
    "Costs",
    "DenoiserInput",
    "Domain",
    "EngineConformance",
    "Evaluation",
    "Evaluator",
    "EvaluatorConformance",
    "FeatureExtractor",
    "FeatureExtractorConformance",
    "KnownCost",
    "Layout",
    "Metric",
    "Metrics",
    "ModelPath",
    "Need",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveConformance",
    "Part",
    "Place",
    "PlannedSubnet",
    "Problem",
    "RecipePath",
    "Resolution",
    "Role",
    "RunContext",
    "Sampler",
    "SamplerConformance",
    "SamplerSection",
    "SearchObserver",
    "SearchSpace",
    "Segments",
    "SpaceConformance",
    "Step",
    "StepPlan",
    "Strategy",
    "StrategyConformance",
    "Supernet",
    "TextEncoder",
    "TextEncoderConformance",
    "Units",
    "Vae",
    "VaeConfig",
    "VaeConformance",
    "VideoShape",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"nasvid.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
