"""This machine's memory, cores and processor flags. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nasvid.host.words import bytes_text

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

SHARED = Path("/dev/shm")
LOW_SHARED = 1e9
"""Bytes of shared memory below which batches may not fit; Docker gives 64 MB."""


def host_memory() -> int:
    """Return the memory that this process may use, in bytes: the machine's, or its container's."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        text = path.read_text().strip() if path.is_file() else "max"
        if text != "max":
            limits.append(int(text))
    return min(limits)


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """Size of the memory that processes can share, in bytes: in total, and free."""

    total: int
    free: int


def shared_memory() -> SharedMemory | None:
    """Return the size of `/dev/shm`, or None if there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return SharedMemory(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def low_shared_memory() -> str:
    """Return what to know if batches may not fit into the shared memory; "" if they do."""
    memory = shared_memory()
    if memory is not None and memory.total >= LOW_SHARED:
        return ""
    found = f"/dev/shm has only {bytes_text(memory.total)}" if memory else "there is no /dev/shm"
    return f"{found}; batches that do not fit are copied, which is slower. In Docker: --shm-size=8g"


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> tuple[str, frozenset[str]]:
    """Return the processor's name and its instruction-set flags; empty if unknown."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    return facts.get("model name", ""), frozenset(facts.get("flags", "").split())
