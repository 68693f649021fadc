"""An existing model from disk or a hub, to begin a supernet from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from nasvid.errors import UserError
from nasvid.export.subnet import INFO, load_exported, subfolder
from nasvid.recipe.sections import SupernetSection


def load_pretrained(section: SupernetSection, like: nn.Module) -> nn.Module:
    """Load the model that a recipe names, whose weights are to be those of `like`, in eval mode.

    A folder that nasvid has exported is read whatever its class; else `like` must be a model of
    diffusers, and the folder or hub name holds one of its class.

    Raises:
        UserError: there is none, or its settings are not those of `like`.
    """
    path = Path(section.init_from)
    if (path / INFO).is_file():
        model = load_exported(path)
    elif isinstance(like, ModelMixin):
        model = _from_diffusers(section, like)
    else:
        raise UserError(
            f"supernet.init_from: {section.init_from} is not an exported subnet, and only those "
            f"can be read as {type(like).__name__}, which is not a model of diffusers"
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
    """Weights of equal shapes may still be of another network: another number of heads, say."""
    theirs, ours = _settings(model), _settings(like)
    keys = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    if not keys:
        return
    key = min(keys, key=lambda key: (key.count("."), key))
    more = f" ({len(keys) - 1} more settings differ)" if len(keys) > 1 else ""
    raise UserError(
        f"supernet.init_from: '{name}' has {key} {theirs.get(key)}, and the largest network of the "
        f"space {ours.get(key)}: make the space's agree{more}"
    )


def _settings(model: nn.Module) -> dict[str, Any]:
    """Return the settings of a model, those inside others as `a.b`; none where it has none."""
    found: dict[str, Any] = {}

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, below in value.items():
                add(f"{key}.{inner}" if key else inner, below)
        elif not key.startswith("_"):
            found[key] = [*value] if isinstance(value, tuple) else value

    add("", dict(getattr(model, "config", {})))
    return found
