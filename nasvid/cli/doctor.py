"""What this machine has, what it lacks and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nasvid.export.formats import STEPS
from nasvid.host.machine import (
    host_memory,
    low_shared_memory,
    processor,
    shared_memory,
    usable_cores,
)
from nasvid.host.words import bytes_text
from nasvid.plugins.needs import Need
from nasvid.plugins.registry import KINDS, PluginError, available, load

OWN = ("diffusers", "webdataset", "pymoo")
"""nasvid's own requirements whose versions are shown."""
TENSORBOARD = Need("tensorboard", "pip install 'nasvid[tensorboard]'")
LOW_DISK = 10e9
"""Free bytes below which a run may not have room for its checkpoints."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    """What to do; empty if nothing is wrong."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Check this machine; takes as long as importing torch."""
    return [*_host(), *_torch(), *_video(), *_packages()]


def _host() -> Iterator[Finding]:
    yield Finding("python", True, platform.python_version())
    name, flags = processor()
    yield Finding("processor", True, f"{name or platform.machine()}, {usable_cores()} cores")
    fast = sorted(flags & {"amx_bf16", "avx512_bf16"})
    yield Finding(
        "bf16 on the CPU",
        "amx_bf16" in flags,
        ", ".join(fast) or "no amx_bf16, no avx512_bf16",
        "" if "amx_bf16" in flags else "none needed; precision: auto trains in fp32 on this CPU",
    )
    yield Finding("memory", True, f"{host_memory() / 1e9:.1f} GB")
    yield _shared()
    free = shutil.disk_usage(os.getcwd()).free
    roomy = free > LOW_DISK
    advice = "" if roomy else "free some space, or put runs elsewhere with --out"
    yield Finding("disk", roomy, f"{free / 1e9:.1f} GB free in this folder", advice)


def _shared() -> Finding:
    memory = shared_memory()
    found = f"{bytes_text(memory.total)} in /dev/shm" if memory else "no /dev/shm"
    advice = low_shared_memory().partition("; ")[2]
    return Finding("shared memory", not advice, found, advice)


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", True, str(torch.__version__))
    count = torch.cuda.device_count()
    if count == 0:
        built = torch.version.cuda
        advice = (
            "install a driver if this machine has a GPU"
            if built
            else "install a CUDA build of torch if this machine has a GPU"
        )
        found = f"torch was built {f'for CUDA {built}' if built else 'without CUDA'}"
        yield Finding("CUDA", False, f"{found}; no GPU found", advice)
    for index in range(count):
        device = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found = (
            f"{device.name}, {device.total_memory / 1e9:.1f} GB, {'bf16' if bf16 else 'no bf16'}"
        )
        yield Finding(f"cuda:{index}", True, found)


def _video() -> Iterator[Finding]:
    import av

    yield Finding("PyAV", True, av.__version__)
    missing = [name for name in ("h264", "mpeg4", "vp9") if name not in av.codecs_available]
    yield Finding(
        "decoders",
        not missing,
        f"no {', '.join(missing)}" if missing else "h264, mpeg4, vp9",
        "install av's own wheel: pip install --force-reinstall av" if missing else "",
    )
    writes = "libx264" in av.codecs_available
    advice = "" if writes else "install av's own wheel: pip install --force-reinstall av"
    yield Finding("encoder", writes, "libx264" if writes else "no libx264", advice)


def _packages() -> Iterator[Finding]:
    for name in OWN:
        need = Need(name, "pip install --force-reinstall nasvid")
        yield _package(need, ["nasvid"])
    yield _package(TENSORBOARD, ["training.tensorboard"])
    for name, of in STEPS.items():
        for need in of.needs:
            yield _package(need, [f"--format {name}"])
    users: dict[Need, list[str]] = {}
    for origin in (each for kind in KINDS for each in available(kind).values()):
        called = f"{origin.kind}/{origin.name}"
        try:
            cls = load(origin.kind, origin.name)
        except PluginError as error:
            yield Finding(called, False, str(error), f"fix or uninstall {origin.source}")
            continue
        for need in cls.needs:
            users.setdefault(need, []).append(called)
    for need, names in users.items():
        yield _package(need, names)


def _package(need: Need, users: Sequence[str]) -> Finding:
    found = need.version()
    advice = "" if found else f"for {', '.join(users)}: {need.install}"
    return Finding(need.package, found is not None, found or "not installed", advice)
