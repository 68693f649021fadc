"""The strategy `nni`: a search that runs as an experiment of NNI and is watched in its web UI."""

from __future__ import annotations

import math
import queue
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nasvid import plugins
from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.host.files import append_line, read_lines, write_json
from nasvid.plugins.needs import Need
from nasvid.strategy import Problem, RunContext, Strategy
from nasvid_strategies.nni.config import NNI_TUNERS, NniConfig, is_loopback, search_space
from nasvid_strategies.nni.relay import Relay, Waiting

if TYPE_CHECKING:
    from nasvid_strategies.nni.binding import Manager
    from nasvid_strategies.nni.proposer import NniTuner

END_SECONDS = 15.0
"""In which the manager has to notice that trials have ended."""


class Nni(Strategy[NniConfig]):
    """An experiment of NNI 3.0: its tuners or a strategy of nasvid, watched in its web UI.

    Search and evaluation stay in this process. A trial is a shell that waits on loopback while its
    architecture is judged, so it costs no more than its start. What misses a constraint on cost is
    a trial, too, answered at once with a value that is worse than any.
    """

    needs: ClassVar = (Need("nni", "pip install 'nasvid[nni]'"),)

    def __init__(self, config: NniConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        if problem.run is None:
            raise UserError("the strategy nni needs a run to keep its experiment in")
        self._run = problem.run
        self._tuner: NniTuner | None = None
        self._strategy: Strategy | None = None
        if config.tuner in NNI_TUNERS:
            # Here, and below, for NNI takes seconds to import, and may be missing.
            from nasvid_strategies.nni.proposer import NniTuner

            self._tuner = NniTuner(problem, config.tuner, config.arguments)
        else:
            cls = plugins.load("strategies", config.tuner)
            self._strategy = cls(cls.Config.model_validate(config.arguments), problem)
        self._trials = _Trials(config, problem)

    def ask(self, n: int) -> list[Architecture]:
        """Return what the tuner proposes; its infeasible proposals are answered here."""
        if self._tuner is None:
            return self._proposer.ask(n)
        asked = self._tuner.ask(min(n, self.config.concurrency))
        for arch, violation, value in self._tuner.refused:
            self._trials.refuse(arch, violation, value)
        self._tuner.refused.clear()
        return asked

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Tell the tuner."""
        self._proposer.tell(results)

    @property
    def _proposer(self) -> NniTuner | Strategy:
        proposer = self._tuner or self._strategy
        assert proposer is not None
        return proposer

    def announce(self, archs: Sequence[Architecture]) -> None:
        """Put a trial for each into NNI's queue."""
        for arch in archs:
            self._trials.send(arch)

    def about(self, arch: Architecture) -> Mapping[str, str]:
        """Wait for its trial to run; return its id."""
        waiting = self._trials.running(arch)
        return {"trial": waiting.trial} if waiting else {}

    def evaluated(self, result: Evaluation) -> None:
        """Give its trial the metrics and let it end."""
        values = {name: value for name, value in result.metrics.items() if math.isfinite(value)}
        first = float(self.problem.objective_values([result])[0, 0])
        base = self.problem.objectives[0].partition("@")[0]
        sides = sorted(
            int(name.partition("@")[2]) for name in values if name.startswith(f"{base}@")
        )
        final = {"default": first, **values, "violation": result.violation}
        finite = {name: value for name, value in final.items() if math.isfinite(value)}
        self._trials.end(result.arch, [values[f"{base}@{side}"] for side in sides], finite)

    def close(self) -> None:
        """End the experiment; what it has recorded can be viewed again."""
        self._trials.close()

    @classmethod
    def show(cls, run: RunContext, options: Mapping[str, Any]) -> AbstractContextManager[str]:
        """Serve the web UI of a finished experiment."""
        from nasvid_strategies.nni import binding

        config = NniConfig.model_validate(dict(options))
        _warn(config, run)
        return binding.view(run.folder, config.host, config.port)


def _warn(config: NniConfig, run: RunContext) -> None:
    """Say so where others than this machine reach the web UI."""
    if not is_loopback(config.host):
        run.say(
            f"nni: WARNING: the web UI listens on {config.host} without any authentication: "
            "whoever reaches it can run commands as you"
        )


class _Trials:
    """The experiment's trials, each of one architecture; the experiment starts with the first."""

    def __init__(self, config: NniConfig, problem: Problem) -> None:
        assert problem.run is not None
        self._config, self._problem, self._run = config, problem, problem.run
        self._log = self._run.folder / "trials.jsonl"
        known = read_lines(self._log)
        self._sent = len(known)
        self._before = {line["id"]: line["number"] for line in known if not line["refused"]}
        self._refused_before = sum(line["refused"] for line in known)
        self._numbers: dict[Architecture, int] = {}
        self._running: dict[int, Waiting] = {}
        self._reported: set[int] = set()
        self._ended: set[int] = set()
        self._change = threading.Condition()
        self._manager: Manager | None = None
        self._relay: Relay | None = None

    def send(self, arch: Architecture, *, refused: bool = False) -> None:
        """Put a trial into NNI's queue, unless one that was interrupted is there again."""
        manager = self._started()
        if self._before.get(arch.id) in manager.resumed:
            self._numbers[arch] = self._before[arch.id]
            return
        number, self._sent = self._sent, self._sent + 1
        append_line(self._log, {"number": number, "id": arch.id, "refused": refused})
        self._numbers[arch] = number
        manager.send_trial(number, arch)

    def running(self, arch: Architecture) -> Waiting | None:
        """Wait until the trial of an architecture runs; None where it was ended before.

        Raises:
            UserError: the manager has ended.
        """
        manager, relay, number = self._started(), self._relay, self._numbers[arch]
        assert relay is not None
        while number not in self._running:
            try:
                waiting = relay.waiting.get(timeout=0.1)
            except queue.Empty:
                manager.check()
                if number in self._ended:
                    self._run.say(f"nni: the trial of {arch.id} was ended before it ran")
                    return None
                continue
            came = manager.number_of(waiting.trial)
            if came in self._numbers.values():
                self._running[came] = waiting
            else:
                waiting.end(1, "interrupted; what is known of it is in the record")
        return self._running[number]

    def end(self, arch: Architecture, values: list[float], final: Mapping[str, float]) -> None:
        """Give the trial of an architecture its metrics and let it end."""
        number = self._numbers[arch]
        waiting = self._running.pop(number, None)
        if waiting is None:
            return
        said = ", ".join(f"{name} {value:.6g}" for name, value in final.items())
        there = self._started().report(waiting.channel, waiting.trial, number, values, final)
        there = waiting.end(0, f"{arch.id}: {said}") and there
        self._reported.add(number)
        if not there:
            self._run.say(
                f"nni: trial {waiting.trial} was killed: {arch.id} is in the record alone"
            )

    def refuse(self, arch: Architecture, violation: float, value: float) -> None:
        """Show an infeasible proposal as a trial that is answered at once, unless it is shown."""
        if self._refused_before > 0:
            self._refused_before -= 1
            return
        self.send(arch, refused=True)
        if self.running(arch) is not None:
            params = self._problem.space.cost(arch, "params", self._problem.shape)
            final = {"default": value, "params": params, "violation": violation}
            self.end(arch, [], final)

    def close(self) -> None:
        """Wait until the manager has noticed the ends of trials; then end it."""
        if self._relay is not None:
            self._relay.close()
        for waiting in self._running.values():
            waiting.connection.close()
        manager, self._manager = self._manager, None
        if manager is not None:
            with suppress(UserError), self._change:
                manager.check()
                self._change.wait_for(lambda: self._reported <= self._ended, END_SECONDS)
            manager.close()

    def _started(self) -> Manager:
        if self._manager is not None:
            return self._manager
        from nasvid_strategies.nni.binding import Manager

        config, folder = self._config, self._run.folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("trial.sh"), folder / "trial.sh")
        self._relay = Relay(folder)
        _warn(config, self._run)
        self._manager = Manager(
            folder,
            name=self._run.name,
            tuner=config.tuner,
            space=search_space(self._problem.space),
            concurrency=config.concurrency,
            host=config.host,
            port=config.port,
            on_end=self._note_end,
        )
        title = f"experiment {self._manager.id} of NNI"
        write_json(folder / "page.json", {"title": title, "verb": "nasvid nni view"})
        self._run.say(f"nni: experiment {self._manager.id} at http://{config.host}:{config.port}")
        return self._manager

    def _note_end(self, number: int) -> None:
        with self._change:
            self._ended.add(number)
            self._change.notify_all()
