"""An extracted model as a folder in diffusers' layout: written atomically, read without pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_model

from nasvid.architecture import Architecture
from nasvid.diffusion.stock import INDEX, StockPipeline, Unfit
from nasvid.errors import Damaged, UserError
from nasvid.export.card import model_card
from nasvid.export.carried import CarriedPipeline, carry_model
from nasvid.export.usage import CARRIED, SAME, loading_section, video_section
from nasvid.export.whole import parts_of, place_parts
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The pipeline in which a model is exported, and the video that the card makes with it.

    copy: copy all of its files, also where they could be linked. prompt, call: of the card's
    video; the arguments besides the prompt.
    """

    pipeline: StockPipeline | CarriedPipeline
    copy: bool
    prompt: str
    call: Mapping[str, Any]

    @property
    def files(self) -> Iterator[tuple[str, Path]]:
        """The unchanged files: each one's place in an export, and where it is now."""
        pipeline = self.pipeline
        return parts_of(pipeline) if isinstance(pipeline, StockPipeline) else pipeline.files


def export_subnet(
    model: nn.Module,
    scheduler: Scheduler,
    info: SubnetInfo,
    target: Path,
    whole: Whole | Unfit | None = None,
    *,
    model_module: str = "",
) -> Path:
    """Write a model's folder: weights, scheduler, `nasvid.json`, a model card, checksums of all.

    The weights and their `config.json` lie in `unet/`, `transformer/` or `denoiser/`, depending on
    the model's class; a diffusers model can be loaded by its own `from_pretrained`. The folder
    appears whole or not at all, and replaces an older one.

    model: with its own weights, as `Supernet.extract` returns it. whole: the pipeline whose other
    parts are put beside it, a stock one's with its own scheduler; or why there is none.
    model_module: of the model's class, if its code is carried along.

    Returns:
        `target`.

    Raises:
        UserError: a part of the pipeline has vanished.
    """
    size = size_of(model.state_dict())
    if isinstance(whole, Whole) and whole.copy:
        size += sum(path.stat().st_size for _, path in whole.files)
    part, content = subfolder(model), info.to_json()
    with atomic_folder(target, needed=size) as temporary:
        (temporary / part).mkdir()
        _save_model(model, info, temporary / part)
        if model_module:
            carry_model(model_module, type(model).__name__, temporary / part)
        _place(whole, scheduler, temporary, target.parent)
        if isinstance(whole, Whole) and isinstance(whole.pipeline, CarriedPipeline):
            classes = type(model).__name__, type(scheduler).__name__
            write_json(temporary / INDEX, whole.pipeline.index(part, *classes, whole.call))
        write_json(temporary / INFO, content)
        if isinstance(whole, Whole):
            card = _card_of_video(whole, content)
        else:
            carried = bool(model_module)
            reason = str(whole or "")
            usage = loading_section(model, part, scheduler, content, reason, carried=carried)
            card = model_card(content, "self-contained, text-conditioned video denoiser", usage)
        (temporary / "README.md").write_text(card)
        write_sums(temporary)
    return target


def _place(whole: Whole | Unfit | None, scheduler: Scheduler, folder: Path, siblings: Path) -> None:
    """Write what a model is used with: the rest of a pipeline, or the scheduler alone."""
    if isinstance(whole, Whole) and isinstance(whole.pipeline, StockPipeline):
        place_parts(whole.pipeline, folder, siblings, copy=whole.copy)
        return
    scheduler.save_pretrained(str(folder / "scheduler"))
    if isinstance(whole, Whole) and isinstance(whole.pipeline, CarriedPipeline):
        whole.pipeline.place(folder, siblings, copy=whole.copy)


def _card_of_video(whole: Whole, content: Mapping[str, Any]) -> str:
    pipeline, vae = whole.pipeline, whole.pipeline.vae
    if isinstance(pipeline, StockPipeline):
        what = f"It is a `{pipeline.name}` whose parts are all here."
        opened = f', variant="{pipeline.variant}"' if pipeline.variant else ""
    else:
        what, opened = CARRIED, ", trust_remote_code=True"
    lines = "pipeline.vae.enable_tiling()\n" if vae is not None and vae.config.tiling else ""
    usage = video_section(opened, whole.call, whole.prompt, lines, content["fps"])
    return model_card(content, "text-to-video pipeline", f"{usage}\n\n{what} {SAME}")


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
