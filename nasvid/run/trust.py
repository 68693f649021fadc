"""Checks a run's folder that somebody else may have made: the code it names, and what lies in it.

Looking at a run must not execute its author's code. The plug-in files that a run was started with
are therefore recorded with their checksums; any others, and all inside the folder, where its author
may have put them, are run only with `--trust-plugins`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nasvid.errors import UserError
from nasvid.host.terminal import say
from nasvid.recipe.nodes import Node
from nasvid.recipe.paths import PIPE

FLAG = "--trust-plugins"


def check_contents(folder: Path) -> None:
    """Check that a run's folder holds nothing but files and folders, and links to these.

    Raises:
        UserError: a symbolic link leads out of it, or a pipe or device is in it, whose reader may
            wait for ever; nothing is read or written through them.
    """
    root = os.path.realpath(folder)
    for entry in _entries(root):
        target = os.path.realpath(entry.path)
        if entry.is_symlink() and os.path.commonpath([root, target]) != root:
            raise UserError(
                f"{entry.path} is a symbolic link out of the run's folder, to {target}; replace it "
                "with the file. To keep large caches elsewhere, set vae.cache, data.embeddings and "
                "data.cache"
            )
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise UserError(f"{entry.path} is a pipe or a device, which no run makes; remove it")


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    folders = [folder]
    while folders:
        for entry in os.scandir(folders.pop()):
            yield entry
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)


def checksums(files: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of each plug-in file that exists, by its real path."""
    paths = {Path(file).resolve() for file in files}
    return {str(path): _sha256(path) for path in sorted(paths) if path.is_file()}


def check_plugins(
    files: Iterable[Path], folder: Path, started_with: Mapping[str, str], *, trust: bool
) -> None:
    """Print which plug-in files a run's recipe is about to run, and check that this is allowed.

    folder: the run's. started_with: `checksums` of those that the run was started with. trust:
    whether the user has asked to run any.

    Raises:
        UserError: one lies inside the folder, or is not one that the run was started with.
    """
    for file in (path.resolve() for path in files if path.is_file()):
        doubt = ""
        if file.is_relative_to(folder.resolve()):
            doubt = "lies inside the run's folder"
        elif started_with.get(str(file)) != _sha256(file):
            doubt = "is not a file that the run was started with, or has changed since"
        if doubt and not trust:
            raise UserError(
                f"{folder}: its recipe runs the code of {file}, which {doubt}. Read that file; "
                f"to run it, add {FLAG}"
            )
        say(f"running the plug-in {file}, which the recipe of {folder} names", err=True)


def check_pipes(shards: Iterable[str], folder: Path, *, trust: bool) -> None:
    """Check that the shards of a run's recipe run no commands, unless the user trusts them.

    Raises:
        UserError: one does.
    """
    command = next((shard for shard in shards if shard.startswith(PIPE)), None)
    if command is not None and not trust:
        raise UserError(
            f"{folder}: its recipe runs the command '{command.removeprefix(PIPE)}' to read shards; "
            f"to run it, add {FLAG}"
        )


def relocated(tree: Node, before: Path, now: Path) -> Node:
    """Return a resolved recipe with its paths adjusted after its run's folder was moved.

    A path that no longer exists is replaced by the one in the same place relative to the folder, if
    that exists: the project and the run were moved together.

    before, now: the folder's places.
    """
    if before == now:
        return tree
    value: Any = tree.value
    if isinstance(value, dict):
        value = {key: relocated(node, before, now) for key, node in value.items()}
    elif isinstance(value, list):
        value = [relocated(node, before, now) for node in value]
    elif isinstance(value, str) and value.startswith("/") and not _existing(value):
        beside = os.path.normpath(now / os.path.relpath(value, before))
        value = beside if _existing(beside) else value
    return Node(value, tree.where)


def _existing(path: str) -> bool:
    """Return whether a path exists, or the folder at the start of a pattern of shards."""
    first = min((path.find(sign) for sign in "*{" if sign in path), default=-1)
    return os.path.exists(path if first < 0 else path[:first].rpartition("/")[0])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
