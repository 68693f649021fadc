"""Denoising steps as files of a format, each compared with the model that it was made of."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from nasvid.errors import UserError
from nasvid.export.formats import Format
from nasvid.export.step import Inputs, Recorded, Step
from nasvid.export.step_card import step_card
from nasvid.host.aligned import size_of
from nasvid.host.files import atomic_folder, check_room, write_json
from nasvid.host.reading import write_sums
from nasvid.objective import Scheduler
from nasvid.shapes import Resolution

INFO = "step.json"
CODE = 1 << 24
"""Bytes of a file besides its weights, at most."""
TOLERANCE = 1e-4
"""How far predictions of a file may be from the model's, in proportion where they exceed 1."""
Batches = tuple[int, ...]
ANY: Batches = (1, 2)
"""Clips that a file for any number of them is run with: of a prompt without guidance, and with."""
PAIR: Batches = (2,)
"""Clips of a file for a fixed number of them: of one prompt with guidance."""
MOST = 1 << 16
"""Most clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """What is written beside the files of a subnet's step.

    id: of the subnet. text: the recipe's section of the text encoder. inputs: by resolution.
    """

    id: str
    text: Mapping[str, Any]
    fps: float
    scheduler: Scheduler
    inputs: Mapping[Resolution, Recorded]


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written. difference: from the model. batches: that it was checked with."""

    difference: float
    batches: Batches


def export_step(step: Step, of: Format, info: StepInfo, target: Path) -> dict[Resolution, Written]:
    """Write a folder with a file for each resolution, the scheduler and a card.

    Each file is run, and has to predict what the model does. The folder appears whole or not at
    all, and replaces an older one.

    step: on the CPU, in eval mode.

    Returns:
        What is known of each file.

    Raises:
        UserError: the model cannot be traced or written, or a file predicts something else.
    """
    size = (size_of(step.state_dict()) + CODE) * len(info.inputs)
    with atomic_folder(target, needed=size) as temporary:
        written = {
            resolution: _write(step, of, recorded, temporary / f"{resolution}.{of.name}")
            for resolution, recorded in info.inputs.items()
        }
        info.scheduler.save_pretrained(str(temporary / "scheduler"))
        content = _content(of, info, written)
        write_json(temporary / INFO, content)
        (temporary / "README.md").write_text(step_card(content, of.title))
        write_sums(temporary)
    return written


def _write(step: Step, of: Format, recorded: Recorded, path: Path) -> Written:
    """Write and check a file."""
    what = f"{type(step.model).__name__} at {recorded.shape}"
    check_room(path, size_of(step.state_dict()) + CODE)
    with _errors_of_torch(f"{what} cannot be exported to {of.name}"), torch.no_grad():
        program, batches = _traced(step, recorded)
        of.write(program, path)
        several = [recorded.random(batch, seed=batch) for batch in batches]
        found = of.run(path, several)
        expected = [step(*inputs) for inputs in several]
    difference = max(map(_difference, found, expected))
    if not difference <= TOLERANCE:  # also if it is no number
        raise UserError(
            f"{path.name} predicts something else than {type(step.model).__name__}: values differ "
            f"by {difference:.2g} in proportion to the largest, but may by {TOLERANCE:g}. Nothing "
            "was kept; use --format diffusers"
        )
    return Written(difference, batches)


def _traced(step: Step, recorded: Recorded) -> tuple[torch.export.ExportedProgram, Batches]:
    """Return a step for any number of clips if its model allows that; nothing is computed.

    Returns:
        The step, and numbers of clips to check it with.
    """
    clips = torch.export.Dim("batch", min=1, max=MOST)
    dynamic = {name: {0: clips} for name in Inputs._fields}
    inputs = recorded.random(max(ANY) + 1, seed=0)
    try:
        return torch.export.export(step, inputs, dynamic_shapes=dynamic, strict=False), ANY
    except Exception as error:
        if not _is_of_batch(error):
            raise
    return torch.export.export(step, recorded.random(*PAIR, seed=0), strict=False), PAIR


def _is_of_batch(error: Exception) -> bool:
    """Return whether a model would allow only some numbers of clips."""
    return "Constraints violated (batch)" in str(error)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, in proportion to the largest value where that is above 1."""
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


@contextmanager
def _errors_of_torch(what: str) -> Iterator[None]:
    """Turn errors of exporters and runtimes into one line with their reason; silence the rest."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{what}: {_reason(error)}; use --format diffusers") from error
    finally:
        logging.disable(disabled)


def _reason(error: Exception) -> str:
    """Return the first line of an error that says something, of the one that caused it all."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__).rstrip(".")


def _content(of: Format, info: StepInfo, written: Mapping[Resolution, Written]) -> dict[str, Any]:
    """Return what `step.json` holds, as plain values."""
    packages = ("torch", *(need.package for need in of.needs))
    return {
        "nasvid": version("nasvid"),
        "made_with": {name: version(name) for name in packages},
        "id": info.id,
        "format": of.name,
        **of.facts,
        "precision": "fp32",
        "fps": info.fps,
        "text": dict(info.text),
        "files": {
            f"{resolution}.{of.name}": {
                "resolution": resolution.to_json(),
                "inputs": _described(recorded, written[resolution].batches),
                "largest_difference": written[resolution].difference,
            }
            for resolution, recorded in info.inputs.items()
        },
    }


def _described(recorded: Recorded, batches: Batches) -> dict[str, Any]:
    """Return the dtype and the shape of each input."""
    batch = "batch" if batches == ANY else batches[0]
    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": [batch, *tensor.shape[1:]],
        }
        for name, tensor in recorded.random(1, seed=0)._asdict().items()
    }
