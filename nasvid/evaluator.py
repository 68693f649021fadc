"""Evaluator: measures architectures, with what its context provides."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import Resolution, VideoShape

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from nasvid.host.display import Tracker
    from nasvid.objective import NoisyBatch, Objective
    from nasvid.space import SearchSpace
    from nasvid.supernet import Supernet

Metrics = dict[str, float]
"""Flat: name -> value; a metric at one resolution is `name@resolution` (`loss@64`)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric's values mean.

    per_resolution: whether it is reported at every resolution in addition to its mean over them.
    of_motion: whether it says something of several frames alone: it is not reported at resolutions
        of one frame, which its mean leaves out.
    measured: whether two measurements of one architecture may differ.
    known: whether it is known before an evaluation: `Evaluator.known` computes it.
    reference: the value of a useless model, if it is known: hypervolumes are measured from there
        to the `ideal`, which defaults to 0 for a metric to minimise.
    half_width_of: the metric that this is half the 95 % interval of; reports show it beside that.
    note: what a reader must know of the values, which reports show.

    Raises:
        ValueError: a metric to maximise has a reference but no ideal, or the ideal is no better
            than the reference.
    """

    name: str
    unit: str
    goal: Literal["minimise", "maximise"] = "minimise"
    per_resolution: bool = True
    of_motion: bool = False
    measured: bool = False
    known: bool = False
    reference: float | None = None
    ideal: float | None = None
    half_width_of: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.reference is None:
            return
        if self.ideal is None and self.goal == "maximise":
            raise ValueError(
                f"Metric '{self.name}' to maximise has a reference but no ideal; give both"
            )
        ideal = self.ideal or 0.0
        if not (ideal < self.reference if self.goal == "minimise" else ideal > self.reference):
            raise ValueError(
                f"Metric '{self.name}' to {self.goal} has the ideal {ideal:g}, which is no better "
                f"than its reference {self.reference:g}"
            )

    def is_at(self, resolution: Resolution) -> bool:
        """Return whether it is reported at a resolution."""
        return self.per_resolution and not (self.of_motion and resolution.frames == 1)

    def keys(self, resolutions: Iterable[Resolution]) -> list[str]:
        """Return the names under which an evaluator reports this metric."""
        resolutions = sorted(filter(self.is_at, resolutions))
        return [self.name, *(f"{self.name}@{resolution}" for resolution in resolutions)]

    def over(self, values: Mapping[Resolution, float]) -> Metrics:
        """Return the metrics for values by resolution: their mean, and each value."""
        each = {f"{self.name}@{resolution}": value for resolution, value in values.items()}
        return {self.name: statistics.fmean(values.values()), **each}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the name, as plain values."""
        return {
            "unit": self.unit,
            "goal": self.goal,
            "per_resolution": self.per_resolution,
            "of_motion": self.of_motion,
            "measured": self.measured,
            "known": self.known,
            "reference": self.reference,
            "ideal": self.ideal,
            "half_width_of": self.half_width_of,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class KnownCost:
    """A metric that is known before an evaluation.

    of: genomes `(n, choices)` -> its value for each: float64 `(n,)`; fast, because strategies check
    each proposal. bounds: returns the least and the most that any architecture can have.
    """

    of: Callable[[np.ndarray], np.ndarray]
    bounds: Callable[[], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Guidance:
    """How videos are sampled.

    scale: strength of classifier-free guidance (Ho and Salimans, arXiv 2207.12598); 1 disables it.
    steps: denoising steps of a stock pipeline's scheduler, or else deterministic ones: DDIM (Song
        et al., arXiv 2010.02502), or Euler for flow.
    """

    scale: float = 3.0
    steps: int = 30


@dataclass(frozen=True, slots=True)
class CaptionedClips:
    """Real clips: `video` is `b 3 t h w`, float32 in [-1, 1], with one caption each."""

    video: torch.Tensor
    captions: list[str]


class Text(Protocol):
    """Encodes captions, each only once."""

    def __call__(
        self, captions: Sequence[str], device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token embeddings `b l d`, float32, and their mask `b l`, bool."""
        ...


class Autoencoder(Protocol):
    """Maps pixels `b 3 t h w` in [-1, 1] to latents `b c t' h' w'`, float32, and back."""

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return the latents of videos."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the videos of latents."""
        ...


MakeVideos = Callable[["nn.Module", Sequence[str], VideoShape], "Iterator[torch.Tensor]"]
"""(model, prompts, shape) -> batches of videos `b 3 t h w`, float32 in [-1, 1], in order."""
Videos = tuple[Architecture, Resolution, tuple[str, ...], MakeVideos]
"""What videos are of and from: architecture, resolution, prompts, and how they are made."""
SHARED = 1 << 31
"""Most bytes of videos that are kept for other evaluators; more are sampled again by each."""
Track = Callable[[str, int, str], "AbstractContextManager[Tracker]"]
"""(title, total, unit) -> a progress bar."""


class SharedVideos:
    """The videos last sampled of one architecture, so that all its evaluators see the same ones."""

    def __init__(self) -> None:
        self._kept: dict[Videos, list[torch.Tensor]] = {}

    def of(
        self, videos: Videos, sample: Callable[[], Iterator[torch.Tensor]], device: torch.device
    ) -> Iterator[torch.Tensor]:
        """Yield the batches of `sample`, which is called only if they are not kept."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] == videos[0]}
        if videos in self._kept:
            yield from (batch.to(device, copy=True) for batch in self._kept[videos])
            return
        new: list[torch.Tensor] = []
        left = SHARED - sum(batch.nbytes for kept in self._kept.values() for batch in kept)
        for batch in sample():
            left -= batch.nbytes
            if left >= 0:
                new.append(batch.to("cpu", copy=True))
            else:
                new.clear()
            yield batch
        if left >= 0:
            self._kept[videos] = new


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything an evaluator may use; the same for every architecture.

    supernet: in eval mode, with the weights to be evaluated, on `device`.
    shapes: resolution -> shape of a model's input: of the latents if there is a `vae`.
    batches: resolution -> held-out clips with their timesteps and noise: common random numbers, so
        that differences come from the architectures.
    autocast: dtype of mixed precision, or None.
    text, vae, guidance, fps: what videos are sampled with; `vae` is None if models denoise pixels.
    captions: of the held-out clips of the highest resolution, in their order.
    clips: reads the held-out clips of a resolution as pixels, some at a time.
    make_videos, track, shared: used by `sample`.
    """

    supernet: Supernet
    shapes: Mapping[Resolution, VideoShape]
    batches: Mapping[Resolution, Sequence[NoisyBatch]]
    objective: Objective
    device: torch.device
    autocast: torch.dtype | None = None
    text: Text
    vae: Autoencoder | None = None
    guidance: Guidance
    fps: float
    captions: Sequence[str]
    clips: Callable[[Resolution], Iterator[CaptionedClips]]
    make_videos: MakeVideos
    track: Track
    shared: SharedVideos = field(default_factory=SharedVideos)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Disable gradients and use the run's precision inside the context."""
        import torch

        mixed = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), mixed:
            yield

    def sample(
        self,
        model: nn.Module | Architecture,
        resolution: Resolution,
        prompts: Sequence[str] | None = None,
        n: int | None = None,
    ) -> torch.Tensor:
        """Return one video per prompt, `b 3 t h w`, float32 in [-1, 1], on the device.

        model: an architecture stands for its subnet of the supernet.
        prompts: the captions of the held-out clips by default.
        n: use the first n prompts; all by default.

        A video's noise depends on the run's seed, the prompt's index and the shape, but not on the
        model, so two architectures' videos differ only because the architectures do. Evaluators
        that ask for the same videos of an architecture share them: they are sampled once.

        Raises:
            UserError: there are fewer prompts than n.
        """
        import torch

        return torch.cat(list(self.sample_batches(model, resolution, prompts, n)))

    def sample_batches(
        self,
        model: nn.Module | Architecture,
        resolution: Resolution,
        prompts: Sequence[str] | None = None,
        n: int | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the videos of `sample` in batches."""
        known = self.captions if prompts is None else prompts
        n = len(known) if n is None else n
        if not 0 < n <= len(known):
            raise UserError(
                f"{n} videos cannot be sampled from {len(known)} prompts; raise search.clips for "
                "more held-out captions, or sample fewer videos"
            )
        if not isinstance(model, Architecture):
            yield from self._sampled(model, resolution, known[:n])
            return
        videos = (model, resolution, tuple(known[:n]), self.make_videos)
        subnet = self.supernet.subnet(model)
        sample = partial(self._sampled, subnet, resolution, known[:n])
        yield from self.shared.of(videos, sample, self.device)

    def _sampled(
        self, model: nn.Module, resolution: Resolution, prompts: Sequence[str]
    ) -> Iterator[torch.Tensor]:
        with self.track(f"sample {resolution.label}", len(prompts), "videos") as tracker:
            for videos in self.make_videos(model, prompts, self.shapes[resolution]):
                tracker.advance(n=len(videos))
                yield videos


class Evaluator(Plugin[C], ABC):
    """Evaluates architectures of a trained supernet."""

    metrics: tuple[Metric, ...]
    """What `evaluate` returns: each metric at every resolution (`loss@64`) and, under the bare
    name, its mean over them; only the latter if the metric does not depend on resolution."""
    makes_videos: ClassVar[bool] = False
    """Whether it samples videos. Its metrics then also depend on the recipe's guidance and sampling
    steps, and are recomputed when those change."""

    def __init__(self, config: C, context: Context) -> None:
        super().__init__(config)
        self.context = context
        self.metrics = self.declare(config)

    @classmethod
    def declare(cls, config: C) -> tuple[Metric, ...]:  # pyright: ignore[reportGeneralTypeIssues]
        """Return the metrics for this config; by default those of the class.

        Called before a run begins, to check that objectives and constraints are measured.
        """
        del config
        return cls.metrics

    @classmethod
    def check(cls, config: C, *, frames: int, clips: int) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        """Check before a run begins that its files are there and the clips suffice.

        frames: of the shortest clips, images aside. clips: held-out ones at each resolution.

        Raises:
            UserError: it could not evaluate anything; the message says what to change.
        """
        del config, frames, clips

    @classmethod
    def depends_on(cls, config: C) -> dict[str, str]:  # pyright: ignore[reportGeneralTypeIssues]
        """Return what its metrics depend on besides its options, such as checksums of its files.

        It is recorded with them, and they are computed again when it has changed.
        """
        del config
        return {}

    @classmethod
    def check_captions(cls, config: C, captions: Sequence[str]) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        """Check that it can evaluate models of the held-out clips, from all of their captions.

        Called when a run begins, before anything is trained. By default any captions will do.

        Raises:
            UserError: it cannot.
        """
        del config, captions

    @classmethod
    def known(
        cls,
        config: C,  # pyright: ignore[reportGeneralTypeIssues]
        space: SearchSpace,
        shapes: Mapping[Resolution, VideoShape],
    ) -> Mapping[str, KnownCost]:
        """Return the metrics declared as `known`, by full name (`macs`, `macs@64`).

        A search never evaluates an architecture that violates a constraint on one of them.

        Raises:
            UserError: a file that the config names is missing or does not fit; the message says
                what to do.
        """
        del config, space, shapes
        return {}

    @abstractmethod
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return each architecture's metrics, in order.

        An architecture's metrics must not depend on which others are evaluated, or when.
        """


def evaluate_one(evaluator: Evaluator, arch: Architecture) -> Metrics:
    """Return an evaluator's metrics for one architecture.

    Raises:
        UserError: they differ from the metrics that the evaluator declares, or are no numbers.
    """
    name = type(evaluator).__name__
    results = evaluator.evaluate([arch])
    if not isinstance(results, Sequence) or len(results) != 1 or not isinstance(results[0], dict):
        raise UserError(
            f"Evaluator {name} must return one dictionary of metrics for each architecture, but "
            f"for one it returns {str(results)[:80]}"
        )
    found = results[0]
    resolutions = evaluator.context.shapes
    expected = {key for metric in evaluator.metrics for key in metric.keys(resolutions)}
    if set(found) != expected:
        raise UserError(
            f"Evaluator {name} declares the metrics {', '.join(sorted(expected))} but returns "
            f"{', '.join(sorted(map(str, found)))}"
        )
    return {key: _number(name, key, value) for key, value in found.items()}


def _number(evaluator: str, metric: str, value: object) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)  # pyright: ignore[reportArgumentType] (a scalar of any library)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UserError(
            f"Evaluator {evaluator} must return a number for {metric}, not {value!r:.60}"
        ) from None


class EvaluatorSection(PluginSection):
    """An evaluator and its config."""

    kind = "evaluators"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that it reports, known before it is created."""
        return self.cls.declare(self.config)

    def check_captions(self, captions: Sequence[str]) -> None:
        """Raise a UserError if it does not take these captions of held-out clips."""
        self.cls.check_captions(self.config, captions)

    def known(
        self, space: SearchSpace, shapes: Mapping[Resolution, VideoShape]
    ) -> Mapping[str, KnownCost]:
        """Return the metrics that are known before an evaluation.

        Raises:
            UserError: a file that the config names is missing or does not fit.
        """
        return self.cls.known(self.config, space, shapes)

    def make(self, context: Context) -> Evaluator:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the evaluator; it can sample videos only if it declares `makes_videos`."""
        if not self.cls.makes_videos:
            context = replace(context, make_videos=partial(_undeclared, self.name))
        return super().make(context)


def _undeclared(name: str, *_: object) -> Iterator[torch.Tensor]:
    raise UserError(
        f"Evaluator '{name}' samples videos without declaring it; set `makes_videos = True` in "
        "its class, so that its results are tied to the sampling settings"
    )
