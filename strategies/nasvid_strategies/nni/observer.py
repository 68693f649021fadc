"""The observer of the strategy `nni`: a search as an experiment in NNI's web UI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.shapes import Resolution
from nasvid.strategy import RunContext, SearchObserver
from nasvid_strategies.nni.config import NniConfig
from nasvid_strategies.nni.trials import Trials, warn

if TYPE_CHECKING:
    from nasvid_strategies.nni.strategy import Nni


class NniObserver(SearchObserver[NniConfig]):
    """Shows each proposal as a trial of an NNI experiment.

    Search and evaluation stay in this process. A trial is a shell that waits on loopback while its
    architecture is evaluated, so it only costs its start. A proposal that violates a constraint on
    cost is also a trial, which ends at once with a value worse than any other.
    """

    def __init__(self, strategy: Nni) -> None:
        super().__init__(strategy)
        if self.problem.run is None:
            raise UserError("Strategy 'nni' needs a run to keep its experiment in")
        self._strategy = strategy
        self._trials = Trials(self.config, self.problem, self.problem.run)

    def proposed(self, archs: Sequence[Architecture]) -> None:
        """Show the tuner's infeasible proposals, and queue a trial for each architecture."""
        for refused in self._strategy.take_refused():
            self._trials.refuse(refused.arch, refused.violation, refused.value)
        for arch in archs:
            self._trials.send(arch)

    def evaluating(self, arch: Architecture) -> Mapping[str, str]:
        """Wait for its trial to run; return its id."""
        waiting = self._trials.running(arch)
        return {"trial": waiting.trial} if waiting else {}

    def evaluated(self, evaluation: Evaluation) -> None:
        """Send the metrics to its trial and let it end."""
        metrics = evaluation.metrics
        values = {name: value for name, value in metrics.items() if math.isfinite(value)}
        first = float(self.problem.objective_values([evaluation])[0, 0])
        base = self.problem.objectives[0].partition("@")[0]
        resolutions = sorted(
            Resolution.parse(name.partition("@")[2])
            for name in values
            if name.startswith(f"{base}@")
        )
        final = {"default": first, **values, "violation": evaluation.violation}
        finite = {name: value for name, value in final.items() if math.isfinite(value)}
        self._trials.end(
            evaluation.arch, [values[f"{base}@{resolution}"] for resolution in resolutions], finite
        )

    def close(self) -> None:
        """End the experiment; its records can be viewed again."""
        self._trials.close()

    @classmethod
    def page(cls, config: NniConfig, run: RunContext) -> AbstractContextManager[str]:
        """Serve the web UI of a finished experiment."""
        from nasvid_strategies.nni import binding

        warn(config, run)
        return binding.view(run.folder, config.host, config.port)
