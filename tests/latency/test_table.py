"""Tables of latency and memory: what they are made of, and what they say of each architecture."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasvid.architecture import Choice
from nasvid.errors import UserError
from nasvid.latency import passes
from nasvid.latency.build import build
from nasvid.latency.check import Error, unseen
from nasvid.latency.design import Design, design
from nasvid.latency.passes import END, CountedMemory, names_of_calls
from nasvid.latency.table import Around, Lookup, Made, open_table
from nasvid.latency.timing import Bench
from nasvid.plugins.config import Config
from nasvid.shapes import Domain
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.testing.toy import SHAPES, ToySpace
from nasvid_spaces.diffusers_model import WanSpace

MADE = Made(
    device="test",
    threads=1,
    torch=torch.__version__,
    precision="fp32",
    batch=1,
    compiled=False,
    memory="counted",
)
TOY = {"widths": (2, 4), "blocks": 2}


def bench_of(space: SearchSpace) -> Bench:
    return Bench(Supernet(space, space.build(space.largest).eval()), SHAPES, torch.device("cpu"))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_of(ToySpace.of(**TOY))


@pytest.fixture(scope="module")
def found(bench: Bench) -> Design:
    return design(bench)


@pytest.fixture(scope="module")
def path(bench: Bench, found: Design, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "table.json"
    build(bench, found, MADE, Around(text=0.0, decode=None), rounds=1).write(path)
    return path


@pytest.fixture(scope="module")
def lookup(bench: Bench, path: Path) -> Lookup:
    return open_table(path, bench.supernet.space, SHAPES)


def test_a_part_depends_on_the_choices_that_change_it(bench: Bench, found: Design) -> None:
    names = [choice.name for choice in bench.supernet.space.choices]
    depends = {unit.name: [names[i] for i in unit.choices] for unit in found.units}
    assert depends == {
        "stem": ["width"],
        "text": ["width"],
        "time": ["width"],
        "blocks.0": ["width", "block.0", "block.0.hidden"],
        "blocks.1": ["width", "block.1", "block.1.hidden"],
        "head": ["width"],
        END: [],
    }


def test_the_timed_networks_have_every_variant(bench: Bench, found: Design) -> None:
    timed = {found.of(unit, genome) for genome in found.genomes for unit in found.units}
    assert timed == set(range(found.count))
    space = bench.supernet.space
    every = {space.canonical(g[None]).tobytes() for g in np.array(list(np.ndindex(2, 2, 2, 2, 2)))}
    assert len(found.genomes) < len(every) / 2
    for genome in every:  # each architecture of the space has all its parts in the table
        row = np.frombuffer(genome, dtype=np.int64)
        assert all(found.of(unit, row) >= 0 for unit in found.units)


def test_a_module_that_depends_on_much_is_timed_layer_by_layer() -> None:
    space = ToySpace.of(widths=(1, 2, 3, 4, 5, 6), blocks=1)
    names = [unit.name for unit in design(bench_of(space)).units]
    assert "blocks.0.0" in names
    assert "blocks.0" not in names


@pytest.mark.slow
def test_a_stock_transformers_parts_are_its_blocks() -> None:
    sizes = {"attention_head_dim": 12, "freq_dim": 32, "patch_size": [1, 2, 2]}
    choices = {"num_attention_heads": (1, 2), "ffn_dim": (24, 48), "num_layers": (1, 2)}
    config = WanSpace.Config(config=sizes, choices=choices)
    space = WanSpace(config, Domain(channels=4, context_dim=16))
    depends = {
        unit.name: {space.choices[i].name for i in unit.choices}
        for unit in design(bench_of(space)).units
    }
    assert depends["blocks.0"] == {"num_attention_heads", "ffn_dim"}
    assert depends["blocks.1"] == {"num_attention_heads", "ffn_dim", "num_layers"}
    assert depends["patch_embedding"] == {"num_attention_heads"}
    assert depends["rope"] == set()


@pytest.mark.slow
def test_any_blocks_of_a_stock_transformer_are_timed_each_for_itself() -> None:
    sizes = {"attention_head_dim": 12, "freq_dim": 32, "num_layers": 4}
    config = WanSpace.Config(config=sizes, choices={"num_layers": {"keep": 3}})
    bench = bench_of(space := WanSpace(config, Domain(channels=4, context_dim=16)))
    found = design(bench)
    depends = {unit.name: {space.choices[i].name for i in unit.choices} for unit in found.units}
    assert {name: of for name, of in depends.items() if of} == {
        f"blocks.{i}": {f"blocks.{i}"} for i in range(4)
    }
    assert len(found.genomes) == 1  # the largest has every block


class Time:
    """A clock that goes on only where a module says so."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        return cls.now


class Sleepy(nn.Module):
    """Takes as long as it says."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Time.now += self.milliseconds / 1e3
        return x + self.weight


class SleepyNet(nn.Module):
    def __init__(self, sleeps: list[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Sleepy(each) for each in sleeps)

    def forward(self, sample: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            sample = part(part(sample)) if part is self.parts[0] else part(sample)
        return sample


class SleepySpace(SearchSpace):
    def make_choices(self) -> list[Choice]:
        return [Choice(f"part.{i}", (1, 4, 9)) for i in range(4)]

    def build(self, arch) -> SleepyNet:
        return SleepyNet([float(arch[f"part.{i}"]) for i in range(4)])


@pytest.mark.slow
def test_milliseconds_add_up_to_those_of_architectures_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "time", Time)
    bench = bench_of(SleepySpace(Config(), Domain()))
    found = design(bench)
    assert len(found.genomes) <= 5  # of 81
    table = build(bench, found, MADE, Around(text=None, decode=None), rounds=1)
    lookup = Lookup(table, bench.supernet.space)
    options = np.array([1, 4, 9])
    genomes = np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    sleeps = options[genomes]
    expected = sleeps.sum(axis=1) + sleeps[:, 0]  # the first part runs twice
    for side in SHAPES:
        assert lookup.milliseconds(genomes, side) == pytest.approx(expected)


def test_memory_counts_what_lives_at_the_same_time() -> None:
    with CountedMemory() as memory:
        a = torch.zeros(100)
        b = a.view(10, 10) + 1
        del a
        c = b.add_(1).t()
        memory.mark("one")
        del b, c
        memory.mark("two")
    assert (memory.parts["one"].peak, memory.parts["one"].left) == (800, 400)
    assert (memory.parts["two"].peak, memory.parts["two"].left) == (0, -400)


def test_no_architecture_is_beyond_the_bounds(bench: Bench, lookup: Lookup) -> None:
    genomes = bench.supernet.space.random_genomes(np.random.default_rng(0), 50)
    for side in SHAPES:
        for values, bounds in (
            (lookup.milliseconds(genomes, side), lookup.bounds_of_milliseconds(side)),
            (lookup.peak_memory(genomes, side), lookup.bounds_of_memory(side)),
        ):
            assert values.dtype == np.float64
            assert bounds[0] <= values.min() <= values.max() <= bounds[1]


def test_unseen_architectures_are_not_those_timed(bench: Bench, lookup: Lookup) -> None:
    rng = np.random.default_rng(0)
    space = bench.supernet.space
    ids = {space.decode(genome).id for genome in unseen(bench, lookup, 5, rng)}
    assert len(ids) == 5
    assert not ids & set(lookup.table.timed)
    with pytest.raises(UserError, match=r"Only .* architectures were found .*--n"):
        unseen(bench, lookup, 40, rng)


def test_errors_of_predictions() -> None:
    measured = np.array([1.0, 2.0, 4.0])
    error = Error.of(np.array([1.1, 2.2, 4.8]), measured)
    assert (error.median, error.worst, error.bias) == pytest.approx((0.1, 0.2, 0.1))
    assert error.tau == 1


def test_the_order_of_equal_predictions_is_not_defined() -> None:
    assert Error.of(np.array([2.0, 2.0]), np.array([1.0, 3.0])).tau is None


def test_what_decides_a_calls_time_is_its_module_and_its_inputs() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    modules = dict(net.named_modules())
    calls = [names_of_calls(modules, lambda n=n: net(torch.zeros(n, 2))) for n in (1, 1, 3)]
    assert list(calls[0]) == ["0", "1", ""]
    assert calls[0] == calls[1]
    assert not set(calls[0].values()) & set(calls[2].values())
    assert not net[0]._forward_hooks


@contextmanager
def changed(path: Path, change: Callable[[dict], object]) -> Iterator[None]:
    before = path.read_text()
    value = json.loads(before)
    change(value)
    path.write_text(json.dumps(value))
    yield
    path.write_text(before)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t["space"].update(blocks=3), "space.blocks = 3, but the recipe has 2"),
        (lambda t: t["shapes"]["8"].update(frames=9), "shapes.8.frames = 9, but the recipe has 2"),
        (lambda t: t["space"].update({"class": "Mine"}), 'space.class = "Mine", but .* "ToySpace"'),
        (lambda t: t["entries"].pop("8"), "not a latency table .*resolution"),
        (lambda t: t["weights"].pop(), "not a latency table .*variant"),
        (lambda t: t.pop("made"), r"not a latency table \(made: Field required\)"),
        (lambda t: t.clear(), r"not a latency table \(made: Field required\)"),
        (lambda t: t["parts"][0]["variants"].append(0), "damaged .*variant for each option"),
        (lambda t: t["parts"][0].update(choices=["none"]), "damaged .*variant for each option"),
    ],
)
def test_a_table_of_something_else_says_what(
    bench: Bench, path: Path, change: Callable[[dict], object], what: str
) -> None:
    with changed(path, change), pytest.raises(UserError, match=what) as error:
        open_table(path, bench.supernet.space, SHAPES)
    assert "nasvid latency build RECIPE --out" in str(error.value)
    assert "\n" not in str(error.value)
