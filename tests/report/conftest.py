"""A run folder as `nasvid run` leaves it, made up: real files, real small videos."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from nasvid.architecture import Architecture, Choice
from nasvid.export.video import write_mp4
from nasvid.layout import Layout, Part
from nasvid.report import write_report
from nasvid.search.agreement import agreement
from nasvid.search.pareto import choose, nondominated

RESOLUTIONS = (16, 32)
PROMPTS = ("a red ball rolls to the right", "two blue rings drift apart", "a green ball bounces")
LAYERS = ("spatial_conv", "temporal_conv", "self_attention", "cross_attention")


def unet_choices() -> list[Choice]:
    """The choices of a UNet of three levels, named as the elastic UNet names them."""
    choices = [Choice(f"level.{n}.width", (16 << n, 24 << n, 32 << n)) for n in range(3)]
    blocks = [f"{side}.{n}.{i}" for side in ("down", "up") for n in range(3) for i in range(2)]
    for block in [*blocks[:6], "middle", *blocks[6:]]:
        attention = (*LAYERS[2:], "temporal_attention") if block[-3:-2] != "0" else ()
        free = LAYERS[int(block.endswith("0")) : 2] + attention
        choices += [Choice(f"{block}.{layer}", (False, True)) for layer in free]
        gate = f"{block}.spatial_conv" if "spatial_conv" in free else None
        choices.append(Choice(f"{block}.hidden", (0.5, 1.0), gate))
    return choices


def unet_layout(choices: list[Choice]) -> Layout:
    """The U of `unet_choices`."""
    parts = []
    for part in Layout.by_prefix(choices).parts:
        side, *path = part.name.split(".")
        side = {"level": "across"}.get(side, side)
        level = int(path[0]) if path else None
        parts.append(Part(part.name, part.labels, side, level))  # pyright: ignore[reportArgumentType]
    return Layout(tuple(parts))


def draw(choices: list[Choice], size: float, rng: np.random.Generator) -> Architecture:
    """Draw an architecture; `size` in [0, 1] leads from the smallest to the largest."""
    options = {}
    for choice in choices:
        if choice.requires is not None and not options[choice.requires]:
            options[choice.name] = choice.options[0]
            continue
        place = size * len(choice.options) + rng.normal() * 0.5 * math.sin(math.pi * size)
        index = min(max(int(place), 0), len(choice.options) - 1)
        options[choice.name] = choice.options[index]
    return Architecture(options)


DECLARED = {
    "params": {"unit": "parameters", "goal": "minimise", "per_resolution": False},
    "macs": {"unit": "multiply-accumulates", "goal": "minimise", "per_resolution": True},
    "loss": {
        "unit": "weighted mean squared error",
        "goal": "minimise",
        "per_resolution": True,
        "reference": 1.0,
    },
    "temporal_consistency": {
        "unit": "cosine similarity",
        "goal": "maximise",
        "per_resolution": True,
    },
    "latency_ms": {"unit": "ms", "goal": "minimise", "per_resolution": True, "measured": True},
}


def measure(arch: Architecture, rng: np.random.Generator) -> dict[str, float]:
    """Invent metrics that look like those of a trained supernet."""
    widths = sum(float(arch[f"level.{n}.width"]) / (32 << n) for n in range(3)) / 3
    layers = sum(option is True for option in arch.values()) / 45
    params = int(2.1e6 * widths**2 * (0.25 + layers))
    metrics: dict[str, float] = {"params": params}
    for side in RESOLUTIONS:
        metrics[f"macs@{side}"] = int(params * side**2 * 4.2 * (0.9 + 0.2 * rng.random()))
        ease = 0.05 + 0.02 * (32 / side)
        metrics[f"loss@{side}"] = ease + 0.05 * (1 - widths * layers) ** 2 + 0.006 * rng.random()
        wobble = 0.02 * rng.random()
        metrics[f"temporal_consistency@{side}"] = 0.8 + 0.15 * widths * layers + wobble
    for name in ("macs", "loss", "temporal_consistency"):
        metrics[name] = sum(metrics[f"{name}@{side}"] for side in RESOLUTIONS) / len(RESOLUTIONS)
    return metrics


def ball(side: int, frames: int, noise: float, seed: int) -> np.ndarray:
    """A ball that crosses a shaded picture, `t h w c`; noise for a worse model."""
    rng = np.random.default_rng(seed)
    colour, drift = rng.integers(80, 255, 3), rng.uniform(0.3, 0.7)
    y, x = np.mgrid[0:side, 0:side] / side
    video = np.zeros((frames, side, side, 3))
    for t in range(frames):
        inside = np.hypot(x - (0.15 + 0.7 * t / frames), y - drift) < 0.17
        video[t] = np.where(inside[..., None], colour, np.stack([30 + 60 * y] * 3, -1))
    return np.clip(video + rng.normal(0, 90 * noise, video.shape), 0, 255).astype(np.uint8)


def write_lines(path: Path, lines: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_settings(folder: Path) -> None:
    recipe = {
        "name": "sned_pixel",
        "seed": 0,
        "data": {"train": "embedded", "frames": 8, "fps": 8.0},
        "resolutions": {side: {"weight": 1.0, "batch": 8} for side in RESOLUTIONS},
        "space": {"name": "elastic_unet", "widths": [[16, 24, 32], [32, 48, 64], [64, 96, 128]]},
        "training": {"steps": 400, "learning_rate": 3e-4},
        "search": {"strategy": {"name": "evolutionary"}, "budget": 160},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    environment = {
        "scale": "cpu",
        "command": ["nasvid", "run", "recipes/sned_pixel.yaml"],
        "python": "3.11.9",
        "platform": "Linux",
        "device": "cpu",
        "device_name": "x86_64",
        "threads": 2,
        "precision": "torch.float32",
        "packages": {"nasvid": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
    }
    (folder / "data").mkdir()
    for split, clips in (("train", 480), ("val", 64)):
        (folder / "data" / f"{split}.json").write_text(json.dumps({"clips": clips}))
    (folder / "environment.json").write_text(json.dumps(environment))


def write_training(folder: Path, steps: int) -> None:
    rng = np.random.default_rng(1)
    events: list[dict] = [{"event": "stage", "stage": "data", "status": "done", "seconds": 3.2}]
    for step in range(steps):
        side = RESOLUTIONS[int(rng.integers(len(RESOLUTIONS)))]
        floor = 0.06 + 0.9 * math.exp(-step / (steps * 0.12))
        scale = {"largest": 1.0, "random": 1.15, "smallest": 1.4}
        losses = {role: floor * k * math.exp(rng.normal() * 0.12) for role, k in scale.items()}
        bad = step in (37, 38)
        events.append(
            {
                "event": "step",
                "step": step,
                "resolution": side,
                "loss": None if bad else sum(losses.values()) / 3,
                "losses": {} if bad else losses,
                "learning_rate": 3e-4 * min(1, (step + 1) / 20) * (1 - 0.9 * step / steps),
                "grad_norm": None if bad else 0.4 + 2 * floor * rng.random(),
                "seconds": 0.8,
                "clips": 8,
                "skipped": bad,
            }
        )
    reasons = ["moov atom not found", "no frames", "moov atom not found", "caption is empty"]
    for key, reason in enumerate(reasons):
        events.append({"event": "skip", "key": str(key), "shard": "a.tar", "reason": reason})
    ends = {"train": 372.0, "search": 61.5, "extract": 2.1, "evaluate": 48.0}
    for stage, seconds in ends.items():
        events.append({"event": "stage", "stage": stage, "status": "done", "seconds": seconds})
    write_lines(folder / "events.jsonl", [event | {"time": 1.76e9} for event in events])


def write_goals(folder: Path, objectives: Sequence[str], constraints: Sequence[str]) -> None:
    measured = ["params", "macs", *objectives]
    content = {
        "objectives": list(objectives),
        "constraints": list(constraints),
        "metrics": {name: DECLARED[name] for name in dict.fromkeys(measured)},
    }
    (folder / "search" / "goals.json").write_text(json.dumps(content))


def write_after(folder: Path, members: list[dict], metrics: Sequence[str]) -> None:
    """Write what `front.evaluators` measured of the members: latency, and these metrics."""
    found = {}
    for member in members:
        own = {f"latency_ms@{s}": member["metrics"][f"macs@{s}"] / 4e7 + 3 for s in RESOLUTIONS}
        for name in metrics:
            own |= {
                f"{name}@{side}": 0.9 + member["metrics"]["params"] / 1e8 for side in RESOLUTIONS
            }
        found[member["id"]] = own
    content = {
        "made_with": [],
        "declared": {name: DECLARED[name] for name in ("latency_ms", *metrics)},
        "metrics": found,
    }
    (folder / "evaluate").mkdir()
    (folder / "evaluate" / "metrics.json").write_text(json.dumps(content))


def write_search(
    folder: Path, choices: list[Choice], evaluated: int, subnets: int, objectives: Sequence[str]
) -> list[dict]:
    """Write what a search leaves; return the members."""
    (folder / "search").mkdir(exist_ok=True)
    write_goals(folder, objectives, ["params <= 9e8"])
    means = {str(side): 0.6 + side / 1000 for side in RESOLUTIONS}
    (folder / "search" / "mean_loss.json").write_text(json.dumps(means))
    rng = np.random.default_rng(2)
    sizes = [0.0, 1.0, *rng.random(evaluated - 2)]
    records = {}
    for size in sizes:
        arch = draw(choices, size, rng)
        metrics = {
            name: value
            for name, value in measure(arch, rng).items()
            if name.split("@")[0] in ("params", "macs", *objectives)
        }
        record = {"id": arch.id, "arch": dict(arch), "metrics": metrics}
        records[arch.id] = record | {"violation": 0.0, "seconds": 0.4}
    lines = list(records.values())
    write_lines(folder / "search" / "record.jsonl", lines)
    space = [{"name": c.name, "options": c.options, "requires": c.requires} for c in choices]
    (folder / "train").mkdir(exist_ok=True)
    described = {"choices": space, "layout": unet_layout(choices).to_json()}
    (folder / "train" / "space.json").write_text(json.dumps(described))
    fronts = {}
    for side in RESOLUTIONS:
        names = [
            f"{name}@{side}" if DECLARED[name]["per_resolution"] else name for name in objectives
        ]
        signs = [1 if DECLARED[name]["goal"] == "minimise" else -1 for name in objectives]
        points = np.array([[line["metrics"][name] for name in names] for line in lines]) * signs
        fronts[side] = [lines[i]["id"] for i in nondominated(points)]
    union = [line for line in lines if any(line["id"] in ids for ids in fronts.values())]
    picked = choose(np.array([line["metrics"]["macs"] for line in union]), subnets)
    members = [
        {
            "id": union[i]["id"],
            "arch": union[i]["arch"],
            "metrics": union[i]["metrics"],
            "resolutions": [side for side, ids in fronts.items() if union[i]["id"] in ids],
        }
        for i in picked
    ]
    content = {
        "hypervolume": {str(side): 0.9 - 1 / side for side in RESOLUTIONS},
        "fronts": {str(side): ids for side, ids in fronts.items()},
        "members": members,
    }
    (folder / "search" / "front.json").write_text(json.dumps(content))
    return members


def write_ranking(folder: Path, members: list[dict]) -> None:
    """Write what `nasvid rank` leaves, of the members."""
    rows = []
    for place, member in enumerate(members):
        alone = 0.1 + 0.03 / (1 + place)
        row = {key: member["metrics"][key] for key in ("params", "macs")}
        losses = {"inherited": {"loss": alone * (1.3 - place / 20)}, "alone": {"loss": alone}}
        rows.append({"id": member["id"], "arch": member["arch"], **row, **losses})
    columns = (
        [[row[key]["loss"] for row in rows] for key in ("inherited", "alone")],
        [[row[key] for row in rows] for key in ("params", "macs")],
    )
    (folder / "rank").mkdir()
    content = {
        "settings": {"steps": 400},
        "n": len(rows),
        "subnets": rows,
        "agreement": agreement(*(np.array(each) for part in columns for each in part), seed=0),
    }
    (folder / "rank" / "ranking.json").write_text(json.dumps(content))


def write_samples(folder: Path, members: list[dict]) -> None:
    (folder / "samples").mkdir()
    (folder / "samples" / "prompts.json").write_text(json.dumps(PROMPTS))
    for side in RESOLUTIONS:
        for index in range(len(PROMPTS)):
            for place, member in enumerate(members):
                noise = 0.5 * (1 - place / len(members)) ** 2
                video = ball(side, 8, noise, index)
                write_mp4(folder / "samples" / member["id"] / f"{side}-{index}.mp4", video, 8.0)
            real = ball(side, 8, 0.0, 100 + index)
            write_mp4(folder / "samples" / "real" / f"{side}-{index}.mp4", real, 8.0)
    for member in members:
        (folder / "subnets" / member["id"]).mkdir(parents=True)


def write_run(
    folder: Path,
    *,
    steps: int = 400,
    evaluated: int = 160,
    subnets: int = 4,
    objectives: Sequence[str] = ("loss", "macs"),
    after: Sequence[str] = (),
) -> Path:
    """Write a whole run into an empty folder."""
    folder.mkdir(parents=True)
    write_settings(folder)
    write_training(folder, steps)
    members = write_search(folder, unet_choices(), evaluated, subnets, objectives)
    write_after(folder, members, after)
    write_ranking(folder, members)
    write_samples(folder, members)
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every part, shared by the tests: read it, do not change it."""
    return write_run(tmp_path_factory.mktemp("runs") / "sned_pixel")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a run of some sizes, once."""
    return cache(lambda **sizes: write_run(tmp_path_factory.mktemp("written") / "run", **sizes))


@pytest.fixture
def make_run(written: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a run of its own for a test to change."""
    return lambda **sizes: shutil.copytree(written(**sizes), tmp_path / "run")


@pytest.fixture(scope="session")
def report(finished_run: Path) -> Path:
    """The page of the run with every part: read it, do not change it."""
    return write_report(finished_run)


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

DRAWN = """() => [...document.querySelectorAll(".plot")].every(
    plot => !plot.clientWidth || plot.querySelector("svg"))"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("the report is tested in a browser: install chromium so that it is on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS + QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def visit(browser: Browser) -> Iterator:
    """Return a function that opens a report; at the end, nothing was requested or complained."""
    complaints: list[str] = []

    def visit(report: Path, *, scheme: str = "light", width: int = 1280) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url[:80]))
        page.goto(report.as_uri())
        page.wait_for_function(DRAWN)
        return page

    yield visit
    assert [text for text in complaints if not text.startswith(("file://", "data:"))] == []
