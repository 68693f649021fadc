"""Gradients of slices: what is kept from one step to the next is cleared where it was filled."""

import random

import torch
from torch import nn

from nasvid.gradients import add_gradient, keep_gradient, take_kept
from nasvid.slices import Segments, TensorSlice


def corner(rows: int, columns: int) -> TensorSlice:
    return TensorSlice((Segments((0, rows)), Segments((0, columns))))


def give(full: nn.Parameter, where: TensorSlice) -> torch.Tensor:
    """Add a random gradient of a slice; return it."""
    part = nn.Parameter(where.gather(full.detach()))
    part.grad = torch.randn_like(part)
    given = part.grad.clone()
    add_gradient(full, part, where)
    assert part.grad is None
    return given


def test_memory_is_kept_and_what_was_filled_is_cleared(rng: random.Random):
    full = nn.Parameter(torch.zeros(8, 6))
    memory = set()
    for _ in range(30):
        expected, filled = torch.zeros(8, 6), []
        for _ in range(rng.randint(1, 3)):
            apart = TensorSlice((Segments((0, 2), (5, rng.randint(6, 8))), Segments((0, 4))))
            where = rng.choice([corner(rng.randint(1, 8), rng.randint(1, 6)), apart])
            where.add_into(expected, give(full, where))
            filled.append(where)
        assert torch.equal(full.grad, expected)
        memory.add(full.grad.data_ptr())
        keep_gradient(full, filled)
        assert full.grad is None
    assert len(memory) == 1


def test_what_is_kept_is_dropped_when_the_parameter_has_another_gradient():
    full = nn.Parameter(torch.zeros(4, 4))
    for meanwhile in (lambda: setattr(full, "grad", torch.ones(4, 4)), lambda: full.data.add_(0)):
        give(full, corner(2, 2))
        keep_gradient(full, [corner(2, 2)])
        meanwhile()
        before = torch.zeros(4, 4) if full.grad is None else full.grad.clone()
        given = give(full, corner(1, 4))
        before[:1] += given
        assert torch.equal(full.grad, before)
        assert take_kept(full) is None
        full.grad = None
    give(full, corner(2, 2))
    keep_gradient(full, [corner(2, 2)])
    full.data = full.data.double()
    given = give(full, corner(1, 1))
    assert full.grad.dtype == torch.float64
    assert full.grad.sum() == given.sum()


def test_a_shared_parameters_hooks_run_for_its_slices():
    full, seen = nn.Parameter(torch.zeros(4, 4)), []
    full.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    given = give(full, corner(2, 4))
    assert torch.equal(seen[0][:2], given)
