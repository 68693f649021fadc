"""Every command on the README and on the pages of docs is run, from the folder of the project."""

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"```(?:sh|bash|console)\n(.*?)```", re.DOTALL)

SPACE = {
    "name": "elastic_unet",
    "widths": [[8, 16], [16, 32]],
    "blocks_per_level": 1,
    "attention_levels": [1],
    "conditioning_width": 32,
    "head_dim": 8,
    "group_size": 4,
    "patch_size": 2,
}
SHORT = (
    f"space={json.dumps(SPACE)}",
    "resolutions={16: {batch: 2}}",
    "data.frames=4",
    "data.workers=0",
    "training.steps=2",
    "training.device=cpu",
    "training.distillation=0",
    "search={strategy: {name: random}, budget: 4, clips: 4}",
    "front={subnets: 1, evaluators: [], sampling_steps: 2}",
)
"""What makes a run of a recipe that ships take seconds."""

SMALL = (
    "resolutions={48x80: {batch: 1}}",
    "training.steps=1",
    "importance=null",
    "search={strategy: {name: random}, budget: 1, clips: 1}",
    "front={subnets: 1, evaluators: [], prompts: [], sampling_steps: 2}",
)
"""The same of the recipe that is drafted."""

CHAINS = {
    "a run": [
        "nasvid run recipes/sned_pixel.yaml",
        "nasvid sample runs/demo ",
        "nasvid search runs/demo --set 'search.objectives=",
        "nasvid rank runs/demo ",
        "nasvid report runs/demo",
        "nasvid extract runs/demo --copy",
    ],
    "own videos": [
        "nasvid data pack VIDEOS ",
        "nasvid data inspect 'shards/train/*.tar'",
        "nasvid run recipes/sned_pixel.yaml --scale gpu ",
    ],
    "latency": [
        "nasvid latency build recipes/sned_pixel.yaml",
        "nasvid latency check pixel.json recipes/sned_pixel.yaml",
        "nasvid run recipes/sned_pixel.yaml --scale cpu --set 'search.ev",
    ],
    "bench": ["nasvid bench train recipes/sned_pixel.yaml"],
    "launch": [
        "nasvid launch recipes/sned_pixel.yaml --scale paper --devices-per-node 8 --set",
        "nasvid launch recipes/sned_pixel.yaml --scale paper --nodes 8 --devices-per-node 8 --slurm"
        " --set",
    ],
    "plan for 8": [
        "nasvid plan recipes/sned_pixel.yaml --scale paper --devices 8xH100 --engine "
        "deepspeed:zero=2 --set resolutions.64.batch=160",
        "nasvid plan recipes/sned_pixel.yaml --scale paper --devices 8xH100 --engine "
        "deepspeed:zero=2 --set resolutions.64.batch=160 --set",
    ],
    "a smaller pipeline": [
        "python examples/tiny_pipelines/make.py wan models/wan",
        "nasvid init models/wan ",
        "nasvid plan small.yaml ",
        "nasvid run small.yaml ",
        "nasvid finetune runs/small ID ",
        "nasvid sample runs/small ",
        "nasvid export runs/small ID ",
        "nasvid plan recipes/wan.yaml --scale gpu ",
    ],
    "plan for 1": ["nasvid plan recipes/sned_pixel.yaml --scale paper --devices H100 "],
    "plan for 64": ["nasvid plan recipes/sned_pixel.yaml --scale paper --devices 64xH100 "],
}
"""Commands that are run here, by how they begin, in order."""
MORE = {
    "nasvid run recipes/sned_pixel.yaml": ["--scale", "cpu", "--out", "runs/demo"],
    "nasvid run recipes/sned_pixel.yaml --scale gpu ": [],
    "nasvid rank ": ["--n", "2"],
    "nasvid latency build ": ["--rounds", "1"],
    "nasvid latency check ": ["--rounds", "1", "--n", "2"],
    "nasvid run recipes/sned_pixel.yaml --scale cpu --set 'search.ev": ["--out", "runs/fast"],
    "nasvid bench train ": ["--scale", "cpu", "--steps", "1"],
    "nasvid launch recipes/sned_pixel.yaml --scale paper --devices-per-node 8 --set": ["--print"],
    "nasvid finetune runs/small ID ": ["--set", "finetune.steps=1"],
    "nasvid plan recipes/wan.yaml ": [
        "--set=space.config.num_layers=4",
        "--set=space.choices.num_layers.keep=2",
    ],
}
"""What is added to some of them, besides SHORT to those that train."""
EVIDENCE = "tests/benchmarks/test_evidence.py"
ELSEWHERE = {
    "nasvid finetune runs/demo ID ": "tests/run/test_finetune.py",
    "nasvid export runs/demo ID --out exports --format ": "tests/export/test_formats.py",
    "nasvid extract runs/demo ID --format ": "tests/export/test_formats.py",
    "nasvid list engines": "tests/training/test_strangers_engine.py",
    "nasvid plan RECIPE ": "tests/training/test_strangers_engine.py",
    "nasvid bench train RECIPE ": "tests/training/test_strangers_engine.py",
    "nasvid launch RECIPE ": "tests/training/test_strangers_engine.py",
    "nasvid run examples/custom_evaluator/": "tests/examples/test_custom_evaluator.py",
    "nasvid run examples/custom_space/": "tests/examples/test_custom_space.py",
    "nasvid run recipes/sned_pixel.yaml --set search.strategy.name=nni": "tests/strategies/nni/",
    "nasvid run recipes/sned_pixel.yaml --scale cpu --set training.steps=4000": EVIDENCE,
    "nasvid rank runs/study ": EVIDENCE,
    "nasvid finetune runs/study ": EVIDENCE,
    "python benchmarks/evidence.py ": EVIDENCE,
    "nasvid run RECIPE --keep-ui": "tests/e2e/test_nni_ui.py",
    "nasvid nni view ": "tests/e2e/test_nni_ui.py",
    'eval "$(_NASVID_COMPLETE=': "tests/cli/",
}
NOT_HERE = {
    "make ": "sets up the environment that the tests are in",
    "pip install ": "the same",
    "sbatch ": "needs Slurm",
    "nasvid bench train recipes/wan.yaml --scale gpu": "needs a GPU and published weights",
    "torchrun --nproc-per-node=8 ": "needs eight devices",
    "nasvid launch recipes/wan.yaml --scale gpu --devices-per-node 8 --encode": "the same",
}
PRINTED = (
    "nasvid launch recipes/sned_pixel.yaml --scale paper --devices-per-node 8 --print",
    "nasvid launch recipes/sned_pixel.yaml --scale paper --nodes 8 --devices-per-node 8 --master ",
    "nasvid launch recipes/sned_pixel.yaml --scale paper --nodes 8 --devices-per-node 8 --slurm > ",
)
"""Commands whose output is the next block of the page."""


def blocks() -> list[str]:
    return [block for page in PAGES for block in BLOCK.findall(page.read_text())]


def lines_of(block: str) -> list[str]:
    """Return the commands of a block, each on one line, without comments; none of a script."""
    if block.startswith("#!"):
        return []
    joined = block.replace("\\\n", " ").splitlines()
    plain = (re.sub(r"\s+", " ", re.sub(r"\s#.*", "", line)).strip() for line in joined)
    return [line for line in plain if line]


COMMANDS = [line for block in blocks() for line in lines_of(block)]


def command(beginning: str) -> str:
    """Return the shortest command that begins so."""
    return min((line for line in COMMANDS if line.startswith(beginning)), key=len)


def test_every_command_is_run_here_or_elsewhere_or_it_is_said_why_not() -> None:
    here = {command(beginning) for chain in CHAINS.values() for beginning in chain}
    here |= {command(beginning) for beginning in PRINTED}
    for place in ELSEWHERE.values():
        assert (ROOT / place).exists()
    others = (*ELSEWHERE, *NOT_HERE)
    output = {line for block in blocks() for line in lines_of(block) if "-m nasvid run" in line}
    left = [line for line in COMMANDS if line not in here | output and not line.startswith(others)]
    assert left == []
    for beginning in others:
        assert any(line.startswith(beginning) for line in COMMANDS), beginning


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the project, with a folder of videos."""
    folder = tmp_path_factory.mktemp("project")
    for part in ("recipes", "examples/tiny_pipelines"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("tiny"))
    (folder / "VIDEOS").mkdir()
    for clip in index_shards("embedded:footage", Path(), "val").clips[:12]:
        (folder / "VIDEOS" / f"{clip.key}.mp4").write_bytes(read_video(clip))
        (folder / "VIDEOS" / f"{clip.key}.txt").write_text(clip.caption)
    return folder


Run = Callable[[str], str]


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")

    def run(line: str) -> str:
        words = shlex.split(line)
        if words[0] == "python":
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
            return line
        of = next((word for word in words if word.startswith("runs/")), "runs/demo")
        ids = [path.parent.name for path in project.glob(f"{of}/subnets/*/nasvid.json")]
        words = [ids[0] if word == "ID" else word for word in words]
        added = max((begin for begin in MORE if line.startswith(begin)), key=len, default="")
        words += MORE.get(added, [])
        if words[1] in ("run", "bench", "latency"):  # before what the command itself sets
            recipe = next(n for n, word in enumerate(words) if word.endswith(".yaml"))
            short = SMALL if words[recipe] == "small.yaml" else SHORT
            words[recipe + 1 : recipe + 1] = [word for each in short for word in ("--set", each)]
        result = CliRunner().invoke(main, words[1:], prog_name="nasvid")
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_commands_work_as_written(name: str, run: Run, project: Path) -> None:
    said = [run(command(beginning)) for beginning in CHAINS[name]]
    assert all(said)
    if name == "a run":
        assert (project / "three.webp").stat().st_size > 100
    if name == "a smaller pipeline":
        (index,) = project.glob("smaller/*/model_index.json")
        assert json.loads(index.read_text())["_class_name"] == "WanPipeline"
        assert not any(path.is_symlink() for path in index.parent.rglob("*"))
        assert (project / "cat.mp4").stat().st_size > 100
    if name == "own videos":
        captions = {file.read_text() for file in (project / "VIDEOS").glob("*.txt")}
        prompts = json.loads((project / "runs/own/samples/prompts.json").read_text())
        assert captions.issuperset(prompts)
        assert (project / "clips.png").exists()
        assert "Warning" not in said[-1]


@pytest.mark.parametrize("beginning", PRINTED)
def test_a_command_prints_what_the_page_shows(beginning: str, run: Run) -> None:
    line, found = command(beginning), blocks()
    (place,) = [n for n, block in enumerate(found) if line in lines_of(block)]
    assert run(line.partition(" > ")[0]) == found[place + 1]
