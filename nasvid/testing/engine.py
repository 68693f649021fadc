"""The rules of an engine on one process, as a test class to derive from."""

from __future__ import annotations

import copy
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from nasvid.distributed.launch import Job
from nasvid.distributed.ranks import ALONE
from nasvid.recipe.sections import TrainingSection
from nasvid.testing.base import Conformance
from nasvid.testing.same import assert_same
from nasvid.testing.toy import ToySpace
from nasvid.training import checkpoint
from nasvid.training.checkpoint import Trained
from nasvid.training.ema import Ema
from nasvid.training.engine import Engine, make_optimizer
from nasvid.training.progress import Progress
from nasvid.training.resources import Workload, staging_bytes
from nasvid.training.saving import Place, save

SETTINGS = TrainingSection(steps=9, learning_rate=1e-2, clip_norm=0.5, weight_decay=0.1)
RELATIVE, ABSOLUTE = 1e-5, 1e-7
"""Tolerances against the reference: engines may round the clipped gradient differently."""


class EngineConformance(Conformance):
    """Derive from it, set `engine`, and pytest checks every rule of an engine.

    class TestMine(EngineConformance):
        engine = Mine
    """

    engine: ClassVar[type[Engine]]
    """The class under test."""

    def make_engine(self) -> Engine:
        """Return the engine, not started."""
        return self.made(self.engine)

    def make(self, net: nn.Module) -> Trained:
        """Return a net with its updater and EMA weights on one process."""
        updater = self.make_engine().start(net, SETTINGS, ALONE)
        return Trained(net, updater, Ema([shard.tensor for shard in updater.shards], 0.9))

    def test_its_variants_are_told_apart_by_their_names(self) -> None:
        """A table of variants has no name twice, including this config's."""
        engine = self.make_engine()
        configs = [engine.config, *engine.variants()]
        names = {each.model_dump_json(): self.engine(each).variant for each in configs}
        assert len(names) == len({*names.values()})

    @pytest.mark.parametrize("ages", [False, True])
    def test_plans_the_state_that_it_keeps(self, ages: bool) -> None:
        """The plan matches the optimizer's state and the EMA weights after real steps.

        What the engine keeps in addition is at most three times the weights. An engine that
        reports no resources does so for every workload.
        """
        net = _net(0)
        work = Workload(params=_count(net), devices=1, ages=ages, cuda=False)
        trained, planned = self.make(net), self.make_engine().resources(work)
        if planned is None:
            assert self.make_engine().resources(replace(work, devices=8, cuda=True)) is None
            return
        for step in range(3):
            _give_gradients(net, step, whole=not ages)
            trained.engine.update(rate=1e-2, whole=not ages)
        states = trained.engine.optimizer.state.values()
        kept = _bytes([tensor for state in states for tensor in state.values()])
        kept += _bytes(trained.ema.averages)
        spared = planned.optimizer + planned.ema + planned.host
        assert 0.95 * kept <= spared <= kept + 3 * work.size
        copied = kept + _bytes(net.parameters())
        assert 0.95 * copied <= staging_bytes(planned.parts, work) <= copied + work.size

    def test_many_devices_take_no_more_each_than_one(self) -> None:
        """One device sends nothing, several do; persistent memory is never negative.

        The state is in as many parts as there are devices if the updater divides it.
        """
        engine = self.make_engine()
        one = Workload(params=10**9, devices=1, ages=True, cuda=True)
        alone, many = engine.resources(one), engine.resources(replace(one, devices=8))
        if alone is None or many is None:
            assert alone is many
            return
        assert alone.sent == 0 < many.sent
        assert 0 <= many.optimizer <= alone.optimizer
        assert 0 <= many.ema <= alone.ema
        assert 0 <= many.host <= alone.host
        divided = self.make(_net(0)).engine.divided
        assert (alone.parts, many.parts) == (1, 8 if divided else 1)

    def test_its_library_is_configured_in_json(self) -> None:
        """`nasvid plan --engine-config` can print it."""
        config = self.make_engine().library_config(SETTINGS)
        assert json.loads(json.dumps(config)) == config

    def test_a_launcher_of_its_own_is_given_the_whole_run(self) -> None:
        """The line that `nasvid launch --launcher` prints ends with nasvid's arguments, quoted."""
        arguments = ["run", "my recipe.yaml", "--set", "a=$b"]
        for nodes in (1, 2):
            job = Job(arguments=arguments, nodes=nodes, devices=4, master="node0")
            line = self.engine.launch_line(job)
            assert line is None or shlex.split(line, comments=True)[-4:] == arguments

    def test_moves_the_weights_as_adamw_with_inactive_weights_does(self) -> None:
        """Gradients are clipped by their total norm; weights with none, or zeros, do not move."""
        net, reference = _net(0), _net(0)
        trained, optimizer = self.make(net), make_optimizer([*reference.parameters()], SETTINGS)
        for step in range(6):
            for each in (net, reference):
                _give_gradients(each, step, whole=step == 3)
            norm = nn.utils.clip_grad_norm_(reference.parameters(), SETTINGS.clip_norm).item()
            optimizer.set(lr=1e-2 / (step + 1), whole=step == 3)
            optimizer.step()
            optimizer.zero_grad()
            found = trained.engine.update(rate=1e-2 / (step + 1), whole=step == 3)
            assert math.isclose(found, norm, rel_tol=1e-5)
            assert all(parameter.grad is None for parameter in net.parameters())
            for (name, own), theirs in zip(
                net.named_parameters(), reference.parameters(), strict=True
            ):
                torch.testing.assert_close(
                    own, theirs, rtol=RELATIVE, atol=ABSOLUTE, msg=f"{name} after step {step}"
                )

    def test_leaves_what_has_no_gradient_untouched_to_the_bit(self) -> None:
        """Weights, moments and ages, even after they have moved before."""
        net = _net(0)
        trained = self.make(net)
        _give_gradients(net, 0)
        trained.engine.update(rate=1e-2, whole=False)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        for name, parameter in net.named_parameters():
            parameter.grad = torch.zeros_like(parameter)
            if name == "head.weight":
                parameter.grad[:2] = 1.0
            elif name.startswith("blocks"):
                parameter.grad = None
        trained.engine.update(rate=1e-2, whole=False)
        for name, parameter in net.named_parameters():
            active = torch.zeros_like(parameter, dtype=torch.bool)
            if name == "head.weight":
                active[:2] = True
            assert_same(parameter[~active], before[name][~active], f"what is inactive of {name}")
            assert not torch.equal(parameter, before[name]) or not active.any(), name

    def test_a_gradient_that_is_not_finite_moves_nothing(self) -> None:
        """The returned norm is not finite, and the weights and gradients are as before the step."""
        net = _net(0)
        trained = self.make(net)
        before = copy.deepcopy(net.state_dict())
        _give_gradients(net, 0, whole=True)
        for parameter in net.parameters():
            parameter.grad = parameter.grad / 0 if parameter.grad is not None else None
        assert not math.isfinite(trained.engine.update(rate=1e-2, whole=False))
        for name, tensor in net.state_dict().items():
            assert_same(tensor, before[name], name)
        assert all(parameter.grad is None for parameter in net.parameters())

    def test_shards_hold_each_weight_once(self) -> None:
        """On one process the shards hold all weights, equal to the net's."""
        net = _net(0)
        shards = self.make(net).engine.shards
        held: Counter[str] = Counter()
        for shard in shards:
            flat = shard.tensor.detach().view(-1)
            for segment in shard.segments:
                held[segment.name] += segment.count
                whole = net.get_parameter(segment.name).detach().view(-1)
                own = flat[segment.offset : segment.offset + segment.count]
                stop = segment.start + segment.count
                assert_same(own, whole[segment.start : stop], f"the shard of {segment.name}")
        assert held == {name: p.numel() for name, p in net.named_parameters()}

    def test_resumes_from_a_checkpoint_to_the_bit(self, tmp_path: Path) -> None:
        """Training resumed from a checkpoint continues exactly as if never stopped."""
        one, other = self.make(_net(0)), self.make(_net(1))
        for step in range(6):
            if step == 3:
                saved = save(Place(tmp_path, ALONE, keep=1), one, Progress(step))
                assert checkpoint.load(saved, other) == Progress(step)
            for trained in (one, other) if step >= 3 else (one,):
                _give_gradients(trained.net, step)
                trained.engine.update(rate=1e-2, whole=False)
                trained.ema.update(step)
        for (name, ours), theirs in zip(
            one.net.named_parameters(), other.net.parameters(), strict=True
        ):
            assert_same(theirs, ours, f"{name}, resumed,")
        for ours, theirs in zip(one.ema.averages, other.ema.averages, strict=True):
            assert_same(theirs, ours, "an EMA weight, resumed,")


def _net(seed: int) -> nn.Module:
    space = ToySpace.of()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(space.largest)


def _count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _give_gradients(net: nn.Module, step: int, *, whole: bool = False) -> None:
    """Give most parameters gradients with zeros in them and the others none; all if `whole`."""
    generator = torch.Generator().manual_seed(step)
    for i, parameter in enumerate(net.parameters()):
        kept = torch.rand(parameter.shape, generator=generator) < 0.7
        drawn = torch.randn(parameter.shape, generator=generator) * kept
        parameter.grad = drawn if whole or (i + step) % 5 else None
