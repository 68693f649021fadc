"""The stage that samples videos from the members of the front, and adds real clips."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nasvid.architecture import Architecture
from nasvid.data.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.data.pools import pool
from nasvid.diffusion.sample import to_frames
from nasvid.distributed.sharing import divide
from nasvid.errors import Damaged
from nasvid.export.video import read_mp4, write_video
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_list, as_object, found_in
from nasvid.host.words import counted
from nasvid.run.held_out import video_sampler
from nasvid.run.members import members
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session
from nasvid.shapes import Resolution

SHOWN = 128
"""Smallest height and width of sample videos; smaller ones are enlarged, so that players work."""
Sampled = tuple[Architecture, Resolution]
"""Of what videos are sampled together: one of each prompt."""
HELD_OUT = 3
"""Number of held-out captions that are sampled if the recipe has no prompts."""


def samples(session: Session) -> None:
    """Sample each member's video of each prompt at each resolution, on all ranks.

    Real clips are written, too.

    Raises:
        Interrupted: by a signal; finished samples are kept.
        RankLost: another rank has ended.
    """
    prompts, folder = prompts_of(session), session.folder.samples
    archs = [member.arch for member in members(session.folder)] if prompts else []
    begun = session.ranks.rank0_does(lambda: _begin(session, prompts, archs), session.stop)
    missing = session.ranks.agree(begun or [])
    if missing:
        _make(session, prompts, missing)
    if prompts:
        number = len(archs) * len(session.components.shapes) * len(prompts)
        session.display.say(f"samples: {counted(number, 'video')} in {folder}")


def prompts_of(session: Session) -> tuple[str, ...]:
    """Return the captions to sample: the recipe's, or some of the held-out clips'."""
    given = session.recipe.front.prompts
    if given is not None:
        return given
    captions = list(dict.fromkeys(clip.caption for clip in session.index("val").clips))
    places = np.linspace(0, len(captions) - 1, min(HELD_OUT, len(captions)))
    return tuple(captions[round(place)] for place in places)


def _make(session: Session, prompts: Sequence[str], missing: Sequence[Sampled]) -> None:
    components, folder, ranks = session.components, session.folder, session.ranks
    sampler, total = video_sampler(components), len(missing) * len(prompts)
    weights = OwnWeights(session)
    with (
        folder.logged("samples") if ranks.is_rank0 else nullcontext(),
        session.display.track("samples", total, "videos") as tracker,
    ):

        def sample(each: Sampled) -> None:
            arch, resolution = each
            videos, model = [], weights.supernet(arch).subnet(arch)
            for batch in sampler.videos(model, prompts, components.shapes[resolution]):
                videos.append(to_frames(batch))
                tracker.advance(f"{arch.id} at {resolution.label}", len(batch))
            paths = _paths(folder.samples / arch.id, resolution, len(prompts))
            _write(torch.cat(videos), paths, session.recipe.data.fps)

        divide(ranks, missing, sample, session.stop)


def _begin(
    session: Session, prompts: Sequence[str], archs: Sequence[Architecture]
) -> list[Sampled]:
    """Remove what does not belong there, write the real clips, and return what is missing."""
    folder = session.folder.samples
    if not prompts:
        remove(folder)
        return []
    _remove_others(session, prompts, archs)
    _real_clips(session, prompts)
    return [
        (arch, resolution)
        for arch in archs
        for resolution in session.components.shapes
        if not all(
            _is_there(session, path, resolution)
            for path in _paths(folder / arch.id, resolution, len(prompts))
        )
    ]


def _remove_others(session: Session, prompts: Sequence[str], archs: Sequence[Architecture]) -> None:
    """Remove samples of other prompts, settings or subnets; `made_with.json` is written last."""
    front, folder = session.recipe.front, session.folder.samples
    made_with = folder / "made_with.json"
    now = {
        "prompts": list(prompts),
        "guidance_scale": front.guidance_scale,
        "sampling_steps": front.sampling_steps,
        "checkpoint": session.recipe.search.checkpoint,
        "recover": front.recover and front.recover.model_dump(mode="json"),
    }
    is_same = session.made_again(made_with, as_object) == now
    session.made_again(folder / "prompts.json", as_list)
    owners = {"real", *(arch.id for arch in archs)} if is_same else set()
    for path in found_in(folder, "*"):
        if path.suffix != ".json" and path.name not in owners:
            remove(path)
    write_json(folder / "prompts.json", prompts)
    write_json(made_with, now)


def write_sample(video: torch.Tensor, target: Path, fps: float) -> None:
    """Write one uint8 `t h w c` video in the format of its extension, enlarged if small."""
    height, width = video.shape[1:3]
    scale = -(-SHOWN // min(height, width))
    is_odd = scale % 2 and (height % 2 or width % 2)  # which H.264 does not take
    write_video(target, video.numpy(), fps, scale=scale + 1 if is_odd else scale)


def _real_clips(session: Session, prompts: Sequence[str]) -> None:
    """Write a held-out clip for each prompt, one with the same caption if there is any."""
    recipe, index = session.recipe, session.index("val")
    for resolution in recipe.resolutions:
        paths = _paths(session.folder.samples / "real", resolution, len(prompts))
        clips = [index.clips[number] for number in pool(index, resolution, recipe.data.frames)]
        for i, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
            if _is_there(session, path, resolution):
                continue
            other = clips[i % len(clips)]
            clip = next((clip for clip in clips if clip.caption == prompt), other)
            real = pixel_clips(recipe, replace(index, clips=(clip,)), "val")
            request = BatchRequest(number=0, resolution=resolution, first=0, size=1)
            (batch,) = real.load([request])
            _write(to_frames(batch.video), [path], recipe.data.fps)


def _is_there(session: Session, path: Path, resolution: Resolution) -> bool:
    """Return whether a sample is there, whole; a line says so if it is damaged."""
    if not path.exists():
        return False
    try:
        if len(read_mp4(path)) == resolution.frames_or(session.recipe.data.frames):
            return True
        reason = "it has another number of frames"
    except Damaged as damaged:
        reason = damaged.reason
    session.display.say(f"{path} is damaged ({reason}) and made again")
    return False


def _paths(folder: Path, resolution: Resolution, prompts: int) -> list[Path]:
    return [folder / f"{resolution}-{i}.mp4" for i in range(prompts)]


def _write(videos: torch.Tensor, paths: Sequence[Path], fps: float) -> None:
    for video, path in zip(videos, paths, strict=True):
        write_sample(video, path, fps)
