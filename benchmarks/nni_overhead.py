"""What a trial of NNI costs beside the evaluation: the strategy's relay, over a stock trial.

    python benchmarks/nni_overhead.py

The stock trial does what NNI's documentation has one do: it imports nni and torch, loads the
supernet, asks for its parameters, judges nothing, reports. Both are counted from one trial's end to
the next one's, at concurrency 1.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from nni.experiment import Experiment
from paired import machine
from safetensors.torch import save_file

from nasvid.recipe.sections import SearchSection
from nasvid.search.driver import run_search
from nasvid.search.record import read_record
from nasvid.strategy import RunContext, StrategySection
from nasvid.testing.toy import ToySpace, toy_context

TRIALS = 12
SKIPPED = 2
"""The first ones, in which the manager is still busy with itself."""
WEIGHTS = 15_000_000
"""Parameters that a stock trial loads: few, for a supernet."""
STOCK = """
import nni
import torch
from safetensors.torch import load_file
weights = load_file("weights.safetensors")
parameters = nni.get_next_parameter()
nni.report_final_result(float(parameters["x"]))
"""


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        relay, stock = relayed(Path(folder) / "relay"), stock_trials(Path(folder) / "stock")
    print(f"relay: {relay:.2f} s a trial beside its evaluation")
    print(f"stock trial: {stock:.2f} s; ratio {stock / relay:.1f}")


def relayed(folder: Path) -> float:
    """Return the median time between two trials' ends, less what judging took."""
    folder.mkdir()
    ends: list[float] = []
    section = SearchSection(
        strategy=StrategySection.model_validate(
            {"name": "nni", "tuner": "Random", "port": free_port()}
        ),
        budget=TRIALS,
    )
    run_search(
        section,
        toy_context(ToySpace.of()),
        seed=0,
        record_path=folder / "record.jsonl",
        run=RunContext("overhead", folder / "nni", print),
        on_progress=lambda _: ends.append(time.perf_counter()),
    )
    seconds = [record.seconds for record in read_record(folder / "record.jsonl")]
    between = [b - a for a, b in itertools.pairwise(ends)]
    costs = [gap - own for gap, own in zip(between, seconds[1:], strict=True)]
    return statistics.median(costs[SKIPPED:])


def stock_trials(folder: Path) -> float:
    """Return the median time between two ends of NNI's own trials."""
    folder.mkdir()
    (folder / "trial.py").write_text(STOCK)
    save_file({"weights": torch.zeros(WEIGHTS)}, folder / "weights.safetensors")
    experiment = Experiment("local")
    config = experiment.config
    assert config is not None
    config.experiment_working_directory = str(folder / "experiments")
    config.trial_code_directory = str(folder)
    config.trial_command = f"{sys.executable} trial.py"
    config.search_space = {"x": {"_type": "uniform", "_value": [0, 1]}}
    config.trial_concurrency, config.max_trial_number = 1, TRIALS // 2
    assert config.tuner is not None
    config.tuner.name = "Random"
    port = free_port()
    experiment.start(port)
    try:
        while experiment.get_status() != "DONE":
            time.sleep(0.5)
        jobs = experiment.list_trial_jobs()
    finally:
        experiment.stop()
        shutil.rmtree(folder)
    ends = sorted(job.endTime / 1000 for job in jobs if job.endTime)
    return statistics.median([b - a for a, b in itertools.pairwise(ends)][1:])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    main()
