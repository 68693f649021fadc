"""A run says if what it evaluates on is what it trains on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid.errors import UserError
from nasvid.host.reading import as_object, read_lines
from nasvid.preflight import load_recipe
from nasvid.run.folder import begin
from nasvid.run.session import Session
from nasvid.run.splits import check_splits


@pytest.mark.parametrize("val", ["footage", "digits"])
def test_clips_in_both_splits_are_named_at_the_start(
    write_recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture, val: str
) -> None:
    shards = Path(__file__).parents[2] / "nasvid/data/embedded/val"
    sets = [f"data.train={shards}/footage-000.tar", f"data.val={shards}/{val}-000.tar"]
    loaded = load_recipe(write_recipe(), overrides=sets)
    session = Session(begin(tmp_path / "run", loaded), loaded)
    check_splits(session)
    said = capsys.readouterr().out
    warned = [line for line in said.splitlines() if line.startswith("Warning: ")]
    lines, _ = read_lines(session.folder.events, as_object)
    events = [e for e in lines if e["event"] == "overlap"]
    if val == "digits":
        assert warned == events == []
        return
    (line,), (event,) = warned, events
    assert "40 of 40 validation clips" in line
    assert "'footage-0000', 'footage-0001' and 'footage-0002'" in line
    assert (event["clips"], event["of"]) == (40, 40)


def test_more_clips_than_there_are_many_times_over_are_refused(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    shards = Path(__file__).parents[2] / "nasvid/data/embedded/val"
    sets = [f"data.val={shards}/footage-000.tar", "search.clips=320"]
    loaded = load_recipe(write_recipe(), overrides=sets)
    check_splits(Session(begin(tmp_path / "run", loaded), loaded))
    loaded = load_recipe(write_recipe(), overrides=[*sets, "search.clips=5000"])
    with pytest.raises(UserError, match=r"5000 .* has 40 for 16 px; set it to 320 or less"):
        check_splits(Session(begin(tmp_path / "run", loaded), loaded))
