"""Loads an existing model from disk or a hub, to initialise a supernet from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from nasvid.errors import UserError, first_line
from nasvid.export.subnet import INFO, load_exported, subfolder
from nasvid.host.hub import hub_config
from nasvid.host.weights import (
    check_tensors,
    class_of,
    find_weights,
    part_of,
    read_config,
    refuse,
)
from nasvid.recipe.sections import SupernetSection


def check_start(section: SupernetSection, like: nn.Module) -> None:
    """Check the model that a recipe names, from its config and the headers of its weights.

    like: a module of the space's largest architecture, which may be on the `meta` device. Of a
    model on a hub, the config is fetched; its weights are checked when they are loaded.

    Raises:
        UserError: it does not exist, is of another class, or differs in its settings (the message
            names all that differ) or tensors.
    """
    folder = _folder(section, like)
    if folder is None:
        theirs, where = hub_config(section.init_from, section.subfolder), f"'{section.init_from}'"
    else:
        theirs, where = read_config(folder), folder
    ours, known = type(like).__name__, class_of(theirs, where)
    if known != ours:
        raise UserError(f"{where} holds a model of class {known}, but the space's is {ours}")
    _check_config(section.init_from, theirs, like)
    if folder is not None:
        check_tensors(f"'{section.init_from}'", find_weights(folder).shapes(), like)


def load_pretrained(section: SupernetSection, like: nn.Module) -> nn.Module:
    """Load the model that a recipe names, in eval mode; it has the architecture of `like`.

    A folder exported by nasvid may hold any class; otherwise `like` must be a diffusers model, and
    the folder or hub name must hold one of the same class.

    Raises:
        UserError: it cannot be loaded, differs from `like`, or has weights that are not finite.
    """
    check_start(section, like)
    path = Path(section.init_from)
    model = load_exported(path) if (path / INFO).is_file() else _from_diffusers(section, like)
    _check_config(section.init_from, dict(getattr(model, "config", {})), like)
    _check_finite(section.init_from, model)
    return model


def _folder(section: SupernetSection, like: nn.Module) -> Path | None:
    """Return the folder of the model's config and weights; None if it is on a hub."""
    folder = Path(section.init_from)
    if (folder / INFO).is_file():
        return folder / subfolder(like)
    if not isinstance(like, ModelMixin):
        raise UserError(
            f"{section.init_from} is not a model exported by nasvid, and {type(like).__name__}, "
            "which is not a diffusers model, can only be loaded from one"
        )
    if not folder.is_dir():
        return None
    return folder / section.subfolder if section.subfolder else part_of(folder, subfolder(like))


def _from_diffusers(section: SupernetSection, like: nn.Module) -> nn.Module:
    folder = _folder(section, like)
    cls: Any = type(like)
    try:
        loaded: Any = cls.from_pretrained(
            section.init_from if folder is None else str(folder),
            subfolder=(section.subfolder or None) if folder is None else None,
            use_safetensors=True,
            variant=None if folder is None else find_weights(folder).variant,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        reason = first_line(error)
        raise UserError(
            f"'{section.init_from}' cannot be loaded as {type(like).__name__}: {reason}"
        ) from error
    model, info = loaded
    refuse(f"'{section.init_from}'", info["missing_keys"], info["unexpected_keys"])
    return model


def _check_config(name: str, theirs: dict[str, Any], like: nn.Module) -> None:
    """Compare the configs: weights of equal shapes may still differ in meaning, say in heads."""
    ours = dict(_flat(dict(getattr(like, "config", {}))))
    defaults = inspect.signature(type(like).__init__).parameters
    missing = {k: p.default for k, p in defaults.items() if p.default is not p.empty}
    found = dict(_flat({**missing, **theirs}))
    differ = [
        f"{key} is {found.get(key)}, but {ours[key]} in the space"
        for key in ours
        if found.get(key) != ours[key]
    ]
    if differ:
        raise UserError(
            f"'{name}' is not the space's largest architecture: {'; '.join(differ)}. Change the "
            "space to match"
        )


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a config's settings, nested ones as `a.b`, without notes (keys with an underscore)."""
    for key, each in value.items():
        if key.startswith("_"):
            continue
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", [*each] if isinstance(each, tuple) else each


def _check_finite(name: str, model: nn.Module) -> None:
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"'{name}' has weights that are not finite, in {key}")
