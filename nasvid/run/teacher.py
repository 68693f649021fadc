"""Loads the frozen models that subnets learn from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nasvid.recipe.sections import TeacherSection
from nasvid.run.components import Components
from nasvid.run.init_from import load_start
from nasvid.supernet import Supernet
from nasvid.training.teacher import Teacher, Weights


def load_teacher(
    components: Components,
    section: TeacherSection | None,
    setting: str,
    trained: Callable[[], Supernet] | None = None,
) -> Teacher | None:
    """Return the teacher that a section of the recipe asks for, on the device.

    An existing model is in half precision if the run's products are, and its units are in the
    supernet's order. setting: the section, for messages. trained: returns the trained supernet,
    which teaches as it is where the section says so; None before training.

    Raises:
        UserError: the model cannot be loaded, or is not the space's largest architecture.
    """
    if section is None:
        return None
    start = section.pretrained(components.recipe.supernet)
    if start is None:
        assert trained is not None, "the recipe's validation demands it"
        return Teacher(trained().net, Weights.of(section))
    with torch.random.fork_rng(devices=[]):
        supernet = Supernet(components.space)
    load_start(
        start,
        supernet,
        reorder=bool(start.reorder),
        scores=components.unit_order,
        setting=f"{setting}.model",
    )
    net = supernet.net.eval().requires_grad_(False)
    if components.autocast is not None:
        _halve(net, components.autocast)
    return Teacher(net.to(components.device), Weights.of(section))


def _halve(net: nn.Module, dtype: torch.dtype) -> None:
    """Convert a model's weights, but for those that its class keeps in fp32."""
    kept = set(getattr(net, "_keep_in_fp32_modules", None) or ())
    for name, parameter in net.named_parameters():
        if kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
