"""Processes that compute values ahead: started, watched, restarted once, and always ended."""

from __future__ import annotations

import copyreg
import errno
import io
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from ctypes import c_char
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import RawArray
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nasvid.data import cancel
from nasvid.data.errors import DataError
from nasvid.distributed.parent import end_with_parent
from nasvid.errors import UserError
from nasvid.host.machine import shared_memory
from nasvid.host.terminal import say

PREFETCH = 3
"""Number of values that each process computes ahead."""
FILES = 64
"""Number of files that this process may have to open for each of the others."""
SAID = 400
"""Most bytes of the reason that a process gives for ending."""


class _Died(Exception):
    """A process has ended unexpectedly; the message says what is known."""


class _Requests:
    """Requests, those handed out and not yet answered, and the number of answered ones."""

    def __init__(self, requests: Iterable[Any]) -> None:
        self._requests: Iterator[Any] = iter(requests)
        self._open: deque[Any] = deque()
        self.answered = 0

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            self._open.append(request)
            yield request

    def answer(self) -> None:
        self._open.popleft()
        self.answered += 1

    def again(self) -> None:
        """Hand out the unanswered requests again."""
        self._requests = chain(self._open, self._requests)
        self._open = deque()
        self.answered = 0


def run_workers(
    dataset: Dataset[Any],
    requests: Iterable[Any],
    workers: int,
    *,
    setting: str = "data.workers",
) -> Generator[Any, None, None]:
    """Yield `dataset[request]` of each request, in order, made by `workers` processes (0: by this).

    If one dies, all are started again with what was not answered, and what they make then comes
    through pipes. The processes end when the iterator is closed or dropped, or when this process
    dies. setting: where their number was set, for messages.

    Raises:
        DataError: processes cannot be started, or one has died again before the next value.
        UserError: the dataset has returned it.
    """
    remaining, copied = _Requests(requests), False
    while True:
        try:
            with closing(_results(dataset, remaining, workers, copied, setting)) as results:
                for result in results:
                    if isinstance(result, UserError):
                        raise result
                    remaining.answer()
                    yield result
            return
        except _Died as died:
            why = f"A loader process died, often because memory ran out: {died}"
            if copied and not remaining.answered:
                raise DataError(f"{why}; try fewer {setting}") from None
            say(f"{why}. Starting again from the same clips", err=True)
            remaining.again()
            copied = True


def _results(
    dataset: Dataset[Any], requests: _Requests, workers: int, copied: bool, setting: str
) -> Generator[Any, None, None]:
    """Yield the results of one set of processes.

    copied: whether all results come through pipes; otherwise only those for which shared memory
    may be too small.
    """
    ending, said = cancel.Flag(), RawArray(c_char, SAID)
    with _as_many_as_wanted():
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=partial(_begin, ending, said, _on_main_thread()),
            collate_fn=partial(_packed, copied) if workers else _unchanged,
            generator=torch.Generator(),
        )
    others = set(multiprocessing.active_children())
    results = None
    try:
        results = _start(loader, workers, setting)
        while (result := _next(results, said)) is not None:
            yield _unpacked(result)
    finally:
        ending.set()
        del results  # the last reference: torch ends the processes
        _kill(set(multiprocessing.active_children()) - others)


@contextmanager
def _as_many_as_wanted() -> Iterator[None]:
    """Keep torch's warning of more processes than cores back: somebody has chosen their number."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


def _kill(processes: Iterable[BaseProcess]) -> None:
    """End processes that nothing else ends; they have no state to save."""
    for process in processes:
        process.kill()
        process.join()


def _next(results: Iterator[Any], said: Any) -> Any:
    try:
        return next(results, None)
    except (RuntimeError, EOFError, OSError) as error:
        # Other errors: it died between announcing a value and handing over its memory.
        known = ("DataLoader worker", "ancdata")
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in known):
            raise
        raise _Died(said.value.decode("utf-8", "replace") or str(error)) from None


def _start(loader: DataLoader[Any], workers: int, setting: str) -> Iterator[Any]:
    """Start the processes without torch's SIGCHLD handler.

    It would raise an error anywhere in the caller's code when a process dies; `_next` notices too.

    Raises:
        DataError: this machine does not allow so many.
    """
    before = (signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL) if _on_main_thread() else None
    try:
        with _as_many_as_wanted():
            return iter(loader)
    except OSError as error:
        if not workers:
            raise
        for created in _created(error):  # its processes are not all there: torch cannot end it
            created._shutdown = True
        what = f"{workers} loader processes cannot be started: {error.strerror}"
        raise DataError(f"{what}; {_advice(error)}, or lower {setting}") from error
    except Exception as error:  # of the first requests; left to the garbage collector, torch's
        for created in _created(error):  # iterator would end after the queues that it ends by
            created._shutdown_workers()
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _created(error: Exception) -> Iterator[Any]:
    """Yield the iterator in whose creation an error was raised."""
    at = error.__traceback__
    while at is not None:
        made = at.tb_frame.f_locals.get("self")
        if hasattr(made, "_shutdown_workers"):
            yield made
            return
        at = at.tb_next


def _advice(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"this process may open {files} files; raise that with ulimit -n 1024"
    if error.errno == errno.EAGAIN:
        processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        return f"this user may run {processes} processes; raise that with ulimit -u"
    return "give this machine or container more memory, and a writable /dev/shm"


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _begin(ending: cancel.Flag, said: Any, of_main_thread: bool, worker: int) -> None:
    """Ignore requests to stop: the parent may have to finish a step and a checkpoint first.

    Signals may be sent to the whole process group. The process ends when the parent asks it to or
    dies, and then cancels its downloads. It also ends if it cannot hand over a value, which
    multiprocessing would drop: the parent would wait for it forever. If the parent is killed it
    ends at once: until then it would hold the lock of the run's folder. Threads come and go, so a
    process that one has started does not end with it.
    """
    del worker
    if of_main_thread:
        end_with_parent()
    cancel.follow(ending)

    def ask(number: int, frame: Any) -> None:
        del number, frame
        if ending.is_set():
            os._exit(0)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, ask)

    def give_up(error: BaseException, value: Any) -> NoReturn:
        del value
        text = f"it cannot hand over a batch ({str(error).partition(chr(10))[0]})"
        said.value = text.encode()[: SAID - 1]
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(give_up)  # pyright: ignore[reportAttributeAccessIssue]


def _unchanged(value: Any) -> Any:
    return value


class _Copied:
    """A value as bytes, which go through a pipe: they need no shared memory and no file.

    content: the pickled value.
    """

    def __init__(self, value: Any) -> None:
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, protocol=5)
        pickler.dispatch_table = copyreg.dispatch_table | {torch.Tensor: _as_array}
        pickler.dump(value)
        self.content = buffer.getvalue()


def _as_array(tensor: torch.Tensor) -> tuple[Any, ...]:
    return torch.from_numpy, (tensor.numpy(),)


def _packed(copied: bool, value: Any) -> Any:
    """Return a value in the form that is handed over.

    copied: copy it, even if there is shared memory for it.
    """
    return _Copied(value) if copied or _is_scarce(value) else value


def _unpacked(value: Any) -> Any:
    # Safe: the bytes come from a process that this one has forked, never from a shard.
    return pickle.loads(value.content) if isinstance(value, _Copied) else value


def _is_scarce(value: Any) -> bool:
    """Return whether shared memory or files may run out if each process hands over such values."""
    if not is_dataclass(value):
        return False
    fields_of = [getattr(value, each.name) for each in fields(value)]
    parts = [part for each in fields_of for part in (each if isinstance(each, tuple) else (each,))]
    size = sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
    info = get_worker_info()
    others = info.num_workers if info else 1
    on_the_way = PREFETCH * others  # checked, and perhaps not yet allocated
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < FILES * others:
        return True
    memory = shared_memory()
    return memory is not None and size * (on_the_way + 1) > memory.free
