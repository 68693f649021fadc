"""Train the feature extractor `proxy` that ships with nasvid: `python tools/make_proxy.py OUT`.

On one CPU core it takes about six minutes.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.paths import Split
from nasvid.data.shards import index_shards
from nasvid.host.aligned import write_aligned
from nasvid.metrics.features.proxy import DIM, ProxyNet
from nasvid.shapes import Resolution

SHAPES = ((16, 8), (24, 8), (32, 16), (64, 16))
"""Height and width, and frames, of the clips that it is trained on."""
DIGITS, FOOTAGE, SPOILED = 24, 8, 3
"""Clips of each kind in a batch, and clips in it that are spoiled in each way."""


def main() -> None:
    """Train, whiten the features on the training clips, write, and print what is recognised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the file of the weights")
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = {shape: (clips("digits", *shape), clips("footage", *shape)) for shape in SHAPES}
    words = vocabulary([text for pair in train[SHAPES[0]] for text in pair[1]])
    net, tell = ProxyNet(DIM), nn.Linear(DIM, len(words) + len(WAYS))
    optimise(net, tell, train, words, arguments.steps)
    print(f"digits named right in unseen clips: {accuracy(net, tell, words):.0%}")
    whiten(net, [video for shape in SHAPES[:2] for video, _ in train[shape]])
    write_aligned(net.state_dict(), arguments.out)


Clips = tuple[torch.Tensor, list[str]]


def clips(kind: str, side: int, frames: int, split: Split = "train") -> Clips:
    """Return the embedded clips of a kind, `b 3 t h w`, and their captions."""
    index = index_shards(f"embedded:{kind}", Path(), split)
    request = BatchRequest(
        number=0, resolution=Resolution.square(side), first=0, size=len(index.clips)
    )
    (batch,) = load_batches(
        index,
        [request],
        cutting=Cutting(frames=frames, fps=float(frames), flip=False, train=split == "train"),
        seed=0,
        workers=0,
    )
    return batch.video, batch.captions


def vocabulary(captions: list[str]) -> list[str]:
    """Return the words of at least ten captions."""
    counts = Counter(word for text in captions for word in set(re.findall(r"\w+", text)))
    return sorted(word for word, n in counts.items() if n >= 10 and word not in ("the", "a"))


def named(captions: list[str], words: list[str]) -> torch.Tensor:
    """Return which captions have which words, `b w`."""
    found = [set(re.findall(r"\w+", text)) for text in captions]
    return torch.tensor([[word in each for word in words] for each in found]).float()


def optimise(
    net: ProxyNet,
    tell: nn.Linear,
    train: dict[tuple[int, int], tuple[Clips, Clips]],
    words: list[str],
    steps: int,
) -> None:
    """Train to name a clip's words, and how much it was spoiled in each way."""
    parameters = [*net.parameters(), *tell.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for step, (video, texts) in enumerate(batches(train, steps)):
        video, spoiled = spoil(video)
        said = tell(net(video))
        of_words = F.binary_cross_entropy_with_logits(
            said[:, : len(words)], named(texts, words), reduction="none"
        )
        # A still or shuffled clip has lost its motion, and a mixed one shows two things.
        legible = (spoiled[:, 2:5] == 0).all(dim=1, keepdim=True)
        loss = 5 * (of_words * legible).mean() + F.mse_loss(said[:, len(words) :], spoiled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)


def batches(
    train: dict[tuple[int, int], tuple[Clips, Clips]], steps: int
) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield batches of digits and footage, one size after the other, in random order."""
    for step in range(steps):
        video, texts = [], []
        # The small sizes are the cheap ones, and what small models make.
        pairs = train[SHAPES[(0, 1, 0, 1, 2, 0, 1, 0, 1, 3)[step % 10]]]
        for (known, captions), n in zip(pairs, (DIGITS, FOOTAGE), strict=True):
            chosen = torch.randint(len(known), (n,)).tolist()
            video += [known[i] for i in chosen]
            texts += [captions[i] for i in chosen]
        order = torch.randperm(len(video)).tolist()
        yield torch.stack([video[i] for i in order]), [texts[i] for i in order]


def spoil(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spoil the first clips of a batch in each way; return also how much, `b way` from 0 to 1."""
    video, amount = video.clone(), torch.zeros(len(video), len(WAYS))
    for number, way in enumerate(WAYS):
        part = slice(number * SPOILED, (number + 1) * SPOILED)
        strength = torch.rand(()).item()
        video[part] = way(video[part], strength)
        amount[part, number] = 1.0 if way in (shuffled, still) else strength
    return video, amount


def noisy(video: torch.Tensor, strength: float) -> torch.Tensor:
    """Return clips with noise."""
    return (video + (0.05 + strength / 2) * torch.randn_like(video)).clamp(-1, 1)


def blurred(video: torch.Tensor, strength: float) -> torch.Tensor:
    """Return blurred clips."""
    kernel = torch.exp(-(torch.arange(-3, 4.0) ** 2) / 2 / (0.4 + 1.2 * strength) ** 2)
    kernel /= kernel.sum()
    frames = F.pad(rearrange(video, "b c t h w -> (b c t) 1 h w"), (3, 3, 3, 3), mode="replicate")
    frames = F.conv2d(F.conv2d(frames, kernel[None, None, :, None]), kernel[None, None, None, :])
    return frames.reshape(video.shape)


def shuffled(video: torch.Tensor, _: float) -> torch.Tensor:
    """Return clips with their frames in another order."""
    return video[:, :, torch.randperm(video.shape[2])]


def still(video: torch.Tensor, _: float) -> torch.Tensor:
    """Return clips of one frame."""
    return video[:, :, :1].expand_as(video)


def mixed(video: torch.Tensor, strength: float) -> torch.Tensor:
    """Return clips through which others can be seen."""
    return torch.lerp(video, video.roll(1, 0), strength / 2)


def warped(video: torch.Tensor, strength: float) -> torch.Tensor:
    """Return clips in which all is bent, alike in each frame."""
    b, _, t, h, w = video.shape
    bends = (0.05 + 0.2 * strength) * torch.randn(b, 2, 4, 4)
    offsets = rearrange(F.interpolate(bends, (h, w), mode="bicubic"), "b c h w -> b h w c")
    straight = F.affine_grid(torch.eye(2, 3).expand(b, 2, 3), [b, 1, h, w], align_corners=False)
    places = (straight + offsets).repeat_interleave(t, dim=0)
    frames = rearrange(video, "b c t h w -> (b t) c h w")
    bent = F.grid_sample(frames, places, padding_mode="border", align_corners=False)
    return rearrange(bent, "(b t) c h w -> b c t h w", t=t)


WAYS = (noisy, blurred, shuffled, still, mixed, warped)


@torch.no_grad()
def accuracy(net: ProxyNet, tell: nn.Linear, words: list[str]) -> float:
    """Return the fraction of the validation digits that are named right."""
    video, texts = clips("digits", 24, 8, "val")
    places = [words.index(str(digit)) for digit in range(10)]
    said = tell(net(video))[:, places].argmax(dim=1)
    return (said == named(texts, words)[:, places].argmax(dim=1)).double().mean().item()


@torch.no_grad()
def whiten(net: ProxyNet, videos: list[torch.Tensor]) -> None:
    """Change the last layer so that the features of clips are uncorrelated, with unit variance."""
    found = torch.cat([net(part) for video in videos for part in video.split(64)]).double()
    variances, axes = torch.linalg.eigh(torch.cov(found.T))
    matrix = (axes / variances.sqrt()).T
    weight, bias = net.head.weight.double(), net.head.bias.double()
    net.head.weight.copy_(matrix @ weight)
    net.head.bias.copy_(matrix @ (bias - found.mean(dim=0)))


if __name__ == "__main__":
    main()
