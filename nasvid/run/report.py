"""The stage that writes the report."""

from __future__ import annotations

from nasvid.report import write_report
from nasvid.run.session import Session


def report(session: Session) -> None:
    """Write report.html."""
    path = write_report(session.folder.path)
    session.display.say(f"report: {path}")
