from pathlib import Path

import numpy as np
import pytest

from nasvid.errors import UserError
from nasvid.export.video import write_mp4
from nasvid.report import clips
from nasvid.report.clips import embedded, missing, native
from nasvid.report.collect import collect
from nasvid.shapes import Resolution


def test_enlargement_is_undone() -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    enlarged = video.repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_array_equal(native(enlarged, Resolution.square(16)), video)
    np.testing.assert_array_equal(native(video, Resolution.square(16)), video)


@pytest.mark.slow
def test_every_sample_is_in_the_page_as_an_address(finished_run: Path) -> None:
    run = collect(finished_run)
    shown = embedded(run)
    assert set(shown) == {(v.owner, v.resolution, v.index) for v in run.videos}
    assert all(source.startswith("data:image/webp;base64,") for source in shown.values())
    assert missing(run, shown) == []


@pytest.mark.slow
def test_pictures_keep_to_their_budget(finished_run: Path, monkeypatch) -> None:
    run = collect(finished_run)
    whole = sum(map(len, embedded(run).values()))
    monkeypatch.setattr(clips, "BUDGET", whole // 4)
    lowered = embedded(run)
    assert missing(run, lowered) == [], "a lower quality is tried first"
    monkeypatch.setattr(clips, "BUDGET", whole // 40)
    shown = embedded(run)
    assert sum(map(len, shown.values())) <= 1.4 * whole // 40
    left = missing(run, shown)
    assert left
    last_shown = max(index for _, _, index in shown)
    assert min(video.index for video in left) >= last_shown, "the first prompts stay"


def test_a_damaged_sample_is_named(make_run) -> None:
    folder = make_run(steps=60, subnets=1)
    broken = next((folder / "samples").glob("*/16-0.mp4"))
    broken.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"16-0\.mp4 is damaged"):
        embedded(collect(folder))


def test_other_files_among_the_samples_are_left_alone(make_run) -> None:
    folder = make_run(steps=60, subnets=1)
    before = len(collect(folder).videos)
    write_mp4(folder / "samples" / "real" / "mine.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8.0)
    (folder / "samples" / "real" / ".16-9.mp4.123").write_bytes(b"torn by a kill")
    assert len(collect(folder).videos) == before
