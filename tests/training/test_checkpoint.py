"""Checkpoints: what is read is what was written; damage is recognised."""

import torch

from nasvid.testing.toy import ToySpace
from nasvid.training import checkpoint
from nasvid.training.checkpoint import Progress
from nasvid.training.ema import Ema
from nasvid.training.optimizer import SparseAdamW


def trained(seed: int, steps: int = 3):
    torch.manual_seed(seed)
    space = ToySpace.of()
    net = space.build(space.largest)
    optimizer, ema = SparseAdamW(net.parameters(), lr=1e-2), Ema(net, 0.9)
    for step in range(steps):
        for i, param in enumerate(net.parameters()):
            if step or i % 2:
                param.grad = torch.randn_like(param) * (torch.rand_like(param) < 0.7)
        optimizer.step()
        ema.update(net, step)
    return net, ema, optimizer


def same(a, b) -> bool:
    """Whether net, average and optimizer state are equal, bit for bit."""
    (net_a, ema_a, opt_a), (net_b, ema_b, opt_b) = a, b
    for (name, p), q in zip(net_a.named_parameters(), net_b.parameters(), strict=True):
        if not torch.equal(p, q) or not torch.equal(ema_a.weights[name], ema_b.weights[name]):
            return False
        if any(not torch.equal(v, opt_b.state[q][k]) for k, v in opt_a.state[p].items()):
            return False
    return True


def test_what_is_read_is_what_was_written(tmp_path):
    written, other = trained(0), trained(1)
    progress = Progress(step=3, clips=24, updates=3, skipped=1, bad=0)
    checkpoint.save(tmp_path, *written, progress, keep=2)
    newest, complaints = checkpoint.latest(tmp_path)
    assert newest is not None
    assert not complaints
    assert not same(written, other)
    assert checkpoint.load(newest, *other) == progress
    assert same(written, other)
    assert torch.equal(other[0].head.weight, written[0].head.weight)
    checkpoint.load_ema(newest, other[0])
    assert torch.equal(other[0].head.weight, written[1].weights["head.weight"])


def test_only_the_last_ones_are_kept(tmp_path):
    parts = trained(0)
    for step in range(1, 5):
        checkpoint.save(tmp_path, *parts, Progress(step=step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    parts = trained(0)
    for step in (1, 2):
        checkpoint.save(tmp_path, *parts, Progress(step=step), keep=2)
    weights = tmp_path / "step-00000002" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    newest, (complaint,) = checkpoint.latest(tmp_path)
    assert newest == tmp_path / "step-00000001"
    assert "step-00000002" in complaint
    assert "weights.safetensors" in complaint
    checkpoint.save(tmp_path, *parts, Progress(step=2), keep=2)
    assert checkpoint.latest(tmp_path) == (tmp_path / "step-00000002", [])


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    parts = trained(0)
    (tmp_path / ".step-00000009.77").mkdir()
    assert checkpoint.latest(tmp_path) == (None, [])
    checkpoint.save(tmp_path, *parts, Progress(step=1), keep=2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
