"""Noisy clips, which subnets are trained and evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nasvid.data.loader import Batch
from nasvid.diffusion.cached_text import CachedText
from nasvid.objective import NoisyBatch, Objective


@dataclass(frozen=True, slots=True)
class Noiser:
    """Corrupts clips for an objective; all random numbers come from a generator on the CPU.

    text: encodes the empty caption. device: of the noisy clips; the host does not wait for it.
    drop_captions: whether to drop the objective's share of captions.
    """

    objective: Objective
    text: CachedText
    device: torch.device
    drop_captions: bool = False

    def __call__(
        self, batch: Batch, generator: torch.Generator, *, first: int = 0, total: int | None = None
    ) -> NoisyBatch:
        """Corrupt clean clips `b c t h w`.

        The clips may be a rank's share of `total`, starting at number `first`; what is drawn for a
        clip does not depend on its rank. Timesteps are stratified: one in each of `total` equal
        parts of the schedule, in random order. The loss then varies less between steps than with
        independent draws.
        """
        size = len(batch.captions)
        total = size if total is None else total
        mine = slice(first, first + size)
        share = self.objective.caption_dropout if self.drop_captions else 0.0
        dropped = torch.rand(total, generator=generator) < share
        captions = [
            "" if gone else caption
            for caption, gone in zip(batch.captions, dropped[mine], strict=True)
        ]
        spread = (torch.arange(total) + torch.rand(total, generator=generator)) / total
        order = torch.randperm(total, generator=generator)
        timestep = (spread[order] * self.objective.train_timesteps).long()[mine]
        seeds = torch.randint(2**62, (total,), generator=generator)[mine]
        noise = torch.stack([_noise(batch.video.shape[1:], int(seed)) for seed in seeds])
        context, mask = self._context(batch, captions)
        clean = (batch.video, noise, timestep, context, mask, batch.fps)
        return self.objective.corrupt(*(self._moved(tensor) for tensor in clean))

    def _context(self, batch: Batch, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the captions' embeddings and mask, which come with the clips."""
        assert batch.context is not None
        embedding, mask = batch.context[0].float(), batch.context[1]
        dropped = [i for i, caption in enumerate(captions) if not caption]
        if dropped:
            embedding, mask = embedding.clone(), mask.clone()
            embedding[dropped], mask[dropped] = self.text([""] * len(dropped))
        return embedding, mask

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)


def _noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
