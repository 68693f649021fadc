"""The captions of a recipe that denoises pixels: encoded once, before training or ahead of it."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.data.embeddings import half, padded
from nasvid.data.loader import BatchRequest
from nasvid.data.shards import index_shards
from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.text import HashEncoder
from nasvid.distributed.ranks import joined
from nasvid.errors import Interrupted, UserError
from nasvid.latents.captions import Captions, encode_captions, missing
from nasvid.preflight import load_recipe
from nasvid.run.folder import begin, existing
from nasvid.run.session import Session
from nasvid.run.text import text
from nasvid.shapes import Resolution

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def captions():
    """Those of three shards, with repetitions."""
    index = index_shards("embedded:digits", Path(), "val")
    clips = [dataclasses.replace(clip, shard=f"{n % 3}.tar") for n, clip in enumerate(index.clips)]
    index = dataclasses.replace(
        index, shards=("0.tar", "1.tar", "2.tar", "3.tar"), clips=(*clips[:9], *clips[:9])
    )
    return Captions({"train": index})


def hashed(length: int = 6) -> CachedText:
    return CachedText(HashEncoder(HashEncoder.Config(dim=16)), length)


def fill(folder: Path, captions, **options) -> int:
    made = []
    options = {"stop": lambda: None, **options}
    text = hashed()
    places = missing(folder, captions, text.made_by)
    encode_captions(folder, captions, places, text, progress=made.append, **options)
    return sum(made)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_shard_has_one_file_with_each_caption_once(tmp_path: Path, captions) -> None:
    texts = [captions.of(place) for place in captions.places]
    assert all(len({*each}) == len(each) for each in texts)
    assert fill(tmp_path, captions) == sum(map(len, texts)) <= 9
    names = [f"00000{number}.safetensors" for number in range(3)]
    assert sorted(contents(tmp_path)) == names, "none of a shard without clips, and nothing else"
    assert fill(tmp_path, captions) == 0


def test_stopped_or_damaged_it_resumes_to_the_same_bytes(tmp_path: Path, captions) -> None:
    fill(tmp_path / "whole", captions)
    with pytest.raises(Interrupted):
        fill(tmp_path / "torn", captions, stop=lambda: 15)
    (first,) = (tmp_path / "torn" / "train").iterdir()
    assert len(missing(tmp_path / "torn", captions, hashed().made_by)) == 2
    before = first.stat().st_mtime_ns
    fill(tmp_path / "torn", captions)
    assert first.stat().st_mtime_ns == before
    second = first.with_name("000001.safetensors")
    second.write_bytes(second.read_bytes()[:-1])
    assert missing(tmp_path / "torn", captions, hashed().made_by) == [("train", 1)]
    fill(tmp_path / "torn", captions)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
    assert missing(tmp_path / "torn", captions, hashed(length=7).made_by) == captions.places


def test_ranks_divide_the_shards_and_write_the_same(tmp_path: Path, captions, forked) -> None:
    fill(tmp_path / "one", captions)

    def work() -> None:
        with joined() as ranks:
            fill(tmp_path / "two", captions, ranks=ranks)

    codes, said = forked(2, work)
    assert codes == [0, 0], said
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.fixture
def recipe(write_recipe, pipeline) -> Callable[[str], Path]:
    def write(embeddings: str, mode: str = "local") -> Path:
        data = f"data: {{workers: 0, mode: {mode}, embeddings: {embeddings}, "
        data += "train: 'embedded:digits', "
        changes = {"data: {": data + "val: 'embedded:digits', "}
        changes |= {"name: hash, dim: 16": f"name: pretrained, path: {pipeline('wan')}"}
        return write_recipe(changes | {"prompts: []": "prompts: [a cat]"})

    return write


def first_batch(session: Session, split="val"):
    return next(session.clips(split).load([BatchRequest(0, Resolution.square(16), 0, 4)]))


def test_training_gets_what_the_encoder_gives_together_in_half_precision(
    recipe, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_recipe(recipe("run"))
    session = Session(begin(tmp_path / "run", loaded), loaded)
    text(session)
    assert "captions encoded to" in capsys.readouterr().out
    encoder = session.components.text.encoder
    assert encoder._loaded == [], "freed before the supernet is trained"
    batch = first_batch(session)
    found = encoder.encode_all(batch.captions, 8)
    stored = [padded(half(embedding[mask]), mask) for embedding, mask in found]
    assert torch.equal(batch.context[0], torch.stack(stored))
    for row, caption in zip(batch.context[0], batch.captions, strict=True):
        alone, _ = encoder.encode(caption, 8)
        torch.testing.assert_close(row.float(), alone, rtol=2**-10, atol=1e-5)
    files = sorted(path.name for path in (tmp_path / "run" / "text").rglob("*.safetensors"))
    shards = sum(len(session.index(split).shards) for split in ("train", "val"))
    assert len(files) == shards + 1, "one for each shard, and one of prompts"
    again = Session(session.folder, loaded)
    monkeypatch.setattr("nasvid.diffusion.encoders.Source.load", None)
    text(again)
    assert "reusing the embeddings" in capsys.readouterr().out
    assert torch.equal(first_batch(again).context[0], batch.context[0])
    assert again.components.text(["", "a cat"])[0].dtype == torch.float32
    with pytest.raises(TypeError):
        again.components.text(["a prompt that is new"])

    path = next((tmp_path / "run" / "text" / "val").iterdir())
    path.unlink()
    with pytest.raises(UserError, match="is missing; nasvid run makes it again"):
        first_batch(Session(session.folder, loaded))


def test_captions_that_are_not_kept_are_encoded_ahead(recipe, tmp_path: Path) -> None:
    loaded = load_recipe(recipe("none"))
    session = Session(begin(tmp_path / "run", loaded), loaded)
    text(session)
    assert [path.name for path in (tmp_path / "run" / "text").iterdir()] == ["prompts.safetensors"]
    batch, encoder = first_batch(session), session.components.text.encoder
    assert encoder._loaded, "for the next steps"
    found = encoder.encode_all(batch.captions, 8)
    torch.testing.assert_close(batch.context[0], torch.stack([each for each, _ in found]))


@pytest.mark.parametrize("mode", ["local", "stream"])
def test_runs_share_what_ranks_have_encoded_before(
    recipe, tmp_path: Path, error_of, forked, mode
) -> None:
    path = recipe("shared", mode)

    def work() -> None:
        done = CliRunner().invoke(main, ["data", "encode", str(path)])
        print(done.output)
        assert done.exit_code == 0

    codes, said = forked(2, work)
    assert codes == [0, 0], said
    assert "captions encoded to" in said
    assert (tmp_path / "shared" / "logs" / "rank-00001.log").exists()
    done = CliRunner().invoke(main, ["data", "encode", str(path)])
    assert "reusing the embeddings" in done.output
    loaded = load_recipe(path)
    session = Session(begin(tmp_path / "run", loaded), loaded)
    text(session)
    assert first_batch(session, "train").context[0].dtype == torch.float16
    assert [each.name for each in (tmp_path / "run" / "text").iterdir()] == ["prompts.safetensors"]
    said = error_of("data", "encode", recipe("run"))
    assert "Each run has its own cache (data.embeddings: run)" in said


def test_a_trained_run_keeps_to_its_encoder_wherever_embeddings_lie(
    recipe, pipeline, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(pipeline("wan"), tmp_path / "a copy")
    path = recipe("shared")
    path.write_text(path.read_text().replace(str(pipeline("wan")), str(tmp_path / "a copy")))
    encoded(tmp_path / "run", path)
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir(parents=True)
    encoded(tmp_path / "run", recipe("shared"))
    assert "reusing the embeddings" in capsys.readouterr().out, "of the same model elsewhere"
    weights = next((tmp_path / "a copy" / "text_encoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    path.write_text(path.read_text().replace(str(pipeline("wan")), str(tmp_path / "a copy")))
    session = Session(existing(tmp_path / "run"), load_recipe(path))
    with pytest.raises(UserError, match=r"trained on embeddings of Pretrained .* restore that"):
        text(session)


def encoded(run: Path, recipe: Path) -> None:
    loaded = load_recipe(recipe)
    text(Session(begin(run, loaded), loaded))


def test_streamed_run_means_none_when_a_trained_run_is_resumed(recipe, tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", load_recipe(recipe("run", "stream")))
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    begin(tmp_path / "run", load_recipe(recipe("none", "stream")))
    with pytest.raises(UserError, match=r"data\.embeddings = \"none\""):
        begin(tmp_path / "run", load_recipe(recipe("shared", "stream")))
