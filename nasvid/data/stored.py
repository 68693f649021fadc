"""The stored index of a run's shards, so that all ranks and resumed runs have the same clips.

A file of JSON lines: first a header, then the content of one shard per line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasvid.data.cache import ShardCache
from nasvid.data.errors import DataError
from nasvid.data.samples import ClipRef, ShardContent, Skip
from nasvid.data.shards import ShardIndex, check_tars, index_of, shard_contents
from nasvid.errors import Damaged
from nasvid.host.files import atomic_path
from nasvid.host.reading import as_object, damage
from nasvid.host.terminal import say

FORMAT = 1


def stored_index(
    path: Path,
    names: Sequence[str],
    cache: ShardCache | None,
    *,
    shapes: bool = False,
    max_skipped: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> ShardIndex:
    """Return the index stored in `path`, after creating it if there is none or it is damaged.

    names: of the shards. shapes: find those of the clips too. max_skipped: the largest share of
    samples that may be unusable. progress: called after each shard.

    Raises:
        DataError: the shards have changed since the index was made, none is a tar, too many
            cannot be fetched, or too many samples cannot be used.
    """
    before = _load(path)
    known = {content.shard: content for content in before or ()}
    contents = [
        *shard_contents(
            names, cache, known, shapes=shapes, max_skipped=max_skipped, progress=progress
        )
    ]
    index = index_of(contents, cache)
    if before is None:
        _check_usable(index, max_skipped)
        _save(path, index.fingerprint, contents)
    elif index_of(before, cache).fingerprint != index.fingerprint:
        raise DataError(
            f"The shards have changed since {path} was made; restore them, or start over in "
            "another folder"
        )
    elif [content.shard for content in before] != list(names):
        _save(path, index.fingerprint, contents)  # the same shards at another place
    return index


def _check_usable(index: ShardIndex, limit: float) -> None:
    check_tars(index)
    total = len(index.clips) + index.unusable
    if index.unusable > limit * total:
        raise DataError(
            f"{index.unusable} of {total} samples are unusable ({index.left_out()}), more than "
            f"data.max_skipped ({limit:g}) allows"
        )


def _save(path: Path, fingerprint: str, contents: Sequence[ShardContent]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        head = {"format": FORMAT, "shards": len(contents), "fingerprint": fingerprint}
        for value in (head, *map(_plain, contents)):
            file.write(json.dumps(value, separators=(",", ":")) + "\n")


def _load(path: Path) -> list[ShardContent] | None:
    """Return the content of the file; None if it does not exist, or is damaged: a line says so."""
    try:
        with damage(path):
            head, *lines = path.read_text(encoding="ascii").splitlines() or [""]
            about = as_object(json.loads(head))
            contents = [_content(json.loads(line)) for line in lines]
            if about["format"] != FORMAT or about["shards"] != len(contents):
                raise ValueError("it is of another version, or truncated")
            if about["fingerprint"] != index_of(contents, None).fingerprint:
                raise ValueError("its fingerprint is another")
    except FileNotFoundError:
        return None
    except Damaged as damaged:
        say(f"{path} is damaged ({damaged.reason}) and made again from the shards")
        return None
    return contents


def _plain(content: ShardContent) -> dict[str, Any]:
    return {
        "shard": content.shard,
        "size": content.size,
        "modified": content.modified,
        "ignored": content.ignored,
        "clips": [[clip.key, *clip.video, clip.caption, *_more(clip)] for clip in content.clips],
        "skipped": [[skip.key, skip.reason, skip.cause] for skip in content.skipped],
    }


def _more(clip: ClipRef) -> list[Any]:
    """Return what only an image or a clip whose shape is known has."""
    return [clip.is_image, clip.shape] if clip.is_image or clip.shape else []


def _clip(shard: str, plain: Sequence[Any]) -> ClipRef:
    key, offset, size, caption, *more = plain
    is_image, shape = more or (False, None)
    return ClipRef(shard, key, (offset, size), caption, is_image, shape and tuple(shape))


def _content(value: Mapping[str, Any]) -> ShardContent:
    shard = value["shard"]
    return ShardContent(
        shard=shard,
        size=value["size"],
        modified=value["modified"],
        clips=tuple(_clip(shard, plain) for plain in value["clips"]),
        skipped=tuple(Skip(key, shard, reason, cause) for key, reason, cause in value["skipped"]),
        ignored=value["ignored"],
    )
