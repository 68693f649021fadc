"""Captions encoded while the steps before theirs are made, if no one has encoded them earlier."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from nasvid.data.embeddings import Encoded
from nasvid.data.loader import Batch, BatchRequest, Load

AHEAD = 2
"""Batches that are encoded, or being encoded, while a step is made."""


def encoded_ahead(
    load: Load, encode: Callable[[Sequence[str]], Encoded], requests: Iterable[BatchRequest]
) -> Generator[Batch, None, None]:
    """Yield the batches that are loaded, with their captions encoded, by one thread, in order."""
    coming: deque[tuple[Batch, Future[Encoded]]] = deque()
    with closing(load(requests)) as batches:
        thread = ThreadPoolExecutor(1, "text")
        try:
            for batch in batches:
                coming.append((batch, thread.submit(encode, batch.captions)))
                if len(coming) > AHEAD:
                    yield _with_text(*coming.popleft())
            while coming:
                yield _with_text(*coming.popleft())
        finally:
            thread.shutdown(cancel_futures=True)


def _with_text(batch: Batch, encoded: Future[Encoded]) -> Batch:
    return replace(batch, context=encoded.result())
