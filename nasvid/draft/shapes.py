"""The shapes of clips that a drafted recipe trains at: the pipeline's own, and small ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from nasvid.draft.parts import Parts
from nasvid.draft.pipeline import Original
from nasvid.errors import UserError
from nasvid.shapes import Resolution, VideoShape

SMALL = (48, 64)
"""Pixels of the shorter side of clips that a processor trains on; those that ship have 64."""
SHORT = 9
"""Frames of such clips; those that ship have 16."""
LONGER = 2
"""How many times longer than wanted a clip may be, where only some numbers of frames can be had."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Resolutions, the lowest first, all of as many frames."""

    frames: int
    resolutions: tuple[Resolution, ...]


def own_shapes(pipeline: Original, parts: Parts) -> Shapes:
    """Return the shape of the videos that a pipeline makes by default, and half of its size."""
    own = _own(pipeline, parts)
    half = Resolution(own.height // 2, own.width // 2, own.frames)
    return _fitted((half, own), parts)


def small_shapes(pipeline: Original, parts: Parts) -> Shapes:
    """Return small shapes, of the aspect ratio of the pipeline's videos."""
    own = _own(pipeline, parts)
    shorter = min(own.height, own.width)
    wanted = []
    for side in SMALL:
        share = min(1.0, side / shorter)
        frames = min(SHORT, own.frames_or(SHORT))
        wanted.append(Resolution(round(share * own.height), round(share * own.width), frames))
    return _fitted(tuple(wanted), parts)


def shape_of(shapes: Shapes, parts: Parts) -> VideoShape:
    """Return the highest of some resolutions, as the denoiser sees it."""
    highest = shapes.resolutions[-1]
    return _shape(Resolution(highest.height, highest.width, shapes.frames), parts)


def _own(pipeline: Original, parts: Parts) -> Resolution:
    """Return the shape that a call of the pipeline makes, or that its denoiser was made for."""
    model = pipeline.config(pipeline.denoiser)
    factor = parts.latents.factor
    sides = [pipeline.default("height"), pipeline.default("width")]
    for i, name in enumerate(("sample_height", "sample_width")):
        latent = model.get(name, model.get("sample_size"))
        sides[i] = sides[i] or (latent or 0) * factor or SMALL[-1]
    frames = pipeline.default("num_frames", "video_length") or model.get("sample_frames") or SHORT
    return Resolution(int(sides[0]), int(sides[1]), int(frames))


def _fitted(wanted: tuple[Resolution, ...], parts: Parts) -> Shapes:
    """Return the nearest shapes that the VAE and the denoiser take.

    Raises:
        UserError: there are none.
    """
    found = sorted({_nearest(each, parts) for each in wanted})
    frames = {each.frames for each in found}
    assert len(frames) == 1
    return Shapes(frames.pop() or 1, tuple(Resolution(each.height, each.width) for each in found))


def _nearest(wanted: Resolution, parts: Parts) -> Resolution:
    factor = parts.latents.factor
    for multiple in (factor, 2 * factor, 4 * factor):
        height, width = (
            max(1, round(side / multiple)) * multiple for side in (wanted.height, wanted.width)
        )
        for frames in _around(wanted.frames or 1):
            found = Resolution(height, width, frames)
            if _takes(found, parts):
                return found
    raise UserError(
        f"Found no shape near {wanted} that the VAE and the denoiser both take; write the recipe's "
        "resolutions yourself"
    )


def _around(frames: int) -> Iterator[int]:
    """Yield numbers of frames, the nearest first."""
    yield frames
    for away in range(1, ceil(LONGER * frames)):
        if frames > away:
            yield frames - away
        yield frames + away


def _takes(resolution: Resolution, parts: Parts) -> bool:
    try:
        parts.latents.check_frames(resolution.frames or 1)
        parts.space.check_shape(_shape(resolution, parts))
    except ValueError:
        return False
    return True


def _shape(resolution: Resolution, parts: Parts) -> VideoShape:
    to = parts.latents
    return VideoShape(
        frames=to.latent_frames(resolution.frames or 1),
        height=resolution.height // to.factor,
        width=resolution.width // to.factor,
        context_len=parts.context_len,
    )
