"""What a choice of a recipe says: the settings that it drives, or that blocks may be left out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nasvid.plugins.config import Config

Option = Annotated[int, Field(ge=1, le=65536)]
Options = Annotated[tuple[Option, ...], Field(max_length=64)]


class Blocks(Config):
    """Of a model's blocks, which its setting counts, any may be left out."""

    keep: int = Field(ge=1, le=512)
    """Blocks that remain at least."""


Target = tuple[str, int | None]
"""A setting, and the position of one of its entries if it is a list."""


def targets(choice: str) -> list[Target]:
    """Return the settings that a choice drives.

    `block_out_channels.2+3` drives two entries of one list, `num_layers+num_refiner_layers` two
    settings.
    """
    found: list[Target] = []
    for part in choice.split("+"):
        if part.isdigit() and found and found[-1][1] is not None:
            found.append((found[-1][0], int(part)))
        else:
            key, dot, index = part.partition(".")
            found.append((key, int(index)) if index.isdigit() else (key + dot + index, None))
    return found
