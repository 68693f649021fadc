"""A training step under each engine, over the same step of the plain loop.

    python benchmarks/engines.py

The plain loop is engine torch on one process. DeepSpeed at stage 0 does the same on one process, so
what it takes longer is its own. Two ranks make each the same clips as the one process does, and so
twice as many together: what they take longer is the talking, and on a machine of few cores what
they take from each other.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from paired import machine

ROUNDS = 5
STEPS = 8
RECIPE = """
name: engines
data: {{frames: 8, context_len: 8, workers: 0}}
resolutions: {{32: {{batch: {batch}}}}}
space:
  name: elastic_unet
  widths: [[16, 32], [32, 64], [64, 128]]
  blocks_per_level: 1
  attention_levels: [2]
  conditioning_width: 64
  head_dim: 16
  group_size: 8
sampler: {{name: sandwich, n_random: 1}}
training: {{steps: 1000, precision: fp32}}
search: {{strategy: {{name: random}}, budget: 8}}
"""


ENGINES = {
    "torch": "torch",
    "deepspeed, stage 0": "deepspeed:zero=0",
    "deepspeed, stage 2": "deepspeed:zero=2",
}


def main() -> None:
    print(machine(), f"1 thread a rank, {os.cpu_count()} cores")
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for ranks in (1, 2):
                recipe = Path(folder) / f"{ranks}.yaml"
                recipe.write_text(RECIPE.format(batch=4 * ranks))
                for name, seconds in zip(ENGINES, step_seconds(recipe, ranks), strict=True):
                    shown = name if ranks == 1 else f"{name}, two ranks"
                    times.setdefault(shown, []).append(seconds)
    for name, seconds in times.items():
        ratios = sorted(s / plain for s, plain in zip(seconds, times["torch"], strict=True))
        middle, low, high = statistics.median(ratios), ratios[1], ratios[-2]
        print(
            f"{name}: ratio {middle:.2f} [{low:.2f} to {high:.2f}]  ({1e3 * min(seconds):.0f} ms)"
        )


def step_seconds(recipe: Path, ranks: int) -> list[float]:
    """Return the median seconds of a step under each engine, as `nasvid bench train` has them."""
    program = ["-m", "nasvid", "bench", "train", str(recipe), "--json", "--steps", str(STEPS)]
    for engine in ENGINES.values():
        program += ["--engine", engine]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher(ranks), *program]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [row["seconds"] for row in json.loads(said.stdout[said.stdout.index("{") :])["rows"]]


def launcher(ranks: int) -> list[str]:
    if ranks == 1:
        return [sys.executable]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    return [*torchrun, "--master-addr=127.0.0.1", f"--master-port={port}"]


if __name__ == "__main__":
    main()
