"""Checkpoints: what is read is what was written; damage is recognised."""

import json

import pytest
import torch

from nasvid.distributed.ranks import ALONE
from nasvid.errors import Damaged
from nasvid.recipe.sections import TrainingSection
from nasvid.testing.toy import ToySpace
from nasvid.training import checkpoint
from nasvid.training.checkpoint import Trained
from nasvid.training.ema import Ema
from nasvid.training.engines.torch import TorchEngine
from nasvid.training.progress import Progress
from nasvid.training.saving import Place, save


def trained(seed: int, steps: int = 3):
    torch.manual_seed(seed)
    space = ToySpace.of()
    net = space.build(space.largest)
    settings = TrainingSection(steps=1, learning_rate=1e-2)
    engine = TorchEngine(TorchEngine.Config()).start(net, settings, ALONE)
    ema = Ema([shard.tensor for shard in engine.shards], 0.9)
    for step in range(steps):
        for i, param in enumerate(net.parameters()):
            if step or i % 2:
                param.grad = torch.randn_like(param) * (torch.rand_like(param) < 0.7)
        engine.update(rate=1e-2, whole=False)
        ema.update(step)
    return Trained(net, engine, ema)


def same(a: Trained, b: Trained) -> bool:
    """Whether net, averages and optimizer state are equal, bit for bit."""
    pairs = [(a.net.state_dict(), b.net.state_dict())]
    pairs += [(dict(enumerate(a.ema.averages)), dict(enumerate(b.ema.averages)))]
    for p, q in zip(a.net.parameters(), b.net.parameters(), strict=True):
        pairs.append((a.engine.optimizer.state.get(p, {}), b.engine.optimizer.state.get(q, {})))
    return all(
        ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        for ours, theirs in pairs
    )


def test_what_is_read_is_what_was_written(tmp_path):
    written, other = trained(0), trained(1)
    progress = Progress(step=3, clips=24, updates=3, skipped=1, bad=0)
    save(Place(tmp_path, ALONE, 2), written, progress)
    newest, complaints = checkpoint.latest(tmp_path)
    assert newest is not None
    assert not complaints
    assert not same(written, other)
    assert checkpoint.load(newest, other) == progress
    assert same(written, other)
    checkpoint.load_ema(newest, other.net)
    for parameter, average in zip(other.net.parameters(), written.ema.averages, strict=True):
        assert torch.equal(parameter, average)


def test_only_the_last_ones_are_kept(tmp_path):
    parts = trained(0)
    for step in range(1, 5):
        save(Place(tmp_path, ALONE, 2), parts, Progress(step=step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    parts = trained(0)
    for step in (1, 2):
        save(Place(tmp_path, ALONE, 2), parts, Progress(step=step))
    weights = tmp_path / "step-00000002" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    newest, (complaint,) = checkpoint.latest(tmp_path)
    assert newest == tmp_path / "step-00000001"
    assert "step-00000002" in complaint
    assert "weights.safetensors" in complaint
    save(Place(tmp_path, ALONE, 2), parts, Progress(step=2))
    assert checkpoint.latest(tmp_path) == (tmp_path / "step-00000002", [])


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    parts = trained(0)
    (tmp_path / ".step-00000009").mkdir()
    assert checkpoint.latest(tmp_path) == (None, [])
    save(Place(tmp_path, ALONE, 2), parts, Progress(step=1))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    "name", ["../elsewhere", "/etc", "", ".", "step-1/..", "step-1\n", 1, None]
)
def test_the_note_of_the_best_names_a_checkpoint_and_nothing_else(tmp_path, name):
    save(Place(tmp_path, ALONE, 1), trained(0), Progress(step=1))
    (tmp_path / checkpoint.BEST).write_text(json.dumps({"checkpoint": name, "loss": 0}))
    with pytest.raises(Damaged, match=r"best\.json is damaged \(.* is not a checkpoint's name"):
        checkpoint.best_of(tmp_path)
