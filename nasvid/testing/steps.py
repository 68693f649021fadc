"""One training step of a space's models: inputs and gradients."""

from __future__ import annotations

import torch
from torch import nn

from nasvid.costs import dummy_input
from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.slices import TensorSlice
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.testing.same import assert_same


def noisy_clips(space: SearchSpace, shape: VideoShape) -> DenoiserInput:
    """Return two noisy clips: all tokens of the first are real, and only one of the second.

    A text encoder's mask has at least one real token, even of the empty caption, and its padding
    is zero.
    """
    zeros = dummy_input(shape, space.domain, batch=2, device="cpu")
    generator = torch.Generator().manual_seed(0)
    mask = zeros.context_mask.clone()
    mask[1, 1:] = False
    return DenoiserInput(
        sample=torch.randn(zeros.sample.shape, generator=generator),
        timestep=torch.tensor([10, 700]),
        context=torch.randn(zeros.context.shape, generator=generator) * mask[..., None],
        context_mask=mask,
        fps=torch.tensor([8.0, 24.0]),
    )


def loss(
    space: SearchSpace, model: nn.Module, inputs: DenoiserInput
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a model's prediction and a scalar to differentiate; dropout is deterministic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prediction = space.denoise(model, inputs)
    return prediction, (prediction * inputs.sample).mean()


def step(space: SearchSpace, model: nn.Module, inputs: DenoiserInput) -> torch.Tensor:
    """Run forward and backward; return the prediction."""
    prediction, value = loss(space, model, inputs)
    value.backward()
    return prediction


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients of the parameters that have one."""
    named = model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def assert_gradients_lie_in_the_slice(
    supernet: Supernet, where: dict[str, TensorSlice], own: dict[str, torch.Tensor]
) -> None:
    """Assert that the shared gradients are a subnet's own, and zero everywhere else.

    own: name of a shared parameter -> the gradient of the extracted model's.
    """
    own = dict(own)
    for name, shared in gradients(supernet.net).items():
        expected = torch.zeros_like(shared)
        if name in own:
            where[name].add_into(expected, own.pop(name))
        assert_same(shared, expected, f"the gradient of '{name}'")
    assert not own, f"no gradient reaches the shared '{next(iter(own))}'"
