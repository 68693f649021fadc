"""The objective of a pipeline's scheduler: it trains what the scheduler undoes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from nasvid.diffusion.objective import Diffusion, Flow
from nasvid.diffusion.scheduled import Pretrained, load_scheduler, undoes
from nasvid.errors import UserError
from nasvid.testing import ObjectiveConformance

Pipeline = Callable[[str], Path]


def made(folder: Path, **options: Any) -> Pretrained:
    return Pretrained(Pretrained.Config.model_validate({"path": str(folder), **options}))


def saved(scheduler: Any, folder: Path) -> Path:
    scheduler.save_pretrained(str(folder))
    return folder


class TestShifted(ObjectiveConformance):
    objective = Pretrained

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        folder = saved(FlowMatchEulerDiscreteScheduler(shift=7.0), tmp_path / "scheduler")
        type(self).options = {"path": str(folder)}


class TestNoise(ObjectiveConformance):
    objective = Pretrained

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        settings: Any = {"beta_schedule": "scaled_linear", "clip_sample": False}
        folder = saved(
            DDIMScheduler(**settings, timestep_spacing="trailing"), tmp_path / "scheduler"
        )
        type(self).options = {"path": str(folder), "min_snr_gamma": 5.0}


def noised(objective: Any, steps: torch.Tensor) -> tuple[torch.Tensor, ...]:
    video, noise = torch.randn(
        2, len(steps), 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)
    )
    noisy, told = objective.add_noise(video, noise, steps)
    return noisy, told, objective.target(video, noise, steps), objective.weight(steps)


def test_it_is_the_written_out_objective_with_the_same_settings(tmp_path: Path) -> None:
    steps = torch.tensor([0, 10, 500, 999])
    flow = Flow(Flow.Config(shift=3.0))
    read = made(saved(flow.make_scheduler(), tmp_path / "flow"))
    for one, other in zip(noised(read, steps), noised(flow, steps), strict=True):
        assert torch.equal(one, other)
    v = Diffusion(Diffusion.Config(min_snr_gamma=5.0))
    read = made(saved(v.make_scheduler(), tmp_path / "v"), min_snr_gamma=5.0)
    for one, other in zip(noised(read, steps), noised(v, steps), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "shift", "prediction"),
    [
        ("wan", 3.0, "flow"),
        ("ltx", 2.5857, "flow"),
        ("cogvideox", None, "v"),
        ("hunyuan_video", 7.0, "flow"),
        ("text_to_video_sd", None, "epsilon"),
    ],
)
@pytest.mark.slow
def test_a_perfect_denoiser_is_led_to_the_clip_by_the_pipelines_scheduler(
    name: str, shift: float | None, prediction: str, pipeline: Pipeline
) -> None:
    """What it is trained to predict is what the scheduler makes of it."""
    objective = made(pipeline(name))
    objective.check_ready()
    theirs = load_scheduler(pipeline(name) / "scheduler")
    assert undoes(theirs, objective.make_scheduler())
    steps = torch.tensor([999])
    video, noise = torch.randn(2, 1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    if shift is not None:
        noisy, told = objective.add_noise(video, noise, steps // 2)
        time = shift * 0.5 / (1 + (shift - 1) * 0.5)
        assert told.item() == pytest.approx(1000 * time, rel=1e-3)
        torch.testing.assert_close(noisy, torch.lerp(video, noise, time), atol=2e-3, rtol=0)
    known = {"flow": noise - video, "epsilon": noise}
    theirs.set_timesteps(12, **({"mu": 0.95} if name == "ltx" else {}))
    first = theirs.timesteps[:1].long().clamp(max=999)  # not all begin with pure noise
    sample, _ = objective.add_noise(video, noise, steps if prediction == "flow" else first)
    for timestep in theirs.timesteps:
        step = timestep.long()[None].clamp(max=999)
        target = objective.target(video, noise, step)
        assert prediction == "v" or torch.equal(target, known[prediction])
        sample, *_ = theirs.step(target, timestep, sample, return_dict=False)
    assert ((sample - video).norm() / video.norm()).item() < 0.15


def test_noise_schedules_that_differ_are_told_apart(pipeline: Pipeline) -> None:
    sd = load_scheduler(pipeline("text_to_video_sd") / "scheduler")
    other = DDIMScheduler.from_config(sd.config, beta_end=0.02)
    assert not undoes(sd, other)
    assert not undoes(sd, DDIMScheduler.from_config(sd.config, prediction_type="v_prediction"))
    assert undoes(sd, DDIMScheduler.from_config(sd.config, timestep_spacing="trailing"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "has no scheduler_config.json"),
        ("{", "is not JSON"),
        ({"_class_name": "Danger"}, "holds a 'Danger', which diffusers does not have"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "sample"}, "predicts 'sample'"),
    ],
)
def test_a_folder_that_is_no_known_scheduler_is_refused(
    config: Any, said: str, tmp_path: Path
) -> None:
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "scheduler_config.json").write_text(text)
    with pytest.raises(UserError, match=said):
        made(tmp_path).check_ready()
