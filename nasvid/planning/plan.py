"""What a recipe will need, before anything is allocated: the space, its costs, memory, time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nasvid.errors import UserError
from nasvid.host.device import pick_device
from nasvid.planning import engines
from nasvid.planning.devices import Devices
from nasvid.planning.memory import USABLE, EngineChoice, MemoryPlan, Weights, memory
from nasvid.planning.shapes import ShapePlan, group_size, shape_plans
from nasvid.planning.speed import UTILIZATION, SpeedPlan, sent_bytes, speed, training_seconds
from nasvid.planning.target import here, precision, target
from nasvid.recipe.sections import EngineSection, Recipe
from nasvid.training.plan import batch_sizes, trains_largest


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """What training takes of each device under one engine.

    sent: bytes to others in a step. fits: whether the memory does, None if not known.
    """

    memory: MemoryPlan
    sent: int
    fits: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self.memory.to_json() | {"sent": self.sent, "fits": self.fits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe will need; plain data.

    engine: the one that is planned for, the first of `engines`; the others are beside it to
    compare. sharing: devices that share the clips of a step at one resolution. seconds: of the
    whole training, None if not known.
    """

    name: str
    choices: int
    networks: int
    smallest_params: int
    largest_params: int
    devices: Devices
    sharing: int
    precision: str
    gradient_checkpointing: bool
    shapes: tuple[ShapePlan, ...]
    engines: tuple[EnginePlan, ...]
    speeds: tuple[SpeedPlan, ...]
    utilization: float
    steps: int
    seconds: float | None

    @property
    def engine(self) -> EnginePlan:
        """The one that is planned for."""
        return self.engines[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; bytes are bytes, times are seconds."""
        timed = [
            asdict(each) | {"seconds": each.seconds, "videos_per_second": each.videos_per_second}
            for each in self.speeds
        ]
        shown = [each.to_json() for each in self.engines]
        return asdict(self) | {"engines": shown, "speeds": timed}


def make_plan(
    recipe: Recipe,
    devices: Devices | None = None,
    engine: EngineSection | None = None,
    utilization: float = UTILIZATION,
) -> Plan:
    """Predict costs, memory and time; models are made on the `meta` device only.

    devices: None for this machine's own, one. engine: None for the recipe's. utilization: share of
    the peak FLOP/s that is assumed to be reached.

    The memory is that of a step which trains the largest subnet, at the resolution where that
    takes most (`nasvid.planning.memory`); the time, that of average steps
    (`nasvid.planning.speed`).

    Raises:
        UserError: the engine's own file cannot be read.
    """
    space = recipe.make_space()
    cuda, half = target(recipe, devices)
    devices = here(recipe) if devices is None else devices
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    params = space.costs(ends, recipe.shapes()[min(recipe.resolutions)]).params
    aged = not trains_largest(recipe, space)
    weights = Weights(params=int(params[1]), devices=devices.count, half=half, aged=aged, cuda=cuda)
    chosen = engines.choice(engine or recipe.training.engine, recipe.training)
    shapes = tuple(shape_plans(recipe, space, ends, devices, chosen, weights))
    speeds = tuple(
        speed(
            recipe,
            space,
            batch_sizes(space, recipe.resolutions, recipe.shapes()),
            weights.params,
            chosen,
            devices,
            "bf16" if half else "fp32",
            utilization,
        )
    )
    return Plan(
        name=recipe.name,
        choices=len(space.choices),
        networks=space.size,
        smallest_params=int(params[0]),
        largest_params=int(params[1]),
        devices=devices,
        sharing=group_size(recipe, devices),
        precision=precision(recipe, half),
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        shapes=shapes,
        engines=tuple(_engine_plans(chosen, weights, shapes, devices)),
        speeds=speeds,
        utilization=utilization,
        steps=recipe.training.steps,
        seconds=training_seconds(recipe, speeds),
    )


def fit(recipe: Recipe) -> tuple[bool, str]:
    """Return whether the recipe's device is here and large enough, and why in one line."""
    try:
        device = pick_device(recipe.training.device)
    except UserError as error:
        return False, str(error)
    found = here(recipe)
    needs = make_plan(recipe, engine=recipe.training.engine).engine.memory.total
    assert found.memory is not None
    line = f"training needs about {needs / 1e9:.2g} GB, {device} has {found.memory / 1e9:.1f} GB"
    return needs <= USABLE * found.memory, line


def _engine_plans(
    chosen: EngineChoice, weights: Weights, shapes: Sequence[ShapePlan], devices: Devices
) -> Iterator[EnginePlan]:
    activations = max(shape.clip_bytes * shape.each for shape in shapes if shape.each is not None)
    for each in engines.to_compare(chosen, devices.count):
        needs = memory(each, weights, activations)
        fits = None if devices.memory is None else needs.total <= USABLE * devices.memory
        yield EnginePlan(
            memory=needs, sent=sent_bytes(each, weights.params, devices.count), fits=fits
        )
