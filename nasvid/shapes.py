"""The values that describe a video: its resolution, its shape, its domain, a denoiser's inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

WIDEST = 8192
"""Most pixels of a clip's height or width."""
LONGEST = 4096
"""Most frames of a clip, which is in memory whole."""
_TEXT = re.compile(r"([1-9][0-9]{0,9})(?:x([1-9][0-9]{0,9})(?:x([1-9][0-9]{0,9}))?)?")
FORMS = (
    "write 64 for a square, HEIGHTxWIDTH (480x832), or HEIGHTxWIDTHxFRAMES (480x832x81; of images "
    "480x832x1)"
)


@total_ordering
@dataclass(frozen=True, slots=True)
class Resolution:
    """What clips are cut to, as a recipe names it: one supernet is trained at several.

    height, width: in pixels. frames: None for `data.frames`.

    In text a square without frames is `64`, any other `480x832` or `480x832x81`. They are ordered
    by the pixels of a frame, then by frames; one without frames comes last.
    """

    height: int
    width: int
    frames: int | None = None

    @classmethod
    def square(cls, side: int) -> Resolution:
        """Return the resolution of `side` x `side` pixels."""
        return cls(side, side)

    @classmethod
    def parse(cls, given: object) -> Resolution:
        """Read a resolution's text, or the whole number of a square.

        Raises:
            ValueError: it is something else, or larger than `WIDEST` or `LONGEST`.
        """
        if isinstance(given, Resolution):
            return given
        text = str(given)
        match = _TEXT.fullmatch(text)
        if match is None or not isinstance(given, str | int):
            raise ValueError(f"'{text:.40}' is not a resolution; {FORMS}")
        height, width, frames = (int(number or 0) for number in match.groups())
        found = cls(height, width or height, frames or None)
        if max(found.height, found.width) > WIDEST or (frames or 1) > LONGEST:
            raise ValueError(
                f"{text:.40} is too large: at most {WIDEST} pixels a side, and {LONGEST} frames"
            )
        return found

    @property
    def is_square(self) -> bool:
        """Whether it is a square without frames of its own."""
        return self.height == self.width and self.frames is None

    def frames_or(self, default: int) -> int:
        """Return the frames of a clip; default: `data.frames`."""
        return self.frames or default

    def to_json(self) -> int | str:
        """Return the whole number of a square without frames, or the text."""
        return self.height if self.is_square else str(self)

    @property
    def label(self) -> str:
        """It with its unit, for people: `64 px`, `480x832 px`, `480x832x81`."""
        return str(self) if self.frames else f"{self} px"

    def __str__(self) -> str:
        if self.is_square:
            return str(self.height)
        return "x".join(map(str, filter(None, (self.height, self.width, self.frames))))

    def __lt__(self, other: Resolution) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, int]:
        return self.height * self.width, self.frames or LONGEST + 1, self.height

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        del source, handler
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_json),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        del schema, handler
        return {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoShape:
    """The size of one denoised clip and of the text that conditions it.

    frames, height, width: of the model's input, in frames and pixels (or latent pixels).
    context_len: text tokens.
    """

    frames: int
    height: int
    width: int
    context_len: int

    @classmethod
    def square(cls, side: int, *, frames: int, context_len: int) -> VideoShape:
        """Return the shape of a clip of `side` x `side` pixels."""
        return cls(frames=frames, height=side, width=side, context_len=context_len)

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What a model denoises and what it is conditioned on: fixed by data and text, not searched.

    channels: of the video (3 for RGB pixels, more for latents).
    context_dim: size of one text token's embedding.
    pooled_dim: size of the embedding of the whole text, which is the last token's; 0 for none.
    """

    channels: int = 3
    context_dim: int = 64
    pooled_dim: int = 0


@dataclass(frozen=True, slots=True)
class DenoiserInput:
    """A denoiser's input batch.

    sample: `b c t h w`, float; the noisy video.
    timestep: `b`; the scheduler's timestep, int64, or float32 for flow.
    context: `b l d`, float; text token embeddings.
    context_mask: `b l`, bool; True where a token is real.
    fps: `b`, float32; frames per second of the clip.
    """

    sample: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    context_mask: torch.Tensor
    fps: torch.Tensor

    def part(self, clips: slice) -> DenoiserInput:
        """Return some of the clips."""
        return DenoiserInput(
            self.sample[clips],
            self.timestep[clips],
            self.context[clips],
            self.context_mask[clips],
            self.fps[clips],
        )
