"""Runs in latent space, and the cache of latents that they share, as a user calls them."""

import json
import re
import shutil
import signal
import time
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from nasvid.cli.main import main
from nasvid.latents.vae import EMBEDDED
from tests.processes import Started, nasvid_in

pytestmark = pytest.mark.slow

CLIPS = EMBEDDED.parents[1] / "data/embedded/val"
CHANNELS = json.loads((EMBEDDED / "config.json").read_text())["latent_channels"]
SPLITS = {split: str(CLIPS / "digits-000.tar") for split in ("train", "val")}
DATA = SPLITS | {"frames": 4, "context_len": 6}
SECTIONS = {
    "name": "latent",
    "data": DATA,
    "text": {"name": "clip", "path": "clip", "dim": 16},
    "vae": {"path": "vae", "channels": CHANNELS, "cache": "latents"},
    "training": {"steps": 6, "learning_rate": 1e-3, "checkpoint_every": 2},
    "search": {"strategy": {"name": "random"}, "budget": 6, "clips": 8},
    "front": {
        "subnets": 2,
        "evaluators": [],
        "prompts": ["the digit 3 moves left"],
        "sampling_steps": 2,
    },
    "finetune": {
        "subnets": 1,
        "steps": 24,
        "teacher": {"task": 0.5, "outputs": 0.5, "features": 0},
    },
}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A recipe, an autoencoder and a text encoder of its own, and the latents of its clips."""
    folder = tmp_path_factory.mktemp("latent")
    shutil.copytree(EMBEDDED, folder / "vae")
    (folder / "recipe.yaml").write_text(tiny(**SECTIONS))
    words = {word: i for i, word in enumerate(["<pad>", "<end>", "<unk>", "the", "digit", "moves"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", words["<end>"])]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder / "clip")
    write_clip(folder / "clip", seed=0)
    called(folder, "data", "encode", "recipe.yaml")
    return folder


def write_clip(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    size = {"vocab_size": 6, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CLIPTextConfig(**size, num_hidden_layers=1, max_position_embeddings=8)
    CLIPTextModel(config).save_pretrained(folder)


def start(folder: Path, *arguments: object) -> Started:
    return Started(folder / "said", nasvid_in, folder, *arguments)


def called(folder: Path, *arguments: object, code: int = 0) -> str:
    with chdir(folder):
        result = CliRunner().invoke(main, [*map(str, arguments)], prog_name="nasvid")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def kill_when(process: Started, reached) -> bool:
    """Kill a process as soon as `reached()`; return whether that was before it ended."""
    while process.poll() is None and not reached():
        time.sleep(0.002)
    killed = process.poll() is None
    process.kill()
    return killed


def contents(folder: Path) -> dict[str, bytes]:
    """All files that are not hidden."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.name[0] != "."}


def test_an_encode_killed_at_random_points_ends_in_the_same_bytes(folder, rng):
    whole, torn = contents(folder / "latents"), folder / "torn"
    killed = 0
    for goal in (0, 3):
        process = start(folder, "data", "encode", "recipe.yaml", "--out", torn)
        wait = rng.random() * 0.3
        killed += kill_when(
            process,
            lambda goal=goal, wait=wait: (
                len(list(torn.glob("*/*/*/[!.]*.tar"))) >= goal
                and list(torn.glob("*/cache.json"))
                and time.sleep(wait) is None
            ),
        )
        for path, content in contents(torn).items():
            assert whole[path] == content, "a shard that is there is whole"
    assert killed == 2
    said = called(folder, "data", "encode", "recipe.yaml", "--out", torn)
    assert re.search(r"latents: 320 clips encoded .*torn", said)
    assert contents(torn) == whole
    said = called(folder, "data", "encode", "recipe.yaml", "--out", torn)
    assert re.search(r"latents: reusing those in .*torn", said)


@pytest.fixture(scope="module")
def run(folder) -> tuple[Path, str]:
    """A run, and what it said."""
    return folder / "run", called(folder, "run", "recipe.yaml", "--out", "run")


def test_a_run_uses_latents_that_are_there_and_says_so(folder, run):
    out, said = run
    assert re.search(r"latents: reusing those in .*latents", said)
    assert not (out / "latents").exists()
    page = (out / "report.html").read_text()
    (tuned,) = json.loads((out / "finetune/finetuned.json").read_text())["subnets"]
    for when in ("before", "after"):
        assert 0 < tuned[when]["loss"] < 10
        assert f"{tuned[when]['loss']:.4f}" in page
    assert tuned["before"]["loss"] != tuned["after"]["loss"]
    assert (out / "finetune/subnets" / tuned["id"] / "unet" / "config.json").exists()
    assert "autoencoder" in page


def test_a_run_killed_while_it_fine_tunes_ends_as_the_whole_one(folder, run):
    torn = folder / "killed"
    process = start(folder, "run", "recipe.yaml", "--out", torn)
    assert kill_when(process, lambda: list(torn.glob("finetune/checkpoints/*/step-*")))
    assert not list(torn.glob("finetune/subnets/*/"))
    called(folder, "run", "recipe.yaml", "--out", torn)
    for name in ("finetune/finetuned.json", "search/front.json"):
        assert (torn / name).read_bytes() == (run[0] / name).read_bytes()
    for part in ("subnets", "finetune/subnets"):
        assert contents(torn / part) == contents(run[0] / part)


def made_with(run: Path) -> dict:
    return json.loads((run / "data/latents/made_with.json").read_text())


def test_a_run_is_not_resumed_with_another_encoder(folder, run):
    latents, kept = made_with(run[0]), folder / "kept"
    shutil.copytree(folder / "clip", kept)
    write_clip(folder / "clip", seed=1)
    said = called(folder, "run", "recipe.yaml", "--out", "run", code=2)
    assert latents["text"] in said
    (now,) = re.findall(r"in the recipe '(ClipEncoder \(\w+, fp32\))'", said)
    assert now != latents["text"]
    shutil.rmtree(folder / "clip")
    shutil.move(kept, folder / "clip")


def test_a_run_is_not_resumed_with_another_vae(folder, run):
    latents = made_with(run[0])
    model = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 0.01
    shutil.move(folder / "vae", folder / "kept")
    model.save_pretrained(folder / "vae")
    said = called(folder, "run", "recipe.yaml", "--out", "run", code=2)
    assert latents["vae"] in said
    (now,) = re.findall(r"in the recipe '(vae \(\w+\))'", said)
    assert now != latents["vae"]
    shutil.rmtree(folder / "vae")
    shutil.move(folder / "kept", folder / "vae")
    called(folder, "run", "recipe.yaml", "--out", "run")


def test_several_data_sets_share_a_folder_of_latents(folder, run):
    before = contents(folder / "latents")
    sets = [f"data.{split}={CLIPS}/footage-000.tar" for split in SPLITS]
    options = [option for each in sets for option in ("--set", each)]
    called(folder, "data", "encode", "recipe.yaml", *options)
    after = contents(folder / "latents")
    assert {path: after[path] for path in before} == before
    assert len(list((folder / "latents").glob("*/complete.json"))) == 2
    said = called(folder, "data", "encode", "recipe.yaml")
    assert "reusing those in" in said


def test_a_run_may_train_its_own_autoencoder(folder, tiny):
    vae = {"train": {"steps": 5, "batch": 2, "widths": [8, 8, 8]}, "cache": "none"}
    own = SECTIONS | {"data": DATA | {"frames": 2}, "vae": vae, "finetune": None}
    (folder / "own.yaml").write_text(tiny(**own))
    said = called(folder, "run", "own.yaml", "--out", "own")
    assert re.search(r"vae: vae \(\w+\), \d+\.\d dB at 16 px", said)
    assert AutoencoderKL.from_pretrained(folder / "own/vae").config.latent_channels == 4
    assert "vae" in (folder / "own/report.html").read_text()
    said = called(folder, "data", "encode", "own.yaml", code=2)
    assert "trains its own in the run" in said


def test_encoding_needs_a_folder(folder, tiny):
    (folder / "pixels.yaml").write_text(tiny(**SECTIONS | {"vae": None}))
    said = called(folder, "data", "encode", "pixels.yaml", code=2)
    assert "name a shared folder with --out or data.embeddings" in said
    (folder / "apart.yaml").write_text(
        (folder / "recipe.yaml").read_text().replace("cache: latents", "cache: run")
    )
    said = called(folder, "data", "encode", "apart.yaml", code=2)
    assert "name a shared folder with --out or vae.cache" in said


def test_a_signal_ends_an_encode_and_says_how_to_resume(folder):
    process = start(folder, "data", "encode", "recipe.yaml", "--out", folder / "asked")
    process.wait_for(lambda: list((folder / "asked").glob("*/*/*/[!.]*.tar")))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM, process.said
    assert "Resume with: the same command" in process.said
