"""Training a small autoencoder on the frames of clips."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.errors import Damaged, Interrupted
from nasvid.host.aligned import read_tensors, save_aligned, size_of, write_aligned
from nasvid.host.files import NotWritten, atomic_folder, remove, write_json
from nasvid.host.reading import check_sums, read_json, write_sums
from nasvid.host.streams import torch_stream
from nasvid.recipe.sections import VaeTrainSection
from nasvid.shapes import Resolution

GROUP = 8
"""Number of groups of each norm, if the widths allow it."""
ABSOLUTE, DIVERGENCE = 0.1, 1e-6
"""Weights of the absolute error and of the posterior's KL divergence; the squared error's is 1."""
CHECKPOINT_EVERY = 200
MEASURED = 8
"""Batches over which the scale of the latents is measured."""


def make_vae(channels: int, widths: tuple[int, ...]) -> AutoencoderKL:
    """Return a new autoencoder with one level per width, and no attention, so it takes any size."""
    levels = len(widths)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=widths,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        norm_num_groups=math.gcd(GROUP, *widths),
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Where the training frames come from.

    index: of the training split. resolutions: what frames are cut to; the steps cycle through them.
    seed: of their order and everything else that is random. workers: decoding processes; 0 decodes
    in this one.
    """

    index: ShardIndex | StreamedShards
    resolutions: tuple[Resolution, ...]
    seed: int
    workers: int

    def batches(self, size: int, steps: range) -> Generator[torch.Tensor, None, None]:
        """Yield the frames of each step: `size 3 h w` in [-1, 1]."""
        requests = (
            BatchRequest(
                number=step,
                resolution=replace(self.resolutions[step % len(self.resolutions)], frames=1),
                first=step * size,
                size=size,
            )
            for step in steps
        )
        batches = load_batches(
            self.index,
            requests,
            seed=self.seed,
            workers=self.workers,
            cutting=Cutting(frames=1, fps=1.0, flip=True, train=True),
        )
        with closing(batches):
            for batch in batches:
                yield batch.video[:, :, 0]


def train_vae(
    section: VaeTrainSection,
    source: Frames,
    folder: Path,
    *,
    channels: int,
    device: torch.device,
    progress: Callable[[int, float], None],
    report: Callable[[str], None],
    stop: Callable[[], int | None],
) -> AutoencoderKL:
    """Train an autoencoder on single frames and write it to `folder` in diffusers' format.

    A step's frames and all noise depend only on (seed, step), so a killed training resumes from a
    checkpoint next to `folder` and ends with the same weights. Finally, shift and scale are set so
    that latents of training frames have mean 0 and standard deviation 1.
    progress: receives the number of finished steps and the loss. report: takes a line for people.

    Raises:
        Interrupted: `stop` returned a signal; a checkpoint was written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        model = make_vae(channels, section.widths).train()
    nn.Module.to(model, device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoint = folder.with_name(f".{folder.name}-training")
    try:
        first = _resume(checkpoint, model, optimizer)
    except Damaged as damaged:
        report(f"{damaged.path} is damaged ({damaged.reason}); training begins at step 0")
        remove(checkpoint)
        first = 0
    frames = source.batches(section.batch, range(first, section.steps))
    with closing(frames):
        for step, pictures in enumerate(frames, first):
            for group in optimizer.param_groups:
                group["lr"] = _rate(section, step)
            varied = _varied(pictures, source.seed, step).to(device)
            loss = _step(model, optimizer, varied, source.seed, step)
            progress(step + 1, loss)
            signal = stop()
            if signal is not None or (step + 1) % CHECKPOINT_EVERY == 0:
                try:
                    _save(checkpoint, model, optimizer, step + 1)
                except NotWritten as error:
                    if signal is not None:
                        raise
                    report(f"{error}; training goes on to the next checkpoint")
            if signal is not None:
                raise Interrupted(signal, f"step {step + 1} of {section.steps} is saved")
    _standardise(model.eval(), replace(source, workers=0), section.batch, device)
    _write(model, folder)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return model


def _step(
    model: AutoencoderKL,
    optimizer: torch.optim.Optimizer,
    pictures: torch.Tensor,
    seed: int,
    step: int,
) -> float:
    posterior = model.encode(pictures).latent_dist  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    rng = torch_stream(seed, "vae noise", step)
    noise = torch.randn(posterior.mean.shape, generator=rng).to(pictures.device)
    found = model.decode(posterior.mean + posterior.std * noise).sample  # pyright: ignore[reportAttributeAccessIssue]
    error = found - pictures
    loss = error.square().mean() + ABSOLUTE * error.abs().mean()
    loss = loss + DIVERGENCE * posterior.kl().mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _rate(section: VaeTrainSection, step: int) -> float:
    """Return the learning rate: linear warm-up over 100 steps, then cosine decay to 1/50."""
    wave = (1 + math.cos(math.pi * step / section.steps)) / 2
    return section.learning_rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * wave)


def _varied(pictures: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Augment most of a step's pictures: change colours or contrast, or blend two of them.

    This makes many different pictures out of a few source videos, so that the autoencoder does not
    memorise them (a gain of 5 dB on unseen videos of the embedded footage).
    """
    rng = torch_stream(seed, "vae colours", step)
    size = len(pictures)

    def one_each(channels: int = 1) -> torch.Tensor:
        return torch.rand(size, channels, 1, 1, generator=rng)

    channels = one_each(3).argsort(1).expand_as(pictures)
    negative = torch.where(one_each() < 0.3, -1.0, 1.0)
    contrast, brightness = 0.6 + 0.8 * one_each(3), 0.3 * (2 * one_each(3) - 1)
    varied = pictures.gather(1, channels) * negative * contrast + brightness
    varied = varied.clamp(-1, 1).lerp(varied.clamp(-1, 1).roll(1, 0), one_each() / 2)
    return torch.where(one_each() < 0.6, varied, pictures)


@torch.no_grad()
def _standardise(
    model: AutoencoderKL,
    source: Frames,
    size: int,
    device: torch.device,
) -> None:
    """Set shift and scale so that latents of training frames have mean 0 and std 1."""
    latents = [
        model.encode(pictures.to(device)).latent_dist.mode().flatten()  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        for pictures in source.batches(size, range(MEASURED))
    ]
    values = torch.cat(latents).double()
    model.register_to_config(
        shift_factor=round(values.mean().item(), 6),
        scaling_factor=round(1 / values.std().item(), 6),
    )


def _resume(folder: Path, model: AutoencoderKL, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint, if there is one, and return the next step."""
    if not folder.exists():
        return 0
    check_sums(folder)
    model.load_state_dict(read_tensors(folder / "weights.safetensors"))
    moments = read_tensors(folder / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        state = {key: moments[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        on_device = {key: value.to(parameter.device) for key, value in state.items()}
        optimizer.state[parameter] = on_device | {"step": state["step"]}
    step = read_json(folder / "state.json", lambda state: int(state["step"]))
    assert step is not None
    return step


def _save(folder: Path, model: AutoencoderKL, optimizer: torch.optim.Optimizer, step: int) -> None:
    moments = {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    weights = model.state_dict()
    with atomic_folder(folder, needed=size_of(weights) + size_of(moments)) as temporary:
        write_aligned(weights, temporary / "weights.safetensors")
        write_aligned(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": step})
        write_sums(temporary)


def _write(model: AutoencoderKL, folder: Path) -> None:
    with atomic_folder(folder, needed=size_of(model.state_dict())) as temporary:
        save_aligned(model, temporary)
        write_sums(temporary)
