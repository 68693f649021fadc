"""Weights lie aligned in their file, so that a loaded model gives the bits of the saved one."""

import json
import struct

import pytest
import torch
from diffusers import UNet3DConditionModel
from safetensors.torch import load_file

from nasvid.host.aligned import ALIGNMENT, DTYPES, WEIGHTS, save_aligned, write_aligned


def offsets(path):
    blob = path.read_bytes()
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    return {k: 8 + length + v["data_offsets"][0] for k, v in header.items() if k[0] != "_"}


def test_what_is_written_is_read(tmp_path):
    tensors = {
        "odd": torch.randn(3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "strided": torch.randn(8, 8).t(),
        "äöü": torch.arange(16),
        **{str(dtype): torch.ones(32, dtype=dtype) for dtype in DTYPES},
    }
    write_aligned(tensors, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_matrices_begin_at_multiples(tmp_path):
    tensors = {"a.bias": torch.randn(5), "a.weight": torch.randn(5, 16), "b": torch.randn(48, 16)}
    write_aligned(tensors, tmp_path / "w.safetensors")
    at = offsets(tmp_path / "w.safetensors")
    assert at["a.weight"] % ALIGNMENT == at["b"] % ALIGNMENT == 0


@pytest.mark.parametrize("channels", [4, 3])
def test_a_loaded_model_gives_the_same_bits(tmp_path, channels):
    torch.manual_seed(0)
    model = UNet3DConditionModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(24, 40),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=12,
        attention_head_dim=8,
    ).eval()
    save_aligned(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", WEIGHTS]
    loaded = UNet3DConditionModel.from_pretrained(tmp_path).eval()
    x, context = torch.randn(1, channels, 3, 8, 8), torch.randn(1, 5, 12)
    with torch.no_grad():
        assert torch.equal(loaded(x, 7, context).sample, model(x, 7, context).sample)
