"""Text models of transformers: checked before a run, and loaded only if every tensor fits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nasvid.errors import UserError
from nasvid.host.weights import Weights, check_tensors, find_weights, read_config, refuse

PREFIXES = ("", "text_model.")
"""Prefixes that names in files may have: of a text model alone, or of one inside CLIP."""
IGNORED = ("position_ids",)
"""Suffixes of tensors that old files store, but models compute."""


@dataclass(frozen=True, slots=True)
class Source:
    """A text model and its tokenizer.

    classes: `model_type` of a config -> class of transformers. path: a folder or a hub's name.
    subfolder, tokenizer: folders inside it. dim: size of an embedding.
    """

    classes: tuple[tuple[str, str], ...]
    path: str
    subfolder: str
    tokenizer: str
    dim: int

    def check(self) -> None:
        """Check a local folder without loading it; a hub model is checked when it is loaded.

        Raises:
            UserError: the config, weights or tokenizer are missing, or belong to another model.
        """
        import torch

        folder = Path(self.path)
        if not folder.is_dir():
            return
        try:
            read_config(folder / self.subfolder)
            weights = find_weights(folder / self.subfolder)
        except UserError as error:
            raise UserError(f"Text encoder: {error}") from None
        cls, config = self._model()
        with torch.device("meta"):
            model = cls(config)
        what = f"Text encoder '{self.path}'"
        check_tensors(what, weights.shapes(), model, prefixes=PREFIXES, may_have_more=True)
        if not any((folder / self.tokenizer).glob("*token*")):
            raise UserError(
                f"{what} has no tokenizer in {folder / self.tokenizer}; set tokenizer_subfolder"
            )

    def load(self) -> tuple[Any, Any]:
        """Return tokenizer and model, in eval mode.

        Raises:
            UserError: they cannot be loaded, or a tensor is missing, unexpected or reshaped.
        """
        import transformers

        cls, _ = self._model()
        folder = Path(self.path)
        weights: Weights | None = None
        if folder.is_dir():
            weights = find_weights(folder / self.subfolder)
        try:
            model, info = cls.from_pretrained(
                self.path,
                subfolder=self.subfolder,
                use_safetensors=True,
                variant=weights.variant if weights else None,
                output_loading_info=True,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                self.path, subfolder=self.tokenizer
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"Text encoder '{self.path}' cannot be loaded: {_line(error)}"
            ) from error
        own = {name.partition(".")[0] for name in model.state_dict()}
        unexpected = [
            name
            for name in info["unexpected_keys"]
            if name.partition(".")[0] in own and not name.endswith(IGNORED)
        ]
        refuse(f"Text encoder '{self.path}'", info["missing_keys"], unexpected)
        return tokenizer, model.float().eval()

    def _model(self) -> tuple[Any, Any]:
        """Return the class of the model and its config, without loading weights."""
        try:
            import transformers
        except ImportError:
            raise UserError(
                "This text encoder needs transformers, which is not installed: "
                "pip install 'nasvid[text]'"
            ) from None
        try:
            config = transformers.AutoConfig.from_pretrained(self.path, subfolder=self.subfolder)
        except (OSError, ValueError) as error:
            raise UserError(
                f"Text encoder '{self.path}' cannot be loaded: {_line(error)}"
            ) from error
        classes: Mapping[str, str] = dict(self.classes)
        if config.model_type not in classes:
            raise UserError(
                f"Text encoder '{self.path}' is of type '{config.model_type}'; this plug-in loads "
                f"{', '.join(classes)}"
            )
        config = copy.copy(getattr(config, "text_config", None) or config)
        if config.hidden_size != self.dim:
            raise UserError(
                f"Text encoder '{self.path}' has dim {config.hidden_size}, not {self.dim}"
            )
        return getattr(transformers, classes[config.model_type]), config


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@lru_cache(maxsize=2)
def load_encoder(source: Source) -> tuple[Any, Any]:
    """Return `source.load()`, once."""
    return source.load()
