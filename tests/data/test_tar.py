import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasvid.data.tar import TarDamaged, members

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
    assert damage in {"none", "truncated shard", "damaged shard"}
