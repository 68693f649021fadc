"""The trials of an NNI experiment, one per architecture."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasvid.architecture import Architecture
from nasvid.errors import Damaged, UserError
from nasvid.host.files import append_line, atomic_path, write_json
from nasvid.host.reading import read_lines
from nasvid.strategy import Problem, RunContext
from nasvid_strategies.nni.config import NniConfig, is_loopback, search_space
from nasvid_strategies.nni.relay import Relay, Waiting

if TYPE_CHECKING:
    from nasvid_strategies.nni.binding import Manager

BEGIN_SECONDS = 60.0
"""Seconds within which a trial must start when it is its turn: NNI takes 1, or 15 when busy."""
KNOWN_SECONDS = 20.0
"""Seconds within which the manager must know a trial that has started."""
END_SECONDS = 15.0
"""Seconds to wait for the manager to notice that trials have ended."""


def warn(config: NniConfig, run: RunContext) -> None:
    """Print a warning if other machines can reach the web UI."""
    if not is_loopback(config.host):
        run.print(
            f"nni: WARNING: the web UI listens on {config.host} without encryption: whoever sees "
            "its address with the token, or its traffic, can run commands as you"
        )


def _sent(line: Any) -> dict[str, Any]:
    return {"id": str(line["id"]), "number": int(line["number"]), "refused": bool(line["refused"])}


class Trials:
    """The trials of one search; the experiment starts with the first."""

    def __init__(self, config: NniConfig, problem: Problem, run: RunContext) -> None:
        self._config, self._problem, self._run = config, problem, run
        self._log = self._run.folder / "trials.jsonl"
        known, damaged = read_lines(self._log, _sent)
        if damaged:
            raise Damaged(
                self._log,
                f"{damaged} lines are not as they were written",
                f"delete {self._run.folder}; every evaluation is in the search's record",
            )
        self._sent = len(known)
        self._before = {line["id"]: line["number"] for line in known if not line["refused"]}
        self._refused_before = sum(line["refused"] for line in known)
        self._numbers: dict[Architecture, int] = {}
        self._arrived: list[tuple[Waiting, float]] = []
        self._running: dict[int, Waiting] = {}
        self._reported: set[int] = set()
        self._ended: set[int] = set()
        self._change = threading.Condition()
        self._manager: Manager | None = None
        self._relay: Relay | None = None

    def send(self, arch: Architecture, *, refused: bool = False) -> None:
        """Queue a trial in NNI, unless an interrupted one is already there."""
        manager = self._started()
        if self._before.get(arch.id) in manager.resumed:
            self._numbers[arch] = self._before[arch.id]
            return
        number, self._sent = self._sent, self._sent + 1
        append_line(self._log, {"number": number, "id": arch.id, "refused": refused})
        self._numbers[arch] = number
        manager.send_trial(number, arch)

    def running(self, arch: Architecture) -> Waiting | None:
        """Wait until an architecture's trial runs; return None if it was ended before that.

        Raises:
            UserError: the manager has ended, or does not start the trial.
        """
        manager, number = self._started(), self._numbers[arch]
        until = time.monotonic() + BEGIN_SECONDS
        while number not in self._running:
            manager.check()
            self._admit(manager)
            if number in self._ended:
                self._run.print(f"nni: the trial of {arch.id} was ended before it ran")
                return None
            if time.monotonic() > until and number not in self._running:
                raise UserError(
                    f"NNI has not started the trial of {arch.id} within {BEGIN_SECONDS:.0f} "
                    f"seconds; see {manager.log}. Run the same command again to resume"
                )
        return self._running[number]

    def _admit(self, manager: Manager) -> None:
        """Accept the trials that have connected and belong to this search; refuse the others."""
        assert self._relay is not None
        with suppress(queue.Empty):
            waiting = self._relay.waiting.get(timeout=0.02 if self._arrived else 0.1)
            self._arrived.append((waiting, time.monotonic() + KNOWN_SECONDS))
        arrived, self._arrived = self._arrived, []
        for waiting, until in arrived:
            came = manager.number_of(waiting.trial)
            if came is None and time.monotonic() < until:
                self._arrived.append((waiting, until))
            elif came is None or came in self._running or came not in self._numbers.values():
                waiting.end(1, "not a trial of this search, or an interrupted one")
            else:
                self._running[came] = waiting

    def end(self, arch: Architecture, values: list[float], final: Mapping[str, float]) -> None:
        """Send an architecture's metrics to its trial and let it end."""
        number = self._numbers[arch]
        waiting = self._running.pop(number, None)
        if waiting is None:
            return
        line = ", ".join(f"{name} {value:.6g}" for name, value in final.items())
        alive = self._started().report(waiting.channel, waiting.trial, number, values, final)
        alive = waiting.end(0, f"{arch.id}: {line}") and alive
        self._reported.add(number)
        if not alive:
            self._run.print(
                f"nni: trial {waiting.trial} was killed; {arch.id} is only in the record"
            )

    def refuse(self, arch: Architecture, violation: float, value: float) -> None:
        """Show an infeasible proposal as a trial that ends at once, unless already shown."""
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
        for waiting in (*self._running.values(), *(each for each, _ in self._arrived)):
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
        with atomic_path(folder / "trial.sh") as temporary:
            shutil.copyfile(Path(__file__).with_name("trial.sh"), temporary)
        self._relay = Relay(folder)
        warn(config, self._run)
        self._manager = Manager(
            folder, self._run.name, config, search_space(self._problem.space), self._note_end
        )
        title = f"NNI experiment {self._manager.id}"
        write_json(folder / "page.json", {"title": title, "verb": "nasvid nni view"})
        self._run.print(f"nni: experiment {self._manager.id} at {self._manager.address}")
        return self._manager

    def _note_end(self, number: int) -> None:
        with self._change:
            self._ended.add(number)
            self._change.notify_all()
