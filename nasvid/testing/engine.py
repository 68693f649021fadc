"""The laws of an engine on one process, as a test class to derive from."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from nasvid.distributed.ranks import ALONE
from nasvid.recipe.sections import TrainingSection
from nasvid.testing.toy import ToySpace
from nasvid.training import checkpoint
from nasvid.training.checkpoint import Progress, Trained
from nasvid.training.ema import Ema
from nasvid.training.engine import Engine, make_optimizer

SETTINGS = TrainingSection(steps=9, learning_rate=1e-2, clip_norm=0.5, weight_decay=0.1)
RELATIVE, ABSOLUTE = 1e-5, 1e-7
"""How near to the reference: engines may round the clipped gradient differently."""


class EngineConformance:
    """Derive, name the engine, and pytest checks every law of an engine.

    class TestMine(EngineConformance):
        engine = Mine
    """

    engine: ClassVar[type[Engine]]
    """The class under test."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Its options, as in a recipe."""

    def make(self, net: nn.Module) -> Trained:
        """Return what trains a net on one process."""
        config = self.engine.Config.model_validate(dict(self.options))
        engine = self.engine(config, net, SETTINGS, ALONE)
        return Trained(net, engine, Ema([shard.tensor for shard in engine.shards], 0.9))

    def test_moves_the_weights_as_adamw_with_resting_weights_does(self) -> None:
        """Clipped by the norm of all gradients; what has none, or zeros, is left alone."""
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
        """Weights, moments and ages alike, although they have moved before."""
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
            assert torch.equal(parameter[~active], before[name][~active]), name
            assert not torch.equal(parameter, before[name]) or not active.any(), name

    def test_a_gradient_that_is_not_finite_moves_nothing(self) -> None:
        """Its norm says so, and the next step is as if there had been none."""
        net = _net(0)
        trained = self.make(net)
        before = copy.deepcopy(net.state_dict())
        _give_gradients(net, 0, whole=True)
        for parameter in net.parameters():
            parameter.grad = parameter.grad / 0 if parameter.grad is not None else None
        assert not math.isfinite(trained.engine.update(rate=1e-2, whole=False))
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert all(parameter.grad is None for parameter in net.parameters())

    def test_shards_hold_each_weight_once(self) -> None:
        """Alone, an engine has all of them, and they are the net's."""
        net = _net(0)
        shards = self.make(net).engine.shards
        held: Counter[str] = Counter()
        for shard in shards:
            flat = shard.tensor.detach().view(-1)
            for segment in shard.segments:
                held[segment.name] += segment.count
                whole = net.get_parameter(segment.name).detach().view(-1)
                own = flat[segment.offset : segment.offset + segment.count]
                assert torch.equal(own, whole[segment.start : segment.start + segment.count])
        assert held == {name: p.numel() for name, p in net.named_parameters()}

    def test_goes_on_from_a_checkpoint_to_the_bit(self, tmp_path: Path) -> None:
        """What was saved and read by another engine of this kind ends as if never stopped."""
        one, other = self.make(_net(0)), self.make(_net(1))
        for step in range(6):
            if step == 3:
                saved = checkpoint.save(tmp_path, one, Progress(step), ALONE, keep=1)
                assert checkpoint.load(saved, other) == Progress(step)
            for trained in (one, other) if step >= 3 else (one,):
                _give_gradients(trained.net, step)
                trained.engine.update(rate=1e-2, whole=False)
                trained.ema.update(step)
        for ours, theirs in zip(one.net.parameters(), other.net.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        for ours, theirs in zip(one.ema.averages, other.ema.averages, strict=True):
            assert torch.equal(ours, theirs)


def _net(seed: int) -> nn.Module:
    space = ToySpace.of()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(space.largest)


def _give_gradients(net: nn.Module, step: int, *, whole: bool = False) -> None:
    """Give some parameters gradients with zeros in them, others none; all, where it is `whole`."""
    generator = torch.Generator().manual_seed(step)
    for i, parameter in enumerate(net.parameters()):
        kept = torch.rand(parameter.shape, generator=generator) < 0.7
        drawn = torch.randn(parameter.shape, generator=generator) * kept
        parameter.grad = drawn if whole or (i + step) % 5 else None
