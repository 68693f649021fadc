"""The feature extractors that ship: their rules, and what they see."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from nasvid.data.digits import digit_clips
from nasvid.errors import UserError
from nasvid.feature_extractor import FeatureSection
from nasvid.metrics.features.i3d import I3d
from nasvid.metrics.features.proxy import Proxy
from nasvid.metrics.features.videomae import MEAN, STD, VideoMae
from nasvid.metrics.frechet import Moments, frechet_distance
from nasvid.testing import FeatureExtractorConformance


class TestProxy(FeatureExtractorConformance):
    extractor = Proxy


class Logits(torch.nn.Module):
    """Called as the published file is, and as quick to tell whether it was."""

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = True,
    ) -> torch.Tensor:
        assert rescale
        assert resize
        assert return_features
        assert x.dtype == torch.uint8
        means = x.float().mean(dim=(3, 4)).mean(dim=2)
        return means.repeat(1, 134)[:, :400] / 255


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.script(Logits()).save(str(path))
    return path


class TestI3d(FeatureExtractorConformance):
    extractor = I3d

    @pytest.fixture(autouse=True)
    def file(self, i3d: Path) -> None:
        self.options = {"path": str(i3d)}


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        tubelet_size=2,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    folder = tmp_path_factory.mktemp("videomae")
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    return folder


class TestVideoMae(FeatureExtractorConformance):
    extractor = VideoMae

    @pytest.fixture(autouse=True)
    def folder(self, videomae: Path) -> None:
        self.options = {"path": str(videomae)}


def test_i3d_sees_pixels_from_0_to_255(i3d: Path) -> None:
    extractor = FeatureSection.model_validate({"name": "i3d", "path": str(i3d)}).make()
    video = torch.full((1, 3, 16, 8, 8), -1.0)
    video[:, 1], video[:, 2] = 0.0, 1.0
    assert extractor.features(video)[0, :3].tolist() == pytest.approx([0, 128 / 255, 1])


def test_an_i3d_file_is_known_by_its_content(i3d: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(i3d.read_bytes())
    same, other = I3d(I3d.Config(path=str(i3d))), I3d(I3d.Config(path=str(tmp_path / "other.pt")))
    assert same.identity == other.identity
    with (tmp_path / "other.pt").open("ab") as file:
        file.write(b"\0")
    assert I3d(I3d.Config(path=str(tmp_path / "other.pt"))).identity != same.identity


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"<html>", "is not a TorchScript file"),
        (b"PK", "is incomplete; download it again"),
    ],
)
def test_a_file_that_is_no_i3d_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "i3d.pt"
    if content is not None:
        path.write_bytes(content)
    extractor = I3d(I3d.Config(path=str(path)))
    with pytest.raises(UserError, match=said):
        extractor.features(torch.zeros(1, 3, 16, 8, 8))


def test_videomae_gives_the_models_own_hidden_states(videomae: Path) -> None:
    video = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    features = VideoMae(VideoMae.Config(path=str(videomae))).features(video)
    model = VideoMAEModel.from_pretrained(videomae).eval()
    mean, std = (torch.tensor(each)[:, None, None, None] for each in (MEAN, STD))
    pixels = (((video + 1) / 2 - mean) / std).transpose(1, 2)[:, :4]
    with torch.no_grad():
        wanted = model(pixel_values=pixels).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "attention" in name and "weight" in name))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), '"vit"'),
        (_without_a_tensor, "1 tensor missing"),
    ],
)
def test_a_folder_that_is_no_videomae_is_refused(
    spoil: Callable[[Path], object], said: str, videomae: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(videomae, folder)
    spoil(folder)
    with pytest.raises(UserError, match=said):
        VideoMae(VideoMae.Config(path=str(folder))).check_ready()


@pytest.mark.slow
def test_the_proxy_sees_what_spoils_a_video() -> None:
    def clips(seed: int) -> torch.Tensor:
        frames = [torch.from_numpy(clip.frames) for clip in digit_clips("val", 1, seed)]
        video = torch.stack(frames).float().div(127.5).sub(1).permute(0, 4, 1, 2, 3)[:, :, ::2]
        return torch.nn.functional.avg_pool3d(video, (1, 4, 4))

    def moments(video: torch.Tensor) -> Moments:
        return Moments.of(Proxy(Proxy.Config()).features(video))

    real, clean = moments(clips(1)), clips(2)
    least = frechet_distance(real, moments(clean))
    generator = torch.Generator().manual_seed(0)
    spoiled = {
        "noise": (clean + 0.3 * torch.randn(clean.shape, generator=generator)).clamp(-1, 1),
        "blur": torch.nn.functional.avg_pool3d(clean, (1, 3, 3), 1, (0, 1, 1)),
        "order": clean[:, :, torch.randperm(8, generator=generator)],
        "still": clean[:, :, :1].expand_as(clean),
        "frames held twice": clean[:, :, [0, 0, 2, 2, 4, 4, 6, 6]],
        "two at once": 0.7 * clean + 0.3 * clean.roll(1, 0),
        "few kinds": clean[torch.arange(len(clean)) // 8 * 8],
    }
    for what, video in spoiled.items():
        assert frechet_distance(real, moments(video)) > 5 * least, what
