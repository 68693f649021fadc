"""The HTML report of a run."""

from nasvid.report.page import write_report

__all__ = ["write_report"]
