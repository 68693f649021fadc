"""Files and folders are whole or absent, on a full disk and under other users too."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nasvid.errors import Damaged, UserError
from nasvid.host.aligned import read_tensors, write_aligned
from nasvid.host.files import (
    NotWritten,
    append,
    append_line,
    atomic_folder,
    atomic_path,
    kept,
    remove_unfinished,
    write_json,
)
from nasvid.host.reading import (
    SUMS,
    as_object,
    check_files,
    check_sums,
    found_in,
    read_json,
    read_lines,
    write_sums,
)


def test_what_is_named_was_on_the_disk_before(tmp_path, monkeypatch):
    """In this order: the file's bytes, its name, the folder that has the name."""
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"-> {b}"), real(a, b)))
    write_json(tmp_path / "a.json", 1)
    temporary = tmp_path / f".a.json.{os.getpid()}.unfinished"
    assert done == [str(temporary), f"-> {tmp_path / 'a.json'}", str(tmp_path)]
    done.clear()
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "deep").mkdir()
        (folder / "deep/file").write_text("x")
    *before, named, after = done
    assert {Path(path).name for path in before} == {folder.name, "deep", "file"}
    assert (named, after) == (f"-> {tmp_path / 'new'}", str(tmp_path))


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "t"
    with atomic_folder(target) as folder:
        (folder / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(target) as folder:
        (folder / "new").rename(folder / "newer")
    assert [path.name for path in target.iterdir()] == ["old"]
    with atomic_folder(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_files_have_the_mode_that_the_user_has_asked_for(tmp_path):
    before = os.umask(0o027)
    try:
        write_aligned({"a": torch.ones(3)}, tmp_path / "a.safetensors")
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\x00", b"[" * 100_000, b'{"b": 1}'])
def test_damage_is_one_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.json is damaged \([^\n]+\); nasvid run makes it again$"):
        read_json(path, lambda value: value["a"])
    with pytest.raises(Damaged, match=r"a\.json is damaged \([^\n]+\)"):
        read_tensors(path)


def test_absent_damaged_and_unreadable_are_three_things(tmp_path):
    assert read_json(tmp_path / "none", as_object) is None
    assert read_lines(tmp_path / "none", as_object) == ([], 0)
    assert found_in(tmp_path / "none", "*") == []
    with pytest.raises(Damaged, match="it is a folder"):
        read_json(tmp_path, as_object)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)  # what stands for any error of the system
    for read in (lambda: read_json(loop, as_object), lambda: read_tensors(loop)):
        with pytest.raises(OSError, match="symbolic links"):
            read()
    with pytest.raises(OSError, match="symbolic links"):
        found_in(loop, "*")
    broken = tmp_path / "broken"
    broken.symlink_to("/proc/self/mem")  # whose first page no process has
    for read in (
        lambda: read_json(broken, as_object),
        lambda: check_files(tmp_path, {"broken": ""}),
    ):
        with pytest.raises(OSError, match=f"Input/output error: '{broken}'"):
            read()


def test_damaged_lines_of_a_log_are_counted_and_left_out(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"a": 1}\n\0\0\0\n[2]\n{"a": 3}\n{"a"')
    assert read_lines(path, as_object) == ([{"a": 1}, {"a": 3}], 2)


@pytest.mark.parametrize("name", ["a", "deep/b", SUMS])
def test_checksums_find_any_change(tmp_path, name):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_text("a")
    (tmp_path / "deep/b").write_text("b")
    write_sums(tmp_path)
    check_sums(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(Damaged, match=f"{name} is damaged"):
        check_sums(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(Damaged, match=f"{name} is damaged .it is missing"):
        check_sums(tmp_path)


def test_a_folder_in_use_is_not_made_anew(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "witness").touch()
    with kept(folder / "witness"):
        append_line(folder / "log", 1)
        folder.rename(tmp_path / "moved")
        for write in (append_line, write_json):
            with pytest.raises(UserError, match="run was deleted or moved while it was in use"):
                write(folder / "deep" / "log", 2)
        assert not folder.exists()
        folder.mkdir()  # another one
        with pytest.raises(UserError, match="deleted or moved"):
            append_line(folder / "log", 2)
    append_line(folder / "log", 2)


def test_what_a_killed_process_has_left_is_removed_and_a_living_ones_is_not(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "deep").mkdir()
    (tmp_path / f".t.{ended.pid}.unfinished").mkdir()
    (tmp_path / f".t.{ended.pid}.unfinished/file").touch()
    (tmp_path / f"deep/.000000.tar.{ended.pid}.unfinished").touch()
    own = tmp_path / f".backup.{ended.pid}"  # as people name theirs: .backup.20261231
    stay = [
        own,
        tmp_path / f".mine.{os.getpid()}.unfinished",
        tmp_path / "deep/000000.tar",
        tmp_path / ".lock",
    ]
    for path in stay:
        path.touch()
    assert len(remove_unfinished(tmp_path)) == 2
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(stay)


@pytest.fixture
def small_disk(mounted: Callable[..., Path]) -> Path:
    """A disk of 256 kB."""
    return mounted("size=256k")


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_there(small_disk):
    path = small_disk / "a.json"
    write_json(path, "whole")
    with pytest.raises(NotWritten) as refused:
        write_json(path, "x" * 1_000_000)
    assert str(refused.value) == (
        f"{path} cannot be written: No space left on device; {small_disk} has 258 kB free, and "
        "about 1 MB are needed"
    )
    assert json.loads(path.read_text()) == "whole"
    with (
        pytest.raises(NotWritten, match="w cannot be written") as refused,  # not its parts
        atomic_folder(small_disk / "w", needed=4_000_000) as folder,
    ):
        write_aligned({"a": torch.ones(1_000_000)}, folder / "a.safetensors")
    assert "about 4 MB" in str(refused.value)
    with pytest.raises(NotWritten, match="log cannot be written"):
        append_line(small_disk / "log", "x" * 1_000_000)
    append_line(small_disk / "log", 1)
    assert read_lines(small_disk / "log", int) == ([1], 0)
    assert sorted(each.name for each in small_disk.iterdir()) == ["a.json", "log"]


def test_what_is_appended_is_there_whole_or_not_at_all(small_disk):
    path = small_disk / "log"
    append(path, b"whole\n")
    (small_disk / "more").write_bytes(bytes(240_000))
    with pytest.raises(NotWritten, match="about 30 kB are needed"):
        append(path, bytes(30_000))
    assert path.read_bytes() == b"whole\n"
    (small_disk / "more").unlink()
    append(path, b"more\n", durable=True)
    assert path.read_bytes() == b"whole\nmore\n"


def test_a_disk_that_holds_no_more_files_is_said_so(mounted):
    disk = mounted("size=256k,nr_inodes=3")
    for name in "ab":
        write_json(disk / name, 1)
    for write in (write_json, append_line):
        with pytest.raises(NotWritten, match=r"c cannot be written.*can hold no more files"):
            write(disk / "c", 1)
        with pytest.raises(NotWritten, match="can hold no more files"):
            write(disk / "deep" / "c", 1)


def test_a_limit_of_a_files_size_is_said_alike(tmp_path):
    script = (
        "import resource, pathlib\n"
        "from nasvid.host.files import atomic_path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with atomic_path(pathlib.Path('big')) as path:\n"
        "    path.write_bytes(bytes(2000))\n"
    )
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "NotWritten: big cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_makes_way_for_a_file_and_a_full_one_does_not(tmp_path):
    path = tmp_path / "a.json"
    path.mkdir()
    write_json(path, 1)
    full = tmp_path / "b"
    (full / "precious").mkdir(parents=True)
    with pytest.raises(UserError, match="move it away"), atomic_path(full) as temporary:
        temporary.touch()
    assert (full / "precious").exists()


@pytest.mark.parametrize("write", [write_json, append_line])
def test_a_folder_in_the_place_of_a_file_keeps_what_it_holds(tmp_path, write):
    path = tmp_path / "a.json"
    path.mkdir()
    (path / "mine").write_text("x")
    with pytest.raises(UserError, match="is a folder where a file belongs; move it away"):
        write(path, {})
    path.rename(tmp_path / "away")
    write(path, {})
    assert [found.name for found in tmp_path.rglob("*")] == ["a.json", "away", "mine"]
