"""Shards that are fetched from the web, those on the Hugging Face hub included."""

from __future__ import annotations

import re

from nasvid.recipe.paths import WEB

HUB = "hf"
"""Scheme of addresses on the Hugging Face hub, as in `huggingface_hub.HfFileSystem`."""
ON_HUB = re.compile(
    r"hf://(?P<kind>datasets/|spaces/)?(?!(?:datasets|spaces|models|buckets)/)"
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)"
)
KINDS = {"datasets/": "dataset", "spaces/": "space", None: "model"}


def is_web(url: str) -> bool:
    """Return whether a shard is fetched from the web, rather than by a program."""
    return url.partition(":")[0].lower() in (*WEB, HUB)


def web_address(url: str) -> tuple[str, dict[str, str]]:
    """Return where a shard is on the web, and the headers for that host and no other.

    On the hub `HF_ENDPOINT` names another host, and the token is that of `hf auth login` or
    `HF_TOKEN`.
    """
    found = ON_HUB.fullmatch(url)
    if found is None:
        return url, {}
    from huggingface_hub import get_token, hf_hub_url

    kind, repo, revision, file = found.groups()
    revision = revision and revision.replace("%2F", "/")
    address = hf_hub_url(repo, file, repo_type=KINDS[kind], revision=revision)
    token = get_token()
    return address, {"Authorization": f"Bearer {token}"} if token else {}


def advice(url: str, status: int) -> str:
    """Return what to do about an HTTP status, as the end of a message; "" if nothing is known."""
    if ON_HUB.fullmatch(url) and status in (401, 403):
        return "; correct the name, or run `hf auth login`"
    return ""
