"""Training a supernet: one step, and the loop around it; the same on one process and on many."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.data.clips import Clips
from nasvid.data.loader import Batch
from nasvid.distributed.ranks import ALONE, Ranks, Stop
from nasvid.distributed.signals import waiting
from nasvid.errors import Interrupted, UserError
from nasvid.host.device import autocast_dtype
from nasvid.host.files import NotWritten
from nasvid.host.streams import torch_seed, torch_stream
from nasvid.host.words import counted
from nasvid.objective import NoisyBatch
from nasvid.recipe.sections import Recipe, TrainingSection
from nasvid.sampler import Role, StepPlan
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.checkpoint import Trained
from nasvid.training.events import Event, GroupLosses, Speed, StepEvent, ValidationEvent
from nasvid.training.noise import Noiser
from nasvid.training.planner import Planner
from nasvid.training.progress import Progress
from nasvid.training.saver import Saver, copies_any
from nasvid.training.saving import Place
from nasvid.training.speed import Meter
from nasvid.training.teacher import Computed, Teacher, Weights, blend, watched
from nasvid.training.unusable import Unusable


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Everything that a training step needs.

    trained: the net, its updater, the EMA weights. progress: of training; `step` changes both.
    autocast: dtype of mixed precision, or None. teacher: what all subnets learn from; without one,
    they learn from the largest subnet of their step, with weight `settings.distillation`. rest:
    whether a weight with a gradient of exactly zero stays inactive even if the step trains the
    largest subnet.
    """

    supernet: Supernet
    noiser: Noiser
    planner: Planner
    trained: Trained
    settings: TrainingSection
    autocast: torch.dtype | None = None
    teacher: Teacher | None = None
    ranks: Ranks = ALONE
    rest: bool = False
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        supernet: Supernet,
        noiser: Noiser,
        ranks: Ranks = ALONE,
        teacher: Teacher | None = None,
        planner: Planner | None = None,
    ) -> Trainer:
        """Make the trainer of a recipe for a supernet on the noiser's device.

        planner: of its steps; None for the recipe's own.

        Raises:
            UserError: a step has fewer clips than there are ranks, or the engine's own
                configuration contradicts the recipe.
        """
        planner = planner or Planner.of(recipe, supernet.space)
        _check_shares(planner, ranks)
        return cls(
            supernet=supernet,
            noiser=replace(noiser, drop_captions=True),
            planner=planner,
            trained=Trained.of(supernet.net.train(), recipe.training, ranks),
            settings=recipe.training,
            autocast=autocast_dtype(recipe.training.precision, noiser.device),
            teacher=teacher,
            ranks=ranks,
        )

    def resumed(self, path: Path) -> Trainer:
        """Load a checkpoint into net, engine and EMA weights; return the resumed trainer."""
        return replace(self, progress=checkpoint.load(path, self.trained))

    def step(self, batches: Sequence[Batch], waited: float = 0.0) -> StepEvent:
        """Make the next step.

        batches: this rank's clips, one batch for each group of ranks that it belongs to. waited:
        seconds of waiting for them.

        The host waits for the device once, in the engine, to check that all numbers are finite.

        Raises:
            RankLost: another rank has ended.
        """
        started = time.perf_counter()
        plan, groups = self.planner.plan(self.progress.step), self.planner.groups
        losses = torch.zeros(groups, len(plan.roles), device=self.noiser.device)
        self.trained.engine.begin([self.supernet.used(planned.arch) for planned in plan.subnets])
        own = self.ranks.groups(groups)
        for left, (group, ranks), batch in zip(
            reversed(range(len(own))), own, batches, strict=True
        ):
            losses[group] = self._learn(plan, group, ranks, batch, ends=left == 0)
        on_host = losses.to("cpu", non_blocking=True)
        self._unscale()
        rate = learning_rate(self.settings, plan.step)
        whole = plan.trains_largest and not self.rest
        norm = self.trained.engine.update(rate=rate, whole=whole)
        sums = np.reshape(self.ranks.sum(on_host.flatten().tolist()), losses.shape)
        skipped = not math.isfinite(norm)
        if not skipped:
            self.trained.ema.update(self.progress.updates)
        self.progress.advance(plan.clips, skipped=skipped)
        speed = self._meter.speed(plan, waited, time.perf_counter() - started)
        return _event(plan, sums, rate, None if skipped else norm, speed)

    @property
    def _meter(self) -> Meter:
        return Meter(self.supernet.space, self.noiser.device, self.autocast, self.ranks.size)

    @property
    def _loss_scale(self) -> float:
        return self.progress.scale(self.autocast)

    def _unscale(self) -> None:
        """Divide the gradients by what the step's losses were multiplied by."""
        if self._loss_scale != 1:
            scaled = [p.grad for p in self.trained.net.parameters() if p.grad is not None]
            torch._foreach_div_(scaled, self._loss_scale)  # pyright: ignore[reportPrivateImportUsage]

    def _learn(
        self, plan: StepPlan, group: int, ranks: Ranks, batch: Batch, ends: bool
    ) -> torch.Tensor:
        """Run the step's subnets on this rank's clips of a group.

        ranks: the group's ranks. ends: whether it is this rank's last group. Returns this rank's
        part of each role's mean loss.
        """
        planned, seed = plan.batches[group], self.planner.seed
        first = ranks.share(planned.clips).start
        generator = torch_stream(seed, "noise", plan.step, group)
        noisy = self.noiser(batch, generator, first=first, total=planned.clips)
        device = self.noiser.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(torch_seed(seed, "model", plan.step, group, first))
            losses = self.backward(
                plan,
                noisy,
                total=planned.clips * self.planner.groups,
                micro_batch=self.planner.resolutions[planned.resolution].micro_batch,
                loss_scale=self._loss_scale,
                ends=ends and self._loss_scale == 1,  # otherwise they are not final before _unscale
            )
        return torch.stack([losses[role] for role in plan.roles])

    def backward(
        self,
        plan: StepPlan,
        noisy: NoisyBatch,
        *,
        total: int | None = None,
        micro_batch: int | None = None,
        loss_scale: float = 1.0,
        ends: bool = False,
    ) -> dict[Role, torch.Tensor]:
        """Add the mean of the planned subnets' gradients to the shared weights.

        The clips may be a share of `total`; losses and gradients are then this share's part of the
        mean over all. The subnets process `micro_batch` clips at a time. They also learn from the
        teacher or, without one, with distillation, from the prediction of the largest subnet, which
        comes first (Yu and Huang, arXiv 1903.05134, section 3.3).

        A loss that is not finite makes its gradients so, too: their norm alone, which the engine
        checks before any update, then shows whether the step is finite on all ranks.

        loss_scale: losses are multiplied by it before the backward pass, so that fp16 can represent
        the gradients. ends: whether the last of these backward passes is the step's last.

        Returns the mean loss of the subnets of each role.
        """
        losses = {role: torch.zeros((), device=noisy.target.device) for role in plan.roles}
        of_role = Counter(planned.role for planned in plan.subnets)
        total = len(noisy) if total is None else total
        points = {planned.arch: self._points(planned.arch) for planned in plan.subnets}
        parts = list(noisy.split(micro_batch))
        left = len(parts) * len(plan.subnets)
        for part in parts:
            share = len(part) / total
            taught = self._taught(part, points.values())
            for planned in plan.subnets:
                computed = self._computed(self._subnet(planned.arch), part, points[planned.arch])
                loss = self.noiser.objective.loss(computed.prediction, part)
                losses[planned.role] += loss.detach() * share / of_role[planned.role]
                if taught is not None:
                    loss = blend(self.weights, loss, computed, taught)
                elif planned.arch == plan.largest and self.settings.distillation:
                    taught = Computed(computed.prediction.detach())
                left -= 1
                if ends and left == 0:
                    self.trained.engine.begin_last_pass()
                one_or_nan = 1 + 0 * loss.detach()  # a loss may overflow while its gradients do not
                (loss * (share * loss_scale) / len(plan.subnets)).backward(one_or_nan)
        return losses

    @property
    def weights(self) -> Weights:
        """How much subnets learn from the clips, and how much from what teaches them."""
        if self.teacher is not None:
            return self.teacher.weights
        distillation = self.settings.distillation
        return Weights(1 - distillation, distillation)

    def _points(self, arch: Architecture) -> Mapping[str, str]:
        """Return a subnet's feature points, if its hidden states are compared with a teacher's."""
        return self.supernet.space.feature_points(arch) if self.weights.features else {}

    def _subnet(self, arch: Architecture) -> nn.Module:
        subnet = self.supernet.subnet(arch)
        if self.settings.gradient_checkpointing:
            subnet.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        return subnet

    @torch.no_grad()
    def _taught(self, noisy: NoisyBatch, points: Iterable[Mapping[str, str]]) -> Computed | None:
        """Return what the teacher computes, if there is one.

        points: of the step's subnets, which are all that is kept of its hidden states.
        """
        if self.teacher is None:
            return None
        names = {name: name for each in points for name in each.values()}
        return self._computed(self.teacher.net, noisy, names)

    def _computed(self, model: nn.Module, noisy: NoisyBatch, points: Mapping[str, str]) -> Computed:
        with self._autocast(), watched(model, points) as found:
            prediction = self.supernet.space.denoise(model, noisy.inputs)
        return Computed(prediction, {points[name]: state for name, state in found.items()})

    def _autocast(self) -> torch.autocast:
        device, dtype = self.noiser.device.type, self.autocast
        return torch.autocast(device, dtype, enabled=dtype is not None)


@dataclass(frozen=True, slots=True)
class Outside:
    """What the loop reports to, and what asks it to stop.

    log: receives each event. report: receives a line for people. stop: returns the number of a
    signal that asks to stop, or None.
    """

    log: Callable[[Event], None]
    report: Callable[[str], None]
    stop: Stop


def train(
    trainer: Trainer,
    clips: Clips,
    folder: Path | None,
    outside: Outside,
    *,
    max_skipped: float,
    evaluate: Callable[[], float] | None = None,
) -> None:
    """Make all remaining steps, and write checkpoints.

    Every rank makes the same steps, on its share of their clips. Checkpoints are written while
    training goes on (`nasvid.training.saver`), but it waits for the last one, and for those that
    are evaluated.

    folder: for checkpoints; None keeps none. max_skipped: share of unusable samples above which
    training stops. evaluate: returns the held-out loss of the supernet's current weights; it is
    called with each checkpoint's EMA weights, and the best checkpoint is kept.

    Raises:
        UserError: clips cannot be read, too much of the data is unusable, or too many steps were
            not finite; a checkpoint has been saved.
        NotWritten: the last checkpoint cannot be written; earlier ones may fail.
        Interrupted: a signal asked any rank to stop; a checkpoint has been saved.
        RankLost: another rank has ended.
    """
    progress, settings, ranks = trainer.progress, trainer.settings, trainer.ranks
    requests = trainer.planner.requests(progress.step, progress.clips, ranks)
    unusable = Unusable(clips.index, max_skipped)
    with (
        closing(clips.load(requests)) as loaded,
        _saver(trainer, folder, outside) as saver,
        _few_to_collect(),
    ):
        resumed, began = time.perf_counter(), progress.step
        while progress.step < settings.steps:
            batches, failure = _batches(loaded, len(ranks.groups(trainer.planner.groups)), outside)
            waited = time.perf_counter() - resumed
            signal = outside.stop()
            read = sum(len(batch.keys) for batch in batches)
            new = [skip for batch in batches for skip in unusable.new(batch)]
            written = saver is not None and saver.ready
            stopping, failed, read, skips, ready = ranks.sum(
                [signal is not None, failure is not None, read, len(new), written]
            )
            if saver is not None and ready == ranks.size:
                saver.proceed()
            if stopping:
                signal = max(ranks.gather(signal or 0))
                saved = f"step {progress.step} of {settings.steps} is saved"
                _stop(Interrupted(signal, saved), trainer, saver, began)
            if failed:
                said = max(ranks.gather(str(failure or "")))
                _stop(failure or UserError(said), trainer, saver, began)
            unusable.meet(int(read))
            if skips:
                unusable.add(ranks.gather(new), outside.log)
                if unusable.excess:
                    _stop(UserError(unusable.excess), trainer, saver, began)
            outside.log(trainer.step(batches, waited=waited))
            if progress.bad > settings.max_bad_steps:
                _stop(UserError(_advice(progress, settings)), trainer, saver, began)
            last = progress.step == settings.steps
            if saver is not None and (last or progress.step % settings.checkpoint_every == 0):
                _save(trainer, saver, outside, evaluate, waits=last)
            resumed = time.perf_counter()


def _batches(
    loaded: Iterator[Batch], count: int, outside: Outside
) -> tuple[list[Batch], UserError | None]:
    """Return the batches of a step, or the error of reading them; none if a signal comes first."""
    try:
        with waiting():
            if outside.stop() is None:
                return [next(loaded) for _ in range(count)], None
    except UserError as error:
        return [], error
    return [], None


def _stop(error: Exception, trainer: Trainer, saver: Saver | None, began: int) -> NoReturn:
    """Raise an error after saving the last step, unless none has been made since the beginning.

    Raises:
        NotWritten: it cannot be written.
    """
    if saver is not None and trainer.progress.step > began:
        saver.keep(trainer.progress)
    raise error


@contextmanager
def _few_to_collect() -> Iterator[None]:
    """Keep the garbage collector off what is there already, which it would go through in vain.

    Each new subnet is thousands of objects, so that it collects every few steps.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _saver(
    trainer: Trainer, folder: Path | None, outside: Outside
) -> AbstractContextManager[Saver | None]:
    """Return what writes checkpoints; none if there is no folder for them."""
    if folder is None:
        return nullcontext()
    place = Place(folder, trainer.ranks, trainer.settings.keep_checkpoints)
    saver = Saver(place, trainer.trained, outside.log, outside.report)
    if copies_any(trainer.settings, trainer.progress.step):
        saver.prepare(ages=trainer.rest or not trainer.planner.trains_largest)
    return saver


def _save(
    trainer: Trainer,
    saver: Saver,
    outside: Outside,
    evaluate: Callable[[], float] | None,
    *,
    waits: bool,
) -> None:
    """Begin a checkpoint. If training waits, or evaluates it, write it; keep it if it is the best.

    Raises:
        NotWritten: it cannot be written, and training waits for it.
    """
    progress, ranks = trainer.progress, trainer.ranks
    if evaluate is not None and any(ranks.sum([outside.stop() is not None])):
        evaluate = None  # may take longer than whoever asked to stop will wait
    if not waits and evaluate is None:
        saver.begin(progress)
        return
    try:
        saved = saver.save(progress)
    except NotWritten as error:
        if waits:
            raise
        saver.failed(error)
        return
    if evaluate:
        loss = ranks.agree(_evaluated(saved, trainer.trained.net, evaluate))
        outside.log(ValidationEvent(progress.step, loss))
        if ranks.is_rank0:
            checkpoint.keep_if_best(saved, loss, keep=trainer.settings.keep_checkpoints)


def learning_rate(settings: TrainingSection, step: int) -> float:
    """Return a step's learning rate: a linear warm-up, then constant or a cosine to a twentieth."""
    warmup = round(settings.lr_warmup * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(settings.steps - warmup, 1)
    return settings.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


def _event(
    plan: StepPlan, losses: np.ndarray, rate: float, grad_norm: float | None, speed: Speed
) -> StepEvent:
    """Return a step's event.

    losses: `group role`, fp64; each group's part of the mean over all groups.
    """
    by_role: dict[str, float] = dict(zip(plan.roles, losses.sum(axis=0).tolist(), strict=True))
    mean = sum(by_role[planned.role] for planned in plan.subnets) / len(plan.subnets)
    finite = math.isfinite(mean)
    groups = [
        GroupLosses(
            plan.step,
            batch.resolution,
            batch.clips,
            dict(zip(plan.roles, (len(plan.batches) * own).tolist(), strict=True)),
        )
        for batch, own in zip(plan.batches, losses, strict=True)
    ]
    return StepEvent(
        step=plan.step,
        groups=tuple(groups),
        subnets=tuple(planned.arch.id for planned in plan.subnets),
        loss=mean if finite else None,
        losses=by_role if finite else {},
        grad_norm=grad_norm,
        learning_rate=rate,
        clips=plan.clips,
        skipped=grad_norm is None,
        speed=speed,
    )


def _evaluated(saved: Path, net: nn.Module, evaluate: Callable[[], float]) -> float:
    """Return the loss of a checkpoint's EMA weights, then restore the net's own weights."""
    checkpoint.load_ema(saved, net.eval())
    loss = evaluate()
    checkpoint.load_weights(saved, net.train())
    return loss


def _check_shares(planner: Planner, ranks: Ranks) -> None:
    (_, group), *_ = ranks.groups(planner.groups)
    for resolution, section in planner.resolutions.items():
        if section.batch < group.size:
            whose = "ranks" if planner.groups == 1 else "ranks in a group"
            raise UserError(
                f"resolutions.{resolution}: a step has {counted(section.batch, 'clip')} for "
                f"{group.size} {whose}, each of which needs at least one; raise its batch (for "
                "`auto`, that of the lowest resolution), or use fewer ranks"
            )


def _advice(progress: Progress, settings: TrainingSection) -> str:
    return (
        f"{progress.bad} steps in a row had a loss or gradient that is not finite (at step "
        f"{progress.step}); lower training.learning_rate (now {settings.learning_rate:g}) or "
        "training.clip_norm, or set training.precision: fp32, and start a new run in another folder"
    )
