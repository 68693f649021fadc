"""The training loop: the same on one process and on each of many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nasvid.data.clips import Clips
from nasvid.data.loader import Batch
from nasvid.distributed.ranks import ALONE, Ranks
from nasvid.errors import Interrupted, UserError
from nasvid.recipe.sections import Recipe, TrainingSection
from nasvid.run.parts import Parts
from nasvid.supernet import Supernet
from nasvid.training import checkpoint, loss_scale
from nasvid.training.checkpoint import Progress, Trained
from nasvid.training.ema import Ema
from nasvid.training.engine import engine_of
from nasvid.training.plan import Planner, StepPlan
from nasvid.training.speed import measured
from nasvid.training.step import backward, learning_rate, noisy_batch
from nasvid.training.unusable import Unusable

Log = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    parts: Parts,
    supernet: Supernet,
    clips: Clips,
    folder: Path | None,
    *,
    first_step: int = 0,
    ranks: Ranks = ALONE,
    teacher: nn.Module | None = None,
    judge: Callable[[], float] | None = None,
    log: Log,
    say: Callable[[str], None],
    stop: Callable[[], int | None],
) -> None:
    """Train the supernet from the newest checkpoint in `folder` to the last step.

    Every rank makes the same steps, each on its share of their clips.

    folder: None keeps no checkpoint. first_step: where to begin if there is none.
    teacher: a model whose predictions all subnets learn from beside the clips, by the share
    `training.distillation`; without one they learn from the largest of their own step.
    judge: returns the held-out loss of the weights that the supernet then has; it is asked about
    each checkpoint's averaged ones, and the best checkpoint is kept.
    log: takes each event as a dict. say: takes a line for people. stop: returns the number of a
    signal that asks to stop, or None.

    Raises:
        UserError: too many steps were not finite, too much of the data is unusable, or a step has
            fewer clips than there are ranks.
        Interrupted: `stop` said so, on any rank; a checkpoint has been saved.
        RankLost: another rank has ended.
    """
    config = recipe.training
    planner = parts.planner(recipe)
    _check_shares(planner, ranks)
    net = supernet.net.train()
    engine = engine_of(config.engine).start(net, config, ranks)
    trained = Trained(net, engine, Ema([s.tensor for s in engine.shards], config.ema_decay))
    newest, complaints = ranks.agree(_latest(folder) if ranks.first else (None, []))
    for complaint in complaints:
        say(complaint)
    progress = Progress(first_step) if newest is None else checkpoint.load(newest, trained)
    requests = planner.requests(progress.step, progress.clips, ranks)
    mine = ranks.groups(planner.groups)
    unusable = Unusable(clips.index, recipe.data.max_skipped)
    with closing(clips.load(requests)) as batches:
        ready = time.perf_counter()
        while progress.step < config.steps:
            given = [next(batches) for _ in mine]
            started = time.perf_counter()
            plans = [planner.plan(progress.step, group) for group in range(planner.groups)]
            lost = np.zeros((len(plans), len(plans[0].roles)))
            for (group, sub), batch in zip(mine, given, strict=True):
                work = _Work(plans[group], group, sub, batch)
                lost[group] = _gradients(recipe, parts, planner, supernet, progress, work, teacher)
            asked = stop()
            new = [skip for batch in given for skip in unusable.new(batch)]
            *sums, stopping, skips = ranks.sum([*lost.flat, asked is not None, len(new)])
            event = _update(config, plans, trained, progress, np.reshape(sums, lost.shape))
            if skips:
                unusable.add(ranks.gather(new), log)
            seconds = time.perf_counter() - started
            log(event | measured(parts, plans, ranks, started - ready, seconds))
            last = progress.step == config.steps
            if folder and (last or stopping or progress.step % config.checkpoint_every == 0):
                keep = config.keep_checkpoints
                saved = checkpoint.save(folder, trained, progress, ranks, keep=keep)
                if judge and not stopping:
                    loss = ranks.agree(_judged(saved, net, judge))
                    log({"event": "validation", "step": progress.step, "loss": loss})
                    if ranks.first:
                        checkpoint.judged(saved, loss, keep=keep)
            ready = time.perf_counter()
            if progress.bad > config.max_bad_steps:
                raise UserError(_advice(progress, config.learning_rate))
            if stopping and not last:
                signal = max(ranks.gather(asked or 0))
                raise Interrupted(signal, f"step {progress.step} of {config.steps} is saved")


def _judged(saved: Path, net: nn.Module, judge: Callable[[], float]) -> float:
    """Return the loss of a checkpoint's averaged weights; the net's own are put back."""
    checkpoint.load_ema(saved, net.eval())
    loss = judge()
    checkpoint.load_weights(saved, net.train())
    return loss


def _latest(folder: Path | None) -> tuple[Path | None, list[str]]:
    return checkpoint.latest(folder) if folder else (None, [])


@dataclass(frozen=True, slots=True)
class _Work:
    """What this rank does of a step in one group: `ranks` says which of its ranks it is."""

    plan: StepPlan
    group: int
    ranks: Ranks
    batch: Batch


def _gradients(
    recipe: Recipe,
    parts: Parts,
    planner: Planner,
    supernet: Supernet,
    progress: Progress,
    work: _Work,
    teacher: nn.Module | None,
) -> list[float]:
    """Run the step's subnets on this rank's clips; return its part of each role's mean loss."""
    plan, group = work.plan, work.group
    first = work.ranks.share(plan.clips).start
    noisy = noisy_batch(
        work.batch,
        parts.objective,
        parts.text,
        planner.noise_generator(plan.step, group),
        parts.device,
        caption_dropout=parts.objective.caption_dropout,
        first=first,
        total=plan.clips,
    )
    with torch.random.fork_rng([parts.device] if parts.device.type == "cuda" else []):
        torch.manual_seed(planner.model_seed(plan.step, group, first))
        losses = backward(
            supernet,
            plan,
            noisy,
            parts.objective,
            recipe.training,
            parts.autocast,
            teacher,
            total=plan.clips * planner.groups,
            micro_batch=recipe.resolutions[plan.resolution].micro_batch,
            loss_scale=loss_scale.of(progress, parts.autocast),
        )
    return torch.stack([losses[role] for role in plan.roles]).tolist()


def _update(
    config: TrainingSection,
    plans: Sequence[StepPlan],
    trained: Trained,
    progress: Progress,
    losses: np.ndarray,
) -> dict[str, Any]:
    """Move the weights and their averages, advance `progress`, return the step's event.

    losses: of each group and role, their parts of the mean over all groups.
    """
    plan, clips = plans[0], sum(plan.clips for plan in plans)
    rate = learning_rate(config, plan.step)
    by_role = dict(zip(plan.roles, losses.sum(axis=0).tolist(), strict=True))
    mean = sum(by_role[planned.role] for planned in plan.subnets) / len(plan.subnets)
    norm = math.nan
    if math.isfinite(mean):
        norm = trained.engine.update(rate=rate, whole=plan.whole)
    else:
        trained.net.zero_grad(set_to_none=True)
    skipped = not math.isfinite(norm)
    if not skipped:
        trained.ema.update(progress.updates)
        progress.updates += 1
    loss_scale.adapt(progress, skipped=skipped)
    progress.step += 1
    progress.clips += clips
    progress.skipped += skipped
    progress.bad = progress.bad + 1 if skipped else 0
    groups = [
        {
            "step": each.step,
            "resolution": each.resolution,
            "clips": each.clips,
            "losses": dict(zip(plan.roles, (len(plans) * row).tolist(), strict=True)),
        }
        for each, row in zip(plans, losses, strict=True)
    ]
    return {
        "event": "step",
        "step": plan.step,
        **({"groups": groups} if len(plans) > 1 and math.isfinite(mean) else {}),
        "resolution": plan.resolution,
        "subnets": [planned.arch.id for planned in plan.subnets],
        "loss": mean if math.isfinite(mean) else None,
        "losses": by_role if math.isfinite(mean) else {},
        "grad_norm": None if skipped else norm,
        "learning_rate": rate,
        "clips": clips,
        "skipped": skipped,
    }


def _check_shares(planner: Planner, ranks: Ranks) -> None:
    (_, group), *_ = ranks.groups(planner.groups)
    for side, clips in sorted(planner.batches.items()):
        if clips < group.size:
            whose = "ranks" if planner.groups == 1 else "ranks in a group"
            raise UserError(
                f"resolutions.{side}: a step has {clips} clips and there are {group.size} {whose}, "
                "each of which needs one at least: raise its batch (of an `auto` one, that of the "
                "lowest resolution), or use fewer ranks"
            )


def _advice(progress: Progress, rate: float) -> str:
    return (
        f"{progress.bad} steps in a row had a loss or gradient that is not finite (step "
        f"{progress.step}): lower training.learning_rate (now {rate:g}) or training.clip_norm, or "
        "set training.precision: fp32, and begin again with another --out"
    )
