"""Whatever is wrong in a recipe: one message with file, line and key, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]

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
