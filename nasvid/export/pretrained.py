"""An existing model from disk or a hub, to initialise a supernet from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from nasvid.errors import UserError
from nasvid.export.subnet import INFO, load_exported, subfolder
from nasvid.recipe.sections import SupernetSection


def load_pretrained(section: SupernetSection, like: nn.Module) -> nn.Module:
    """Load the model that a recipe names, in eval mode; it has the architecture of `like`.

    A folder exported by nasvid may hold any class; otherwise `like` must be a diffusers model, and
    the folder or hub name must hold one of the same class.

    Raises:
        UserError: it cannot be loaded, or its config differs from that of `like`.
    """
    path = Path(section.init_from)
    if (path / INFO).is_file():
        model = load_exported(path)
    elif isinstance(like, ModelMixin):
        model = _from_diffusers(section, like)
    else:
        raise UserError(
            f"supernet.init_from: {section.init_from} is not a model exported by nasvid, and "
            f"{type(like).__name__}, which is not a diffusers model, can only be loaded from one"
        )
    _check_config(section.init_from, model, like)
    return model


def _from_diffusers(section: SupernetSection, like: ModelMixin) -> nn.Module:
    folder, inside = Path(section.init_from), section.subfolder
    if not inside and folder.is_dir() and not (folder / "config.json").exists():
        inside = subfolder(like)  # a pipeline's folder
    try:
        return type(like).from_pretrained(
            section.init_from,
            subfolder=inside or None,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"supernet.init_from: '{section.init_from}' cannot be loaded as "
            f"{type(like).__name__}: {reason}"
        ) from error


def _check_config(name: str, model: nn.Module, like: nn.Module) -> None:
    """Weights of equal shapes may still belong to a different model, say with more heads."""
    theirs, ours = _settings(model), _settings(like)
    keys = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    if not keys:
        return
    key = min(keys, key=lambda key: (key.count("."), key))
    more = f" ({len(keys) - 1} more settings differ)" if len(keys) > 1 else ""
    raise UserError(
        f"supernet.init_from: '{name}' has {key} {theirs.get(key)}, but the space's largest "
        f"architecture has {ours.get(key)}; change the space to match{more}"
    )


def _settings(model: nn.Module) -> dict[str, Any]:
    """Return a model's config, nested keys as `a.b`; empty if it has none."""
    found: dict[str, Any] = {}

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, below in value.items():
                add(f"{key}.{inner}" if key else inner, below)
        elif not key.startswith("_"):
            found[key] = [*value] if isinstance(value, tuple) else value

    add("", dict(getattr(model, "config", {})))
    return found
