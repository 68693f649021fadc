"""Writing a checkpoint, at once or behind training: in steps that all ranks make together."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nasvid.distributed.ranks import Ranks
from nasvid.host.aligned import ALIGNMENT, aligned, size_of
from nasvid.host.files import (
    FAILING,
    NotWritten,
    make_folder,
    replace_folder,
    sync,
    write_json,
    writing,
)
from nasvid.host.reading import note_written
from nasvid.training.checkpoint import STATES, WEIGHTS, Trained, damage, remove_others
from nasvid.training.portable import state_of
from nasvid.training.progress import Progress
from nasvid.training.staging import room

Files = Mapping[str, Mapping[str, torch.Tensor]]
"""The tensors of each file, by their names."""
Step = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training's checkpoints are written, by which ranks, and how many are kept."""

    folder: Path
    ranks: Ranks
    keep: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a rank writes into a checkpoint. progress: of training, as plain values."""

    progress: Mapping[str, Any]
    files: Files

    @classmethod
    def of(cls, trained: Trained, progress: Progress, ranks: Ranks) -> Content:
        """Return what only this rank holds, and what rank 0 writes for all; nothing is copied."""
        files: dict[str, Mapping[str, torch.Tensor]] = {}
        if ranks.is_rank0:
            weights = trained.net.state_dict()
            files[WEIGHTS] = {name: tensor.detach() for name, tensor in weights.items()}
        if ranks.is_rank0 or trained.engine.divided:
            size = ranks.size if trained.engine.divided else 1
            name = STATES.replace("*", f"{ranks.rank:05d}-of-{size:05d}")
            files[name] = state_of(trained.engine, trained.ema)
        return cls(asdict(progress), files)

    def size(self, *, ages: bool) -> int:
        """Return the bytes of copies once all weights have been trained.

        ages: whether each weight has its own. The optimizer has no state of what is not trained.
        """
        weights = self.files.get(WEIGHTS, {}).values()
        named = [pair for tensors in self.files.values() for pair in tensors.items()]
        averages = [tensor for name, tensor in named if name.startswith("ema/")]
        parts = 4 if ages else 3  # the averages, two moments of each, and the ages
        return sum(map(room, weights)) + sum(parts * room(each) + ALIGNMENT for each in averages)


class Abandoned(Exception):
    """A checkpoint is not written any further, because its training has ended."""


class Writing:
    """A checkpoint that is being written.

    Each rank makes its part of a step, in any thread, and its main thread takes the outcome to the
    others. So none begins a step before all have made the one before, and only main threads
    communicate. `step` is the next one, None when the checkpoint is written.

    path: of the checkpoint, `step-XXXXXXXX`.
    """

    def __init__(self, place: Place, content: Content) -> None:
        self._place, self._content = place, content
        self.path = place.folder / f"step-{content.progress['step']:08d}"
        self._temporary = self.path.with_name(f".{self.path.name}")
        self._is_abandoned = False
        self._steps = self._all_steps()
        self.step: Step | None = next(self._steps)

    def make(self) -> Any:
        """Make this rank's part of the step; return its outcome, which may be that it cannot."""
        assert self.step is not None
        try:
            return self.step()
        except NotWritten as error:
            return error

    def exchange(self, outcome: Any) -> None:
        """Exchange the outcomes of a step that all ranks have made.

        Raises:
            NotWritten: any rank could not write; the checkpoint is given up.
            RankLost: another rank has ended.
        """
        outcomes = self._place.ranks.gather(outcome)
        errors = [each for each in outcomes if isinstance(each, NotWritten)]
        try:
            self.step = self._steps.throw(errors[0]) if errors else self._steps.send(outcomes)
        except StopIteration:
            self.step = None

    def abandon(self) -> None:
        """Let the step that another thread makes end soon, with Abandoned."""
        self._is_abandoned = True

    def _all_steps(self) -> Generator[Step, list[Any], None]:
        is_rank0 = self._place.ranks.is_rank0
        try:
            is_there, *_ = yield lambda: is_rank0 and self._begin()
            if not is_there:
                sums = yield self._write_part
                yield lambda: is_rank0 and self._end(sums)
        except NotWritten:  # on all ranks, none of which writes any more
            if is_rank0:
                shutil.rmtree(self._temporary, ignore_errors=True)
            raise

    def _begin(self) -> bool:
        """Make way for the checkpoint; return whether it is there already, and intact."""
        if damage(self.path) is None:
            remove_others(self.path, self._place.keep)
            return True
        with writing(self.path, numbers=FAILING):
            shutil.rmtree(self._temporary, ignore_errors=True)
            make_folder(self._temporary)
        return False

    def _write_part(self) -> dict[str, str]:
        """Write this rank's files until they are on the disk; return each one's checksum."""
        files, sums = self._content.files, {}
        with writing(self.path, sum(map(size_of, files.values())), FAILING):
            for name, tensors in files.items():
                sums[name] = self._write(self._temporary / name, tensors)
        return sums

    def _write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for block in aligned(tensors):
                if self._is_abandoned:
                    raise Abandoned
                file.write(block)
                digest.update(block)
        sync(path)
        note_written(path, digest.hexdigest())
        return digest.hexdigest()

    def _end(self, sums: list[dict[str, str]]) -> None:
        """Let the checkpoint count, all of which is on the disk, and remove older ones."""
        merged = {name: each for part in sums for name, each in part.items()}
        state = {"progress": self._content.progress, "sha256": merged}
        with writing(self.path, numbers=FAILING):
            write_json(self._temporary / "state.json", state)
            replace_folder(self._temporary, self.path)
        remove_others(self.path, self._place.keep)


def save(place: Place, trained: Trained, progress: Progress) -> Path:
    """Write a checkpoint `step-XXXXXXXX` and remove all but the last `keep`; return its path.

    All ranks call it, and each writes what only it holds. Later checkpoints are removed too: they
    must be damaged, or training would have resumed from them. Random state is not saved: it is a
    function of (seed, step).

    Raises:
        NotWritten: the disk is full or fails, on any rank; what was there is intact.
        RankLost: another rank has ended.
    """
    made = Writing(place, Content.of(trained, progress, place.ranks))
    while made.step:
        made.exchange(made.make())
    return made.path
