"""A pretrained model as the teacher of the supernet's training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from nasvid.cli.main import main
from nasvid.costs import dummy_input
from nasvid.preflight import load_recipe
from nasvid.run.components import Components
from nasvid.run.init_from import load_start
from nasvid.run.teacher import load_teacher
from nasvid.shapes import Resolution

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 16,
    "num_layers": 2,
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 16,
    "freq_dim": 16,
    "patch_size": (1, 2, 2),
}


@pytest.fixture
def recipe(tmp_path: Path, tiny: Callable[..., str]) -> Path:
    torch.manual_seed(0)
    WanTransformer3DModel(**WAN).save_pretrained(tmp_path / "wan")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        tiny(
            space={"name": "WanTransformer3DModel", "choices": {"num_layers": [1, 2]}},
            supernet={"init_from": "wan"},
            resolutions={16: {"batch": 2}},
            training={"steps": 2, "teacher": {}},
            search={"strategy": {"name": "random"}, "budget": 2, "clips": 2},
            front={"subnets": 1, "prompts": [], "evaluators": []},
            finetune={"steps": 1, "subnets": 1, "teacher": {}},
        )
    )
    return path


def teacher_of(path: Path, precision: str) -> tuple[Components, torch.nn.Module]:
    loaded = load_recipe(path, overrides=[f"training.precision={precision}"])
    components = Components(loaded)
    teacher = load_teacher(components, loaded.recipe.training.teacher, "training.teacher")
    assert teacher is not None
    return components, teacher.net


def test_a_teacher_is_the_model_that_the_supernet_began_from(recipe: Path) -> None:
    components, net = teacher_of(recipe, "fp32")
    supernet = components.supernet()
    start = components.recipe.supernet
    assert start is not None
    load_start(start, supernet, reorder=start.reorder)
    assert not any(p.requires_grad for p in net.parameters())
    for name, tensor in supernet.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), f"{name} is in another order"


def test_a_teacher_is_in_half_precision_where_products_are(recipe: Path) -> None:
    components, net = teacher_of(recipe, "bf16")
    dtypes = {name: p.dtype for name, p in net.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert dtypes["scale_shift_table"] == torch.float32, "diffusers keeps it in fp32"
    inputs = dummy_input(
        components.recipe.shape(Resolution.square(16)), components.space.domain, device="cpu"
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = components.space.denoise(net, inputs)
    assert torch.isfinite(found).all()


@pytest.mark.slow
def test_subnets_learn_from_it_in_training_and_after(recipe: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(recipe), "--out", str(recipe.parent / "run")])
    assert done.exit_code == 0, done.output
    (tuned,) = json.loads((recipe.parent / "run/finetune/finetuned.json").read_text())["subnets"]
    assert tuned["after"]["loss"] != tuned["before"]["loss"]
