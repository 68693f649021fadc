"""One session a run: what stages share is made once, and each file is one stage's."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nasvid import plugins
from nasvid.cli.main import main
from nasvid.data import clips
from nasvid.run import components, pipeline
from nasvid.run.pipeline import RANK, SHARED, STAGES, Stage
from nasvid.training import checkpoint

pytestmark = pytest.mark.slow

TRAINING = {"steps": 4, "checkpoint_every": 2}
SETUPS = {
    "pixel": {"training": TRAINING | {"learning_rate": 1e-2, "lr_warmup": 0}},
    "latent": {
        "vae": {"path": "embedded"},
        "training": TRAINING | {"learning_rate": 1e-2, "lr_warmup": 0},
    },
}
"""Trained so that the front has more than one member."""
SECTIONS = {
    "data": {"frames": 4, "context_len": 6, "workers": 0},
    "resolutions": {32: {"batch": 2}},
    "front": {"subnets": 3, "prompts": ["the digit 3 moves left"], "sampling_steps": 2},
    "finetune": {"subnets": 2, "steps": 2, "teacher": {"task": 0.5, "outputs": 0.5, "features": 0}},
}


@dataclass
class Watched:
    """A run, how often it made what, and which files each of its stages made or changed."""

    folder: Path
    calls: Counter = field(default_factory=Counter)
    nets: list = field(default_factory=list)
    made: dict[str, set[str]] = field(default_factory=dict)
    changed: dict[str, set[str]] = field(default_factory=dict)

    def count(self, name: str, call: Callable, *arguments: Any, **named: Any) -> Any:
        self.calls[name] += 1
        return call(*arguments, **named)

    def file_digest(self, real: Callable, file: Any, name: str) -> Any:
        self.calls[f"hash of {Path(file.name).parent.name.lstrip('.')}/{Path(file.name).name}"] += 1
        return real(file, name)

    def load_ema(self, real: Callable, path: Path, net: Any) -> None:
        self.nets.append(net)
        real(path, net)

    def stored_index(self, real: Callable, path: Path, *arguments: Any, **named: Any) -> Any:
        return self.count(path.name, partial(real, path), *arguments, **named)

    def stage(self, stage: Stage) -> Stage:
        def do(session: Any) -> None:
            before = self.files()
            stage.do(session)
            after = self.files()
            self.made[stage.name] = after.keys() - before.keys()
            self.changed[stage.name] = {p for p in before if after.get(p) != before[p]}

        return replace(stage, do=do)

    def files(self) -> dict[str, bytes]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module", params=SETUPS)
def watched(request, tiny, few_clips, tmp_path_factory) -> Watched:
    folder = tmp_path_factory.mktemp("session")
    recipe = folder / "recipe.yaml"
    data = SECTIONS["data"] | few_clips(folder)
    recipe.write_text(tiny(**SECTIONS | {"data": data}, **SETUPS[request.param]))
    run = Watched(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in (
            ("spaces", "elastic_unet"),
            ("text_encoders", "hash"),
            ("objectives", "diffusion"),
        ):
            cls = plugins.load(kind, name)
            real = cls.__init__

            def init(
                self: Any, *a: Any, _real: Any = real, _kind: str = kind, **named: Any
            ) -> None:
                run.count(_kind, _real, self, *a, **named)

            patch.setattr(cls, "__init__", init)
        patch.setattr(components, "_vae", partial(run.count, "vae", components._vae))
        patch.setattr(clips, "stored_index", partial(run.stored_index, clips.stored_index))
        patch.setattr(checkpoint, "load_ema", partial(run.load_ema, checkpoint.load_ema))
        patch.setattr(hashlib, "file_digest", partial(run.file_digest, hashlib.file_digest))
        for name in ("BEFORE_SEARCH", "AFTER_SEARCH"):
            patch.setattr(pipeline, name, tuple(map(run.stage, getattr(pipeline, name))))
        patch.setattr(pipeline, "SEARCH", run.stage(pipeline.SEARCH))
        done = CliRunner().invoke(main, ["run", str(recipe), "--out", str(run.folder)])
    assert done.exit_code == 0, done.output
    run.calls["latent"] = request.param == "latent"
    return run


def test_what_stages_share_is_made_once(watched):
    calls = watched.calls
    for name in ("spaces", "text_encoders", "objectives", "train.index.jsonl", "val.index.jsonl"):
        assert calls[name] == 1, name
    assert calls["vae"] == calls["latent"]


def test_no_checkpoint_is_read_to_be_hashed(watched):
    """It is hashed while it is written."""
    assert (watched.folder / "checkpoints/step-00000004/weights.safetensors").exists()
    assert not [name for name in watched.calls if name.startswith("hash of step-")]


def test_ema_weights_are_loaded_once_into_each_model(watched):
    assert len(watched.nets) == 3
    assert len({id(net) for net in watched.nets}) == 3


def test_each_file_is_written_by_one_stage(watched):
    assert watched.made.keys() == {stage.name for stage in STAGES}
    for stage in STAGES:
        for path in watched.made[stage.name] | watched.changed[stage.name]:
            assert path.split("/")[0] in (*stage.writes, *SHARED), (stage.name, path)
        assert watched.changed[stage.name] <= {"events.jsonl"}, stage.name
    for stage in ("train", "search", "evaluate", "extract", "finetune", "samples", "report"):
        assert watched.made[stage] - {"events.jsonl"}, stage


def test_no_two_stages_share_a_folder_and_each_comes_after_what_it_needs():
    *others, last = STAGES
    stages = (*others, RANK, last)  # the report shows a ranking, if there is one
    owned = [name for stage in stages for name in (*stage.writes,)]
    assert len({*owned, *SHARED}) == len(owned) + len(SHARED)
    before: set[str] = set()
    for stage in stages:
        assert before.issuperset(stage.needs), stage.name
        before.add(stage.name)
