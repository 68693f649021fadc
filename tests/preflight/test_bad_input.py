"""Whatever is wrong with what a user gives: one message, exit code 2, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid import plugins

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))


RECIPES: dict[str, tuple[str, str, str, list[str]]] = {
    # what is wrong: (text of the recipe, replaced by, a text of the line at fault, message)
    "section misspelt": ("\ntraining:", "\ntrainin:", "trainin", ["did you mean 'training'"]),
    "key misspelt": ("steps: 2", "stepz: 2", "stepz", ["training.stepz", "did you mean 'steps'"]),
    "key of a resolution misspelt": (
        "32: {batch: auto}",
        "32: {btch: auto}",
        "btch",
        ["resolutions[32].btch", "did you mean 'batch'"],
    ),
    "option of a space misspelt": (
        "head_dim: 8",
        "head_dims: 8",
        "head_dims",
        ["space.head_dims", "did you mean 'head_dim'"],
    ),
    "option of a nested sampler misspelt": (
        "front:",
        "sampler: {name: warm_up, inner: {name: sandwich, n_randm: 1}}\nfront:",
        "sampler",
        ["sampler.inner.n_randm", "did you mean 'n_random'"],
    ),
    "key in the wrong section": (
        "\ndata: {frames: 4,",
        "\nlearning_rate: 1\ndata: {frames: 4,",
        "learning_rate",
        ["did you mean 'training.learning_rate'"],
    ),
    "section in another section": (
        "\nfront:",
        "\nfront:\n  finetune: {steps: 1}",
        "finetune",
        ["front.finetune: unknown setting of 'front'; move 'finetune' to the top level"],
    ),
    "unlike any key": ("steps: 2", "steps: 2\n  zzz: 1", "zzz", ["one of steps, learning_rate"]),
    "required key left out": ("steps: 2", "lr_warmup: 0", "training", ["training.steps: missing"]),
    "section left out": ("\ntraining:\n  steps: 2", "", "name: tiny", ["training: missing"]),
    "empty section": ("training:\n  steps: 2", "training:", "training", ["lines, not null"]),
    "text for a number": ("steps: 2", "steps: two", "two", ['a whole number, not "two"']),
    "fraction of a step": ("steps: 2", "steps: 2.5", "2.5", ["a whole number, not 2.5"]),
    "negative number": ("budget: 8", "budget: -8", "-8", ["at least 1, not -8"]),
    "not a number": ("steps: 2", "steps: .nan", ".nan", ["a whole number, not NaN"]),
    "no evaluators": (
        "  budget: 8",
        "  evaluators: []\n  budget: 8",
        "evaluators",
        ["search.evaluators: must be a list of at least 1 item, not []"],
    ),
    "one of two numbers": (
        "steps: 2",
        "steps: 2\n  betas: [0.9]",
        "betas",
        ["training.betas[1]: missing; the list needs another item"],
    ),
    "three of two numbers": (
        "steps: 2",
        "steps: 2\n  betas: [0.9, 0.9, 0.9]",
        "betas",
        ["training.betas: must be a list of at most 2 items, not [0.9, 0.9, 0.9]"],
    ),
    "too large a share": (
        "steps: 2",
        "steps: 2\n  lr_warmup: 2",
        "lr_warmup",
        ["training.lr_warmup: must be at most 1, not 2"],
    ),
    "number for a list": ("[loss, macs]", "7", "objectives", ["search.objectives", "a list"]),
    "text for a section": (
        "strategy:\n    name: random",
        "strategy: random",
        "strategy",
        ["search.strategy", "a section of `key: value` lines"],
    ),
    "not one of the words": (
        "front:",
        "objective: {name: diffusion, prediction: epsilom}\nfront:",
        "epsilom",
        ["'epsilon' or 'v'", "did you mean 'epsilon'"],
    ),
    "a noise schedule for flow": (
        "front:",
        "objective: {name: flow, beta_schedule: linear}\nfront:",
        "beta_schedule",
        ["objective.beta_schedule: unknown setting of 'objective'"],
    ),
    "a shift without flow": (
        "front:",
        "objective: {name: diffusion, shift: 3}\nfront:",
        "shift",
        ["objective.shift: unknown setting of 'objective'"],
    ),
    "an objective as it was written once": (
        "front:",
        "objective: {prediction: flow, flow_shift: 3, min_snr_gamma: null}\nfront:",
        "objective:",
        ["objective: objective needs a name", "write objective: {name: flow, shift: 3}"],
    ),
    "an objective without a name": (
        "front:",
        "objective:\n  min_snr_gamma: null\n  zero_terminal_snr: false\nfront:",
        "objective:",
        ["write objective: {name: diffusion, min_snr_gamma: null, zero_terminal_snr: false}"],
    ),
    "a factor that is no power of two": (
        "front:",
        "vae: {factor: 6}\nfront:",
        "vae",
        ["factor 6 is not a power of two"],
    ),
    "an autoencoder both loaded and trained": (
        "front:",
        "vae: {path: here, train: {}}\nfront:",
        "vae",
        ["path 'here' loads a VAE and train trains one"],
    ),
    "resolution that has no whole latent": (
        "front:",
        "vae: {factor: 32}\nfront:",
        "16: {batch",
        ["resolutions[16]", "use a multiple of 32"],
    ),
    "key of fine-tuning misspelt": (
        "front:",
        "finetune: {step: 5}\nfront:",
        "finetune",
        ["finetune.step", "did you mean 'steps'"],
    ),
    "a model to initialise from that is not a folder": (
        "front:",
        "supernet: {init_from: ../no/model}\nfront:",
        "supernet",
        ["supernet.init_from: folder ../no/model does not exist"],
    ),
    "neither a number nor the word": (
        "16: {batch: 2}",
        "16: {batch: outo}",
        "outo",
        ["a whole number or 'auto'", "did you mean 'auto'"],
    ),
    "resolution that is no number": (
        "16: {batch: 2}",
        "big: {batch: 2}",
        "big",
        ["resolutions.big: 'big' is not a resolution; write 64", "HEIGHTxWIDTHxFRAMES (480x832x81"],
    ),
    "resolution with too many numbers": (
        "16: {batch: 2}",
        "16x24x4x3: {batch: 2}",
        "16x24x4x3",
        ["resolutions.16x24x4x3: '16x24x4x3' is not a resolution", "HEIGHTxWIDTH (480x832)"],
    ),
    "resolution that is too large": (
        "16: {batch: 2}",
        "16x9000: {batch: 2}",
        "16x9000",
        ["resolutions.16x9000: 16x9000 is too large: at most 8192 pixels a side, and 4096 frames"],
    ),
    "square in two numbers": (
        "16: {batch: 2}",
        "16x16: {batch: 2}",
        "16x16",
        ["resolutions.16x16: '16x16' must be written 16"],
    ),
    "width that the space cannot halve": (
        "16: {batch: 2}",
        "16x21x4: {batch: 2}",
        "16x21x4",
        ["resolutions.16x21x4", "21 cannot be halved"],
    ),
    "one shape under two names": (
        "16: {batch: 2}",
        "16: {batch: 2}\n  16x16x4: {batch: 2}",
        "16: ",
        ["has the shape of 16x16x4, because data.frames is 4; remove one"],
    ),
    "no number for the lowest batch": (
        "16: {batch: 2}",
        "16: {batch: auto}",
        "resolutions",
        ["the batch of 16, the lowest, must be a number"],
    ),
    "name that is no folder name": (
        "name: tiny",
        "name: a/ü",
        "a/ü",
        ["name: must be letters, digits, dots, dashes and underscores", 'not "a/ü"'],
    ),
    "resolution in quotes": (
        "16: {batch: 2}",
        '"16": {batch: 2}',
        '"16"',
        ["resolutions.16: '16' must be written 16"],
    ),
    "no such device name": ("steps: 2", "steps: 2\n  device: gpu", "gpu", ["training.device"]),
    "no such space": (
        "elastic_unet",
        "elastic_unt",
        "elastic_unt",
        ["did you mean 'elastic_unet'"],
    ),
    "no such strategy": ("random", "rndom", "rndom", ["search.strategy.name", "'random'"]),
    "no such encoder": ("hash", "hsh", "hsh", ["text.name", "did you mean 'hash'"]),
    "no such evaluator": (
        "  budget: 8",
        "  evaluators: [{name: los}]\n  budget: 8",
        "los}",
        ["search.evaluators[0].name", "did you mean 'loss'"],
    ),
    "no such metric": (
        "[loss, macs]",
        "[loss, mac]",
        "mac]",
        ["search.objectives[1]", "did you mean 'macs'"],
    ),
    "metric that another evaluator measures": (
        "[loss, macs]",
        "[loss, latency_ms@16]",
        "latency_ms",
        [
            "measures 'latency_ms@16'; give cost a latency_table",
            "or add {name: latency} to search.evaluators",
        ],
    ),
    "metric of another resolution": (
        "[loss, macs]",
        "[loss@48, macs]",
        "loss@48",
        ["48 is not a resolution of this recipe (16, 32)"],
    ),
    "objective twice": ("[loss, macs]", "[loss, loss]", "loss", ["'loss' is listed twice"]),
    "two evaluators of one metric": (
        "  budget: 8",
        "  evaluators: [{name: loss}, {name: loss}, {name: cost}]\n  budget: 8",
        "evaluators",
        ["search.evaluators", "'loss'"],
    ),
    "constraint that is none": (
        "  budget: 8",
        "  constraints: [params is small]\n  budget: 8",
        "constraints",
        ["'params is small' is not a constraint; write one like 'params <= 900e6'"],
    ),
    "budget that no subnet meets": (
        "  budget: 8",
        "  constraints: [loss < 9, params <= 10]\n  budget: 8",
        "constraints",
        ["search.constraints[1]", "no architecture satisfies 'params <= 10'", "k to ", "k in this"],
    ),
    "floor that no subnet meets": (
        "  budget: 8",
        "  constraints: [macs@32 >= 1e15]\n  budget: 8",
        "constraints",
        ["no architecture satisfies 'macs@32 >= 1e+15'", "in this space"],
    ),
    "percentage that no subnet meets": (
        "  budget: 8",
        "  constraints: [params <= 1%]\n  budget: 8",
        "constraints",
        ["no architecture satisfies 'params <= 1%'", "params ranges from"],
    ),
    "percentage of no reference": (
        "  budget: 8",
        "  evaluators: [{name: loss}, {name: latency}]\n"
        "  constraints: [latency_rel <= 50%, latency_ms <= 50%]\n  budget: 8",
        "constraints",
        ["search.constraints[1]", "latency_ms has no reference", "write a number"],
    ),
    "constraints that exclude each other": (
        "  budget: 8",
        "  constraints: [params <= 5e4, params >= 1e5]\n  budget: 8",
        "constraints",
        ["search.constraints[1]", "under the preceding constraints"],
    ),
    "more subnets than evaluated": ("subnets: 2", "subnets: 9", "9", ["search.budget, 8"]),
    "empty prompt": ("prompts: []", "prompts: [a, '']", "prompts", ["front.prompts[1]"]),
    "resolution that cannot be halved": (
        "16: {batch: 2}",
        "15: {batch: 2}",
        "15",
        ["resolutions[15]", "use a multiple of 4"],
    ),
    "widths that do not suit": (
        "head_dim: 8",
        "head_dim: 7",
        "space",
        ["width 16 of level 1 is not a multiple of head_dim 7"],
    ),
    "epsilon with zero terminal SNR": (
        "front:",
        "objective: {name: diffusion, prediction: epsilon}\nfront:",
        "objective:",
        ["zero_terminal_snr: false or prediction: v"],
    ),
    "distillation without the largest": (
        "steps: 2",
        "steps: 2\n  distillation: 0.5\nsampler: {name: uniform}",
        "distillation",
        ["'uniform' never trains the largest", "distillation: 0"],
    ),
    "a teacher that does not exist": (
        "steps: 2",
        "steps: 2\n  teacher: {}",
        "teacher",
        ["training.teacher", "there is no pretrained model", "supernet.init_from"],
    ),
    "the trained supernet as its own teacher": (
        "steps: 2",
        "steps: 2\n  teacher: {model: supernet}",
        "teacher",
        ["there is no pretrained model; name one in model"],
    ),
    "a teacher whose channels are in another order": (
        "steps: 2",
        "steps: 2\n  teacher: {model: c/d}\nsupernet: {init_from: a/b}",
        "teacher",
        ["training.teacher.model", "those of 'a/b' are sorted", "supernet.reorder: false"],
    ),
    "a teacher beside distillation": (
        "steps: 2",
        "steps: 2\n  distillation: 0.5\n  teacher: {model: a/b}",
        "teacher",
        ["teaches in place of the largest subnet", "training.distillation: 0"],
    ),
    "a teacher of nothing": (
        "front:",
        "finetune: {teacher: {task: 0, outputs: 0, features: 0}}\nfront:",
        "teacher",
        ["finetune.teacher", "all weights are 0"],
    ),
    "recovery without a quality": (
        "[loss, macs]\nfront:\n  subnets: 2",
        "[macs]\nfront:\n  subnets: 2\n  recover: {}",
        "recover",
        ["front.recover", "all objectives are costs", "add one such as loss"],
    ),
    "hidden states of a compiled model": (
        "front:",
        "finetune: {compile: true, teacher: {}}\nfront:",
        "compile",
        ["finetune.compile", "compile: false", "features: 0"],
    ),
    "distillation in fine-tuning": (
        "front:",
        "finetune: {distillation: 0.25}\nfront:",
        "distillation",
        ["teacher: {model: supernet, task: 0.75, outputs: 0.25, features: 0}"],
    ),
    "plug-in file missing": ("front:", "plugins: [no.py]\nfront:", "no.py", ["does not exist"]),
    "key twice": ("budget: 8", "budget: 8\n  budget: 9", "budget: 9", ["'budget' is given twice"]),
    "tab": ("  steps: 2", "\tsteps: 2", "\t", ["not YAML", "spaces, not tabs"]),
    "bracket left open": ("[loss, macs]", "[loss, macs", "front", ["not YAML"]),
    "tag": ("steps: 2", "steps: !!python/name:os.sep 2", "os.sep", ["not YAML", "os.sep"]),
    "alias": ("steps: 2", "steps: &a 2\n  checkpoint_every: *a", "*a", ["aliases"]),
    "scales that are a list": ("front:", "scales: [cpu]\nfront:", "scales", ["write `name:`"]),
    "scale named auto": ("front:", "scales: {auto: {}}\nfront:", "scales", ["reserved"]),
    "key of a scale misspelt": (
        "front:",
        "scales: {a: {}, b: {training: {stepz: 1}}}\nfront:",
        "scales",
        ["did you mean 'steps'", "(at scale 'b')"],
    ),
    "section of a scale that is a word": (
        "front:",
        "scales: {a: {training: fast}}\nfront:",
        "scales",
        ["training: must be a section", "(at scale 'a')"],
    ),
}


@pytest.mark.parametrize("wrong", RECIPES)
def test_wrong_recipe(error_of, wrong: str, write_recipe: Write) -> None:
    old, new, at_fault, said = RECIPES[wrong]
    path = write_recipe({old: new})
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if at_fault in text)
    message = error_of("run", path.name)
    assert any(start.startswith(f"recipe.yaml:{line}: ") for start in message.splitlines()), message
    assert all(text in message for text in said), message


def test_several_problems_are_told_at_once_but_not_all_of_many(
    error_of, write_recipe: Write
) -> None:
    three = write_recipe({"steps: 2": "stepz: 2", "budget: 8": "budgt: 8"})
    lines = error_of("plan", three).splitlines()
    assert len(lines) == 3
    many = write_recipe({"steps: 2": "\n  ".join(f"key{i}: 1" for i in range(9))})
    lines = error_of("plan", many).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "and 5 more"


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


def test_shards_that_are_not_there(error_of, write_recipe: Write) -> None:
    Path("shards").mkdir()
    Path("shards/000.tar").write_bytes(b"")
    shards = "data: {train: 'shards/00{0..3}.tar', frames: 4,"
    recipe = write_recipe({"data: {frames: 4,": shards})
    message = error_of("run", recipe.name)
    assert message.startswith("recipe.yaml:5: data.train: shard ")
    assert "shards/001.tar" in message
    assert "nearest file is" in message


SOURCES = {
    "http://host/{0..2}.tar.gz": "is compressed",
    "http:///000.tar": "names no host; write SCHEME://HOST/PATH",
    "https://host/": "names no file",
    "https://host/*.tar": "name them with {000..127}",
    "htps://host/000.tar": "'htps' is not supported; did you mean 'https'",
    "pipe:cat 000.tar": "would run a command in a shell; if you trust the recipe",
    "pipe: ": "names no command",
}


@pytest.mark.parametrize("source", SOURCES)
def test_source_that_cannot_be_one(error_of, source: str, write_recipe: Write) -> None:
    recipe = write_recipe({"data: {frames: 4,": f"data: {{val: ['{source}'], frames: 4,"})
    message = error_of("run", recipe.name)
    assert message.startswith("recipe.yaml:5: data.val: ")
    assert SOURCES[source] in message
    assert "\n" not in message


def test_source_whose_tool_is_not_here(
    error_of, write_recipe: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = error_of("run", write_recipe().name, "--set", "data.train=s3://bucket/000.tar")
    assert message.startswith("--set data.train=s3://bucket/000.tar: data.train: ")
    assert "is fetched by `aws`, which is not installed; install it" in message


def test_inspection_of_sources_that_are_gone(error_of) -> None:
    gone = "http://127.0.0.1:1/{000..002}.tar"
    message = error_of("data", "inspect", gone, "--retries", "0")
    assert message.startswith("None of the first 2 of 3 shards can be fetched; the first, http://")
    assert "allow-pipes" in error_of("data", "inspect", "pipe:cat x")


def test_embedded_clips_of_a_kind_that_does_not_exist(error_of, write_recipe: Write) -> None:
    """Not even if it is the start of one that does."""
    for verb in (["run"], ["run", "--dry-run"], ["plan"]):
        message = error_of(*verb, write_recipe().name, "--set", "data.train=embedded:foo")
        assert (
            "data.train: 'embedded:foo' does not exist; use one of embedded, embedded:digits"
            in message
        )


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


@pytest.mark.parametrize(
    ("cache", "said"), [("run", "Each run has its own cache"), ("none", "recipe keeps no latents")]
)
def test_no_folder_to_encode_into(error_of, write_recipe: Write, cache: str, said: str) -> None:
    recipe = write_recipe({"patch_size: 2": "patch_size: 1"}, f"vae: {{cache: {cache}}}\n")
    message = error_of("data", "encode", recipe)
    assert f"{said} " in message
    assert "name a shared folder with --out or vae.cache" in message
