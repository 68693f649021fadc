"""How soon each strategy finds a front: hypervolume against evaluations, on one trained supernet.

    python benchmarks/search_efficiency.py runs/demo
    python benchmarks/search_efficiency.py runs/demo --plot docs/media/search_efficiency.svg

Each strategy searches the run's space for the run's objectives, with several seeds. Whatever it
proposes is evaluated by the run's evaluators, once: evaluations are kept in a record, so that a
second call with the same run takes seconds. Optuna's samplers take part if it is installed
(`pip install optuna`); what they propose again costs them nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from curves import Curve, draw

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Evaluator, Metrics, evaluate_one
from nasvid.run.folder import existing, load_of_run
from nasvid.run.session import Session
from nasvid.search.front import front_hypervolume
from nasvid.search.goals import Goals
from nasvid.search.record import append_record, read_record
from nasvid.strategy import StrategySection

STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"name": "random", "metric": "macs"},
    "evolutionary alone": {"name": "evolutionary", "predictor": "none"},
    "evolutionary, ridge": {"name": "evolutionary", "predictor": "ridge"},
    "evolutionary, Gaussian process": {"name": "evolutionary", "predictor": "gaussian_process"},
}
BATCH = 8
"""Architectures that a strategy is asked for at once."""


@dataclass
class Judge:
    """Evaluates architectures of one run, each once; `path` is the record."""

    goals: Goals
    evaluators: list[Evaluator]
    path: Path
    known: dict[Architecture, Evaluation] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path, path: Path) -> Judge:
        """Open a finished run."""
        folder = existing(run)
        session = Session(folder, load_of_run(folder, trust=False), writes=False)
        section, context = session.recipe.search, session.context(session.supernet)
        evaluators = [part.make(context) for part in section.evaluators]
        space, shapes = session.components.space, session.components.shapes
        goals = Goals.of(space, shapes, evaluators, section.objectives, section.constraints)
        known = {each.arch: each for each in read_record(path)}
        return cls(goals, evaluators, path, known)

    def __call__(self, archs: Sequence[Architecture]) -> list[Evaluation]:
        """Return the evaluations of architectures."""
        for arch in archs:
            if arch not in self.known:
                metrics: Metrics = {}
                for evaluator in self.evaluators:
                    metrics |= evaluate_one(evaluator, arch)
                found = Evaluation(arch, metrics, self.goals.violation(arch, metrics))
                append_record(self.path, found)
                self.known[arch] = found
        return [self.known[arch] for arch in archs]

    def ends(self) -> list[Architecture]:
        """Return what every search evaluates first."""
        return [self.goals.space.smallest, self.goals.space.largest]


Search = Callable[[Judge, int, int], Iterator[Evaluation]]
"""A search: of a judge, for a budget, with a seed."""


def ours(options: dict[str, Any], asking: list[float]) -> Search:
    """Return the search of one of nasvid's strategies; `asking` collects seconds of each ask."""

    def search(judge: Judge, budget: int, seed: int) -> Iterator[Evaluation]:
        strategy = StrategySection.model_validate(options).make(judge.goals.problem(seed))
        found = set(judge.ends())
        yield from judge(judge.ends())
        while len(found) < budget:
            started = time.perf_counter()
            asked = strategy.ask(BATCH)
            asking.append(time.perf_counter() - started)
            results = judge(asked)
            strategy.tell(results)
            yield from (each for each in results if each.arch not in found)
            found |= set(asked)

    return search


def optunas(sampler: Callable[[int], Any]) -> Search:
    """Return the search of one of Optuna's samplers, made from a seed."""
    import optuna  # pyright: ignore[reportMissingImports]

    def search(judge: Judge, budget: int, seed: int) -> Iterator[Evaluation]:
        space, goals, found = judge.goals.space, judge.goals, set()
        study = optuna.create_study(
            directions=["minimize"] * len(goals.objectives), sampler=sampler(seed)
        )
        for arch in judge.ends():
            genome = (int(option) for option in space.encode(arch))
            names = (choice.name for choice in space.choices)
            study.enqueue_trial(dict(zip(names, genome, strict=True)))
        while len(found) < budget:
            trial = study.ask()
            genome = [
                trial.suggest_categorical(choice.name, (0, 1))
                if len(choice.options) == 2
                else trial.suggest_int(choice.name, 0, len(choice.options) - 1)
                for choice in space.choices
            ]
            result = judge([space.decode(np.array(genome))])[0]
            study.tell(trial, list(goals.values(result.metrics)))
            if result.arch not in found:
                found.add(result.arch)
                yield result

    return search


def searches(asking: dict[str, list[float]]) -> dict[str, Search]:
    """Return every search by its name."""
    found = {
        name: ours(options, asking.setdefault(name, [])) for name, options in STRATEGIES.items()
    }
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        print("Optuna is not installed: its samplers are left out (pip install optuna)")
        return found
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    return found | {
        "Optuna, NSGA-II": optunas(
            lambda seed: samplers.NSGAIISampler(population_size=16, seed=seed)
        ),
        "Optuna, TPE": optunas(lambda seed: samplers.TPESampler(seed=seed)),
    }


def hypervolumes(judge: Judge, search: Search, budget: int, seed: int) -> np.ndarray:
    """Return the hypervolume after each evaluation of a search: float64 `(budget,)`."""
    found: list[Evaluation] = []
    volumes: list[float] = []
    for evaluation in search(judge, budget, seed):
        if evaluation.feasible:
            found.append(evaluation)
        volumes.append(front_hypervolume(found, judge.goals) or 0.0)
        if len(volumes) == budget:
            break
    return np.array(volumes)


def reached(curve: np.ndarray, volume: float) -> int | None:
    """Return after how many evaluations a curve reaches a hypervolume; None if it does not."""
    places = np.flatnonzero(curve >= volume)
    return int(places[0]) + 1 if len(places) else None


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", default=192, help="Evaluations of each search.")
@click.option("--seeds", default=5, help="Searches of each strategy.")
@click.option("--record", default="search_efficiency.jsonl", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path), help="SVG file to draw.")
def main(run: Path, budget: int, seeds: int, record: Path, plot: Path | None) -> None:
    """Compare strategies on RUN."""
    judge = Judge.of(run, record)
    asking: dict[str, list[float]] = {}
    curves: dict[str, np.ndarray] = {}
    print(f"| strategy | hypervolume after {budget} | evaluations to random's | ms an ask |")
    print("|---|---|---|---|")
    for name, search in searches(asking).items():
        curves[name] = np.stack(
            [hypervolumes(judge, search, budget, seed) for seed in range(seeds)]
        )
        goal = float(np.median(curves["random"][:, -1]))
        print(_row(name, curves[name], goal, asking.get(name, [])), flush=True)
    if plot:
        lines = [Curve(name, np.arange(1, budget + 1), runs) for name, runs in curves.items()]
        plot.write_text(draw(lines, x="evaluations", y="hypervolume", start=8))


def _row(name: str, curves: np.ndarray, goal: float, asking: Sequence[float]) -> str:
    low, middle, high = np.quantile(curves[:, -1], [0.25, 0.5, 0.75])
    at = [reached(curve, goal) for curve in curves]
    known = sorted(each for each in at if each is not None)
    text = f"{np.median([each or np.inf for each in at]):g}"
    if known:
        text += f" [{known[0]} to {known[-1] if len(known) == len(at) else 'more'}]"
    speed = f"{1e3 * np.mean(asking):.0f}, at most {1e3 * max(asking):.0f}" if asking else ""
    return f"| {name} | {middle:.4f} [{low:.4f} to {high:.4f}] | {text} | {speed} |"


if __name__ == "__main__":
    main()
