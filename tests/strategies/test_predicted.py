from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasvid.evaluation import Evaluation
from nasvid.strategy import Problem, RunContext
from nasvid.testing.toy import LARGE, SHAPES, ToySpace
from nasvid_strategies import predictor as predictor_module
from nasvid_strategies.evolutionary import Evolutionary
from nasvid_strategies.predicted import Predicted, improving
from nasvid_strategies.predictor import Features, Kind, Predictor

pytestmark = pytest.mark.slow

SPACE, SHAPE = ToySpace.of(widths=(2, 4, 6, 8, 12, 16), blocks=4), SHAPES[LARGE]
KINDS: tuple[Kind, ...] = ("ridge", "gaussian_process")


def macs(genomes: np.ndarray) -> np.ndarray:
    return SPACE.costs(genomes, SHAPE).macs.astype(np.float64)


PROBLEM = Problem(
    space=SPACE,
    objectives=("loss", "macs"),
    seed=0,
    shape=SHAPE,
    violation=lambda genomes: np.zeros(len(genomes)),
    costs={"macs": macs},
)


def loss(genomes: np.ndarray) -> np.ndarray:
    """Blocks of unequal worth; the first width counts most."""
    return 1 - genomes[:, 1::2] @ np.array([0.3, 0.1, 0.05, 0.0]) - 0.05 * genomes[:, 0]


def draw(n: int, seed: int = 0) -> np.ndarray:
    return SPACE.random_genomes(np.random.default_rng(seed), n)


def evaluations(
    genomes: np.ndarray, violation: Callable[[np.ndarray], np.ndarray] | None = None
) -> list[Evaluation]:
    violations = np.zeros(len(genomes)) if violation is None else violation(genomes)
    values = zip(genomes, loss(genomes), macs(genomes), violations, strict=True)
    return [Evaluation(SPACE.decode(g), {"loss": x, "macs": m}, float(v)) for g, x, m, v in values]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_says_how_unseen_genomes_are_predicted(kind: Kind) -> None:
    seen, unseen = draw(60), draw(200, seed=1)
    predictor = Predictor(kind, Features(SPACE, [macs]))
    fit = predictor.fit(seen, loss(seen))
    error = predictor.predict(unseen)[0] - loss(unseen)
    assert fit.r2 > 0.97
    assert fit.tau > 0.9
    assert 1 - error.var() / loss(unseen).var() > 0.97
    noise = np.random.default_rng(0).normal(size=60)
    assert Predictor(kind, Features(SPACE, [macs])).fit(seen, noise).tau < 0.3


def test_a_gaussian_process_is_less_sure_of_what_it_has_not_seen() -> None:
    seen = draw(30)
    predictor = Predictor("gaussian_process", Features(SPACE, [macs]))
    predictor.fit(seen, loss(seen))
    assert predictor.predict(seen)[1].max() < predictor.predict(draw(100, seed=1))[1].mean()


def test_a_gaussian_process_of_many_values_learns_from_some(monkeypatch) -> None:
    monkeypatch.setattr(predictor_module, "MOST_FITTED", 40)
    seen, unseen = draw(300), draw(100, seed=1)
    predictor = Predictor("gaussian_process", Features(SPACE, [macs]))
    predictor.fit(seen, loss(seen))
    mean, deviation = predictor.predict(np.concatenate([seen[-20:], seen[:280:14], unseen]))
    learnt, new = deviation[:40], deviation[40:]
    assert learnt.max() < new.mean()
    assert np.corrcoef(mean[40:], loss(unseen))[0, 1] > 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_values_give_the_same_predictions_to_the_bit(kind: Kind) -> None:
    found = []
    for _ in range(2):
        predictor = Predictor(kind, Features(SPACE, [macs]))
        for n in (16, 18, 40):
            predictor.fit(draw(n), loss(draw(n)))
        found.append(predictor.predict(draw(50, seed=1))[0])
    assert (found[0] == found[1]).all()


def test_costs_are_not_predicted() -> None:
    predicted = Predicted(PROBLEM, "ridge")
    assert predicted.fit(evaluations(draw(40))).keys() == {"loss"}
    values, violations = predicted(draw(50, seed=1))
    assert (values[:, 1] == macs(draw(50, seed=1))).all()
    assert (violations == 0).all()


def test_a_measured_constraint_is_predicted() -> None:
    predicted = Predicted(PROBLEM, "ridge")
    predicted.fit(evaluations(draw(60), lambda genomes: np.maximum(loss(genomes) - 0.6, 0)))
    unseen = draw(200, seed=1)
    violations = predicted(unseen)[1]
    assert (violations[loss(unseen) > 0.85] > 0).all()
    assert violations[loss(unseen) < 0.45].max() < violations[loss(unseen) > 0.85].min()


def test_candidates_are_chosen_that_together_add_most_to_the_hypervolume() -> None:
    found = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.6]])
    best, twin, worse, apart = [0.2, 0.3], [0.21, 0.3], [0.7, 0.7], [0.05, 0.6]
    candidates = np.array([worse, twin, best, apart])
    assert improving(found, candidates, 1) == [2]
    assert improving(found, candidates, 4) == [2, 3]
    assert improving(found, candidates[:1], 4) == []


def converse(problem: Problem, results: Callable[[np.ndarray], list[Evaluation]]) -> np.ndarray:
    """Return the losses of the third generation."""
    strategy = Evolutionary(Evolutionary.Config(predictor="ridge", unpredicted=0), problem)
    genomes = np.zeros(0)
    for _ in range(3):
        genomes = np.stack([SPACE.encode(arch) for arch in strategy.ask(16)])
        strategy.tell(results(genomes))
    return loss(genomes)


def said(results: Callable[[np.ndarray], list[Evaluation]], folder: Path) -> Sequence[str]:
    lines: list[str] = []
    converse(replace(PROBLEM, run=RunContext("run", folder, lines.append)), results)
    return lines


def test_the_fit_is_printed_when_the_results_have_doubled(tmp_path: Path) -> None:
    first, second = said(evaluations, tmp_path)
    assert first.startswith("search: loss predicted from 16 subnets: R² 0.")
    assert second.startswith("search: loss predicted from 32 subnets: R² 0.")
    assert "too little" not in first + second


def test_a_predictor_that_predicts_nothing_is_not_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noise(genomes: np.ndarray) -> list[Evaluation]:
        values = zip(evaluations(genomes), rng.normal(size=len(genomes)), strict=True)
        return [replace(e, metrics={**e.metrics, "loss": float(x)}) for e, x in values]

    assert any("too little to choose by" in line for line in said(noise, tmp_path))


def test_values_that_are_not_finite_are_not_learned_from(tmp_path: Path) -> None:
    def broken(genomes: np.ndarray) -> list[Evaluation]:
        return [
            replace(each, metrics={"loss": np.nan, "macs": 1.0}, violation=np.inf)
            if i % 2
            else each
            for i, each in enumerate(evaluations(genomes))
        ]

    assert said(broken, tmp_path)[0].startswith("search: loss predicted from 8 subnets")


def proposals(problem: Problem, rounds: int) -> list[list[str]]:
    """Search for some rounds; return the ids that were asked for in each."""
    strategy = Evolutionary(Evolutionary.Config(population=8), problem)
    asked = []
    for _ in range(rounds):
        archs = strategy.ask(8)
        genomes = np.stack([SPACE.encode(arch) for arch in archs])
        strategy.tell(evaluations(genomes, lambda genomes: np.maximum(loss(genomes) - 0.6, 0)))
        asked.append([arch.id for arch in archs])
    return asked


@pytest.mark.parametrize("damaged", [False, True])
def test_a_resumed_search_predicts_only_what_is_new(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = proposals(PROBLEM, 7)
    problem = replace(PROBLEM, run=RunContext("run", tmp_path, lambda line: None))
    assert proposals(problem, 5) == whole[:5]
    kept = tmp_path / "chosen.jsonl"
    if damaged:  # then what is in it is predicted again
        lines = kept.read_text().splitlines()
        kept.write_text("\n".join([lines[0], lines[1][:20], lines[2].replace("[[", "[[9")]))
    sizes, fit = [], Predictor.fit
    monkeypatch.setattr(Predictor, "fit", lambda *a: (sizes.append(len(a[2])), fit(*a))[1])
    assert proposals(problem, 7) == whole
    if not damaged:
        assert {size for size in sizes if size < 40} == {32}  # hyperparameters, as at that time
        assert len(kept.read_text().splitlines()) == 6
    other = replace(problem, seed=1)
    assert proposals(other, 3) == proposals(replace(other, run=None), 3)
