"""One training step: corrupt the clips, run the planned subnets, update what they used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from nasvid.data.loader import Batch
from nasvid.diffusion.objective import NoisyBatch, Objective
from nasvid.diffusion.text import CachedText
from nasvid.recipe import TrainingSection
from nasvid.sampler import Role
from nasvid.supernet import Supernet
from nasvid.training.plan import StepPlan


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a step's subnets lost: by role, the mean of its subnets; and the mean of all."""

    by_role: dict[str, float]
    mean: float


def noisy_batch(
    batch: Batch,
    objective: Objective,
    text: CachedText,
    generator: torch.Generator,
    device: torch.device,
    *,
    caption_dropout: float = 0.0,
) -> NoisyBatch:
    """Corrupt clean clips; all randomness is the generator's, drawn on the CPU.

    Timesteps are stratified: one in each of `b` equal parts of the schedule, in random order,
    which varies the loss less from step to step than independent draws.
    """
    size = len(batch.captions)
    dropped = torch.rand(size, generator=generator) < caption_dropout
    captions = [
        "" if gone else caption for caption, gone in zip(batch.captions, dropped, strict=True)
    ]
    spread = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    order = torch.randperm(size, generator=generator)
    timestep = (spread[order] * objective.config.train_timesteps).long()
    noise = torch.randn(batch.video.shape, generator=generator)
    context, mask = _context(batch, captions, text, device)
    return objective.corrupt(
        batch.video.to(device),
        noise.to(device),
        timestep.to(device),
        context,
        mask,
        batch.fps.to(device),
    )


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
) -> StepLosses | None:
    """Add each planned subnet's gradients, averaged, to the shared weights.

    With distillation the subnets learn also from the teacher's prediction: a model's, or without
    one, after the largest subnet, from its (Yu and Huang, arXiv 1903.05134, section 3.3). Returns
    None as soon as a loss is not finite.
    """
    losses: dict[str, list[float]] = {}
    taught = _prediction(supernet, teacher, noisy, autocast) if teacher else None
    for planned in plan.subnets:
        subnet = supernet.subnet(planned.arch)
        if config.gradient_checkpointing:
            subnet.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        with torch.autocast(noisy.target.device.type, autocast, enabled=autocast is not None):
            prediction = supernet.space.denoise(subnet, noisy.inputs)
        loss = objective.loss(prediction, noisy)
        losses.setdefault(planned.role, []).append(loss.item())
        if not math.isfinite(losses[planned.role][-1]):
            return None
        if taught is not None and config.distillation:
            follow = F.mse_loss(prediction.float(), taught)
            loss = torch.lerp(loss, follow, config.distillation)
        if planned.role is Role.LARGEST and teacher is None:
            taught = prediction.detach().float()
        (loss / len(plan.subnets)).backward()
    every = [loss for role in losses.values() for loss in role]
    by_role = {role: sum(values) / len(values) for role, values in losses.items()}
    return StepLosses(by_role, sum(every) / len(every))


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
