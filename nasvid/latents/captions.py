"""Encoding the captions of a recipe's clips once, shard by shard, where clips are not encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nasvid.data.embeddings import EmbeddingFile, embeddings_path, write_embeddings
from nasvid.data.errors import DataError
from nasvid.data.fetch import FetchError
from nasvid.data.paths import Split
from nasvid.data.samples import read_shard
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.diffusion.cached_text import CachedText
from nasvid.distributed.ranks import ALONE, Ranks, Stop
from nasvid.distributed.sharing import divide
from nasvid.errors import Damaged
from nasvid.host.files import atomic_path

FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TextIdentity:
    """Everything that the embeddings of captions depend on.

    text: identity of the text encoder. data: split -> fingerprint of its shards.
    """

    text: str
    context_len: int
    data: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the identity as plain values."""
        return {"format": FORMAT, **asdict(self)}


Shards = ShardIndex | StreamedShards
Place = tuple[Split, int]
"""A split and the number of a shard."""


class Captions:
    """The captions of all shards; those of streamed ones are read when they are asked for.

    data: split -> its shards.
    """

    def __init__(self, data: Mapping[Split, Shards]) -> None:
        found: dict[Place, dict[str, None]] = {}
        self._streamed: dict[Split, StreamedShards] = {}
        for split, shards in data.items():
            if isinstance(shards, StreamedShards):
                self._streamed[split] = shards
                continue
            numbers = {shard: number for number, shard in enumerate(shards.shards)}
            for clip in shards.clips:
                found.setdefault((split, numbers[clip.shard]), {})[clip.caption] = None
        self._known = {place: list(captions) for place, captions in found.items()}

    @property
    def places(self) -> list[Place]:
        """The shards that have captions."""
        streamed: list[Place] = [
            (split, number)
            for split, shards in self._streamed.items()
            for number in shards.counts.nonzero()[0].tolist()
        ]
        return [*self._known, *streamed]

    def size(self, place: Place) -> int:
        """Return how many captions a shard has, each once; of a streamed one, how many samples."""
        if place in self._known:
            return len(self._known[place])
        return int(self._streamed[place[0]].counts[place[1]])

    def of(self, place: Place) -> list[str]:
        """Return the captions of a shard, each once.

        Raises:
            DataError: it can no longer be fetched, or read.
        """
        if place in self._known:
            return self._known[place]
        split, number = place
        shard, cache = self._streamed[split].shards[number], self._streamed[split].cache
        try:
            with cache.hold(shard):
                clips = read_shard(shard, cache.place(shard)).clips
        except (FetchError, FileNotFoundError) as error:
            raise DataError(
                f"{shard} can no longer be fetched: {error}. What is encoded is kept; resume with "
                "the same command"
            ) from error
        return list(dict.fromkeys(clip.caption for clip in clips))


def missing(folder: Path, captions: Captions, made_by: str) -> list[Place]:
    """Return the shards whose embeddings are not there, cut, or of another encoder.

    made_by: what they should depend on.
    """
    return [
        (split, number)
        for split, number in captions.places
        if not _is_there(embeddings_path(folder / split, number), made_by)
    ]


def _is_there(path: Path, made_by: str) -> bool:
    try:
        return path.exists() and EmbeddingFile(path).made_by == made_by
    except Damaged:
        return False


def encode_captions(
    folder: Path,
    captions: Captions,
    places: Sequence[Place],
    text: CachedText,
    *,
    progress: Callable[[int], None],
    stop: Stop,
    ranks: Ranks = ALONE,
) -> None:
    """Write the embeddings of shards, each caption once.

    places: the shards, the same on every rank, such as those that are `missing`. The ranks divide
    them among themselves. Files are whole or absent, and have the same bytes on any number of
    ranks. progress: receives the number of captions that this rank has encoded.

    Raises:
        UserError: the encoder cannot be loaded, or breaks its contract; a shard cannot be fetched.
        Interrupted: `stop` returned a signal; the files written are kept.
        RankLost: another rank has ended.
    """

    def make(place: Place) -> None:
        split, number = place
        with atomic_path(embeddings_path(folder / split, number)) as temporary:
            write_embeddings(temporary, text.halves(captions.of(place)), text.made_by)
        progress(captions.size(place))

    divide(ranks, places, make, stop)
