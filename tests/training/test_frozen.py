"""SNED's "the rest is frozen", on real training steps of the shared weights."""

import numpy as np
import pytest
import torch

from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.text import HashEncoder
from nasvid.objective import NoisyBatch, Objective, ObjectiveSection
from nasvid.recipe.sections import TrainingSection
from nasvid.sampler import PlannedSubnet, Role, StepPlan
from nasvid.shapes import Domain, VideoShape
from nasvid.supernet import Supernet
from nasvid.training.optimizer import SparseAdamW
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from tests.training.trainers import trainer_of

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}
SHAPE = VideoShape.square(8, frames=2, context_len=4)


@pytest.fixture(scope="module")
def space() -> ElasticUNetSpace:
    config = ElasticUNetSpace.Config(
        widths=((8, 16), (16, 32)),
        blocks_per_level=1,
        attention_levels=(1,),
        conditioning_width=16,
        head_dim=8,
        group_size=4,
    )
    return ElasticUNetSpace(config, Domain(channels=3, context_dim=16))


@pytest.fixture(scope="module")
def objective() -> Objective:
    return ObjectiveSection(name="diffusion").make()


def clips(objective: Objective, seed: int) -> NoisyBatch:
    generator = torch.Generator().manual_seed(seed)
    text = CachedText(HashEncoder(HashEncoder.Config(dim=16)), SHAPE.context_len, None)
    context, mask = text(["a cat", "two dogs run"])
    video, noise = torch.randn(2, 2, 3, 2, 8, 8, generator=generator)
    timestep = torch.randint(1000, (2,), generator=generator)
    return objective.corrupt(video, noise, timestep, context, mask, torch.full((2,), 8.0))


def step(supernet: Supernet, archs: list, objective: Objective, seed: int) -> StepPlan:
    subnets = tuple(PlannedSubnet(arch, Role.RANDOM) for arch in archs)
    plan = StepPlan(step=seed, batches=(), subnets=subnets, largest=supernet.space.largest)
    trainer = trainer_of(supernet, objective, TrainingSection(steps=100))
    trainer.backward(plan, clips(objective, seed))
    return plan


def snapshot(supernet: Supernet, optimizer: SparseAdamW) -> dict[str, list[torch.Tensor]]:
    taken = {}
    for name, param in supernet.net.named_parameters():
        state = optimizer.state.get(param, {})
        zero = torch.zeros_like(param)
        parts = [param.detach().clone()]
        parts += [state.get(key, zero).clone() for key in ("exp_avg", "exp_avg_sq")]
        age = state.get("age", torch.zeros(()))
        taken[name] = [*parts, age.expand(param.shape).double().clone()]
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("subnets", [1, 2])
def test_everything_outside_the_slices_of_a_step_rests(space, objective, subnets):
    torch.manual_seed(0)
    supernet = Supernet(space)
    optimizer = SparseAdamW(supernet.net.parameters(), **SETTINGS)
    rng = np.random.default_rng(subnets)
    moved = rested = 0
    for seed in range(12):
        archs = [space.sample(rng) for _ in range(subnets)]
        before = snapshot(supernet, optimizer)
        plan = step(supernet, archs, objective, seed)
        optimizer.set(whole=plan.trains_largest)
        optimizer.step()
        optimizer.zero_grad()
        after = snapshot(supernet, optimizer)
        slices = [supernet.slices(arch) for arch in archs]
        for name, old in before.items():
            inside = torch.zeros(old[0].shape, dtype=torch.bool)
            for used in slices:
                if name in used:
                    used[name].mark(inside)
            for a, b in zip(old, after[name], strict=True):
                assert torch.equal(a[~inside], b[~inside]), name
            rested += int((~inside).sum())
            moved += int((old[0] != after[name][0]).sum())
    assert rested > 10_000
    assert moved > 10_000


@pytest.mark.slow
def test_the_slices_of_a_step_move_as_adamw_moves_the_extracted_model(space, objective):
    torch.manual_seed(0)
    supernet = Supernet(space)
    arch = space.sample(np.random.default_rng(3))
    alone = supernet.extract(arch)
    ours = SparseAdamW(supernet.net.parameters(), **SETTINGS)
    theirs = torch.optim.AdamW(alone.parameters(), **SETTINGS)
    slices = supernet.slices(arch)
    rested = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in alone.named_parameters()}
    for seed in range(10):
        step(supernet, [arch], objective, seed)
        noisy = clips(objective, seed)
        objective.loss(space.denoise(alone, noisy.inputs), noisy).backward()
        for name, param in alone.named_parameters():
            shared = supernet.net.get_parameter(name)
            assert shared.grad is not None
            mine = slices[name].gather(shared.grad)
            if seed == 0:
                assert torch.equal(mine, param.grad), name
            # A key's bias shifts all scores of a softmax alike: its gradient is rounding noise,
            # at times exactly zero, and then it rests here but not there (the known difference).
            # After the first step both are therefore given the same gradient.
            param.grad = mine
            rested[name] |= mine == 0
        ours.step()
        theirs.step()
        ours.zero_grad()
        theirs.zero_grad()
        for name, param in alone.named_parameters():
            shared = slices[name].gather(supernet.net.get_parameter(name).detach())
            assert torch.equal(shared[~rested[name]], param[~rested[name]]), name
    share = sum(int(r.sum()) for r in rested.values()) / sum(r.numel() for r in rested.values())
    assert share < 0.01
