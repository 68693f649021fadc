import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


@pytest.fixture
def make_shard(tmp_path: Path) -> Callable[..., Path]:
    """Write a shard of clips with the given captions, whose videos nothing opens."""

    def make(name: str, captions: Sequence[str]) -> Path:
        with tarfile.open(tmp_path / name, "w") as tar:
            for number, caption in enumerate(captions):
                for ending, body in (("mp4", b"video"), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{number}.{ending}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
        return tmp_path / name

    return make
