"""Sampling: deterministic, guided, and right for a denoiser that knows the answer."""

import pytest
import torch
from torch import nn

from nasvid.diffusion import sample as sampling
from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.objective import Diffusion, DiffusionConfig
from nasvid.diffusion.sample import VideoSampler, to_frames
from nasvid.diffusion.text import HashEncoder, HashEncoderConfig
from nasvid.evaluator import Guidance
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


def sampler(space: ToySpace, scale: float = 2.0, steps: int = 3, seed: int = 0) -> VideoSampler:
    return VideoSampler(
        space=space,
        objective=Diffusion(DiffusionConfig()),
        text=CachedText(HashEncoder(HashEncoderConfig(dim=space.domain.context_dim)), 4, None),
        vae=None,
        guidance=Guidance(scale, steps),
        fps=8.0,
        seed=seed,
    )


def sample(scale: float, seed: int = 0, prompts: tuple[str, ...] = ("a b", "c")) -> torch.Tensor:
    space = OracleSpace(ToySpace.Config(), Domain(channels=3, context_dim=8))
    of = sampler(space, scale, 20, seed)
    return to_frames(torch.cat(list(of.videos(Oracle(of.objective), prompts, SHAPE))))


@pytest.mark.parametrize(("scale", "value"), [(1.0, 0.5), (1.5, 0.75)])
def test_a_denoiser_that_knows_the_clip_is_led_to_it(scale, value):
    frames = sample(scale)
    assert frames.shape == (2, 2, 8, 8, 3)
    assert frames.dtype == torch.uint8
    wanted = round((value + 1) * 127.5)
    assert (frames.int() - wanted).abs().max() <= 1


def test_the_same_seed_gives_the_same_video():
    assert torch.equal(sample(1.0, seed=3), sample(1.0, seed=3))


class Started(ToySpace):
    """Notes the noise that videos start from, and how many are denoised together."""

    def denoise(self, model, x):
        if not hasattr(self, "noise"):
            self.noise, self.sizes = [], []
        if x.timestep[0] == 999:
            self.noise += x.sample[: len(x.sample) // 2]
            self.sizes.append(len(x.sample) // 2)
        return super().denoise(model, x)


def started(prompts: list[str], together: int, monkeypatch) -> tuple[Started, torch.Tensor]:
    monkeypatch.setattr(sampling, "POSITIONS", together * 2 * 8 * 8 + 1)
    space = Started(ToySpace.Config(), Domain(channels=3, context_dim=8))
    torch.manual_seed(0)
    model = space.build(space.largest)
    return space, torch.cat(list(sampler(space, seed=5).videos(model, prompts, SHAPE)))


def test_noise_is_of_the_seed_and_the_place_however_many_are_made_together(monkeypatch):
    """That of one draw for all, which is how it was before there were batches."""
    prompts = [f"prompt {i}" for i in range(7)]
    size = (7, 3, SHAPE.frames, SHAPE.height, SHAPE.width)
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(5))
    for together, sizes in ((7, [7]), (3, [3, 3, 1]), (1, [1] * 7)):
        space, videos = started(prompts, together, monkeypatch)
        assert space.sizes == sizes
        assert torch.equal(torch.stack(space.noise), drawn)
        assert videos.shape == size
        assert videos.abs().max() <= 1
    alone, _ = started(prompts[:2], 7, monkeypatch)
    assert torch.equal(torch.stack(alone.noise), drawn[:2])


def test_batches_make_the_same_videos(monkeypatch):
    prompts = [f"prompt {i}" for i in range(5)]
    _, together = started(prompts, 5, monkeypatch)
    _, apart = started(prompts, 2, monkeypatch)
    assert torch.allclose(together, apart, atol=1e-5)


def test_frames_are_clamped_and_rounded():
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 1, 5)
    assert to_frames(video).flatten().tolist() == [0, 0, 128, 255, 255]
