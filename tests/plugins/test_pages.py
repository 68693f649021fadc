"""Each kind of plug-in has a page, whose test file passes as it stands, beside its plug-ins."""

import importlib
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from nasvid.plugins.registry import KINDS
from tests.processes import Started

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SUITE = re.compile(r"class (Test\w+)\(\w+Conformance\)")
VECTORS = "".join(
    f"{word} {' '.join(str(((7 * i + 3 * k) % 5) - 2) for k in range(8))}\n"
    for i, word in enumerate(["a", "cat", "dog", "runs"])
)


def write_page(kind: str, folder: Path) -> list[str]:
    """Write a page's test file and the plug-ins that it imports; return its classes of tests.

    Plug-ins that the page only describes are examples of the project.
    """
    blocks = BLOCK.findall((DOCS / f"{kind}.md").read_text())
    (test,) = (block for block in blocks if SUITE.search(block))
    (folder / f"test_{kind}.py").write_text(test)
    for module, name in re.findall(r"^from (\w+) import (\w+)$", test, re.MULTILINE):
        if module == "nasvid":
            continue
        shown = [block for block in blocks if re.search(rf"^class {name}\b", block, re.MULTILINE)]
        (kept,) = EXAMPLES.glob(f"*/{module}.py") if not shown else [None]
        if kept is None:
            (folder / f"{module}.py").write_text(shown[0])
        else:
            shutil.copy(kept, folder)
    return SUITE.findall(test)


def run_tests(folder: Path) -> None:
    """Run the tests of a folder, as in a project of its own."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.exit(pytest.main(["-v", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]))


@pytest.mark.slow
def test_the_test_file_of_each_page_passes_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text(VECTORS)
    classes = [name for kind in KINDS for name in write_page(kind, tmp_path)]
    assert len(classes) == len(set(classes)) > len(KINDS)
    process = Started(tmp_path / "said", run_tests, tmp_path)
    assert process.wait(300) == 0, process.said
    for name in classes:
        assert process.said.count(f"::{name}::") >= 5


def test_every_kind_has_a_page_that_names_its_suite() -> None:
    readme = (ROOT / "README.md").read_text()
    for kind in KINDS:
        text = (DOCS / f"{kind}.md").read_text()
        assert f"(docs/{kind}.md)" in readme
        assert re.search(
            r"[Tt]he suite of an? [\w ]+ is\s`\w+Conformance`", text.replace("\n", " ")
        )
        assert "pip install 'nasvid[testing]'" in text


def test_the_suites_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(need.startswith("pytest") for need in extras["optional-dependencies"]["testing"])
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "nasvid.testing", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nasvid\[testing\]'"):
        importlib.import_module("nasvid.testing")
