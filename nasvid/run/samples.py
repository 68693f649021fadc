"""The sample videos of a run: each member's of each prompt, and real clips beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nasvid.architecture import Architecture
from nasvid.data.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.data.shards import ShardIndex
from nasvid.diffusion.sample import to_frames
from nasvid.distributed.ranks import Stop
from nasvid.errors import Interrupted
from nasvid.export.video import write_mp4
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.run.folder import Run
from nasvid.run.held_out import video_sampler
from nasvid.run.subnets import members, trained

SHOWN = 128
"""Pixels of a side that sample videos are enlarged to at least, so that a player shows them."""


def samples(run: Run, index: ShardIndex, display: Display, stop: Stop) -> None:
    """Make each member's video of each prompt at each resolution, and some real ones beside."""
    prompts, folder = run.recipe.front.prompts, run.folder / "samples"
    if not prompts:
        return
    _begin(run, folder)
    work = [(arch, side) for arch, _ in members(run).values() for side in run.recipe.shapes()]
    missing = [pair for pair in work if not _paths(run, pair[0].id, pair[1])[-1].exists()]
    _real_clips(run, index)
    if missing:
        _make(run, missing, display, stop)
    display.say(f"samples: {len(work) * len(prompts)} videos in {folder}")


def _make(
    run: Run, missing: Sequence[tuple[Architecture, int]], display: Display, stop: Stop
) -> None:
    parts, supernet = trained(run)
    sampler, prompts = video_sampler(run.recipe, parts), run.recipe.front.prompts
    total = len(missing) * len(prompts)
    with run.stage("samples"), display.track("samples", total, "videos") as tracker:
        for arch, side in missing:
            videos = []
            for batch in sampler.videos(supernet.subnet(arch), prompts, parts.shapes[side]):
                videos.append(to_frames(batch))
                tracker.advance(f"{arch.id} at {side} px", len(batch))
            _write(torch.cat(videos), _paths(run, arch.id, side), run.recipe.data.fps)
            if (signal := stop()) is not None:
                raise Interrupted(signal, "the samples made are kept")


def _begin(run: Run, folder: Path) -> None:
    """Remove samples of other prompts or settings; what says so goes last, should it be killed."""
    front, made_with = run.recipe.front, folder / "made_with.json"
    now = {
        "prompts": list(front.prompts),
        "guidance_scale": front.guidance_scale,
        "sampling_steps": front.sampling_steps,
    }
    if not made_with.exists() or json.loads(made_with.read_text()) != now:
        for owner in folder.glob("*/"):
            shutil.rmtree(owner)
    write_json(folder / "prompts.json", front.prompts)
    write_json(made_with, now)


def write_sample(video: torch.Tensor, target: Path, fps: float) -> None:
    """Write one uint8 `t h w c` video as mp4, small ones enlarged."""
    side = video.shape[1]
    scale = -(-SHOWN // side)
    write_mp4(target, video.numpy(), fps, scale=scale + scale * side % 2)


def _real_clips(run: Run, index: ShardIndex) -> None:
    """Write a held-out clip beside each prompt: of that very caption where there is one."""
    for side in run.recipe.resolutions:
        paths = _paths(run, "real", side)
        for i, (prompt, path) in enumerate(zip(run.recipe.front.prompts, paths, strict=True)):
            if path.exists():
                continue
            other = index.clips[i % len(index.clips)]
            clip = next((clip for clip in index.clips if clip.caption == prompt), other)
            real = pixel_clips(run.recipe, replace(index, clips=(clip,)), "val")
            request = BatchRequest(number=0, height=side, width=side, first=0, size=1)
            (batch,) = real.load([request])
            _write(to_frames(batch.video), [path], run.recipe.data.fps)


def _paths(run: Run, id_: str, side: int) -> list[Path]:
    return [run.samples(id_) / f"{side}-{i}.mp4" for i in range(len(run.recipe.front.prompts))]


def _write(videos: torch.Tensor, paths: Sequence[Path], fps: float) -> None:
    for video, path in zip(videos, paths, strict=True):
        write_sample(video, path, fps)
