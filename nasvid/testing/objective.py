"""The rules of an objective, as a test class to derive from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from nasvid.objective import NoisyBatch, Objective
from nasvid.shapes import VideoShape
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.same import assert_finite, assert_same


class ObjectiveConformance(Conformance):
    """Derive from it, set `objective`, and pytest checks every rule of an objective.

    class TestMine(ObjectiveConformance):
        objective = Mine
    """

    objective: ClassVar[type[Objective]]
    """The class under test."""

    def make(self) -> Objective:
        """Return the objective."""
        return self.made(self.objective)

    def steps(self, objective: Objective) -> torch.Tensor:
        """Return all steps, from the least noise to the most."""
        return torch.arange(objective.train_timesteps)

    def test_a_batch_has_the_shapes_and_types_that_training_needs(self) -> None:
        """At every step, all numbers are finite and no weight is negative."""
        objective = self.make()
        steps = self.steps(objective)
        video, noise = _clips(len(steps))
        batch = _corrupted(objective, video, noise, steps)
        assert batch.inputs.sample.shape == batch.target.shape == video.shape
        assert batch.inputs.sample.dtype == batch.target.dtype == torch.float32
        assert batch.inputs.timestep.shape == batch.weight.shape == steps.shape
        assert batch.weight.dtype == torch.float32
        assert torch.equal(batch.step, steps)
        assert_finite(batch.inputs.sample, "the noisy clip")
        assert_finite(batch.inputs.timestep, "the timestep")
        assert_finite(batch.target, "the target")
        assert_finite(batch.weight, "the weight")
        assert (batch.weight >= 0).all()

    def test_leads_from_the_clip_to_the_noise(self) -> None:
        """The first step resembles the clip, the last the noise, and timesteps rise."""
        objective = self.make()
        steps = self.steps(objective)
        video, noise = (clips.expand(len(steps), -1, -1, -1, -1) for clips in _clips(1))
        noisy, timestep = objective.add_noise(video, noise, steps)
        assert _cosine(noisy[0], video[0]) > 0.9
        assert _cosine(noisy[-1], noise[-1]) > 0.9
        assert (timestep.diff() > 0).all()

    def test_weights_keep_the_scale_of_the_loss(self) -> None:
        """Their mean over the schedule is 1."""
        objective = self.make()
        assert objective.weight(self.steps(objective)).mean().item() == pytest.approx(1, abs=1e-3)

    def test_a_clip_is_corrupted_alike_in_any_company(self) -> None:
        """It draws no random numbers and ignores the rest of the batch."""
        objective = self.make()
        video, noise = _clips(4)
        steps = self.steps(objective)[torch.linspace(0, objective.train_timesteps - 1, 4).long()]
        with untouched_randomness():
            together = list(_corrupted(objective, video, noise, steps).split(1))
        for i, one in enumerate(together):
            own = slice(i, i + 1)
            alone = _corrupted(self.make(), video[own], noise[own], steps[own])
            assert_same(alone.inputs.sample, one.inputs.sample, "the noisy clip, alone,")
            assert_same(alone.inputs.timestep, one.inputs.timestep, "the timestep, alone,")
            assert_same(alone.target, one.target, "the target, alone,")
            assert_same(alone.weight, one.weight, "the weight, alone,")

    def test_the_loss_is_zero_for_the_target_and_has_a_gradient_elsewhere(self) -> None:
        """A scalar in fp32, whatever the prediction's precision."""
        objective = self.make()
        steps = torch.full((3,), objective.train_timesteps // 2)
        batch = _corrupted(objective, *_clips(3), steps)
        assert objective.loss(batch.target, batch).item() == 0
        prediction = torch.zeros_like(batch.target, dtype=torch.bfloat16, requires_grad=True)
        loss = objective.loss(prediction, batch)
        assert (loss.shape, loss.dtype) == ((), torch.float32)
        assert loss.item() > 0
        loss.backward()
        assert prediction.grad is not None
        assert_finite(prediction.grad, "the prediction's gradient")
        assert prediction.grad.any()

    def test_the_scheduler_leads_a_perfect_denoiser_to_the_clip(self) -> None:
        """It starts at the noisiest step and takes twelve sampling steps."""
        objective = self.make()
        steps = self.steps(objective)
        every = torch.zeros(len(steps), 1, 1, 1, 1)
        timesteps = objective.add_noise(every, every, steps)[1].double()
        video, noise = _clips(1)
        scheduler = objective.make_scheduler()
        scheduler.set_timesteps(12)
        sample, told = objective.add_noise(video, noise, steps[-1:])
        for timestep in scheduler.timesteps:
            step = (timesteps - timestep.double()).abs().argmin()[None]
            target = objective.target(video, noise, step)
            sample, *_ = scheduler.step(target, timestep, sample, return_dict=False)
        assert torch.as_tensor(scheduler.timesteps).dtype == told.dtype
        assert ((sample - video).norm() / video.norm()).item() < 0.1

    def test_a_scheduler_is_new_each_time_and_can_be_saved(self, tmp_path: Path) -> None:
        """Samples do not share one, and an exported subnet's is read back unchanged."""
        objective = self.make()
        one, other = objective.make_scheduler(), objective.make_scheduler()
        before = torch.as_tensor(other.timesteps).clone()
        one.set_timesteps(3)
        assert torch.equal(torch.as_tensor(other.timesteps), before)
        one.save_pretrained(tmp_path)
        cls: Any = type(one)
        again, wanted = cls.from_pretrained(tmp_path), objective.make_scheduler()
        assert torch.equal(torch.as_tensor(again.timesteps), torch.as_tensor(wanted.timesteps))

    def test_what_it_proposes_for_its_own_scheduler_is_itself(self) -> None:
        """`nasvid init` asks every objective; one that does not know a scheduler gives None."""
        objective = self.make()
        propose, shape = type(objective).propose, VideoShape.square(4, frames=2, context_len=1)
        assert propose({"_class_name": "Nobody's", "num_train_timesteps": 9}, shape) is None
        scheduler: Any = objective.make_scheduler()
        proposed = propose({**scheduler.config, "_class_name": type(scheduler).__name__}, shape)
        if proposed is None:
            return
        again, steps = type(objective)(proposed), self.steps(objective)
        video, noise = _clips(len(steps))
        for one, other in zip(
            again.add_noise(video, noise, steps),
            objective.add_noise(video, noise, steps),
            strict=True,
        ):
            assert_same(one, other, "what a proposed objective makes")
        assert_same(
            again.target(video, noise, steps), objective.target(video, noise, steps), "the target"
        )


def _clips(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips in [-1, 1] and noise."""
    generator = torch.Generator().manual_seed(0)
    video, noise = torch.randn(2, count, 3, 2, 4, 4, generator=generator)
    return video.clamp(-1, 1), noise


def _corrupted(
    objective: Objective, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor
) -> NoisyBatch:
    count = len(video)
    context, mask = torch.zeros(count, 1, 4), torch.ones(count, 1, dtype=torch.bool)
    return objective.corrupt(video, noise, step, context, mask, torch.full((count,), 8.0))


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
