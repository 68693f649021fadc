"""The plan knows what is frozen beside the denoiser: the VAE and the text encoder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.cli.plan_tables import _encoders
from nasvid.host.cards import Devices
from nasvid.latents.vae import make_vae
from nasvid.planning.memory import USABLE
from nasvid.planning.plan import Plan, make_plan
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import Recipe, VaeSection

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
VAE = "vae: {path: embedded, channels: 4, factor: 4, cache: CACHE}"


def recipe_of(write_recipe: Write, cache: str, **more: str) -> Recipe:
    path = write_recipe(more=VAE.replace("CACHE", cache))
    sets = [f"{name}={value}" for name, value in more.items()]
    return load_recipe(path, overrides=["training.precision=fp32", *sets]).recipe


def told(write_recipe: Write, cache: str) -> str:
    path = write_recipe(more=VAE.replace("CACHE", cache))
    return " ".join(CliRunner().invoke(main, ["plan", str(path)]).output.split())


def test_steps_that_encode_their_clips_hold_the_vae(write_recipe: Write) -> None:
    model = make_vae(VaeSection()).model  # pyright: ignore[reportAttributeAccessIssue]
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    ahead, in_steps = (make_plan(recipe_of(write_recipe, cache)) for cache in ("run", "none"))
    assert (ahead.encoders.vae, ahead.encoders.text, ahead.encoders.vae_ahead) == (size, 0, True)
    assert (ahead.engine.memory.encoders, in_steps.engine.memory.encoders) == (0, size)
    assert in_steps.engine.memory.least == ahead.engine.memory.least + size
    assert in_steps.to_json()["engines"][0]["encoders"] == size


def test_a_vae_that_the_run_trains_counts_by_its_widths(write_recipe: Write) -> None:
    small, large = (
        make_plan(recipe_of(write_recipe, "none", **{"vae.train": f"{{widths: {widths}}}"}))
        for widths in ("[8, 8, 8]", "[16, 16, 16]")
    )
    assert 3.5 < (large.encoders.vae or 0) / (small.encoders.vae or 1) < 4.5


def test_what_encodes_ahead_has_to_fit_as_well(write_recipe: Write) -> None:
    recipe = recipe_of(write_recipe, "run")
    size = make_plan(recipe).encoders.size

    def fits(memory: int) -> bool | None:
        return make_plan(recipe, Devices(1, memory)).engine.fits

    assert fits(10**9)
    assert not fits(int(size / USABLE) - 1)


def test_the_plan_says_when_encoders_are_loaded(write_recipe: Write) -> None:
    assert "Before training, clips are encoded; the VAE (" in told(write_recipe, "run")
    assert "Encoders: the VAE (" in told(write_recipe, "none")


def test_a_pretrained_text_encoder_is_on_the_device_in_its_precision(
    write_recipe: Write, pipeline: Callable[[str], Path]
) -> None:
    text = f"{{name: pretrained, path: {pipeline('text_to_video_sd')}}}"
    recipe = recipe_of(write_recipe, "none", text=text, **{"data.embeddings": "none"})

    def text_of(plan: Plan) -> int:
        return plan.encoders.text or 0

    here, on_gpu = make_plan(recipe), make_plan(recipe, Devices(1, 10**10))
    assert text_of(here) == 2 * text_of(on_gpu) > 0
    assert here.engine.memory.encoders == here.encoders.size > text_of(here)
    clip = text.replace("}", ", subfolder: text_encoder, tokenizer_subfolder: tokenizer}")
    recipe = recipe_of(write_recipe, "none", text=clip.replace("pretrained", "clip"))
    kept = make_plan(recipe)
    assert text_of(kept) == text_of(here)
    assert text_of(make_plan(recipe, Devices(1, 10**10))) == text_of(on_gpu)
    assert kept.engine.memory.encoders == here.encoders.vae, "captions are encoded before"
    shown = " ".join(" ".join(_encoders(kept)).split())
    assert "Before training, captions are encoded; the text encoder (" in shown
    assert "Encoders: the VAE (" in shown


def test_what_is_on_a_hub_is_said_to_be_unknown(write_recipe: Write) -> None:
    text = "{name: t5, path: someone/some-t5, dim: 16}"
    plan = make_plan(recipe_of(write_recipe, "run", text=text))
    assert plan.encoders.text is None
    path = write_recipe(more=VAE.replace("CACHE", "run"))
    shown = CliRunner().invoke(main, ["plan", str(path), "--set", f"text={text}"]).output
    assert "Not included: the text encoder, of unknown size." in shown
