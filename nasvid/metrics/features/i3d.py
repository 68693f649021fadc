"""Features of I3D, a network for recognising actions, from a TorchScript file."""

from __future__ import annotations

import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nasvid.errors import UserError, first_line
from nasvid.feature_extractor import FeatureExtractor
from nasvid.host.reading import sha256
from nasvid.plugins.config import Config, RecipePath


class I3dConfig(Config):
    """Options of i3d."""

    path: RecipePath
    """The TorchScript file, usually named `i3d_torchscript.pt`. Loading it runs the code in it:
    take it from a source that you trust."""


class I3d(FeatureExtractor[I3dConfig]):
    """The I3D of published FVD: 400 logits of Kinetics-400, from a TorchScript file of your own.

    The file is that of StyleGAN-V (arXiv 2112.14683), a port of the original's network whose
    features differ by 0.0003 (github.com/universome/fvd-comparison). It is called as there: with
    pixels from 0 to 255 and `rescale=True, resize=True, return_features=True`. Published values are
    of 16 consecutive frames, 2,048 held-out clips and 2,048 videos; state yours. Those of TATS
    and cd-fvd are of another checkpoint and resizing. A result records the file's checksum.
    """

    is_reference = True

    @property
    def dim(self) -> int:
        """Numbers of a clip."""
        return 400

    @property
    def min_frames(self) -> int:
        """Frames that a clip must have."""
        return 16

    @property
    def identity(self) -> str:
        """The file's checksum."""
        return f"i3d (sha256 {sha256(Path(self.config.path))})"

    def check_ready(self) -> None:
        """Check that the file is there and holds TorchScript; it is loaded on first use."""
        path = Path(self.config.path)
        if not path.is_file():
            raise UserError(
                f"I3D: {path} does not exist; download i3d_torchscript.pt (see "
                "docs/feature_extractors.md) and set path"
            )
        try:
            with zipfile.ZipFile(path) as file:
                names = file.namelist()
        except zipfile.BadZipFile as error:
            raise UserError(
                f"I3D: {path} is not a TorchScript file, or is incomplete; download it again"
            ) from error
        if not any("/code/" in name for name in names):
            raise UserError(
                f"I3D: {path} has no TorchScript code, as files of weights alone; download "
                "i3d_torchscript.pt (see docs/feature_extractors.md)"
            )

    @cached_property
    def _model(self) -> Any:
        self.check_ready()
        try:
            return torch.jit.load(self.config.path, map_location="cpu").eval()
        except RuntimeError as error:
            reason = first_line(error)
            raise UserError(f"I3D: {self.config.path} cannot be loaded: {reason}") from error

    @torch.no_grad()
    def features(self, video: torch.Tensor) -> torch.Tensor:
        """Return the logits `b 400` of clips of at least 16 frames."""
        pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return self._model.to(video.device)(
            pixels, rescale=True, resize=True, return_features=True
        ).float()
