"""Embeddings of captions in files, one for each shard, however many captions it has.

Such a file is in the safetensors format. `rows` `n d` has the embeddings of the real tokens of all
captions, in fp16: eight times finer than bf16, and the results of a model that computes in bf16 fit
into it. A caption with a number too large for fp16 has the bits of bf16 instead (`wide`).
`captions` has 64 bits of each caption's hash, in ascending order, `starts` its first row, `masks`
`b l` which of its tokens are real, and `sums` the CRC of all that is kept of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open

from nasvid.data.errors import DataError
from nasvid.errors import Damaged
from nasvid.host.aligned import DTYPES
from nasvid.host.reading import damage, named
from nasvid.host.terminal import one_line

HEAD = 4096
"""Bytes of the header, which is written last."""
TYPES = {name: dtype for dtype, name in DTYPES.items()}
OPEN = 64
"""Files that each process keeps open."""
AGAIN = "delete it, and nasvid run makes it again"

Encoded = tuple[torch.Tensor, torch.Tensor]
"""Embeddings `l d` and mask `l`, or of a batch, `b l d` and `b l`."""
Captioned = tuple[str, str]
"""A clip's shard and caption."""
EncodeClips = Callable[[Sequence[Captioned]], Encoded]
"""Clips -> the embeddings of their captions."""


def half(rows: torch.Tensor) -> torch.Tensor:
    """Return embeddings in fp16, or in bf16 if a number is too large for it."""
    narrow = rows.half()
    return narrow if narrow.isfinite().all() else rows.bfloat16()


def padded(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the embedding `l d` of a caption from those of its real tokens; padding is zero."""
    embedding = rows.new_zeros(len(mask), rows.shape[1])
    embedding[mask] = rows
    return embedding


def stacked(pairs: Sequence[Encoded]) -> Encoded:
    """Return embeddings as a batch."""
    if len({embedding.dtype for embedding, _ in pairs}) > 1:
        pairs = [(embedding.float(), mask) for embedding, mask in pairs]
    embeddings, masks = zip(*pairs, strict=True)
    return torch.stack(embeddings), torch.stack(masks)


def write_embeddings(
    path: Path, found: Iterable[tuple[str, torch.Tensor, torch.Tensor]], made_by: str
) -> None:
    """Write embeddings as they come, so that few are in memory.

    found: captions, all different, the embeddings of their real tokens `n d`, and masks `l`. The
    numbers are of 16 bits, or all in float32. made_by: what they depend on; `EmbeddingFile` has it.
    """
    names, starts, wide, sums, masks = [], [], [], [], []
    dtype, width, rows = torch.float16, 0, 0
    with path.open("wb") as file:
        file.write(bytes(HEAD))
        for caption, embedding, mask in found:
            content = _bytes(embedding)
            file.write(content)
            names.append(_name(caption))
            starts.append(rows)
            wide.append(embedding.dtype == torch.bfloat16)
            sums.append(_sum(content, mask, wide[-1]))
            masks.append(mask)
            rows += len(embedding)
            dtype, width = embedding.dtype, embedding.shape[1]
        order = torch.tensor(names, dtype=torch.int64).argsort()
        tensors = {
            "captions": torch.tensor(names, dtype=torch.int64)[order],
            "starts": torch.tensor(starts, dtype=torch.int64)[order],
            "sums": torch.tensor(sums, dtype=torch.int64)[order],
            "wide": torch.tensor(wide, dtype=torch.bool)[order],
            "masks": torch.stack(masks)[order] if masks else torch.zeros(0, 0, dtype=torch.bool),
        }
        kind = torch.float32 if dtype == torch.float32 else torch.float16
        header: dict[str, Any] = {"__metadata__": {"made_by": made_by}}
        header["rows"] = _entry(kind, (rows, width), 0)
        end = header["rows"]["data_offsets"][1]
        for name, tensor in tensors.items():
            header[name] = _entry(tensor.dtype, tuple(tensor.shape), end)
            end = header[name]["data_offsets"][1]
            file.write(_bytes(tensor))
        text = json.dumps(header).encode().ljust(HEAD - 8)
        file.seek(0)
        file.write(struct.pack("<Q", len(text)) + text)


def _entry(dtype: torch.dtype, shape: tuple[int, ...], start: int) -> dict[str, Any]:
    size = torch.Size(shape).numel() * dtype.itemsize
    return {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, start + size]}


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _sum(rows: bytes, mask: torch.Tensor, wide: bool) -> int:
    return crc32(bytes([wide]), crc32(_bytes(mask), crc32(rows)))


def _name(caption: str) -> int:
    digest = hashlib.sha256(caption.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class EmbeddingFile:
    """The embeddings in a file, of which only those asked for are read.

    Raises:
        Damaged: it is cut or no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with damage(path, SafetensorError, fix=AGAIN):
            file = path.open("rb", buffering=0)
            weakref.finalize(self, file.close)
            self._file, self._entries = file, _entries(path, file)
            names = ("captions", "starts", "sums", "wide")
            self._names, self._starts, self._sums, self._wide = map(self._read, names)
            self.made_by = str(self._entries["__metadata__"]["made_by"])

    def _read(self, name: str, first: int = 0, count: int | None = None) -> torch.Tensor:
        """Return rows of a tensor, all or as many as wanted from the first.

        They are read, not mapped: what is mapped ends the process if the disk fails, or the file
        is cut.
        """
        entry = self._entries[name]
        rows, *rest = entry["shape"]
        found = torch.empty(rows if count is None else count, *rest, dtype=TYPES[entry["dtype"]])
        size = found.nbytes // max(1, len(found))
        if not 0 <= first <= rows - len(found):
            raise Damaged(self.path, f"it has no row {first}", AGAIN)
        with named(self.path):
            at = entry["data_offsets"][0] + first * size
            content = os.pread(self._file.fileno(), found.nbytes, at)
        if len(content) < found.nbytes:
            raise Damaged(self.path, "it is cut", AGAIN)
        if content:
            found = torch.frombuffer(bytearray(content), dtype=found.dtype).view_as(found)
        return found

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self._names)

    def find(self, caption: str) -> Encoded | None:
        """Return a caption's embedding `l d` and mask `l`; None if it is not there.

        Raises:
            Damaged: it is not as it was written.
        """
        name = _name(caption)
        place = int(torch.searchsorted(self._names, name))
        if place == len(self._names) or int(self._names[place]) != name:
            return None
        mask, start = self._read("masks", place, 1)[0], int(self._starts[place])
        is_wide = bool(self._wide[place])
        rows = self._read("rows", start, int(mask.sum()))
        if _sum(_bytes(rows), mask, is_wide) != int(self._sums[place]):
            raise Damaged(self.path, "the checksum of a caption does not match", AGAIN)
        return padded(rows.view(torch.bfloat16) if is_wide else rows, mask), mask


def _entries(path: Path, file: IO[bytes]) -> dict[str, Any]:
    """Return what the header says of each tensor, and where in the file it begins."""
    with safe_open(path, "pt"):  # it checks the header, and that all the file is there
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    for entry in (header[name] for name in header.keys() - {"__metadata__"}):
        entry["data_offsets"] = [8 + size + offset for offset in entry["data_offsets"]]
    return header


@dataclass(frozen=True, slots=True)
class StoredText:
    """The embeddings of a split's captions, read by whatever process loads its clips.

    folder: of the files. shards: of the split, in their order, which gives the files' names.
    """

    folder: Path
    numbers: dict[str, int]
    opened: Callable[[Path], EmbeddingFile] = field(
        default_factory=lambda: lru_cache(OPEN)(EmbeddingFile)
    )

    @classmethod
    def of(cls, folder: Path, shards: Sequence[str]) -> StoredText:
        """Return the embeddings in a folder. shards: of the split, in their order."""
        return cls(folder, {shard: number for number, shard in enumerate(shards)})

    def __call__(self, clips: Sequence[Captioned]) -> Encoded:
        """Return the embeddings `b l d`, in half precision, and masks `b l` of clips' captions.

        Raises:
            Damaged: a file is not as it was written. DataError: it is missing, or lacks a caption.
        """
        return stacked([self._of(clip) for clip in clips])

    def _of(self, clip: Captioned) -> Encoded:
        shard, caption = clip
        path = embeddings_path(self.folder, self.numbers[shard])
        try:
            found = self.opened(path).find(caption)
        except FileNotFoundError:
            raise DataError(f"{path} is missing; nasvid run makes it again") from None
        if found is None:
            raise DataError(
                f"{path} lacks the caption '{one_line(caption[:40])}' of {shard}; delete the "
                "former, and nasvid run makes it again"
            )
        return found


def embeddings_path(folder: Path, shard: int) -> Path:
    """Return the path of the embeddings of a shard, given its number."""
    return folder / f"{shard:06d}.safetensors"
