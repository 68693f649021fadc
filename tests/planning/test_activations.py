"""Planned activations against the bytes that tensors really hold in a pass on the CPU."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasvid.costs import Saved, dummy_input
from nasvid.planning.checkpointed import checkpointed_bytes
from nasvid.planning.half import LEAST, half_share
from nasvid.shapes import Domain, VideoShape
from nasvid_spaces.diffusers_model import CogVideoXSpace, LTXSpace, WanSpace

pytestmark = pytest.mark.slow

SHAPES = (
    VideoShape.square(12, frames=4, context_len=6),
    VideoShape(frames=2, height=8, width=32, context_len=6),
)
CONFIGS: dict[Any, dict[str, Any]] = {
    WanSpace: {"attention_head_dim": 24, "ffn_dim": 160, "num_layers": 5, "rope_max_seq_len": 32},
    LTXSpace: {"attention_head_dim": 16, "num_layers": 5},
    CogVideoXSpace: {
        "attention_head_dim": 16,
        "num_layers": 5,
        "time_embed_dim": 16,
        "max_text_seq_length": 6,
        "use_rotary_positional_embeddings": True,
    },
}


class Held(TorchDispatchMode):
    """Counts the bytes that operations have allocated, as long as something refers to them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {key(tensor) for tensor in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and key(tensor) not in self._known:
                self._add(tensor)
        return made

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._known.add(key(tensor))
        weakref.finalize(storage, self._remove, key(tensor), storage.nbytes())
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _remove(self, of: int, size: int) -> None:
        self._known.discard(of)
        self.now -= size


def key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def forget(parameter: torch.Tensor) -> None:
    parameter.grad = None


def measured(space: Any, shape: VideoShape, *, checkpointed: bool) -> int:
    """Return the most bytes in a pass forward and back, besides weights and their gradients."""
    model = space.build(space.largest).train()
    if checkpointed:
        model.enable_gradient_checkpointing()
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(forget)
    inputs = dummy_input(shape, space.domain, device="cpu")
    with Held(model) as held:
        space.denoise(model, inputs).square().mean().backward()
    return held.peak


def space_of(cls: Any) -> Any:
    options = {"config": CONFIGS[cls], "choices": {"num_attention_heads": [2]}}
    return cls(cls.Config.model_validate(options), Domain(channels=4, context_dim=16))


@pytest.mark.parametrize("cls", CONFIGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_transformers_activations_are_those_planned(cls: Any, shape: VideoShape) -> None:
    space = space_of(cls)
    planned = space.cost(space.largest, "activation_bytes", shape)
    assert planned == pytest.approx(measured(space, shape, checkpointed=False), rel=0.1)
    again = checkpointed_bytes(space, shape)
    assert again == pytest.approx(measured(space, shape, checkpointed=True), rel=0.1)
    assert again is not None
    assert again < planned / 3


def test_half_precision_is_counted_where_a_model_computes_in_fp32_by_itself() -> None:
    space, shape = space_of(WanSpace), SHAPES[0]
    model, kept = space.build(space.largest).train(), {}
    for half in (True, False):
        for batch in (1, 2):
            saved = Saved(model)
            inputs = dummy_input(shape, space.domain, batch=batch, device="cpu")
            with torch.autocast("cpu", torch.bfloat16, enabled=half), saved.watched():
                space.denoise(model, inputs)
            kept[half, batch] = saved.bytes
    real = (kept[True, 2] - kept[True, 1]) / (kept[False, 2] - kept[False, 1])
    assert real > LEAST
    assert half_share(space, shape) == pytest.approx(real, rel=0.02)
    assert half_share(space_of(CogVideoXSpace), shape) == LEAST
