"""Errors of a plug-in's own code, as one line that says where."""

from __future__ import annotations

import traceback

from nasvid.plugins.registry import files


def fault(error: Exception) -> str | None:
    """Return which line of a plug-in failed and why; None if no plug-in's code was running."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if call.filename in files()]
    if not own:
        return None
    last, reason = own[-1], next(iter(str(error).splitlines()), "")
    return (
        f"{last.filename}:{last.lineno}: `{last.line}` of a plug-in fails "
        f"({type(error).__name__}: {reason}); with NASVID_TRACEBACK=1 all calls are shown"
    )
