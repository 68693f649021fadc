"""Denoising steps of small models of all classes that ship, in each format.

    python benchmarks/formats.py                all, minutes
    python benchmarks/formats.py Wan Latte      those whose names contain it

Prints how far predictions of each file are from the model's, in proportion where they exceed 1, for
how many clips it was checked, and the time that tracing, writing and checking it took.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from nasvid.export.formats import STEPS, check_installed
from nasvid.export.step import Recorded, Step
from nasvid.export.traced import StepInfo, export_step
from nasvid.shapes import Domain, Resolution, VideoShape
from nasvid.space import SpaceSection

AT = Resolution.square(16)
SHAPE = VideoShape.square(16, frames=4, context_len=8)
HEADS = {"num_attention_heads": [2]}
SPACES: dict[str, dict[str, Any]] = {
    "elastic_unet": {
        "widths": [[16], [32]],
        "blocks_per_level": 1,
        "attention_levels": [1],
        "conditioning_width": 32,
        "head_dim": 8,
        "group_size": 4,
    },
    "UNet3DConditionModel": {
        "config": {
            "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
            "block_out_channels": [16, 32],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 8,
        },
        "choices": {"block_out_channels.0": [16]},
    },
    "WanTransformer3DModel": {
        "config": {"attention_head_dim": 12, "ffn_dim": 48, "num_layers": 2},
        "choices": HEADS,
    },
    "LTXVideoTransformer3DModel": {
        "config": {"attention_head_dim": 16, "num_layers": 2},
        "choices": HEADS,
    },
    "CogVideoXTransformer3DModel": {
        "config": {
            "attention_head_dim": 16,
            "sample_width": 16,
            "sample_height": 16,
            "max_text_seq_length": 8,
            "use_rotary_positional_embeddings": True,
            "num_layers": 2,
        },
        "choices": HEADS,
    },
    "HunyuanVideoTransformer3DModel": {
        "config": {
            "attention_head_dim": 12,
            "rope_axes_dim": [4, 4, 4],
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "pooled_projection_dim": 8,
        },
        "choices": HEADS,
    },
    "LatteTransformer3DModel": {
        "config": {
            "attention_head_dim": 16,
            "sample_size": 16,
            "patch_size": 2,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "video_length": 4,
            "num_layers": 1,
        },
        "choices": HEADS,
    },
}


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    check_installed(STEPS)
    domain, scheduler = Domain(channels=4, context_dim=16), DDIMScheduler()
    scheduler.set_timesteps(8)
    for name, options in SPACES.items():
        if names and not any(part in name for part in names):
            continue
        space = SpaceSection.model_validate({"name": name, **options}).make(domain)
        torch.manual_seed(0)
        step = Step(space, space.build(space.largest)).eval()
        info = StepInfo(
            id=space.largest.id,
            text={"name": "hash"},
            fps=8.0,
            scheduler=scheduler,
            inputs={AT: Recorded(SHAPE, domain, scheduler.timesteps, 8.0)},
        )
        for of in STEPS.values():
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                (written,) = export_step(step, of, info, Path(folder) / "step").values()
                clips = " and ".join(map(str, written.batches))
                seconds = time.process_time() - start
            print(f"{name:32}{of.name:6}{written.difference:8.1e}  {clips:8}{seconds:5.1f} s")


if __name__ == "__main__":
    main()
