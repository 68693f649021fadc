"""Whole pipelines: opened and run by diffusers alone, they make the frames that nasvid makes."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from einops import rearrange
from safetensors.torch import load_file

from nasvid.diffusion.pretrained import Pretrained as PretrainedEncoder
from nasvid.diffusion.pretrained import PretrainedConfig
from nasvid.diffusion.sample import to_frames
from nasvid.diffusion.stock import StockPipeline, StockSampler, Unfit
from nasvid.diffusion.text import HashEncoder, HashEncoderConfig
from nasvid.draft import Wanted, draft
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Guidance
from nasvid.export import whole
from nasvid.export.carried import PIPELINE
from nasvid.export.pretrained import load_pretrained
from nasvid.export.standalone import standalone
from nasvid.export.subnet import load_exported
from nasvid.host import reading
from nasvid.latents.vae import make_vae
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import SupernetSection, VaeSection
from nasvid.run.extract import PROMPT, export, is_exported
from nasvid.run.folder import begin
from nasvid.run.held_out import video_sampler
from nasvid.run.parts import note_parts
from nasvid.run.session import Session
from nasvid.shapes import DenoiserInput
from nasvid.testing.steps import noisy_clips
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from tests.strangers import Stranger

pytestmark = pytest.mark.slow

Pipeline = Callable[[str], Path]
Write = Callable[..., str]

HALF = {"num_layers": {"keep": 3}}
STAND_INS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "wan": ("WanTransformer3DModel", HALF, "32x48x5", 16),
    "ltx": ("LTXVideoTransformer3DModel", HALF, "32x64x9", 16),
    "cogvideox": ("CogVideoXTransformer3DModel", HALF, "32x32x9", 226),
    "hunyuan_video": (
        "HunyuanVideoTransformer3DModel",
        {"num_single_layers": {"keep": 2}},
        "32x48x5",
        17,
    ),
    "text_to_video_sd": (
        "UNet3DConditionModel",
        {"block_out_channels.2+3": [48, 64]},
        "64x64x3",
        77,
    ),
}
"""Name -> the space's class and choices, a resolution, and text tokens."""


def recipe_of(name: str, folder: Path, tiny: Write, **sections: Any) -> str:
    space, choices, resolution, tokens = STAND_INS[name]
    common = {
        "resolutions": {resolution: {"batch": 1}},
        "data": {"frames": 9, "context_len": tokens},
        "text": {"name": "pretrained", "path": str(folder)},
        "vae": {"path": str(folder)},
        "space": {"name": space, "choices": choices},
        "supernet": {"init_from": str(folder)},
        "objective": {"name": "pretrained", "path": str(folder)},
        "front": {"subnets": 1, "prompts": [], "guidance_scale": 3.0, "sampling_steps": 2},
    }
    return tiny(**common | sections)


def opened(recipe: str, folder: Path) -> Session:
    path = folder.with_suffix(".yaml")
    path.write_text(recipe)
    loaded = load_recipe(path)
    return Session(begin(folder, loaded), loaded)


def exported(session: Session, target: Path, **options: Any) -> tuple[torch.nn.Module, Path]:
    """Export the smallest architecture, with weights of its own."""
    space = session.components.space
    model = session.components.supernet().extract(space.smallest).eval()
    evaluation = Evaluation(space.smallest, {"loss": 0.5}, violation=0.0)
    return model, export(session, model, evaluation, target, **options)


def carried(name: str, tiny: Write, pipeline: Pipeline) -> str:
    """Return a recipe whose exports carry their code: of pixels or latents, words or tokens."""
    front = {"subnets": 1, "prompts": ["a cat"], "guidance_scale": 3.0, "sampling_steps": 2}
    text = {"name": "pretrained", "path": str(pipeline("wan"))}
    sections = {
        "pixels": {},
        "latents": {"vae": {"path": "embedded"}},
        "tokens": {
            "text": text,
            "vae": {"path": str(pipeline("wan"))},
            "resolutions": {"32x32x5": {"batch": 1}},
            "objective": {"name": "flow"},
        },
        "pair": {
            "text": {"name": "pretrained", "path": str(pipeline("hunyuan_video"))},
            "data": {"frames": 4, "context_len": 9},
        },
    }
    return tiny(front=front, **sections[name])


CARRIED = ("pixels", "latents", "tokens", "pair")


@dataclass(frozen=True)
class Made:
    """An export of a stand-in, and the frames that nasvid makes: floats in [-1, 1], and bytes."""

    session: Session
    model: torch.nn.Module
    folder: Path
    video: torch.Tensor
    frames: np.ndarray


@pytest.fixture(scope="module")
def made(tiny: Write, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = {}
    for name in (*STAND_INS, *CARRIED):
        folder, is_stock = tmp_path_factory.mktemp(name), name in STAND_INS
        made = recipe_of(name, pipeline(name), tiny) if is_stock else carried(name, tiny, pipeline)
        session = opened(made, folder / "run")
        model, target = exported(session, folder / "subnet")
        shapes, sampler = session.components.shapes, video_sampler(session.components)
        assert isinstance(sampler, StockSampler) == is_stock
        prompts = [PROMPT if is_stock else "a cat"]
        (video,) = replace(sampler, seed=0).videos(model, prompts, shapes[max(shapes)])
        found[name] = Made(session, model, target, video, to_frames(video)[0].numpy())
    return found


STRANGER = '''
import os, sys
import numpy as np
import torch
from diffusers import AutoModel, DiffusionPipeline
from diffusers.video_processor import VideoProcessor

process = VideoProcessor.postprocess_video

def recorded(self, video, **more):
    np.save("decoded.npy", video.float().numpy())
    return process(self, video, **more)

VideoProcessor.postprocess_video = recorded

def seed(number=0):
    return torch.Generator().manual_seed(number)

def refused(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")

def check_calls(pipeline, frames):
    """Call a pipeline that carries its code with what people give to pipelines."""
    pipeline.set_progress_bar_config(disable=True)
    as_usual = {"prompt": "a cat", "generator": seed(), "output_type": "np"}
    def make(**changed):
        return pipeline(**{**as_usual, "generator": seed(), **changed}).frames
    usual = make()
    shown = np.stack([np.asarray(frame) for frame in frames])
    assert np.array_equal((usual[0] * 255).round().astype("uint8"), shown)
    steps = []
    def on_step(given, number, timestep, tensors):
        assert given is pipeline
        steps.append(number)
        return {"latents": tensors["latents"] * (number == 0)}
    same = make(negative_prompt="", num_inference_steps=2, callback_on_step_end=lambda *_: None)
    assert np.array_equal(usual, same)
    assert not np.array_equal(usual, make(negative_prompt="a dog", frame_rate=24.0))
    assert not np.array_equal(usual, make(callback_on_step_end=on_step)) and steps == [0, 1]
    two = {"prompt": ["a cat", "a dog"], "negative_prompt": ["x", "y"], "num_videos_per_prompt": 2}
    latents = make(**two, generator=[seed(0), seed(1), seed(0), seed(2)], output_type="latent")
    assert torch.allclose(latents[0], make(negative_prompt="x", output_type="latent")[0], atol=1e-4)
    assert not torch.equal(latents[0], latents[1])
    begun = torch.randn(latents[:1].shape, generator=seed(), dtype=torch.float32)
    assert np.array_equal(usual, make(latents=begun))
    assert "multiple" in refused(lambda: make(height=33))
    assert "negative_prompt" in refused(lambda: make(negative_prompt=["x", "y"]))
    assert "gif" in refused(lambda: make(output_type="gif"))
    for name in ("a", "b"):  # what is saved of what was saved
        pipeline.save_pretrained(f"saved/{name}")
        pipeline = DiffusionPipeline.from_pretrained(f"saved/{name}", trust_remote_code=True)
        pipeline.set_progress_bar_config(disable=True)
    assert np.array_equal(usual, make())
    part = "unet" if pipeline.unet is not None else "transformer"
    swapped = AutoModel.from_pretrained(f"saved/b/{part}", trust_remote_code=True).eval()
    setattr(pipeline, part, swapped)
    assert np.array_equal(usual, make())
    assert np.isfinite(pipeline.to(torch.bfloat16) and make()).all()

for folder in sys.argv[1:]:
    os.chdir(folder)
    code = open("README.md").read().split("```python\\n")[1].split("```")[0]
    known = {}
    exec(code, known)
    if "pipeline" not in known:
        given = torch.load("inputs.pt", weights_only=True)
        with torch.no_grad():
            torch.save(known["model"](*given), "output.pt")
        continue
    print("made by", type(known["pipeline"]).__name__)
    np.save("frames.npy", np.stack([np.asarray(frame) for frame in known["frames"]]))
    if "settings" in known["pipeline"].config and known["pipeline"].vae is None:
        VideoProcessor.postprocess_video = process
        check_calls(known["pipeline"], known["frames"])
        VideoProcessor.postprocess_video = recorded
'''
"""Runs the code on the cards of folders."""


MINE = """
from nasvid import register
from nasvid.diffusion.text import HashEncoder

@register("text_encoders", "uncarried")
class Mine(HashEncoder):
    carried = None
"""


@pytest.fixture(scope="module")
def alone(tiny: Write, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A denoiser that carries its code, whose text encoder carries none."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "mine.py").write_text(MINE)
    session = opened(tiny(text={"name": "uncarried"}, plugins=["mine.py"]), folder / "run")
    model, target = exported(session, folder / "subnet")
    inputs = noisy_clips(session.components.space, max(session.components.shapes.values(), key=str))
    given = [getattr(inputs, name) for name in inputs.__slots__]
    torch.save(given, target / "inputs.pt")
    with torch.no_grad():
        return target, model(*given)


def test_the_code_on_the_card_makes_the_frames_that_nasvid_makes(
    made: dict[str, Made], alone: tuple[Path, torch.Tensor], stranger: Stranger
) -> None:
    """To the bit, for each class of pipeline, in a process that has no nasvid."""
    folder, expected = alone
    folders = [*(each.folder for each in made.values()), folder]
    printed = map(str.split, stranger.run(STRANGER, folder, *folders).splitlines())
    classes = [words[2] for words in printed if words[:2] == ["made", "by"]]
    assert torch.equal(torch.load(folder / "output.pt", weights_only=True), expected)
    assert "Mine, runs only in nasvid, or on a hub" in (folder / "README.md").read_text()
    indexes = [each.folder / "model_index.json" for each in made.values()]
    names = [json.loads(path.read_text())["_class_name"] for path in indexes]
    assert classes == [name if isinstance(name, str) else name[1] for name in names]
    for name, each in made.items():
        decoded = torch.from_numpy(np.load(each.folder / "decoded.npy"))
        assert decoded.std() > 0.01, name
        stock = (decoded / 2 + 0.5).clamp(0, 1) * 2 - 1
        assert torch.equal(decoded.clamp(-1, 1) if name in CARRIED else stock, each.video), name
        assert np.array_equal(np.load(each.folder / "frames.npy"), each.frames), name
        assert (each.folder / "video.webp").stat().st_size > 100


LAYOUTS = {"ltx": "b (t h w) c", "cogvideox": "b t c h w"}
"""How a class lays out its videos, if not as nasvid does."""


@torch.no_grad()
def test_models_are_trained_on_what_their_pipeline_gives_them(made: dict[str, Made]) -> None:
    """The same prediction from the same noise: the same text, timestep, positions and layout."""
    for name in STAND_INS:
        each = made[name]
        components, model = each.session.components, each.model
        (shape,) = components.shapes.values()
        sampler: Any = video_sampler(components)
        calls: list[tuple[Any, Any]] = []
        hook = model.register_forward_hook(
            lambda model, given, kwargs, out, calls=calls: calls.append((given, kwargs, out[0])),  # pyright: ignore
            with_kwargs=True,
        )
        alone = replace(sampler, seed=0, guidance=Guidance(scale=1.0, steps=2))
        list(alone.videos(model, [PROMPT], shape))
        given, kwargs, theirs = calls[0]
        hook.remove()
        axes = {"t": shape.frames, "h": shape.height, "w": shape.width}
        noise = (kwargs.get("hidden_states", None) if not given else given[0]).float()
        ours = "b c t h w"
        layout = LAYOUTS.get(name, ours)
        timestep = kwargs["timestep"] if "timestep" in kwargs else given[1].expand(1)
        context, mask = components.text([PROMPT])
        fps = torch.tensor([each.session.recipe.data.fps])
        sample = rearrange(noise, f"{layout} -> {ours}", **axes)
        inputs = DenoiserInput(sample, timestep, context, mask, fps)
        predicted = components.space.denoise(model, inputs)
        assert torch.equal(predicted, rearrange(theirs, f"{layout} -> {ours}", **axes)), name


def test_nasvid_loads_the_denoiser_of_an_exported_pipeline(made: dict[str, Made]) -> None:
    folder = made["wan"].folder
    stored = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert load_exported(folder).state_dict().keys() == stored.keys()


VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def wan(pipeline: Pipeline) -> StockPipeline:
    folder = pipeline("wan")
    return StockPipeline(folder, "transformer", make_vae(VaeSection(path=str(folder))), 16)


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on most file systems."""
    monkeypatch.setattr(whole, "_cloned", lambda *files: False)


@pytest.mark.usefixtures("no_clones")
def test_weights_are_linked_and_small_files_are_copies(wan: StockPipeline, tmp_path: Path) -> None:
    whole.place_parts(wan, tmp_path / "a", tmp_path, copy=False)
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    linked = {path for path in files if path.stat().st_nlink > 1}
    assert linked == {path for path in files if path.suffix == ".safetensors"}
    assert (tmp_path / "a" / VAE).samefile(wan.folder / VAE)
    places = {str(path.relative_to(tmp_path / "a")) for path in files}
    assert {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    } < places
    assert not any(place.startswith("transformer/") for place in places)
    whole.place_parts(wan, tmp_path / "b", tmp_path, copy=True)
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "b").rglob("*.safetensors"))


@pytest.mark.usefixtures("no_clones")
def test_on_another_file_system_exports_share_one_copy(
    wan: StockPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if wan.folder in source.parents:
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    for name in ("a", "b"):
        whole.place_parts(wan, tmp_path / name, tmp_path, copy=False)
    assert not (tmp_path / "a" / VAE).samefile(wan.folder / VAE)
    assert (tmp_path / "a" / VAE).samefile(tmp_path / "b" / VAE)
    assert (tmp_path / "a" / VAE).read_bytes() == (wan.folder / VAE).read_bytes()


def test_weights_in_other_formats_or_precisions_are_left_behind(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipeline("wan"), tmp_path / "wan"))
    (folder / "LICENSE.txt").write_text("yours")
    for name in ("model.bin", "model.fp16.safetensors"):
        (folder / "text_encoder" / name).write_bytes(b"more")
    found = StockPipeline(folder, "transformer", make_vae(VaeSection(path=str(folder))), 16)
    names = {name for name, _ in whole.parts_of(found)}
    assert {"LICENSE.txt", "text_encoder/model.safetensors", VAE} <= names
    assert not names & {"text_encoder/model.bin", "text_encoder/model.fp16.safetensors"}
    assert found.variant is None


def test_weights_in_one_precision_alone_are_opened_as_such(
    tiny: Write, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(pipeline("wan"), tmp_path / "wan"))
    for path in (source / "vae" / "diffusion_pytorch_model", source / "text_encoder" / "model"):
        path.with_suffix(".safetensors").rename(path.with_suffix(".fp16.safetensors"))
    session = opened(recipe_of("wan", source, tiny), tmp_path / "run")
    model, folder = exported(session, tmp_path / "subnet")
    load = next(line for line in (folder / "README.md").read_text().splitlines() if '(".",' in line)
    assert load.endswith('from_pretrained(".", variant="fp16")')
    stock: Any = session.components.pipeline
    assert stock.open(model).vae.config.z_dim == 16
    again = DiffusionPipeline.from_pretrained(str(folder), variant="fp16")
    assert type(again).__name__ == "WanPipeline"


def in_the_hubs_cache(source: Path, name: str, hub: Path) -> Path:
    """Put a pipeline where the hub's client keeps one that it has fetched; return its snapshot."""
    place, revision = hub / f"models--{name.replace('/', '--')}", "a" * 40
    for folder in ("blobs", "refs"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    found = place / "snapshots" / revision
    for number, path in enumerate(each for each in source.rglob("*") if each.is_file()):
        blob, target = place / "blobs" / f"{number:064}", found / path.relative_to(source)
        shutil.copyfile(path, blob)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(blob, target.parent))
    return found


def test_a_pipeline_in_the_hubs_cache_comes_out_whole_as_one_from_a_folder_does(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source, recipe = pipeline("wan"), tmp_path / "recipe.yaml"
    snapshot = in_the_hubs_cache(source, "acme/wan", tmp_path / "hub")
    draft(Wanted(given="acme/wan", keep=0.5, out=recipe))
    small = ("data.context_len=16", "resolutions={32x48x5: {batch: 1}}")
    loaded = load_recipe(recipe, scale="cpu", overrides=small)
    session = Session(begin(tmp_path / "run", loaded), loaded)
    _, folder = exported(session, tmp_path / "subnet")
    parts = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    unchanged = [path for path in parts if path.parts[0] not in ("transformer", "model_index.json")]
    assert DiffusionPipeline.load_config(str(folder))["_class_name"] == "WanPipeline"
    assert all((folder / path).read_bytes() == (source / path).read_bytes() for path in unchanged)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    caption = "a&nbsp;cat"  # which Wan's pipeline cleans
    local = PretrainedEncoder(PretrainedConfig(path=str(source))).encode(caption, 16)
    assert torch.equal(session.components.text([caption])[0][0], local[0])
    (snapshot / "text_encoder" / "model.safetensors").unlink()
    lacking = Session(session.folder, load_recipe(recipe, scale="cpu", overrides=small))
    assert str(lacking.components.exported) == (
        "'acme/wan' is not whole in the hub's cache on this machine, which lacks its text_encoder; "
        "run `hf download acme/wan`, then export again"
    )


def test_linked_weights_are_read_once_and_checked_at_every_resume(
    tiny: Write, pipeline: Pipeline, tmp_path: Path
) -> None:
    session = opened(recipe_of("wan", pipeline("wan"), tiny), tmp_path / "run")
    target = session.folder.subnets / session.components.space.smallest.id
    exported(session, target, copy=True)
    read: list[str] = []
    reading._hashed.clear()
    real = reading.hashlib.file_digest

    def digest(file: Any, *more: Any) -> Any:
        read.append(str(Path(file.name).relative_to(target)))
        return real(file, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading.hashlib, "file_digest", digest)
        assert is_exported(session, target)
    assert "transformer/diffusion_pytorch_model.safetensors" in read
    assert not {VAE, "text_encoder/model.safetensors"} & set(read)
    with (target / VAE).open("r+b") as file:
        file.write(b"other")
    assert not is_exported(session, target)


def test_a_source_that_has_changed_or_vanished_is_one_clear_line(
    tiny: Write, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(pipeline("wan"), tmp_path / "wan"))
    session = opened(recipe_of("wan", source, tiny), tmp_path / "run")
    note_parts(session, is_new=True)
    config = source / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(
        UserError, match=r"The vae of the run's pipeline, .*/vae, has changed since"
    ):
        exported(session, tmp_path / "subnet")
    shutil.rmtree(source / "tokenizer")
    with pytest.raises(UserError, match=r"lacks its tokenizer: folder .*/tokenizer does not exist"):
        exported(session, tmp_path / "subnet")
    assert not (tmp_path / "subnet").exists()


@pytest.mark.parametrize(
    ("name", "sections", "reason"),
    [
        ("wan", {"text": {"name": "hash", "dim": 32}}, "not encoded as by the text_encoder"),
        ("cogvideox", {"objective": {"name": "diffusion"}}, "noise that CogVideoXDDIMScheduler"),
        (
            "text_to_video_sd",
            {"data": {"frames": 3, "context_len": 16}},
            "TextToVideoSDPipeline encodes 77 tokens; set data.context_len to 77",
        ),
    ],
)
def test_a_denoiser_alone_says_why(
    name: str,
    sections: dict[str, Any],
    reason: str,
    tiny: Write,
    pipeline: Pipeline,
    tmp_path: Path,
) -> None:
    session = opened(recipe_of(name, pipeline(name), tiny, **sections), tmp_path / "run")
    unfit = session.components.pipeline
    assert isinstance(unfit, Unfit)
    assert reason in str(unfit)
    if name == "wan":
        _, folder = exported(session, tmp_path / "subnet")
        assert f"{unfit}" in (folder / "README.md").read_text()
        assert not (folder / "model_index.json").exists()


def test_code_of_a_pipelines_own_is_not_run(pipeline: Pipeline, tmp_path: Path) -> None:
    """Nor is a library imported only because a folder names it."""
    index = json.loads((pipeline("wan") / "model_index.json").read_text())
    for changed in ({"_class_name": ["own", "WanPipeline"]}, {"vae": ["own", "AutoencoderKLWan"]}):
        (tmp_path / "model_index.json").write_text(json.dumps(index | changed))
        with pytest.raises(Unfit, match=r"no stock class|names no pipeline of diffusers"):
            StockPipeline.of(tmp_path, "WanTransformer3DModel", None, None, 16)  # pyright: ignore


def test_nasvid_runs_no_code_of_an_exported_folder(made: dict[str, Made], tmp_path: Path) -> None:
    """Not to load its model, nor to begin from it, nor to check it."""
    folder = Path(shutil.copytree(made["latents"].folder, tmp_path / "subnet"))
    carried = list(folder.rglob("*.py"))
    assert [path.relative_to(folder).as_posix() for path in sorted(carried)] == [
        "nasvid_pipeline.py",
        "text_encoder/nasvid_word_vectors.py",
        "unet/nasvid_video_unet.py",
    ]
    for path in carried:
        path.write_text("raise SystemExit('the code of the folder has run')")
    model = load_exported(folder)
    with pytest.raises(Unfit, match="names no pipeline of diffusers"):
        StockPipeline.of(folder, "VideoUNet", None, None, 16)  # pyright: ignore
    section = SupernetSection(init_from=str(folder))
    assert load_pretrained(section, model).state_dict().keys() == model.state_dict().keys()


def test_the_code_that_is_carried_is_nasvids_own() -> None:
    """Each function is in it as it is there; nothing else of nasvid is needed."""
    words = HashEncoder(HashEncoderConfig()).carried.module
    for module in (PIPELINE, ElasticUNetSpace.model_module, words):
        text = standalone(module)
        assert not re.search(r"^\s*(from|import) nasvid", text, re.MULTILINE)
        compile(text, module, "exec")


def test_modules_that_cannot_stand_alone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("import torch\nfrom mine.two import helper\n\nX = helper\n")
    (package / "two.py").write_text("def helper():\n    return 1\n")
    assert "def helper" in standalone("mine.one")
    (package / "two.py").write_text("def helper():\n    return 1\n\nX = 2\n")
    with pytest.raises(ValueError, match=r"mine\.one and mine\.two both define X"):
        standalone("mine.one")
    (package / "one.py").write_text("import mine.two\n")
    with pytest.raises(ValueError, match="imports a module as a whole"):
        standalone("mine.one")
