"""`nasvid` itself: what a plug-in's author imports from it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nasvid


@pytest.mark.parametrize("name", nasvid.__all__)
def test_each_name_is_offered(name):
    assert getattr(nasvid, name) is not None
    assert name in dir(nasvid)


def test_type_checkers_see_what_is_offered():
    """The lazy table, `__all__` and the imports for type checkers say the same."""
    (block,) = (node for node in ast.parse(Path(nasvid.__file__).read_text()).body if is_if(node))
    seen = {
        alias.name: node.module.removeprefix("nasvid.")
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert seen == nasvid._HOME
    assert list(seen) != []
    assert sorted(seen) == sorted(nasvid.__all__)


def is_if(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'SearchSpaces'"):
        nasvid.SearchSpaces  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "code", ["import nasvid", "from nasvid.cli.main import main; main(['-h'])"]
)
def test_neither_the_import_nor_the_help_loads_torch(code):
    script = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
