"""Configs of models on the Hugging Face hub, and why one cannot be had."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nasvid.errors import UserError, first_line
from nasvid.host.weights import find_weights, read_config

HUB = "the Hugging Face hub"


def could_be_a_model(name: str) -> bool:
    """Return whether a name is a folder that exists, or looks like `owner/name` on a hub."""
    return Path(name).is_dir() or re.fullmatch(r"[\w.-]*\w/[\w.-]+", name) is not None


def why_no_model(name: str) -> str:
    """Return what is wrong with a name that is neither a folder nor looks like one on a hub."""
    if Path(name).is_file():
        return f"{name} is a file; name its folder, {Path(name).parent}"
    return f"folder {name} does not exist"


def hub_config(name: str, subfolder: str = "") -> dict[str, Any]:
    """Return the `config.json` of a model on the hub, fetched if it is not in the hub's cache.

    Raises:
        UserError: it cannot be had; the message says why, and what to do.
    """
    file = "/".join(part for part in (subfolder, "config.json") if part)
    return read_config(_fetched(name, file).parent)


def hub_folder(name: str, file: str, pattern: str) -> Path:
    """Return a folder with those files of a repository on the hub whose names match a pattern.

    file: one of them, which is at the top of the repository.

    Raises:
        UserError: they cannot be had; the message says why, and what to do.
    """
    import huggingface_hub as hub

    _fetched(name, file)
    try:
        return Path(hub.snapshot_download(name, allow_patterns=pattern))
    except Exception as error:  # those of the client's HTTP library, too
        raise UserError(_why(name, file, error)) from error


def snapshot(name: str) -> Path | None:
    """Return the folder of what this machine's cache has of a repository on the hub, or None."""
    import huggingface_hub as hub

    if Path(name).is_dir() or not could_be_a_model(name):
        return None
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # there is nothing
        return None


def local_folder(name: str, subfolder: str) -> Path | None:
    """Return a local folder, or a snapshot of the hub's if it has a whole model in `subfolder`."""
    if Path(name).is_dir():
        return Path(name)
    found = snapshot(name)
    try:
        return found if found is not None and find_weights(found / subfolder).files else None
    except UserError:
        return None


def hub_pipeline(name: str) -> str | None:
    """Return the class of a pipeline on the hub; None if the repository holds none.

    Raises:
        UserError: it cannot be had; the message says why, and what to do.
    """
    import huggingface_hub as hub

    file = "model_index.json"
    found = hub.try_to_load_from_cache(name, file)
    if found is not None and not isinstance(found, str):
        return None  # a fetch has found that there is none
    try:
        index = json.loads(_fetched(name, file).read_bytes())
        return str(index["_class_name"])
    except UserError as error:
        if isinstance(error.__cause__, hub.errors.EntryNotFoundError):
            return None
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} of '{name}' names no pipeline: {error}") from error


def _fetched(name: str, file: str) -> Path:
    import huggingface_hub as hub

    if not could_be_a_model(name):
        raise UserError(why_no_model(name))
    path = hub.try_to_load_from_cache(name, file)
    if not isinstance(path, str):
        try:
            hub.get_hf_file_metadata(hub.hf_hub_url(name, file))  # once: a download tries for long
            path = hub.hf_hub_download(name, file)
        except Exception as error:  # those of the client's HTTP library, too
            raise UserError(_why(name, file, error)) from error
    return Path(path)


def _why(name: str, file: str, error: Exception) -> str:
    from huggingface_hub import errors

    reason = first_line(error)
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{name}"
        return f"'{name}' on {HUB} is gated; accept its terms at {page}, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"'{name}' is not a local folder, and not on {HUB} or private there; correct the name, "
            "or run `hf auth login`"
        )
    if isinstance(error, errors.HfHubHTTPError):
        if isinstance(error, errors.EntryNotFoundError):
            return f"'{name}' on {HUB} has no {file}; correct subfolder"
        return f"'{name}' cannot be fetched from {HUB}: {reason}"
    return (
        f"'{name}' is not a local folder, and {HUB} cannot be reached ({reason}); name a folder, "
        f"or run `hf download {name}` where it can"
    )
