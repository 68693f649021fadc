"""`nasvid init`: a recipe from a pipeline's folder, or from its configs on a hub."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from nasvid import plugins
from nasvid.cli.main import main
from nasvid.diffusion.sample import to_frames
from nasvid.draft import Wanted, draft
from nasvid.run.extract import PROMPT
from nasvid.run.folder import existing, load_of_run
from nasvid.run.held_out import video_sampler
from nasvid.run.members import find
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session
from tests.export.test_pipelines import STRANGER
from tests.strangers import Stranger

Pipeline = Callable[[str], Path]
pytestmark = pytest.mark.slow


def init(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["init", *map(str, arguments)], prog_name="nasvid")
    assert result.exit_code == 0, result.output
    return result.output


def written(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Return the recipe, whose smallest architecture has about as much as is to be kept."""
    said = init(*arguments, "--out", tmp_path / "recipe.yaml")
    found = re.search(r"the smallest with (\d+)% of its parameters", said)
    assert found is not None, said
    keep = 80 if "--keep" in arguments else 50
    assert keep <= int(found[1]) <= keep + 20  # of few blocks, one is a large part
    return yaml.safe_load((tmp_path / "recipe.yaml").read_text())


EXPECTED: dict[str, dict[str, Any]] = {
    "wan": {
        "choices": {"num_layers": {"keep": 4}, "ffn_dim": [224, 240, 256]},
        "shift": None,
        "own": ["240x416", "480x832"],
        "frames": 81,
        "context_len": 512,
        "guidance": 5.0,
    },
    "ltx": {
        "choices": {"num_layers": {"keep": 3}},
        "shift": 25.2849,  # of 16 x 22 tokens of 21 frames, as calculate_shift of diffusers has it
        "own": ["256x352", "512x704"],
        "frames": 161,
        "context_len": 128,
        "guidance": 3,
    },
    "cogvideox": {
        "choices": {"num_layers": {"keep": 3}},
        "shift": None,
        "own": [32, 64],
        "frames": 9,
        "context_len": 226,
        "guidance": 6,
    },
    "hunyuan_video": {
        "choices": {"num_layers": {"keep": 1}, "num_single_layers": {"keep": 3}},
        "shift": None,
        "own": ["352x640", "720x1280"],
        "frames": 129,
        "context_len": 257,
        "guidance": 1.0,
    },
    "text_to_video_sd": {
        "choices": {
            "block_out_channels.0": [8, 16],
            "block_out_channels.1": [24, 32],
            "block_out_channels.2+3": [48, 56, 64],
        },
        "shift": None,
        "own": [32, 64],
        "frames": 16,
        "context_len": 77,
        "guidance": 9.0,
    },
}
"""What the recipe of each stand-in says."""


@pytest.fixture(scope="module")
def drafts(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each stand-in's recipe."""
    folders = {name: tmp_path_factory.mktemp(name) for name in EXPECTED}
    for name, folder in folders.items():
        written(folder, pipeline(name))
    return folders


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_has_what_the_pipeline_says(
    name: str, pipeline: Pipeline, drafts: dict[str, Path]
) -> None:
    recipe = yaml.safe_load((drafts[name] / "recipe.yaml").read_text())
    expected, folder = EXPECTED[name], {"path": str(pipeline(name))}
    assert recipe["space"]["choices"] == expected["choices"]
    assert recipe["text"] == {"name": "pretrained", **folder}
    assert recipe["vae"] == folder
    assert recipe["objective"].pop("shift", None) == expected["shift"]
    assert recipe["objective"] == {"name": "pretrained", **folder}
    assert list(recipe["scales"]["gpu"]["resolutions"]) == expected["own"]
    assert recipe["scales"]["gpu"]["data"]["frames"] == expected["frames"]
    assert recipe["data"]["context_len"] == expected["context_len"]
    assert recipe["front"]["guidance_scale"] == expected["guidance"]


SHORT = (
    "training.steps=1",
    "search={strategy: {name: random}, budget: 2, clips: 1}",
    "front={subnets: 1, prompts: [], evaluators: [], sampling_steps: 2, guidance_scale: 2}",
)
"""What makes a run take seconds."""


def short(folder: Path, *, whole: bool) -> list[str]:
    """Return what makes the run of a recipe short; whole: with importance and recovery."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    lowest = next(iter(recipe["scales"]["cpu"]["resolutions"]))
    more = ["importance=null", "supernet.reorder=false", "sampler={name: uniform}"]
    if whole:
        more = ["importance.clips=1", "front.recover={top: 1, steps: 1, teacher: {}}"]
    return [f"resolutions={{{lowest}: {{batch: 1}}}}", *SHORT, *more]


def test_a_recipe_runs_to_a_pipeline_that_diffusers_opens(
    pipeline: Pipeline, drafts: dict[str, Path], stranger: Stranger
) -> None:
    """Its frames, made where nasvid cannot be imported, are those that nasvid samples."""
    exported, expected = [], []
    for name, folder in drafts.items():
        sets = [word for each in short(folder, whole=name == "wan") for word in ("--set", each)]
        run = folder / "run"
        arguments = ["run", folder / "recipe.yaml", "--scale", "cpu", "--out", run, *sets]
        result = CliRunner().invoke(main, [*map(str, arguments)], prog_name="nasvid")
        assert result.exit_code == 0, result.output
        (index,) = (run / "subnets").glob("*/model_index.json")
        indexes = [json.loads(path.read_text()) for path in (index, pipeline(name) / index.name)]
        assert len({each["_class_name"] for each in indexes}) == 1
        exported.append(index.parent)
        expected.append(sampled(run, index.parent.name))
    stranger.run(STRANGER, exported[0], *exported)
    for subnet, frames in zip(exported, expected, strict=True):
        assert np.array_equal(np.load(subnet / "frames.npy"), frames)


def sampled(run: Path, subnet: str) -> np.ndarray:
    """Return the frames of `nasvid sample`, before they are written to a video."""
    folder = existing(run)
    session = Session(folder, load_of_run(folder, trust=False), writes=False)
    arch, shapes = find(session, subnet).arch, session.components.shapes
    model = OwnWeights(session).supernet(arch).subnet(arch)
    sampler = replace(video_sampler(session.components), seed=0)
    (video,) = sampler.videos(model, [PROMPT], shapes[max(shapes)])
    return to_frames(video)[0].numpy()


WAN = {
    "_class_name": "WanTransformer3DModel",
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 8960,
    "freq_dim": 256,
    "in_channels": 16,
    "num_attention_heads": 12,
    "num_layers": 8,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
"""The config of Wan2.1-T2V-1.3B, but for the number of its blocks, 30."""


@pytest.fixture
def on_a_hub(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, Any]], None]:
    """Put a pipeline's configs where those are kept that were fetched, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, configs: dict[str, Any]) -> None:
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = place / "snapshots" / ("0" * 40)
        shutil.copytree(pipeline("wan"), snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0" * 40)
        for part, config in configs.items():
            path = snapshot / part / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | config))

    return put


def test_a_name_on_a_hub_gives_a_recipe_that_says_all_that_configs_say(
    on_a_hub: Callable[[str, dict[str, Any]], None], tmp_path: Path
) -> None:
    """With the shapes of the published model, which is planned without its weights."""
    name = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    on_a_hub(name, {"transformer": WAN, "text_encoder": {"d_model": 4096}})
    recipe = written(tmp_path, name)
    assert recipe["supernet"] == {"init_from": name, "subfolder": "transformer"}
    assert recipe["vae"] == {
        "path": name,
        "subfolder": "vae",
        "channels": 16,
        "factor": 8,
        "temporal_factor": 4,
    }
    assert recipe["text"] == {
        "name": "pretrained",
        "path": name,
        "subfolder": "text_encoder",
        "tokenizer_subfolder": "tokenizer",
        "dim": 4096,
        "padding": "zeros",
    }
    assert recipe["space"]["choices"] == {
        "num_layers": {"keep": 5},
        "num_attention_heads": [11, 12],
        "ffn_dim": [7840, 8400, 8960],
    }
    assert recipe["space"]["config"].items() >= {("num_layers", 8), ("text_dim", 4096)}
    assert recipe["objective"] == {"name": "flow", "train_timesteps": 1000, "shift": 3.0}
    plan = CliRunner().invoke(
        main,
        ["plan", str(tmp_path / "recipe.yaml"), "--scale", "gpu", "--devices", "H100", "--json"],
    )
    assert plan.exit_code == 0, plan.output
    found = json.loads(plan.stdout)
    assert found["largest_params"] == 397_301_312


OWN = """
from nasvid import register
from nasvid_spaces.diffusers_model import WanSpace

@register("spaces", "only_depth")
class OnlyDepth(WanSpace):
    '''Wan without some of its blocks.'''

    @classmethod
    def narrowed(cls, settings):
        return []
"""


def test_a_space_of_ones_own_is_asked_first(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))
    (tmp_path / "mine.py").write_text(OWN)
    recipe = written(tmp_path, pipeline("wan"), "--plugin", tmp_path / "mine.py", "--keep", 0.8)
    assert recipe["plugins"] == [str(tmp_path / "mine.py")]
    assert recipe["space"] == {"name": "only_depth", "choices": {"num_layers": {"keep": 5}}}


def test_paths_are_relative_to_the_recipe(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pipeline("wan"), tmp_path / "models" / "Wan 2.1")
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    init("models/Wan 2.1", "--out", "recipes/small.yaml")
    recipe = yaml.safe_load((tmp_path / "recipes" / "small.yaml").read_text())
    assert recipe["name"] == "wan-2.1"
    paths = (recipe["vae"], recipe["text"])
    assert {each["path"] for each in paths} == {"../models/Wan 2.1"}
    assert recipe["supernet"] == {"init_from": "../models/Wan 2.1"}


# What is refused


@pytest.fixture
def broken(pipeline: Pipeline, tmp_path: Path) -> Callable[..., Path]:
    """Copy a stand-in; change the JSON files named, or remove what has None."""

    def make(changes: dict[str, Any]) -> Path:
        folder = tmp_path / "wan"
        shutil.copytree(pipeline("wan"), folder)
        for name, change in changes.items():
            path = folder / name
            if change is not None:
                path.write_text(json.dumps(json.loads(path.read_text()) | change))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return folder

    return make


BROKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no pipeline": ({"model_index.json": None}, ["wan holds no pipeline", "no model_index.json"]),
    "no VAE": ({"vae": None}, ["lacks its part 'vae' (AutoencoderKLWan)"]),
    "no tokenizer": ({"tokenizer": None}, ["lacks its part 'tokenizer'"]),
    "no weights": (
        {"transformer/diffusion_pytorch_model.safetensors": None},
        ["transformer has no weights"],
    ),
    "no weights of the VAE": (
        {"vae/diffusion_pytorch_model.safetensors": None},
        ["vae has no weights"],
    ),
    "no denoiser": (
        {"model_index.json": {"transformer": [None, None]}},
        ["has no denoiser", "its parts are"],
    ),
    "another denoiser": (
        {"transformer/config.json": {"_class_name": "MochiTransformer3DModel"}},
        ["No space takes", "MochiTransformer3DModel", "--plugin"],
    ),
    "another VAE": (
        {"vae/config.json": {"_class_name": "AutoencoderDC"}},
        ["class AutoencoderDC", "supported"],
    ),
    "another text encoder": (
        {"text_encoder/config.json": {"model_type": "llama"}},
        ["No text encoder takes", "llama"],
    ),
    "a class that is not there": (
        {"model_index.json": {"text_encoder": ["transformers", "T6EncoderModel"]}},
        ["model_index.json: text_encoder: transformers ", "has no class 'T6EncoderModel'"],
    ),
    "another size": ({"transformer/config.json": {"ffn_dim": 128}}, ["of another shape"]),
    "a model that begins from an image": (
        {"transformer/config.json": {"in_channels": 36}},
        ["transformer: config.in_channels is 36, but 16"],
    ),
    "a scheduler of another kind": (
        {"scheduler/scheduler_config.json": {"prediction_type": "sample"}},
        ["No objective trains", "prediction_type sample"],
    ),
}
"""What is wrong: (changes of the stand-in, parts of the message)."""


@pytest.mark.parametrize("what", BROKEN)
def test_a_pipeline_that_is_not_whole_is_refused_by_name(
    what: str, broken: Callable[..., Path], error_of: Callable[..., str]
) -> None:
    changes, expected = BROKEN[what]
    message = error_of("init", broken(changes))
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_half_of_the_shards_missing(
    broken: Callable[..., Path], error_of: Callable[..., str]
) -> None:
    folder = broken({})
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    message = error_of("init", folder)
    assert "1 of 2 files of its weights" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "folder nowhere does not exist"),
        ("model_index.json", "is a file"),
        ("transformer", "has no model_index.json; name the whole pipeline, ."),
        (
            "someone/something",
            "'someone/something' is not a local folder, and the Hugging Face hub cannot be reached",
        ),
    ],
)
def test_what_is_no_pipeline_is_refused(
    given: str,
    said: str,
    error_of: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer").mkdir()
    message = error_of("init", given)
    assert said in message
    assert "\n" not in message


def test_a_pipeline_that_exports_cannot_be_put_into_is_said_at_once(
    pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipeline("wan"), tmp_path / "wan"))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("WanPipeline", "StableDiffusionPipeline"))
    said = draft(Wanted(given=str(folder), keep=0.5, out=tmp_path / "recipe.yaml"))
    assert said.endswith("rest of the pipeline: StableDiffusionPipeline takes no num_frames")


def test_a_recipe_that_is_there_is_kept(
    pipeline: Pipeline, error_of: Callable[..., str], tmp_path: Path
) -> None:
    kept = tmp_path / "recipe.yaml"
    kept.write_text("mine")
    assert "--force" in error_of("init", pipeline("wan"))
    assert kept.read_text() == "mine"
    init(pipeline("wan"), "--force", "--out", kept)
    assert kept.read_text() != "mine"


def test_less_than_anything_smaller_has_is_refused(
    pipeline: Pipeline, error_of: Callable[..., str]
) -> None:
    assert "no smaller" in error_of("init", pipeline("ltx"), "--keep", "0.99")
