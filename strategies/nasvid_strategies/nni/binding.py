"""NNI's manager and its tuners. Beside `rest` the only module that imports NNI.

NNI 3.0 is its last release. This module adds what its Python API lacks: an address to listen on, a
command channel for a tuner in this process, a start that may take longer than three seconds.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
import requests
from nni import NoMoreTrialError
from nni.algorithms.hpo.batch_tuner import BatchTuner
from nni.algorithms.hpo.evolution_tuner import EvolutionTuner
from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner
from nni.algorithms.hpo.random_tuner import RandomTuner
from nni.algorithms.hpo.tpe_tuner import TpeTuner
from nni.common.hpo_utils.dedup import Deduplicator
from nni.experiment import Experiment, ExperimentConfig, RunMode, launcher, rest
from nni.experiment.config import AlgorithmConfig
from nni.runtime.tuner_command_channel import CommandType, TunerCommandChannel
from nni.tuner import Tuner

from nasvid.errors import Damaged, UserError
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, read_json
from nasvid.host.streams import stream
from nasvid_strategies.nni.config import NniConfig
from nasvid_strategies.nni.rest import LOOPBACK, Client

START_SECONDS = 60
"""Seconds within which the manager must answer after its start."""
POLL = 0.05
"""Seconds between two checks whether it does, or has ended."""
PRELOADED = Path(__file__).with_name("loopback.js")
FOREIGN = -1
"""Stands for the number of a trial that this search has not sent."""
TRIAL_COMMAND = "bash trial.sh"
ID_OPTION = "--experiment-id"
"""Of the manager's command line."""
Space = Mapping[str, Any]
"""A search space in NNI's format: name -> `_type` and `_value`."""


class Manager:
    """NNI's manager process of one experiment, with this process as its tuner.

    on_end: called with the number of each trial that has ended. resumed: numbers of interrupted
    trials that the manager has queued again. address: of the web UI, with the token.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: NniConfig,
        space: Space,
        on_end: Callable[[int], None],
    ) -> None:
        """Resume the experiment in `folder`, or start a new one.

        Raises:
            UserError: the port is taken, or the manager does not start.
        """
        config = _config(folder)
        config.experiment_name = name
        config.search_space = dict(space)
        config.trial_concurrency = settings.concurrency
        config.tuner = _tuner_shown(settings.tuner)
        known = _known(folder).get("id")
        if known and not _is_own(folder, known):
            known = None
        self._experiment = _Experiment(config, id=known)
        if known:
            self._experiment._action = "resume"
        self._folder = folder
        self._client = _started(self._experiment, folder, settings.host, settings.port)
        self.address = self._client.address(settings.host)
        self._on_end = on_end
        self.resumed: set[int] = set()
        self._ended = False
        self._channel = TunerCommandChannel(f"ws://{LOOPBACK}:{settings.port}/tuner")
        self._channel.connect()
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._ready.wait(START_SECONDS):  # anything sent earlier may be lost
            self.close()
            raise UserError(f"NNI's manager did not start the experiment; see {self.log}")

    @property
    def id(self) -> str:
        """The experiment's id."""
        return self._experiment.id

    def send_trial(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Put a trial into the queue.

        Raises:
            UserError: the manager has ended.
        """
        self.check()
        try:
            self._channel.send_trial(number, dict(parameters))
        except Exception as error:  # any error of the channel means that the manager is gone
            raise self._gone() from error

    def check(self) -> None:
        """Raise UserError if the manager has ended."""
        process = self._experiment._proc
        if self._ended or process is None or process.poll() is not None:  # pyright: ignore[reportAttributeAccessIssue]
            raise self._gone()

    def _gone(self) -> UserError:
        return UserError(
            f"NNI's manager has ended; see {self.log}. Run the same command again to resume"
        )

    def number_of(self, trial: str) -> int | None:
        """Return the number with which a trial's parameters were sent; `FOREIGN` if not by us.

        None if the manager does not know the trial (yet): it would lose the trial's metrics.
        """
        try:
            job = self._client.get(f"trial-jobs/{quote(trial, safe='')}")
            return _number(job["hyperParameters"][0])
        except (requests.RequestException, KeyError, IndexError):
            return None

    def report(
        self, channel: str, trial: str, number: int, values: list[float], final: Mapping[str, float]
    ) -> bool:
        """Send a trial its metrics: the intermediate ones in order, then the final ones.

        Returns:
            whether the trial was still running.
        """
        kinds = [("PERIODICAL", value) for value in values] + [("FINAL", dict(final))]
        for sequence, (kind, value) in enumerate(kinds):
            metric = {
                "parameter_id": number,
                "trial_job_id": trial,
                "type": kind,
                "sequence": sequence if kind == "PERIODICAL" else 0,
                "value": json.dumps(value),
            }
            message = {"type": "metric", "metric": json.dumps(metric)}
            if not self._client.put(channel, message):
                return False
        return True

    @property
    def log(self) -> Path:
        """The manager's log file."""
        return self._folder / self.id / "log" / "nnimanager.log"

    def close(self) -> None:
        """End the manager and all its trials."""
        self._ended = True
        _stop(self._experiment, self._client)

    def _listen(self) -> None:
        with suppress(Exception):  # any error of the channel ends the experiment
            while True:
                command, content = self._channel._receive()
                if command is CommandType.TrialEnd:
                    self._on_end(_number(json.loads(content or "{}")["hyper_params"]))
                elif command is CommandType.Initialize:
                    self._channel.send_initialized()
                elif command is CommandType.AddCustomizedTrialJob:
                    self.resumed |= set(map(_number, json.loads(content or "[]"))) - {FOREIGN}
                elif command is CommandType.RequestTrialJobs:
                    self._ready.set()
                elif command in (None, CommandType.Terminate):
                    break
        self._ended = True


@contextmanager
def view(folder: Path, host: str, port: int) -> Iterator[str]:
    """Serve a stopped experiment's web UI while the context lasts; yield its address.

    Raises:
        UserError: the folder has no experiment, the port is taken, or the manager does not start.
    """
    known = _known(folder)
    if not known:
        raise UserError(f"{folder} holds no NNI experiment")
    experiment = _Experiment(_config(folder), id=known["id"])
    experiment._action = "view"
    client = _started(experiment, folder, host, port)
    try:
        yield client.address(host)
    finally:
        _stop(experiment, client)


def _config(folder: Path) -> ExperimentConfig:
    """Return the settings that all experiments in a folder share."""
    config = ExperimentConfig("local")
    config.experiment_working_directory = str(folder.resolve())
    config.search_space = {}
    config.trial_command = TRIAL_COMMAND
    config.trial_code_directory = str(folder.resolve())
    config.trial_concurrency = 1
    config.tuner = _tuner_shown("Random")
    return config


def _tuner_shown(name: str) -> AlgorithmConfig:
    """Return a tuner that only the web UI reads, to show the best trial; no tuner is started."""
    return AlgorithmConfig(name=name, class_args={"optimize_mode": "minimize"})


def _is_own(folder: Path, experiment: str) -> bool:
    """Return whether an experiment that is resumed would run this folder's trials.

    NNI's manager reads the command and its folder from the experiment's database. If the run was
    moved, that folder is gone; if somebody else made the run, the command could be anything. NNI's
    own reader of the database is not used, because it can unpickle.
    """
    path = folder / experiment / "db" / "nni.sqlite"
    newest = "select params from ExperimentProfile where id = ? order by revision desc"
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error, ValueError):
        (stored,) = database.execute(newest, (experiment,)).fetchone() or ("{}",)
        kept, own = json.loads(stored), _config(folder)
        return (kept.get("trialCommand"), kept.get("trialCodeDirectory")) == (
            own.trial_command,
            own.trial_code_directory,
        )
    return False


class _Experiment(Experiment):
    """An experiment whose tuner connects to the channel instead of being started by NNI."""

    def _start_nni_manager(
        self,
        port: int,
        debug: bool,
        run_mode: RunMode = RunMode.Background,
        tuner_command_channel: str | None = None,
        tags: list[str] = [],  # noqa: B006 (as NNI has it)
    ) -> None:
        if self._action != "view":
            tuner_command_channel = f"ws://localhost:{port}/tuner"
        super()._start_nni_manager(port, debug, run_mode, tuner_command_channel, ["nasvid", *tags])


def _started(experiment: Experiment, folder: Path, host: str, port: int) -> Client:
    """Start an experiment's manager, which ends when this process does, for any reason."""
    _end_stale(folder)
    host = LOOPBACK if host == "localhost" else host  # the manager might resolve it to ::1 only
    _check_address(host, port)
    client = Client(port)
    launcher._check_rest_server = _until_it_answers  # which of NNI's own looks once a second
    options = f"{os.environ.get('NODE_OPTIONS', '')} --require {json.dumps(str(PRELOADED))}".strip()
    given = {"NODE_OPTIONS": options, "NASVID_NNI_HOST": host, "NASVID_NNI_TOKEN": client.token}
    before = {key: os.environ.get(key) for key in given}
    os.environ |= given
    try:
        experiment.start(port, run_mode=RunMode.Detach)
    except Exception as error:
        log = folder / experiment.id / "log"
        raise UserError(f"NNI's manager did not start: {error}; see {log}") from error
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
    process = experiment._proc
    assert process is not None
    about = {"id": experiment.id, "pid": process.pid, "port": port}
    write_json(folder / "experiment.json", about)
    return client


def _until_it_answers(port: int, url_prefix: str | None = None) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            rest.get(port, "/check-status", url_prefix)
            return
        except requests.RequestException:
            if time.monotonic() > until:
                raise
        time.sleep(POLL)


def _check_address(host: str, port: int) -> None:
    """Raise UserError if nothing can listen there; the manager would not report it."""
    for each in dict.fromkeys((LOOPBACK, host)):
        family = socket.AF_INET6 if ":" in each else socket.AF_INET
        try:
            socket.create_server((each, port), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"Port {port} is in use; choose another with search.strategy.port"
            else:
                problem = f"search.strategy.host: nothing can listen on {each}: {error.strerror}"
            raise UserError(problem) from error


def _number(parameters: str | dict[str, Any]) -> int:
    """Return the number in a trial's parameters as NNI keeps them; `FOREIGN` if it has none.

    A trial that a person has added on the web page has none.
    """
    known = json.loads(parameters) if isinstance(parameters, str) else parameters
    number = known.get("parameter_id")
    return number if isinstance(number, int) else FOREIGN


def _stop(experiment: Experiment, client: Client) -> None:
    process = experiment._proc
    with suppress(Exception):  # the manager may be gone already
        client.delete("experiment")
    if process is not None:
        _end(psutil.Process(process.pid) if psutil.pid_exists(process.pid) else None)
        process.poll()  # pyright: ignore[reportAttributeAccessIssue] (leaves no zombie)
    experiment._proc = experiment.port = None
    experiment._stop_logging()


def _end(process: psutil.Process | None) -> None:
    """Wait for a process and its children; kill those that do not end."""
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        for each in (*_alive([process], 10), *family[1:]):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        _alive(family, 5)


def _alive(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until processes have ended; return those that have not.

    One that has ended, but whose parent does not ask how, stays as a zombie while that parent runs.
    """
    until = time.monotonic() + seconds
    while alive := [each for each in processes if _runs(each)]:
        if time.monotonic() > until:
            break
        time.sleep(POLL)
    return alive


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end_stale(folder: Path) -> None:
    """End a manager of this folder that an earlier call has left running."""
    pid = _known(folder).get("pid")
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid) if pid else None
        command = process.cmdline() if process else []
        started = command[command.index(ID_OPTION) + 1 :][:1] if ID_OPTION in command else []
        if process and started == [_known(folder)["id"]]:
            process.terminate()
            _end(process)


def _known(folder: Path) -> dict[str, Any]:
    """Return a folder's recorded experiment; empty if there is none to resume."""
    path = folder / "experiment.json"
    try:
        known = read_json(path, _experiment) or {}
    except Damaged as damaged:
        fix = "delete it; the next search is a new experiment"
        raise Damaged(path, damaged.reason, fix) from damaged
    if not re.fullmatch(r"\w+", known.get("id", "")):
        return {}
    return known if (folder / known["id"] / "db" / "nni.sqlite").exists() else {}


def _experiment(value: Any) -> dict[str, Any]:
    pid = value.get("pid")
    if pid is not None and not (type(pid) is int and 0 < pid < 2**31):
        raise ValueError("its pid is no process's")
    return as_object(value) | {"id": str(value["id"])}


def _keep_quiet() -> None:
    """Keep NNI's log messages out of the terminal; they are in the experiment's folder."""
    logger = logging.getLogger("nni")
    logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
    logger.propagate = False


_keep_quiet()  # importing NNI makes it log to the terminal

# Tuners

TUNERS: dict[str, type[Tuner]] = {
    "TPE": TpeTuner,
    "Random": RandomTuner,
    "Evolution": EvolutionTuner,
    "GridSearch": GridSearchTuner,
    "Batch": BatchTuner,
}

VARIED = 100
"""Changes to a repeated proposal before NNI chooses a new one."""


def make_tuner(name: str, arguments: Mapping[str, Any], space: Space, seed: int) -> Tuner:
    """Make an NNI tuner that minimises, with all random numbers derived from the seed.

    Raises:
        UserError: the tuner does not accept the arguments.
    """
    cls, given = TUNERS[name], dict(arguments)
    if name in ("TPE", "Random"):
        given["seed"] = seed
    if name in ("TPE", "Evolution"):
        given["optimize_mode"] = "minimize"
    try:
        tuner = cls(**given)
        tuner.update_search_space(dict(space))
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"search.strategy.arguments: NNI's {name} tuner does not accept them: {error}"
        ) from error
    if isinstance(tuner, EvolutionTuner):
        _seed_evolution(tuner, seed)
    if isinstance(tuner, TpeTuner):
        tuner.dedup = _Varied(tuner, seed)
    return tuner


class _Varied(Deduplicator):
    """Changes choices of TPE's repeated proposals one by one until they are new.

    NNI takes the next point of a grid instead, which begins at the smallest architecture. TPE soon
    settles on one value of choices with two or three options, and then the search would be a grid.
    """

    def __init__(self, tuner: TpeTuner, seed: int) -> None:
        super().__init__(tuner.space)  # pyright: ignore[reportArgumentType]
        self._rng = stream(seed, "proposals")

    def __call__(self, formatted_parameters: Any) -> Any:
        varied, keys = dict(formatted_parameters), list(self._space)
        for _ in range(VARIED):
            if self._not_dup(varied):
                return varied
            key = keys[self._rng.integers(len(keys))]
            varied[key] = int(self._rng.integers(self._space[key].size))
        return super().__call__(varied)


def _seed_evolution(tuner: EvolutionTuner, seed: int) -> None:
    """Redraw its first generation, which NNI seeds from the clock."""
    tuner.random_state = np.random.RandomState(seed % 2**32)
    tuner.population = []
    for _ in range(tuner.population_size):
        tuner._random_generate_individual()


def propose(tuner: Tuner, number: int) -> dict[str, Any] | None:
    """Return a tuner's proposal with a number; None if it has no more."""
    try:
        return tuner.generate_parameters(number)
    except NoMoreTrialError:
        return None


@contextmanager
def seeded(generator: random.Random) -> Iterator[None]:
    """Make the module `random`, which NNI's evolution uses, continue from a generator."""
    before = random.getstate()
    random.setstate(generator.getstate())
    try:
        yield
    finally:
        generator.setstate(random.getstate())
        random.setstate(before)
