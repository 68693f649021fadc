"""One training step: corrupt the clips, run the planned subnets, update what they used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from nasvid.architecture import Architecture
from nasvid.data.loader import Batch
from nasvid.diffusion.text import CachedText
from nasvid.objective import NoisyBatch, Objective
from nasvid.recipe.sections import TrainingSection
from nasvid.sampler import Role
from nasvid.supernet import Supernet
from nasvid.training.plan import StepPlan


def noisy_batch(
    batch: Batch,
    objective: Objective,
    text: CachedText,
    generator: torch.Generator,
    device: torch.device,
    *,
    caption_dropout: float = 0.0,
    first: int = 0,
    total: int | None = None,
) -> NoisyBatch:
    """Corrupt clean clips; all randomness is the generator's, drawn on the CPU.

    The clips may be a rank's share of `total`, from number `first` on: what is drawn for a clip
    does not depend on which rank has it. Timesteps are stratified: one in each of `total` equal
    parts of the schedule, in random order, which varies the loss less from step to step than
    independent draws.
    """
    size = len(batch.captions)
    total = size if total is None else total
    mine = slice(first, first + size)
    dropped = torch.rand(total, generator=generator) < caption_dropout
    captions = [
        "" if gone else caption for caption, gone in zip(batch.captions, dropped[mine], strict=True)
    ]
    spread = (torch.arange(total) + torch.rand(total, generator=generator)) / total
    order = torch.randperm(total, generator=generator)
    timestep = (spread[order] * objective.train_timesteps).long()[mine]
    seeds = torch.randint(2**62, (total,), generator=generator)[mine]
    noise = torch.stack([_noise(batch.video.shape[1:], int(seed)) for seed in seeds])
    context, mask = _context(batch, captions, text, device)
    return objective.corrupt(
        batch.video.to(device),
        noise.to(device),
        timestep.to(device),
        context,
        mask,
        batch.fps.to(device),
    )


def _noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _context(
    batch: Batch, captions: list[str], text: CachedText, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the captions' embeddings and mask: those that came with the clips, or made now."""
    if batch.context is None:
        return text(captions, device)
    embedding, mask = (stored.clone() for stored in batch.context)
    dropped = [i for i, caption in enumerate(captions) if not caption]
    if dropped:
        embedding[dropped], mask[dropped] = text([""] * len(dropped))
    return embedding.to(device), mask.to(device)


def backward(
    supernet: Supernet,
    plan: StepPlan,
    noisy: NoisyBatch,
    objective: Objective,
    config: TrainingSection,
    autocast: torch.dtype | None,
    teacher: nn.Module | None = None,
    *,
    total: int | None = None,
    micro_batch: int | None = None,
    loss_scale: float = 1.0,
) -> dict[Role, torch.Tensor]:
    """Add each planned subnet's gradients, averaged, to the shared weights.

    The clips may be a share of `total`: losses and gradients then are the share's part of the
    mean over all. They go through the subnets `micro_batch` at a time. With distillation the
    subnets learn also from the teacher's prediction: a model's, or without one, after the largest
    subnet, from its (Yu and Huang, arXiv 1903.05134, section 3.3).

    loss_scale: what losses are multiplied by before the backward pass, and gradients divided by
    after it, so that fp16 can hold them.

    Returns the mean loss of the subnets of each role; where it is not finite, gradients are not.
    """
    losses = {planned.role: torch.zeros((), device=noisy.target.device) for planned in plan.subnets}
    roles = Counter(planned.role for planned in plan.subnets)
    total = len(noisy) if total is None else total
    for part in noisy.split(micro_batch):
        share = len(part) / total
        taught = _prediction(supernet, teacher, part, autocast) if teacher else None
        for planned in plan.subnets:
            prediction = _denoised(supernet, planned.arch, part, config, autocast)
            loss = objective.loss(prediction, part)
            losses[planned.role] += loss.detach() * share / roles[planned.role]
            if taught is not None and config.distillation:
                follow = F.mse_loss(prediction.float(), taught)
                loss = torch.lerp(loss, follow, config.distillation)
            if planned.role is Role.LARGEST and teacher is None:
                taught = prediction.detach().float()
            (loss * (share * loss_scale) / len(plan.subnets)).backward()
    if loss_scale != 1:
        scaled = [p.grad for p in supernet.net.parameters() if p.grad is not None]
        torch._foreach_div_(scaled, loss_scale)  # pyright: ignore[reportPrivateImportUsage]
    return losses


def _denoised(
    supernet: Supernet,
    arch: Architecture,
    noisy: NoisyBatch,
    config: TrainingSection,
    autocast: torch.dtype | None,
) -> torch.Tensor:
    """Return a subnet's prediction, to be learned from."""
    subnet = supernet.subnet(arch)
    if config.gradient_checkpointing:
        subnet.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    with torch.autocast(noisy.target.device.type, autocast, enabled=autocast is not None):
        return supernet.space.denoise(subnet, noisy.inputs)


@torch.no_grad()
def _prediction(
    supernet: Supernet, model: nn.Module, noisy: NoisyBatch, autocast: torch.dtype | None
) -> torch.Tensor:
    with torch.autocast(noisy.target.device.type, autocast, enabled=autocast is not None):
        return supernet.space.denoise(model, noisy.inputs).float()


def learning_rate(config: TrainingSection, step: int) -> float:
    """Return the rate of a step: a linear rise, then constant, or a cosine to a twentieth."""
    warmup = round(config.lr_warmup * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / max(config.steps - warmup, 1)
    return config.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)
