"""Everything that a recipe names is looked at before any work, by plan and --dry-run too."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from nasvid.cli.main import main
from nasvid.errors import UserError
from nasvid.export.pretrained import load_pretrained
from nasvid.latents.vae import EMBEDDED, make_vae
from nasvid.preflight import RecipeError, check_named, load_recipe
from nasvid.recipe.sections import SupernetSection, VaeSection

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZES = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 16, "num_layers": 2}
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 16,
    "freq_dim": 16,
    "patch_size": (1, 2, 2),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small Wan as a pipeline's folder."""
    torch.manual_seed(0)
    WanTransformer3DModel(**SIZES, **CONFIG).save_pretrained(tmp_path / "wan" / "transformer")
    return tmp_path / "wan"


@pytest.fixture
def recipe(tmp_path: Path, tiny: Callable[..., str], model: Path) -> Path:
    """A recipe that begins from it and gives nothing but what varies."""
    space = {"name": "WanTransformer3DModel", "choices": {"num_layers": [1, 2]}}
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny(space=space, supernet={"init_from": "wan"}))
    return path


def refused(path: Path, *sets: str) -> str:
    with pytest.raises(RecipeError) as raised:
        check_named(load_recipe(path, overrides=sets))
    return str(raised.value)


def change(file: Path, make: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    make(tensors)
    save_file(tensors, file)


def test_what_a_recipe_leaves_out_is_as_in_the_model_it_begins_from(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    check_named(loaded)
    largest = loaded.space.build(loaded.space.largest)
    assert {key: largest.config[key] for key in SIZES} == SIZES
    assert loaded.recipe.space.options["config"]["ffn_dim"] == 16
    given = load_recipe(recipe, overrides=["space.config.ffn_dim=8"])
    assert given.recipe.space.options["config"]["ffn_dim"] == 8


def test_all_differences_are_told_at_the_start(recipe: Path) -> None:
    said = refused(recipe, "space.config={ffn_dim: 8, eps: 0.1}", "space.choices.num_layers=[1, 3]")
    assert "supernet.init_from" in said
    for each in (
        "num_layers is 2, but 3 in the space",
        "ffn_dim is 16, but 8 in the space",
        "eps is 1e-06, but 0.1 in the space",
    ):
        assert each in said
    assert "text_dim is 16, but 24 follows" in str(refused_load(recipe, "text.dim=24"))


def refused_load(path: Path, option: str) -> RecipeError:
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, overrides=[option])
    return raised.value


def test_a_setting_that_the_class_does_not_have_any_more_is_left_out(
    recipe: Path, model: Path
) -> None:
    path = model / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gone": 3}))
    loaded = load_recipe(recipe)
    check_named(loaded)
    assert "gone" not in loaded.recipe.space.options["config"]


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda f: change(f, lambda t: t.pop("proj_out.bias")),
        r"1 tensor missing \(proj_out\.bias\)",
    ),
    "unexpected": (
        lambda f: change(f, lambda t: t.update(more=torch.ones(1))),
        r"1 tensor unexpected \(more\)",
    ),
    "reshaped": (
        lambda f: change(f, lambda t: t.update({"proj_out.bias": torch.ones(5)})),
        r"1 tensor of another shape \(proj_out\.bias \[5\], not \[12\]\)",
    ),
    "damaged": (lambda f: f.write_bytes(b"nothing"), f"{WEIGHTS} is damaged"),
    "pickled": (lambda f: f.rename(f.with_suffix(".bin")), "a pickle, which could run any code"),
    "none": (lambda f: f.unlink(), "has no weights"),
    "some": (
        lambda f: f.rename(f.with_name("diffusion_pytorch_model-00001-of-00002.safetensors")),
        "has 1 of 2 files of its weights",
    ),
    "another class": (
        lambda f: (f.parent / "config.json").write_text('{"_class_name": "Other"}'),
        "holds a model of class Other, but the space's is WanTransformer3DModel",
    ),
    "not JSON": (lambda f: (f.parent / "config.json").write_text("{"), "is not JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_to_begin_from_that_is_amiss(recipe: Path, model: Path, fault: str) -> None:
    spoil, said = FAULTS[fault]
    whole = load_recipe(recipe).recipe.space
    spoil(model / "transformer" / WEIGHTS)
    given = "space=" + json.dumps(whole.model_dump(mode="json"))
    assert re.search(said, refused(recipe, given))


def test_a_slip_in_the_subfolder_names_those_that_have_a_model(recipe: Path) -> None:
    sets = ["supernet.subfolder=vae", f"space.config={json.dumps({**SIZES, **CONFIG})}"]
    said = refused(recipe, *sets, "space.config.num_layers=2")
    assert "wan/vae does not exist" in said


def test_weights_of_half_precision_alone_are_loaded(model: Path) -> None:
    own = WanTransformer3DModel.from_pretrained(model, subfolder="transformer")
    folder = model / "transformer"
    (folder / WEIGHTS).rename(folder / WEIGHTS.replace(".safe", ".fp16.safe"))
    loaded = load_pretrained(SupernetSection(init_from=str(model)), own)
    assert torch.equal(loaded.state_dict()["proj_out.bias"], own.state_dict()["proj_out.bias"])


def test_weights_that_are_not_finite_are_refused(model: Path) -> None:
    own = WanTransformer3DModel.from_pretrained(model, subfolder="transformer")
    change(model / "transformer" / WEIGHTS, lambda t: t["proj_out.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match=r"not finite, in proj_out\.bias"):
        load_pretrained(SupernetSection(init_from=str(model)), own)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "autoencoder"))


VAES: dict[str, tuple[dict[str, object], Callable[[Path], object], str]] = {
    "no folder": ({"path": "../gone/vae"}, lambda f: None, "vae.path: folder ../gone/vae does not"),
    "a file": (
        {"path": "autoencoder/config.json"},
        lambda f: None,
        r"is a file; name its folder, ",
    ),
    "no such subfolder": ({"subfolder": "vae"}, lambda f: None, "vae does not exist"),
    "other channels": ({"channels": 8}, lambda f: None, "has channels 4, but vae.channels is 8"),
    "other factor": ({"factor": 8}, lambda f: None, "has factor 4, but vae.factor is 8"),
    "a tensor missing": (
        {},
        lambda f: change(f / WEIGHTS, lambda t: t.pop("decoder.conv_in.bias")),
        r"1 tensor missing \(decoder\.conv_in\.bias\)",
    ),
    "a tensor more": (
        {},
        lambda f: change(f / WEIGHTS, lambda t: t.update(more=torch.ones(1))),
        r"1 tensor unexpected \(more\)",
    ),
    "another class": (
        {},
        lambda f: (f / "config.json").write_text('{"_class_name": "AutoencoderTiny"}'),
        "class AutoencoderTiny, which is none of the supported ones: AutoencoderKL,",
    ),
}


@pytest.mark.parametrize("fault", VAES)
@pytest.mark.parametrize("command", [["plan"], ["run", "--dry-run"]], ids=["plan", "dry run"])
def test_a_vae_that_is_amiss(
    error_of: Callable[..., str],
    write_recipe: Callable[..., Path],
    vae: Path,
    command: list[str],
    fault: str,
) -> None:
    changed, spoil, said = VAES[fault]
    spoil(vae)
    section = {"path": "autoencoder", "channels": 4, "factor": 4, **changed}
    path = write_recipe({"patch_size: 2": "patch_size: 1"}, yaml.safe_dump({"vae": section}))
    message = error_of(command[0], path, *command[1:])
    assert re.search(said, message), message
    assert re.match(r"\S+recipe\.yaml:\d+: vae", message)


def test_a_vae_of_half_precision_alone_is_loaded(vae: Path) -> None:
    (vae / WEIGHTS).rename(vae / WEIGHTS.replace(".safe", ".fp16.safe"))
    loaded = make_vae(VaeSection(path=str(vae)))
    assert torch.equal(
        loaded.model.decoder.conv_in.bias,
        make_vae(VaeSection()).model.decoder.conv_in.bias,  # pyright: ignore
    )


def test_shards_that_are_gone_are_told_by_plan(
    error_of: Callable[..., str], write_recipe: Callable[..., Path]
) -> None:
    path = write_recipe({"data: {frames": "data: {train: gone.tar, frames"})
    assert "data.train: shard" in error_of("plan", path)


def test_a_recipe_that_is_whole_is_planned(recipe: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(recipe), "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["space"]["config"]["ffn_dim"] == 16


@pytest.mark.parametrize(
    ("supernet", "said"),
    [
        ({"init_from": "none"}, "folder none does not exist"),
        ({"init_from": "wan", "subfolder": "unet"}, "wan/unet does not exist; correct subfolder"),
        ({"init_from": "wan"}, "of class WanTransformer3DModel, but the space's is UNet"),
    ],
)
def test_a_wrong_model_is_named_before_settings_that_it_lacks(
    error_of, tmp_path: Path, tiny: Callable[..., str], supernet: dict[str, str], said: str
) -> None:
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    space = {"name": "UNet3DConditionModel", "choices": {"block_out_channels.0": [8, 16]}}
    (tmp_path / "recipe.yaml").write_text(tiny(space=space, supernet=supernet))
    message = error_of("run", "recipe.yaml", "--dry-run")
    assert "supernet.init_from: " in message
    assert said in message
