import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from nasvid.costs import dummy_input
from nasvid.host.cards import Devices
from nasvid.planning.memory import USABLE
from nasvid.planning.plan import Plan, fit, make_plan
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import EngineSection, Recipe
from nasvid.shapes import Resolution, VideoShape
from nasvid.training.optimizer import SparseAdamW
from nasvid.training.speed import forget_peak, peak_memory
from nasvid.training.teacher import watched
from tests.processes import Started, nasvid

Write = Callable[..., Path]
SNED = Path(__file__).parents[2] / "recipes" / "sned_pixel.yaml"


@pytest.fixture(scope="module")
def recipe(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(tiny())
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
    memory = plan.engine.memory
    assert memory.engine is not None
    assert memory.weights == memory.engine.ema == in_bytes(net.parameters())
    assert memory.gradients == in_bytes(p.grad for p in net.parameters() if p.grad is not None)
    assert memory.engine.optimizer == in_bytes(moments)


def test_ages_count_where_a_step_may_leave_weights_out(write_recipe: Write) -> None:
    path = write_recipe(more="sampler: {name: uniform}")
    plan = make_plan(load_recipe(path).recipe)
    assert plan.engine.resources is not None
    assert plan.engine.resources.optimizer == 3 * 4 * plan.largest_params


@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_are_those_that_a_real_forward_pass_saves(
    recipe: Recipe, checkpointed: bool
) -> None:
    training = recipe.training.model_copy(update={"gradient_checkpointing": checkpointed})
    plan = make_plan(recipe.model_copy(update={"training": training}))
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

    shape = recipe.shapes()[Resolution.square(16)]
    inputs = dummy_input(shape, space.domain, batch=batch, device="cpu")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        space.denoise(net, inputs)
    (shape,) = (shape for shape in plan.shapes if str(shape.resolution) == "16")
    assert shape.batch == shape.each == batch
    planned = shape.clip_bytes * batch
    if checkpointed:
        assert in_bytes(saved.values()) < planned
    else:
        assert planned == pytest.approx(in_bytes(saved.values()), rel=0.15)


def deepspeed(zero: int, *, offload: bool = False) -> EngineSection:
    section = {"name": "deepspeed", "zero": zero, "offload": offload}
    return EngineSection.model_validate(section)


def test_zero_divides_the_optimizers_state_and_the_averages(recipe: Recipe, plan: Plan) -> None:
    """What the engine's shards are: whole on each rank, or a part of one flat tensor."""
    whole, n = plan.engine.memory, 4
    assert whole.engine is not None
    for zero in (0, 1, 2):
        memory = make_plan(recipe, Devices(n), deepspeed(zero)).engine.memory
        assert (memory.weights, memory.gradients) == (whole.weights, whole.gradients)
        parts = n if zero else 1
        assert memory.engine is not None
        assert memory.engine.ema == whole.engine.ema // parts
        own_copy = whole.weights // n if zero else 0
        assert memory.engine.optimizer == pytest.approx(
            whole.engine.optimizer // parts + own_copy, abs=4
        )


def test_offload_moves_the_divided_state_from_gpus_to_their_host(recipe: Recipe) -> None:
    gpus = Devices(4, memory=80 * 10**9)
    here, moved = (
        make_plan(recipe, gpus, deepspeed(2, offload=offload)).engine.resources
        for offload in (False, True)
    )
    assert here is not None
    assert moved is not None
    assert (moved.optimizer, moved.ema) == (0, 0)
    assert moved.host > here.optimizer + here.ema
    assert here.host == 0


def test_the_engine_planned_for_comes_first_and_the_others_beside_it(recipe: Recipe) -> None:
    plan = make_plan(recipe, Devices(2), deepspeed(1))
    shown = [each.name for each in plan.engines]
    assert shown[0] == "deepspeed zero 1"
    assert {"torch", "deepspeed zero 0", "deepspeed zero 2", "deepspeed zero 2 offload"} < {*shown}
    assert len(shown) == len({*shown})
    assert len(make_plan(recipe).engines) == 1


def test_devices_share_the_clips_of_a_step(write_recipe: Write) -> None:
    path = write_recipe({"16: {batch: 2}": "16: {batch: 8}"})
    sets = ["resolutions={16: {batch: 8}}", "training.precision=fp32"]
    recipe = load_recipe(path, overrides=sets).recipe
    alone, three, many = (
        make_plan(recipe, Devices(n)).engine.memory.activations for n in (1, 3, 100)
    )
    assert three == pytest.approx(alone * 3 / 8, abs=1)
    assert many == pytest.approx(alone / 8, abs=1)


def test_activations_are_those_of_one_backward_pass(write_recipe: Write) -> None:
    path = write_recipe({"16: {batch: 2}": "16: {batch: 8, micro_batch: 3}"})
    recipe = load_recipe(path, overrides=["resolutions.32.batch=1"]).recipe
    (shape,) = (shape for shape in make_plan(recipe).shapes if str(shape.resolution) == "16")
    assert (shape.batch, shape.each) == (8, 3)
    (shape,) = (
        shape for shape in make_plan(recipe, Devices(4)).shapes if str(shape.resolution) == "16"
    )
    assert shape.each == 2


def test_the_largest_batch_that_fits_fits_and_one_more_does_not(recipe: Recipe) -> None:
    least = make_plan(recipe, Devices(1, 10**9)).engine.memory
    for spare in (0.5e6, 60e6):
        devices = Devices(1, int(((least.always or 0) + spare) / USABLE))
        plan = make_plan(recipe, devices)
        (shape,) = (shape for shape in plan.shapes if str(shape.resolution) == "16")
        assert shape.most is not None
        memory = plan.engine.memory
        fits = [
            (memory.always or 0) + clips * shape.clip_bytes <= USABLE * (devices.memory or 0)
            for clips in (shape.most, shape.most + 1)
        ]
        assert fits == [True, False]


def test_a_device_too_small_for_the_weights_fits_no_clip(recipe: Recipe) -> None:
    plan = make_plan(recipe, Devices(1, 10**5))
    assert {shape.most for shape in plan.shapes} == {0}
    assert plan.engine.fits is False


def test_traffic_is_that_of_rings(recipe: Recipe, plan: Plan) -> None:
    """A sum of N bytes on R devices: each sends 2 N (R-1)/R; gathering N bytes: N (R-1)/R."""
    size, n = 4 * plan.largest_params, 4
    for zero, ways in ((0, 2), (1, 3), (2, 3)):
        resources = make_plan(recipe, Devices(n), deepspeed(zero)).engine.resources
        assert resources is not None
        assert resources.sent == pytest.approx(ways * size * (n - 1) / n, abs=4)
    assert plan.engine.resources is not None
    assert plan.engine.resources.sent == 0


def test_times_follow_from_peak_utilization_and_bandwidth(write_recipe: Write) -> None:
    """A step that trains only the largest: 6 operations a MAC, on the device with most clips."""
    path = write_recipe({"16: {batch: 2}": "16: {batch: 3}"}, more="sampler: {name: sandwich}")
    sets = ["resolutions={16: {batch: 3}}", "training.precision=fp32"]
    recipe = load_recipe(path, overrides=sets).recipe
    devices = Devices(2, fp32=1e12, bandwidth=1e9)
    half, full = (make_plan(recipe, devices, utilization=u).speeds[0] for u in (0.5, 1.0))
    assert full.flops == pytest.approx(half.flops)
    assert (full.compute, half.compute) == (
        pytest.approx(full.flops * 2 / 3 / 1e12),
        pytest.approx(full.flops * 2 / 3 / 5e11),
    )
    assert full.send == pytest.approx((full.sent or 0) / 1e9)
    assert full.seconds == pytest.approx((full.compute or 0) + (full.send or 0))
    assert full.videos_per_second == pytest.approx(3 / (full.seconds or 0))
    space = recipe.make_space()
    macs = [
        space.cost(arch, "macs", recipe.shape(Resolution.square(16)))
        for arch in (space.smallest, space.largest)
    ]
    assert 6 * 3 * sum(macs) < full.flops < 6 * 3 * (macs[0] + 3 * macs[1])


def test_without_a_peak_there_is_no_time(recipe: Recipe) -> None:
    plan = make_plan(recipe, Devices(2, memory=10**9))
    assert plan.seconds is None
    assert {each.seconds for each in plan.speeds} == {None}
    alone = make_plan(recipe, Devices(1, fp32=1e12))
    assert alone.seconds is not None, "one device sends nothing"


def test_a_plan_shows_the_resolutions_that_the_space_can_take(write_recipe: Write) -> None:
    path = write_recipe({"16: {batch: 2}": "24: {batch: 2}"})
    plan = make_plan(load_recipe(path).recipe)
    assert [str(shape.resolution) for shape in plan.shapes] == ["24", "32", "64", "128", "256"]
    assert [shape.batch is None for shape in plan.shapes] == [False, False, True, True, True]
    path = write_recipe({"16: {batch: 2}": "16x32: {batch: 2}"})
    plan = make_plan(load_recipe(path).recipe)
    assert [str(shape.resolution) for shape in plan.shapes] == ["16x32", "32"], "not all squares"


def test_bf16_copies_the_weights_and_keeps_smaller_activations(recipe: Recipe, plan: Plan) -> None:
    changed = recipe.training.model_copy(update={"precision": "bf16"})
    bf16 = make_plan(recipe.model_copy(update={"training": changed}))
    assert bf16.precision == "bf16"
    kept = [max(s.clip_bytes * (s.each or 0) for s in each.shapes) for each in (bf16, plan)]
    assert kept[0] < kept[1]
    copies = bf16.engine.memory.activations - kept[0]
    assert copies == pytest.approx(bf16.engine.memory.weights / 2, abs=1)
    assert bf16.engine.memory.always == plan.engine.memory.always


def test_copies_of_a_checkpoint_are_in_the_hosts_memory(recipe: Recipe, plan: Plan) -> None:
    """On a CPU, the same; there are none if training waits for all checkpoints."""
    often = recipe.training.model_copy(update={"checkpoint_every": 1})
    often_best = often.model_copy(update={"keep_best": True})
    gpus = Devices(4, memory=80 * 10**9)
    none, copied, best = (
        make_plan(recipe.model_copy(update={"training": each})).engine.memory
        for each in (recipe.training, often, often_best)
    )
    assert none.staging == best.staging == 0
    assert copied.staging == 4 * none.weights
    assert (copied.total or 0) - (none.total or 0) == copied.staging
    there = recipe.model_copy(update={"training": often})
    whole, parted = (make_plan(there, gpus, deepspeed(zero)).engine.memory for zero in (0, 2))
    assert whole.staging == copied.staging
    assert parted.staging == none.weights + (copied.staging - none.weights) // 4
    assert parted.total == make_plan(recipe, gpus, deepspeed(2)).engine.memory.total


def test_what_auto_compares_is_the_total_of_one_device(recipe: Recipe, plan: Plan) -> None:
    _, why = fit(recipe)
    assert f"about {(plan.engine.memory.total or 0) / 1e9:.2g} GB" in why


def measured(*words: object) -> None:
    """Call the command line; print seconds of processor time and bytes that it takes."""
    device = torch.device("cpu")
    forget_peak(device)
    before = peak_memory(device)
    try:
        nasvid(*words)
    finally:
        print(f"\n{time.process_time()} {peak_memory(device) - before}")


@pytest.mark.slow
def test_the_papers_size_is_planned_in_seconds_and_little_memory(tmp_path: Path) -> None:
    words = ("plan", SNED, "--scale", "paper", "--json")
    process = Started(tmp_path / "said", measured, *words)
    assert process.wait() == 0, process.said
    *planned, numbers = process.said.splitlines()
    assert json.loads("".join(planned))["largest_params"] > 500e6
    seconds, peak = map(float, numbers.split())
    assert peak < 0.5e9
    assert seconds < 9, "of processor time: 2 where nothing else runs"


def test_a_plan_is_json(recipe: Recipe, plan: Plan) -> None:
    read = json.loads(json.dumps(plan.to_json()))
    assert read["engines"][0]["total"] == plan.engine.memory.total
    assert read["networks"] == recipe.make_space().size


def test_groups_of_devices_share_their_own_resolutions_clips(write_recipe: Write) -> None:
    path = write_recipe({"16: {batch: 2}": "16: {batch: 8}"})
    sets = ["training.resolution_groups=2", "training.precision=fp32"]
    recipe = load_recipe(path, overrides=sets).recipe
    devices = Devices(4, fp32=1e12, bandwidth=1e9)
    plan = make_plan(recipe, devices)
    assert plan.sharing == 2
    assert [shape.each for shape in plan.shapes if str(shape.resolution) == "16"] == [4]
    times = [each.seconds or 0 for each in plan.speeds]
    slowest, quickest = max(times), min(times)
    assert plan.seconds == pytest.approx(recipe.training.steps * (3 * slowest + quickest) / 4)


def test_a_teacher_is_planned_with_what_a_step_keeps_of_it(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    training = {"steps": 2, "precision": "fp32", "teacher": {"model": "a/b", "features": 0}}
    recipe.write_text(tiny(training=training))
    plain = make_plan(load_recipe(recipe, overrides=["training.teacher=null"]).recipe)
    outputs = make_plan(load_recipe(recipe).recipe)
    features = make_plan(load_recipe(recipe, overrides=["training.teacher.features=1"]).recipe)
    assert plain.engine.memory.teacher == 0
    assert outputs.engine.memory.teacher == plain.engine.memory.weights
    space = load_recipe(recipe).recipe.make_space()
    model = space.build(space.largest)
    for shape in features.shapes:
        if shape.batch is None:
            continue
        clip = dummy_input(
            load_recipe(recipe).recipe.shape(shape.resolution), space.domain, device="cpu"
        )
        with watched(model, space.feature_points(space.largest)) as found:
            space.denoise(model, clip)
        assert shape.state_bytes == sum(state.nbytes for state in found.values())
    kept = max(shape.state_bytes * (shape.each or 0) for shape in features.shapes)
    assert features.engine.memory.teacher == outputs.engine.memory.teacher + kept
    assert (
        features.engine.memory.least == plain.engine.memory.least + features.engine.memory.teacher
    )
    assert outputs.speeds[0].flops > plain.speeds[0].flops


def test_a_resolution_has_its_own_height_width_and_frames(write_recipe: Write) -> None:
    sets = ["resolutions={32x16x1: {batch: 16}, 16x32x8: {batch: auto}}"]
    recipe = load_recipe(write_recipe(), overrides=sets).recipe
    plan, space = make_plan(recipe), recipe.make_space()
    found = {str(shape.resolution): shape for shape in plan.shapes}
    for name, (height, width, frames) in {"32x16x1": (32, 16, 1), "16x32x8": (16, 32, 8)}.items():
        shape = VideoShape(height=height, width=width, frames=frames, context_len=8)
        assert found[name].largest_macs == space.cost(space.largest, "macs", shape)
    assert found["32x16x1"].batch == 16
    assert found["16x32x8"].batch == 16 * found["32x16x1"].largest_macs // (
        found["16x32x8"].largest_macs
    )
    plain = plan.to_json()
    assert [each["resolution"] for each in plain["speeds"]] == ["32x16x1", "16x32x8"]
    assert {each["resolution"] for each in plain["shapes"]} == {"32x16x1", "16x32x8"}
