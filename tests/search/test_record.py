import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.host.files import cut_torn_line
from nasvid.search.record import append_record, read_record

numbers = st.floats(allow_nan=False, allow_infinity=False)


def record(i: int) -> Evaluation:
    return Evaluation(Architecture({"width": i}), {"loss": i / 7}, 0.0, 0.25)


def write(path: Path, n: int) -> list[Evaluation]:
    records = [record(i) for i in range(n)]
    for one in records:
        append_record(path, one)
    return records


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), numbers), numbers)
def test_every_number_comes_back_to_the_bit(metrics: dict[str, float], violation: float) -> None:
    written = Evaluation(Architecture({"on": True, "kind": "é"}), metrics, violation, 1.5)
    assert Evaluation.from_json(written.to_json()) == written


def test_what_is_not_finite_is_null() -> None:
    written = Evaluation(Architecture({"w": 1}), {"loss": math.nan, "macs": 3.0}, math.inf, 0.0)
    assert json.loads(written.to_json())["metrics"] == {"loss": None, "macs": 3.0}
    read = Evaluation.from_json(written.to_json())
    assert math.isnan(read.metrics["loss"])
    assert read.violation == math.inf


def test_no_file_is_an_empty_record(tmp_path: Path) -> None:
    cut_torn_line(tmp_path / "none")
    assert read_record(tmp_path / "none") == []


def test_a_file_cut_anywhere_gives_its_whole_lines_and_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    records = write(path, 2)
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        kept = whole[:end].count(b"\n")
        assert read_record(path) == records[:kept]
        cut_torn_line(path)
        for one in records[kept:]:
            append_record(path, one)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'{"id": "x"',
        b"{}",
        record(9).to_json().replace('"width": 9', '"width": 8').encode(),
        record(9).to_json().replace("0.25", '"slow"').encode(),
        record(9).to_json().replace('{"width": 9}', '{"width": [9]}').encode(),
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "record.jsonl"
    write(path, 2)
    with path.open("ab") as file:
        file.write(damaged + b"\n")
    with pytest.raises(
        ValueError, match=r"record\.jsonl:3 is not a valid evaluation.*delete the file"
    ):
        read_record(path)


def test_an_architecture_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    """Two searches in one folder wrote such records before there was a lock."""
    path = tmp_path / "record.jsonl"
    records = write(path, 3)
    append_record(path, replace(records[1], seconds=9.0))
    assert read_record(path) == records
