"""Sampling: deterministic, guided, and right for a denoiser that knows the answer."""

import pytest
import torch
from torch import nn

from nasvid.diffusion.objective import Diffusion, DiffusionConfig
from nasvid.diffusion.sample import Guidance, sample_video, to_frames
from nasvid.diffusion.text import CachedText, HashEncoder
from nasvid.shapes import DenoiserInput, Domain, VideoShape
from nasvid.testing.toy import ToySpace

SHAPE = VideoShape.square(8, frames=2, context_len=4)


class Oracle(nn.Module):
    """Predicts v of a clip it knows: grey where there is no caption, bright where there is."""

    def __init__(self, objective: Diffusion) -> None:
        super().__init__()
        self.objective = objective
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: DenoiserInput) -> torch.Tensor:
        captioned = (x.context_mask.sum(dim=1) > 1).float()[:, None, None, None, None]
        clean = (0.5 * captioned).expand_as(x.sample)
        alpha = self.objective.scheduler.alphas_cumprod[x.timestep].view(-1, 1, 1, 1, 1)
        noise = (x.sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


class OracleSpace(ToySpace):
    def denoise(self, model, x):
        return model(x)


def sample(scale: float, seed: int = 0, prompts: tuple[str, ...] = ("a b", "c")) -> torch.Tensor:
    objective = Diffusion(DiffusionConfig())
    space = OracleSpace(ToySpace.Config(), Domain(channels=3, context_dim=8))
    text = CachedText(HashEncoder(HashEncoder.Config(dim=8)), 4, None)
    video = sample_video(
        space,
        Oracle(objective),
        objective,
        text,
        list(prompts),
        SHAPE,
        fps=8.0,
        guidance=Guidance(scale, 20),
        seed=seed,
    )
    return to_frames(video)


@pytest.mark.parametrize(("scale", "value"), [(1.0, 0.5), (1.5, 0.75)])
def test_a_denoiser_that_knows_the_clip_is_led_to_it(scale, value):
    frames = sample(scale)
    assert frames.shape == (2, 2, 8, 8, 3)
    assert frames.dtype == torch.uint8
    wanted = round((value + 1) * 127.5)
    assert (frames.int() - wanted).abs().max() <= 1


def test_the_same_seed_gives_the_same_video():
    assert torch.equal(sample(1.0, seed=3), sample(1.0, seed=3))


def test_frames_are_clamped_and_rounded():
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 1, 5)
    assert to_frames(video).flatten().tolist() == [0, 0, 128, 255, 255]
