"""This machine's memory, cores and processor flags. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

SHARED = Path("/dev/shm")


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
    """Bytes of the memory that processes share, all and free."""

    total: int
    free: int


def shared_memory() -> SharedMemory | None:
    """Return what `/dev/shm` has; None if there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return SharedMemory(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


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
