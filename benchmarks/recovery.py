"""How soon a cut model recovers, with and without a teacher's outputs and hidden states.

    python benchmarks/recovery.py OUT
    python benchmarks/recovery.py OUT --way outputs --way "outputs and features" --seeds 5

For each seed a small video transformer is trained on moving digits, as a stand-in for a pretrained
model; half of its blocks are then left out, and what remains is trained further in several ways.
Each way has the same clips, noise and steps. Printed are the held-out losses on the way, and how
many steps each way takes to the loss at which the teacher's outputs alone end. Results are kept in
OUT: a second call prints them at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
from stand_in import alone, clips_of, opened

from nasvid.data.loader import Batch
from nasvid.host.files import write_json
from nasvid.recipe.sections import TeacherSection
from nasvid.run.alone import OneNetwork
from nasvid.run.session import Session
from nasvid.run.tune import held_out_loss
from nasvid.supernet import Supernet
from nasvid.training.teacher import Teacher, Weights

RECIPE = {
    "name": "recovery",
    "data": {"train": "embedded:digits", "val": "embedded:digits", "frames": 4, "workers": 0},
    "resolutions": {16: {"batch": 8}},
    "text": {"name": "hash", "dim": 32},
    "space": {
        "name": "WanTransformer3DModel",
        "config": {
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "ffn_dim": 96,
            "num_layers": 6,
            "freq_dim": 32,
            "patch_size": [1, 4, 4],
        },
        "choices": {"num_layers": {"keep": 1}},
    },
    "objective": {"name": "flow"},
    "training": {"steps": 10**6, "device": "cpu", "precision": "fp32"},
    "search": {"strategy": {"name": "random"}, "clips": 32},
}
KEPT = (0, 2, 5)
"""The blocks that remain; the first and the last matter most."""
WAYS = {
    "task": TeacherSection(outputs=0, features=0),
    "outputs": TeacherSection(features=0),
    "features": TeacherSection(outputs=0),
    "outputs and features": TeacherSection(),
    "outputs and features x 0.1": TeacherSection(features=0.1),
}
EVERY = 10
"""Steps between two evaluations."""


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True)
@click.option("--pretrain", default=400, show_default=True, help="Steps of the stand-in.")
@click.option("--steps", default=100, show_default=True, help="Steps of each recovery.")
@click.option("--way", "ways", multiple=True, type=click.Choice([*WAYS]), help="[default: all]")
def main(out: Path, seeds: int, pretrain: int, steps: int, ways: tuple[str, ...]) -> None:
    clips = cache(lambda: clips_of(opened(out / "0", {**RECIPE, "seed": 0})))
    for seed in range(seeds):
        found = _of_seed(out / str(seed), seed, (pretrain, steps), ways or tuple(WAYS), clips)
        ends = f"the largest {found['largest']:.4f}, after cutting {found['cut']:.4f}"
        print(f"\nseed {seed}: held-out loss: {ends}")
        target = found["losses"]["outputs"][-1] if "outputs" in found["losses"] else 0.0
        for way, losses in found["losses"].items():
            soon = _reached(losses, target)
            shown = ", ".join(f"{loss:.4f}" for loss in (losses[0], *losses[4::5]))
            print(f"  {way:27} {shown}; {target:.4f} after {soon or 'more'} steps", flush=True)


def _of_seed(
    folder: Path,
    seed: int,
    steps: tuple[int, int],
    ways: Sequence[str],
    clips: Callable[[], list[Batch]],
) -> dict[str, Any]:
    """Return the losses of one seed's model, cut and recovered in each way."""
    path = folder / f"losses-{steps[0]}-{steps[1]}.json"
    content: dict[str, Any] = {"losses": {}}
    if path.exists():
        content = json.loads(path.read_text())
    missing = [way for way in ways if way not in content["losses"]]
    if not missing:
        return content
    session = opened(folder, {**RECIPE, "seed": seed})
    space, largest = session.components.space, session.components.supernet()
    for _ in _trained(session, largest, clips(), steps=steps[0], rate=3e-3):
        pass
    arch = space.architecture({**space.largest, **{f"blocks.{i}": i in KEPT for i in range(6)}})
    content["largest"] = held_out_loss(session, largest, space.largest)["loss"]
    content["cut"] = held_out_loss(session, largest, arch)["loss"]
    for way in missing:
        started = time.perf_counter()
        one = Supernet(OneNetwork(space, arch), largest.extract(arch).train())
        teacher = Teacher(largest.net.eval(), Weights.of(WAYS[way]))
        losses = _trained(session, one, clips(), steps=steps[1], rate=1e-3, teacher=teacher)
        content["losses"][way] = [*losses]
        write_json(path, content)
        print(f"seed {seed}: {way}: {time.perf_counter() - started:.0f} s", flush=True)
    return content


def _trained(
    session: Session,
    supernet: Supernet,
    clips: list[Batch],
    *,
    steps: int,
    rate: float,
    teacher: Teacher | None = None,
) -> Iterator[float]:
    """Train the largest subnet alone; yield its held-out loss at every evaluation."""
    changed = {"lr_schedule": "constant"} if teacher is not None else {}
    trainer = alone(session, supernet, teacher, steps=steps, learning_rate=rate, **changed)
    for step in range(1, steps + 1):
        trainer.step([clips[step % len(clips)]])
        if step % EVERY == 0 and teacher is not None:
            yield held_out_loss(session, supernet, supernet.space.largest)["loss"]
            supernet.net.train()


def _reached(losses: list[float], target: float) -> int | None:
    """Return the number of steps after which a loss is reached."""
    return next((EVERY * (i + 1) for i, loss in enumerate(losses) if loss <= target), None)


if __name__ == "__main__":
    main()
