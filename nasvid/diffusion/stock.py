"""A pipeline of diffusers whose denoiser is replaced: found by its folder, run as it is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn

from nasvid.diffusion.scheduled import load_scheduler, undoes
from nasvid.errors import UserError, first_line
from nasvid.evaluator import Guidance
from nasvid.host.hub import snapshot
from nasvid.host.quiet import no_bars
from nasvid.host.weights import find_weights, read_config
from nasvid.objective import Scheduler
from nasvid.shapes import VideoShape
from nasvid.text_encoder import TextEncoder
from nasvid.vae import Vae

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
"""Where the classes of a pipeline's parts come from; no other code is run."""
REMEMBERED = 1 << 31
"""Most bytes of prompts' embeddings that are kept."""


class Unfit(Exception):
    """A run's models cannot take the place of a pipeline's denoiser; the message says why.

    folder: of the pipeline, if it is the folder that lacks something.
    """

    def __init__(self, why: str, folder: Path | None = None) -> None:
        super().__init__(why)
        self.folder = folder


@dataclass(frozen=True, slots=True)
class StockPipeline:
    """A whole pipeline of stock classes in a local folder, whose denoiser others replace.

    folder: of the pipeline. denoiser: the name of the replaced part, `transformer` or `unet`.
    vae: decodes, in place of the pipeline's own. tokens: that the text is cut or padded to.
    """

    folder: Path
    denoiser: str
    vae: Vae
    tokens: int

    @classmethod
    def of(
        cls, folder: Path, model: str, text: TextEncoder, vae: Vae | None, context_len: int
    ) -> StockPipeline:
        """Return the pipeline in a folder for models of a class.

        Raises:
            Unfit: it has no such denoiser, or does not use text or latents as the models do.
        """
        index = read_index(folder)
        denoiser = _denoiser(folder, index, model)
        if vae is None or vae.folder is None:
            raise Unfit("the models denoise pixels, or latents of a VAE that is no stock one")
        found = cls(folder, denoiser, vae, context_len - bool(text.pooled_dim))
        found._check_call()
        found._check_vae()
        found._check_text(text)
        return found

    def check_scheduler(self, scheduler: Scheduler) -> None:
        """Check that the pipeline's scheduler undoes what the models were trained to.

        Raises:
            Unfit: it does not.
        """
        theirs = load_scheduler(self.folder / "scheduler")
        if not undoes(theirs, scheduler):
            raise Unfit(
                f"the noise that {type(theirs).__name__} of {self.folder} undoes is another than "
                "that of the recipe's objective; train with objective: {name: pretrained, path: "
                f"{self.folder}}}"
            )

    @property
    def index(self) -> dict[str, Any]:
        """The content of its `model_index.json`."""
        return read_index(self.folder)

    @property
    def name(self) -> str:
        """The name of its class in diffusers."""
        return self.index["_class_name"]

    @property
    def parts(self) -> dict[str, Path]:
        """Every part but the denoiser -> its folder."""
        found = {name: self.folder / name for name in classes_of(self.index)}
        assert self.vae.folder is not None
        found["vae"] = self.vae.folder
        return {name: folder for name, folder in found.items() if name != self.denoiser}

    @property
    def variant(self) -> str | None:
        """The precision that the names of some part's weights state, if it has no others."""
        models = (folder for folder in self.parts.values() if any(folder.glob("*.safetensors")))
        return next((each for each in (find_weights(m).variant for m in models) if each), None)

    def call(self, shape: VideoShape, guidance: Guidance, fps: float) -> dict[str, Any]:
        """Return the arguments of its call for a video, besides prompt and generator.

        shape: of the latents.
        """
        known, to = self._parameters, self.vae.compression
        arguments = {
            "height": shape.height * to.factor,
            "width": shape.width * to.factor,
            "num_frames": (shape.frames - 1) * to.temporal_factor + 1,
            "num_inference_steps": guidance.steps,
            "negative_prompt": "",
            "guidance_scale": guidance.scale,
        }
        if "true_cfg_scale" in known:  # then the other is what the denoiser is told of
            arguments |= {"guidance_scale": 1.0, "true_cfg_scale": guidance.scale}
        others = {"frame_rate": fps, "max_sequence_length": self.tokens, **self.vae.decoding}
        return arguments | {name: value for name, value in others.items() if name in known}

    def open(self, model: nn.Module) -> Any:
        """Load the pipeline with a denoiser, and put it on the denoiser's device.

        Raises:
            UserError: a part is missing or cannot be loaded.
        """
        self.check_parts()
        try:
            with no_bars():
                given: dict[str, Any] = {self.denoiser: model, "vae": self._load_vae()}
                pipe = self._class.from_pretrained(
                    str(self.folder), variant=self.variant, use_safetensors=True, **given
                )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            reason = first_line(error)
            raise UserError(f"Pipeline {self.folder} cannot be loaded: {reason}") from error
        pipe.set_progress_bar_config(disable=True)
        pipe.encode_prompt = remembered(pipe.encode_prompt)
        if self.vae.config.tiling:
            pipe.vae.enable_tiling()
        device = next(model.parameters()).device
        for name, part in pipe.components.items():
            if name != self.denoiser and isinstance(part, nn.Module):
                part.to(device)
        return pipe

    def check_parts(self) -> None:
        """Check that every part is there.

        Raises:
            UserError: one is not.
        """
        for name, folder in self.parts.items():
            if not folder.is_dir():
                raise UserError(
                    f"Pipeline {self.folder} lacks its {name}: folder {folder} does not exist"
                )

    def _load_vae(self) -> Any:
        """Load the VAE as a pipeline does: its weights stay where the file system maps them."""
        import diffusers

        folder = self.parts["vae"]
        cls: Any = getattr(diffusers, self.index["vae"][1])
        variant = find_weights(folder).variant
        return cls.from_pretrained(str(folder), variant=variant, use_safetensors=True)

    @property
    def _class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.name)

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._class.__call__).parameters

    def _check_call(self) -> None:
        known = self._parameters
        for name in ("prompt", "height", "width", "num_frames", "generator"):
            if name not in known:
                raise Unfit(f"{self.name} takes no {name}")
        needed = [
            name
            for name, each in known.items()
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
        ]
        if more := [name for name in needed if name not in ("self", "prompt")]:
            raise Unfit(f"{self.name} makes no video of text alone; it takes {', '.join(more)}")

    def _check_vae(self) -> None:
        folder, wanted = self.vae.folder, self.index.get("vae", [None, None])[1]
        assert folder is not None
        try:
            found = read_config(folder).get("_class_name")
        except UserError as error:
            raise Unfit(str(error)) from None
        if found != wanted:
            raise Unfit(f"the VAE is of class {found}, but {self.name}'s is {wanted}")

    def _check_text(self, text: TextEncoder) -> None:
        theirs = [
            name for name in classes_of(self.index) if name.startswith(("text_", "tokenizer"))
        ]
        for name in theirs:
            folder = text.parts.get(name)
            if folder is None or folder.resolve() != (self.folder / name).resolve():
                raise Unfit(
                    f"captions are not encoded as by the {name} of {self.folder}; train with text: "
                    f"{{name: pretrained, path: {self.folder}}}"
                )
        if "max_sequence_length" in self._parameters:
            return
        limit = token_limit(self.folder / "tokenizer")
        if limit != self.tokens:
            raise Unfit(f"{self.name} encodes {limit} tokens; set data.context_len to {limit}")


def read_index(folder: Path) -> dict[str, Any]:
    """Return the `model_index.json` of a pipeline of stock classes.

    Raises:
        Unfit: the folder has none, or it names classes that are not stock ones.
    """
    import diffusers

    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise Unfit(f"{folder} holds no pipeline: it has no {INDEX}") from None
    except ValueError as error:
        raise Unfit(f"{folder / INDEX} is not JSON: {error}") from None
    name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(name, str) or not name.endswith("Pipeline") or not hasattr(diffusers, name):
        raise Unfit(f"{folder / INDEX} names no pipeline of diffusers")
    for part, (library, cls) in classes_of(index).items():
        if library not in LIBRARIES:
            raise Unfit(f"{folder / INDEX} names {library}.{cls} for its {part}, no stock class")
    return index


def pipeline_place(given: str, part: str) -> Path | Unfit:
    """Return a local folder, or the snapshot of a pipeline on the hub that a model is a part of.

    Or what the hub's cache lacks of that pipeline. part: the model's folder in it; "" of a model
    alone.
    """
    if Path(given).is_dir() or not part:
        return Path(given)
    found, lacks = snapshot(given), INDEX
    if found is not None and (found / INDEX).is_file():
        missing = [name for name in classes_of(read_index(found)) if not _is_whole(found / name)]
        lacks = ", ".join(missing)
    if found is None or lacks:
        return Unfit(
            f"'{given}' is not whole in the hub's cache on this machine, which lacks its {lacks}; "
            f"run `hf download {given}`, then export again",
            found,
        )
    return found


def _is_whole(part: Path) -> bool:
    """Return whether a part is there with its weights, if it is a model."""
    if not (part / "config.json").is_file():
        return part.is_dir()
    try:
        return bool(find_weights(part).files)
    except UserError:
        return False


def classes_of(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the library and the class of each part that a pipeline has."""
    return {
        name: (str(entry[0]), str(entry[1]))
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
    }


def _denoiser(folder: Path, index: Mapping[str, Any], model: str) -> str:
    classes = classes_of(index)
    found = [part for part, (_, cls) in classes.items() if cls == model]
    if len(found) != 1:
        what = f"{len(found)} of" if found else "no part of"
        raise Unfit(f"{index['_class_name']} of {folder} has {what} class {model}")
    return found[0]


def token_limit(folder: Path) -> int | None:
    """Return the text tokens that a tokenizer's folder says it is for; None if it says none."""
    try:
        return json.loads((folder / "tokenizer_config.json").read_bytes())["model_max_length"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remembered(encode: Callable[..., Any]) -> Callable[..., Any]:
    """Return a pipeline's `encode_prompt` that encodes a prompt once, as long as they fit."""
    known: dict[str, Any] = {}
    left = REMEMBERED

    def found(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        key = repr((arguments, more))
        if key in known:
            return known[key]
        result = encode(*arguments, **more)
        left -= sum(each.nbytes for each in result if isinstance(each, torch.Tensor))
        if left >= 0:
            known[key] = result
        return result

    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StockSampler:
    """Samples videos with a stock pipeline, one prompt at a time.

    fps: frames per second that the model is conditioned on, if it is at all. seed: of the noise.
    """

    pipeline: StockPipeline
    guidance: Guidance
    fps: float
    seed: int
    _opened: list[Any] = field(default_factory=list, repr=False)

    @torch.no_grad()
    def videos(
        self, model: nn.Module, prompts: Sequence[str], shape: VideoShape
    ) -> Iterator[torch.Tensor]:
        """Yield one video per prompt, one at a time: `1 3 t h w`, float32, pixels in [-1, 1].

        model: in eval mode. shape: of the model's input.

        They are the frames of `pipeline(prompt, **call, generator=generator)` for each prompt, with
        one generator on the CPU that the seed begins.
        """
        pipe = self._with(model)
        arguments = self.pipeline.call(shape, self.guidance, self.fps)
        generator = torch.Generator().manual_seed(self.seed)
        device = next(model.parameters()).device
        for prompt in prompts:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(self.seed)  # of a decoder that adds noise of its own
                made = pipe(prompt, **arguments, generator=generator, output_type="pt").frames
            yield 2 * rearrange(made, "b t c h w -> b c t h w").float() - 1

    def _with(self, model: nn.Module) -> Any:
        if not self._opened:
            self._opened.append(self.pipeline.open(model))
        (pipe,) = self._opened
        pipe.register_modules(**{self.pipeline.denoiser: model})
        return pipe


def stock_pipeline(
    places: Iterable[Path | Unfit], model: str, text: TextEncoder, vae: Vae | None, context_len: int
) -> StockPipeline:
    """Return the pipeline that models of a class can be put into.

    places: folders that may be a pipeline's, or one of a part of it; or why there is none.

    Raises:
        Unfit: there is none; the message is of the first place that is a pipeline.
    """
    places = list(places)
    reasons = [place for place in places if isinstance(place, Unfit)]
    known = [place for place in places if isinstance(place, Path)]
    folders = dict.fromkeys(each for place in known for each in (place, place.parent))
    known_to_lack = [reason.folder for reason in reasons]
    pipelines = [
        folder for folder in folders if (folder / INDEX).is_file() and folder not in known_to_lack
    ]
    if not pipelines and not reasons:
        raise Unfit("no part of the run comes from the local folder of a pipeline")
    for folder in pipelines:
        try:
            return StockPipeline.of(folder, model, text, vae, context_len)
        except Unfit as unfit:
            reasons.append(unfit)
    raise reasons[0]
