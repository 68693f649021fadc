"""Memory of real training steps at their peak, beside what `nasvid plan` predicts.

    python benchmarks/memory.py                  the cases of a CPU, minutes
    python benchmarks/memory.py weights          one of them
    python benchmarks/memory.py --recipe recipes/sned_pixel.yaml --scale gpu      any recipe

Goal: predicted over measured from 0.85 to 1.15. Each case runs in processes of its own. On a CPU
glibc is told to give back what is freed at once, so that what a process holds is what it uses.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from nasvid.host.cards import Devices
from nasvid.host.device import pick_device
from nasvid.planning.plan import make_plan
from nasvid.preflight import load_recipe

MEASURE = Path(__file__).with_name("measure_memory.py")
RECIPE = """
name: memory
data: {{train: embedded:digits, val: embedded:digits, frames: {frames}, context_len: 8, workers: 0}}
resolutions: {{{side}: {{batch: {batch}}}}}
space:
  name: elastic_unet
  widths: {widths}
  blocks_per_level: {blocks}
  attention_levels: {attention}
  conditioning_width: {conditioning}
  head_dim: 16
  group_size: 8
sampler: {{name: sandwich, n_random: 1}}
training: {{steps: 3, precision: fp32}}
search: {{strategy: {{name: random}}, budget: 1}}
front: {{subnets: 1}}
"""
WEIGHTS = RECIPE.format(
    frames=4,
    side=16,
    batch=2,
    widths="[[32, 64], [256, 384], [640, 832]]",
    blocks=1,
    attention="[1, 2]",
    conditioning=256,
)
"""93 million parameters, few and small clips."""
ACTIVATIONS = RECIPE.format(
    frames=8,
    side=32,
    batch=8,
    widths="[[32, 48], [64, 96]]",
    blocks=2,
    attention="[1]",
    conditioning=64,
)
"""Two million parameters, many and large clips."""
TRANSFORMER = """
name: memory
data:
  {{train: embedded:digits, val: embedded:digits, frames: {frames}, context_len: 16, workers: 0}}
text: {{name: hash, dim: 32}}
resolutions: {{{resolution}: {{batch: {batch}}}}}
space:
  name: {name}
  config: {config}
  choices: {{num_attention_heads: [2, 4], num_layers: {{keep: 3}}}}
sampler: {{name: sandwich, n_random: 1}}
training: {{steps: 3, precision: fp32}}
search: {{strategy: {{name: random}}, budget: 1}}
front: {{subnets: 1}}
"""
TRANSFORMERS = {
    "wan": (
        "WanTransformer3DModel",
        "{attention_head_dim: 36, ffn_dim: 512, num_layers: 6, rope_max_seq_len: 128}",
    ),
    "ltx": ("LTXVideoTransformer3DModel", "{attention_head_dim: 32, num_layers: 6}"),
    "cogvideox": (
        "CogVideoXTransformer3DModel",
        "{attention_head_dim: 32, num_layers: 6, max_text_seq_length: 16, "
        "use_rotary_positional_embeddings: true}",
    ),
}
"""Class and config of each, of some million parameters."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: a recipe, what is changed in it, and on how many ranks."""

    recipe: str
    overrides: tuple[str, ...] = ()
    ranks: int = 1


def zero(stage: int, ranks: int, *, offload: bool = False) -> Case:
    options = f"{{name: deepspeed, zero: {stage}, offload: {str(offload).lower()}}}"
    return Case(WEIGHTS, (f"training.engine={options}",), ranks)


def transformer(which: str, resolution: str, batch: int, *overrides: str) -> Case:
    name, config = TRANSFORMERS[which]
    return Case(
        TRANSFORMER.format(name=name, config=config, frames=4, resolution=resolution, batch=batch),
        overrides,
    )


CHECKPOINTING = "training.gradient_checkpointing=true"
CASES = {
    "weights": Case(WEIGHTS),
    "small weights": Case(WEIGHTS, ("space.widths=[[32], [128, 256], [384, 512]]",)),
    "small activations": Case(ACTIVATIONS, ("resolutions.32.batch=2",)),
    "weights, 2 ranks": Case(WEIGHTS, ranks=2),
    "weights, no step trains all": Case(WEIGHTS, ("sampler={name: uniform}",)),
    "activations": Case(ACTIVATIONS),
    "activations, by 3 clips": Case(ACTIVATIONS, ("resolutions.32.micro_batch=3",)),
    "activations, checkpointing": Case(ACTIVATIONS, (CHECKPOINTING,)),
    "activations, bf16": Case(ACTIVATIONS, ("training.precision=bf16",)),
    "wan": transformer("wan", "32", 3),
    "wan, wide and long": transformer("wan", "32x64x8", 1),
    "wan, checkpointing": transformer("wan", "32", 6, CHECKPOINTING),
    "wan, bf16": transformer("wan", "32", 3, "training.precision=bf16"),
    "ltx": transformer("ltx", "16", 3),
    "ltx, wide and long": transformer("ltx", "16x32x8", 1),
    "ltx, checkpointing": transformer("ltx", "16", 6, CHECKPOINTING),
    "ltx, bf16": transformer("ltx", "16", 3, "training.precision=bf16"),
    "cogvideox": transformer("cogvideox", "32", 3),
    "cogvideox, wide and long": transformer("cogvideox", "32x64x8", 1),
    "cogvideox, checkpointing": transformer("cogvideox", "32", 6, CHECKPOINTING),
    "zero 0": zero(0, 1),
    "zero 1": zero(1, 1),
    "zero 2": zero(2, 1),
    "zero 2 offload": zero(2, 1, offload=True),
    "zero 0, 2 ranks": zero(0, 2),
    "zero 1, 2 ranks": zero(1, 2),
    "zero 2, 2 ranks": zero(2, 2),
    "zero 2 offload, 2 ranks": zero(2, 2, offload=True),
}


def predicted(path: Path, overrides: tuple[str, ...], ranks: int) -> int:
    recipe = load_recipe(path, overrides=overrides).recipe
    cuda = pick_device(recipe.training.device).type == "cuda"
    plan = make_plan(recipe, Devices(ranks, bf16=1.0 if cuda else None))
    total = plan.engine.memory.total
    if total is None:
        raise click.ClickException(f"engine {plan.engine.name} does not say what it takes")
    return total


def measured(path: Path, overrides: tuple[str, ...], ranks: int) -> int:
    """Bytes at the peak of the first rank."""
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    result = subprocess.run(
        [*command, str(MEASURE), str(path), *overrides],
        env=os.environ | at_once | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    _, found, peak = result.stdout.partition("PEAK ")
    if not found:
        raise click.ClickException(result.stdout + result.stderr)
    return int(peak.split()[0])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--recipe", type=click.Path(path_type=Path, exists=True))
@click.option("--scale")
@click.option("--set", "sets", multiple=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    names: tuple[str, ...],
    recipe: Path | None,
    scale: str | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        chosen = {name: CASES[name] for name in names or CASES}
        if recipe is not None:
            from nasvid.preflight.load import to_yaml

            loaded = load_recipe(recipe, scale=scale, overrides=sets).recipe
            short = loaded.model_copy(
                update={"training": loaded.training.model_copy(update={"steps": 4})}
            )
            chosen = {recipe.name: Case(to_yaml(short))}
        rows = {}
        for name, case in chosen.items():
            path.write_text(case.recipe)
            plan = predicted(path, case.overrides, case.ranks)
            real = measured(path, case.overrides, case.ranks)
            rows[name] = {"predicted": plan, "measured": real, "ratio": plan / real}
            if not as_json:
                print(f"{name:28}{plan / 1e6:8.0f} MB{real / 1e6:8.0f} MB{plan / real:7.3f}")
        if as_json:
            print(json.dumps(rows))


if __name__ == "__main__":
    main()
