import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet3DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from nasvid import plugins
from nasvid.architecture import Choice
from nasvid.errors import UserError
from nasvid.export.subnet import SubnetInfo, export_subnet, load_exported, read_info, subfolder
from nasvid.plugins.config import Config
from nasvid.shapes import Domain, Resolution
from nasvid.space import SearchSpace
from tests.strangers import Stranger

torch.set_num_threads(1)


class PlainConfig(Config):
    kernel: int = 1


class PlainSpace(SearchSpace[PlainConfig]):
    """A space of bare modules, with a buffer to carry along."""

    def make_choices(self):
        return [Choice("mix", (False, True)), Choice("mix.width", (2, 4), requires="mix")]

    def build(self, arch):
        width = arch["mix.width"] if arch["mix"] else 1
        layers = [nn.Conv3d(self.domain.channels, width, self.config.kernel), nn.BatchNorm3d(width)]
        return nn.Sequential(*layers, nn.Conv3d(width, self.domain.channels, 1))


class StockSpace(SearchSpace):
    """A space of diffusers' own video UNet."""

    def make_choices(self):
        return [Choice("level.0.width", (8, 16))]

    def build(self, arch):
        return UNet3DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock3D",),
            up_block_types=("UpBlock3D",),
            block_out_channels=(arch["level.0.width"],),
            layers_per_block=1,
            cross_attention_dim=self.domain.context_dim,
            attention_head_dim=8,
            norm_num_groups=4,
            in_channels=3,
            out_channels=3,
        )


plugins.register("spaces", "export_plain")(PlainSpace)
plugins.register("spaces", "export_stock")(StockSpace)


def info_of(space: SearchSpace, section: dict) -> SubnetInfo:
    return SubnetInfo(
        arch=space.largest,
        space=section,
        domain=space.domain,
        text={"name": "hash", "dim": 8},
        frames=4,
        fps=8.0,
        resolutions=(Resolution.square(8), Resolution.square(16)),
        context_len=5,
        metrics={"params": 1234.0, "loss": 0.5, "loss@8": 0.375, "loss@16": 0.625, "macs@8": 9e6},
    )


@pytest.fixture
def plain(tmp_path: Path) -> tuple[nn.Module, SubnetInfo, Path]:
    space = PlainSpace(PlainSpace.Config(kernel=3), Domain(context_dim=8))
    info = info_of(space, {"name": "export_plain", "kernel": 3})
    model = space.build(info.arch).eval()
    nn.init.normal_(model.get_submodule("1").get_buffer("running_mean"))
    return model, info, export_subnet(model, DDIMScheduler(), info, tmp_path / info.arch.id)


def test_a_plain_module_comes_back_bit_for_bit(plain) -> None:
    model, _, folder = plain
    video = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_exported(folder)(video), model(video))


def test_what_is_said_of_a_subnet_comes_back(plain) -> None:
    _, info, folder = plain
    assert read_info(folder) == info
    content = json.loads((folder / "nasvid.json").read_text())
    assert content["id"] == info.arch.id
    assert content["arch"] == dict(info.arch)
    config = json.loads((folder / "denoiser" / "config.json").read_text())
    assert config["space"] == {"name": "export_plain", "kernel": 3}


def test_the_scheduler_comes_back(tmp_path: Path, plain) -> None:
    model, info, _ = plain
    scheduler = DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    export_subnet(model, scheduler, info, tmp_path / "out")
    read = DDIMScheduler.from_pretrained(str(tmp_path / "out"), subfolder="scheduler")
    assert read.config["prediction_type"] == "v_prediction"
    assert read.config["timestep_spacing"] == "trailing"


@pytest.mark.slow
def test_a_model_of_diffusers_is_loaded_by_the_code_on_its_card(
    tmp_path: Path, stranger: Stranger
) -> None:
    space = StockSpace(Config(), Domain(context_dim=8))
    info = info_of(space, {"name": "export_stock"})
    model = space.build(info.arch).eval()
    folder = export_subnet(model, DDIMScheduler(), info, tmp_path / "subnet")
    assert sorted(p.name for p in (folder / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    inputs = {
        "sample": torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        "timestep": torch.tensor(3),
        "encoder_hidden_states": torch.ones(1, 5, 8),
    }
    torch.save(inputs, tmp_path / "inputs.pt")
    call = "model(**torch.load(IN, weights_only=True)).sample"
    stranger.run(of_card(folder, tmp_path, call), folder)
    output = torch.load(tmp_path / "output.pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(output, model(**inputs).sample)
        assert torch.equal(load_exported(folder)(**inputs).sample, output)


def of_card(folder: Path, files: Path, call: str) -> str:
    """Return the card's Python, followed by a call whose value is saved."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    return f"""
import torch
{code}
IN = {str(files / "inputs.pt")!r}
assert scheduler.config.num_train_timesteps == 1000
for weight in model.parameters():  # a mapped file is unaligned, which kernels round differently
    weight.data = weight.data.clone()
with torch.no_grad():
    torch.save({call}, {str(files / "output.pt")!r})
"""


def test_the_card_shows_metrics_by_resolution_and_the_architecture(plain) -> None:
    card = (plain[2] / "README.md").read_text()
    assert "| metric | overall | 8x8 | 16x16 |" in card
    assert "| loss | 0.5 | 0.375 | 0.625 |" in card
    assert "| macs |  | 9,000,000 |  |" in card
    assert "- `mix`: on, width 4" in card
    assert f"# Video diffusion model {plain[1].arch.id}" in card


def test_exporting_again_replaces_the_folder_and_leaves_nothing_else(plain) -> None:
    model, info, folder = plain
    (folder / "old").write_text("")
    with torch.no_grad():
        model.get_submodule("2").get_parameter("bias").add_(1)
    export_subnet(model, DDIMScheduler(), info, folder)
    assert not (folder / "old").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert torch.equal(load_exported(folder).state_dict()["2.bias"], model.state_dict()["2.bias"])


def test_an_export_that_fails_leaves_the_old_folder(plain) -> None:
    model, info, folder = plain
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    class Broken:
        def save_pretrained(self, path: str) -> None:
            raise OSError(f"no space left for {path}")

    with pytest.raises(OSError, match="no space left"):
        export_subnet(model, Broken(), info, folder)  # pyright: ignore[reportArgumentType]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_weights_of_another_architecture_are_refused(plain) -> None:
    _, info, folder = plain
    weights = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    save_file({name: t[:1].clone() for name, t in load_file(weights).items() if t.ndim}, weights)
    with pytest.raises(UserError, match=f"does not hold the weights of {info.arch.id}"):
        load_exported(folder)


def test_a_truncated_file_is_refused(plain) -> None:
    weights = plain[2] / "denoiser" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(UserError, match="does not hold the weights"):
        load_exported(plain[2])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("arch"), "has no 'arch'"),
        (lambda c: c["space"].update(name="export_plan"), "did you mean 'export_plain'"),
        (lambda c: c["arch"].update({"mix.width": 3}), "3 is not one of 2, 4"),
        (lambda c: c.update(arch=7), "is damaged"),
    ],
)
def test_a_spoilt_description_is_refused_by_name(plain, edit, message: str) -> None:
    path = plain[2] / "nasvid.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_exported(plain[2])


def test_a_folder_without_a_subnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an exported model"):
        read_info(tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("VideoUNet", "unet"), ("LatteTransformer3D", "transformer"), ("Sequential", "denoiser")],
)
def test_the_folder_is_named_as_pipelines_expect(name: str, folder: str) -> None:
    assert subfolder(type(name, (nn.Module,), {})()) == folder
