"""What a recipe will need: its space, costs, memory and time, without allocating anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from nasvid.errors import UserError
from nasvid.host.cards import Devices
from nasvid.host.device import pick_device
from nasvid.planning.disk import Disk, disk
from nasvid.planning.encoders import Encoders
from nasvid.planning.engines import to_compare
from nasvid.planning.memory import USABLE, MemoryPlan, memory
from nasvid.planning.scenario import Scenario, own_devices
from nasvid.planning.shapes import ShapePlan, shape_plans
from nasvid.planning.speed import UTILIZATION, SpeedPlan, speed_plans, training_seconds
from nasvid.recipe.sections import EngineSection, Recipe
from nasvid.training.engine import engine_of, label
from nasvid.training.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """What training needs on each device under one engine.

    name: the engine and its variant. fits: whether the memory is enough; None if unknown.
    """

    name: str
    section: EngineSection
    memory: MemoryPlan
    fits: bool | None

    @property
    def resources(self) -> Resources | None:
        """What the engine itself needs and sends; None if it does not report it."""
        return self.memory.engine

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        named = {"name": self.name, "engine": self.section.model_dump(mode="json")}
        return named | self.memory.to_json() | {"fits": self.fits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe will need; plain data.

    engine: the engine of the plan, first in `engines`; the others are for comparison. latents: how
    they relate to pixels; None if pixels are denoised. encoders: VAE and text encoder. disk: what
    clips and captions take there. sharing: devices that share the clips of a step at one
    resolution. seconds: of the whole training; None if unknown.
    """

    name: str
    choices: int
    networks: int
    smallest_params: int
    largest_params: int
    latents: str | None
    devices: Devices
    encoders: Encoders
    disk: Disk
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
        """The engine of the plan."""
        return self.engines[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; bytes are bytes, times are seconds."""
        plain = {
            "devices": asdict(self.devices),
            "encoders": self.encoders.to_json(),
            "disk": self.disk.to_json(),
            "shapes": [each.to_json() for each in self.shapes],
            "engines": [each.to_json() for each in self.engines],
            "speeds": [each.to_json() for each in self.speeds],
        }
        return {field.name: getattr(self, field.name) for field in fields(self)} | plain


def make_plan(
    recipe: Recipe,
    devices: Devices | None = None,
    engine: EngineSection | None = None,
    utilization: float = UTILIZATION,
) -> Plan:
    """Predict costs, memory and time; models are made on the `meta` device only.

    devices: None for this machine's device. engine: None for the recipe's. utilization: assumed
    share of the peak FLOP/s.

    Memory is predicted for a step that trains the largest subnet, at the most expensive resolution
    (`nasvid.planning.memory`), and time for average steps (`nasvid.planning.speed`).

    Raises:
        UserError: a file that the engine names cannot be read, or contradicts the recipe.
    """
    scenario = Scenario.of(recipe, devices)
    chosen = engine or recipe.training.engine
    own = engine_of(chosen)
    own.library_config(recipe.training)
    resources = own.resources(scenario.work)
    shapes = tuple(shape_plans(scenario, resources))
    speeds = tuple(speed_plans(scenario, resources, utilization))
    return Plan(
        name=recipe.name,
        choices=len(scenario.space.choices),
        networks=scenario.space.size,
        smallest_params=scenario.smallest_params,
        largest_params=scenario.work.params,
        latents=str(recipe.vae.compression) if recipe.vae else None,
        devices=scenario.devices,
        encoders=scenario.encoders,
        disk=disk(recipe, scenario.encoders),
        sharing=scenario.sharing,
        precision=scenario.precision,
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        shapes=shapes,
        engines=tuple(_engine_plans(scenario, chosen, shapes)),
        speeds=speeds,
        utilization=utilization,
        steps=recipe.training.steps,
        seconds=training_seconds(recipe, speeds),
    )


def fit(recipe: Recipe) -> tuple[bool, str]:
    """Return whether the recipe's device exists and is large enough, and why in one line."""
    try:
        device = pick_device(recipe.training.device)
    except UserError as error:
        return False, str(error)
    found, plan = own_devices(recipe).memory, make_plan(recipe).engine
    has = f"{device} has {(found or 0) / 1e9:.1f} GB"
    if plan.memory.total is None:
        least = f"at least {plan.memory.least / 1e9:.2g} GB, and engine {plan.name}"
        return False, f"training needs {least} does not report how much more; {has}"
    return bool(plan.fits), f"training needs about {plan.memory.total / 1e9:.2g} GB; {has}"


def _engine_plans(
    scenario: Scenario, chosen: EngineSection, shapes: Sequence[ShapePlan]
) -> Iterator[EnginePlan]:
    trained = [(shape, shape.each) for shape in shapes if shape.each is not None]
    most, each = max(trained, key=lambda pair: (pair[0].clip_bytes + pair[0].state_bytes) * pair[1])
    kept = most.clip_bytes * each, most.state_bytes * each
    for section in to_compare(chosen, scenario.devices.count):
        needs = memory(scenario, engine_of(section).resources(scenario.work), *kept)
        yield EnginePlan(
            name=label(section),
            section=section,
            memory=needs,
            fits=_fits(scenario, needs),
        )


def _fits(scenario: Scenario, needs: MemoryPlan) -> bool | None:
    """Return whether training fits on a device, and encoding before it; None if unknown."""
    memory = scenario.devices.memory
    if memory is not None and scenario.encoders.size > USABLE * memory:
        return False
    return needs.fits(memory)
