"""rich's console, for tables and progress bars, escaping as `nasvid.host.terminal` does."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from nasvid.host.terminal import shown


class Console(rich.console.Console):
    """Shows control characters as escapes, before rich adds its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text in rich's form, with control characters escaped."""
        return super().render_str(shown(text), **options)
