"""A space that cannot work is refused before a run or a plan: one message, with tensor or line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid import plugins

SPACE = """
import torch
from torch import nn

from nasvid import Choice, SearchSpace, register


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.into, self.out = nn.Conv3d(3, width, 1), nn.Conv3d(width, 3, 1)
        BUILD

    def forward(self, sample, timestep, context, context_mask, fps):
        x = self.into(sample)
        RUN
        return self.out(x)


@register("spaces", "net")
class NetSpace(SearchSpace):
    def make_choices(self):
        return [Choice("other", (1, 2)), Choice("width", (4, 8))]

    def build(self, arch):
        return Net(arch["width"])
"""


@pytest.fixture
def write_space(
    tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Write a space with a line in its model's `__init__` or `forward`, and a recipe with it."""
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))

    def write(build: str = "pass", run: str = "pass", **sections: object) -> Path:
        (tmp_path / "net.py").write_text(SPACE.replace("BUILD", build).replace("RUN", run))
        path = tmp_path / "recipe.yaml"
        path.write_text(tiny(plugins=["net.py"], space={"name": "net"}, **sections))
        return path

    return write


@pytest.mark.parametrize(
    "line",
    [
        "context = context[context_mask.nonzero()[:, 0]]",
        "with torch.autocast(x.device.type): pass",
        "x = x * (2 if context_mask.any() else 1)",
        "x = x + torch.ones(1, device='cpu').repeat(8)[:1].numpy()",
        "x = x[..., : int(fps[0])]",
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_model_that_cannot_run_on_meta_is_one_message(
    write_space: Callable[..., Path], error_of: Callable[..., str], verb: str, line: str
) -> None:
    message = error_of(verb, write_space(run=line))
    assert "/recipe.yaml:" in message.partition(" ")[0]
    assert f"net.py:16: `{line}` fails on the `meta` device" in message
    assert "overriding `costs` (docs/spaces.md, Costs)" in message
    assert "\n" not in message


def test_a_constraint_on_cost_does_not_hide_it(
    write_space: Callable[..., Path], error_of: Callable[..., str]
) -> None:
    search = {"constraints": ["params <= 1e6"], "strategy": {"name": "random"}, "budget": 8}
    message = error_of("plan", write_space(run="context_mask.nonzero()", search=search))
    assert "space: " in message
    assert "`context_mask.nonzero()` fails on the `meta` device" in message


def test_a_build_that_reads_values_is_one_message(
    write_space: Callable[..., Path], error_of: Callable[..., str]
) -> None:
    line = "self.rates = [rate.item() for rate in torch.arange(3)]"
    message = error_of("plan", write_space(build=line))
    assert f"net.py:12: `{line}` fails on the `meta` device" in message
    assert "build() needs with Python's numbers" in message


@pytest.mark.parametrize(
    ("line", "tensor"),
    [
        ("self.add_module(f'middle{width}', nn.Linear(2, 2))", "'middle4.weight'"),
        ("self.table = nn.Parameter(torch.ones(32 // width))", "table: dimension 0 keeps 8 of 4"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_models_that_are_no_slices_are_refused_with_choice_and_tensor(
    write_space: Callable[..., Path],
    error_of: Callable[..., str],
    verb: str,
    line: str,
    tensor: str,
) -> None:
    message = error_of(verb, write_space(build=line))
    assert "models with 'width' 4 and 8 cannot share weights" in message
    assert tensor in message
    assert "\n" not in message


def test_hidden_states_of_a_space_without_feature_points_are_refused(
    write_space: Callable[..., Path], error_of: Callable[..., str]
) -> None:
    recipe = write_space(finetune={"teacher": {}})
    message = error_of("run", recipe)
    assert "finetune.teacher.features: space 'net' has no feature points" in message
