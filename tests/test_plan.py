import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from nasvid.costs import dummy_input
from nasvid.plan import Plan, make_plan, predicted_bytes
from nasvid.recipe import Recipe
from nasvid.recipe_file import load_recipe
from nasvid.training.optimizer import SparseAdamW

Write = Callable[..., Path]
SNED = Path(__file__).parents[1] / "recipes" / "sned_pixel.yaml"


@pytest.fixture(scope="module")
def recipe(tiny_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(tiny_recipe)
    return load_recipe(path, overrides=["training.precision=fp32"]).recipe


@pytest.fixture(scope="module")
def plan(recipe: Recipe) -> Plan:
    return make_plan(recipe)


def in_bytes(tensors: object) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)  # pyright: ignore


def test_what_training_keeps_of_each_weight_is_what_is_predicted(
    recipe: Recipe, plan: Plan
) -> None:
    space = recipe.make_space()
    net = space.build(space.largest)
    optimizer = SparseAdamW(net.parameters(), lr=1e-3)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.set(whole=True)
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in state if key != "age"]
    stage = plan.stages[0]
    assert stage.weights == stage.ema == in_bytes(net.parameters())
    assert stage.gradients == in_bytes(p.grad for p in net.parameters() if p.grad is not None)
    assert stage.optimizer == in_bytes(moments)


def test_ages_count_where_a_step_may_leave_weights_out(write_recipe: Write) -> None:
    path = write_recipe(more="sampler: {name: uniform}")
    plan = make_plan(load_recipe(path).recipe)
    assert plan.stages[0].optimizer == 3 * 4 * plan.largest_params


@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_are_those_that_a_real_forward_pass_saves(
    recipe: Recipe, plan: Plan, checkpointed: bool
) -> None:
    space, batch = recipe.make_space(), 2
    net = space.build(space.largest)
    if checkpointed:
        net.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inputs = dummy_input(recipe.shapes()[16], space.domain, batch=batch, device="cpu")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        space.denoise(net, inputs)
    (shape,) = (shape for shape in plan.shapes if shape.resolution == 16)
    assert shape.batch == batch
    if checkpointed:
        assert in_bytes(saved.values()) < shape.checkpointed_bytes < shape.activation_bytes
    else:
        assert shape.activation_bytes == pytest.approx(in_bytes(saved.values()), rel=0.15)


def test_zero_divides_what_its_stage_says(recipe: Recipe, plan: Plan) -> None:
    """Rajbhandari et al., arXiv 1910.02054, figure 1: (2 + 2 + K) with K the optimizer's."""
    whole, n = plan.stages[0], 4
    stages = make_plan(recipe, devices=n).stages
    for part, first in (("optimizer", 1), ("gradients", 2), ("weights", 3)):
        for stage in stages:
            full = getattr(whole, part)
            assert getattr(stage, part) == (full // n if stage.stage >= first else full)
    totals = [stage.total for stage in stages]
    assert totals == sorted(totals, reverse=True)
    assert len({stage.ema for stage in stages}) == 1


def test_devices_share_the_clips_of_a_step(write_recipe: Write) -> None:
    path = write_recipe({"16: {batch: 2}": "16: {batch: 8}"})
    recipe = load_recipe(path, overrides=["resolutions={16: {batch: 8}}"]).recipe
    alone, three, many = (make_plan(recipe, devices=n).stages[0].activations for n in (1, 3, 100))
    assert three == pytest.approx(alone * 3 / 8, abs=1)
    assert many == pytest.approx(alone / 8, abs=1)


def test_a_plan_shows_the_resolutions_that_the_space_can_take(write_recipe: Write) -> None:
    path = write_recipe({"16: {batch: 2}": "24: {batch: 2}"})
    plan = make_plan(load_recipe(path).recipe)
    assert [shape.resolution for shape in plan.shapes] == [24, 32, 64, 128, 256]
    assert [shape.batch is None for shape in plan.shapes] == [False, False, True, True, True]


def test_bf16_copies_the_weights_and_keeps_smaller_activations(recipe: Recipe, plan: Plan) -> None:
    changed = recipe.training.model_copy(update={"precision": "bf16"})
    bf16 = make_plan(recipe.model_copy(update={"training": changed})).stages[0]
    fp32 = plan.stages[0]
    assert bf16.weights == fp32.weights * 3 // 2
    assert bf16.activations < fp32.activations
    assert bf16.optimizer == fp32.optimizer


def test_what_auto_compares_is_the_total_of_one_device(recipe: Recipe, plan: Plan) -> None:
    assert predicted_bytes(recipe) == plan.stages[0].total


def test_the_papers_size_is_planned_in_seconds_and_little_memory() -> None:
    command = [sys.executable, "-m", "nasvid", "plan", str(SNED), "--scale", "paper", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    plan = json.loads(result.stdout)
    assert plan["largest_params"] > 500e6
    assert after.ru_maxrss < 1e6, "kilobytes"
    seconds = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert seconds < 5, "of processor time, which a busy machine stretches less"


def test_a_plan_is_json(recipe: Recipe, plan: Plan) -> None:
    read = json.loads(json.dumps(plan.to_json()))
    assert read["stages"][2]["total"] == plan.stages[2].total
    assert read["networks"] == recipe.make_space().size
