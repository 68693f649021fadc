"""The autoencoder between pixels and latents: an AutoencoderKL of diffusers, frame by frame."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import nn

from nasvid.errors import UserError
from nasvid.host.weights import Weights, check_tensors, find_weights, read_config, refuse

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from nasvid.recipe.sections import VaeSection

EMBEDDED = Path(__file__).parent / "embedded"
"""The small autoencoder that ships with nasvid; see its README.md."""
PIXELS = 1 << 21
"""Pixels encoded or decoded at a time; limits the memory of a call."""
MEANINGLESS = ("_class_name", "_diffusers_version", "_name_or_path", "sample_size")
"""Keys of a config that do not affect what the model computes."""


class Vae:
    """Encodes videos to roughly standard normal latents, and decodes them.

    name: for display. identity: name and a hash of its weights and config, which differs whenever
    latents would. channels: of a latent. factor: downsampling of height and width.
    """

    def __init__(self, model: AutoencoderKL, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.channels: int = model.config["latent_channels"]
        self.factor: int = 2 ** (len(model.config["block_out_channels"]) - 1)
        self._scale = float(model.config["scaling_factor"])
        self._shift = float(model.config.get("shift_factor") or 0.0)
        self.identity = f"{name} ({_digest(model)[:12]})"

    @classmethod
    def load(cls, section: VaeSection, device: torch.device | str = "cpu") -> Vae:
        """Load the autoencoder of a recipe.

        Raises:
            UserError: it cannot be loaded, or its latents do not match the recipe.
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        embedded = section.path == "embedded"
        path = str(EMBEDDED) if embedded else section.path
        weights = check_vae(section)
        try:
            loaded: Any = AutoencoderKL.from_pretrained(
                path,
                subfolder=section.subfolder or None,
                use_safetensors=True,
                variant=weights.variant if weights else None,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"VAE '{section.path}' cannot be loaded: {reason}") from error
        model, info = loaded
        refuse(f"VAE '{section.path}'", info["missing_keys"], info["unexpected_keys"])
        # Copy out of the memory-mapped file: kernels round differently for unaligned weights.
        for weight in model.parameters():
            weight.data = weight.data.clone()
        nn.Module.to(model, device)
        vae = cls(model, "embedded" if embedded else Path(path).name)
        _check_latents(section, vae.channels, vae.factor)
        return vae

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return latents `b c t h/f w/f`, float32, of videos `b 3 t h w` in [-1, 1].

        They are the posteriors' means, shifted and scaled by the model's config, so the same video
        always has the same latents.
        """
        posterior = self._by_frame(video, lambda x: self.model.encode(x).latent_dist.mode())  # pyright: ignore[reportAttributeAccessIssue]
        return (posterior - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return videos `b 3 t h w`, float32, roughly in [-1, 1], of latents `b c t h/f w/f`."""
        latents = latents / self._scale + self._shift
        return self._by_frame(latents, self._decode, self.factor)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latents).sample  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    def psnr(self, video: torch.Tensor) -> float:
        """Return the mean peak signal-to-noise ratio of reconstructed frames, in dB."""
        video = video.to(self.model.device)
        error = (self.decode(self.encode(video)).clamp(-1, 1) - video).square()
        per_frame = error.mean(dim=(1, 3, 4)).clamp(min=1e-12)
        return (10 * torch.log10(4 / per_frame)).mean().item()

    def _by_frame(
        self,
        video: torch.Tensor,
        apply: Callable[[torch.Tensor], torch.Tensor],
        factor: int = 1,
    ) -> torch.Tensor:
        _, _, frames, height, width = video.shape
        video = video.to(self.model.device, self.model.dtype)
        flat = rearrange(video, "b c t h w -> (b t) c h w")
        size = max(1, PIXELS // (height * width * factor**2))
        parts = [apply(part.contiguous()).float() for part in flat.split(size)]
        pictures = torch.cat(parts)
        return rearrange(pictures, "(b t) c h w -> b c t h w", t=frames).contiguous()


def check_vae(section: VaeSection) -> Weights | None:
    """Check a recipe's autoencoder from its config and its weights' headers, unless it is on a hub.

    Returns:
        Its weights; None if it is on a hub.

    Raises:
        UserError: it is not an AutoencoderKL, its latents do not match the recipe, or its tensors
            do not match its config.
    """
    path = EMBEDDED if section.path == "embedded" else Path(section.path)
    if not path.is_dir():
        return None
    folder = path / section.subfolder
    try:
        config = read_config(folder)
        weights = find_weights(folder)
    except UserError as error:
        raise UserError(f"VAE: {error}") from None
    known = config.get("_class_name")
    if known != "AutoencoderKL":
        raise UserError(f"VAE: {folder} holds a model of class {known}, not AutoencoderKL")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    try:
        with torch.device("meta"):
            model: Any = AutoencoderKL.from_config(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"VAE: no model can be built from {folder / 'config.json'}: {error}"
        ) from error
    _check_latents(
        section, model.config.latent_channels, 2 ** (len(model.config.block_out_channels) - 1)
    )
    check_tensors(f"VAE '{section.path}'", weights.shapes(), model)
    return weights


def _check_latents(section: VaeSection, channels: int, factor: int) -> None:
    for what, found, said in (
        ("channels", channels, section.channels),
        ("factor", factor, section.factor),
    ):
        if found != said:
            raise UserError(
                f"VAE '{section.path}' has {what} {found}, but vae.{what} is {said}; set it to "
                f"{found}"
            )


def _digest(model: AutoencoderKL) -> str:
    known = {key: value for key, value in model.config.items() if key not in MEANINGLESS}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
