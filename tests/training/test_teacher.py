"""What subnets learn from a frozen teacher: its predictions and its hidden states."""

import dataclasses

import pytest
import torch

from nasvid.recipe.sections import TrainingSection
from nasvid.sampler import PlannedSubnet, Role, StepPlan
from nasvid.shapes import Domain, VideoShape
from nasvid.supernet import Supernet
from nasvid.testing.steps import noisy_clips
from nasvid.testing.toy import LARGE, ToySpace, toy_context
from nasvid.training.teacher import Teacher, Weights, difference, watched
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from tests.training.trainers import trainer_of


@pytest.fixture
def context():
    return toy_context(ToySpace.of())


def plan_of(space, *archs) -> StepPlan:
    subnets = tuple(PlannedSubnet(arch, Role.RANDOM) for arch in archs)
    return StepPlan(step=0, batches=(), subnets=subnets, largest=space.largest)


def gradients(supernet) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in supernet.net.named_parameters() if p.grad is not None}
    supernet.net.zero_grad()
    return found


def taught(context, weights: Weights, **settings):
    torch.manual_seed(1)
    net = context.supernet.space.build(context.supernet.space.largest)
    net.eval().requires_grad_(False)
    section = TrainingSection.model_validate({"steps": 1, **settings})
    made = trainer_of(context.supernet, context.objective, section)
    return dataclasses.replace(made, teacher=Teacher(net, weights))


def test_the_loss_adds_outputs_and_features_to_the_task(context):
    supernet, noisy = context.supernet, context.batches[LARGE][0]
    space = supernet.space
    arch = space.architecture(dict(space.largest) | {"width": 4, "block.1": False})
    made = taught(context, Weights(task=0.7, outputs=0.3, features=0.2))
    losses = made.backward(plan_of(space, arch, space.largest), noisy)
    found = gradients(supernet)
    teacher = made.teacher.net
    assert all(p.grad is None for p in teacher.parameters())
    with torch.no_grad(), watched(teacher, [f"blocks.{i}" for i in range(3)]) as theirs:
        target = space.denoise(teacher, noisy.inputs)
    for each in (arch, space.largest):
        subnet, points = supernet.subnet(each), space.feature_points(each)
        with watched(subnet, points) as own:
            prediction = space.denoise(subnet, noisy.inputs)
        assert list(own) == [f"blocks.{i}" for i in range(3) if each[f"block.{i}"]]
        parts = torch.stack([difference(own[name], theirs[name]) for name in own])
        loss = 0.7 * context.objective.loss(prediction, noisy) + 0.2 * parts.mean()
        ((loss + 0.3 * (prediction - target).square().mean()) / 2).backward()
    torch.testing.assert_close(gradients(supernet), found)
    assert losses.keys() == {Role.RANDOM}


def test_a_teacher_with_the_weights_of_distillation_is_distillation(context):
    """To the bit: both are the same sum, of which only the source of the prediction differs."""
    supernet, noisy = context.supernet, context.batches[LARGE][0]
    plan = plan_of(supernet.space, supernet.space.largest, supernet.space.smallest)
    made = taught(context, Weights(0.75, 0.25), distillation=0.25)
    alone = dataclasses.replace(made, teacher=Teacher(supernet.net, Weights(0.75, 0.25)))
    smallest = plan_of(supernet.space, supernet.space.smallest)
    alone.backward(smallest, noisy, total=2 * len(noisy))
    expected = gradients(supernet)
    dataclasses.replace(made, teacher=None).backward(plan, noisy)
    both = gradients(supernet)
    largest = plan_of(supernet.space, supernet.space.largest)
    dataclasses.replace(made, teacher=None).backward(largest, noisy, total=2 * len(noisy))
    for name, gradient in gradients(supernet).items():
        torch.testing.assert_close(gradient + expected.get(name, 0), both[name])


def test_a_difference_is_relative_to_how_much_the_teachers_states_vary():
    generator = torch.Generator().manual_seed(0)
    states = 3 + 5 * torch.randn(4, 6, 8, 8, generator=generator)
    assert difference(states, states) == 0
    mean = states.flatten(1).mean(1)[:, None, None, None].expand_as(states)
    assert difference(mean, states).item() == pytest.approx(1, abs=0.01)
    assert difference(100 * mean, 100 * states).item() == pytest.approx(1, abs=0.01)
    narrow = states[:, :2]
    assert difference(narrow, states) == 0, "a narrower subnet has the leading channels"
    assert difference(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)) == 0


def test_massive_activations_are_left_out():
    states = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    other = states + 0.1
    expected = difference(other, states)
    massive = states.clone()
    massive[:, 7, 3] = 1e4
    other[:, 7, 3] = 0
    assert difference(other, massive).item() == pytest.approx(expected.item(), rel=0.02)


def test_micro_batches_and_recomputed_activations_learn_the_same():
    shape = VideoShape.square(8, frames=2, context_len=4)
    config = ElasticUNetSpace.Config(
        widths=((8, 16), (16, 32)),
        blocks_per_level=1,
        attention_levels=(1,),
        conditioning_width=16,
        head_dim=8,
        group_size=4,
    )
    space = ElasticUNetSpace(config, Domain(channels=3, context_dim=16))
    torch.manual_seed(0)
    supernet, teacher = Supernet(space), Supernet(space).net.requires_grad_(False)
    context = toy_context(ToySpace.of())
    inputs = noisy_clips(space, shape)
    batch = context.objective.corrupt(
        inputs.sample,
        torch.randn_like(inputs.sample),
        torch.tensor([100, 700]),
        inputs.context,
        inputs.context_mask,
        inputs.fps,
    )
    found = []
    for settings, size in (({}, None), ({"gradient_checkpointing": True}, 1)):
        section = TrainingSection.model_validate({"steps": 1, **settings})
        made = trainer_of(supernet, context.objective, section)
        made = dataclasses.replace(made, teacher=Teacher(teacher, Weights(1, 1, 1)))
        made.backward(plan_of(space, space.smallest, space.largest), batch, micro_batch=size)
        found.append(gradients(supernet))
    torch.testing.assert_close(*found)
