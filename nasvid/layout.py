"""Layout: how a space's architectures are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nasvid.architecture import Choice

Side = Literal["down", "middle", "up", "across"]
"""The place of a part in a U: the encoder, the bottom, the decoder, or shared by both sides of a
level."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an architecture, for example a block, and the choices that belong to it.

    labels: name of a choice -> its label in this part. On/off choices with the same label are one
        kind, and look the same in every part.
    side, level: the place in a U; level 0 is the highest, and the middle has none. A part without
        a side gets its own row.
    """

    name: str
    labels: Mapping[str, str]
    side: Side | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if (self.level is not None) != (self.side in ("down", "up", "across")):
            raise ValueError(
                f"Part '{self.name}' has side {self.side} and level {self.level}; "
                "the sides down, up and across need a level, all others must have none"
            )
        if len(set(self.labels.values())) != len(self.labels):
            raise ValueError(
                f"Two choices of part '{self.name}' have the same label: {dict(self.labels)}"
            )


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of an architecture in the order they run in; each choice belongs to one part."""

    parts: tuple[Part, ...]

    @classmethod
    def by_prefix(cls, choices: Sequence[Choice]) -> Layout:
        """Return a layout with one row for all choices whose names agree up to the last dot."""
        groups: dict[str, dict[str, str]] = {}
        for choice in choices:
            prefix, _, leaf = choice.name.rpartition(".")
            groups.setdefault(prefix, {})[choice.name] = leaf.replace("_", " ")
        return cls(tuple(Part(name or "whole", labels) for name, labels in groups.items()))

    def check(self, choices: Sequence[Choice]) -> None:
        """Raise ValueError unless each of a space's choices belongs to exactly one part."""
        placed = Counter(name for part in self.parts for name in part.labels)
        names = [choice.name for choice in choices]
        for name in dict.fromkeys((*names, *placed)):
            if placed[name] != names.count(name):
                what = "must be in one part" if name in names else "is not a choice of the space"
                raise ValueError(f"Layout: '{name}' {what}, but is in {placed[name]} parts")

    def to_json(self) -> list[dict[str, Any]]:
        """Return the parts as plain values."""
        return [
            {"name": part.name, "labels": dict(part.labels), "side": part.side, "level": part.level}
            for part in self.parts
        ]

    @classmethod
    def from_json(cls, parts: Sequence[Mapping[str, Any]]) -> Layout:
        """Read what `to_json` returned.

        Raises:
            TypeError, ValueError: `parts` is not a layout.
        """
        return cls(tuple(Part(**part) for part in parts))
