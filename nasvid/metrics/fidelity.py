"""Caption fidelity: whether videos show the digit that their caption names, moving as it says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice, product

from pydantic import Field

from nasvid.architecture import Architecture
from nasvid.data.digits import DIRECTIONS, SPEEDS, Motion, caption_of, motion_of
from nasvid.errors import UserError
from nasvid.evaluator import Evaluator, Metric, Metrics
from nasvid.metrics.motion import directions
from nasvid.metrics.reading import embedded_reader
from nasvid.plugins.config import Config
from nasvid.shapes import Resolution

MOTIONS = tuple(Motion(digit, direction) for digit, direction in product(range(10), DIRECTIONS))
"""Each digit in each direction."""
CAPTIONS = tuple(caption_of(motion, speed) for speed, motion in product(SPEEDS, MOTIONS))
"""Captions of each motion, at each speed; any 40 in a row have each motion once."""


class CaptionFidelityConfig(Config):
    """Options of caption_fidelity."""

    videos: int = Field(default=120, ge=1, le=10**5)
    """Number of videos sampled of each architecture at each resolution."""


class CaptionFidelity(Evaluator[CaptionFidelityConfig]):
    """Whether samples show the digit that their caption names, and move as it says.

    For models of the digits that ship with nasvid. `digit` is the share of videos that a small
    classifier of those digits reads as the named one, and `direction` the share whose brightest
    part moves in the named direction. A video without a legible digit, or that hardly moves, counts
    as wrong. Real held-out clips have at least 0.97 and 1.0, at 16 to 64 pixels.
    """

    metrics = (
        Metric("digit", "share of videos", goal="maximise", reference=0.1, ideal=1.0),
        Metric(
            "direction",
            "share of videos",
            goal="maximise",
            of_motion=True,
            reference=0.25,
            ideal=1.0,
        ),
    )
    makes_videos = True

    @classmethod
    def check(cls, config: CaptionFidelityConfig, *, frames: int, clips: int) -> None:
        """Refuse clips that cannot move."""
        del config, clips
        if frames == 1:
            raise UserError("'caption_fidelity' is for digits that move; raise data.frames")

    @classmethod
    def check_captions(cls, config: CaptionFidelityConfig, captions: Sequence[str]) -> None:
        """Refuse captions of which none names a digit and a direction."""
        if not any(map(motion_of, captions)):
            raise UserError(
                "'caption_fidelity' is for digits that move, and no caption of data.val is like "
                f"'{CAPTIONS[0]}' (the first is '{captions[0]:.60}'); remove it, or set data.val "
                "to embedded:digits"
            )

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `digit`, `direction`, and both at every resolution."""
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        shares = {resolution: self._at(arch, resolution) for resolution in self.context.shapes}
        digit, direction = self.metrics
        moving = {at: right for at, (_, right) in shares.items() if direction.is_at(at)}
        return {
            **digit.over({resolution: right for resolution, (right, _) in shares.items()}),
            **direction.over(moving),
        }

    def _at(self, arch: Architecture, resolution: Resolution) -> tuple[float, float]:
        """Return the shares of videos with the named digit, and in the named direction."""
        captions = prompts(self.context.captions, self.config.videos)
        digits: list[int] = []
        ways: list[str | None] = []
        for video in self.context.sample_batches(arch, resolution, captions):
            digits += embedded_reader().read(video).tolist()
            ways += directions(video) if video.shape[2] > 1 else [None] * len(video)
        named = [motion for motion in map(motion_of, captions) if motion]
        shown = list(zip(named, digits, ways, strict=True))
        return (
            sum(motion.digit == digit for motion, digit, _ in shown) / len(shown),
            sum(motion.direction == way for motion, _, way in shown) / len(shown),
        )


def prompts(captions: Sequence[str], n: int) -> list[str]:
    """Return n captions that span the digits and directions; they repeat if n is large.

    captions: of the held-out clips: those, if they have each motion and nothing else, so that other
    evaluators share the videos.
    """
    has_each_motion = {motion_of(caption) for caption in captions} == set(MOTIONS)
    return list(islice(cycle(captions if has_each_motion else CAPTIONS), n))
