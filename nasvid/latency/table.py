"""A table of latency and memory: what each variant of each part of a space's networks takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nasvid.errors import Damaged, UserError
from nasvid.host.files import write_json
from nasvid.host.reading import read_json
from nasvid.host.words import counted
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace

ABSENT = 0
"""The variant of a part that does not run; it takes nothing."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Made(_Stored):
    """How a table was measured.

    device: its name. threads: of the CPU. precision: fp32, bf16 or fp16, as in training. batch:
    clips of a forward pass. compiled: whether each part was compiled. memory: `measured` with the
    device's allocator, or `counted` from the tensors that live at once, without workspaces.
    """

    device: str
    threads: int
    torch: str
    precision: str
    batch: int
    compiled: bool
    memory: str

    def __str__(self) -> str:
        threads = [counted(self.threads, "thread")] if self.memory == "counted" else []
        mode = "compiled" if self.compiled else "eager"
        return ", ".join([self.device, *threads, self.precision, f"batch {self.batch}", mode])


class Part(_Stored):
    """One part of the networks.

    choices: that it depends on, by name. variants: the variant for each combination of their
    options, those of the last choice varying fastest; 0 where the part does not run.
    """

    name: str
    choices: tuple[str, ...]
    variants: tuple[int, ...]


class Entries(_Stored):
    """What each variant takes at one resolution; tuples indexed by variant.

    ms: milliseconds. peak: the most bytes in use while it runs, beyond those at its beginning.
    left: the same when it ends, negative if it has freed some.
    """

    ms: tuple[float, ...]
    peak: tuple[int, ...]
    left: tuple[int, ...]


class Around(_Stored):
    """Seconds of what a sampled clip takes besides denoising; None if it could not be run.

    text: encoding the prompt. decode: resolution -> decoding the latents, 0 without a VAE.
    """

    text: float | None
    decode: dict[Resolution, float] | None


class LatencyTable(_Stored):
    """Latency and memory of a space's networks on one device, as sums over their parts.

    space: its class, options and domain. shapes: resolution -> shape of a clip. parts: in the order
    they run. weights: bytes of each variant's weights. entries: resolution -> what each variant
    takes. inputs: resolution -> bytes of a model's inputs. timed: ids of the architectures that
    were timed. around: what a clip takes besides.
    """

    made: Made
    space: dict[str, Any]
    shapes: dict[Resolution, VideoShape]
    parts: tuple[Part, ...]
    weights: tuple[int, ...]
    entries: dict[Resolution, Entries]
    inputs: dict[Resolution, int]
    timed: tuple[str, ...]
    around: Around

    @model_validator(mode="after")
    def _whole(self) -> LatencyTable:
        count = len(self.weights)
        columns = [c for e in self.entries.values() for c in (e.ms, e.peak, e.left)]
        variants = [variant for part in self.parts for variant in part.variants]
        if any(len(c) != count for c in columns) or not set(variants) <= set(range(count)):
            raise ValueError("not every variant has its entries")
        if not self.shapes.keys() == self.entries.keys() == self.inputs.keys():
            raise ValueError("not every resolution has its entries")
        return self

    def write(self, path: Path) -> None:
        """Write the table as JSON."""
        write_json(path, self.model_dump(mode="json"))


def read_table(path: Path) -> LatencyTable:
    """Read what `LatencyTable.write` wrote.

    Raises:
        UserError: the file does not exist, or is something else.
    """
    fix = f"build it with nasvid latency build RECIPE --out {path}"
    try:
        table = read_json(path, _parsed)
    except Damaged as damaged:
        raise UserError(f"{path} is not a latency table ({damaged.reason}); {fix}") from damaged
    if table is None:
        raise UserError(f"There is no latency table {path}; {fix}")
    return table


def _parsed(value: Any) -> LatencyTable:
    try:
        return LatencyTable.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def open_table(path: Path, space: SearchSpace, shapes: Mapping[Resolution, VideoShape]) -> Lookup:
    """Read a table and look it up for a recipe's space and shapes.

    Raises:
        UserError: there is none, or it is of another space or other shapes; the message names what
            differs.
    """
    table = read_table(path)
    known = {"space": table.space, "shapes": _plain(table.shapes)}
    wanted = {"space": identity(space), "shapes": _plain(shapes)}
    for key, theirs, ours in _differences(known, wanted):
        raise UserError(
            f"{path} was built for {key} = {theirs}, but the recipe has {ours}; build one with "
            f"nasvid latency build RECIPE --out {path}"
        )
    sizes = {choice.name: len(choice.options) for choice in space.choices}
    for part in table.parts:
        if math.prod(sizes.get(name, 0) for name in part.choices) != len(part.variants):
            raise UserError(
                f"{path} is damaged (part {part.name} does not have a variant for each option); "
                f"build it again with nasvid latency build RECIPE --out {path}"
            )
    return Lookup(table, space)


class Lookup:
    """A table's values for genomes of its space, thousands at once."""

    def __init__(self, table: LatencyTable, space: SearchSpace) -> None:
        self.table = table
        self.space = space
        column = {choice.name: i for i, choice in enumerate(space.choices)}
        # Floating point, because matrix products are fast there; indices are small, hence exact.
        self._strides = np.zeros((len(space.choices), len(table.parts)))
        starts, variants = [], []
        for number, part in enumerate(table.parts):
            sizes = [len(space.choices[column[name]].options) for name in part.choices]
            for i, name in enumerate(part.choices):
                self._strides[column[name], number] = math.prod(sizes[i + 1 :])
            starts.append(len(variants))
            variants += part.variants
        self._starts, self._variants = np.array(starts), np.array(variants)
        self._weights = np.array(table.weights, dtype=np.float64)
        self._entries = {
            resolution: {name: np.array(column, dtype=np.float64) for name, column in entries}
            for resolution, entries in table.entries.items()
        }

    def _found(self, genomes: np.ndarray) -> np.ndarray:
        """Return each part's variant, int64 `(n, parts)`."""
        places = (self.space.canonical(genomes) @ self._strides).astype(np.int64) + self._starts
        return self._variants[places]

    def milliseconds(self, genomes: np.ndarray, resolution: Resolution) -> np.ndarray:
        """Return the time of one forward pass at a resolution: float64, shape `(n,)`."""
        return self._entries[resolution]["ms"][self._found(genomes)].sum(axis=1)

    def peak_memory(self, genomes: np.ndarray, resolution: Resolution) -> np.ndarray:
        """Return the most bytes in use in one pass, weights included: float64, shape `(n,)`."""
        found = self._found(genomes)
        left = self._entries[resolution]["left"][found]
        before = left.cumsum(axis=1) - left
        most = (before + self._entries[resolution]["peak"][found]).max(axis=1)
        return most + self._weights[found].sum(axis=1) + self.table.inputs[resolution]

    def bounds_of_milliseconds(self, resolution: Resolution) -> tuple[float, float]:
        """Return milliseconds below and above which no architecture is."""
        return self._sums(self._entries[resolution]["ms"])

    def bounds_of_memory(self, resolution: Resolution) -> tuple[float, float]:
        """Return bytes below and above which no architecture's peak is."""
        entries, inputs = self._entries[resolution], self.table.inputs[resolution]
        least, most = self._sums(self._weights)
        kept = self._sums(np.maximum(entries["left"], 0))[1]
        return least + inputs, most + inputs + kept + float(entries["peak"].max())

    def _sums(self, values: np.ndarray) -> tuple[float, float]:
        """Return the sums over all parts of the least and of the most of their variants."""
        each = [values[list(part.variants)] for part in self.table.parts]
        return float(sum(part.min() for part in each)), float(sum(part.max() for part in each))


def identity(space: SearchSpace) -> dict[str, Any]:
    """Return what a space's networks follow from, as plain values."""
    return {
        "class": type(space).__name__,
        **json.loads(space.config.model_dump_json()),
        "channels": space.domain.channels,
        "context_dim": space.domain.context_dim,
        "choices": {choice.name: list(choice.options) for choice in space.choices},
    }


def _plain(shapes: Mapping[Resolution, VideoShape]) -> dict[str, Any]:
    return {str(resolution): asdict(shape) for resolution, shape in sorted(shapes.items())}


def _differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys((*a, *b)):
            inner = f"{key}.{name}" if key else str(name)
            yield from _differences(a.get(name), b.get(name), inner)
    elif a != b:
        yield key, json.dumps(a), json.dumps(b)
