"""Functions take a few values each, and no config is typed as anything."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(*folders: str) -> Iterator[tuple[Path, Function]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, Function):
                    yield path.relative_to(ROOT), node


def parameters(function: Function) -> list[ast.arg]:
    taken = function.args
    rest = [each for each in (taken.vararg, taken.kwarg) if each]
    named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *rest]
    return [each for each in named if each.arg not in ("self", "cls")]


CALLED_BY_OTHERS = "nasvid/diffusion/carried/pipeline.py"
"""Whose methods take what those who use pipelines of diffusers give them."""


def is_command(function: Function) -> bool:
    """Whether click makes its parameters from the command line."""
    decorators = [ast.unparse(each) for each in function.decorator_list]
    return any(".command" in each or "click." in each for each in decorators)


def too_many(limit: int, *folders: str) -> list[str]:
    return [
        f"{path}:{function.lineno} {function.name}: {len(parameters(function))}"
        for path, function in functions(*folders)
        if len(parameters(function)) > limit
        and not is_command(function)
        and str(path) != CALLED_BY_OTHERS
    ]


def test_no_function_takes_more_than_eight_parameters():
    assert too_many(8, "nasvid", "spaces", "strategies") == []


def test_no_function_of_training_takes_more_than_six():
    assert too_many(6, "nasvid/training") == []


def test_no_config_is_typed_as_anything():
    loose = [
        f"{path}:{function.lineno}"
        for path, function in functions("nasvid", "spaces", "strategies", "examples")
        for each in parameters(function)
        if each.arg == "config"
        and (each.annotation is None or ast.unparse(each.annotation) == "Any")
    ]
    assert loose == []
