"""An observer in one file: the best architectures of a search, in a text file that grows."""

from collections.abc import Iterator
from contextlib import contextmanager

from nasvid import Config, Evaluation, RunContext, SearchObserver, Strategy


class BestSoFar(SearchObserver):
    """Writes each architecture that is better in the first objective than all before it."""

    def __init__(self, strategy: Strategy) -> None:
        super().__init__(strategy)
        assert self.problem.run is not None
        self.problem.run.folder.mkdir(parents=True, exist_ok=True)
        self.file = (self.problem.run.folder / "best.txt").open("a")
        self.best = float("inf")

    def evaluated(self, evaluation: Evaluation) -> None:
        value = float(self.problem.objective_values([evaluation])[0, 0])
        if evaluation.feasible and value < self.best:
            self.best = value
            print(evaluation.arch.id, value, file=self.file, flush=True)

    def close(self) -> None:
        self.file.close()

    @classmethod
    @contextmanager
    def page(cls, config: Config, run: RunContext) -> Iterator[str]:
        yield (run.folder / "best.txt").as_uri()
