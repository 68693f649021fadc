"""Train the reader of digits that ships with nasvid: `python tools/make_digit_reader.py OUT`.

Takes a few minutes of one CPU core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from nasvid.data.digits import motion_of
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.paths import Split
from nasvid.data.shards import index_shards
from nasvid.host.files import atomic_path
from nasvid.metrics.reading import NOTHING, SIDE, DigitReader, around_digit
from nasvid.shapes import Resolution

SIDES = (16, 20, 24, 32)
"""Resolutions of the training clips; larger videos are read at 32 pixels."""
FRAMES, FPS = 8, 8.0
BATCH, NOTHINGS = 128, 20
"""Pictures of digits, and of nothing, in a step."""


def main() -> None:
    """Train, write, and print how many unseen clips are read as what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reader = train(arguments.steps)
    half = {
        name: each.half() for name, each in reader.state_dict().items() if each.is_floating_point()
    }
    with atomic_path(arguments.out) as temporary:
        save_file(half, temporary)
    reader.load_state_dict({name: each.float() for name, each in half.items()}, strict=False)
    for side in (16, 24, 32, 64):
        video, digits = clips("val", side)
        print(f"{side} px: {(reader.read(video) == digits).double().mean():.1%}")


def clips(split: Split, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embedded clips of digits, `b 3 t h w`, and their digits, int64 `b`."""
    index = index_shards("embedded:digits", Path(), split)
    request = BatchRequest(
        number=0, resolution=Resolution.square(side), first=0, size=len(index.clips)
    )
    cutting = Cutting(frames=FRAMES, fps=FPS, flip=False, train=False)
    (batch,) = load_batches(index, [request], cutting=cutting, seed=0, workers=0)
    motions = [motion for motion in map(motion_of, batch.captions) if motion]
    return batch.video, torch.tensor([motion.digit for motion in motions])


def train(steps: int) -> DigitReader:
    """Return a reader trained on the training clips, in eval mode."""
    pictures, digits = _pictures()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    reader = DigitReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    nothing = torch.full((NOTHINGS,), NOTHING)
    for step in range(steps):
        chosen = torch.randint(len(pictures), (BATCH,), generator=generator)
        seen = varied(pictures[chosen], generator)
        others = nothings(pictures, digits, generator)
        loss = F.cross_entropy(
            reader(torch.cat([seen, others])),
            torch.cat([digits[chosen], nothing]),
            label_smoothing=0.02,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    return reader.eval()


def _pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Return `n 1 h w` pictures of the training clips' frames, and their digits."""
    pictures, digits = [], []
    for side in SIDES:
        video, shown = clips("train", side)
        pictures.append(around_digit(video).reshape(-1, 1, SIDE, SIDE))
        digits.append(shown.repeat_interleave(FRAMES))
    return torch.cat(pictures), torch.cat(digits)


def varied(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the pictures of digits turned, moved, resized, blurred, with other light and noise."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(len(pictures), generator=generator) * (high - low) + low

    angle, shear = uniform(-0.25, 0.25), uniform(-0.3, 0.3)
    wide, high = uniform(0.8, 1.25), uniform(0.8, 1.25)
    theta = torch.stack(
        [
            torch.stack([wide * angle.cos(), shear - angle.sin(), uniform(-0.15, 0.15)], dim=1),
            torch.stack([high * angle.sin(), high * angle.cos(), uniform(-0.15, 0.15)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, align_corners=False)
    blur = uniform(0, 1)[:, None, None, None] * (uniform(0, 1) < 0.5)[:, None, None, None]
    moved = moved + blur * (_blurred(moved, 0.8) - moved)
    thick = (uniform(-0.4, 0.4)).exp()[:, None, None, None]
    moved = moved.clamp(min=0) ** thick
    return _lit(moved, generator)


def nothings(
    pictures: torch.Tensor, digits: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return pictures of no legible digit: noise, blobs, smears, two digits at once, shreds."""
    kinds: list[Callable[[int], torch.Tensor]] = [
        lambda n: _noise(n, generator),
        lambda n: _blobs(n, generator),
        lambda n: _blurred(_some(pictures, n, generator), 3),
        lambda n: _pairs(pictures, digits, n, generator),
        lambda n: _shreds(_some(pictures, n, generator), generator),
    ]
    each = -(-NOTHINGS // len(kinds))
    made = torch.cat([kind(each) for kind in kinds])
    return _lit(made[:NOTHINGS], generator)


def _some(pictures: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    return pictures[torch.randint(len(pictures), (n,), generator=generator)]


def _noise(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return noise of different grain, dark or light; some of it almost blank."""
    size = [2, 3, 4, 6, 8, 16][int(torch.randint(6, (1,), generator=generator))]
    grain = torch.randn(n, 1, size, size, generator=generator)
    strength = torch.rand(n, 1, 1, 1, generator=generator)
    middle = torch.rand(n, 1, 1, 1, generator=generator)
    return middle + strength * F.interpolate(grain, SIDE, mode="bilinear")


def _blobs(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return one to three soft, roundish spots each."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = torch.meshgrid(places, places, indexing="ij")
    drawn = torch.zeros(n, SIDE, SIDE)
    for number in range(3):
        middle = 0.5 + 0.15 * number * torch.randn(n, 2, 1, 1, generator=generator)
        width = 0.15 + 0.2 * torch.rand(n, 2, 1, 1, generator=generator)
        far = ((x - middle[:, 0]) / width[:, 0]) ** 2 + ((y - middle[:, 1]) / width[:, 1]) ** 2
        is_there = torch.rand(n, 1, 1, generator=generator) < 1 / (1 + number)
        drawn = torch.maximum(drawn, (-far).exp() * is_there)
    return drawn[:, None]


def _pairs(
    pictures: torch.Tensor, digits: torch.Tensor, n: int, generator: torch.Generator
) -> torch.Tensor:
    """Return two different digits on top of each other."""
    first = torch.randint(len(pictures), (8 * n,), generator=generator)
    second = torch.randint(len(pictures), (8 * n,), generator=generator)
    differ = digits[first] != digits[second]
    return (pictures[first[differ][:n]] + pictures[second[differ][:n]]) / 2


def _shreds(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the pictures with their sixteen parts in another order."""
    parts = F.unfold(pictures, SIDE // 4, stride=SIDE // 4)
    order = torch.randperm(16, generator=generator)
    return F.fold(parts[:, :, order], (SIDE, SIDE), SIDE // 4, stride=SIDE // 4)


def _blurred(pictures: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = round(3 * sigma)
    bell = (-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2).exp()
    bell = bell / bell.sum()
    across = F.conv2d(pictures, bell.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(across, bell.view(1, 1, -1, 1), padding=(reach, 0))


def _lit(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the pictures fainter, on a background that is not black, with noise."""
    n = len(pictures)
    ground = 0.25 * torch.rand(n, 1, 1, 1, generator=generator) ** 2
    contrast = 0.55 + 0.45 * torch.rand(n, 1, 1, 1, generator=generator)
    grain = 0.12 * torch.rand(n, 1, 1, 1, generator=generator)
    noise = torch.randn(pictures.shape, generator=generator)
    return (ground + (1 - ground) * contrast * pictures + grain * noise).clamp(0, 1)


if __name__ == "__main__":
    main()
