"""Text models of transformers: checked before a run, and loaded only if every tensor fits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nasvid.errors import UserError, first_line
from nasvid.host.hub import could_be_a_model, hub_config, local_folder, snapshot, why_no_model
from nasvid.host.quiet import no_bars
from nasvid.host.weights import Weights, check_tensors, find_weights, read_config, refuse
from nasvid.text_encoder import CarriedText

CLASSES = (
    ("clip", "CLIPTextModel"),
    ("clip_text_model", "CLIPTextModel"),
    ("t5", "T5EncoderModel"),
    ("mt5", "MT5EncoderModel"),
    ("umt5", "UMT5EncoderModel"),
)
"""All that are supported: `model_type` of a config -> class of transformers."""
LLAMA = (("llama", "LlamaModel"),)
"""The one of HunyuanVideo, which its pipeline alone knows how to use."""
PREFIXES = ("", "text_model.")
"""Prefixes that names in files may have: of a text model alone, or of one inside CLIP."""
TOKENIZERS = (
    ("tokenizer.json",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.json", "merges.txt"),
)
"""Files that make a tokenizer; without all of one, transformers may make an empty one."""
IGNORED = ("position_ids",)
"""Suffixes of tensors that old files store, but models compute."""


@dataclass(frozen=True, slots=True)
class Source:
    """A text model and its tokenizer.

    classes: `model_type` of a config -> class of transformers. path: a folder or a hub's name.
    subfolder, tokenizer: folders inside it. dim: size of an embedding; None if any will do.
    """

    classes: tuple[tuple[str, str], ...]
    path: str
    subfolder: str
    tokenizer: str
    dim: int | None

    def known_dim(self) -> int:
        """Return the size of an embedding that a local folder's config says.

        Raises:
            UserError: it does not, is of no supported type, or the model is on a hub.
        """
        folder = Path(self.path)
        if not could_be_a_model(self.path):
            raise UserError(f"Text encoder: {why_no_model(self.path)}")
        if not folder.is_dir():
            raise UserError(f"Text encoder '{self.path}' is no local folder; set dim to its size")
        try:
            config = read_config(folder / self.subfolder)
        except UserError as error:
            raise UserError(f"Text encoder: {error}") from None
        self._class_of(config.get("model_type"))
        inside = config.get("text_config") or config
        found = inside.get("d_model") or inside.get("hidden_size")
        if not isinstance(found, int):
            raise UserError(f"Text encoder '{self.path}' does not say its size; set dim")
        return found

    def check(self) -> None:
        """Check a local folder without loading it.

        Raises:
            UserError: the config, weights or tokenizer are missing, or belong to another model.
        """
        folder = Path(self.path)
        if not could_be_a_model(self.path):
            raise UserError(f"Text encoder: {why_no_model(self.path)}")
        if not folder.is_dir():
            return
        try:
            config = read_config(folder / self.subfolder)
            weights = find_weights(folder / self.subfolder)
        except UserError as error:
            raise UserError(f"Text encoder: {error}") from None
        self._class_of(config.get("model_type"))
        cls, config = self._model()
        with torch.device("meta"):
            model = cls(config)
        what = f"Text encoder '{self.path}'"
        own = _own(model)
        shapes = {name: each for name, each in weights.shapes().items() if own(name)}
        check_tensors(what, shapes, model, prefixes=PREFIXES)
        inside = folder / self.tokenizer
        if not _holds_tokenizer(inside):
            known = ", ".join(" with ".join(files) for files in TOKENIZERS)
            raise UserError(
                f"{what} has no tokenizer in {inside} (one of {known}); set tokenizer_subfolder"
            )

    def check_hub(self) -> None:
        """Check a model on a hub by its config, which is fetched.

        Raises:
            UserError: it cannot be had, or is not of a supported type or of the size asked for.
        """
        if not Path(self.path).is_dir():
            self._model()

    def load_tokenizer(self) -> Any:
        """Return the tokenizer, from the hub's cache as it is if it is there."""
        import transformers

        cached = snapshot(self.path)
        is_there = cached is not None and _holds_tokenizer(cached / self.tokenizer)
        where = str(cached) if is_there else self.path
        return transformers.AutoTokenizer.from_pretrained(where, subfolder=self.tokenizer)

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return self._model()[0].__name__

    def weight_bytes(self, dtype: torch.dtype = torch.float32) -> int | None:
        """Return the bytes of a local folder's weights once loaded; None of a model on a hub.

        Raises:
            UserError: the folder holds no supported model, or transformers is not installed.
        """
        if not Path(self.path).is_dir():
            return None
        cls, config = self._model()
        with torch.device("meta"):
            model = cls(config)
        return dtype.itemsize * sum(parameter.numel() for parameter in model.parameters())

    def load(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> tuple[Any, Any]:
        """Return tokenizer and model, in eval mode on a device.

        Weights are read file by file, each into its place in `dtype`: at no time is there more of
        them in memory than the model has.

        Raises:
            UserError: they cannot be loaded, or a tensor is missing, unexpected or reshaped.
        """
        cls, _ = self._model()
        folder = local_folder(self.path, self.subfolder)
        weights: Weights | None = None
        if folder is not None:
            weights = find_weights(folder / self.subfolder)
        try:
            with no_bars():
                model, info = cls.from_pretrained(
                    str(folder or self.path),
                    subfolder=self.subfolder,
                    use_safetensors=True,
                    variant=weights.variant if weights else None,
                    output_loading_info=True,
                    torch_dtype=dtype,
                    device_map={"": str(device)},
                )
            tokenizer = self.load_tokenizer()
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"Text encoder '{self.path}' cannot be loaded: {first_line(error)}"
            ) from error
        unexpected = [name for name in info["unexpected_keys"] if _own(model)(name)]
        refuse(f"Text encoder '{self.path}'", info["missing_keys"], unexpected)
        return tokenizer, model.to(dtype).eval()

    def _model(self) -> tuple[Any, Any]:
        """Return the class of the model and its config, without loading weights."""
        try:
            import transformers
        except ImportError:
            raise UserError(
                "This text encoder needs transformers, which is not installed: "
                "pip install 'nasvid[text]'"
            ) from None
        if not Path(self.path).is_dir():
            try:
                hub_config(self.path, self.subfolder)
            except UserError as error:
                raise UserError(f"Text encoder: {error}") from None
        try:
            config = transformers.AutoConfig.from_pretrained(self.path, subfolder=self.subfolder)
        except (OSError, ValueError) as error:
            raise UserError(
                f"Text encoder '{self.path}' cannot be loaded: {first_line(error)}"
            ) from error
        cls = self._class_of(config.model_type)
        config = copy.copy(getattr(config, "text_config", None) or config)
        if self.dim not in (None, config.hidden_size):
            raise UserError(
                f"Text encoder '{self.path}' has dim {config.hidden_size}, not {self.dim}"
            )
        return getattr(transformers, cls), config

    def _class_of(self, model_type: object) -> str:
        if model_type is None:
            raise UserError(
                f"Text encoder '{self.path}' is no model of transformers: its config.json has no "
                "model_type"
            )
        classes: Mapping[object, str] = dict(self.classes)
        if model_type not in classes:
            raise UserError(
                f"Text encoder '{self.path}' is of type '{model_type}'; this plug-in loads "
                f"{', '.join(map(str, classes))}"
            )
        return classes[model_type]


def carried_text(sources: Mapping[str, Source], **settings: Any) -> CarriedText | None:
    """Return encoders and their tokenizers as parts of a pipeline; None if one is not on this disk.

    sources: name of the encoder's part -> the encoder.
    """
    stock: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for name, source in sources.items():
        folder = local_folder(source.path, source.subfolder)
        if folder is None:
            return None
        tokenizer = source.load_tokenizer()
        other = tokenizer_of(name)
        stock |= {name: source.name, other: type(tokenizer).__name__}
        folders |= {name: folder / source.subfolder, other: folder / source.tokenizer}
    return CarriedText(stock=stock, folders=folders, settings=settings)


def tokenizer_of(encoder: str) -> str:
    """Return the name of the part that is an encoder's tokenizer: `tokenizer_2`."""
    return encoder.replace("text_encoder", "tokenizer")


def _holds_tokenizer(folder: Path) -> bool:
    return any(all((folder / file).is_file() for file in files) for files in TOKENIZERS)


def _own(model: Any) -> Callable[[str], bool]:
    """Return whether a name in a file would be one of a model's tensors.

    A file may hold more: the other half of CLIP or T5, and tensors that models compute.
    """
    parts = {
        name.removeprefix(p).partition(".")[0] for name in model.state_dict() for p in PREFIXES
    }

    def is_own(name: str) -> bool:
        of_half = any(name.removeprefix(p).partition(".")[0] in parts for p in PREFIXES)
        return of_half and not name.endswith(IGNORED)

    return is_own
