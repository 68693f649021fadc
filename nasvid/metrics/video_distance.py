"""Distances between sampled videos and held-out clips: FVD, KVD and their like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluator import Context, Evaluator, Metric, Metrics
from nasvid.feature_extractor import FeatureExtractor, FeatureSection
from nasvid.metrics.frechet import GROUPS, GroupedMoments, frechet_distance
from nasvid.metrics.jackknife import half_width
from nasvid.metrics.kernel import KernelSums
from nasvid.plugins.config import Config
from nasvid.shapes import Resolution

Distance = Literal["fvd", "kvd"]
BATCH = 16
"""Number of clips whose features are computed together."""
PER_FEATURE = 3
"""Clips that FVD needs for each number of a feature vector."""
AT_LEAST = 2 * GROUPS
"""Clips that any distance needs: two in each group of those its interval is made from."""


class VideoDistanceConfig(Config):
    """Options of video_distance."""

    extractor: FeatureSection = Field(default_factory=lambda: FeatureSection(name="proxy"))
    """What turns clips into features; `i3d` gives FVD and KVD proper."""
    videos: int = Field(default=64, ge=1, le=10**5)
    """Videos sampled of each architecture at each resolution, of the captions of held-out clips;
    at most `search.clips`."""
    distances: tuple[Distance, ...] = Field(default=("fvd", "kvd"), min_length=1, max_length=2)
    """`fvd` (Fréchet), `kvd` (kernel) or both; KVD does with fewer clips."""


class VideoDistance(Evaluator[VideoDistanceConfig]):
    """Distance of sampled videos from held-out clips: FVD and KVD, by a feature extractor.

    With `i3d` the metrics are `fvd` and `kvd`; with any other extractor they bear its name
    (`fvd_proxy`) and compare only with themselves. The captions sampled are those of the held-out
    clips; all of these that differ are the real set. Each distance has half its 95 % interval, of
    both sets together, as `fvd_proxy_ci95`; two architectures' videos start from the same noise, so
    their difference is less uncertain than each of them.

    No distance is given of too few clips. FVD is biased upwards: two sets of 320 real digits are
    0.4 apart by `proxy`, which has 16 features, sets of 48 are 2.9 apart, and sets of 16 are 8.7;
    digits that are slightly blurred (by 0.7 pixels) are at 22, 24 and 29. So FVD needs 3 clips,
    real and sampled, for each feature, where the bias is an eighth of what such a blur costs: 48
    for `proxy`, 1,200 for `i3d`. KVD has no bias and needs 40, from where on its interval held in
    at least 93 % of 40 trials.
    """

    makes_videos = True

    def __init__(self, config: VideoDistanceConfig, context: Context) -> None:
        super().__init__(config, context)
        self.extractor = config.extractor.make()
        self._real: dict[Resolution, Features] = {}

    @classmethod
    def declare(cls, config: VideoDistanceConfig) -> tuple[Metric, ...]:
        """Return each distance and half its interval."""
        section = config.extractor
        suffix = "" if section.cls.is_reference else "_" + re.sub(r"[^\w.]", "_", section.name)
        note = "" if section.cls.is_reference else "not comparable with published FVD and KVD"
        return tuple(
            metric
            for distance in config.distances
            for metric in (
                Metric(f"{distance}{suffix}", UNITS[distance], note=note, of_motion=True),
                Metric(
                    f"{distance}{suffix}_ci95",
                    UNITS[distance],
                    half_width_of=distance + suffix,
                    of_motion=True,
                ),
            )
        )

    @classmethod
    def depends_on(cls, config: VideoDistanceConfig) -> dict[str, str]:
        """Return the extractor's identity: the checksum of its weights."""
        return {"features": config.extractor.make().identity}

    @classmethod
    def check(cls, config: VideoDistanceConfig, *, frames: int, clips: int) -> None:
        """Check the extractor's files, the clips' frames and the number of clips."""
        extractor = config.extractor.make()
        extractor.check_ready()
        _check_frames(extractor, config.extractor.name, frames)
        _check_count(config, extractor, config.videos, "videos")
        if clips < config.videos:
            raise UserError(
                f"{config.videos} videos need as many held-out captions; set search.clips to "
                f"{config.videos} or more, which is {clips}, or sample fewer videos"
            )

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return the distances and their intervals at each resolution, and their means.

        Raises:
            UserError: there are too few clips, or they have too few frames.
        """
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        at = filter(self.metrics[0].is_at, self.context.shapes)
        found = {resolution: self._at(arch, resolution) for resolution in at}
        return {
            key: value
            for number, metric in enumerate(self.metrics)
            for key, value in metric.over({s: row[number] for s, row in found.items()}).items()
        }

    def _at(self, arch: Architecture, resolution: Resolution) -> list[float]:
        """Return the values of the metrics at a resolution."""
        if resolution not in self._real:
            self._real[resolution] = self._features(_distinct(self.context, resolution))
        real = self._real[resolution]
        _check_count(self.config, self.extractor, real.moments.count, "different held-out clips")
        videos = self.context.sample_batches(arch, resolution, n=self.config.videos)
        made = self._features(videos)
        _check_count(self.config, self.extractor, made.moments.count, "videos")
        of = {"fvd": _frechet, "kvd": _kernel}
        return [value for name in self.config.distances for value in of[name](real, made)]

    def _features(self, videos: Iterator[torch.Tensor]) -> Features:
        dim, name = self.extractor.dim, self.config.extractor.name
        moments, kept = GroupedMoments(dim), []
        for batch in videos:
            _check_frames(self.extractor, name, batch.shape[2])
            for part in batch.split(BATCH):
                features = _checked(self.extractor, name, part.to(self.context.device))
                moments.add(features)
                kept += [features] if "kvd" in self.config.distances else []
        return Features(moments, torch.cat(kept) if kept else torch.zeros(0, dim))


UNITS = {"fvd": "squared distance of features", "kvd": "squared discrepancy of features"}


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a set of clips: their moments, and for KVD all of them, `n d`."""

    moments: GroupedMoments
    every: torch.Tensor


def _frechet(real: Features, made: Features) -> tuple[float, float]:
    """Return the Fréchet distance and half its 95 % interval."""
    x, y = real.moments, made.moments
    whole = x.total(), y.total()
    left_out = (
        [frechet_distance(part, whole[1]) for part in x.left_out()],
        [frechet_distance(whole[0], part) for part in y.left_out()],
    )
    return frechet_distance(*whole), half_width(left_out)


def _kernel(real: Features, made: Features) -> tuple[float, float]:
    """Return the kernel distance and half its 95 % interval."""
    sums = KernelSums(real.every, made.every)
    left_out = (
        [sums.distance((group, None)) for group in range(GROUPS)],
        [sums.distance((None, group)) for group in range(GROUPS)],
    )
    return sums.distance(), half_width(left_out)


def _distinct(context: Context, resolution: Resolution) -> Iterator[torch.Tensor]:
    """Yield the held-out clips without those that come again because there are too few."""
    seen: set[bytes] = set()
    for batch in context.clips(resolution):
        digests = [hashlib.sha256(clip.numpy().tobytes()).digest() for clip in batch.video.cpu()]
        new = [i for i, digest in enumerate(digests) if digest not in seen | set(digests[:i])]
        seen |= set(digests)
        if new:
            yield batch.video[new]


def _checked(extractor: FeatureExtractor, name: str, video: torch.Tensor) -> torch.Tensor:
    """Return the features of clips, on the CPU.

    Raises:
        UserError: they are not what `FeatureExtractor.features` promises.
    """
    features = extractor.features(video)
    size = (len(video), extractor.dim)
    if not isinstance(features, torch.Tensor) or features.shape != size:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features)
        raise UserError(f"Feature extractor '{name}' must return features {size}, not {found}")
    if not features.isfinite().all():
        raise UserError(f"Feature extractor '{name}' returns features that are not finite")
    return features.cpu()


def _check_frames(extractor: FeatureExtractor, name: str, frames: int) -> None:
    if frames < extractor.min_frames:
        raise UserError(
            f"Feature extractor '{name}' needs clips of {extractor.min_frames} frames, and these "
            f"have {frames}; raise data.frames or those of the resolution, or use another extractor"
        )


def _check_count(
    config: VideoDistanceConfig, extractor: FeatureExtractor, count: int, what: str
) -> None:
    """Refuse a distance of too few clips."""
    name, dim = config.extractor.name, extractor.dim
    needed = max(AT_LEAST, PER_FEATURE * dim if "fvd" in config.distances else 0)
    if count >= needed:
        return
    why = (
        f"FVD of the {dim} features of '{name}'" if needed > AT_LEAST else f"A distance by '{name}'"
    )
    ways = f"sample {needed} videos (videos, search.clips) with as many different held-out clips"
    kernel = needed > AT_LEAST and "kvd" in config.distances
    less = f", or take KVD alone, which needs {AT_LEAST} (distances: [kvd])" if kernel else ""
    raise UserError(
        f"{why} needs at least {needed} clips, and there are {count} {what}; {ways}{less}"
    )
