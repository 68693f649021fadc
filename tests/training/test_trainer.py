"""A training step: sandwich gradients, distillation, learning rate, plans, what is not finite."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nasvid.data.loader import Batch
from nasvid.recipe.sections import ResolutionSection, TrainingSection
from nasvid.sampler import PlannedSubnet, Role, SamplerSection, StepPlan
from nasvid.testing.toy import LARGE, SHAPES, SMALL, ToySpace, toy_context
from nasvid.training.planner import Planner, resolutions_of
from nasvid.training.progress import Progress
from nasvid.training.trainer import Trainer, learning_rate
from tests.training.trainers import trainer_of

SETTINGS = TrainingSection(steps=9, learning_rate=1e-2)


@pytest.fixture
def context():
    return toy_context(ToySpace.of())


def trainer(context, **settings) -> Trainer:
    section = TrainingSection.model_validate({"steps": 1, **settings})
    return trainer_of(context.supernet, context.objective, section)


def sandwich(space: ToySpace) -> StepPlan:
    middle = space.sample(np.random.default_rng(0))
    subnets = (
        PlannedSubnet(space.largest, Role.LARGEST),
        PlannedSubnet(middle, Role.RANDOM),
        PlannedSubnet(space.smallest, Role.SMALLEST),
    )
    return StepPlan(step=0, batches=(), subnets=subnets, largest=space.largest)


def test_a_sandwich_adds_the_mean_of_its_subnets_gradients(context):
    supernet, space, noisy = context.supernet, context.supernet.space, context.batches[LARGE][0]
    plan = sandwich(space)
    losses = trainer(context).backward(plan, noisy)
    expected = {name: torch.zeros_like(p) for name, p in supernet.net.named_parameters()}
    for planned in plan.subnets:
        alone = supernet.extract(planned.arch)
        loss = context.objective.loss(space.denoise(alone, noisy.inputs), noisy)
        assert losses[planned.role].item() == loss.item()
        (loss / 3).backward()
        for name, where in supernet.slices(planned.arch).items():
            where.add_into(expected[name], alone.get_parameter(name).grad)
    for name, param in supernet.net.named_parameters():
        assert torch.equal(param.grad, expected[name]), name


def test_distillation_pulls_smaller_subnets_to_the_largest_alone(context):
    supernet, noisy = context.supernet, context.batches[LARGE][0]
    plan = sandwich(supernet.space)
    space = supernet.space
    with torch.no_grad():
        teacher = space.denoise(supernet.subnet(space.largest), noisy.inputs)
    trainer(context, distillation=1.0).backward(plan, noisy)
    told = {n: p.grad.clone() for n, p in supernet.net.named_parameters()}
    supernet.net.zero_grad()
    (context.objective.loss(space.denoise(supernet.net, noisy.inputs), noisy) / 3).backward()
    for planned in plan.subnets[1:]:
        output = space.denoise(supernet.subnet(planned.arch), noisy.inputs)
        ((output - teacher).square().mean() / 3).backward()
    for name, param in supernet.net.named_parameters():
        torch.testing.assert_close(param.grad, told[name])


def test_a_loss_that_is_not_finite_is_reported(context):
    noisy = context.batches[LARGE][0]
    bad = dataclasses.replace(noisy, target=noisy.target * math.inf)
    losses = trainer(context).backward(sandwich(context.supernet.space), bad)
    assert not any(loss.isfinite() for loss in losses.values())


def batch(fill: float) -> Batch:
    """Two clips of one value."""
    return Batch(
        video=torch.full((2, 3, 2, 8, 8), fill),
        captions=["a", "b"],
        fps=torch.full((2,), 8.0),
        keys=["a", "b"],
        skipped=(),
        context=(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)),
    )


def test_a_step_whose_loss_alone_overflows_moves_nothing(context):
    """The square of an error overflows long before its gradient does."""
    made = trainer(context, steps=9)
    before = {name: p.clone() for name, p in context.supernet.net.state_dict().items()}
    event = made.step([batch(1e20)])
    assert (event.loss, event.losses, event.grad_norm, event.skipped) == (None, {}, None, True)
    assert made.progress == Progress(step=1, clips=2, skipped=1, bad=1, loss_scale=2.0**15)
    for name, tensor in context.supernet.net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    event = made.step([batch(0.5)])
    assert event.loss is not None
    assert not event.skipped
    assert (made.progress.bad, made.progress.updates, made.progress.clips) == (0, 1, 4)
    assert not all(
        torch.equal(tensor, before[name])
        for name, tensor in context.supernet.net.state_dict().items()
    )


def gradients(supernet) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in supernet.net.named_parameters()}
    supernet.net.zero_grad()
    return found


def test_shares_and_micro_batches_add_up_to_the_whole_batch(context):
    supernet, noisy = context.supernet, context.batches[LARGE][0]
    plan, made = sandwich(supernet.space), trainer(context, distillation=0.5)
    clips = len(noisy)

    def run(part, **options):
        losses = made.backward(plan, part, **options)
        return losses, gradients(supernet)

    losses, whole = run(noisy)
    for size in range(1, clips):
        shares = [run(part, total=clips) for part in noisy.split(size)]
        for name, gradient in whole.items():
            torch.testing.assert_close(sum(grads[name] for _, grads in shares), gradient)
        for role, loss in losses.items():
            torch.testing.assert_close(sum(share[role] for share, _ in shares), loss)
        micro_losses, micro = run(noisy, micro_batch=size)
        torch.testing.assert_close(micro_losses, losses)
        torch.testing.assert_close(micro, whole)


def test_a_loss_scale_leaves_gradients_as_they_are(context):
    """Also those of a process that takes the shares of several groups in turn."""
    norms = []
    for scale in (1.0, 2.0**10):
        made = trainer_of(toy_context(ToySpace.of()).supernet, context.objective, SETTINGS)
        planner = dataclasses.replace(made.planner, groups=2)
        progress = Progress(loss_scale=scale)
        made = dataclasses.replace(made, planner=planner, progress=progress, autocast=torch.float16)
        norms.append(made.step([batch(0.5), batch(0.25)]).grad_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


def test_updating_what_was_used_alone_changes_no_bit(context):
    """Engine torch on slices, against the same engine that does not know them."""
    ends = []
    for knows in (True, False):
        made = trainer_of(toy_context(ToySpace.of()).supernet, context.objective, SETTINGS)
        planner = dataclasses.replace(made.planner, sampler=SamplerSection(name="uniform").make())
        made = dataclasses.replace(made, planner=planner)
        if not knows:
            made.trained.engine.begin = lambda _: None
        for n in range(9):
            made.step([batch(math.inf if n == 4 else n / 9)])
        states = made.trained.engine.optimizer.state.values()
        ends.append([*made.trained.net.parameters(), *made.trained.ema.averages])
        ends[-1] += [tensor for state in states for tensor in state.values()]
    assert any(age.dtype == torch.int32 for age in ends[0])
    for ours, theirs in zip(*ends, strict=True):
        assert torch.equal(ours, theirs)


def test_learning_rate_rises_then_falls_to_a_twentieth():
    config = TrainingSection(steps=100, learning_rate=1.0, lr_warmup=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 <= rates[-1] < 0.052
    flat = TrainingSection(steps=100, learning_rate=1.0, lr_warmup=0, lr_schedule="constant")
    assert {learning_rate(flat, step) for step in range(100)} == {1.0}


def planner(seed: int = 0, **changes) -> Planner:
    sections, space = (
        {SMALL: ResolutionSection(weight=3, batch=8), LARGE: ResolutionSection()},
        ToySpace.of(),
    )
    made = Planner(
        space=space,
        sampler=SamplerSection(name="warm_up").make(),
        resolutions=resolutions_of(space, sections, SHAPES),
        steps=200,
        seed=seed,
    )
    return dataclasses.replace(made, **changes)


def test_plans_are_a_function_of_seed_and_step():
    one, other = planner(), planner()
    steps = np.random.default_rng(0).permutation(200)
    backwards = {int(step): other.plan(int(step)) for step in steps}
    assert [one.plan(step) for step in range(200)] == [backwards[step] for step in range(200)]
    assert [planner(1).plan(step) for step in range(9)] != [one.plan(step) for step in range(9)]


def test_resolutions_come_by_weight_and_requests_count_every_clip():
    sides = [planner().plan(step).batches[0].resolution for step in range(200)]
    assert sides.count(SMALL) / 200 == pytest.approx(0.75, abs=0.1)
    requests = list(planner().requests(0, 0))
    assert [request.resolution for request in requests] == sides
    assert all(a.first + a.size == b.first for a, b in pairwise(requests))
    assert list(planner().requests(120, requests[120].first)) == requests[120:]


def test_groups_train_the_same_subnets_at_resolutions_of_their_own():
    plans = [planner(groups=3).plan(step) for step in range(50)]
    assert [plan.subnets for plan in plans] == [planner().plan(step).subnets for step in range(50)]
    assert len({tuple(batch.resolution for batch in plan.batches) for plan in plans}) > 4


def test_whether_the_largest_is_trained_is_read_off_the_plans():
    named = {"sandwich": True, "warm_up": True, "cost_uniform": False, "uniform": False}
    for name, expected in named.items():
        assert planner(sampler=SamplerSection(name=name).make()).trains_largest is expected, name
    alone = ToySpace.of(widths=(2,), blocks=0)
    only = planner(space=alone, sampler=SamplerSection(name="uniform").make())
    assert only.trains_largest  # whatever its role is called


def test_auto_batches_cost_no_more_than_the_lowest_resolutions():
    space = ToySpace.of()
    resolutions = resolutions_of(
        space, {SMALL: ResolutionSection(batch=9), LARGE: ResolutionSection()}, SHAPES
    )
    cost = {
        side: each.batch * space.cost(space.largest, "macs", each.shape)
        for side, each in resolutions.items()
    }
    assert resolutions[SMALL].batch == 9
    assert 0.7 * cost[SMALL] <= cost[LARGE] <= cost[SMALL]
