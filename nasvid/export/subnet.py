"""An extracted model as a folder in diffusers' layout: written atomically, read without pickle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_model

from nasvid.architecture import Architecture
from nasvid.errors import Damaged, UserError
from nasvid.export.card import model_card
from nasvid.host.aligned import WEIGHTS, save_aligned, size_of, write_aligned
from nasvid.host.files import atomic_folder, write_json
from nasvid.host.reading import read_json, write_sums
from nasvid.shapes import Domain, Resolution
from nasvid.space import SpaceSection

if TYPE_CHECKING:
    from torch import nn

    from nasvid.objective import Scheduler
    from nasvid.space import SearchSpace

INFO = "nasvid.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetInfo:
    """Everything but the weights that is needed to build and use an exported model.

    space: the recipe's section: the plug-in's `name`, and its options next to it.
    text: the same for the text encoder.
    frames, fps, resolutions, context_len: of the clips that it was trained on; a resolution
        may have its own frames.
    metrics: name -> value; `name@resolution` for a single resolution.
    """

    arch: Architecture
    space: Mapping[str, Any]
    domain: Domain
    text: Mapping[str, Any]
    frames: int
    fps: float
    resolutions: tuple[Resolution, ...]
    context_len: int
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `nasvid.json`, as plain values."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            "nasvid": version("nasvid"),
            "id": self.arch.id,
            **fields,
            "arch": dict(self.arch),
            "domain": asdict(self.domain),
            "resolutions": [each.to_json() for each in self.resolutions],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SubnetInfo:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError: `content` is something else.
        """
        fields = {name: content[name] for name in cls.__slots__}
        fields |= {
            "arch": Architecture(content["arch"]),
            "domain": Domain(**content["domain"]),
            "resolutions": tuple(map(Resolution.parse, content["resolutions"])),
        }
        return cls(**fields)


def export_subnet(model: nn.Module, scheduler: Scheduler, info: SubnetInfo, target: Path) -> Path:
    """Write a model's folder: weights, scheduler, `nasvid.json`, a model card, checksums of all.

    The weights and their `config.json` lie in `unet/`, `transformer/` or `denoiser/`, depending on
    the model's class; a diffusers model can be loaded by its own `from_pretrained`. The folder
    appears whole or not at all, and replaces an older one.

    model: with its own weights, as `Supernet.extract` returns it.

    Returns:
        `target`.
    """
    part = subfolder(model)
    with atomic_folder(target, needed=size_of(model.state_dict())) as temporary:
        (temporary / part).mkdir()
        _save_model(model, info, temporary / part)
        scheduler.save_pretrained(str(temporary / "scheduler"))
        content = info.to_json()
        write_json(temporary / INFO, content)
        code = _loading_code(model, part, scheduler)
        (temporary / "README.md").write_text(model_card(content, code))
        write_sums(temporary)
    return target


def read_info(folder: Path) -> SubnetInfo:
    """Read the `nasvid.json` of an exported model.

    Raises:
        UserError: the folder does not hold one, or it is damaged.
    """
    try:
        info = read_json(folder / INFO, SubnetInfo.from_json)
    except Damaged as damaged:
        raise Damaged(damaged.path, damaged.reason, "export the subnet again") from damaged
    if info is None:
        raise UserError(f"{folder} is not an exported model; it has no {INFO}")
    return info


def load_exported(folder: Path) -> nn.Module:
    """Build an exported model through its space's plug-in and load its weights, in eval mode.

    Works for the modules of every space; diffusers models can also be loaded by their own
    `from_pretrained`.

    Raises:
        UserError: the folder does not hold a model, its space is unknown, or the weights do not
            match the architecture.
    """
    info = read_info(folder)
    try:
        space: SearchSpace = SpaceSection.model_validate(info.space).make(info.domain)
        model = space.build(space.architecture(info.arch))
    except ValueError as error:
        raise UserError(
            f"{folder / INFO} names an architecture that cannot be built: {error}"
        ) from error
    weights = folder / subfolder(model) / WEIGHTS
    try:
        load_model(model, weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{weights} does not hold the weights of {info.arch.id}: {reason}"
        ) from None
    return model.eval()


def subfolder(model: nn.Module) -> str:
    """Return the name of the subfolder in which diffusers pipelines expect such a model."""
    name = type(model).__name__.lower()
    return next((part for part in ("unet", "transformer") if part in name), "denoiser")


def _save_model(model: nn.Module, info: SubnetInfo, folder: Path) -> None:
    if isinstance(model, ModelMixin):
        save_aligned(model, folder)
        return
    write_aligned(model.state_dict(), folder / WEIGHTS)
    config = {
        "_class_name": type(model).__name__,
        "space": dict(info.space),
        "domain": asdict(info.domain),
        "arch": dict(info.arch),
    }
    write_json(folder / "config.json", config)


def _loading_code(model: nn.Module, part: str, scheduler: Scheduler) -> str:
    """Return Python that loads the model when run inside the folder."""
    schedule = type(scheduler).__name__
    if isinstance(model, ModelMixin):
        cls = type(model)
        module = _public_module(cls)
        imports = f"from diffusers import {schedule}\nfrom {module} import {cls.__name__}"
        if module == "diffusers":
            imports = f"from diffusers import {', '.join(sorted((schedule, cls.__name__)))}"
        load = f'{cls.__name__}.from_pretrained(".", subfolder="{part}")'
    else:
        imports = (
            "from pathlib import Path\n\n"
            f"from diffusers import {schedule}\n"
            "from nasvid.export.subnet import load_exported"
        )
        load = 'load_exported(Path("."))'
    return (
        f"{imports}\n\n"
        f"model = {load}\n"
        f'scheduler = {schedule}.from_pretrained(".", subfolder="scheduler")'
    )


def _public_module(cls: type) -> str:
    """Return the shortest module name that `cls` can be imported from."""
    parts = cls.__module__.split(".")
    names = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    found = (name for name in names if getattr(sys.modules.get(name), cls.__name__, None) is cls)
    return next(found, cls.__module__)
