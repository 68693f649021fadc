"""A fault in a plug-in is one line, with the line of its code or what it returned."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid import plugins
from nasvid.cli.main import main

SAMPLER = """
from nasvid import PlannedSubnet, Role, Sampler, register

@register("samplers", "mine")
class Mine(Sampler):
    def plan(self, step):
        {body}
"""
ENCODER = """
import torch
from nasvid import TextEncoder, register

@register("text_encoders", "mine")
class Mine(TextEncoder):
    dim = 4

    def encode(self, caption, length):
        real = torch.ones(length, dtype=torch.bool)
        {body}
"""
SPACE = """
import numpy
from torch import nn
from nasvid import Choice, Costs, Layout, SearchSpace, register

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.into, self.out = nn.Conv3d(3, width, 1), nn.Conv3d(width, 3, 1)

    def forward(self, sample, timestep, context, context_mask, fps):
        return self.out(self.into(sample))

@register("spaces", "mine")
class Mine(SearchSpace):
    def make_choices(self):
        return [Choice("width", (4, 8))]

    def build(self, arch):
        return Net(arch["width"])

    {body}
"""
FAULTS = {
    "samplers": [
        ("raise KeyError('x')", ["mine.py:7: `raise KeyError('x')`", "KeyError", "TRACEBACK=1"]),
        ("return step.plan([step.space.architecture({'a': 1})])", ["mine.py:7: ", "'a' is not"]),
        ("pass", ["Sampler Mine must return step.plan(subnets)", "not None"]),
        ("return step.plan([])", ["at least one subnet"]),
        (
            "return step.plan([PlannedSubnet(step.space.largest, Role.LARGEST)] * 2)",
            ["an architecture twice in step 0"],
        ),
    ],
    "text_encoders": [
        ("raise KeyError('x')", ["mine.py:11: `raise KeyError('x')`"]),
        ("pass", ["Mine.encode() must return two tensors, not NoneType"]),
        ("return torch.ones(length, 5), real", ["an embedding (8, 4) of torch.float32", "(8, 5)"]),
        ("return torch.ones(length, 4), real.float()", ["not (8, 4) of torch.float32 and (8,)"]),
        ("return torch.ones(length, 4) / 0, real", ["is not finite"]),
        ("return torch.ones(length, 4), ~real", ["has no real token"]),
        ("return torch.ones(length, 4), real.cumsum(0) < 2", ["must be zero"]),
        ("return torch.ones(length, 4, device='meta'), real", ["must return tensors on the CPU"]),
    ],
    "spaces": [
        ("make_choices = lambda self: None", ["must return a list of Choice, not None"]),
        ("make_choices = lambda self: [Choice('a', (numpy.int64(1),))]", ["of type int64"]),
        ("build = lambda self, arch: None", ["must return a torch.nn.Module, not None"]),
        (
            "denoise = lambda self, model, x: (x.sample,)",
            ["(1, 3, 4, 16, 16), but Net gives tuple"],
        ),
        ("costs = lambda self, genomes, shape: Costs(1, 2, 3)", ["costs.params is no array of n"]),
        ("layout = lambda self: Layout(())", ["space: layout: ", "but is in 0 parts"]),
        ("costs = lambda self, genomes, shape: {}", ["costs() must return Costs, not {}"]),
        ("__init__ = lambda self: None", ["spaces/mine is not made as", "too many positional"]),
        ("del build", ["spaces/mine", "lacks build"]),
    ],
}
TEXT = {"samplers": SAMPLER, "text_encoders": ENCODER, "spaces": SPACE}
SECTION = {"samplers": "sampler", "text_encoders": "text", "spaces": "space"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [(kind, body, said) for kind, faults in FAULTS.items() for body, said in faults],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_one_line(
    kind: str,
    body: str,
    said: list[str],
    tiny: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))
    (tmp_path / "mine.py").write_text(TEXT[kind].format(body=body))
    sections = {SECTION[kind]: {"name": "mine"}, "resolutions": {16: {"batch": 2}}}
    (tmp_path / "recipe.yaml").write_text(tiny(plugins=["mine.py"], **sections))
    arguments = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    (message,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert result.stderr.endswith(message + "\n")
    for part in said:
        assert part in message


def test_all_calls_are_shown_on_request(
    tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))
    monkeypatch.setenv("NASVID_TRACEBACK", "1")
    (tmp_path / "mine.py").write_text(SAMPLER.format(body="raise KeyError('x')"))
    (tmp_path / "recipe.yaml").write_text(tiny(plugins=["mine.py"], sampler={"name": "mine"}))
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "recipe.yaml")])
    assert isinstance(result.exception, KeyError)
