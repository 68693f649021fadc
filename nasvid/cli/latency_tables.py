"""What `nasvid latency check` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nasvid.cli.tables import show_table
from nasvid.host.terminal import say
from nasvid.host.words import counted

if TYPE_CHECKING:
    from nasvid.run.latency import Report


def show_check(report: Report) -> None:
    """Print the errors at each resolution, then the seconds of a clip."""
    n = len(next(iter(report.checked.values())).measured)
    columns = ("resolution", "predicted by", "median error", "90%", "worst", "bias", "tau")
    what = f"{counted(n, 'architecture')} on {report.made}"
    show_table(f"Error of predicted milliseconds, {what}", columns, _errors(report))
    left_out = f", without {' and '.join(report.missing)}" if report.missing else ""
    say(f"Seconds of one clip, {report.steps} steps with guidance{left_out}")
    rows = [
        (resolution, *(f"{seconds[end]:.3g}" for end in ("smallest", "largest")))
        for resolution, seconds in report.clips.items()
    ]
    show_table("", ("resolution", "smallest", "largest"), rows)


def _errors(report: Report) -> Iterator[tuple[object, ...]]:
    for resolution, checked in report.checked.items():
        ms = f"{resolution} ({checked.measured.min():.3g} to {checked.measured.max():.3g} ms)"
        for name, error in checked.errors.items():
            shares = (error.median, error.most, error.worst)
            yield (
                *(ms, name),
                *(f"{share:.1%}" for share in shares),
                f"{error.bias:+.1%}",
                "not defined" if error.tau is None else f"{error.tau:.2f}",
            )
            ms = ""
