import itertools

import numpy as np
import pytest
from torch import nn

from nasvid.architecture import Architecture, AtLeast, Choice
from nasvid.costs import count, dummy_input
from nasvid.plugins.config import Config
from nasvid.shapes import Domain
from nasvid.space import SearchSpace
from nasvid.testing.toy import LARGE, SHAPES, ToySpace

SHAPE = SHAPES[LARGE]


@pytest.fixture
def space() -> ToySpace:
    return ToySpace.of()


def every_genome(space: SearchSpace) -> np.ndarray:
    options = [range(len(choice.options)) for choice in space.choices]
    return np.array(list(itertools.product(*options)))


def made_of(*choices: Choice) -> SearchSpace:
    """Return a space with these choices, whose models' parameters are counted by their options."""

    class Made(SearchSpace):
        def make_choices(self):
            return choices

        def build(self, arch):
            return nn.Linear(1, 1 + sum(int(option) for option in arch.values()), bias=False)

        def denoise(self, model, x):
            return x.sample + model(x.sample[..., :1]).mean()

    return Made(Config(), Domain())


GATES = (
    Choice("a", (False, True)),
    Choice("a.b", (False, True), requires="a"),
    Choice("a.b.c", (1, 2, 3), requires="a.b"),
    Choice("a.d", (1, 2), requires="a"),
    Choice("e", (1, 2, 4)),
)


def test_size_counts_the_distinct_networks():
    for space in (ToySpace.of(), made_of(*GATES)):
        distinct = {space.decode(genome) for genome in every_genome(space)}
        assert space.size == len(distinct)
    assert ToySpace.of().size == 3 * 4**3
    assert ToySpace.of().describe() == "7 choices, 192 architectures"


def test_what_cannot_matter_takes_its_first_option():
    space = made_of(*GATES)
    options = {"a": False, "a.b": True, "a.b.c": 3, "a.d": 2, "e": 4}
    assert dict(space.architecture(options)) == options | {"a.b": False, "a.b.c": 1, "a.d": 1}
    assert dict(space.architecture(options | {"a": True})) == options | {"a": True}


def test_a_gate_that_is_off_turns_off_what_its_gates_require_in_turn():
    genomes = every_genome(made_of(*GATES))
    expected = genomes.copy()
    for column, gate in ((1, 0), (2, 1), (3, 0)):
        expected[:, column] *= expected[:, gate]
    np.testing.assert_array_equal(made_of(*GATES).canonical(genomes), expected)


def test_many_architectures_are_made_canonical_as_one_by_one():
    space = made_of(*GATES)
    exact = space.largest
    off = {**exact, "a": False}
    equal = {
        name: option if isinstance(option, bool) else float(option)
        for name, option in exact.items()
    }
    found, genomes = space.architectures([exact, off, equal])
    assert found[0] is exact
    assert found[1] == space.architecture(off) != Architecture(off)
    assert found[2] == exact
    assert [type(option) for option in found[2].values()] == [bool, bool, int, int, int]
    np.testing.assert_array_equal(genomes, [space.encode(arch) for arch in found])
    assert space.architectures([])[1].shape == (0, len(GATES))
    with pytest.raises(ValueError, match="1 is not one of false, true"):
        space.architectures([exact, {**exact, "a": 1}])


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_a_random_path_is_that_of_one_step_after_the_other(bias):
    """To the bit: what a search or a training draws must not depend on how fast it is drawn."""
    space, worth = made_of(*GATES), {0: 0.25, 1: 0.75}
    space.prefer({"a": worth[0], "a.b": worth[1]}, bias)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stretch = np.sort(rng.random((len(GATES), 2)), axis=1)
        times = {}
        for i, choice in enumerate(GATES):
            for k in range(len(choice.options) - 1):
                start, stop = stretch[i]
                if bias and i in worth:
                    start = stop = (1 - bias) * rng.random() + bias * (1 - worth[i])
                times[i, k] = start + (stop - start) * (k + 1) / (len(choice.options) - 1)
        genome, path = [0] * len(GATES), [[0] * len(GATES)]
        for i, _ in sorted(times, key=lambda step: times[step]):
            genome[i] += 1
            path.append([*genome])
        drawn = space.random_path(again := np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn, space.canonical(np.array(path)))
        assert again.random() == rng.random()


def test_the_ends_are_the_first_and_the_last_options(space):
    assert dict(space.smallest)["width"] == 2
    assert all(space.largest[choice.name] == choice.options[-1] for choice in space.choices)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([Choice("a", (1, 2)), Choice("a", (1, 3))], "Two choices have the same name"),
        ([Choice("b", (1, 2), requires="a")], "Choice 'b' requires 'a'"),
        ([Choice("a", (1, 2)), Choice("b", (1, 2), requires="a")], "not an on/off choice"),
        (
            [Choice("b", (1, 2), requires="a"), Choice("a", (False, True))],
            "not an on/off choice before it",
        ),
    ],
)
def test_choices_that_make_no_space_are_errors(choices, message):
    with pytest.raises(ValueError, match=message):
        made_of(*choices)


def test_architectures_of_another_space_are_errors(space):
    options = dict(space.largest)
    with pytest.raises(ValueError, match=r"'widht' is not a choice.*; did you mean 'width'\?"):
        space.architecture(options | {"widht": 2})
    with pytest.raises(ValueError, match=r"3 is not one of 2, 4, 8 \(choice 'width'\)"):
        space.architecture(options | {"width": 3})
    del options["width"]
    with pytest.raises(ValueError, match="Choice 'width' has no option"):
        space.architecture(options)


def test_uniform_draws_reach_every_option(space):
    genomes = space.random_genomes(np.random.default_rng(0), 500)
    assert {tuple(row) for row in genomes} == {tuple(space.canonical(g[None])[0]) for g in genomes}
    for i, choice in enumerate(space.choices):
        assert set(genomes[:, i]) == set(range(len(choice.options)))


def test_draws_within_a_range_spread_over_it(space):
    """Uniformly over cost, where uniform options would crowd in the middle."""
    rng = np.random.default_rng(0)
    top = space.cost(space.largest, "macs", SHAPE)
    archs = [space.sample(rng, within={"macs": (0.0, 1.0)}, shape=SHAPE) for _ in range(400)]
    shares = np.array([space.cost(arch, "macs", SHAPE) for arch in archs]) / top
    counts, _ = np.histogram(shares, bins=4, range=(0.0, 1.0))
    assert counts.min() > 50
    assert len(set(archs)) > 60


def test_a_range_may_be_absolute_or_relative(space):
    top = space.cost(space.largest, "params", SHAPE)
    for bounds in ((0.4, 0.6), (0.4 * top, 0.6 * top)):
        arch = space.sample(np.random.default_rng(1), within={"params": bounds}, shape=SHAPE)
        assert 0.4 <= space.cost(arch, "params", SHAPE) / top <= 0.6


def test_a_range_without_architectures_says_what_is_reachable():
    space = made_of(Choice("a", (1, 101, 201)))
    rng = np.random.default_rng(0)
    message = (
        "params between 110 and 190 at 2x8x8; "
        "this space ranges from 2 to 202, nearest found: 102 and 202"
    )
    with pytest.raises(ValueError, match=message):
        space.sample(rng, within={"params": (110, 190)}, shape=SHAPE)
    with pytest.raises(ValueError, match="ranges from 2 to 202, nearest found: 202"):
        space.sample(rng, within={"params": (300, 400)}, shape=SHAPE)
    with pytest.raises(ValueError, match="needs a shape and exactly one cost"):
        space.sample(rng, within={"params": (0, 1)})
    with pytest.raises(ValueError, match="'flops' is not a cost; use one of params, macs"):
        space.sample(rng, within={"flops": (0, 1)}, shape=SHAPE)


def test_the_smallest_above_a_share_is_just_above_it(space):
    rng = np.random.default_rng(0)
    costs = np.unique(space.costs(every_genome(space), SHAPE).params)
    for fraction in (0.0, 0.3, 0.5, 0.9, 1.0):
        least = fraction * costs[-1]
        found = [
            space.cost(space.smallest_above(rng, "params", fraction, SHAPE), "params", SHAPE)
            for _ in range(20)
        ]
        assert min(found) >= least
        assert min(found) <= costs[costs >= least][:5].max()


def test_mutation_changes_as_much_as_it_is_told(space):
    rng = np.random.default_rng(0)
    parents = np.repeat(space.encode(space.largest)[None], 500, axis=0)
    assert np.array_equal(space.mutate(rng, parents, 0.0), parents)
    changed = {rate: (space.mutate(rng, parents, rate) != parents).mean() for rate in (0.1, 0.5)}
    assert 0.03 < changed[0.1] < 0.12 < changed[0.5] < 0.6


def test_children_take_each_option_from_a_parent(space):
    rng = np.random.default_rng(0)
    a, b = space.random_genomes(rng, 100), space.random_genomes(rng, 100)
    children = space.cross(rng, a, b)
    inherited = (children == a) | (children == b)
    reset = children == 0
    assert (inherited | reset).all()
    assert (children != a).any()
    assert (children != b).any()


def test_counting_is_without_a_device_and_once_for_each_network(space):
    genome = space.encode(space.largest)[None]
    counted = SearchSpace.costs(space, genome, SHAPE)
    assert counted.params == space.costs(genome, SHAPE).params
    space.build = None  # pyright: ignore[reportAttributeAccessIssue]
    assert SearchSpace.costs(space, genome, SHAPE).macs == counted.macs


def test_attention_keeps_no_scores():
    """As the fused kernels of real devices; a matrix of scores would rule all other memory."""

    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    inputs = dummy_input(SHAPE, Domain())
    tokens, width = 4096, 16

    def run(model):
        x = inputs.sample.new_zeros(1, 2, tokens, width).requires_grad_()
        return model(x)

    costs = count(Attention, run)
    assert costs.macs == 2 * 2 * tokens * tokens * width
    assert costs.activation_bytes < 4 * 2 * tokens * (3 * width)


class Ruled(SearchSpace):
    """Four on/off choices, the first of which gates another, and of which two are on at least."""

    def make_choices(self):
        switches = [Choice(f"block.{i}", (False, True)) for i in range(4)]
        return [*switches, Choice("width", (1, 2, 3), requires="block.0")]

    def make_rules(self):
        return [AtLeast(("block.0", "block.3", "block.1", "block.2"), 2)]

    def build(self, arch):
        raise NotImplementedError


def test_a_rule_keeps_enough_on():
    space = Ruled(Config(), Domain())
    genomes = space.canonical(every_genome(space))
    on = genomes[:, :4]
    assert on.sum(axis=1).min() == 2
    assert space.size == len({space.decode(genome) for genome in genomes})
    assert [space.smallest[f"block.{i}"] for i in range(4)] == [True, False, False, True]
    assert np.array_equal(space.canonical(genomes), genomes)
    only = space.canonical(np.array([[0, 0, 1, 0, 0]]))[0]
    assert only.tolist() == [1, 0, 1, 0, 0]
    path = space.random_path(np.random.default_rng(0))
    assert path[:, :4].sum(axis=1).min() == 2


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda: AtLeast(("block.0", "block.0"), 1), "names a choice twice"),
        (lambda: AtLeast(("block.0",), 2), "Of 1 choices, 2 cannot be on"),
        (lambda: AtLeast(("width",), 1), "'width', which is not a free on/off choice"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        type("Unruly", (Ruled,), {"make_rules": lambda self: [rule()]})(Config(), Domain())


def test_random_architectures_prefer_what_is_worth_more():
    space = Ruled(Config(), Domain())
    worth = {"block.0": 0.125, "block.1": 0.875, "block.2": 0.625, "block.3": 0.375}
    space.prefer(worth, 1.0)
    assert [space.smallest[f"block.{i}"] for i in range(4)] == [False, True, True, False]
    rng = np.random.default_rng(0)
    for row in space.random_path(rng):
        on = [f"block.{i}" for i in range(4) if row[i]]
        off = [name for name in worth if name not in on]
        assert min(worth[name] for name in on) > max([worth[name] for name in off], default=0)
    often = space.random_genomes(rng, 1000)[:, :4].mean(axis=0)
    assert often[1] > often[2] > often[3] > often[0]


def test_without_a_bias_only_the_smallest_follows_the_worth():
    space, other = Ruled(Config(), Domain()), Ruled(Config(), Domain())
    space.prefer({"block.1": 0.75, "block.0": 0.25}, 0.0)
    assert space.smallest["block.1"]
    paths = [each.random_path(np.random.default_rng(3)) for each in (space, other)]
    assert np.array_equal(paths[0][-3:], paths[1][-3:])
