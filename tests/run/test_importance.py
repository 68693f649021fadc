"""Importance in a run: measured before training, used by it, and measured again afterwards."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import WanTransformer3DModel

from nasvid.cli.main import main
from nasvid.preflight import RecipeError, load_recipe
from nasvid.report import forms
from nasvid.run.components import Components
from nasvid.run.folder import RunFolder, begin, load_of_run
from nasvid.run.importance import importance
from nasvid.run.init_from import load_start
from nasvid.run.measured import unit_order
from nasvid.run.session import Session

MODEL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 16,
    "num_layers": 4,
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 32,
    "freq_dim": 16,
    "rope_max_seq_len": 32,
}
SHARDS = str(Path(__file__).parents[2] / "nasvid/data/embedded/val/digits-000.tar")


def write(folder: Path, tiny, **sections) -> Path:
    wanted = {
        "space": {
            "name": "WanTransformer3DModel",
            "choices": {"num_layers": {"keep": 2}, "ffn_dim": [8, 16]},
        },
        "supernet": {"init_from": "wan", "reorder": "gradients"},
        "importance": {"clips": 2, "bias": 1.0},
        "objective": {"name": "flow"},
        "resolutions": {16: {"batch": 2}},
        "data": {"train": SHARDS, "val": SHARDS, "frames": 4, "context_len": 8},
        "text": {"name": "hash", "dim": 32},
        "training": {"steps": 2, "learning_rate": 1e-3},
        "search": {"strategy": {"name": "random"}, "budget": 3, "clips": 2},
        "front": {"subnets": 1, "prompts": [], "evaluators": []},
    }
    path = folder / "recipe.yaml"
    path.write_text(tiny(**{**wanted, **sections}))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny) -> Path:
    """A recipe of a model whose block 1 does the most and whose block 2 does next to nothing."""
    folder = tmp_path_factory.mktemp("importance")
    torch.manual_seed(0)
    model = WanTransformer3DModel(**MODEL)
    with torch.no_grad():
        for number, scale in enumerate((1.0, 3.0, 1e-3, 2.0)):
            model.blocks[number].scale_shift_table[:, [2, 5]] *= scale
            model.blocks[number].attn2.to_out[0].weight *= scale
    model.save_pretrained(folder / "wan")
    return write(folder, tiny)


@pytest.mark.slow
def test_a_run_measures_blocks_and_units_and_prefers_the_best(recipe):
    out = recipe.parent / "run"
    result = CliRunner().invoke(main, ["run", str(recipe), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "importance" / "start.json").read_text())
    assert forms.importance(found) == found
    worth = {block["name"]: block["loss"] for block in found["blocks"]}
    assert list(worth) == [f"blocks.{i}" for i in range(4)]
    moved = {block["name"]: block["outputs"] for block in found["blocks"]}
    assert min(moved, key=lambda name: moved[name]) == "blocks.2"

    folder = RunFolder(out)
    session = Session(folder, load_of_run(folder))
    space = session.components.space
    kept = {name for name in worth if space.smallest[name]}
    assert kept == set(sorted(worth, key=lambda name: worth[name])[-2:])

    scores = unit_order(folder.importance, "gradients")["blocks.1.ffn.units"]
    plain, ordered = Components(session.loaded).supernet(), session.components.supernet()
    start = session.recipe.supernet
    load_start(start, plain, reorder=False)
    load_start(start, ordered, reorder=True, scores=session.components.unit_order)
    first, sorted_ = (net.net.blocks[1].ffn.net[2].bias for net in (plain, ordered))
    assert torch.equal(first.sort().values, sorted_.sort().values)
    given = plain.net.blocks[1].ffn.net[0].proj.weight.detach().norm(dim=1)
    best = ordered.net.blocks[1].ffn.net[0].proj.weight.detach().norm(dim=1)
    assert torch.allclose(best, given[scores.argsort(descending=True, stable=True)], rtol=1e-5)

    result = CliRunner().invoke(main, ["importance", str(out)])
    assert result.exit_code == 0, result.output
    assert "blocks.3" in result.output
    after = json.loads((out / "importance" / "trained.json").read_text())
    assert [block["name"] for block in after["blocks"]] == list(worth)
    page = (out / "report.html").read_text()
    assert 'id="importance"' in page
    assert "Loss without a block" in page


@pytest.mark.slow
def test_a_damaged_measurement_is_made_again_before_training(recipe):
    loaded = load_recipe(recipe)
    folder = begin(recipe.parent / "other", loaded)
    session = Session(folder, loaded)
    importance(session)
    path = folder.importance / "start.json"
    before = path.read_text()
    path.write_text("{}")
    importance(Session(folder, load_recipe(recipe)))
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"supernet": None}, "no pretrained model to measure"),
        ({"importance": None}, "'gradients' must be measured first; add `importance: {}`"),
        ({"importance": {"bias": 2}}, "importance.bias: must be at most 1"),
    ],
)
def test_importance_without_what_it_needs_is_refused(tmp_path, tiny, sections, said):
    (tmp_path / "wan").mkdir()
    config = {"_class_name": "WanTransformer3DModel", **MODEL}
    (tmp_path / "wan" / "config.json").write_text(json.dumps(config))
    space = {"name": "WanTransformer3DModel", "config": MODEL, "choices": {"ffn_dim": [8, 16]}}
    with pytest.raises(RecipeError, match=said):
        load_recipe(write(tmp_path, tiny, space=space, **sections))
