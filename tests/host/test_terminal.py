"""Text that somebody else wrote is shown on the terminal, and not obeyed by it."""

import ast
import io
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.table import Table

from nasvid.cli.main import main
from nasvid.host.console import Console
from nasvid.host.display import Display
from nasvid.host.terminal import one_line, say, shown

ROOT = Path(__file__).parents[2]
SHIPPED = ("nasvid", "spaces", "strategies")
MAY_PRINT = ("nasvid/host/terminal.py", "nasvid/cli/entry.py")
"""The latter one word of its own, when an import may just have failed."""
HOSTILE = "a\x1b[2Jb\x07\r\x9b\u202e\udc80\0c"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("two\nlines,\ta tab", "two\nlines,\ta tab"),
        ("ein Hündchen läuft 🐕\u200d🦺 走る", "ein Hündchen läuft 🐕\u200d🦺 走る"),
        (HOSTILE, r"a\x1b[2Jb\x07\r\x9b\u202e\udc80\x00c"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, seen: str) -> None:
    assert shown(text) == seen


def test_a_caption_stays_on_its_line() -> None:
    assert one_line("a\nerror: b") == r"a\nerror: b"


def test_what_a_terminal_cannot_show_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    say("läuft \ud800")
    assert buffer.getvalue() == b"l\\xe4uft \\ud800\n"


def test_tables_and_the_display_are_under_the_same_rule(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table(box=None)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    Console(file=sys.stdout, force_terminal=True, highlight=False, width=200).print(table, HOSTILE)
    Display().say(HOSTILE)
    printed = capsys.readouterr().out
    assert printed.count(r"\x1b[2J") == 4
    assert "\x1b[2J" not in printed
    assert not set("\x07\x9b\u202e\0") & set(printed)


def test_an_error_quotes_a_name_and_does_not_send_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(tmp_path / "\x1b]0;title\x07")])
    assert result.exit_code == 2
    assert r"\x1b]0;title\x07" in result.stderr
    assert "\x1b" not in result.stderr


def _prints(tree: ast.Module) -> list[int]:
    """The lines of a module that print past `nasvid.host.terminal`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "click.echo", "click.secho", "sys.stdout.write"):
                found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
            found.append(node.lineno)
    return found


def test_nothing_else_prints() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in SHIPPED
        for path in sorted((ROOT / folder).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in MAY_PRINT
        for line in _prints(ast.parse(path.read_text()))
    ]
    assert found == []
