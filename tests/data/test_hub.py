"""Shards on the Hugging Face hub: a server that redirects as the hub does, to another host."""

import shutil
from pathlib import Path

import pytest

from nasvid.data.cache import ShardCache
from nasvid.data.counts import shard_counts
from nasvid.data.errors import DataError
from nasvid.data.fetch import FetchError, fetch
from nasvid.data.web import web_address

SECRET = "hf_secret"


@pytest.fixture
def hub(source, uneven, monkeypatch):
    """Serve a dataset `me/clips`; return what hosts were sent which token."""
    from huggingface_hub import constants

    template = source.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    shutil.copytree(uneven, source.folder / "stored")
    tokens, answer = set(), source.answer

    def as_the_hub(to) -> None:
        host, token = to.headers["Host"].partition(":")[0], to.headers.get("Authorization")
        tokens.add((host, token))
        name = Path(to.path).name
        if token is None and host == "127.0.0.1":
            to.send_error(401)
        elif not to.path.startswith("/datasets/me/clips/resolve/v1/"):
            answer(to)
        elif (source.folder / "stored" / name).exists():
            to.send_response(302)
            port = source.server.server_port
            to.send_header("Location", f"http://localhost:{port}/stored/{name}")
            to.end_headers()
        else:
            to.send_error(404)

    source.answer = as_the_hub
    return tokens


def test_shards_on_the_hub_are_fetched_and_counted_and_only_it_gets_the_token(
    hub, uneven, tmp_path, quick
):
    names = [f"hf://datasets/me/clips@v1/{n:03d}.tar" for n in range(2)]
    counts = shard_counts(names, cache=ShardCache(tmp_path / "cache", retries=0))
    assert [count.samples for count in counts] == [7, 1]
    fetch(names[0], tmp_path / "a.tar", retries=0)
    assert (tmp_path / "a.tar").read_bytes() == (uneven / "000.tar").read_bytes()
    assert hub == {("127.0.0.1", f"Bearer {SECRET}"), ("localhost", None)}


def test_what_the_hub_refuses_says_what_to_do(hub, tmp_path, monkeypatch):
    url = "hf://datasets/me/clips@v1/9.tar"
    with pytest.raises(FetchError, match=r"^HTTP 404 Not Found$"):
        fetch(url, tmp_path / "a.tar", retries=0)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused = r"HTTP 401 Unauthorized; correct the name, or run `hf auth login`$"
    with pytest.raises(FetchError, match=refused):
        fetch(url, tmp_path / "a.tar", retries=0)
    with pytest.raises(DataError, match=refused):
        shard_counts([url], cache=ShardCache(tmp_path / "cache", retries=0))


def test_addresses_on_the_hub_are_those_of_its_own_library():
    address, _ = web_address("hf://me/model@refs%2Fpr%2F1/a b/000.tar")
    assert address == "https://huggingface.co/me/model/resolve/refs%2Fpr%2F1/a%20b/000.tar"
