"""A run's own latents while nothing is trained: they follow the recipe and the shards."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards
from nasvid.errors import UserError
from nasvid.host.reading import as_object, read_json
from nasvid.preflight import load_recipe
from nasvid.run.folder import begin
from nasvid.run.latents import latents
from nasvid.run.session import Session

pytestmark = pytest.mark.slow


def write_shard(path: Path, clips: int, *, broken: int = 0) -> None:
    found = index_shards("embedded:footage", Path(), "val").clips[:clips]
    samples = [(clip.key, read_video(clip), clip.caption) for clip in found]
    samples += [(f"broken-{number}", b"garbage", "a caption") for number in range(broken)]
    with tarfile.open(path, "w") as tar:
        for key, video, caption in samples:
            for ending, body in (("mp4", video), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))


def test_latents_are_made_again_until_a_checkpoint_is_made_of_them(
    write_recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shard, run = tmp_path / "s.tar", tmp_path / "run"
    section = "vae: {path: embedded, channels: 4, factor: 4}\n"
    recipe = write_recipe({"data: {": "data: {workers: 0, train: s.tar, val: s.tar, "}, section)

    def encoded(*sets: str) -> tuple[str, dict | None]:
        loaded = load_recipe(recipe, overrides=sets)
        session = Session(begin(run, loaded), loaded)
        latents(session)
        return capsys.readouterr().out, read_json(run / "latents" / "cache.json", as_object)

    write_shard(shard, 3)
    said, first = encoded()
    assert "12 clips encoded" in said
    assert "reusing" in encoded()[0]
    write_shard(shard, 2)  # the same name, other clips
    said, second = encoded()
    assert "had other settings and are made again" in said
    assert "8 clips encoded" in said
    assert first != second
    said, third = encoded("vae.cuts=2")
    assert "is not trained yet; removed files made with different settings: latents" in said
    assert "12 clips encoded" in said
    assert second != third
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UserError, match=r"vae\.cuts = 2, but the recipe has 1"):
        encoded()
    write_shard(shard, 3)
    with pytest.raises(UserError, match="have changed"):
        encoded("vae.cuts=2")


def test_what_is_left_out_has_its_reason(
    write_recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    section = "vae: {path: embedded, channels: 4, factor: 4}\n"
    recipe = write_recipe({"data: {": "data: {workers: 0, train: s.tar, val: s.tar, "}, section)
    write_shard(tmp_path / "s.tar", 2, broken=1)
    loaded = load_recipe(recipe)
    latents(Session(begin(tmp_path / "run", loaded), loaded))
    assert "8 clips encoded" in (said := capsys.readouterr().out)
    assert ", 4 left out (4: broken video)" in said
