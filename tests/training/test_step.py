"""A training step: sandwich gradients, distillation, learning rate, what is not finite."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nasvid.recipe.sections import ResolutionSection, TrainingSection
from nasvid.sampler import PlannedSubnet, Role, SamplerSection
from nasvid.testing.toy import SHAPES, ToySpace, toy_context
from nasvid.training.plan import Planner, StepPlan, batch_sizes
from nasvid.training.step import backward, learning_rate


@pytest.fixture
def context():
    return toy_context(ToySpace.of())


def plan_of(*subnets: PlannedSubnet) -> StepPlan:
    return StepPlan(0, 8, 2, subnets)


def sandwich(space: ToySpace) -> StepPlan:
    middle = space.sample(np.random.default_rng(0))
    return plan_of(
        PlannedSubnet(space.largest, Role.LARGEST),
        PlannedSubnet(middle, Role.RANDOM),
        PlannedSubnet(space.smallest, Role.SMALLEST),
    )


def test_a_sandwich_adds_the_mean_of_its_subnets_gradients(context):
    supernet, space, noisy = context.supernet, context.supernet.space, context.batches[8][0]
    plan = sandwich(space)
    losses = backward(supernet, plan, noisy, context.objective, TrainingSection(steps=1), None)
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
    supernet, noisy = context.supernet, context.batches[8][0]
    plan = sandwich(supernet.space)
    space = supernet.space
    config = TrainingSection(steps=1, distillation=1.0)
    with torch.no_grad():
        teacher = space.denoise(supernet.subnet(space.largest), noisy.inputs)
    backward(supernet, plan, noisy, context.objective, config, None)
    told = {n: p.grad.clone() for n, p in supernet.net.named_parameters()}
    supernet.net.zero_grad()
    (context.objective.loss(space.denoise(supernet.net, noisy.inputs), noisy) / 3).backward()
    for planned in plan.subnets[1:]:
        output = space.denoise(supernet.subnet(planned.arch), noisy.inputs)
        ((output - teacher).square().mean() / 3).backward()
    for name, param in supernet.net.named_parameters():
        torch.testing.assert_close(param.grad, told[name])


def test_a_loss_that_is_not_finite_is_told(context):
    noisy = context.batches[8][0]
    bad = dataclasses.replace(noisy, target=noisy.target * math.inf)
    plan = sandwich(context.supernet.space)
    losses = backward(
        context.supernet, plan, bad, context.objective, TrainingSection(steps=1), None
    )
    assert not any(loss.isfinite() for loss in losses.values())


def gradients(supernet) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in supernet.net.named_parameters()}
    supernet.net.zero_grad()
    return found


def test_shares_and_micro_batches_add_up_to_the_whole_batch(context):
    supernet, noisy = context.supernet, context.batches[8][0]
    plan, config = sandwich(supernet.space), TrainingSection(steps=1, distillation=0.5)
    clips = len(noisy)

    def run(part, **options):
        losses = backward(supernet, plan, part, context.objective, config, None, **options)
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
    supernet, noisy = context.supernet, context.batches[8][0]
    plan, config = sandwich(supernet.space), TrainingSection(steps=1)
    found = []
    for scale in (1.0, 2.0**16):
        backward(supernet, plan, noisy, context.objective, config, None, loss_scale=scale)
        found.append(gradients(supernet))
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_learning_rate_rises_then_falls_to_a_twentieth():
    config = TrainingSection(steps=100, learning_rate=1.0, lr_warmup=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 <= rates[-1] < 0.052
    flat = TrainingSection(steps=100, learning_rate=1.0, lr_warmup=0, lr_schedule="constant")
    assert {learning_rate(flat, step) for step in range(100)} == {1.0}


def planner(seed: int = 0) -> Planner:
    resolutions = {4: ResolutionSection(weight=3, batch=8), 8: ResolutionSection()}
    sampler = SamplerSection(name="warm_up").make()
    return Planner(ToySpace.of(), sampler, resolutions, SHAPES, steps=200, seed=seed)


def test_plans_are_a_function_of_seed_and_step():
    one, other = planner(), planner()
    steps = np.random.default_rng(0).permutation(200)
    backwards = {int(step): other.plan(int(step)) for step in steps}
    assert [one.plan(step) for step in range(200)] == [backwards[step] for step in range(200)]
    assert [planner(1).plan(step) for step in range(9)] != [one.plan(step) for step in range(9)]


def test_resolutions_come_by_weight_and_requests_count_every_clip():
    sides = [planner().resolution(step) for step in range(200)]
    assert sides.count(4) / 200 == pytest.approx(0.75, abs=0.1)
    requests = list(planner().requests(0, 0))
    assert [request.height for request in requests] == sides
    assert all(a.first + a.size == b.first for a, b in pairwise(requests))
    assert list(planner().requests(120, requests[120].first)) == requests[120:]


def test_auto_batches_cost_no_more_than_the_lowest_resolutions():
    space = ToySpace.of()
    resolutions = {4: ResolutionSection(batch=9), 8: ResolutionSection()}
    sizes = batch_sizes(space, resolutions, SHAPES)
    cost = {side: sizes[side] * space.cost(space.largest, "macs", SHAPES[side]) for side in sizes}
    assert sizes[4] == 9
    assert 0.7 * cost[4] <= cost[8] <= cost[4]
