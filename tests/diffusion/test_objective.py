"""The objective: noise, targets, weights, what useless predictions score."""

from typing import ClassVar

import pytest
import torch
from diffusers import DDPMScheduler

from nasvid.diffusion.objective import Diffusion, DiffusionConfig, Flow, FlowConfig
from nasvid.objective import Objective, ObjectiveConfig
from nasvid.plugins import Config
from nasvid.testing import ObjectiveConformance


class TestV(ObjectiveConformance):
    objective = Diffusion


class TestEpsilon(ObjectiveConformance):
    objective = Diffusion
    options: ClassVar = {"prediction": "epsilon", "zero_terminal_snr": False}


class TestUnweightedOnAShortSchedule(ObjectiveConformance):
    objective = Diffusion
    options: ClassVar = {"min_snr_gamma": None, "train_timesteps": 50}


class TestFlow(ObjectiveConformance):
    objective = Flow


class TestShiftedFlow(ObjectiveConformance):
    objective = Flow
    options: ClassVar = {"shift": 3.0, "train_timesteps": 100}


def test_options_that_lack_those_of_every_objective_are_refused():
    class Bare(Config):
        pass

    with pytest.raises(TypeError, match="Bare must derive from"):

        class Mine(Objective[Bare]):
            pass

    class Plain(Objective):
        pass

    assert Plain.Config is ObjectiveConfig


def noised(objective: Objective, timestep: torch.Tensor):
    generator = torch.Generator().manual_seed(0)
    video, noise = torch.randn(2, len(timestep), 3, 2, 4, 4, generator=generator)
    n = len(timestep)
    mask = torch.ones(n, 1, dtype=torch.bool)
    batch = objective.corrupt(video, noise, timestep, torch.zeros(n, 1, 8), mask, torch.ones(n))
    return video, noise, batch


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_targets_are_those_of_diffusers(prediction):
    config = DiffusionConfig(prediction=prediction, zero_terminal_snr=False)
    objective, reference = Diffusion(config), DDPMScheduler(beta_schedule="scaled_linear")
    timestep = torch.tensor([0, 10, 500, 999])
    video, noise, batch = noised(objective, timestep)
    assert torch.equal(batch.inputs.sample, reference.add_noise(video, noise, timestep))
    wanted = noise if prediction == "epsilon" else reference.get_velocity(video, noise, timestep)
    assert torch.equal(batch.target, wanted)


def test_the_last_timestep_is_pure_noise_when_asked_for():
    _, noise, batch = noised(Diffusion(DiffusionConfig()), torch.tensor([999]))
    assert torch.allclose(batch.inputs.sample, noise, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_is_normalised_over_the_whole_schedule(prediction, gamma):
    config = DiffusionConfig(
        prediction=prediction, min_snr_gamma=gamma, zero_terminal_snr=False, train_timesteps=100
    )
    objective = Diffusion(config)
    video, _, batch = noised(objective, torch.arange(100).repeat_interleave(8))
    assert batch.weight.mean() == pytest.approx(1, abs=1e-3)
    assert objective.loss(torch.zeros_like(batch.target), batch).item() == pytest.approx(1, abs=0.1)
    assert objective.loss(batch.target, batch).item() == 0
    assert objective.mean_loss(video, batch) == pytest.approx(1, abs=0.1)


def test_clips_that_are_all_alike_cost_the_mean_only_the_noise():
    objective = Diffusion(DiffusionConfig(min_snr_gamma=None))
    timestep = torch.tensor([100, 500, 900])
    _, _, batch = noised(objective, timestep)
    same = torch.randn(1, 3, 2, 4, 4).expand(3, -1, -1, -1, -1)
    noise = torch.randn(3, 3, 2, 4, 4)
    one = torch.ones(3)
    context, mask = batch.inputs.context, batch.inputs.context_mask
    again = objective.corrupt(same, noise, timestep, context, mask, one)
    alpha = objective.scheduler.alphas_cumprod[timestep]
    wanted = (alpha[:, None] * noise.flatten(1) ** 2).mean().item()
    assert objective.mean_loss(same, again) == pytest.approx(wanted, rel=1e-4)


def test_min_snr_weights_of_v_are_clamped_and_leave_no_timestep_out():
    objective = Diffusion(DiffusionConfig(prediction="v", min_snr_gamma=5.0))
    alphas = objective.scheduler.alphas_cumprod.double()
    snr = alphas / (1 - alphas)
    timestep = torch.tensor([50, 300, 999])
    _, _, batch = noised(objective, timestep)
    expected = (snr[timestep] + 1).clamp(max=5) / (snr[timestep] + 1)
    ratio = batch.weight.double() / expected
    assert torch.allclose(ratio, ratio[0].expand(3), rtol=1e-5)


def flow(shift=1.0):
    return Flow(FlowConfig(shift=shift))


def test_flow_is_a_straight_line_from_clip_to_noise():
    objective = flow()
    video, noise = torch.randn(2, 3, 3, 2, 4, 4)
    step = torch.tensor([0, 499, 999])
    mask = torch.ones(3, 1, dtype=torch.bool)
    batch = objective.corrupt(video, noise, step, torch.zeros(3, 1, 8), mask, torch.ones(3))
    assert batch.inputs.timestep.tolist() == [1.0, 500.0, 1000.0]
    assert torch.equal(batch.target, noise - video)
    assert torch.allclose(batch.inputs.sample[2], noise[2])
    assert torch.allclose(batch.inputs.sample[1], (video[1] + noise[1]) / 2, atol=1e-6)
    sigma = batch.inputs.timestep[:, None, None, None, None] / 1000
    assert torch.allclose(batch.inputs.sample - sigma * batch.target, video, atol=1e-6)
    assert torch.equal(batch.weight, torch.ones(3))


def test_flow_agrees_with_its_scheduler():
    objective = flow(shift=3.0)
    scheduler = objective.make_scheduler()
    video, noise = torch.randn(2, 4, 3, 2, 4, 4)
    step = torch.tensor([0, 10, 700, 999])
    mask = torch.ones(4, 1, dtype=torch.bool)
    batch = objective.corrupt(video, noise, step, torch.zeros(4, 1, 8), mask, torch.ones(4))
    theirs = scheduler.scale_noise(video, scheduler.timesteps[999 - step], noise)
    assert torch.allclose(batch.inputs.sample, theirs, atol=1e-6)
    assert torch.allclose(batch.inputs.timestep, scheduler.timesteps[999 - step])


def test_steps_of_a_perfect_flow_lead_to_the_clip():
    scheduler = flow(shift=2.0).make_scheduler()
    scheduler.set_timesteps(7)
    video, noise = torch.randn(2, 1, 3, 2, 4, 4)
    x = noise
    for timestep in scheduler.timesteps:
        (x,) = scheduler.step(noise - video, timestep, x, return_dict=False)
    assert torch.allclose(x, video, atol=1e-5)
