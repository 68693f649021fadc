"""URLs of remote shards: the supported kinds, and checks."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from nasvid.data.errors import DataError
from nasvid.data.web import HUB, ON_HUB
from nasvid.errors import nearest
from nasvid.recipe.paths import PIPE, WEB, is_url

CURL = ("curl", "--fail", "--silent", "--show-error", "--location", "--globoff", "--")
TOOLS: dict[str, tuple[str, ...]] = {
    "s3": ("aws", "s3", "cp", "--only-show-errors", "{}", "-"),
    "gs": ("gsutil", "-q", "cat", "{}"),
    "ais": ("ais", "get", "{}", "-"),
    "sftp": (*CURL, "{}"),
    "scp": (*CURL, "{}"),
    "ftps": (*CURL, "{}"),
}
"""Scheme -> the command that writes the object at `{}` to its standard output.

These are the commands of `webdataset.gopen`, plus `aws` for S3, which it does not support. They are
not run through it, because it prints their errors to the terminal and misses some failures.
"""


def check_url(url: str, *, allow_pipes: bool) -> None:
    """Check an address as far as possible without connecting.

    Raises:
        DataError: it is malformed, of an unknown kind, or the program that fetches it is not
            installed.
    """
    if url.startswith(PIPE):
        _check_pipe(url, allow_pipes=allow_pipes)
        return
    scheme = url.partition(":")[0].lower()
    if scheme not in (*WEB, HUB, *TOOLS):
        hint = nearest(scheme, [*WEB, HUB, *TOOLS, PIPE.rstrip(":")])
        raise DataError(f"'{url}': scheme '{scheme}' is not supported{hint}")
    wrong = _malformed(url)
    if wrong:
        raise DataError(f"'{url}' is not the address of a shard: {wrong}")
    if scheme in TOOLS and shutil.which(TOOLS[scheme][0]) is None:
        tool = TOOLS[scheme][0]
        raise DataError(f"'{url}' is fetched by `{tool}`, which is not installed; install it")


def _check_pipe(url: str, *, allow_pipes: bool) -> None:
    if not url.removeprefix(PIPE).strip():
        raise DataError(f"'{url}' names no command; write 'pipe:COMMAND'")
    if not allow_pipes:
        raise DataError(
            f"'{url}' would run a command in a shell; if you trust the recipe, set "
            "data.allow_pipes: true (--allow-pipes on the command line)"
        )


def _malformed(url: str) -> str:
    """Return why an address does not name one object, or ""."""
    if any(character.isspace() or not character.isprintable() for character in url):
        return "it contains spaces or control characters; write a space as %20"
    for sign, why in (
        ("*", "remote shards cannot be listed; name them with {000..127} instead of *"),
        ("{", "braces hold a range of numbers: {000..127}"),
        ("}", "braces hold a range of numbers: {000..127}"),
    ):
        if sign in url:
            return why
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme == HUB:
        is_shard = ON_HUB.fullmatch(url) and not url.endswith("/")
        return "" if is_shard else "write hf://datasets/OWNER/NAME/FILE, or NAME@REVISION"
    if not parts.hostname or port == 0:
        return "it names no host; write SCHEME://HOST/PATH"
    if parts.path in ("", "/") or parts.path.endswith("/"):
        return "it names no file"
    if parts.username is not None and parts.scheme.lower() in WEB:
        return "its user name would be stored in every run folder; use a signed URL"
    return ""


def command(url: str) -> Sequence[str] | str:
    """Return the command that writes a shard to stdout: arguments, or a line for the shell."""
    if url.startswith(PIPE):
        return url.removeprefix(PIPE)
    return [url if word == "{}" else word for word in TOOLS[url.partition(":")[0].lower()]]


def base_name(shard: str) -> str:
    """Return a shard's name without its path; for a pipe, the whole command."""
    if shard.startswith(PIPE):
        return shard
    return PurePosixPath(urlsplit(shard).path if is_url(shard) else shard).name


def file_name(url: str) -> str:
    """Return a shard's name in the cache, which is unique to its URL."""
    name = base_name(url)
    if url.startswith(PIPE):
        words = _words(url.removeprefix(PIPE))
        name = PurePosixPath(next((w for w in words if w.endswith(".tar")), "pipe")).name
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name.removesuffix(".tar"))[-80:].lstrip(".")
    return f"{stem}-{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}.tar"


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an unclosed quote: the shell will report it
        return line.split()
