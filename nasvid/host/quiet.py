"""Silence for libraries that draw progress bars while they load weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep diffusers and transformers, if installed, from drawing bars inside the context."""
    from diffusers.utils import logging as diffusers

    libraries = [diffusers]
    try:
        from transformers.utils import logging as transformers
    except ImportError:
        pass
    else:
        libraries.append(transformers)
    drawing = [each for each in libraries if each.is_progress_bar_enabled()]
    for each in drawing:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in drawing:
            each.enable_progress_bar()
