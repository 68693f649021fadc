"""An evaluator in one file: how steady the videos are that an architecture makes."""

from collections.abc import Sequence

from einops import rearrange
from pydantic import PositiveInt
from torch.nn import functional as F

from nasvid import Architecture, Config, Evaluator, Metric, Metrics, Resolution, register


class TemporalConsistencyConfig(Config):
    """Options of temporal_consistency."""

    videos: PositiveInt = 8
    """Videos sampled of each architecture at each resolution, of held-out captions."""


@register("evaluators", "temporal_consistency")
class TemporalConsistency(Evaluator[TemporalConsistencyConfig]):
    """Correlation of neighbouring frames of sampled videos: 0 for noise, 1 for a still picture."""

    metrics = (Metric("consistency", "correlation", goal="maximise", reference=0.0, ideal=1.0),)
    makes_videos = True

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        (consistency,) = self.metrics
        resolutions = self.context.shapes
        return [
            consistency.over({each: self._at(a, each) for each in resolutions})
            for a in architectures
        ]

    def _at(self, arch: Architecture, resolution: Resolution) -> float:
        videos = self.context.sample(arch, resolution, n=self.config.videos)
        frames = rearrange(videos, "b c t h w -> b t (c h w)").double()
        frames = frames - frames.mean(dim=-1, keepdim=True)
        return F.cosine_similarity(frames[:, 1:], frames[:, :-1], dim=-1).mean().item()
