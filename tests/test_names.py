"""What the core may not know by name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("deepspeed", "nni", "transformers")
IMPORTED = f"""
import sys
from nasvid.plugins import KINDS, available, load
for kind in KINDS:
    for name in available(kind):
        load(kind, name).needs
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_no_plugin_is_named_outside_its_own_folder() -> None:
    """In code, comments, help texts and messages: what a plug-in is, it says itself."""
    named = re.compile(r"deepspeed|\bnni\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "nasvid").rglob("*.py"))
        if path.parent != ROOT / "nasvid" / "training" / "engines"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if named.search(line)
    ]
    assert found == []


@pytest.mark.slow
def test_asking_a_plugin_what_it_needs_imports_none_of_it() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
