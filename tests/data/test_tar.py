import io
import tarfile
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasvid.data.tar import MAX_EXTENSIONS, TarDamaged, members

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar_bytes(files: dict[str, bytes], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(body), 1.5
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def read(path, content: bytes) -> list[tuple[str, bytes]]:
    path.write_bytes(content)
    with path.open("rb") as file:
        return [(m.name, content[m.offset : m.offset + m.size]) for m in members(file)]


@given(
    files=st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5),
    form=st.sampled_from(FORMATS[1:]),
)
def test_members_are_those_that_tarfile_sees(tmp_path_factory, files, form):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    assert read(path, tar_bytes(files, form)) == list(files.items())


@pytest.mark.parametrize("form", FORMATS)
def test_long_names_are_whole(tmp_path, form):
    files = {"d" * 120 + "/" + "n" * 90: b"body"}
    assert read(tmp_path / "a.tar", tar_bytes(files, form)) == list(files.items())


def test_links_and_folders_are_no_files(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in [("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("file"))
    assert read(path, path.read_bytes()) == [("file", b"")]


@given(cut=st.integers(0, 10), place=st.integers(0, 4000), value=st.binary(min_size=1, max_size=40))
def test_damage_ends_the_list_and_nothing_else(tmp_path_factory, cut, place, value):
    content = bytearray(tar_bytes({"ä" * 80: b"x" * 700, "b": b"y", "c": b""}, FORMATS[2]))
    content[place : place + len(value)] = value
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path.write_bytes(content[: len(content) - 512 * cut])
    damage = "none"
    try:
        with path.open("rb") as file:
            assert all(m.offset + m.size <= path.stat().st_size for m in members(file))
    except TarDamaged as error:
        damage = str(error)
    assert damage in {"none", "truncated shard", "damaged shard", "not a tar"}


def extended(*bodies: bytes) -> bytes:
    """Return extended headers in a row, then a member, then the end."""
    content = b""
    for kind, body in [*((b"x", body) for body in bodies), (b"0", b"")]:
        info = tarfile.TarInfo("a.txt")
        info.type, info.size = kind, len(body)
        content += info.tobuf(tarfile.USTAR_FORMAT) + body + b"\0" * (-len(body) % 512)
    return content + b"\0" * 1024


def test_a_header_of_a_million_bytes_takes_no_time(tmp_path):
    began = time.process_time()
    assert read(tmp_path / "a.tar", extended(b"4 =\n" * (1 << 18))) == [("a.txt", b"")]
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "body", [b"3 =", b"0 a=\n", b"4 a=\n", b"9" * 30 + b" a=b\n", b" =\n", b"12 path=\n"]
)
def test_records_of_a_wrong_length_are_damage_or_the_end(tmp_path, body):
    found = []
    with suppress(TarDamaged):
        found = read(tmp_path / "a.tar", extended(body))
    assert found == []


def test_headers_without_end_are_damage(tmp_path):
    few = extended(*[b"10 path=b\n"] * MAX_EXTENSIONS)
    assert read(tmp_path / "a.tar", few) == [("b", b"")]
    with pytest.raises(TarDamaged, match="damaged"):
        read(tmp_path / "a.tar", extended(*[b"10 path=b\n"] * (MAX_EXTENSIONS + 1)))
