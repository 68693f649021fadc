"""Engines on one process and on two: the same weights, frozen ones frozen, resumed by any other."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nasvid.preflight import load_recipe
from nasvid.run.folder import RunFolder
from nasvid.slices import TensorSlice
from nasvid.supernet import Supernet
from nasvid.training.planner import Planner
from tests.processes import nasvid

pytestmark = pytest.mark.slow

DEEPSPEED = "training.engine.name=deepspeed;training.engine.zero={}"
ENGINES = {
    "torch": "",
    "zero0": DEEPSPEED.format(0),
    "zero1": DEEPSPEED.format(1),
    "zero1-offload": DEEPSPEED.format(1) + ";training.engine.offload=true",
    "zero2": DEEPSPEED.format(2) + ";finetune={steps: 3, learning_rate: 1.0e-3, teacher: {}}",
    "zero2-offload": DEEPSPEED.format(2) + ";training.engine.offload=true",
}
RANKED = "sampler={name: warm_up, start: 0.97, end: 1.0}"
"""A supernet of which only the largest subnet is trained."""
SINGLE = "sampler={name: cost_uniform};training.distillation=0"
SHARES = f"{SINGLE};resolutions.16.batch=6"
IN_TURN = f"{SHARES};resolutions.16.micro_batch=3;resolutions.24.micro_batch=1"
SHORT = f"{SINGLE};resolutions={{16: {{batch: 1}}}};training.steps=4"
GROUPS = f"{SINGLE};training.resolution_groups=2"
MIXED = "training.resolution_groups=2;training.gradient_checkpointing=true"
MIXED += ";resolutions.16.micro_batch=1;resolutions.24.micro_batch=2;training.steps=3"
"""Each rank makes several backward passes, and not as many as the other."""
AFTER = "training.engine={name: torch, overlap: false}"
EVALUATED = "training.keep_best=true"
RESTS = "sampler={name: uniform};training.distillation=0;training.checkpoint_every=1"
RESTS += ";training.keep_checkpoints=9;training.steps=4;finetune=null"
"""Steps of one subnet each, and a checkpoint after each."""
BOTH = {**ENGINES, "ranked": RANKED, "groups": GROUPS}
ONE = {
    **BOTH,
    "shares": IN_TURN,
    **{half: f"{SHORT};training.precision={half}" for half in ("fp32", "fp16", "bf16")},
}
TWO = {
    **BOTH,
    "shares": SHARES,
    "groups-zero2": f"{DEEPSPEED.format(2)};{GROUPS}",
    "mixed": MIXED,
    "mixed-after": f"{MIXED};{AFTER}",
    "torch-after": AFTER,
    **{f"evaluated-{name}": f"{ENGINES[name]};{EVALUATED}" for name in ("torch", "zero2")},
    **{f"rests-{name}": f"{engine};{RESTS}" for name, engine in ENGINES.items()},
}
"""Runs on one process and on two ranks: name -> settings."""
TOLERANCE = 2e-5
"""Of a weight after 6 steps of 1e-3: two ranks add up their clips in another order than one."""

Train = Callable[..., str]


@pytest.fixture(scope="module")
def one(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs on one process, all made by the same."""
    folder = tmp_path_factory.mktemp("one")
    train(1, folder, *(f"{name}={settings}" for name, settings in ONE.items()))
    return folder


@pytest.fixture(scope="module")
def two(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs on two ranks."""
    folder = tmp_path_factory.mktemp("two")
    train(2, folder, *(f"{name}={settings}" for name, settings in TWO.items()))
    return folder


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(newest(run) / "weights.safetensors")


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The averages and the optimizer's state, `part/parameter`, put together from all ranks."""
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for path in checkpoint.glob("state-*.safetensors"):
        tensors = load_file(path)
        for key, tensor in tensors.items():
            name, _, start = key.rpartition("@")
            of = tensors[f"ema/{key.partition('/')[2]}"]
            pieces.setdefault(name, []).append((int(start), tensor.expand_as(of).double()))
    parts = {name: sorted(found, key=lambda piece: piece[0]) for name, found in pieces.items()}
    return {name: torch.cat([tensor for _, tensor in found]) for name, found in parts.items()}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def same_files(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in newest(a).iterdir())
    assert newest(a).name == newest(b).name
    return names == sorted(path.name for path in newest(b).iterdir()) and all(
        (newest(a) / name).read_bytes() == (newest(b) / name).read_bytes() for name in names
    )


def test_every_engine_on_two_ranks_ends_with_the_weights_of_one_process(one, two):
    reference = weights(one / "torch")
    before = load_file(newest(one / "torch").with_name("step-00000004") / "weights.safetensors")
    assert difference(reference, before) > 20 * TOLERANCE  # they do move
    for name in ENGINES:
        assert difference(weights(one / name), reference) < 2e-6, name
        assert difference(weights(two / name), reference) < TOLERANCE, name
        steps = [events(folder / name) for folder in (one, two)]
        for ours, theirs in zip(*steps, strict=True):
            assert ours["subnets"] == theirs["subnets"]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    sides = {event["resolution"] for event in events(one / "torch")}
    assert sides == {16, 24}
    assert any(event["clips"] % 2 for event in events(one / "torch"))  # shares differ


def events(run: Path, name: str = "step") -> list[dict]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def test_an_architecture_trained_alone_is_what_the_trainer_makes_of_it_alone(one, two):
    """On the run's clips and noise, and on two ranks as on one."""
    largest = {}
    for folder in (one, two):
        _, whole = ranking(folder)["subnets"]
        assert whole["alone"] == whole["inherited"]
        (kept,) = (folder / "ranked/rank/checkpoints").glob(f"{whole['id']}-6/*")
        supernets = newest(folder / "ranked")
        for name in ("weights.safetensors", "state-00000-of-00001.safetensors"):
            assert (kept / name).read_bytes() == (supernets / name).read_bytes()
        largest[folder] = load_file(kept / "weights.safetensors")
        steps, alone = (events(folder / "ranked", name) for name in ("step", "rank_step"))
        assert len(alone) == 2 * len(steps)
        for ours, theirs in zip(alone, 2 * steps, strict=True):
            for key in ("step", "resolution", "clips", "learning_rate"):
                assert ours[key] == theirs[key]
    assert difference(largest[one], largest[two]) < TOLERANCE
    for ours, theirs in zip(*(ranking(folder)["subnets"] for folder in (one, two)), strict=True):
        assert ours["id"] == theirs["id"]
        for key in ("inherited", "alone"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4)


def test_a_subnet_is_fine_tuned_on_all_ranks_with_the_engine_of_the_training(one, two):
    after = []
    for folder, parts in ((one, 1), (two, 2)):
        (kept,) = (folder / "zero2/finetune/checkpoints").glob("*/step-00000003")
        assert len([*kept.glob("state-*")]) == parts, "ZeRO 2 divides its state"
        (tuned,) = json.loads((folder / "zero2/finetune/finetuned.json").read_text())["subnets"]
        assert (folder / "zero2/finetune/subnets" / tuned["id"]).is_dir()
        assert tuned["after"] != tuned["before"]
        after.append(tuned["after"])
    assert after[0] == pytest.approx(after[1], rel=1e-3)


def ranking(folder: Path) -> dict:
    return json.loads((folder / "ranked/rank/ranking.json").read_text())


def test_the_state_is_divided_where_the_engine_says_so_and_is_the_same(one, two):
    whole = state(newest(one / "torch"))
    for name in ENGINES:
        files = sorted(path.name for path in newest(two / name).glob("state-*"))
        assert len(files) == (2 if name.startswith(("zero1", "zero2")) else 1)
        ours = state(newest(two / name))
        assert difference(ours, whole) < TOLERANCE
        for key in whole:
            if key.startswith("age/"):
                assert torch.equal(ours[key], whole[key]), key


def test_one_process_that_takes_the_shares_in_turn_ends_with_the_same_bits(one, two):
    assert {event["clips"] for event in events(two / "shares")} == {2, 6}
    assert difference(weights(one / "shares"), weights(two / "shares")) == 0.0


def test_sums_behind_the_last_backward_pass_have_the_bits_of_sums_after_it(two):
    for name in ("torch", "mixed"):
        assert same_files(two / name, two / f"{name}-after"), name
    assert difference(weights(two / "torch"), weights(two / "mixed")) > 0


def test_groups_of_ranks_train_at_resolutions_of_their_own(one, two):
    sides = [[g["resolution"] for g in e["groups"]] for e in events(two / "groups")]
    assert {(16, 24), (24, 16), (16, 16), (24, 24)} >= {tuple(each) for each in sides}
    assert [16, 24] in sides
    assert difference(weights(one / "groups"), weights(two / "groups")) == 0.0
    assert difference(weights(two / "groups-zero2"), weights(two / "groups")) < TOLERANCE
    for ours, theirs in zip(events(one / "groups"), events(two / "groups"), strict=True):
        assert ours["groups"] == theirs["groups"]


def test_what_a_step_does_not_use_rests_under_every_engine(two):
    for name in ENGINES:
        run = RunFolder(two / f"rests-{name}")
        loaded = load_recipe(run.recipe)
        planner, supernet = Planner.of(loaded.recipe, loaded.space), Supernet(loaded.space)
        rested = 0
        for step in (1, 3):
            (planned,) = planner.plan(step).subnets
            rested += rests(run, step, supernet.slices(planned.arch))
        assert rested > 10_000, name


def rests(run: RunFolder, step: int, slices: dict[str, TensorSlice]) -> int:
    """Check that a step left alone all that its subnet does not use; return how much that was."""
    before, after = (run.checkpoints / f"step-{n:08d}" for n in (step, step + 1))
    old, new = (load_file(path / "weights.safetensors") for path in (before, after))
    old_state, new_state = state(before), state(after)
    total, moved = 0, False
    for name, weight in old.items():
        inactive = torch.ones_like(weight)
        if name in slices:
            slices[name].add_into(inactive, -slices[name].gather(inactive))
        out = inactive.bool()
        total += int(out.sum())
        assert torch.equal(weight[out], new[name][out]), name
        moved |= not torch.equal(weight, new[name])
        for part in ("exp_avg", "exp_avg_sq", "age"):
            a, b = (s.get(f"{part}/{name}") for s in (old_state, new_state))
            a = torch.zeros_like(b) if a is None and b is not None else a
            if a is not None and b is not None:
                assert torch.equal(a[out.view(-1)], b[out.view(-1)]), f"{part} of {name}"
    assert moved
    return total


def back_to(folder: Path, target: Path, step: int) -> None:
    """Copy a run as it was when it had made some of its steps."""
    shutil.copytree(folder, target)
    for path in (target / "checkpoints").iterdir():
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)


ELSEWHERE = {  # where it started -> the engine that resumes, on the other number of ranks
    ("two", "zero2"): "torch",
    ("two", "torch"): "zero2",
    ("one", "zero1"): "zero2-offload",
    ("one", "torch"): "zero1",
}
SAME = ("torch", "zero0", "zero2-offload")


@pytest.fixture(scope="module")
def resumed(train: Train, one: Path, two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs after 4 steps, resumed by the same ranks and engine, and by others."""
    folder = tmp_path_factory.mktemp("resumed")
    named = {1: [], 2: [f"{name}={engine(name)}" for name in SAME]}
    for name in SAME:
        back_to(two / name, folder / name, 4)
    for (begun, name), other in ELSEWHERE.items():
        back_to((one if begun == "one" else two) / name, folder / f"{begun}-{name}", 4)
        named[2 if begun == "one" else 1] += [f"{begun}-{name}={engine(other)}"]
    for ranks, each in named.items():
        assert train(ranks, folder, *each).count("from step 4") == ranks * len(each)
    return folder


def engine(name: str) -> str:
    return ENGINES[name] or "training.engine.name=torch"


def test_a_run_is_resumed_by_the_same_ranks_and_engine_to_the_bit(two, resumed):
    for name in SAME:
        assert same_files(two / name, resumed / name), name


def test_a_run_is_resumed_on_other_ranks_and_by_another_engine(one, resumed):
    reference, whole = weights(one / "torch"), state(newest(one / "torch"))
    for ranks, name in ELSEWHERE:
        folder = resumed / f"{ranks}-{name}"
        assert difference(weights(folder), reference) < TOLERANCE, name
        assert difference(state(newest(folder)), whole) < TOLERANCE, name


def test_judging_checkpoints_leaves_training_as_it_is(two):
    for name in ("torch", "zero2"):
        run = two / f"evaluated-{name}"
        assert same_files(run, two / name), name
        best = json.loads((run / "checkpoints/best.json").read_text())
        judgements = events(run, "validation")
        assert [event["step"] for event in judgements] == [2, 4, 6]
        lowest = min(judgements, key=lambda event: event["loss"])
        assert best == {"checkpoint": f"step-{lowest['step']:08d}", "loss": lowest["loss"]}


def test_half_precision_trains_alike(one):
    reference = [event["loss"] for event in events(one / "fp32")]
    for name in ("fp16", "bf16"):
        found = events(one / name)
        assert [event["loss"] for event in found] == pytest.approx(reference, rel=0.02)
        assert not any(event["skipped"] for event in found)
        assert [event["loss"] for event in found] != reference


STEPS = 30
LONG = [f"training.steps={STEPS}", *SINGLE.split(";"), "front.subnets=1"]


def test_a_run_that_is_stopped_in_every_way_ends_with_the_same_bits(
    ranks, torchrun, ranks_recipe, train, tmp_path, rng
):
    """A rank is killed, all get SIGTERM, their launcher is killed; then nothing happens."""
    name, out = rng.choice(["torch", "zero2"]), tmp_path / "run"
    settings = [*LONG, *filter(None, ENGINES[name].split(";")), "finetune=null"]
    train(2, tmp_path, f"whole={';'.join(settings)}")
    run = ["run", ranks_recipe, "--out", out]
    run += [word for setting in settings for word in ("--set", setting)]
    seldom = [*run, "--set", "training.checkpoint_every=1000"]  # saved is what a signal saves

    killed = ranks(2, nasvid, *run)
    step = rng.randrange(3, 7)
    killed[0].wait_for(lambda: last_step(out) >= step)
    victim = rng.choice(killed)
    victim.kill()
    (other,) = (each for each in killed if each is not victim)
    assert other.wait() != 0
    assert "cannot continue" in other.said + logged_by_rank_1(out), other.said

    for whose, number in (("everybody", signal.SIGTERM), ("the launcher", signal.SIGKILL)):
        begun = last_step(out)
        process = torchrun("-m", "nasvid", *seldom)
        wait_for_step(out, begun + 3, process)
        started = [p for p in psutil.Process(process.pid).children() if "nasvid" in p.cmdline()]
        assert len(started) == 2
        if whose == "everybody":
            os.killpg(process.pid, number)  # as a scheduler does
        else:
            process.send_signal(number)
        _, alive = psutil.wait_procs(started, timeout=60)
        assert alive == []
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert said.count("Traceback") == (whose == "everybody"), said  # the launcher's own
        saved = int(newest(out).name.removeprefix("step-"))
        assert saved == last_step(out) + 1 < STEPS

    finished = ranks(2, nasvid, *seldom, "--set", "training.tensorboard=true")
    assert [each.wait() for each in finished] == [0, 0], finished[0].said
    assert f"from step {saved}" in finished[0].said
    assert same_files(out, tmp_path / "whole")
    assert finished[0].said.count("train:") == 1
    assert finished[1].said.count("train:") == 0  # it prints into its own file
    assert "train:" in logged_by_rank_1(out)
    assert (out / "report.html").exists()
    assert_tensorboard_has_the_steps(out, range(saved, STEPS))


def last_step(run: Path) -> int:
    log = run / "events.jsonl"
    text = log.read_text() if log.exists() else ""
    return int((re.findall(r'"event": "step", "step": (\d+)', text) or [-1])[-1])


def logged_by_rank_1(run: Path) -> str:
    return (run / "logs/rank-00001.log").read_text()


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while last_step(run) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_tensorboard_has_the_steps(out: Path, steps: range) -> None:
    found = EventAccumulator(str(out / "tensorboard")).Reload()
    logged = {event["step"]: event for event in events(out)}
    norms = {scalar.step: scalar.value for scalar in found.Scalars("training/grad_norm")}
    assert norms == pytest.approx({step: logged[step]["grad_norm"] for step in steps}, rel=1e-6)
    sides = {logged[step]["resolution"] for step in steps}
    names = {f"loss_at_{side}/random" for side in sides} | {
        "speed/videos_per_second",
        "memory/peak_bytes",
    }
    assert names <= set(found.Tags()["scalars"])


def test_a_rank_that_ends_at_once_ends_well(free_port):
    """With its interpreter, which a fork does not end."""
    script = [sys.executable, str(Path(__file__).with_name("end_in_haste.py"))]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}"}
    each = [os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    started = [subprocess.Popen(script, env=env) for env in each]
    assert [process.wait(120) for process in started] == [0, 0]
