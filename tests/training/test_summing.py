"""Sums over the ranks begin in the last backward pass: what is sent when, on a single rank."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nasvid.distributed.ranks import Ranks
from nasvid.errors import UserError
from nasvid.training.engines import summing
from nasvid.training.engines.summing import GradientSum


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    begun = not dist.is_initialized()
    if begun:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if begun:
        dist.destroy_process_group()


class Pass:
    """A chain of layers, of which each is a bucket, and how many were unsent as each arrived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, order: list[int]) -> None:
        monkeypatch.setattr(summing, "BUCKET", 1)
        self.layers = nn.ParameterList([nn.Parameter(torch.ones(3)) for _ in order])
        self.order, self.unsent = order, []
        self.sum = GradientSum(dict(self.layers.named_parameters()), Ranks())
        for layer in self.layers:
            layer.register_post_accumulate_grad_hook(lambda _: self.unsent.append(self.sum.unsent))

    def run(self, awaited: list[int] | None = None, *, used: list[int] | None = None) -> list[int]:
        """Run the last pass; return what was unsent after each gradient."""
        self.unsent.clear()
        self.sum.begin([self.layers[i] for i in (self.order if awaited is None else awaited)])
        begun = self.sum.unsent
        x = torch.ones(3)
        for i in self.order if used is None else used:
            x = (x * self.layers[i]).sin()
        x.sum().backward()
        unsent = [begun, *self.unsent]
        self.sum.finish()
        assert self.sum.unsent == 0
        return unsent


def test_gradients_are_sent_as_they_become_final(monkeypatch):
    assert Pass(monkeypatch, [0, 1, 2, 3]).run() == [4, 3, 2, 1, 0]


def test_the_order_is_learnt_where_layers_do_not_run_in_the_order_of_their_parameters(monkeypatch):
    made = Pass(monkeypatch, [2, 0, 3, 1])
    first, second = made.run(), made.run()
    assert sum(first) > sum(second)
    assert second == [4, 3, 2, 1, 0]


def test_what_the_last_subnet_does_not_use_is_sent_before_it(monkeypatch):
    made = Pass(monkeypatch, [0, 1, 2, 3])
    made.layers[3].grad = torch.ones(3)
    assert made.run([0, 1], used=[0, 1]) == [2, 1, 0]


def test_a_parameter_that_gets_no_gradient_delays_only_the_first_pass(monkeypatch):
    made = Pass(monkeypatch, [0, 1, 2])
    assert made.run(used=[0, 1]) == [3, 3, 3]
    assert made.run(used=[0, 1]) == [3, 2, 1]


def test_a_gradient_that_changes_after_it_was_sent_is_an_error(monkeypatch):
    made = Pass(monkeypatch, [0, 1])
    made.sum.begin([])
    with pytest.raises(UserError, match=r"gradient of 0 has changed after it was sent"):
        (made.layers[0] ** 2).sum().backward()


def test_without_a_beginning_everything_is_sent_at_the_end(monkeypatch):
    made = Pass(monkeypatch, [0, 1])
    (made.layers[0] * made.layers[1]).sum().backward()
    made.sum.finish()
    assert torch.equal(made.layers[0].grad, torch.ones(3))
