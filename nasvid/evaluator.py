"""Evaluator: judges architectures; and what the framework judges by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nasvid.architecture import Architecture
from nasvid.config import Config

if TYPE_CHECKING:
    from nasvid.search.judge import Context

Metrics = dict[str, float]
"""Flat: name -> value; a metric of one resolution is `name@resolution` (`loss@64`)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric's numbers mean."""

    name: str
    unit: str
    goal: Literal["minimise", "maximise"] = "minimise"


class Evaluator(ABC):
    """Judges architectures of a trained supernet."""

    Config: ClassVar[type[Config]] = Config
    """The evaluator's options in a recipe."""

    metrics: ClassVar[tuple[Metric, ...]]
    """What `evaluate` returns: each metric at every resolution (`loss@64`) and, under the bare
    name, its mean over the resolutions; a metric that resolution does not change only the latter.
    """

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context

    @abstractmethod
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return each architecture's metrics, in order."""
