"""A run's own latents while nothing is trained: they follow the recipe and the shards."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load

from nasvid.cli.main import main
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards
from nasvid.errors import UserError
from nasvid.export.video import read_mp4
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
        session.clips("train")
        assert "model" not in vars(session.components.vae), "freed before the supernet is trained"
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


def test_the_frames_of_the_data_are_more_than_the_denoisers(
    pipeline: Callable[[str], Path], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """A causal VAE: cache, denoiser and report have 2 latent frames, samples 5 as the data."""
    changes = {
        "patch_size: 2": "patch_size: 1",
        "frames: 4": "workers: 0, train: s.tar, val: s.tar, frames: 5",
        "  32: {batch: auto}\n": "",
        "prompts: []": "prompts: [a cat]\n  sampling_steps: 2",
    }
    recipe = write_recipe(changes, f"vae: {{path: {pipeline('wan')}}}\n")
    write_shard(tmp_path / "s.tar", 2)
    run = tmp_path / "run"
    sets = ["search.budget=2", "search.clips=2", "front.subnets=1", "front.evaluators=[]"]
    options = [part for each in sets for part in ("--set", each)]
    done = CliRunner().invoke(main, ["run", str(recipe), "--out", str(run), *options])
    assert done.exit_code == 0, done.output
    (shard,) = (run / "latents" / "16" / "train").glob("*.tar")
    with tarfile.open(shard) as tar:
        member = next(name for name in tar.getnames() if name.endswith(".safetensors"))
        inside = tar.extractfile(member)
        assert inside is not None
        assert load(inside.read())["latent"].shape == (16, 2, 2, 2)
    videos = list((run / "samples").rglob("*.mp4"))
    assert len(videos) == 2
    assert {len(read_mp4(path)) for path in videos} == {5}
    assert "4x8x8 pixels to 16 channels" in (run / "report.html").read_text()
