"""Features of VideoMAE, a self-supervised video transformer, through transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch.nn import functional as F

from nasvid.errors import UserError, first_line
from nasvid.feature_extractor import FeatureExtractor
from nasvid.host.reading import fingerprint
from nasvid.host.weights import check_tensors, find_weights, read_config, refuse
from nasvid.plugins.config import Config, RecipePath
from nasvid.plugins.needs import Need

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels that published checkpoints were trained on, ImageNet's, for values from 0 to 1."""
PREFIX = "videomae."
"""Prefix of names in files of models that the encoder is a part of."""
BIASES = {"query.bias": "q_bias", "value.bias": "v_bias"}
"""Names of biases in recent versions of transformers -> those in files."""


def _in_files(name: str) -> str:
    """Return the name that a file has for a tensor of the model."""
    for new, old in BIASES.items():
        name = name.replace(f".{new}", f".{old}")
    return name


def _renamed(name: str, names: Mapping[str, str]) -> str:
    plain = _in_files(name.removeprefix(PREFIX))
    return names.get(plain, name)


class VideoMaeConfig(Config):
    """Options of videomae."""

    path: RecipePath
    """A local folder of a VideoMAE model of transformers, such as a download of
    `MCG-NJU/videomae-base`."""


class VideoMae(FeatureExtractor[VideoMaeConfig]):
    """VideoMAE through transformers, from a local folder: its last hidden states, averaged.

    Clips are resized to the model's size, and of longer ones the first frames are taken. Its
    distances are less biased towards single frames than I3D's (Ge et al., arXiv 2404.12391, who
    use VideoMAE-v2), and comparable only with those of the same checkpoint: a result records a hash
    of the folder.
    """

    needs: ClassVar = (Need("transformers", "pip install 'nasvid[text]'"),)

    @property
    def dim(self) -> int:
        """Numbers of a clip: the hidden size in the folder's config."""
        return int(self._settings["hidden_size"])

    @property
    def min_frames(self) -> int:
        """Frames that a clip must have: those that the model takes."""
        return int(self._settings["num_frames"])

    @property
    def identity(self) -> str:
        """The folder's name and a hash of its content."""
        folder = Path(self.config.path)
        return f"videomae '{folder.name}' ({fingerprint(folder)})"

    def check_ready(self) -> None:
        """Check the folder's config and the headers of its weights."""
        from transformers import VideoMAEConfig, VideoMAEModel

        try:
            weights = find_weights(Path(self.config.path))
        except UserError as error:
            raise UserError(f"VideoMAE: {error}") from None
        with torch.device("meta"):
            model = VideoMAEModel(VideoMAEConfig(**self._settings))
        what = f"VideoMAE in {self.config.path}"
        names = {_in_files(name): name for name in model.state_dict()}
        found = {_renamed(name, names): shape for name, shape in weights.shapes().items()}
        check_tensors(what, found, model, may_have_more=True)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        try:
            config = read_config(Path(self.config.path))
        except UserError as error:
            raise UserError(f"VideoMAE: {error}") from None
        if config.get("model_type") != "videomae":
            kind = json.dumps(config.get("model_type"))
            raise UserError(f"VideoMAE: the model in {self.config.path} is of type {kind}")
        from transformers import VideoMAEConfig

        return VideoMAEConfig(**config).to_dict()

    @cached_property
    def _model(self) -> Any:
        from transformers import VideoMAEModel

        self.check_ready()
        try:
            loaded: Any = VideoMAEModel.from_pretrained(
                self.config.path, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = first_line(error)
            raise UserError(f"VideoMAE in {self.config.path} cannot be loaded: {reason}") from error
        model, info = loaded
        own = {name.partition(".")[0] for name in model.state_dict()}
        unexpected = [name for name in info["unexpected_keys"] if name.partition(".")[0] in own]
        refuse(f"VideoMAE in {self.config.path}", info["missing_keys"], unexpected)
        return model.float().eval()

    @torch.no_grad()
    def features(self, video: torch.Tensor) -> torch.Tensor:
        """Return features `b d` of clips of at least `min_frames` frames."""
        model = self._model.to(video.device)
        frames, side = self.min_frames, int(self._settings["image_size"])
        clips = rearrange(video[:, :, :frames], "b c t h w -> (b t) c h w")
        clips = F.interpolate(clips, (side, side), mode="bilinear", antialias=True)
        mean, std = (video.new_tensor(each)[:, None, None] for each in (MEAN, STD))
        clips = ((clips + 1) / 2 - mean) / std
        clips = rearrange(clips, "(b t) c h w -> b t c h w", b=len(video))
        return model(pixel_values=clips).last_hidden_state.mean(dim=1)
