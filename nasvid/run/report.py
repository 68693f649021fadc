"""The stage that writes the report, and the command that does only this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nasvid.host.display import Display
from nasvid.report import write_report
from nasvid.run.folder import existing

if TYPE_CHECKING:
    from nasvid.run.session import Session


def report(session: Session) -> None:
    """Write report.html."""
    path = write_report(session.folder.path)
    session.display.say(f"report: {path}")


def report_again(path: Path) -> None:
    """Rewrite a run's report.html from its files alone; no code that the recipe names is run."""
    Display().say(f"report: {write_report(existing(path).path)}")
