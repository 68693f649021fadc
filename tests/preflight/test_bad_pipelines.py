"""Pretrained models that lack something: one line before the run, with file, line and key."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

Pipeline = Callable[[str], Path]
PARTS = {
    "text": "text_encoder",
    "vae": "vae",
    "supernet.init_from": "transformer",
    "training.teacher.model": "transformer",
    "finetune.teacher.model": "transformer",
}
"""The key that a message names -> the part of the pipeline that is loaded."""
ALONE = ("text", "vae")
"""What is checked without a stock denoiser, which takes longer."""
SIZES = ("num_attention_heads", "attention_head_dim", "ffn_dim", "num_layers", "freq_dim")
SIZES += ("rope_max_seq_len",)


def write_recipe(folder: Path, tiny: Callable[..., str], key: str, name: str, whole: Path) -> Path:
    """Write a recipe that names a model under one key, and whole ones under others."""
    alone = {
        "resolutions": {32: {"batch": 1}},
        "data": {"frames": 5, "context_len": 8},
        "text": {"name": "hash"},
        "vae": {"path": str(whole), "cache": "none"},
    }
    if key == "text":
        alone |= {"text": {"name": "pretrained", "path": name, "dim": 32}}
    if key == "vae":
        alone["vae"]["path"] = name
    recipe = yaml.safe_load(tiny(**alone))
    recipe["space"]["patch_size"] = 1
    if key not in ALONE:
        config = json.loads((whole / "transformer/config.json").read_text())
        recipe |= {
            "text": {"name": "hash", "dim": 32},
            "objective": {"name": "flow"},
            "space": {"name": "WanTransformer3DModel", "choices": {"num_layers": {"keep": 4}}},
            "supernet": {"init_from": str(whole), "reorder": False},
        }
        recipe["space"]["config"] = {name: config[name] for name in SIZES}
        *above, last = key.split(".")
        section = recipe
        for each in above:
            section = section.setdefault(each, {})
        section[last] = name
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def line_of(path: Path, key: str) -> int:
    """The line to which a message about a key leads."""
    sections = key.split(".")
    lines = path.read_text().splitlines()
    at = 0
    for depth, name in enumerate(sections):
        start = f"{'  ' * depth}{name}:"
        at = next(n for n in range(at, len(lines)) if lines[n].startswith(start))
    return at + 1


@pytest.fixture
def refused(
    error_of: Callable[..., str], tiny: Callable[..., str], pipeline: Pipeline, tmp_path: Path
) -> Callable[[str, str], str]:
    """Run a recipe whose place `key` holds another name than the whole pipeline; its message."""

    def refused(key: str, name: str) -> str:
        path = write_recipe(tmp_path, tiny, key, name, pipeline("wan"))
        message = error_of("run", path.name, "--out", "run")
        assert "\n" not in message
        found = re.match(r"recipe\.yaml:(\d+): ([\w.]+): ", message)
        assert found, message
        assert found[2].startswith(key), message
        assert int(found[1]) == line_of(path, found[2])
        return message

    return refused


def linked(source: Path, target: Path) -> Path:
    """A copy of a folder that takes no room; its files are replaced, never written into."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def weights(part: Path) -> Path:
    (path,) = part.glob("*.safetensors")
    return path


def reshape(part: Path) -> None:
    path = weights(part)
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 1)
    tensors[name] = torch.ones(len(tensors[name]) + 1)
    path.unlink()
    save_file(tensors, path, {"format": "pt"})


def half(part: Path) -> None:
    path = weights(part)
    path.rename(path.with_name(f"{path.stem}-00001-of-00002.safetensors"))


def without_index(part: Path) -> None:
    path = weights(part)
    for number in (1, 2):
        os.link(path, path.with_name(f"{path.stem}-{number:05d}-of-00002.safetensors"))
    path.unlink()


def edit_config(part: Path, key: str) -> None:
    path = part / "config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.unlink()
    path.write_text(json.dumps(config))


def empty(part: Path) -> None:
    shutil.rmtree(part.parent)
    part.parent.mkdir()
    (part.parent / "notes.txt").write_text("nothing here")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no pipeline": (empty, r"folder \S+/wan has no config\.json"),
    "no such part": (shutil.rmtree, r"folder \S+/wan/{part} does not exist"),
    "no config": (lambda part: (part / "config.json").unlink(), "{part} has no config.json"),
    "no weights": (lambda part: weights(part).unlink(), "{part} has no weights"),
    "another size": (reshape, r"1 tensor of another shape \(\S+ \[\d+\], not \[\d+\]\)"),
    "half of the shards": (half, "{part} has 1 of 2 files of its weights"),
    "no index of the shards": (without_index, "{part} lacks the index of its weights"),
}
OTHERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a text model of no type": (
        "text",
        lambda part: edit_config(part, "model_type"),
        "is no model of transformers: its config.json has no model_type",
    ),
    "no tokenizer": (
        "text",
        lambda part: (part.parent / "tokenizer" / "tokenizer.json").unlink(),
        r"has no tokenizer in \S+/wan/tokenizer \(one of tokenizer\.json",
    ),
    "no index of the pipeline": (
        "text",
        lambda part: (part.parent / "model_index.json").unlink(),
        "has no config.json; its subfolders text_encoder, transformer, vae have one",
    ),
    "a VAE of no class": (
        "vae",
        lambda part: edit_config(part, "_class_name"),
        "vae holds no model of diffusers: its config.json has no _class_name",
    ),
    "a denoiser of no class": (
        "supernet.init_from",
        lambda part: edit_config(part, "_class_name"),
        "transformer holds no model of diffusers: its config.json has no _class_name",
    ),
}
NO_MODEL = r"folder \S+/wan holds no model: it has no config\.json or transformer/config\.json or "
CASES = {f"{key}: {name}": (key, *FAULTS[name]) for key in list(PARTS)[:3] for name in FAULTS}
CASES |= {f"{key}: no weights": (key, *FAULTS["no weights"]) for key in list(PARTS)[3:]}
for name in ("no pipeline", "no such part", "no config"):
    key = "supernet.init_from"
    CASES[f"{key}: {name}"] = (key, FAULTS[name][0], NO_MODEL)
CASES |= OTHERS


@pytest.mark.parametrize(("key", "spoil", "said"), CASES.values(), ids=CASES)
def test_a_pipeline_that_lacks_something(
    refused: Callable[[str, str], str],
    pipeline: Pipeline,
    tmp_path: Path,
    key: str,
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    folder = linked(pipeline("wan"), tmp_path / "models" / "wan")
    spoil(folder / PARTS[key])
    message = refused(key, "models/wan")
    assert re.search(said.replace("{part}", PARTS[key]), message), message


ANSWERS = {
    "gated": (403, "GatedRepo", "is gated; accept its terms at https://huggingface.co/some/model"),
    "absent": (401, "RepoNotFound", "is not a local folder, and not on the Hugging Face hub or"),
    "no config": (404, "EntryNotFound", r"has no (\w+/)?config\.json; correct subfolder"),
    "no network": (0, "", r"cannot be reached \(.* refused\); name a folder, or run `hf download"),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """A hub that answers every request with a status and an error's code; 0 for none at all."""
    answer: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, code = answer[-1]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def answers(status: int, code: str) -> None:
        answer.append((status, code))
        url = f"http://127.0.0.1:{server.server_port if status else 1}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    yield answers
    server.shutdown()
    server.server_close()


def test_a_model_of_a_hub_that_cannot_be_had(
    refused: Callable[[str, str], str], hub: Callable[[int, str], None]
) -> None:
    for (status, code, said), key in zip(ANSWERS.values(), [*PARTS][:4], strict=True):
        hub(status, code)
        message = refused(key, "some/model")
        assert re.search(said, message), message


@pytest.mark.parametrize("key", ["text", "vae", "supernet.init_from"])
def test_a_folder_that_does_not_exist_is_no_name_on_a_hub(
    refused: Callable[[str, str], str], key: str
) -> None:
    assert re.search(r"folder \S*/gone/wan does not exist", refused(key, "/gone/wan"))
