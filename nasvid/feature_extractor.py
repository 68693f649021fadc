"""FeatureExtractor: clips to vectors, between whose distributions distances are measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection

if TYPE_CHECKING:
    import torch


class FeatureExtractor(Plugin[C], ABC):
    """Turns a clip into a vector of numbers. It is frozen, and loads its weights on first use."""

    is_reference: ClassVar[bool] = False
    """Whether distances of its features are what is published as FVD and KVD. They are then named
    `fvd` and `kvd`, and otherwise after the extractor: `fvd_proxy`."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers of a clip, known without loading weights."""

    @property
    def min_frames(self) -> int:
        """Frames that a clip must have, known without loading weights."""
        return 1

    @abstractmethod
    def features(self, video: torch.Tensor) -> torch.Tensor:
        """Return the features of clips, `b dim`, float32, each of its own clip alone.

        video: `b 3 t h w`, float32 in [-1, 1], on the device to compute on; any height and width.
        """


class FeatureSection(PluginSection):
    """A feature extractor and its config."""

    kind = "feature_extractors"

    def make(self) -> FeatureExtractor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the extractor; it loads weights on first use."""
        return super().make()
