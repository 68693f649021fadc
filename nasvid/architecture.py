"""Choices and architectures: immutable values with a JSON form and a short stable name."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Option = bool | int | float | str
_PLAIN = (bool, int, float, str)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Choice:
    """One named, ordered decision of a search space.

    name: unique in its space, dotted by convention (`down.1.0.temporal_attention`).
    options: from smallest to largest, at least one, without duplicates.
    requires: the name of an on/off choice (options `(False, True)`) that comes earlier in the
        space; while that is off, this choice has no effect and takes its first option, so that
        different architectures always build different models.
    """

    name: str
    options: tuple[Option, ...]
    requires: str | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError(f"Choice '{self.name}' has no options")
        for option in self.options:
            if type(option) not in (bool, int, float, str):
                raise ValueError(
                    f"Choice '{self.name}': {option!r} is of type {type(option).__name__}; options "
                    "are bool, int, float or str"
                )
        if len({json.dumps(option) for option in self.options}) != len(self.options):
            raise ValueError(f"Choice '{self.name}' has duplicate options: {list(self.options)}")

    def index(self, option: Option) -> int:
        """Return the position of `option`.

        Raises:
            ValueError: `option` is not one of this choice's options.
        """
        for i, known in enumerate(self.options):
            if known == option and isinstance(known, bool) == isinstance(option, bool):
                return i
        shown = ", ".join(json.dumps(known) for known in self.options)
        given = json.dumps(option, default=str)
        raise ValueError(f"{given} is not one of {shown} (choice '{self.name}')")


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A rule of a space: of these on/off choices, at least `count` are on.

    choices: their names, in the order in which those that are off are turned on where fewer than
        `count` are on.
    """

    choices: tuple[str, ...]
    count: int

    def __post_init__(self) -> None:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"A rule names a choice twice: {list(self.choices)}")
        if not 0 <= self.count <= len(self.choices):
            raise ValueError(f"Of {len(self.choices)} choices, {self.count} cannot be on")


class Architecture(Mapping[str, Option]):
    """One point of a search space: an immutable, hashable mapping from choice to option.

    A space makes architectures in canonical form (`SearchSpace.architecture`); equality and `id`
    derive from the canonical JSON text.
    """

    __slots__ = ("_id", "_options", "_text")

    def __init__(self, options: Mapping[str, Option]) -> None:
        self._options = dict(options)
        self._text = _CANONICAL.encode(self._options)
        self._id = ""

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that identify this architecture on every machine."""
        if not self._id:
            self._id = hashlib.sha256(self._text.encode()).hexdigest()[:12]
        return self._id

    def to_json(self) -> str:
        """Return the canonical JSON text: keys sorted, no spaces."""
        return self._text

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            ValueError: `text` is not a JSON object of plain options.
        """
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, options: object) -> Architecture:
        """Return the architecture of a JSON object that was read.

        Raises:
            ValueError: it is not a JSON object of plain options.
        """
        if not isinstance(options, dict) or not all(
            isinstance(option, _PLAIN) for option in options.values()
        ):
            text = json.dumps(options)[:80]
            raise ValueError(f"Not an architecture (a JSON object of plain options): {text}")
        return cls({sys.intern(name): option for name, option in options.items()})

    @property
    def options(self) -> Mapping[str, Option]:
        """Choice to option, in a mapping that is read faster."""
        return MappingProxyType(self._options)

    def __getitem__(self, name: str) -> Option:
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._text == other._text

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={json.dumps(option)}" for name, option in self.items())
        return f"Architecture({self.id}: {shown})"
