"""What blocks chosen by importance lose, against the first ones: before any training of subnets.

    python benchmarks/importance.py OUT

For each seed a small video transformer is trained on moving digits, as a stand-in for a pretrained
model. Printed are the losses of the whole, and of subnets that keep 60% of its blocks: those worth
most by what `importance` measures, those left when the one worth least is skipped again and again,
the first ones, and random ones. They are chosen on some held-out clips and compared on others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from stand_in import alone, clips_of, opened

from nasvid.architecture import Architecture
from nasvid.evaluator import Context
from nasvid.metrics.importance import without_each, worth_of_blocks
from nasvid.metrics.loss import DenoisingLoss
from nasvid.run.session import Session
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet

BLOCKS, KEPT = 15, 9
RECIPE = {
    "name": "importance",
    "data": {"train": "embedded:digits", "val": "embedded:digits", "frames": 4, "workers": 0},
    "resolutions": {16: {"batch": 8}},
    "text": {"name": "hash", "dim": 32},
    "space": {
        "name": "WanTransformer3DModel",
        "config": {
            "num_attention_heads": 4,
            "attention_head_dim": 24,
            "ffn_dim": 192,
            "num_layers": BLOCKS,
            "freq_dim": 32,
            "patch_size": [1, 4, 4],
        },
        "choices": {"num_layers": {"keep": KEPT}},
    },
    "objective": {"name": "flow"},
    "training": {"steps": 10**6, "device": "cpu", "precision": "fp32"},
    "search": {"strategy": {"name": "random"}, "clips": 64},
}
MEASURED = 32
"""Clips on which blocks are measured; the others are those on which subnets are compared."""


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True)
@click.option("--pretrain", default=400, show_default=True, help="Steps of the stand-in.")
def main(out: Path, seeds: int, pretrain: int) -> None:
    for seed in range(seeds):
        session = opened(out / str(seed), {**RECIPE, "seed": seed})
        supernet = _trained(session, pretrain)
        context = session.context(supernet)
        worth = {each.name: each.loss for each in worth_of_blocks(context, MEASURED)}
        first, other = (
            replace(context, batches={key: each[part] for key, each in context.batches.items()})
            for part in (slice(2), slice(2, None))
        )
        space = supernet.space
        names = list(without_each(space))
        chosen = {
            "by importance": sorted(names, key=lambda name: -worth[name]),
            "left one by one": _left_one_by_one(first),
            "the first": names,
        }
        rng = np.random.default_rng(seed)
        randoms = [_keeping(space, rng.permutation(names)[:KEPT]) for _ in range(10)]
        archs = [_keeping(space, order[:KEPT]) for order in chosen.values()]
        largest, *losses = _losses(other, [space.largest, *archs, *randoms])
        print(f"\nseed {seed}: held-out loss of all {BLOCKS} blocks {largest:.4f}", flush=True)
        for way, loss in zip(chosen, losses, strict=False):
            print(f"  {KEPT} blocks {way:15} {loss:.4f}, rise {loss - largest:.4f}", flush=True)
        rises = np.array(losses[len(chosen) :]) - largest
        print(
            f"  {KEPT} random blocks: median rise {np.median(rises):.4f}, least {rises.min():.4f}"
        )


def _trained(session: Session, steps: int) -> Supernet:
    """Return the largest model, trained alone, in eval mode."""
    supernet, clips = session.components.supernet(), clips_of(session)
    trainer = alone(session, supernet, steps=steps, learning_rate=1e-3)
    for step in range(steps):
        trainer.step([clips[step % len(clips)]])
    supernet.net.eval()
    return supernet


def _left_one_by_one(context: Context) -> list[str]:
    """Return the blocks that are left when the one worth least is skipped, again and again."""
    space = context.supernet.space
    kept = list(without_each(space))
    while len(kept) > KEPT:
        fewer = [[name for name in kept if name != skipped] for skipped in kept]
        losses = _losses(context, [_keeping(space, names) for names in fewer])
        kept = fewer[int(np.argmin(losses))]
    return kept


def _keeping(space: SearchSpace, names: Iterable[str]) -> Architecture:
    kept = {str(name) for name in names}
    return space.architecture({**space.largest, **{n: n in kept for n in without_each(space)}})


def _losses(context: Context, archs: list[Architecture]) -> list[float]:
    evaluator = DenoisingLoss(DenoisingLoss.Config(), context)
    return [metrics["loss"] for metrics in evaluator.evaluate(archs)]


if __name__ == "__main__":
    main()
