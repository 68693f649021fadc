"""Packages that a plug-in needs beyond nasvid's own, checked without importing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True)
class Need:
    """A package, by its distribution name, and the command that installs it."""

    package: str
    install: str

    def version(self) -> str | None:
        """Return the installed version, or None."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def missing(needs: Iterable[Need]) -> list[Need]:
    """Return the needs that are not installed."""
    return [need for need in needs if need.version() is None]
