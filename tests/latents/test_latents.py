"""Latent space: the shipped autoencoder, the cache of encoded clips, training an autoencoder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from nasvid.data.loader import BatchRequest
from nasvid.data.shards import index_shards
from nasvid.data.wids import INDEX, ShardCount, indexed_counts
from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.text import HashEncoder
from nasvid.distributed.ranks import joined
from nasvid.errors import Damaged, Interrupted, UserError
from nasvid.latents.cache import Identity, open_cache
from nasvid.latents.encode import Encoding, encode
from nasvid.latents.frame_wise import FrameWise
from nasvid.latents.loader import load_latents
from nasvid.latents.train import Frames, train_vae
from nasvid.latents.vae import EMBEDDED, check_latents, make_vae
from nasvid.recipe.sections import VaeSection, VaeTrainSection
from nasvid.shapes import Resolution
from tools.make_autoencoder import unseen_psnr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vae():
    return make_vae(VaeSection())


@pytest.fixture(scope="module")
def indexes():
    index = index_shards("embedded:digits", Path(), "val")
    return {
        "train": replace(index, clips=index.clips[:9]),
        "val": replace(index, clips=index.clips[9:14]),
    }


def text(dim=16):
    return CachedText(HashEncoder(HashEncoder.Config(dim=dim)), 6, None)


def identity(vae, indexes, **changed):
    known = {
        "vae": vae.identity,
        "text": text().encoder.identity,
        "context_len": 6,
        "frames": 2,
        "fps": 8.0,
        "flip": False,
        "cuts": 2,
        "dtype": "fp16",
        "seed": 0,
        "resolutions": (Resolution.square(16), Resolution.square(32)),
        "data": {split: index.fingerprint for split, index in indexes.items()},
    }
    return Identity(**known | changed)


def encoding(folder, vae, indexes):
    return Encoding(
        folder=folder,
        identity=identity(vae, indexes),
        indexes=indexes,
        vae=vae,
        text=text(),
        workers=0,
    )


def write(folder, vae, indexes, stop=lambda: None):
    made = []
    encode(encoding(folder, vae, indexes), progress=made.append, stop=stop)
    return sum(made)


def test_the_shipped_autoencoder_brings_unseen_frames_back(vae):
    for kind in ("digits", "footage"):
        for side in (32, 64):
            assert unseen_psnr(vae, kind, side, most=32) > 22


def test_latents_are_about_standard_normal_and_the_same_in_any_company(vae, indexes):
    video = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    latents = vae.encode(video)
    assert latents.shape == (2, 4, 3, 8, 8)
    assert torch.allclose(vae.encode(video[:1, :, :1]), latents[:1, :, :1], atol=1e-5)
    assert vae.decode(latents).shape == video.shape


def test_scale_and_shift_are_those_of_the_config(vae):
    stock = AutoencoderKL.from_pretrained(EMBEDDED)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        mean = stock.encode(picture).latent_dist.mode()
    expected = (mean - stock.config.shift_factor) * stock.config.scaling_factor
    assert torch.allclose(vae.encode(picture[:, :, None])[:, :, 0], expected, atol=1e-5)


def test_another_weight_is_another_identity(vae):
    model = AutoencoderKL.from_pretrained(EMBEDDED)
    assert FrameWise.of(model, "embedded").identity == vae.identity
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert FrameWise.of(model, "embedded").identity != vae.identity


@pytest.mark.parametrize(
    ("section", "what"),
    [
        (VaeSection(channels=8), "channels 4, but vae.channels is 8"),
        (VaeSection(factor=8), "factor 4, but vae.factor is 8"),
        (VaeSection(path="/nowhere/at/all"), "folder /nowhere/at/all does not exist"),
    ],
)
def test_what_does_not_fit_is_said(section, what):
    with pytest.raises(UserError, match=what):
        check_latents(section, make_vae(section))


def test_what_is_written_is_read_each_once_an_epoch(tmp_path, vae, indexes):
    assert write(tmp_path / "c", vae, indexes) == 46
    cache = open_cache(tmp_path / "c", identity(vae, indexes))
    assert cache.damaged() == []
    shard = tmp_path / "c" / "32" / "train" / "000000.tar"
    assert indexed_counts(str(shard.with_name(INDEX)), [str(shard)], retries=0) == [
        ShardCount(str(shard), 18, shard.stat().st_size)
    ]
    for workers in (0, 2):
        requests = [BatchRequest(i, Resolution.square(32), 6 * i, 6) for i in range(3)]
        batches = list(load_latents(cache, requests, split="train", seed=1, workers=workers))
        keys = [key for batch in batches for key in batch.keys]
        assert len(set(keys)) == len(keys) == 18
        assert batches[0].video.shape == (6, 4, 2, 8, 8)
    again = next(load_latents(cache, requests[2:], split="train", seed=1, workers=0))
    assert again.keys == batches[2].keys
    assert torch.equal(again.video, batches[2].video)
    context, mask = text()(again.captions)
    assert torch.equal(again.context[0], context.half())
    assert torch.equal(again.context[1], mask)


def test_ranks_write_what_one_does_and_so_does_an_encode_that_was_stopped(
    tmp_path, vae, indexes, forked
):
    write(tmp_path / "whole", vae, indexes)

    def work():
        with joined() as ranks:
            made = encoding(tmp_path / "two", vae, indexes)
            encode(made, progress=lambda n: None, stop=lambda: None, ranks=ranks)

    codes, said = forked(2, work)
    assert codes == [0, 0], said
    answers = iter([None, None, 15])
    with pytest.raises(Interrupted):
        write(tmp_path / "torn", vae, indexes, stop=lambda: next(answers))
    with pytest.raises(UserError, match="incomplete"):
        open_cache(tmp_path / "torn", identity(vae, indexes))
    write(tmp_path / "torn", vae, indexes)
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.*"))
    for made in ("torn", "two"):
        for file in files:
            there, whole = (tmp_path / folder / file for folder in (made, "whole"))
            assert there.read_bytes() == whole.read_bytes(), there


@pytest.mark.parametrize(
    ("key", "value"), [("vae", "other (0123)"), ("text", "Clip:{}"), ("frames", 4), ("cuts", 1)]
)
def test_a_stale_cache_is_refused_with_both_names(tmp_path, vae, indexes, key, value):
    write(tmp_path / "c", vae, indexes)
    changed = replace(identity(vae, indexes), **{key: value})
    with pytest.raises(UserError) as refused:
        open_cache(tmp_path / "c", changed)
    assert repr(value) in str(refused.value)
    assert repr(getattr(identity(vae, indexes), key)) in str(refused.value)


@pytest.mark.parametrize("name", ["32/train/000000.tar", "complete.json"])
@pytest.mark.parametrize("damage", [b"", b"x" * 70000, None])
def test_what_is_damaged_is_refused_and_made_again_alone(tmp_path, vae, indexes, name, damage):
    folder = tmp_path / "c"
    write(folder, vae, indexes)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    path = folder / name
    path.write_bytes(before[path][:-20] if damage is None else damage)
    with pytest.raises(Damaged, match=f"{name} is damaged.*data encode"):
        open_cache(folder, identity(vae, indexes))
    times = {each: each.stat().st_mtime_ns for each in folder.rglob("*.tar") if each != path}
    write(folder, vae, indexes)
    assert {each: each.read_bytes() for each in folder.rglob("*.*")} == before
    assert {each: each.stat().st_mtime_ns for each in times} == times


def test_a_sample_with_another_bit_is_skipped(tmp_path, vae, indexes):
    write(tmp_path / "c", vae, indexes)
    cache = open_cache(tmp_path / "c", identity(vae, indexes))
    entry = cache.of(Resolution.square(32), "train")[0]
    with open(entry.shard, "r+b") as shard:
        shard.seek(entry.tensors.offset + entry.tensors.size - 1)
        shard.write(b"\xa5")
    assert cache.damaged() == []
    requests = [BatchRequest(0, Resolution.square(32), 0, 18)]
    (batch,) = load_latents(cache, requests, split="train", seed=0, workers=0)
    assert [(skip.key, skip.reason) for skip in batch.skipped] == [(entry.key, "damaged latent")]


def test_a_trained_autoencoder_is_the_same_however_it_was_stopped(tmp_path):
    index = index_shards("embedded:digits", Path(), "val")
    section = VaeTrainSection(steps=6, batch=2, widths=(8, 8, 8))

    def train(folder, stop):
        losses = []
        sizes = (Resolution.square(16), Resolution(32, 16, 9))
        train_vae(
            section,
            Frames(
                index=index,
                resolutions=sizes,
                seed=0,
                workers=0,
            ),
            folder,
            channels=4,
            device=torch.device("cpu"),
            progress=lambda _, loss: losses.append(loss),
            report=print,
            stop=stop,
        )
        return losses

    whole = train(tmp_path / "whole", lambda: None)
    answers = iter([None, None, 2])
    with pytest.raises(Interrupted):
        train(tmp_path / "torn", lambda: next(answers))
    assert train(tmp_path / "torn", lambda: None) == whole[3:]
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["scaling_factor"] != 1.0
    shutil.rmtree(tmp_path / "torn")
