"""What a call of a pipeline is given, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
LATENTS = "latents"
"""The tensor that a callback is given."""


def check_call(output_type: str, tensors: Sequence[str]) -> None:
    """Check the form of the videos that are asked for, and the tensors that a callback is given.

    Raises:
        ValueError: there are none such.
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")
    if unknown := set(tensors) - {LATENTS}:
        raise ValueError(f"A callback is given {LATENTS}, not {', '.join(sorted(unknown))}")


def latent_size(settings: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return the size `c t h w` of what is denoised for a video of a height, width and frames.

    Raises:
        ValueError: one is not given, or the VAE cannot make it.
    """
    for name in ("height", "width", "num_frames"):
        if settings[name] is None:
            raise ValueError(f"{name} is not given, and the pipeline has no default")
    height, width, frames = (int(settings[name]) for name in ("height", "width", "num_frames"))
    factor, step = settings["factor"], settings["frame_step"]
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % factor:
            raise ValueError(f"{name} must be a multiple of {factor}, not {side}")
    if frames < 1 or (frames - 1) % step:
        raise ValueError(f"num_frames must be a multiple of {step}, plus 1, not {frames}")
    latent_frames = (frames - 1) // settings["temporal_factor"] + 1
    return settings["channels"], latent_frames, height // factor, width // factor


def repeated(prompt: str | Sequence[str], times: int) -> list[str]:
    """Return the captions of all videos.

    Raises:
        ValueError: they are no text, or there are none.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if not prompts or not all(isinstance(each, str) for each in prompts):
        raise ValueError(f"A prompt is text, or a list of texts, not {prompt!r}")
    if times < 1:
        raise ValueError(f"num_videos_per_prompt must be at least 1, not {times}")
    return [each for each in prompts for _ in range(times)]


def negatives_of(
    negative: str | Sequence[str] | None, prompt: str | Sequence[str], times: int
) -> list[str]:
    """Return what guidance leads each video away from: one text for all, or one for each prompt.

    Raises:
        ValueError: there is neither one nor one for each prompt.
    """
    count = 1 if isinstance(prompt, str) else len(prompt)
    if negative is None or isinstance(negative, str):
        return [negative or ""] * count * times
    if len(negative) != count:
        raise ValueError(
            f"There must be one negative_prompt, or {count} as of prompts, not {len(negative)}"
        )
    return repeated(negative, times)


def noise_of(
    size: tuple[int, int, int, int],
    count: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    given: torch.Tensor | None,
) -> torch.Tensor:
    """Return the noise that videos begin from: what is given, or drawn for one after the other.

    Raises:
        ValueError: it is of another size, or there is neither one generator nor one for each video.
    """
    if given is not None:
        if tuple(given.shape) != (count, *size):
            raise ValueError(f"latents must be {[count, *size]}, not {list(given.shape)}")
        return given.float()
    if generator is None or isinstance(generator, torch.Generator):
        return torch.stack([_drawn(size, generator) for _ in range(count)])
    if len(generator) != count:
        raise ValueError(f"There must be one generator, or {count}, not {len(generator)}")
    return torch.stack([_drawn(size, each) for each in generator])


def _drawn(size: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randn(size, generator=generator, device=device)
