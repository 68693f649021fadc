"""Sorting an existing model's channels and heads, and supernets initialised from one."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nasvid.architecture import Architecture
from nasvid.cli.main import main
from nasvid.export.subnet import load_exported
from nasvid.metrics.loss import DenoisingLoss
from nasvid.preflight import load_recipe
from nasvid.run.folder import existing
from nasvid.run.session import Session
from nasvid.supernet import Supernet
from nasvid.units import Place, Units, reorder

pytestmark = pytest.mark.slow

ONE = """
name: one
data: {train: "embedded:digits", val: "embedded:digits", frames: 4, context_len: 12}
resolutions: {24: {batch: 4}}
text: {name: hash, dim: 32}
objective: {name: diffusion, min_snr_gamma: null}
space:
  name: elastic_unet
  widths: [[32], [64]]
  hidden_ratios: [1.0]
  switchable: []
  blocks_per_level: 1
  attention_levels: [1]
  conditioning_width: 64
  head_dim: 16
  group_size: 4
  patch_size: 2
sampler: {name: uniform}
training: {steps: 150, learning_rate: 3.0e-3, ema_decay: 0.98}
search: {strategy: {name: random}, budget: 1, clips: 32}
front: {subnets: 1, evaluators: [], prompts: []}
"""
MANY = (
    ONE.replace("name: one", "name: many")
    .replace("[[32], [64]]", "[[16, 32], [32, 64]]")
    .replace("hidden_ratios: [1.0]", "hidden_ratios: [0.5, 1.0]")
    .replace("steps: 150", "steps: 1")
    + "supernet: {init_from: one/subnets/ID}\n"
)


def test_the_most_important_come_first():
    weight = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
    after = torch.tensor([[10.0, 30.0, 20.0, 5.0]])
    tensors = {"a.weight": weight, "b.weight": after}
    reorder(tensors, [Units("x", 3, (Place("a.weight", 0), Place("b.weight", 1)))])
    assert weight[:, 0].tolist() == [3, 2, 1]
    assert after.tolist() == [[30, 20, 10, 5]]


def test_units_move_as_a_whole_and_from_where_they_start():
    tensor = torch.arange(8)
    Units("x", 3, (Place("t", 0, size=2, start=2),)).move({"t": tensor}, torch.tensor([2, 0, 1]))
    assert tensor.tolist() == [0, 1, 6, 7, 2, 3, 4, 5]


def test_units_that_do_not_fit_are_an_error_with_the_tensor():
    with pytest.raises(ValueError, match=r"^t: 3 units of 2 starting at 4 do not fit into the 8"):
        Units("x", 3, (Place("t", 0, size=2, start=4),)).move(
            {"t": torch.arange(8)}, torch.arange(3)
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with `one`, a run whose only architecture has been trained for some seconds."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "one.yaml").write_text(ONE)
    called("run", folder / "one.yaml", "--out", folder / "one")
    return folder


def called(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def many(trained: Path, text: str = MANY) -> Path:
    (model,) = (trained / "one" / "subnets").glob("*/")
    path = trained / "many.yaml"
    path.write_text(text.replace("ID", model.name))
    return path


@pytest.fixture(scope="module")
def begun(trained) -> tuple[Path, str]:
    """A run that began from the trained model, and what it said."""
    said = called("run", many(trained), "--out", trained / "many")
    return trained / "many", said


def test_a_run_begins_from_the_model_and_says_what_sorting_is_worth(trained, begun):
    folder, said = begun
    assert re.search(r"start: loss before training by share of MACs, sorted: 0\.\d+ at 100%", said)
    start = json.loads((folder / "train/start.json").read_text())
    assert start["orders"] == ["given", "sorted"]
    whole, *others = start["costs"]
    assert whole["given"] == pytest.approx(whole["sorted"], rel=1e-4)
    assert all(other["given"] > whole["given"] for other in others)
    ones = json.loads((trained / "one/search/front.json").read_text())["members"][0]["metrics"]
    assert whole["given"] == pytest.approx(ones["loss"], rel=1e-5)
    page = (folder / "report.html").read_text()
    assert "units sorted by importance" in page
    assert f"{others[-1]['sorted']:.4f}" in page


def test_half_the_width_loses_less_when_sorted(trained, begun):
    folder = existing(begun[0])
    session = Session(folder, load_recipe(folder.recipe))
    components = session.components
    (model,) = (trained / "one" / "subnets").glob("*/")
    losses = {}
    for sort in (False, True):
        supernet = Supernet(components.space)
        supernet.load_pretrained(load_exported(model), reorder=sort)
        supernet.net.eval()
        evaluator = DenoisingLoss(DenoisingLoss.Config(), session.context(supernet))
        archs = [components.space.largest, half(components.space.largest)]
        losses[sort] = [metrics["loss"] for metrics in evaluator.evaluate(archs)]
    assert losses[True][0] == pytest.approx(losses[False][0], rel=1e-4)
    assert losses[True][1] < losses[False][1]


def half(arch: Architecture) -> Architecture:
    narrow = {name: size // 2 for name, size in arch.items() if name.endswith("width")}
    return Architecture({**arch, **narrow})


def test_another_network_is_refused_before_anything_is_written(trained, tmp_path):
    for change, complaint in (
        (("[32, 64]]", "[32, 96]]"), r"largest .*widths is \[32, 64\], but \[32, 96\]"),
        (("head_dim: 16", "head_dim: 8"), r"largest .*head_dim is 16, but 8 in the space"),
    ):
        said = called(
            "run",
            many(trained, MANY.replace(*change)),
            "--out",
            tmp_path / str(len(complaint)),
            code=2,
        )
        assert re.search(complaint, said), said


def test_no_such_folder(trained, tmp_path):
    recipe = many(trained, MANY.replace("one/subnets/ID", "../nowhere"))
    said = called("run", recipe, "--out", tmp_path / "run", code=2)
    assert "supernet.init_from: folder ../nowhere does not exist" in said
