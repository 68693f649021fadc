"""The activations of a clip with gradient checkpointing, counted on the `meta` device."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

from nasvid.costs import Saved, built_on_meta, dummy_input, run_on_meta
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace


def checkpointed_bytes(space: SearchSpace, shape: VideoShape) -> int | None:
    """Return the bytes in fp32 that the largest architecture holds for a clip at their peak.

    That is what is kept until the backward pass, blocks' inputs in place of all they compute, and
    what the largest block computes when it runs again. Blocks are the space's feature points; None
    if it has none.

    Raises:
        NoValuesError: the model cannot run on the `meta` device.
    """
    names = space.feature_points(space.largest)
    if not names:
        return None
    model = built_on_meta(lambda: space.build(space.largest)).train()
    blocks = [_Block(model, model.get_submodule(name)) for name in names]
    _run(space, model, shape)
    model.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    return _run(space, model, shape) + max(block.saved.bytes for block in blocks)


def _run(space: SearchSpace, model: nn.Module, shape: VideoShape) -> int:
    """Return the bytes that are kept outside blocks."""
    saved = Saved(model)
    with run_on_meta(), saved.watched():
        space.denoise(model, dummy_input(shape, space.domain))
    return saved.bytes


class _Block:
    """Counts what a block keeps when it first runs; then it runs as if it were not watched."""

    def __init__(self, model: nn.Module, block: nn.Module) -> None:
        self.saved = Saved(model)
        self._context = ExitStack()
        self._handles = (
            block.register_forward_pre_hook(self._begin),
            block.register_forward_hook(self._end),
        )

    def _begin(self, block: nn.Module, inputs: Any) -> None:
        del block, inputs
        self._context.enter_context(self.saved.watched())

    def _end(self, block: nn.Module, inputs: Any, output: Any) -> None:
        del block, inputs, output
        self._context.close()
        for handle in self._handles:
            handle.remove()
