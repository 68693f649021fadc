"""Reads a model's folder without loading it: its config, and the headers of its tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasvid.errors import UserError
from nasvid.host.words import counted

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]
VARIANT = re.compile(r"\.(fp16|bf16|fp32)(?=[.-])")
"""The part of a file's name that states its precision."""
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
SHOWN = 3
"""Number of tensors of each kind that a message names."""
OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names of attention layers in files of early diffusers, which can still be read."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of a model's weights. variant: `fp16` if there are only fp16 files, else None."""

    files: tuple[Path, ...]
    variant: str | None

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each tensor, read from the headers.

        Raises:
            UserError: a file is damaged. OSError: it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        found: dict[str, Shape] = {}
        for path in self.files:
            path.open("rb").close()  # the library reports a file that may not be read as absent
            try:
                with safe_open(path, framework="numpy") as file:
                    for name in file.keys():  # noqa: SIM118 (not a mapping)
                        found[name] = tuple(file.get_slice(name).get_shape())
            except SafetensorError as error:
                raise UserError(f"{path} is damaged: {error}") from None
        return found


def read_config(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a model's folder.

    Raises:
        UserError: there is none, or it is not a JSON object; the message names subfolders with one.
    """
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(each.parent.name for each in folder.glob("*/config.json"))
        hint = f"; its subfolders {', '.join(inside)} have one: set subfolder" if inside else ""
        what = "has no config.json" if folder.is_dir() else "does not exist"
        raise UserError(f"folder {folder} {what}{hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a model's config: it holds no JSON object")
    return config


def class_of(config: Mapping[str, Any], where: object) -> str:
    """Return the class of diffusers that the config of a model, at `where`, names.

    Raises:
        UserError: it names none.
    """
    known = config.get("_class_name")
    if not isinstance(known, str):
        raise UserError(f"{where} holds no model of diffusers: its config.json has no _class_name")
    return known


def part_of(folder: Path, name: str) -> Path:
    """Return the folder of a model, which may be one part of a pipeline's folder."""
    inside, is_whole = folder / name, (folder / "model_index.json").is_file()
    is_alone = (folder / "config.json").is_file()
    return inside if not is_alone and (is_whole or inside.is_dir()) else folder


def find_weights(folder: Path) -> Weights:
    """Return the weights in a folder: the files without a variant, or else those of one variant.

    Raises:
        UserError: there are none, some are missing, or they are pickles, which are never loaded.
    """
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(each.name for each in (*folder.glob("*.bin"), *folder.glob("*.pt")))
        if pickles:
            raise UserError(
                f"folder {folder} has its weights only as {pickles[0]}, a pickle, which could run "
                "any code when loaded; save the model again with safe_serialization=True"
            )
        raise UserError(f"folder {folder} has no weights (*.safetensors)")
    by_variant: dict[str | None, list[Path]] = {}
    for path in files:
        match = VARIANT.search(path.name)
        by_variant.setdefault(match[1] if match else None, []).append(path)
    variant = next(each for each in (None, "fp16", "bf16", "fp32") if each in by_variant)
    chosen = by_variant[variant]
    shards = [int(match[1]) for path in chosen if (match := SHARD.search(path.name))]
    if shards and len(shards) < max(shards):
        raise UserError(f"folder {folder} has {len(shards)} of {max(shards)} files of its weights")
    if len(shards) > 1 and not any(folder.glob("*.safetensors.index*.json")):
        raise UserError(f"folder {folder} lacks the index of its weights, *.safetensors.index.json")
    return Weights(tuple(chosen), variant)


def check_tensors(
    what: str,
    found: Mapping[str, Shape],
    model: nn.Module,
    *,
    prefixes: Sequence[str] = ("",),
    may_have_more: bool = False,
) -> None:
    """Check that files hold the tensors of a model, which may be on the `meta` device.

    what: start of the message. prefixes: that names in files may have. may_have_more: whether
    tensors that the model does not have are allowed.

    Raises:
        UserError: tensors are missing, unexpected or differ in shape; the message names some.
    """
    found = {_new_name(name): shape for name, shape in found.items()}
    tied: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tied.setdefault(id(tensor), []).append(name)
    missing, reshaped, used = [], [], set[str]()
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for names in tied.values():
        known = [p + name for name in names for p in prefixes if p + name in found]
        used.update(known)
        if not known:
            missing.append(names[0])
        elif found[known[0]] != own[names[0]]:
            reshaped.append(f"{names[0]} {list(found[known[0]])}, not {list(own[names[0]])}")
    unexpected = [] if may_have_more else [name for name in found if name not in used]
    refuse(what, missing, unexpected, reshaped)


def refuse(
    what: str, missing: Collection[str], unexpected: Collection[str], reshaped: Collection[str] = ()
) -> None:
    """Raise UserError if any tensors are missing, unexpected or differ in shape."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    said = [
        f"{counted(len(names), 'tensor')} {kind} ({_some(names)})"
        for kind, names in kinds.items()
        if names
    ]
    if said:
        raise UserError(f"{what}: {'; '.join(said)}")


def _some(names: Collection[str]) -> str:
    more = len(names) - SHOWN
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _new_name(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if "attentions." in name:
            name = name.replace(old, new)
    return name
