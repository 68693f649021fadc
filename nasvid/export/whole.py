"""The unchanged parts of a whole pipeline: linked where the file system can, else copied."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from nasvid.diffusion.stock import INDEX, StockPipeline
from nasvid.errors import UserError
from nasvid.host.files import write_json
from nasvid.host.reading import same_content
from nasvid.host.weights import find_weights

FICLONE = 0x40049409
"""The call of Linux that makes a file share another's blocks until either is written to."""
WEIGHTS = (".safetensors",)
OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")
"""Endings of the files that hold weights: those that are read, and those that are left behind."""
LICENSE = "LICENSE*"


def parts_of(pipeline: StockPipeline) -> Iterator[tuple[str, Path]]:
    """Yield each unchanged file of a pipeline: its place in an export, and where it is now.

    Raises:
        UserError: a part has vanished.
    """
    pipeline.check_parts()
    for part, folder in pipeline.parts.items():
        yield from files_of(folder, part)
    for path in sorted(pipeline.folder.glob(LICENSE)):
        yield path.name, path


def files_of(folder: Path, part: str) -> Iterator[tuple[str, Path]]:
    """Yield each file of a part: its place in an export, and where it is now.

    Of weights only those that are loaded, because a folder may hold them in several formats.
    """
    has_weights = any(folder.glob("*.safetensors"))
    loaded = find_weights(folder).files if has_weights else ()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        is_weights = path.suffix in (*WEIGHTS, *OTHER_FORMATS)
        if not has_weights or not is_weights or path in loaded:
            yield f"{part}/{path.relative_to(folder)}", path


def place_files(
    files: Iterable[tuple[str, Path]], folder: Path, siblings: Path, *, copy: bool
) -> None:
    """Put files into an export's folder.

    Weights share the source's blocks, or its inode, or those of an earlier export; small files are
    copies, so that whoever edits one changes the export alone.

    siblings: has earlier exports. copy: copy weights, too.

    Raises:
        UserError: one has vanished.
    """
    for name, path in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            twins = _twins(path, siblings, name)
            if copy or path.suffix not in WEIGHTS or not _shared(path, target, twins):
                shutil.copy2(path, target)
        except FileNotFoundError:
            raise UserError(f"{path} vanished while it was exported; bring it back") from None


def place_parts(pipeline: StockPipeline, folder: Path, siblings: Path, *, copy: bool) -> None:
    """Put the unchanged parts and the index of a pipeline into an export's folder.

    siblings, copy: as for `place_files`.

    Raises:
        UserError: a part has vanished.
    """
    place_files(parts_of(pipeline), folder, siblings, copy=copy)
    write_json(folder / INDEX, json.loads((pipeline.folder / INDEX).read_bytes()))


def _shared(source: Path, target: Path, twins: Iterator[Path]) -> bool:
    """Make `target` the same file as `source`, or an earlier export's copy of it, if possible."""
    return _cloned(source, target) or any(
        _linked(each, target) for each in chain([source.resolve()], twins)
    )


def _cloned(source: Path, target: Path) -> bool:
    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        return False
    shutil.copystat(source, target)
    same_content(target, source)
    return True


def _linked(source: Path, target: Path) -> bool:
    with suppress(OSError):
        os.link(source, target)
        return True
    return False


def _twins(source: Path, siblings: Path, name: str) -> Iterator[Path]:
    """Yield earlier exports' copies of a file, which have its size and time."""
    known = source.stat()
    for twin in siblings.glob(f"[!.]*/{name}"):
        stat = twin.stat()
        if (stat.st_size, stat.st_mtime_ns) == (known.st_size, known.st_mtime_ns):
            yield twin
