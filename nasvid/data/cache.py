"""The folder where a machine keeps remote shards, each fetched by one process for all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from nasvid.data.cancel import Flag
from nasvid.data.errors import DataError
from nasvid.data.fetch import Cancelled, FetchError, fetch
from nasvid.data.urls import check_url, file_name
from nasvid.recipe.paths import PIPE, is_url

AGAIN_AFTER = 600.0
"""Seconds before a process tries again to fetch a shard after a failure."""
CLOCK = 0.05
"""Seconds by which a file system's clock may be behind."""
_given_up: dict[str, tuple[float, str]] = {}


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder of fetched shards, which processes and runs may share.

    Nothing is evicted: it takes as much space as all shards read. retries: attempts after
    the first. allow_pipes: whether `pipe:` commands may run.
    """

    folder: Path
    retries: int = 5
    allow_pipes: bool = False

    def place(self, shard: str) -> Path:
        """Return the path that a shard has on this machine once it is fetched."""
        return self.folder / file_name(shard) if is_url(shard) else Path(shard)

    def path(self, shard: str, cancelled: Flag | None = None) -> Path:
        """Return a shard's path on this machine, after fetching it if necessary.

        cancelled: stops the download.

        Raises:
            FetchError: it cannot be fetched. DataError: it may not be fetched, or cannot be stored.
        """
        path = self.place(shard)
        if is_url(shard) and not path.exists():
            self._fetch(shard, path, cancelled)
        return path

    def _fetch(self, shard: str, path: Path, cancelled: Flag | None) -> None:
        if shard.startswith(PIPE):  # a stored index may name a pipe even if the recipe does not
            check_url(shard, allow_pipes=self.allow_pipes)
        asked = time.time()
        when, why = _given_up.get(shard, (-AGAIN_AFTER, ""))
        if asked - when < AGAIN_AFTER:
            raise FetchError(why, lasting=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            failed = self.folder / f".{path.name}.failed"
            with FileLock(self.folder / f".{path.name}.lock"):
                if path.exists():  # another process has fetched it meanwhile
                    return
                if why := _failed_since(failed, asked):
                    raise FetchError(why, lasting=True)
                for torn in self.folder.glob(f".{path.name}.[0-9]*"):
                    torn.unlink(missing_ok=True)  # left by a killed process
                try:
                    fetch(shard, path, retries=self.retries, cancelled=cancelled)
                except Cancelled:
                    raise
                except FetchError as error:
                    failed.write_text(str(error), encoding="utf-8", errors="replace")
                    raise
                failed.unlink(missing_ok=True)
        except Cancelled:
            raise
        except FetchError as error:
            _given_up[shard] = time.time(), str(error)
            raise
        except OSError as error:
            raise DataError(
                f"{shard} cannot be stored in {self.folder}: {error.strerror}; set data.cache to "
                "another folder"
            ) from error


def _failed_since(path: Path, asked: float) -> str:
    """Return why another process could not fetch a shard while this one waited for it."""
    try:
        if path.stat().st_mtime < asked - CLOCK:
            return ""
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
