"""What becomes of subnets: exported as folders, and made to show what they can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.data.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.data.shards import ShardIndex
from nasvid.diffusion.sample import Guidance, sample_video, to_frames
from nasvid.distributed.ranks import Stop
from nasvid.errors import Interrupted, UserError
from nasvid.evaluator import Metrics
from nasvid.export.subnet import INFO, SubnetInfo, export_subnet, read_info
from nasvid.export.video import write_mp4
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.run.folder import Run
from nasvid.run.held_out import trained_supernet
from nasvid.run.parts import Parts
from nasvid.search.record import read_record
from nasvid.supernet import Supernet

SHOWN = 128
"""Pixels of a side that sample videos are enlarged to at least, so that a player shows them."""


def trained(run: Run) -> tuple[Parts, Supernet]:
    """Return a run's parts and its trained supernet, in eval mode."""
    parts = Parts.of(run.recipe, run.folder)
    return parts, trained_supernet(run.recipe, parts, run.checkpoints)


def members(run: Run) -> dict[str, tuple[Architecture, Metrics]]:
    """Return the members of the front, ascending in cost, by id.

    Raises:
        UserError: the run has not been searched.
    """
    if not run.front.exists():
        raise UserError(f"{run.folder} has no front yet: nasvid search {run.folder}")
    front = json.loads(run.front.read_text())
    return {m["id"]: (Architecture(m["arch"]), m["metrics"]) for m in front["members"]}


def find(run: Run, id_: str) -> tuple[Architecture, Metrics]:
    """Return a subnet by its id, or the beginning of one: of the front, or any that was evaluated.

    `largest` is the whole supernet, and `smallest` what all subnets share; evaluated or not.

    Raises:
        UserError: there is none, or more than one; the message has the nearest.
    """
    known = {each.arch.id: (each.arch, each.metrics) for each in read_record(run.record)}
    known |= members(run) if run.front.exists() else {}
    if id_ in ("largest", "smallest"):
        end = getattr(run.recipe.make_space(), id_)
        return known.get(end.id, (end, {}))
    matches = [name for name in known if name.startswith(id_)] if id_ else []
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise UserError(f"subnet '{id_}' is ambiguous: {', '.join(sorted(matches)[:5])}")
    near = get_close_matches(id_, known, n=1, cutoff=0.3)
    hint = f"; nearest: '{near[0]}'" if near else ""
    raise UserError(f"{run.folder} has evaluated no subnet '{id_}'{hint}")


def extract(run: Run, display: Display) -> None:
    """Export each member of the front to `subnets/ID`, where it is not there as it is now."""
    chosen = members(run)
    missing = {
        id_: (arch, metrics)
        for id_, (arch, metrics) in chosen.items()
        if not (run.subnet(id_) / INFO).exists() or read_info(run.subnet(id_)).metrics != metrics
    }
    if missing:
        parts, supernet = trained(run)
        with run.stage("extract"):
            for arch, metrics in missing.values():
                export(run, parts, supernet.extract(arch), arch, metrics, run.subnet(arch.id))
    display.say(f"extract: {len(chosen)} subnets in {run.folder / 'subnets'}")


def export(
    run: Run, parts: Parts, model: nn.Module, arch: Architecture, metrics: Metrics, target: Path
) -> Path:
    """Write one subnet, `model`, to a folder in the layout of diffusers."""
    recipe = run.recipe
    info = SubnetInfo(
        arch=arch,
        space=json.loads(recipe.space.model_dump_json()),
        domain=parts.space.domain,
        text=json.loads(recipe.text.model_dump_json()),
        frames=recipe.data.frames,
        fps=recipe.data.fps,
        resolutions=tuple(parts.shapes),
        context_len=recipe.data.context_len,
        metrics=metrics,
    )
    return export_subnet(model, parts.objective.make_scheduler(), info, target)


def sample(
    run: Run,
    parts: Parts,
    supernet: Supernet,
    arch: Architecture,
    prompts: Sequence[str],
    side: int,
    seed: int,
) -> torch.Tensor:
    """Return one video per prompt, uint8 `b t h w c`, by the recipe's guidance."""
    front = run.recipe.front
    video = sample_video(
        parts.space,
        supernet.subnet(arch),
        parts.objective,
        parts.text,
        list(prompts),
        parts.shapes[side],
        fps=run.recipe.data.fps,
        guidance=Guidance(front.guidance_scale, front.sampling_steps),
        seed=seed,
    )
    return to_frames(video if parts.vae is None else parts.vae.decode(video))


def samples(run: Run, index: ShardIndex, display: Display, stop: Stop) -> None:
    """Make each member's video of each prompt at each resolution, and some real ones beside."""
    prompts, folder = run.recipe.front.prompts, run.folder / "samples"
    if not prompts:
        return
    _begin_samples(run, folder)
    parts, supernet = trained(run)
    work = [(arch, side) for arch, _ in members(run).values() for side in parts.shapes]
    missing = [
        (arch, side)
        for arch, side in work
        if not _paths(run, arch.id, side, len(prompts))[-1].exists()
    ]
    _real_clips(run, index)
    with run.stage("samples"), display.track("samples", len(missing), "sets") as tracker:
        for arch, side in missing:
            videos = sample(run, parts, supernet, arch, prompts, side, run.recipe.seed)
            _write(videos, _paths(run, arch.id, side, len(prompts)), run.recipe.data.fps)
            tracker.advance(f"{arch.id} at {side} px")
            if (signal := stop()) is not None:
                raise Interrupted(signal, "the samples made are kept")
    display.say(f"samples: {len(work) * len(prompts)} videos in {folder}")


def _begin_samples(run: Run, folder: Path) -> None:
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
    prompts = run.recipe.front.prompts
    for side in run.recipe.resolutions:
        paths = _paths(run, "real", side, len(prompts))
        for i, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
            if path.exists():
                continue
            other = index.clips[i % len(index.clips)]
            clip = next((clip for clip in index.clips if clip.caption == prompt), other)
            real = pixel_clips(run.recipe, replace(index, clips=(clip,)), "val")
            request = BatchRequest(number=0, height=side, width=side, first=0, size=1)
            (batch,) = real.load([request])
            _write(to_frames(batch.video), [path], run.recipe.data.fps)


def _paths(run: Run, id_: str, side: int, n: int) -> list[Path]:
    return [run.samples(id_) / f"{side}-{i}.mp4" for i in range(n)]


def _write(videos: torch.Tensor, paths: Sequence[Path], fps: float) -> None:
    for video, path in zip(videos, paths, strict=True):
        write_sample(video, path, fps)
