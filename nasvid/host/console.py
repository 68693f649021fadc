"""rich's console, for tables and progress bars, under the rule of `nasvid.host.terminal`."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from nasvid.host.terminal import shown


class Console(rich.console.Console):
    """Shows control characters as escapes; it comes to each text before rich adds its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as rich shows it."""
        return super().render_str(shown(text), **options)
