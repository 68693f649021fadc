"""A remote shard is fetched completely or not at all, however its source fails."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nasvid.data import fetch as fetch_module
from nasvid.data.cache import ShardCache
from nasvid.data.cancel import Flag
from nasvid.data.errors import DataError
from nasvid.data.fetch import FIRST_WAIT, LONGEST_WAIT, FetchError, fetch, wait_before
from nasvid.data.paths import shard_names
from nasvid.data.urls import file_name


@pytest.fixture
def shard(source, write_tar) -> Path:
    members = [("a.mp4", b"video" * 5000), ("a.txt", b"words")]
    return write_tar(source.folder / "a.tar", members)


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["503", "reset", "short", "cut"])
def test_a_source_that_fails_is_asked_again(source, shard, tmp_path, quick, wrong):
    source.fail = lambda number: wrong if number < 3 else None
    fetch(f"{source.url}/a.tar", tmp_path / "here" / "a.tar", retries=5)
    assert (tmp_path / "here" / "a.tar").read_bytes() == shard.read_bytes()
    assert source.requests == 3


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["503", "reset", "short"])
def test_nothing_half_is_left_when_attempts_run_out(source, shard, tmp_path, quick, wrong):
    source.fail = lambda number: wrong
    with pytest.raises(FetchError, match=r"HTTP 503|reset|closed|\d of \d+ bytes"):
        fetch(f"{source.url}/a.tar", tmp_path / "here" / "a.tar", retries=2)
    assert source.requests == 3
    assert left(tmp_path / "here") == []


def test_what_is_not_there_is_asked_for_once(source, tmp_path):
    with pytest.raises(FetchError, match="HTTP 404"):
        fetch(f"{source.url}/no.tar", tmp_path / "no.tar", retries=5)
    assert source.requests == 1


def test_a_shard_that_is_cut_at_its_source_is_taken_as_it_is(source, shard, tmp_path, quick):
    """One that comes out at another length each time is not."""
    whole = shard.read_bytes()
    shard.write_bytes(whole[:9000])
    fetch(f"{source.url}/a.tar", tmp_path / "a.tar", retries=5)
    assert (tmp_path / "a.tar").read_bytes() == whole[:9000]
    assert source.requests == 2
    source.fail = lambda number: "cut"
    fetch(f"{source.url}/a.tar?again", tmp_path / "c.tar", retries=3)
    assert source.requests == 2 + 4, "where no length is announced, only after all attempts"
    command = f"pipe:head -c $(( $(date +%N | sed 's/^0*//') % 20000 + 1 )) {shard}"
    shard.write_bytes(whole)
    with pytest.raises(FetchError, match="ends early or is not a tar"):
        fetch(command, tmp_path / "b.tar", retries=2)
    assert not (tmp_path / "b.tar").exists()


@pytest.fixture
def serve(source, tmp_path):
    """Answer with raw bytes, piece by piece; return what fetching them raises."""

    def fetched(head: bytes, *pieces: bytes, wait: float = 0.0, retries: int = 1) -> str:
        def answer(to) -> None:
            source.requests += 1
            with suppress(OSError):
                to.wfile.write(b"HTTP/1.0 200 OK\r\n" + head + b"\r\n")
                for piece in pieces:
                    to.wfile.write(piece)
                    time.sleep(wait)

        source.answer = answer
        with pytest.raises((FetchError, OSError)) as caught:
            fetch(f"{source.url}/a.tar", tmp_path / "a.tar", retries=retries)
        assert not (tmp_path / "a.tar").exists()
        return str(caught.value)

    return fetched


LOGIN = b"<html><title>Please log in</title></html>"


@pytest.mark.parametrize("page", [LOGIN, LOGIN + b" " * 1000])
def test_a_page_is_not_kept_as_a_shard(serve, source, quick, page):
    head = f"Content-Length: {len(page)}\r\n".encode()
    for retries in (0, 3):
        message = serve(head, page, retries=retries)
        assert "not a tar" in message
        assert "<html><title>Please" in message
    assert source.requests == (2 if len(page) > 512 else 5)


def test_a_length_that_is_no_number_is_an_error(serve, quick):
    message = serve(b"Content-Length: abc\r\n", b"x")
    assert message == "its announced length is not a number: 'abc'"


def test_a_source_slower_than_any_network_is_given_up(serve, shard, quick, monkeypatch):
    monkeypatch.setattr(fetch_module, "PATIENCE", 0.4)
    drops = [bytes([byte]) for byte in shard.read_bytes()[:200]]
    message = serve(b"", *drops, wait=0.05, retries=0)
    assert re.match(r"received only \d+ bytes in \d+ seconds", message)


def test_a_source_without_end_is_given_up(serve, shard, quick, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_SHARD", 1 << 20)
    whole = shard.read_bytes()
    assert serve(b"", whole, *[b"\0" * 65536] * 100).startswith("it is larger than 1.05 MB")
    head = f"Content-Length: {1 << 40}\r\n".encode()
    assert serve(head, whole).startswith("it is larger than 1.05 MB")


def test_waits_double_up_to_a_bound_and_differ():
    for attempt in range(1, 20):
        longest = min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)
        waits = {wait_before(attempt) for _ in range(20)}
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(waits) > 1


def test_a_command_is_a_source_and_its_complaint_the_cause(shard, tmp_path, quick):
    fetch(f"pipe:cat {shard}", tmp_path / "a.tar", retries=0)
    assert (tmp_path / "a.tar").read_bytes() == shard.read_bytes()
    for command, says in (
        ("cat /no/such.tar", r"No such file.*\(exit 1\)"),
        (f"cat {shard}; exit 3", r"the command failed \(exit 3\)"),
        ("nothing_like_it", r"not found.*\(exit 127\)"),
    ):
        with pytest.raises(FetchError, match=says):
            fetch(f"pipe:{command}", tmp_path / "b.tar", retries=1)
    assert not (tmp_path / "b.tar").exists()


def test_fetching_can_be_ended_with_all_that_a_command_started(tmp_path):
    cancelled, marker = Flag(), tmp_path / "pid"
    threading.Timer(0.5, cancelled.set).start()
    command = f"pipe:sh -c 'echo $$ > {marker}; cat /dev/zero' | cat"
    with pytest.raises(FetchError, match="given up"):
        fetch(command, tmp_path / "a.tar", retries=5, cancelled=cancelled)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{int(marker.read_text())}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


FAKE_AWS = """#!/bin/sh
[ "$1 $2" = "s3 cp" ] || exit 9
for last; do url=$before; before=$last; done
[ "$last" = - ] || exit 9
exec cat "{folder}/${{url#s3://bucket/}}"
"""


@pytest.fixture
def aws(source, tmp_path, monkeypatch) -> Path:
    """Put a program on the path that knows one call of `aws`."""
    tool = tmp_path / "bin" / "aws"
    tool.parent.mkdir()
    tool.write_text(FAKE_AWS.format(folder=source.folder))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    return tool


def test_s3_goes_through_its_own_tool(shard, aws, tmp_path, quick):
    names = shard_names("s3://bucket/a.tar", tmp_path, "train")
    cache = ShardCache(tmp_path / "kept", retries=1)
    assert cache.path(names[0]).read_bytes() == shard.read_bytes()
    with pytest.raises(FetchError, match=r"No such file .*\(exit 1\)"):
        cache.path("s3://bucket/b.tar")


def test_a_tool_that_is_not_here_is_named_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="fetched by `aws`, which is not installed"):
        shard_names("s3://bucket/a.tar", tmp_path, "train")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http:///a.tar", "names no host"),
        ("https:a.tar", "names no host"),
        ("http://host", "names no file"),
        ("hf://datasets/me/000.tar", "write hf://datasets/OWNER/NAME/FILE"),
        ("http://host/shards/", "names no file"),
        ("http://host:99999/a.tar", "Port out of range"),
        ("http://[::1/a.tar", "Invalid IPv6"),
        ("http://me:secret@host/a.tar", "user name"),
        ("http://host/a b.tar", "%20"),
        ("http://host/*.tar", r"\{000\.\.127\}"),
        ("http://host/{a,b}.tar", r"\{000\.\.127\}"),
        ("http://host/a.tar.gz", "is compressed"),
        ("htps://host/a.tar", "'htps' is not supported; did you mean 'https'"),
        ("pipe:", "names no command"),
        ("pipe:cat a.tar", "allow_pipes: true"),
    ],
)
def test_an_address_that_cannot_be_one_is_told_apart(tmp_path, url, says):
    with pytest.raises(DataError, match=says):
        shard_names(url, tmp_path, "train")


def test_braces_count_in_addresses_too(tmp_path):
    url = "https://host/{8..10}/{00..02}.tar?sig=x"
    names = shard_names([url, "pipe:cat {1..2}.tar"], tmp_path, "train", allow_pipes=True)
    assert names[:4] == tuple(
        f"https://host/{n}.tar?sig=x" for n in ("8/00", "8/01", "8/02", "9/00")
    )
    assert names[-2:] == ("pipe:cat 1.tar", "pipe:cat 2.tar")
    assert len({file_name(name) for name in names}) == len(names) == 11
    assert all("/" not in file_name(name) and len(file_name(name)) < 120 for name in names)


FETCH = """
import sys
from pathlib import Path
from nasvid.data import fetch as fetch_module
from nasvid.data.cache import ShardCache
print("up", flush=True)
sys.stdin.readline()
print(ShardCache(Path(sys.argv[2])).path(sys.argv[1]).stat().st_size)
"""


@pytest.mark.slow
def test_processes_that_want_one_shard_at_once_fetch_it_once(source, shard, tmp_path):
    source.fail = lambda number: time.sleep(0.3)
    command = [sys.executable, "-c", FETCH, f"{source.url}/a.tar", str(tmp_path / "kept")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert all(process.stdout.readline() == "up\n" for process in started)
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    sizes = [int(process.communicate()[0]) for process in started]
    assert sizes == [shard.stat().st_size] * 3
    assert source.requests == 1


@pytest.mark.slow
def test_processes_that_waited_for_a_shard_that_failed_do_not_ask_again(source, shard, tmp_path):
    source.fail = lambda number: time.sleep(0.5) or "503"
    cache = ShardCache(tmp_path / "kept", retries=0)
    failed = []

    def want() -> None:
        with pytest.raises(FetchError, match="HTTP 503"):
            cache.path(f"{source.url}/a.tar")
        failed.append(1)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(failed), source.requests) == (4, 1)
    want()
    assert source.requests == 1, "nor does this process, for a while"


def test_a_killed_fetch_leaves_nothing_that_counts(source, shard, tmp_path):
    kept = tmp_path / "kept"
    slow = f"pipe:head -c 9000 {shard}; sleep 60"
    code = FETCH.replace("ShardCache(Path(sys.argv[2]))", "ShardCache(Path(sys.argv[2]), 0, True)")
    process = subprocess.Popen([sys.executable, "-c", code, slow, str(kept)], stdin=subprocess.PIPE)
    process.stdin.write(b"go\n")
    process.stdin.flush()
    name = file_name(slow)
    deadline = time.monotonic() + 30
    while not [p for p in kept.glob(f".{name}.[0-9]*") if p.stat().st_size]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (kept / name).exists()
    fast = slow.replace("head -c 9000", "cat").replace("sleep 60", "")
    (kept / f".{file_name(fast)}.123").write_bytes(b"torn")
    assert ShardCache(kept, 0, True).path(fast).read_bytes() == shard.read_bytes()
    assert not (kept / f".{file_name(fast)}.123").exists()


def test_a_folder_that_cannot_keep_a_shard_is_named(source, shard, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be stored .*data\.cache"):
        ShardCache(tmp_path / "file").path(f"{source.url}/a.tar")


def test_a_pipe_is_not_run_because_an_index_names_it(tmp_path):
    with pytest.raises(DataError, match="allow_pipes"):
        ShardCache(tmp_path).path(f"pipe:touch {tmp_path / 'was-run'}")
    assert not (tmp_path / "was-run").exists()
