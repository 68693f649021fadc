"""Recipes that cannot be meant: each is refused at once, at its line, in nasvid's own words."""

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasvid import plugins
from nasvid.preflight import RecipeError, load_recipe, to_yaml
from nasvid.recipe.nodes import LARGEST_FILE, parse_value
from nasvid.recipe.schema import sections

Write = Callable[..., Path]

SETS = [
    "seed=yes",
    "seed=true",
    "seed=1:30",
    "seed='5'",
    "seed=-1",
    "seed=9223372036854775808",
    f"seed={'9' * 5000}",
    "seed=2020-01-01",
    "seed=!!int 5",
    "training.steps=010",
    "training.steps=0x10",
    "training.steps=1_000",
    "training.steps=1e30",
    "training.steps=1e400",
    "training.steps=1e9",
    "training.steps=!!timestamp x",
    "training.steps=!!bool x",
    "training.steps=!!python/object:os.system x",
    "training.learning_rate=1e30",
    "training.learning_rate=0",
    "training.learning_rate=.nan",
    "training.weight_decay=1e9",
    "training.keep_checkpoints=1000000",
    "training.betas=[0.9]",
    "training.betas=[1, 2]",
    "training.tensorboard=on",
    "training.tensorboard=1",
    "data.workers=1000000",
    "data.frames=1000000000",
    "data.fps=1e-30",
    "data.fps=1e30",
    "data.flip=no",
    "data.train=[]",
    "data.context_len=1e9",
    f"data.train='{'{0..9}' * 10}.tar'",
    "data.train='{0..999999999}.tar'",
    'data.train="a\\0b"',
    "data.cache=" + "a" * 5000,
    "space.widths=[[1000000000000000000000000000000]]",
    "space.widths=[[]]",
    f"space.widths={[[8]] * 100}",
    "space.blocks_per_level=1000000000",
    "space.patch_size=0",
    "space.attention_levels=[100]",
    "text.dim=1e12",
    "search.objectives=['@x']",
    "search.objectives=['loss@²']",
    "search.objectives=['loss@']",
    "search.objectives=['@']",
    "search.objectives=['loss@016']",
    "search.objectives=['']",
    "search.objectives=[loss, loss@16, loss@32, macs, macs@16, macs@32, params, loss, macs]",
    "search.constraints=['loss@² < 1']",
    "search.constraints=['params <= 1e999']",
    "search.constraints=['params <= nan']",
    "search.clips=1e9",
    "search.batch=1000000000",
    "search.budget=1e12",
    "search.strategy={name: evolutionary, population: 1000000000}",
    "search.evaluators=[]",
    "search.evaluators=[loss]",
    "search.evaluators=[{name: [1]}]",
    "search.evaluators=[{}]",
    "search.strategy.name=null",
    f"name={'a' * 300}",
    "name=..",
    'plugins=["a\\0b.py"]',
    f"plugins=['{'a' * 5000}.py']",
    "plugins=['.']",
    "plugins=[3]",
    "plugins=x.py",
    "resolutions={}",
    "resolutions={true: {batch: 1}}",
    "resolutions={1.5: {batch: 1}}",
    "resolutions={-16: {batch: 1}}",
    "resolutions={1000000000: {batch: 1}}",
    "resolutions={16: {batch: 1000000000}}",
    "resolutions={16: {batch: 1, weight: 1e300}}",
    "resolutions={[1]: {batch: 1}}",
    f"resolutions={'{' + ', '.join(f'{16 * n}: {{batch: 1}}' for n in range(1, 40)) + '}'}",
    "front.guidance_scale=1e30",
    "front.sampling_steps=1e9",
    "front.prompts=hello",
    "front.prompts=[yes]",
    "front.prompts=[1]",
    'front.prompts=["\\ud800"]',
    'front.prompts=["\\x07"]',
    "vae={channels: 1000000000}",
    "vae={factor: 1000000000}",
    "vae={path: 'a', subfolder: 5}",
    f"vae={{path: {'a/' * 3000}}}",
    "vae={train: {widths: []}}",
    f"supernet={{init_from: '{'a' * 5000}'}}",
    'supernet={init_from: "a\\0b"}',
    "objective={name: diffusion, train_timesteps: 1000000000}",
    "objective={name: flow, shift: 0}",
    "sampler={name: sandwich, n_random: 1000000}",
    "sampler={name: sandwich, inner: {name: sandwich, inner: 3}}",
    "finetune={learning_rate: 1e9}",
    "finetune=yes",
    "finetune=[]",
    "space={name: LatteTransformer3DModel, choices: {num_layers: [1000000000]}}",
    "space={name: LatteTransformer3DModel, config: {num_layers: 1000000000}, "
    "choices: {num_attention_heads: [2]}}",
    "<<={a: 1}",
    "front={16: 1}",
    "training={1: 2}",
    "[0]=3",
    f"resolutions.{'9' * 5000}.batch=1",
    f"search.evaluators[{'9' * 5000}].name=loss",
    "search.evaluators.²=3",
    '"a.b"=3',
    "training=" + "[" * 200,
    "training=" + "{a: " * 200,
]
"""Overrides of the tiny recipe, each of them wrong."""

OWN_WORDS = re.compile(
    r"Input should|should be|should have|valid (integer|number|dictionary|list|tuple|string)|"
    r"Value error|validation|pydantic|Traceback|tag:yaml",
)


@pytest.fixture(autouse=True, scope="module")
def imported(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import first what takes its time once."""
    path = tmp_path_factory.mktemp("first") / "recipe.yaml"
    path.write_text(tiny())
    load_recipe(path)
    plugins.load("spaces", "LatteTransformer3DModel")


@pytest.mark.parametrize("option", SETS, ids=lambda option: option[:40].encode("ascii", "replace"))
def test_what_cannot_be_meant_is_refused_at_once(write_recipe: Write, option: str) -> None:
    path = write_recipe()
    started = time.monotonic()
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, overrides=[option])
    assert time.monotonic() - started < 20
    assert str(raised.value).startswith("--set "), raised.value
    said = str(raised.value).replace(option, "")
    assert not OWN_WORDS.search(said), said


FILES = {
    "larger than any": ("front: [" + "1, " * LARGEST_FILE + "]", r"larger than 256 KiB"),
    "too deep": ("\na: " + "[" * 40 + "]" * 40, r":2: .*more than 30"),
    "a bomb": ("\na: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]", r":3: .*aliases"),
    "merged": ("\na:\n  <<: {b: 1}", r":3: << may be read in several ways; write the entries"),
    "octal": ("\na:\n  b: 010", r":3: 010 may be read in several ways; write a number as digits"),
    "yes": ("\na: 1\nb: yes", r":3: yes may be read .*; write true or false, or text in quotes"),
    "a time": ("\na: 1:30", r":2: 1:30 may be read"),
    "a tag": ("\na: !!float 3", r":2: .*tags \(`!!float`\) are not supported"),
    "a NUL": ('\na: "\\0"', r":2: .*control character"),
    "a long number": ("\na: " + "9" * 5000, r":2: a number has at most 40"),
    "many wrong keys": ("\n".join(f"key{n}: 1" for n in range(9000)), r"and 9000 more"),
}


@pytest.mark.parametrize("wrong", FILES)
def test_a_file_that_is_no_recipe_is_refused_at_once(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "recipe.yaml"
    text, said = FILES[wrong]
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(RecipeError, match=said):
        load_recipe(path)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e6", 1000000), ("0.5", 0.5), ("-0", 0), ("'010'", "010"), ("TRUE", True), ("~", None)],
)
def test_what_is_plain_is_read(text: str, value: object) -> None:
    found = parse_value(text, "here").plain()
    assert (found, type(found)) == (value, type(value))


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, f'{path}."{key}"' if path else key)
    else:
        yield path


VALUES = [
    "yes",
    "-1",
    "0",
    "1.5",
    "1e30",
    "text",
    "[]",
    "[x]",
    "{}",
    "{x: 1}",
    "true",
    "null",
    "''",
]


@pytest.mark.slow
def test_no_value_anywhere_shows_the_words_of_a_library(
    write_recipe: Write, rng: random.Random
) -> None:
    path = write_recipe(more="vae: {train: {}}\nfinetune: {}\nsupernet: {init_from: a/b}")
    tree = yaml.safe_load(to_yaml(load_recipe(write_recipe()).recipe))
    every = [f"{leaf}={value}" for leaf in _leaves(tree) for value in VALUES]
    every += [f"vae.train.widths[0]={value}" for value in VALUES]
    for option in rng.sample(every, 150):
        said = ""
        try:
            load_recipe(path, overrides=[option])
        except RecipeError as error:
            said = str(error).replace(option, "")
        assert not OWN_WORDS.search(said), option


def _open(schema: Any) -> Iterator[Any]:
    """Yield the numbers of a JSON schema that lack a bound."""
    if isinstance(schema, list):
        for each in schema:
            yield from _open(each)
    elif isinstance(schema, dict):
        bounds = [key for key in schema if key.lower().endswith(("minimum", "maximum"))]
        if schema.get("type") in ("integer", "number") and len(bounds) < 2:
            yield schema
        yield from _open([each for key, each in schema.items() if key != "default"])


MODELS = [model for _, model in sections()] + [
    plugins.load(kind, name).Config
    for kind in plugins.KINDS
    for name, plugin in plugins.available(kind).items()
    if not plugin.source.endswith(".py")  # as those that other tests have registered
]


def test_every_number_of_a_recipe_has_bounds() -> None:
    assert not [found for model in MODELS for found in _open(model.model_json_schema())]
