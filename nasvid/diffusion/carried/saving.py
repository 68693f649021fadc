"""Keeps the code of a pipeline with what is saved of it, so that the folder can be opened again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

DYNAMIC = "diffusers_modules"
"""The package in which diffusers puts the code of folders."""


def save_code(pipeline: Any, saved: Any) -> None:
    """Copy the code of a pipeline and of its parts into a folder that it is saved to.

    `model_index.json` and the configs of models then name it as in the folder of an export.
    """
    folder = Path(saved)
    index = json.loads((folder / "model_index.json").read_bytes())
    if module := _copied(type(pipeline), folder):
        index["_class_name"] = [module, type(pipeline).__name__]
    for name, part in pipeline.components.items():
        cls = type(getattr(part, "_orig_mod", part))  # of a compiled one
        if module := _copied(cls, folder / name):
            index[name] = [module, cls.__name__]
            path = folder / name / "config.json"
            named = {"auto_map": {"AutoModel": f"{module}.{cls.__name__}"}}
            content = {**json.loads(path.read_bytes()), **named}
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    path = folder / "model_index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copied(cls: type, folder: Path) -> str:
    """Copy the module of a class that came with a folder; return its name there, or nothing."""
    package, _, name = cls.__module__.rpartition(".")
    source = getattr(sys.modules[cls.__module__], "__file__", None)
    if not package.startswith(DYNAMIC) or source is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / f"{name}.py")
    return name
