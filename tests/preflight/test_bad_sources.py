"""Clips that a recipe or a command names and that cannot be had: one message each."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


def test_shards_that_are_not_there(error_of, write_recipe: Write) -> None:
    Path("shards").mkdir()
    Path("shards/000.tar").write_bytes(b"")
    shards = "data: {train: 'shards/00{0..3}.tar', frames: 4,"
    recipe = write_recipe({"data: {frames: 4,": shards})
    message = error_of("run", recipe.name)
    assert message.startswith("recipe.yaml:5: data.train: shard ")
    assert "shards/001.tar" in message
    assert "nearest file is" in message


SOURCES = {
    "http://host/{0..2}.tar.gz": "is compressed",
    "http:///000.tar": "names no host; write SCHEME://HOST/PATH",
    "https://host/": "names no file",
    "https://host/*.tar": "name them with {000..127}",
    "htps://host/000.tar": "'htps' is not supported; did you mean 'https'",
    "hf://datasets/me/000.tar": "write hf://datasets/OWNER/NAME/FILE, or NAME@REVISION",
    "pipe:cat 000.tar": "would run a command in a shell; if you trust the recipe",
    "pipe: ": "names no command",
}


@pytest.mark.parametrize("source", SOURCES)
def test_source_that_cannot_be_one(error_of, source: str, write_recipe: Write) -> None:
    recipe = write_recipe({"data: {frames: 4,": f"data: {{val: ['{source}'], frames: 4,"})
    message = error_of("run", recipe.name)
    assert message.startswith("recipe.yaml:5: data.val: ")
    assert SOURCES[source] in message
    assert "\n" not in message


def test_source_whose_tool_is_not_here(
    error_of, write_recipe: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = error_of("run", write_recipe().name, "--set", "data.train=s3://bucket/000.tar")
    assert message.startswith("--set data.train=s3://bucket/000.tar: data.train: ")
    assert "is fetched by `aws`, which is not installed; install it" in message


def test_inspection_of_sources_that_are_gone(error_of) -> None:
    gone = "http://127.0.0.1:1/{000..002}.tar"
    message = error_of("data", "inspect", gone, "--retries", "0")
    assert message.startswith("None of the first 2 of 3 shards can be fetched; the first, http://")
    assert "allow-pipes" in error_of("data", "inspect", "pipe:cat x")


def test_embedded_clips_of_a_kind_that_does_not_exist(error_of, write_recipe: Write) -> None:
    """Not even if it is the start of one that does."""
    for verb in (["run"], ["run", "--dry-run"], ["plan"]):
        message = error_of(*verb, write_recipe().name, "--set", "data.train=embedded:foo")
        assert (
            "data.train: 'embedded:foo' does not exist; use one of embedded, embedded:digits"
            in message
        )
