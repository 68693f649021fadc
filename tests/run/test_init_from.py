"""The supernet's start from an existing model, evaluated before any training."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from nasvid.host import display
from nasvid.preflight import load_recipe
from nasvid.report import forms
from nasvid.run.folder import begin
from nasvid.run.init_from import evaluate_start
from nasvid.run.session import Session

SIZES = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 16, "num_layers": 2}
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 16,
    "freq_dim": 16,
    "patch_size": (1, 2, 2),
}


def test_the_progress_of_evaluating_the_start_is_shown(
    tmp_path: Path,
    tiny: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    torch.manual_seed(0)
    WanTransformer3DModel(**SIZES, **CONFIG).save_pretrained(tmp_path / "wan")
    shards = Path(__file__).parents[2] / "nasvid/data/embedded/val/digits-000.tar"
    (tmp_path / "recipe.yaml").write_text(
        tiny(
            space={"name": "WanTransformer3DModel", "choices": {"num_layers": [1, 2]}},
            supernet={"init_from": "wan"},
            resolutions={16: {"batch": 2}},
            data={"train": str(shards), "val": str(shards), "frames": 4, "context_len": 8},
            search={"strategy": {"name": "random"}, "budget": 8, "clips": 2},
        )
    )
    loaded = load_recipe(tmp_path / "recipe.yaml")
    session = Session(begin(tmp_path / "run", loaded), loaded)
    monkeypatch.setattr(display, "PLAIN_EVERY", -1.0)
    evaluate_start(session, is_new=True)
    start = json.loads((tmp_path / "run/train/start.json").read_text())
    assert forms.start(start) == start
    assert [len(cost["subnets"]) for cost in start["costs"]] == [1, 1], "there are only two"
    total = len(start["orders"]) * sum(len(cost["subnets"]) for cost in start["costs"])
    shown = re.findall(rf"^start: (\d+)/{total} .* subnets/s", capsys.readouterr().out, re.M)
    assert shown == [str(number) for number in range(1, total)]
