"""No two rooms of the house know each other: lazy imports and those for types count as well."""

import ast
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [ROOT / "nasvid", ROOT / "spaces/nasvid_spaces", ROOT / "strategies/nasvid_strategies"]

Graph = dict[str, set[str]]


def room(module: str) -> str:
    """Return the folder of a package that a module is in; a module beside them is its own room."""
    return ".".join(module.split(".")[:2])


def modules_of(package: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(module: str, path: Path) -> Iterator[str]:
    """Yield all that a module imports anywhere in it: modules, and names in them."""
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), inside)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def rooms(packages: Sequence[Path]) -> Graph:
    """Return which room imports which."""
    modules = {name: path for package in packages for name, path in modules_of(package).items()}
    graph: Graph = {room(module): set() for module in modules}
    for module, path in modules.items():
        for name in imported(module, path):
            target = name
            while target not in modules and "." in target:
                target = target.rpartition(".")[0]
            if target in modules and room(target) != room(module):
                graph[room(module)].add(room(target))
    return graph


def cycle(graph: Graph) -> list[str]:
    """Return rooms that import each other in a ring, the first one again at the end; or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_rooms_import_each_other():
    graph = rooms(PACKAGES)
    assert graph["nasvid.run"] >= {"nasvid.search", "nasvid.training"}
    assert graph["nasvid_spaces.elastic_unet"] >= {"nasvid.space"}
    assert cycle(graph) == []


@pytest.mark.parametrize(
    "code",
    [
        "from house.attic import box",
        "def f():\n    import house.attic.box",
        "if TYPE_CHECKING:\n    from house import attic",
        "from ..attic.box import lid",
    ],
    ids=["plain", "lazy", "for types", "relative"],
)
def test_a_ring_is_found_however_it_is_imported(tmp_path, code):
    files = {
        "attic/__init__.py": "",
        "attic/box.py": "from house.noun import thing",
        "noun.py": "from house.cellar import shelf",
        "cellar/__init__.py": "",
        "cellar/shelf.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cycle(rooms([tmp_path / "house"])) == []
    (tmp_path / "house/cellar/shelf.py").write_text(code)
    assert set(cycle(rooms([tmp_path / "house"]))) == {"house.attic", "house.noun", "house.cellar"}
