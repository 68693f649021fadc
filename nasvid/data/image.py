"""From the bytes of an encoded image to its picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from nasvid.data.errors import ClipError

MAX_PIXELS = 1 << 25
"""Most pixels of a picture: 8K. A video's decoder keeps several."""
FORMATS = ("JPEG", "PNG", "WEBP")
QUALITY = 95
"""Of JPEG and WebP, when an image is written."""


def is_image(content: bytes) -> bool:
    """Return whether bytes begin as a JPEG, PNG or WebP."""
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
    return content.startswith(starts) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")


def picture_of(content: bytes) -> tuple[np.ndarray, str]:
    """Return an image upright as `h w c`, uint8, RGB, and the name of its format.

    What is transparent becomes white; of an animation the first picture is taken.

    Raises:
        ClipError: it is broken, or too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ClipError("frame too large")
            name = str(image.format).lower()
            return np.asarray(_in_rgb(ImageOps.exif_transpose(image))), name
    except ClipError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        raise ClipError("broken image") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip rather than scale
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def resized(content: bytes, width: int, height: int) -> bytes:
    """Return an image scaled to a size, upright, in its own format.

    Raises:
        ClipError: it is broken.
    """
    picture, name = picture_of(content)
    buffer = io.BytesIO()
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    small.save(buffer, name, quality=QUALITY)
    return buffer.getvalue()
