"""VAEs of diffusers' classes: found by their folder, checked before a run, loaded on first use."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import ValidationError
from torch import nn

from nasvid import plugins
from nasvid.diffusion.carried.decoding import aligned, decode
from nasvid.errors import UserError, first_line
from nasvid.host.hub import hub_config, local_folder
from nasvid.host.weights import (
    Weights,
    check_tensors,
    class_of,
    find_weights,
    part_of,
    read_config,
    refuse,
)
from nasvid.vae import Compression, V, Vae

if TYPE_CHECKING:
    from nasvid.recipe.sections import VaeSection

EMBEDDED = Path(__file__).parent / "embedded"
"""The small autoencoder that ships with nasvid; see its README.md."""
STATED = ("channels", "factor", "temporal_factor")
"""What a recipe may say of a VAE's compression."""
MEANINGLESS = ("_class_name", "_diffusers_version", "_name_or_path", "sample_size")
"""Keys of a config that do not affect what the model computes."""


def make_vae(section: VaeSection, device: torch.device | str = "cpu") -> Vae:
    """Return the VAE that a recipe names, of the class that its folder names.

    Raises:
        UserError: there is no such folder or class, or the class has no such option.
    """
    cls = _class_of(section)
    common = {"path": section.path, "subfolder": section.subfolder, "tiling": section.tiling}
    try:
        return cls(cls.Config.model_validate(section.options | common), device)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"vae.options.{where}: {first['msg']}") from None


def completed(section: VaeSection) -> VaeSection:
    """Return a section with the channels and factors that it leaves out, as its folder says."""
    known = compression(section)
    found = {name: getattr(known, name) for name in STATED if getattr(section, name) is None}
    return section.model_copy(update=found)


def compression(section: VaeSection) -> Compression:
    """Return how a recipe's latents relate to pixels.

    Of a folder that cannot be read, which is reported elsewhere, and of a hub's model: as the
    recipe says.
    """
    if section.path != "embedded" and Path(section.path).is_dir():
        with suppress(UserError):
            return make_vae(section).compression
    return section.compression


def check_vae(section: VaeSection) -> None:
    """Check a recipe's VAE from its config and its weights' headers, unless it is on a hub.

    Raises:
        UserError: it is of no known class, its latents do not match the recipe, or its tensors do
            not match its config.
    """
    if section.path == "embedded" or Path(section.path).is_dir():
        vae = make_vae(section)
        check_latents(section, vae)
        vae.check_ready()


def check_latents(section: VaeSection, vae: Vae) -> None:
    """Check that a VAE's latents are what a recipe says.

    Raises:
        UserError: they are not.
    """
    for what in STATED:
        found, said = getattr(vae.compression, what), getattr(section.compression, what)
        if found != said:
            raise UserError(
                f"VAE '{section.path}' has {what} {found}, but vae.{what} is {said}; set it to "
                f"{found}"
            )


def _class_of(section: VaeSection) -> Any:
    if section.path == "embedded":
        from nasvid.latents.frame_wise import FrameWise

        return FrameWise
    where = section.path
    try:
        if Path(where).is_dir():
            where = folder_of(Path(where), section.subfolder)
            known = class_of(read_config(where), where)
        else:
            known = class_of(hub_config(where, section.subfolder), f"'{where}'")
    except UserError as error:
        raise UserError(f"VAE: {error}") from None
    if known not in plugins.available("vaes"):
        supported = ", ".join(plugins.available("vaes"))
        raise UserError(
            f"VAE: {where} holds a model of class {known}, which is none of the supported ones: "
            f"{supported}"
        )
    return plugins.load("vaes", known)


def folder_of(folder: Path, subfolder: str) -> Path:
    """Return the folder of a local VAE, which may be that of a whole pipeline."""
    return folder / subfolder if subfolder else part_of(folder, "vae")


def _unloadable(path: str, error: Exception) -> UserError:
    reason = first_line(error)
    return UserError(f"VAE '{path}' cannot be loaded: {reason}")


class DiffusersVae(Vae[V]):
    """A VAE of a class of diffusers, from a folder or a hub name."""

    stock: ClassVar[str]
    """The name of the class in diffusers."""
    _is_given: bool = False

    @classmethod
    def of(cls, model: nn.Module, name: str) -> Self:
        """Return a model that is loaded already, under a name."""
        make: Any = cls
        vae = make(cls.Config.model_validate({"path": name}))
        vae.model, vae._is_given = model.eval().requires_grad_(False), True
        return vae

    @property
    def name(self) -> str:
        """The name of the folder, or `embedded`."""
        return Path(self.config.path).name

    @property
    def identity(self) -> str:
        """The name and a hash of weights and config, which differs whenever latents would."""
        tiled = ", tiled" if self.config.tiling else ""
        return f"{self.name} ({self._digest[:12]}{tiled})"

    @property
    def compression(self) -> Compression:
        """How latents relate to pixels."""
        return self._known

    @property
    def folder(self) -> Path | None:
        """The folder of config and weights, perhaps in the hub's cache; None if there is none."""
        return self._folder

    @cached_property
    def _folder(self) -> Path | None:
        path, subfolder = self.config.path, self.config.subfolder
        found = EMBEDDED if path == "embedded" else local_folder(path, subfolder)
        return folder_of(found, subfolder) if found is not None else None

    @cached_property
    def model(self) -> Any:
        """The model, in eval mode on the device.

        Raises:
            UserError: it cannot be loaded, or a tensor is missing or unexpected.
        """
        weights = None if self.folder is None else self._weights()
        try:
            model, info = self._class.from_pretrained(
                self.config.path if self.folder is None else str(self.folder),
                subfolder=(self.config.subfolder or None) if self.folder is None else None,
                use_safetensors=True,
                variant=weights.variant if weights else None,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise _unloadable(self.config.path, error) from error
        refuse(f"VAE '{self.config.path}'", info["missing_keys"], info["unexpected_keys"])
        aligned(model)
        nn.Module.to(model, self.device)
        if self.config.tiling:
            model.enable_tiling()
        return model.eval().requires_grad_(False)

    def check_ready(self) -> None:
        """Check a local folder's tensors against its config, from their headers.

        Raises:
            UserError: some are missing, unexpected or differ in shape.
        """
        if self.folder is not None:
            check_tensors(f"VAE '{self.config.path}'", self._weights().shapes(), self._empty())

    def weight_bytes(self) -> int | None:
        """Return the bytes of a local folder's weights, which are loaded in fp32."""
        if self.folder is None:
            return None
        return sum(tensor.nbytes for tensor in self._empty().state_dict().values())

    def release(self) -> None:
        """Free the memory of weights."""
        if "model" in self.__dict__ and not self._is_given:
            del self.model

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return latents: the posteriors' means, normalised as the class's pipeline does.

        Each clip is encoded alone.
        """
        parts = [
            self._normalised(self.model.encode(self._placed(clip)).latent_dist.mode()).float()
            for clip in video.split(1)
        ]
        return torch.cat(parts)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return videos of latents, as many together as memory allows."""
        to = self.compression
        return decode(self.model, latents, to.factor, to.temporal_factor, **self.decoding)

    @cached_property
    def _digest(self) -> str:
        return _digest(self.model)

    @cached_property
    def _known(self) -> Compression:
        return self._compression(self.model if self.folder is None else self._empty())

    @abstractmethod
    def _compression(self, model: Any) -> Compression:
        """Return how latents relate to pixels. model: may be on the `meta` device."""

    @abstractmethod
    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        """Return roughly standard normal latents of the model's own."""

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.model.device, self.model.dtype)

    @property
    def _class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.stock)

    def _weights(self) -> Weights:
        assert self.folder is not None
        try:
            return find_weights(self.folder)
        except UserError as error:
            raise UserError(f"VAE: {error}") from None

    def _empty(self) -> Any:
        """Return the model without weights."""
        assert self.folder is not None
        try:
            config = read_config(self.folder)
            with torch.device("meta"):
                return self._class.from_config(config)
        except UserError as error:
            raise UserError(f"VAE: {error}") from None
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
            raise UserError(
                f"VAE: no model can be built from {self.folder / 'config.json'}: {error}"
            ) from error


def _digest(model: Any) -> str:
    known = {key: value for key, value in model.config.items() if key not in MEANINGLESS}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
