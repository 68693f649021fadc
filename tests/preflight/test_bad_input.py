"""Files, options, plug-ins and devices that cannot be used: one message each, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid import plugins

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))


WHOLE_FILES = {
    "empty": (b"", "must be a mapping of sections, but this is empty"),
    "comments only": (b"# nothing\n", "this is empty"),
    "a list": (b"- a\n- b\n", "this is a list"),
    "a word": (b"recipe\n", "this is text"),
    "two documents": (b"a: 1\n---\nb: 2\n", "not YAML"),
    "not text": (b"\xff\xfe\x00", "is not UTF-8 text"),
    "control characters": (b"name: \x07", "not YAML"),
    "nested without end": (b"[" * 2000, "not YAML"),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WHOLE_FILES)
def test_file_that_is_no_recipe(error_of, wrong: str) -> None:
    content, said = WHOLE_FILES[wrong]
    Path("bad.yaml").write_bytes(content)
    message = error_of("plan", "bad.yaml")
    assert "bad.yaml" in message
    assert said in message


def test_recipe_that_is_not_there_or_not_a_file(error_of, write_recipe: Write) -> None:
    write_recipe()
    assert "did you mean 'recipe.yaml'" in error_of("run", "recip.yaml")
    Path("folder").mkdir()
    assert "folder cannot be read: Is a directory" in error_of("run", "folder")


SETS = {
    "training.engine.name=horovod": "no engine 'horovod'. Available: ",
    "training.engine={name: deepspeed, zero: 3}": "use zero: 2",
    "training.engine={name: deepspeed, zero: 0, offload: true}": "offload needs a partitioned",
    "training.engine={name: torch, zero: 1}": "zero",
    "search.checkpoint=best": "needs training.keep_best",
    "training.stepz=1": "training.stepz: unknown setting of 'training'; did you mean 'steps'",
    "front.latency={resolutions: [16]}": "front.latency: is now an evaluator; write `front.eval",
    "resolutions={}": "resolutions: must be a section of at least 1 entry, not {}",
    "search.objectives=null": "search.objectives: must be a list, not null",
    "training.device=tpu": 'training.device: must be auto, cpu, cuda or cuda:N, not "tpu"',
    "data.train=[embedded, 5]": "data.train[1]: must be text, not 5",
    "space.widths=[16]": "space.widths[0]: must be a list, not 16",
    "trainin.steps=1": "did you mean 'training'",
    "training.steps=ten": 'training.steps: must be a whole number, not "ten"',
    "training.steps": "write --set section.key=value",
    "=1": "write --set section.key=value",
    "training..steps=1": "write --set section.key=value",
    "training.steps=[1": "not YAML",
    "name.x=1": "name: must be text",
    "resolutions.64.batch=0": "resolutions[64].batch: must be at least 1",
    "space.name=elastic": "did you mean 'elastic_unet'",
    "search.strategy.name=evolutionry": "did you mean 'evolutionary'",
    "search.evaluators[1].repeats=2": "search.evaluators: has no entries in the recipe to",
    "data.train.0=a.tar": "data.train: has no entries in the recipe to change by number; write the",
    "scales={gpu: {}}": "choose one with --scale",
    "scales.gpu.training.steps=2": "choose one with --scale",
    "space.widths=[[]]": "space: widths[0] is empty; write at least one option",
    "space.attention_levels=[0, 0]": "space: attention_levels has 0 twice; remove one",
    "space.switchable=[spatial_conv, spatial_conv]": "switchable has spatial_conv twice",
    "search.constraints=[params < 10]": "no architecture satisfies 'params < 10'",
}


@pytest.mark.parametrize("option", SETS)
def test_wrong_set_names_the_option(error_of, option: str, write_recipe: Write) -> None:
    message = error_of("run", write_recipe(), "--set", option)
    assert message.startswith(f"--set {option}: ")
    assert SETS[option] in message
    assert len(message.splitlines()) == 1


def test_scale_that_the_recipe_does_not_have(error_of, write_recipe: Write) -> None:
    scaled = write_recipe(more="scales: {laptop: {}, server: {}}")
    assert "has no scale 'labtop'; did you mean 'laptop'" in error_of(
        "run", scaled, "--scale", "labtop"
    )
    assert "has no scales" in error_of("run", write_recipe(), "--scale", "laptop")


PLUGINS = {
    "ends the command": ("exit()", "fails to import: SystemExit"),
    "raises": ("1 / 0", "fails to import: ZeroDivisionError: division by zero"),
    "is not Python": ("def :", "fails to import: SyntaxError: invalid syntax"),
    "lacks a package": ("import nothing_like_it", "No module named 'nothing_like_it'"),
    "takes a name": (
        "from nasvid.plugins import register\n"
        "from nasvid.sampler import Uniform\n"
        "register('samplers', 'sandwich')(Uniform)",
        "samplers/sandwich in ",
    ),
    "has no such kind": (
        "from nasvid.plugins import register\nregister('sampler', 'mine')(object)",
        "'sampler' is not a kind of plug-in; use one of spaces, objectives, samplers",
    ),
}


@pytest.mark.parametrize("wrong", PLUGINS)
def test_plugin_file_that(error_of, wrong: str, write_recipe: Write) -> None:
    code, said = PLUGINS[wrong]
    Path("mine.py").write_text(code)
    path = write_recipe({"front:": "plugins: [mine.py]\nfront:"})
    message = error_of("run", path.name)
    assert message.startswith("recipe.yaml:")
    assert "plugins[0]: " in message
    assert said in message


def test_plugin_that_ends_the_command_is_named_as_the_cause(error_of, write_recipe: Write) -> None:
    Path("mine.py").write_text(
        "from nasvid.plugins import register\n"
        "from nasvid.testing.toy import ToySpace\n"
        "@register('spaces', 'ends')\n"
        "class Ends(ToySpace):\n"
        "    def make_choices(self): exit(0)\n"
    )
    path = write_recipe({"front:": "plugins: [mine.py]\nfront:"})
    message = error_of("plan", path.name, "--set", "space={name: ends}")
    assert message.startswith("A plug-in ended the command: it called exit(0)")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_device_that_is_not_here(error_of, write_recipe: Write, more: list[str]) -> None:
    options = ["--set", "training.device=cuda:99", *more]
    message = error_of("run", write_recipe().name, *options)
    assert message.startswith(
        "--set training.device=cuda:99: training.device: 'cuda:99' does not exist"
    )


def test_checkpointing_of_a_model_that_cannot(error_of, write_recipe: Write) -> None:
    Path("toy.py").write_text(
        "from nasvid.plugins import register\n"
        "from nasvid.testing.toy import ToySpace\n"
        "register('spaces', 'toy')(type('Toy', (ToySpace,), {'__module__': __name__}))\n"
    )
    sets = ["plugins=[toy.py]", "space={name: toy}", "training.gradient_checkpointing=true"]
    message = error_of("run", write_recipe(), *(x for option in sets for x in ("--set", option)))
    assert "training.gradient_checkpointing: ToyNet, the model of space 'toy'" in message


@pytest.mark.parametrize("key", ["data.embeddings", "data.cache"])
@pytest.mark.parametrize("folder", ["''", "s3://bucket/text", "None"])
def test_a_cache_that_is_no_folder(error_of, write_recipe: Write, key: str, folder: str) -> None:
    message = error_of("run", write_recipe(), "--set", f"{key}={folder}")
    bare = folder.strip("'")
    assert f"{key}: '{bare}' is not a folder; write a path, run or none" in message


@pytest.mark.parametrize(
    ("cache", "said"), [("run", "Each run has its own cache"), ("none", "recipe keeps no latents")]
)
def test_no_folder_to_encode_into(error_of, write_recipe: Write, cache: str, said: str) -> None:
    recipe = write_recipe({"patch_size: 2": "patch_size: 1"}, f"vae: {{cache: {cache}}}\n")
    message = error_of("data", "encode", recipe)
    assert f"{said} " in message
    assert "name a shared folder with --out or vae.cache" in message
