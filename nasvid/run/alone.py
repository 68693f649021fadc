"""A single architecture as a search space of its own, which trains in the same loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from nasvid.architecture import Architecture, Choice
from nasvid.costs import Costs
from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.space import SearchSpace


class OneNetwork(SearchSpace):
    """The space of a single architecture of another space, without choices."""

    def __init__(self, space: SearchSpace, arch: Architecture) -> None:
        self.whole, self.arch = space, arch
        super().__init__(space.config, space.domain)

    def make_choices(self) -> Sequence[Choice]:
        """Return none."""
        return ()

    def build(self, arch: Architecture) -> nn.Module:
        """Return the model."""
        del arch
        return self.whole.build(self.arch)

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run the model as the other space does."""
        return self.whole.denoise(model, x)

    def feature_points(self, arch: Architecture) -> Mapping[str, str]:
        """Return those of the model in the other space."""
        del arch
        return self.whole.feature_points(self.arch)

    def costs(self, genomes: np.ndarray, shape: VideoShape) -> Costs:
        """Return its costs, once for each genome."""
        row = self.whole.encode(self.arch)
        return self.whole.costs(np.tile(row, (len(genomes), 1)), shape)
