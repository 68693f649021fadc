"""The strategy `nni`: an NNI tuner or any other strategy, shown in NNI's web UI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from nasvid import plugins
from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.plugins.needs import Need
from nasvid.strategy import Problem, Strategy
from nasvid_strategies.nni.config import NNI_TUNERS, NniConfig
from nasvid_strategies.nni.observer import NniObserver

if TYPE_CHECKING:
    from nasvid_strategies.nni.proposer import NniTuner, Refused


class Nni(Strategy[NniConfig]):
    """An NNI 3.0 tuner or a nasvid strategy, shown as an experiment in NNI's web UI."""

    Observer = NniObserver
    needs: ClassVar = (Need("nni", "pip install 'nasvid[nni]'"),)

    def __init__(self, config: NniConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self._tuner: NniTuner | None = None
        if config.tuner in NNI_TUNERS:
            # Imported only now, because NNI takes seconds to import and may be missing.
            from nasvid_strategies.nni.proposer import NniTuner

            self._tuner = NniTuner(problem, config.tuner, config.arguments)
            self._proposer: NniTuner | Strategy = self._tuner
        else:
            cls: type[Strategy] = plugins.load("strategies", config.tuner)
            self._proposer = cls(cls.Config.model_validate(config.arguments), problem)

    def ask(self, n: int) -> list[Architecture]:
        """Return the tuner's proposals; from an NNI tuner, at most as many as trials may run."""
        return self._proposer.ask(min(n, self.config.concurrency) if self._tuner else n)

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Report the results to the tuner."""
        self._proposer.tell(results)

    def take_refused(self) -> list[Refused]:
        """Return the infeasible proposals since the last call."""
        if self._tuner is None:
            return []
        taken, self._tuner.refused = self._tuner.refused, []
        return taken
