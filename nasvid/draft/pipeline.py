"""A pipeline of diffusers: what its folder, or its name on a hub, says of its parts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from nasvid.diffusion.scheduled import read_scheduler
from nasvid.diffusion.stock import INDEX, LIBRARIES, Unfit, classes_of, read_index, token_limit
from nasvid.errors import UserError
from nasvid.host.hub import could_be_a_model, hub_folder, why_no_model
from nasvid.host.weights import read_config
from nasvid.preflight.inherit import PARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A pipeline of diffusers whose model is to become smaller.

    folder: of its parts; of one on a hub only of their configs. hub: its name there; None for a
    local one. cls: the name of its class. parts: name -> name of its class.
    """

    folder: Path
    hub: str | None
    cls: str
    parts: Mapping[str, str]

    @property
    def denoiser(self) -> str:
        """The name of the part that denoises.

        Raises:
            UserError: there is none.
        """
        found = next((part for part in PARTS if part in self.parts), None)
        if found is None:
            raise UserError(f"{self.folder} has no denoiser; its parts are {', '.join(self.parts)}")
        return found

    def config(self, part: str) -> dict[str, Any]:
        """Return the config of a part that is a model.

        Raises:
            UserError: there is none.
        """
        return read_config(self.folder / part)

    def scheduler(self) -> dict[str, Any]:
        """Return the scheduler's settings, with the defaults of its class.

        Raises:
            UserError: they cannot be read, or diffusers has no such class.
        """
        given = read_scheduler(self.folder / "scheduler")
        name = str(given.get("_class_name", self.parts.get("scheduler")))
        return _defaults(_class(name).__init__) | given | {"_class_name": name}

    @property
    def context_len(self) -> int:
        """The text tokens that the pipeline pads captions to.

        Raises:
            UserError: neither it nor its tokenizer says how many.
        """
        found = self.default("max_sequence_length") or token_limit(self.folder / "tokenizer")
        if found is None:
            raise UserError(f"{self.folder / 'tokenizer'} does not say its model_max_length")
        return int(found)

    def default(self, *names: str) -> Any:
        """Return what calling the pipeline takes for the first of some arguments that it has.

        None if it has none of them, or derives it.
        """
        known = _defaults(_class(self.cls).__call__)
        return next((known[name] for name in names if name in known), None)


def open_pipeline(given: str) -> Original:
    """Return the pipeline in a folder, or on a hub, from which only its configs are fetched.

    Raises:
        UserError: there is none, it cannot be fetched, or a part of it is missing.
    """
    folder = Path(given)
    if not could_be_a_model(given):
        raise UserError(f"No pipeline to begin from: {why_no_model(given)}")
    hub = None if folder.is_dir() else given
    if hub is not None:
        folder = hub_folder(hub, INDEX, "*.json")
    try:
        index = read_index(folder)
    except Unfit as unfit:
        above = Path(os.path.normpath(folder)).parent
        hint = f"; name the whole pipeline, {above}" if (above / INDEX).is_file() else ""
        raise UserError(f"{unfit}{hint}") from None
    parts = {part: cls for part, (_, cls) in classes_of(index).items()}
    for part, (library, cls) in classes_of(index).items():
        _check_class(folder / INDEX, part, library, cls)
        if not (folder / part).is_dir():
            raise UserError(
                f"{given} lacks its part '{part}' ({cls}), which {INDEX} names; copy the whole "
                "pipeline"
            )
    return Original(folder=folder, hub=hub, cls=str(index["_class_name"]), parts=parts)


def _check_class(index: Path, part: str, library: str, name: str) -> None:
    if library not in LIBRARIES:
        return  # a class of the pipeline's own, whose code is not run
    module = import_module(library)
    if name not in dir(module):
        raise UserError(
            f"{index}: {part}: {library} {module.__version__} has no class '{name}'; upgrade it"
        )


def _class(name: str) -> Any:
    import diffusers

    found = getattr(diffusers, name, None)
    if found is None:
        raise UserError(f"diffusers {diffusers.__version__} has no class '{name}'; upgrade it")
    return found


def _defaults(function: Any) -> dict[str, Any]:
    known = inspect.signature(function).parameters.items()
    return {name: each.default for name, each in known if each.default is not each.empty}
