"""Captions as people have them: what is understood, what is refused, and that nothing is silent."""

import json

import pytest

from nasvid.data.captions import find_captions
from nasvid.data.errors import DataError
from nasvid.data.tables import read_table


@pytest.fixture
def found(tmp_path):
    """Write a table beside `a.mp4` and `b.mp4`; return captions by name, and what was refused."""

    def find(content: bytes | str, name: str = "table.csv"):
        videos = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        captions = find_captions(tmp_path, videos, tmp_path / name)
        return {video.stem: text for video, text in captions.of.items()}, captions.refused

    return find


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_in_any_unicode_with_any_delimiter(found, encoding, delimiter):
    text = "".join(f"{delimiter.join(row)}\n" for row in [("Video", "Caption "), ("a", "Ärger, é")])
    quoted = text.replace("Ärger, é", '"Ärger, é"')
    assert found(quoted.encode(encoding)) == ({"a": "Ärger, é"}, [])


@pytest.mark.parametrize("name", ["t.CSV", "t.tsv", "t.json", "t.JSONL"])
def test_the_ending_may_be_written_in_any_case(found, name):
    rows = [{"file": "a", "text": "one"}, {"file": "b", "text": "two"}]
    if name == "t.json":
        text = json.dumps(rows)
    elif name == "t.JSONL":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        table = [("file", "text"), ("a", "one"), ("b", "two")]
        between = "\t" if name == "t.tsv" else ","
        text = "".join(f"{between.join(row)}\n" for row in table)
    assert found(text, name) == ({"a": "one", "b": "two"}, [])


def test_a_prompt_goes_before_a_name(found):
    assert found("name,prompt\na.mp4,a cat sleeps\n") == ({"a": "a cat sleeps"}, [])
    assert found("videoid,name\na,a dog runs\n") == ({"a": "a dog runs"}, [])


def test_an_unquoted_comma_does_not_cut_a_caption(found):
    captions, refused = found('file,caption\na,first, then second\nb,"first, then second"\n')
    assert captions == {"b": "first, then second"}
    assert refused == [("more fields than columns", "table.csv:2")]


@pytest.mark.parametrize("rows", ['a,"open\nb,text\n', 'a,"open\nb,"other"\n'])
def test_a_quote_that_does_not_close_swallows_no_rows(found, rows):
    with pytest.raises(DataError, match=r"table\.csv:2: .*quotes"):
        found(f"file,caption\n{rows}")


def test_a_second_row_for_a_video_is_counted(found):
    captions, refused = found("file,caption\na,one\nb,other\na,two\n")
    assert captions == {"a": "one", "b": "other"}
    assert refused == [("second caption", "table.csv:4")]


@pytest.mark.parametrize("value", [["a", "list"], {"a": 1}, 7, True])
def test_a_caption_that_is_no_text_is_refused(found, value):
    lines = [{"file": "a", "caption": value}, {"file": "b", "caption": "text"}]
    captions, refused = found("".join(json.dumps(line) + "\n" for line in lines), "t.jsonl")
    assert captions == {"b": "text"}
    assert refused == [("caption not text", "t.jsonl:1")]


def test_nan_and_half_a_surrogate_pair_are_no_captions(found):
    text = '{"file": "a", "caption": NaN}\n{"file": "b", "caption": "x\\ud800y"}\n'
    captions, refused = found(text, "t.jsonl")
    assert captions == {}
    assert [reason for reason, _ in refused] == ["caption not text"] * 2


def test_a_caption_that_no_shard_could_hold_is_refused(found):
    captions, refused = found(f"file,caption\na,{'long ' * 20_000}\nb,short\n")
    assert captions == {"b": "short"}
    assert refused == [("caption too long", "table.csv:2")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file,caption\na,caf\xe9\n".encode("cp1252"), "not UTF-8 text .*0xe9"),
        ("file,caption\na,x\n".encode("utf-16-le"), "NUL"),
    ],
)
def test_a_table_in_another_encoding_is_refused(found, content, says):
    with pytest.raises(DataError, match=says):
        found(content)


def test_a_table_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "captions.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"captions\.parquet .* one of \.csv"):
        read_table(path)


def test_texts_beside_the_videos_that_are_not_utf8_are_counted(tmp_path):
    videos = [tmp_path / f"{name}.mp4" for name in "abc"]
    (tmp_path / "a.txt").write_bytes("caf\xe9".encode("cp1252"))
    (tmp_path / "b.txt").write_bytes("café".encode("utf-16"))
    (tmp_path / "c.txt").write_bytes("café".encode("utf-8-sig"))
    captions = find_captions(tmp_path, videos, None)
    assert {video.stem: text for video, text in captions.of.items()} == {
        "b": "café",
        "c": "café",
    }
    assert captions.refused == [("caption not UTF-8", "a.txt")]
