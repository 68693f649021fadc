"""The rules of a search space, as a test class to derive from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from operator import le
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from nasvid.architecture import Architecture
from nasvid.costs import METRICS, Costs, NoValuesError, built_on_meta
from nasvid.export.standalone import standalone
from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.testing.same import assert_finite, assert_same
from nasvid.testing.steps import (
    assert_gradients_lie_in_the_slice,
    gradients,
    loss,
    noisy_clips,
    step,
)
from nasvid.testing.widened import SAME, Widening, at_start, scatter
from nasvid.training.teacher import watched

KEPT = 0.5
"""The fraction of a model's parameters for which a space is asked what it proposes."""


class SpaceConformance:
    """Derive from it, set `shape`, add a fixture `space`, and pytest checks every rule of a space.

    class TestMine(SpaceConformance):
        shape = VideoShape.square(16, frames=4, context_len=4)

        @pytest.fixture
        def space(self):
            return MySpace(MySpace.Config(), Domain())
    """

    shape: ClassVar[VideoShape]
    """Shape of the clips that models are run on; small, so that a forward pass is fast."""
    architectures: ClassVar[int] = 20
    """Number of architectures tested: the smallest, the largest and random others."""
    wide_shape: ClassVar[VideoShape | None] = None
    """Shape of the clips on which models of two widths are compared, if another than `shape`: of a
    single token, if positions rotate channels by frequencies that depend on the width."""
    is_widened: ClassVar[bool] = True
    """Whether a model whose units are repeated computes the same; False if it depends on its width
    by more than its weights."""

    @pytest.fixture
    def rng(self) -> np.random.Generator:
        """Return the source of all random numbers of a test."""
        return np.random.default_rng(0)

    @pytest.fixture
    def archs(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        """Return the architectures to test."""
        others = [space.sample(rng) for _ in range(self.architectures - 2)]
        return [space.smallest, space.largest, *others]

    @pytest.fixture
    def supernet(self, space: SearchSpace) -> Supernet:
        """Return a new supernet for each test."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Supernet(space)

    @pytest.fixture
    def inputs(self, space: SearchSpace) -> DenoiserInput:
        """Return two noisy clips, one with all tokens, one with a single real token."""
        return noisy_clips(space, self.shape)

    # Architectures

    def test_costs_rise_with_every_choice(
        self, space: SearchSpace, rng: np.random.Generator
    ) -> None:
        """Options are in order of cost, whatever the other choices are."""
        for _ in range(4):
            path = space.canonical(np.stack(list(ascent(space, rng))))
            costs = space.costs(path, self.shape)
            for metric in METRICS:
                assert (np.diff(costs[metric]) >= 0).all(), f"{metric} falls as a choice rises"

    def test_architectures_survive_json(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        """An architecture read from JSON equals the one written, and has the same id."""
        for arch in archs:
            again = space.architecture(Architecture.from_json(arch.to_json()))
            assert again == arch
            assert (again.id, hash(again)) == (arch.id, hash(arch))

    def test_architectures_survive_their_genomes(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        """Encoding loses nothing."""
        for arch in archs:
            assert space.decode(space.encode(arch)) == arch

    def test_canonical_genomes_are_their_own(
        self, space: SearchSpace, rng: np.random.Generator
    ) -> None:
        """Canonicalising a genome twice changes nothing."""
        genomes = raw_genomes(space, rng, 100)
        canonical = space.canonical(genomes)
        assert np.array_equal(space.canonical(canonical), canonical)
        assert [space.decode(row) for row in genomes] == [space.decode(row) for row in canonical]

    def test_two_names_are_two_networks(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Changing one choice changes the canonical form only if it changes the model."""
        for i, choice in enumerate(space.choices):
            genome = raw_genomes(space, rng, 1)[0]
            other = genome.copy()
            other[i] = (other[i] + 1) % len(choice.options)
            a, b = space.decode(genome), space.decode(other)
            if a != b and placed(space, a) == placed(space, b):
                assert any(
                    space.cost(a, metric, self.shape) != space.cost(b, metric, self.shape)
                    for metric in METRICS
                ), f"choice '{choice.name}' changes nothing between {a!r} and {b!r}"

    def test_every_choice_has_one_place_in_the_layout(self, space: SearchSpace) -> None:
        """A picture of an architecture shows each of its choices once."""
        space.layout().check(space.choices)

    def test_what_it_proposes_for_a_model_begins_at_the_models_size(
        self, space: SearchSpace
    ) -> None:
        """`nasvid init` asks every space; one that does not know a model gives None."""
        cls: Any = type(space)
        assert cls.propose({"_class_name": "Nobody's"}, space.domain, KEPT) is None
        model = built_on_meta(lambda: space.build(space.largest))
        config = {**getattr(model, "config", {}), "_class_name": type(model).__name__}
        proposed = cls.propose(config, space.domain, KEPT)
        if proposed is None:
            return
        made = cls(cls.inherit(proposed, config), space.domain)
        assert placed(made, made.largest) == placed(space, space.largest)
        few, all_ = (
            made.cost(each, "params", self.shape) for each in (made.smallest, made.largest)
        )
        assert KEPT <= few / all_ < 1

    def test_mutants_and_children_are_canonical(
        self, space: SearchSpace, rng: np.random.Generator
    ) -> None:
        """Mutation and crossover return canonical genomes of the space."""
        options = np.array([len(choice.options) for choice in space.choices])
        parents = space.random_genomes(rng, 50)
        mutants = space.mutate(rng, parents, 0.3)
        for genomes in (mutants, space.cross(rng, parents, mutants)):
            assert np.array_equal(space.canonical(genomes), genomes)
            assert ((genomes >= 0) & (genomes < options)).all()

    @pytest.mark.parametrize("metric", ["params", "macs"])
    def test_samples_lie_within_a_range_of_cost(
        self, space: SearchSpace, rng: np.random.Generator, metric: str
    ) -> None:
        """Absolute or as fractions; an empty range is an error that states both bounds."""
        low = space.cost(space.smallest, metric, self.shape)
        high = space.cost(space.largest, metric, self.shape)
        middle = (low + high) / 2
        for bounds in ((low, middle), (middle, high), (middle / high, 1.0)):
            arch = space.sample(rng, within={metric: bounds}, shape=self.shape)
            least, most = (b * high if b <= 1 else b for b in bounds)
            assert least <= space.cost(arch, metric, self.shape) <= most
        with pytest.raises(ValueError, match=f"{low:,} to {high:,}"):
            space.sample(rng, within={metric: (2 * high, 3 * high)}, shape=self.shape)

    # Costs

    def test_costs_are_what_is_counted(self, space: SearchSpace, archs: list[Architecture]) -> None:
        """Formulas match what torch counts: parameters and MACs exactly, activations within 15%."""
        if not space.has_cost_formula:
            archs = archs[:3]  # two ends and another; each is built and run
        genomes = np.stack([space.encode(arch) for arch in archs])
        costs = space.costs(genomes, self.shape)
        counted = counted_costs(space, archs, self.shape)
        assert np.array_equal(costs.params, counted.params)
        assert np.array_equal(costs.macs, counted.macs)
        assert costs.activation_bytes == pytest.approx(counted.activation_bytes, rel=0.15)

    # Networks

    def test_networks_are_slices_of_the_largest(
        self, space: SearchSpace, supernet: Supernet, archs: list[Architecture]
    ) -> None:
        """Each parameter has a place in the supernet's parameter of the same name."""
        for arch in archs:
            expected = placed(space, arch)
            found = {
                name: tuple(segments.length for segments in where.dims)
                for name, where in supernet.slices(arch).items()
            }
            assert {name: found[name] for name in expected} == expected

    def test_parts_of_subnets_are_called_as_in_the_largest(
        self, space: SearchSpace, archs: list[Architecture]
    ) -> None:
        """Each module of a subnet has a counterpart in the largest model, no two the same."""
        largest = dict(built_on_meta(lambda: space.build(space.largest)).named_modules())
        for arch in archs:
            modules = dict(built_on_meta(lambda arch=arch: space.build(arch)).named_modules())
            sources = [space.source(arch, name) for name in modules]
            assert set(sources) <= set(largest), f"{set(sources) - set(largest)} of {arch!r}"
            assert len(set(sources)) == len(sources), f"two parts of {arch!r} have one source"

    def test_code_that_exports_carry_builds_the_same_models(
        self, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the space names a module: it stands alone, and needs nothing but a model's config."""
        if not space.model_module:
            return
        assert type(space).denoise is SearchSpace.denoise, "denoise() itself is not carried along"
        model: Any = built_on_meta(lambda: space.build(space.smallest))
        is_saved = isinstance(model, ModelMixin) and isinstance(model, ConfigMixin)
        assert is_saved, f"{type(model).__name__} is no ModelMixin and ConfigMixin of diffusers"
        alone = ModuleType("carried_model")
        monkeypatch.setitem(sys.modules, alone.__name__, alone)
        exec(standalone(space.model_module), alone.__dict__)
        carried: Any = getattr(alone, type(model).__name__)
        again = built_on_meta(lambda: carried.from_config(dict(model.config)))
        shapes = [
            {name: tensor.shape for name, tensor in each.state_dict().items()}
            for each in (model, again)
        ]
        assert shapes[0] == shapes[1]

    def test_predictions_are_shaped_like_the_video(
        self, space: SearchSpace, supernet: Supernet, inputs: DenoiserInput
    ) -> None:
        """They are finite, also for a clip with a single real token."""
        space.check_shape(self.shape)
        for arch in (space.smallest, space.largest):
            prediction = space.denoise(supernet.subnet(arch), inputs)
            assert prediction.shape == inputs.sample.shape
            assert_finite(prediction, f"the prediction of {arch!r}")

    def test_feature_points_are_parts_of_the_largests(
        self,
        space: SearchSpace,
        supernet: Supernet,
        archs: list[Architecture],
        inputs: DenoiserInput,
    ) -> None:
        """The hidden states of a subnet have the shape of a leading part of the largest's."""
        with watched(supernet.net, space.feature_points(space.largest)) as full:
            space.denoise(supernet.net, inputs)
        for arch in archs:
            points = space.feature_points(arch)
            with watched(supernet.subnet(arch), points) as found:
                space.denoise(supernet.subnet(arch), inputs)
            for name, at in points.items():
                own, theirs = found[name].shape, full[at].shape
                fits = len(own) == len(theirs) and all(map(le, own, theirs))
                assert fits, f"{name} of {arch!r} gives {own}, {at} of the largest {theirs}"

    def test_units_change_places_without_changing_what_is_computed(
        self, space: SearchSpace, supernet: Supernet, inputs: DenoiserInput
    ) -> None:
        """Any order of interchangeable units gives the same outputs."""
        tensors, rng = supernet.net.eval().state_dict(), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in supernet.net.parameters():
                # New norms and biases are all equal: make them differ.
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=rng))
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
            expected = space.denoise(supernet.net, inputs)
            for units in space.interchangeable():
                units.move(tensors, torch.randperm(units.count, generator=rng))
            found = space.denoise(supernet.net, inputs)
        assert_finite(found, "the prediction")
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()

    def test_slices_keep_a_prefix_of_each_part(
        self, space: SearchSpace, supernet: Supernet
    ) -> None:
        """The largest model computes what a narrow one does whose units are repeated to fill it.

        It does not if a slice takes a prefix of a dimension that is made of several parts, such as
        a fused query, key and value. Options that divide the largest are compared.
        """
        scatter(supernet.net.eval())
        inputs = at_start(noisy_clips(space, self.wide_shape or self.shape))
        found = Widening.every(supernet)
        if not found or not self.is_widened:
            pytest.skip("no option of a width is a half, a third or a quarter of the largest")
        for wide in found:
            left = wide.difference(inputs)
            if left > SAME:
                pytest.fail(
                    f"{wide.arch!r}, its units repeated, and the largest model differ by "
                    f"{left:.1%}: a slice may miss that a dimension is made of several parts"
                    f"{wide.hint(inputs, left)}"
                )

    def test_a_subnet_is_its_extraction_bit_for_bit(
        self,
        space: SearchSpace,
        supernet: Supernet,
        archs: list[Architecture],
        inputs: DenoiserInput,
    ) -> None:
        """Outputs and gradients agree, in both modes, with and without gradient checkpointing."""
        for arch in archs:
            extracted, where = supernet.extract(arch), supernet.slices(arch)
            expected = torch.empty(0)
            for mode in ("eval", "train", "checkpointed"):
                supernet.net.train(mode != "eval")
                subnet = supernet.subnet(arch)
                if mode != "checkpointed":
                    extracted.train(mode != "eval").zero_grad()
                    expected = step(space, extracted, inputs)
                elif getattr(subnet, "_supports_gradient_checkpointing", False):
                    subnet.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
                supernet.net.zero_grad()
                found = step(space, subnet, inputs)
                assert_same(found, expected, f"the prediction in mode {mode} of {arch!r}")
                own = {space.source(arch, n): g for n, g in gradients(extracted).items()}
                assert_gradients_lie_in_the_slice(supernet, where, own)

    def test_steps_of_several_subnets_add_up(
        self,
        space: SearchSpace,
        supernet: Supernet,
        archs: list[Architecture],
        inputs: DenoiserInput,
    ) -> None:
        """Forward passes of different subnets may come before their backward passes."""
        pair = [space.largest, archs[-1]]
        extracted = [supernet.extract(arch) for arch in pair]
        for model in extracted:
            step(space, model, inputs)
        expected = {name: torch.zeros_like(p) for name, p in supernet.net.named_parameters()}
        for arch, model in zip(pair, extracted, strict=True):
            where = supernet.slices(arch)
            for name, grad in gradients(model).items():
                source = space.source(arch, name)
                where[source].add_into(expected[source], grad)
        losses = [loss(space, supernet.subnet(arch), inputs)[1] for arch in pair]
        for value in losses:
            value.backward()
        for name, gradient in gradients(supernet.net).items():
            assert_same(gradient, expected[name], f"the gradient of '{name}'")

    def test_subnets_follow_the_shared_weights(
        self,
        space: SearchSpace,
        supernet: Supernet,
        archs: list[Architecture],
        inputs: DenoiserInput,
    ) -> None:
        """A subnet taken before an update computes with the weights after it."""
        taken = [supernet.subnet(arch) for arch in archs[:4]]
        for change in (lambda p: p.mul_(1.5), lambda p: p.data.mul_(0.5)):
            with torch.no_grad():
                for parameter in supernet.net.parameters():
                    change(parameter)
                for arch, subnet in zip(archs, taken, strict=False):
                    expected = space.denoise(supernet.extract(arch), inputs)
                    assert_same(space.denoise(subnet, inputs), expected, f"what {arch!r} predicts")

    def test_a_subnet_of_replaced_weights_says_so(
        self, space: SearchSpace, supernet: Supernet, inputs: DenoiserInput
    ) -> None:
        """It raises an error rather than train weights that nothing uses any more."""
        subnet = supernet.subnet(space.smallest)
        name = space.source(space.smallest, next(iter(dict(subnet.named_parameters()))))
        path, _, leaf = name.rpartition(".")
        owner = supernet.net.get_submodule(path)
        setattr(owner, leaf, nn.Parameter(getattr(owner, leaf).detach().clone()))
        with pytest.raises(RuntimeError, match=f"'{name}' of the supernet was replaced"):
            space.denoise(subnet, inputs)
        again = space.denoise(supernet.subnet(space.smallest), inputs)
        expected = space.denoise(supernet.extract(space.smallest), inputs)
        assert_same(again, expected, "what the subnet predicts")

    def test_extracted_weights_load_into_a_fresh_network(
        self,
        space: SearchSpace,
        supernet: Supernet,
        archs: list[Architecture],
        inputs: DenoiserInput,
    ) -> None:
        """The saved weights of an extracted model are all that it needs to compute the same."""
        for arch in archs[:4]:
            extracted = supernet.extract(arch)
            fresh = space.build(arch)
            fresh.load_state_dict(extracted.state_dict())
            with torch.no_grad():
                expected = space.denoise(extracted, inputs)
                assert_same(space.denoise(fresh, inputs), expected, f"what {arch!r} predicts")


def raw_genomes(space: SearchSpace, rng: np.random.Generator, n: int) -> np.ndarray:
    """Return n genomes, not in canonical form."""
    return rng.integers(
        0, [len(choice.options) for choice in space.choices], (n, len(space.choices))
    )


def counted_costs(space: SearchSpace, archs: list[Architecture], shape: VideoShape) -> Costs:
    """Return what torch counts; models that cannot run on the `meta` device run on the CPU."""
    try:
        rows = [SearchSpace.counted(space, arch, shape) for arch in archs]
    except NoValuesError:
        rows = [SearchSpace.counted(space, arch, shape, "cpu") for arch in archs]
    return Costs(**{metric: np.concatenate([row[metric] for row in rows]) for metric in METRICS})


def ascent(space: SearchSpace, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield genomes from smallest to largest, raising one choice by one option at a time."""
    genome = np.zeros(len(space.choices), dtype=np.int64)
    yield genome.copy()
    steps = [i for i, choice in enumerate(space.choices) for _ in choice.options[1:]]
    for i in rng.permutation(np.array(steps, dtype=np.int64)):
        genome[i] += 1
        yield genome.copy()


def placed(space: SearchSpace, arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's parameters, by their names in the largest model."""
    named = built_on_meta(lambda: space.build(arch)).named_parameters()
    return {space.source(arch, name): tuple(parameter.shape) for name, parameter in named}
