"""SparseAdamW: what is inactive rests bit for bit; what is active moves as AdamW moves it."""

import pytest
import torch

from nasvid.slices import Segments, TensorSlice
from nasvid.training.optimizer import SparseAdamW

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}


def gradient(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_whole_steps_equal_torch_adamw_bit_for_bit():
    start = gradient((7, 5), 0)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    a, b = SparseAdamW([ours], **SETTINGS), torch.optim.AdamW([theirs], **SETTINGS)
    for seed in range(1, 20):
        ours.grad = gradient((7, 5), seed)
        theirs.grad = ours.grad.clone()
        a.set(whole=True)
        a.step()
        b.step()
    assert torch.equal(ours, theirs)


def test_inactive_elements_and_their_state_rest_bit_for_bit():
    param = torch.nn.Parameter(gradient((8, 6), 0))
    optimizer = SparseAdamW([param], **SETTINGS)
    for seed in range(1, 30):
        rows = (seed * 3) % 8 + 1
        param.grad = torch.zeros(8, 6)
        param.grad[:rows, :4] = gradient((rows, 4), seed)
        state = optimizer.state[param]
        ages = state.get("age", torch.zeros(()))
        before = [param.detach().clone(), ages.expand(8, 6).clone()]
        before += [state[key].clone() for key in ("exp_avg", "exp_avg_sq") if key in state]
        optimizer.step()
        after = [param.detach(), state["age"].expand(8, 6)]
        after += [state["exp_avg"], state["exp_avg_sq"]]
        inactive = param.grad == 0
        assert inactive.any()
        for old, new in zip(before, after, strict=False):
            assert torch.equal(old[inactive].float(), new[inactive].float())
        assert (param.detach() != before[0])[~inactive].all()


def test_active_elements_move_as_adamw_on_the_extracted_slice():
    full = torch.nn.Parameter(gradient((8, 6), 0))
    part = torch.nn.Parameter(full.detach()[:5, :4].clone())
    a, b = SparseAdamW([full], **SETTINGS), torch.optim.AdamW([part], **SETTINGS)
    for seed in range(1, 40):
        part.grad = gradient((5, 4), seed)
        full.grad = torch.zeros(8, 6)
        full.grad[:5, :4] = part.grad
        a.step()
        b.step()
        assert torch.equal(full.detach()[:5, :4], part.detach())


def test_bias_corrections_end_where_they_are_one():
    full, part = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))
    settings = SETTINGS | {"betas": (0.5, 0.6)}
    a, b = SparseAdamW([full], **settings), torch.optim.AdamW([part], **settings)
    for seed in range(200):
        part.grad = gradient((1,), seed)
        full.grad = torch.cat([part.grad, torch.zeros(1)])
        a.step()
        b.step()
    assert torch.equal(full.detach()[:1], part.detach())


def test_a_late_element_starts_with_an_adamw_first_step():
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = SparseAdamW([param], lr=1e-2, weight_decay=0.0)
    for _ in range(50):
        param.grad = torch.tensor([1.0, 0.0])
        optimizer.step()
    param.grad = torch.tensor([1.0, 0.3])
    optimizer.step()
    assert param[1].item() == pytest.approx(1 - 1e-2, abs=1e-6)


def test_whole_step_after_partial_ones_moves_elements_of_zero_gradient_too():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = SparseAdamW([param], **SETTINGS)
    param.grad = torch.tensor([1.0, 1.0, 0.0])
    optimizer.step()
    assert param[2].item() == 1.0
    param.grad = torch.tensor([1.0, 0.0, 0.0])
    optimizer.set(whole=True)
    optimizer.step()
    assert param[1].item() < 1.0 - 1e-2
    assert param[2].item() == pytest.approx(1 - 1e-3)
    assert optimizer.state[param]["age"].tolist() == [2, 2, 1]


def test_a_parameter_without_gradient_has_no_state():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = SparseAdamW([used, unused], **SETTINGS)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert unused not in optimizer.state


def test_knowing_where_gradients_lie_changes_no_bit(monkeypatch):
    monkeypatch.setattr("nasvid.training.optimizer.HOST_CHUNK", 64)
    known, unknown = (torch.nn.Parameter(gradient((24, 20, 3), 0)) for _ in range(2))
    a, b = (SparseAdamW([each], **SETTINGS) for each in (known, unknown))
    for seed in range(1, 30):
        rows = Segments((0, 1 + seed * 5 % 11), (12, 13 + seed * 7 % 11))
        where = TensorSlice((rows, Segments((0, 1 + seed % 20)), Segments((0, 3))))
        known.grad = torch.zeros_like(known)
        part = gradient(tuple(dim.length for dim in where.dims), seed)
        where.add_into(known.grad, part.where(part.abs() > 0.1 * (seed % 2), 0))
        unknown.grad = known.grad.clone()
        whole = seed % 10 == 0
        a.set(whole=whole)
        b.set(whole=whole)
        norms = a.clipped_step(20.0, {known: where}), b.clipped_step(20.0)
        assert norms[0] == norms[1]
        for mine, its in zip(
            (known, *a.state[known].values()), (unknown, *b.state[unknown].values()), strict=True
        ):
            assert torch.equal(mine, its)
