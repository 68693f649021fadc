"""Exports that carry their code: a pipeline that runs where nasvid is not installed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasvid.diffusion.carried.decoding import DECODERS, FRAME_WISE
from nasvid.diffusion.stock import Unfit
from nasvid.errors import UserError
from nasvid.evaluator import Guidance
from nasvid.export.standalone import standalone
from nasvid.export.whole import files_of, place_files
from nasvid.host.files import write_json
from nasvid.host.weights import read_config
from nasvid.objective import Scheduler
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace
from nasvid.text_encoder import CarriedText, TextEncoder
from nasvid.vae import PIXELS, Vae

PIPELINE = "nasvid.diffusion.carried.pipeline"
NAME, TEXT = "nasvid_pipeline", "transformers"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedPipeline:
    """A pipeline whose code, and that of its denoiser, are in the exported folder.

    vae: None if the denoiser takes pixels. context_len: text tokens. fps: that it is told of.
    """

    text: CarriedText
    vae: Vae | None
    channels: int
    context_len: int
    fps: float

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        text: TextEncoder,
        vae: Vae | None,
        scheduler: Scheduler,
        context_len: int,
        fps: float,
    ) -> CarriedPipeline:
        """Return the pipeline of a run's parts.

        Raises:
            Unfit: one of them runs only in nasvid.
        """
        carried = text.carried
        if not space.model_module or type(space).denoise is not SearchSpace.denoise:
            raise Unfit(f"space {type(space).__name__} has no model_module")
        if carried is None:
            raise Unfit(
                f"the text encoder, {type(text).__name__}, runs only in nasvid, or on a hub"
            )
        if vae is not None:
            _check_vae(vae)
        if not type(scheduler).__module__.startswith("diffusers."):
            raise Unfit(f"the scheduler, {type(scheduler).__name__}, is none of diffusers")
        return cls(
            text=carried,
            vae=vae,
            channels=space.domain.channels,
            context_len=context_len,
            fps=fps,
        )

    def call(self, shape: VideoShape, guidance: Guidance) -> dict[str, Any]:
        """Return the arguments of its call for a video, besides prompt and generator."""
        to = PIXELS if self.vae is None else self.vae.compression
        return {
            "height": shape.height * to.factor,
            "width": shape.width * to.factor,
            "num_frames": (shape.frames - 1) * to.temporal_factor + 1,
            "num_inference_steps": guidance.steps,
            "guidance_scale": guidance.scale,
        }

    @property
    def files(self) -> Iterator[tuple[str, Path]]:
        """The unchanged files: each one's place in an export, and where it is now."""
        for part, folder in self._folders.items():
            if not folder.is_dir():
                raise UserError(f"The run's {part} has vanished: {folder} does not exist")
            yield from files_of(folder, part)

    def place(self, folder: Path, siblings: Path, *, copy: bool) -> None:
        """Write everything but the denoiser and the scheduler into an export's folder.

        siblings, copy: as for `place_files`.

        Raises:
            UserError: a file of the text encoder or the VAE has vanished.
        """
        place_files(self.files, folder, siblings, copy=copy)
        _write(folder / f"{NAME}.py", standalone(PIPELINE))
        if self.text.module:
            place = folder / "text_encoder"
            _write(place / f"{module_of(self.text.model)}.py", standalone(self.text.module))
            config = {"_class_name": self.text.model, **self.text.config}
            write_json(place / "config.json", config)

    def index(
        self, part: str, model: str, scheduler: str, call: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the content of `model_index.json`.

        part: the denoiser's subfolder. model, scheduler: the names of their classes. call: the
        arguments that it takes by default.
        """
        text, vae = self.text, self.vae
        classes = {name: [TEXT, cls] for name, cls in text.stock.items()}
        if text.module:
            classes["text_encoder"] = [module_of(text.model), text.model]
        if vae is not None and vae.folder is not None:
            classes["vae"] = ["diffusers", read_config(vae.folder)["_class_name"]]
        return {
            "_class_name": [NAME, "TextToVideo"],
            part: [module_of(model), model],
            "scheduler": ["diffusers", scheduler],
            **classes,
            "settings": {**self._settings, **call},
        }

    @property
    def _folders(self) -> dict[str, Path]:
        vae = {"vae": self.vae.folder} if self.vae is not None and self.vae.folder else {}
        return {**self.text.folders, **vae}

    @property
    def _settings(self) -> dict[str, Any]:
        to = PIXELS if self.vae is None else self.vae.compression
        return {
            "context_len": self.context_len,
            "fps": self.fps,
            "channels": self.channels,
            "factor": to.factor,
            "temporal_factor": to.temporal_factor,
            "frame_step": to.frame_step,
            **self.text.settings,
            "decoding": {} if self.vae is None else dict(self.vae.decoding),
        }


def carry_model(module: str, name: str, folder: Path) -> None:
    """Put the code of a model's class beside its config, where diffusers' AutoModel finds it."""
    _write(folder / f"{module_of(name)}.py", standalone(module))
    config = folder / "config.json"
    content = json.loads(config.read_bytes())
    write_json(config, {**content, "auto_map": {"AutoModel": f"{module_of(name)}.{name}"}})


def module_of(name: str) -> str:
    """Return the name of the module that carries a class: `nasvid_video_unet` of `VideoUNet`."""
    return "nasvid_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _check_vae(vae: Vae) -> None:
    known = (FRAME_WISE, *DECODERS)
    if vae.folder is None:
        raise Unfit(f"the VAE, {vae.name}, has no local folder of a class of diffusers")
    found = read_config(vae.folder).get("_class_name")
    if found not in known:
        raise Unfit(f"the VAE is a {found}, which is none of {', '.join(known)}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
