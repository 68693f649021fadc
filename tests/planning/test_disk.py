"""The plan knows what clips and captions take on the disk, as what is written there shows."""

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.latents.encode import Encoding, encode
from nasvid.planning.plan import make_plan
from nasvid.preflight import load_recipe
from nasvid.run.components import Components

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
VAE = "vae: {path: embedded, channels: 4, factor: 4, cuts: 2}"


def planned(path: Path, *sets: str) -> str:
    command = ["plan", str(path), *(part for each in sets for part in ("--set", each))]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_encoded_clips_take_what_was_planned(write_recipe: Write, tmp_path: Path) -> None:
    """At both resolutions, both cuts, with their text; headers add some hundred bytes."""
    path = write_recipe(more=VAE)
    assert "Latents on the disk: at most 6.14 kB for a clip, with its text" in planned(path)
    loaded = load_recipe(path)
    components, index = Components(loaded), index_shards("embedded:digits", Path(), "val")
    indexes: dict[Split, ShardIndex] = {
        split: replace(index, clips=index.clips[:3]) for split in SPLITS
    }
    encoding = Encoding(
        folder=tmp_path / "latents",
        identity=components.latent_identity(indexes),
        indexes=indexes,
        vae=components.vae,
        text=components.text,
        workers=0,
    )
    encode(encoding, progress=lambda n: None, stop=lambda: None)
    entries = []
    for side in (16, 32):
        with tarfile.open(encoding.folder / str(side) / "train" / "000000.tar") as shard:
            entries += [member.size for member in shard]
    size = make_plan(loaded.recipe).disk.clip
    assert 0 < sum(entries) / 3 - size < 4 * 900


def test_streamed_shards_take_what_the_recipe_allows(write_recipe: Write) -> None:
    path, local = write_recipe(), "data.mode=local"
    remote = "data.train=http://localhost:1/{0..9}.tar"
    assert "shards on" not in planned(path)
    said = "Streamed shards on each machine's disk: "
    assert said + "at most 50 GB (data.cache_limit)." in planned(path, remote)
    assert said + "all of them (data.cache_limit)." in planned(
        path, remote, "data.cache_limit=null"
    )
    assert "shards on" not in planned(path, remote, local)
    assert "shards on" not in planned(path, "data.mode=stream"), "they are read in place"


def test_captions_take_what_was_planned_unless_nothing_is_kept(
    write_recipe: Write, pipeline: Callable[[str], Path]
) -> None:
    path = write_recipe()
    text = f"text={{name: pretrained, path: {pipeline('text_to_video_sd')}}}"
    said = "Embeddings on the disk: at most 512 B for a caption, 512 MB for a million."
    assert said in planned(path, text)
    assert "Embeddings on" not in planned(path, text, "data.embeddings=none")
    assert "Embeddings on" not in planned(path)
