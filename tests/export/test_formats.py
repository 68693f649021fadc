"""Denoising steps in other formats: they predict what the model does, or are not written."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn

from nasvid.architecture import Choice
from nasvid.errors import UserError
from nasvid.export import formats
from nasvid.export.formats import INSTALL, STEPS
from nasvid.export.step import Recorded, Step
from nasvid.export.traced import StepInfo, Written, export_step
from nasvid.host.files import NotWritten
from nasvid.host.reading import check_sums
from nasvid.plugins.config import Config
from nasvid.plugins.needs import Need
from nasvid.shapes import Domain, Resolution, VideoShape
from nasvid.space import SearchSpace
from nasvid_spaces.diffusers_model import HunyuanVideoSpace, WanSpace
from tests.strangers import Stranger

pytestmark = pytest.mark.slow

EIGHT, WIDE = Resolution.square(8), Resolution(8, 16, 2)
SHAPES = {
    EIGHT: VideoShape.square(8, frames=4, context_len=3),
    WIDE: VideoShape(frames=2, height=8, width=16, context_len=3),
}
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


class Odd(nn.Module):
    """Does what exporters find difficult."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.ones(3, 1, 1, 1))

    def forward(self, sample, timestep, context, context_mask, fps):
        seen = context_mask.masked_fill(fps[:, None] > 1e3, False).float().mean(dim=1)
        told = seen * context.mean(dim=(1, 2)) + timestep.float() / 1e3 + fps
        x = sample * self.scale + told[:, None, None, None, None]
        if self.kind == "counts clips":
            return x + len(x)
        if self.kind == "looks at values" and bool(x.sum() > 0):
            return -x
        return x + torch.rand(1) if self.kind == "rolls dice" else x


class OddSpace(SearchSpace):
    def make_choices(self):
        return [Choice("kind", ("counts clips", "looks at values", "rolls dice", "plain"))]

    def build(self, arch):
        return Odd(arch["kind"])


ODD = OddSpace(Config(), Domain(channels=3, context_dim=8))


def exported(
    folder: Path,
    name: str,
    space: SearchSpace = ODD,
    arch: object = None,
    *,
    shapes: tuple[Resolution, ...] = (EIGHT,),
    flow: bool = False,
) -> dict[Resolution, Written]:
    torch.manual_seed(0)
    found = space.architecture({"kind": arch}) if arch else space.largest
    step = Step(space, space.build(found)).eval()
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler()
    scheduler.set_timesteps(8)
    info = StepInfo(
        id=found.id,
        text={"name": "hash", "dim": 8},
        fps=8.0,
        scheduler=scheduler,
        inputs={
            each: Recorded(SHAPES[each], space.domain, scheduler.timesteps, 8.0) for each in shapes
        },
    )
    return export_step(step, STEPS[name], info, folder)


def test_a_full_disk_is_one_message_and_ends_no_process(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=16k")
    with pytest.raises(NotWritten, match=r"/pt2 cannot be written: No space left on device"):
        exported(disk / "pt2", "pt2", arch="plain")
    assert not [*disk.iterdir()]


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (WanSpace, {"attention_head_dim": 12, "rope_max_seq_len": 32, "ffn_dim": 24}),
        (
            HunyuanVideoSpace,
            {
                "attention_head_dim": 12,
                "rope_axes_dim": [4, 4, 4],
                "num_single_layers": 1,
                "num_refiner_layers": 1,
                "pooled_projection_dim": 6,
            },
        ),
    ],
)
def test_a_stock_model_becomes_a_file_for_any_number_of_clips(tmp_path: Path, cls, config) -> None:
    options = {"config": config | {"num_layers": 1}, "choices": {"num_attention_heads": [1]}}
    space = cls(cls.Config.model_validate(options), Domain(channels=3, context_dim=8))
    assert exported(tmp_path / "step", "pt2", space) == {EIGHT: Written(0.0, (1, 2))}


def test_there_is_a_file_for_each_resolution_and_what_it_takes_is_written(tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "old").touch()
    exported(tmp_path / "step", "pt2", shapes=(EIGHT, WIDE), flow=True)
    check_sums(tmp_path / "step")
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
    assert {path.name for path in (tmp_path / "step").iterdir()} == {
        "8.pt2",
        "8x16x2.pt2",
        "README.md",
        "scheduler",
        "step.json",
        "sha256.json",
    }
    about = json.loads((tmp_path / "step" / "step.json").read_text())
    assert about["id"] == ODD.largest.id
    assert about["files"]["8x16x2.pt2"] == {
        "resolution": "8x16x2",
        "inputs": {
            "sample": {"dtype": "float32", "shape": ["batch", 3, 2, 8, 16]},
            "timestep": {"dtype": "float32", "shape": ["batch"]},
            "context": {"dtype": "float32", "shape": ["batch", 3, 8]},
            "context_mask": {"dtype": "bool", "shape": ["batch", 3]},
            "fps": {"dtype": "float32", "shape": ["batch"]},
        },
        "largest_difference": 0.0,
    }


def test_a_model_that_counts_its_clips_is_exported_for_two(tmp_path: Path) -> None:
    found = exported(tmp_path / "step", "pt2", arch="counts clips")
    assert found == {EIGHT: Written(0.0, (2,))}
    about = json.loads((tmp_path / "step" / "step.json").read_text())
    assert about["files"]["8.pt2"]["inputs"]["sample"]["shape"][0] == 2
    assert "for two clips of one shape" in (tmp_path / "step" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("looks at values", r"Odd at 4x8x8 cannot be exported to pt2: .*data-dependent.*; use"),
        ("rolls dice", r"8\.pt2 predicts something else than Odd: values differ by 0\.\d+ .*; use"),
    ],
)
def test_nothing_is_left_of_a_step_that_cannot_be_exported(
    tmp_path: Path, capfd, kind: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        exported(tmp_path / "step", "pt2", arch=kind)
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each format."""
    folder = tmp_path_factory.mktemp("formats")
    for name in STEPS:
        assert exported(folder / name, name)[EIGHT].difference < 1e-5
    return {name: folder / name for name in STEPS}


def test_onnx_files_are_of_the_stated_opset(folders: dict[str, Path]) -> None:
    import onnx

    model = onnx.load(folders["onnx"] / "8.onnx")
    about = json.loads((folders["onnx"] / "step.json").read_text())
    assert [each.version for each in model.opset_import if not each.domain] == [about["opset"]]
    assert f"of opset {about['opset']}" in (folders["onnx"] / "README.md").read_text()


def test_large_weights_have_a_file_of_their_own(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LARGEST_FILE", 0)
    assert exported(tmp_path / "two", "onnx")[EIGHT].difference < 1e-5
    check_sums(tmp_path / "two")
    assert (tmp_path / "two" / "8.onnx.data").exists()
    assert not (folders["onnx"] / "8.onnx.data").exists()


def test_what_a_format_needs_is_asked_for_before_anything_else(
    error_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = (Need("torch", INSTALL), Need("absent-package", INSTALL))
    monkeypatch.setattr(STEPS["onnx"], "needs", needs)
    assert error_of("export", "no-run", "abc", "--out", "x", "--format", "onnx") == (
        "--format onnx needs absent-package, which is not installed: pip install 'nasvid[onnx]'"
    )


def test_resolutions_are_not_for_whole_folders(error_of) -> None:
    message = error_of("extract", "no-run", "--at", "64")
    assert message.startswith("--at applies to --format pt2 and onnx")


def test_the_pages_code_and_the_cards_run_without_nasvid(
    tmp_path: Path, folders: dict[str, Path], stranger: Stranger
) -> None:
    parts = ["import os"]
    for folder, code in zip(folders.values(), python_in(PAGE), strict=True):
        parts += [f"os.chdir({str(folder)!r})", code, *python_in(folder / "README.md")]
    said = stranger.run("\n".join(parts), tmp_path).splitlines()
    one, two = "(1, 3, 4, 8, 8)", "(2, 3, 4, 8, 8)"
    shapes = [line for line in said if line.startswith("(")]
    assert shapes == [two, two, one, two], "the page's and the card's of each"


def python_in(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
