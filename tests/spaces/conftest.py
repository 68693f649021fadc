"""Tiny models of the diffusers classes that ship as spaces."""

import pytest

from nasvid.shapes import Domain
from nasvid_spaces.diffusers_model import (
    CogVideoXSpace,
    HunyuanVideoSpace,
    LatteSpace,
    LTXSpace,
    UNet3DSpace,
    WanSpace,
)

DOMAIN = Domain(channels=3, context_dim=8)
TINY = {
    UNet3DSpace: {
        "config": {
            "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
            "block_out_channels": [8, 24],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        },
        "choices": {"block_out_channels.0": [4, 8], "block_out_channels.1": [12, 24]},
    },
    WanSpace: {
        "config": {
            "attention_head_dim": 12,
            "freq_dim": 16,
            "rope_max_seq_len": 32,
            "num_layers": 3,
        },
        "choices": {
            "num_attention_heads": [1, 2, 3],
            "ffn_dim": [12, 24],
            "num_layers": {"keep": 1},
        },
    },
    LTXSpace: {
        "config": {"attention_head_dim": 8, "num_layers": 3},
        "choices": {"num_attention_heads": [1, 2], "num_layers": {"keep": 1}},
    },
    CogVideoXSpace: {
        "config": {
            "attention_head_dim": 16,
            "time_embed_dim": 12,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 13,
            "max_text_seq_length": 3,
            "use_rotary_positional_embeddings": True,
            "num_layers": 2,
        },
        "choices": {"num_attention_heads": [1, 2], "num_layers": {"keep": 1}},
    },
    HunyuanVideoSpace: {
        "config": {
            "attention_head_dim": 12,
            "rope_axes_dim": [4, 4, 4],
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "pooled_projection_dim": 6,
        },
        "choices": {
            "num_attention_heads": [1, 2],
            "mlp_ratio": [2, 4],
            "num_layers": {"keep": 1},
            "num_single_layers": {"keep": 1},
        },
    },
    LatteSpace: {
        "config": {
            "attention_head_dim": 8,
            "sample_size": 8,
            "patch_size": 2,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "activation_fn": "geglu",
            "video_length": 4,
            "num_layers": 2,
        },
        "choices": {"num_attention_heads": [1, 2, 4], "num_layers": {"keep": 1}},
    },
}


@pytest.fixture(scope="session")
def tiny_space():
    """Make a tiny space of a class, with other settings or choices where given."""

    def make(cls, domain=DOMAIN, **changes):
        options = {key: {**TINY[cls][key], **changes.get(key, {})} for key in TINY[cls]}
        return cls(cls.Config.model_validate(options), domain)

    return make
