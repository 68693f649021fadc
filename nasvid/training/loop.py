"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasvid.clips import Clips
from nasvid.data.loader import Batch
from nasvid.data.paths import DataError
from nasvid.data.shards import ShardIndex
from nasvid.errors import Interrupted, UserError
from nasvid.parts import Parts
from nasvid.recipe import Recipe
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.ema import Ema
from nasvid.training.optimizer import SparseAdamW
from nasvid.training.plan import Planner
from nasvid.training.step import backward, learning_rate, noisy_batch

Log = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    parts: Parts,
    supernet: Supernet,
    clips: Clips,
    folder: Path,
    *,
    teacher: nn.Module | None = None,
    log: Log,
    say: Callable[[str], None],
    stop: Callable[[], int | None],
) -> None:
    """Train the supernet from the newest checkpoint in `folder` to the last step.

    teacher: a model whose predictions all subnets learn from beside the clips, by the share
    `training.distillation`; without one they learn from the largest of their own step.
    log: takes each event as a dict. say: takes a line for people. stop: returns the number of a
    signal that asks to stop, or None.

    Raises:
        UserError: too many steps were not finite, or too much of the data is unusable.
        Interrupted: `stop` said so; a checkpoint has been saved.
    """
    config = recipe.training
    net = supernet.net.train()
    ema = Ema(net, config.ema_decay)
    optimizer = SparseAdamW(
        net.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    progress = checkpoint.Progress()
    newest, complaints = checkpoint.latest(folder)
    for complaint in complaints:
        say(complaint)
    if newest is not None:
        progress = checkpoint.load(newest, net, ema, optimizer)
    planner = parts.planner(recipe)
    batches = clips.load(planner.requests(progress.step, progress.clips))
    unusable = _Unusable(clips.index, recipe.data.max_skipped, log)
    with closing(batches):
        for batch in _until_stopped(batches, stop):
            started = time.perf_counter()
            unusable.check(batch)
            event = _step(
                recipe, parts, planner, supernet, optimizer, ema, progress, batch, teacher
            )
            log(event | {"seconds": time.perf_counter() - started})
            if progress.bad > config.max_bad_steps:
                raise UserError(_advice(progress, config.learning_rate))
            signal = stop()
            last = progress.step == config.steps
            if last or signal is not None or progress.step % config.checkpoint_every == 0:
                checkpoint.save(folder, net, ema, optimizer, progress, keep=config.keep_checkpoints)
            if signal is not None and not last:
                raise Interrupted(signal, f"step {progress.step} of {config.steps} is saved")
    if progress.step < config.steps and (signal := stop()) is not None:
        checkpoint.save(folder, net, ema, optimizer, progress, keep=config.keep_checkpoints)
        raise Interrupted(signal, f"step {progress.step} of {config.steps} is saved")


def _until_stopped(batches: Iterator[Batch], stop: Callable[[], int | None]) -> Iterator[Batch]:
    """Yield batches; end where a signal to the whole group has killed the loader's workers."""
    try:
        yield from batches
    except DataError:
        if stop() is None:
            raise


def _step(
    recipe: Recipe,
    parts: Parts,
    planner: Planner,
    supernet: Supernet,
    optimizer: SparseAdamW,
    ema: Ema,
    progress: checkpoint.Progress,
    batch: Batch,
    teacher: nn.Module | None,
) -> dict[str, Any]:
    """Make one step, advance `progress` and return the step's event."""
    config, net = recipe.training, supernet.net
    plan = planner.plan(progress.step)
    noisy = noisy_batch(
        batch,
        parts.objective,
        parts.text,
        planner.noise_generator(plan.step),
        parts.device,
        caption_dropout=recipe.objective.caption_dropout,
    )
    with torch.random.fork_rng([parts.device] if parts.device.type == "cuda" else []):
        torch.manual_seed(planner.model_seed(plan.step))
        losses = backward(supernet, plan, noisy, parts.objective, config, parts.autocast, teacher)
    norm = math.nan
    if losses is not None:
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm).item()
    skipped = not math.isfinite(norm)
    rate = learning_rate(config, plan.step)
    if not skipped:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step(whole=plan.whole)
        ema.update(net, progress.updates)
        progress.updates += 1
    optimizer.zero_grad(set_to_none=True)
    progress.step += 1
    progress.clips += len(batch.captions)
    progress.skipped += skipped
    progress.bad = progress.bad + 1 if skipped else 0
    return {
        "event": "step",
        "step": plan.step,
        "resolution": plan.resolution,
        "subnets": [planned.arch.id for planned in plan.subnets],
        "loss": losses.mean if losses else None,
        "losses": losses.by_role if losses else {},
        "grad_norm": None if skipped else norm,
        "learning_rate": rate,
        "clips": len(batch.captions),
        "skipped": skipped,
    }


class _Unusable:
    """Counts samples that gave no clip and ends the run when they are too many."""

    def __init__(self, index: ShardIndex, limit: float, log: Log) -> None:
        self._keys = {(skip.shard, skip.key) for skip in index.skipped}
        self._total = len(index.clips) + len(index.skipped)
        self._limit, self._log = limit, log

    def check(self, batch: Batch) -> None:
        for skip in batch.skipped:
            if (skip.shard, skip.key) not in self._keys:
                self._keys.add((skip.shard, skip.key))
                self._log(
                    {"event": "skip", "key": skip.key, "shard": skip.shard, "reason": skip.reason}
                )
        if len(self._keys) > self._limit * self._total:
            raise UserError(
                f"{len(self._keys)} of {self._total} samples are unusable, more than "
                f"data.max_skipped ({self._limit:g}) allows; `nasvid data inspect` tells why"
            )


def _advice(progress: checkpoint.Progress, rate: float) -> str:
    return (
        f"{progress.bad} steps in a row had a loss or gradient that is not finite (step "
        f"{progress.step}): lower training.learning_rate (now {rate:g}) or training.clip_norm, or "
        "set training.precision: fp32, and begin again with another --out"
    )
