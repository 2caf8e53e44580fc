"""The house as it is meant to be: no circles, no floors mixed, files and functions that one reads in a sitting, one thing for one name."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("charon_actors", "actors", "supervisors")
MAX_LINES, MAX_FUNCTION_LINES = 500, 60


def product() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if not path.name.endswith("_pb2.py")]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


MODULES = {module_of(path): path for path in product()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules of ours that are imported anywhere in it: on top, in functions, for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in MODULES:
                    yield name
                elif node.module in MODULES:
                    yield node.module


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected sets of more than one (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            circle = [stack.pop()]
            while circle[-1] != name:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imports(tree_of(path))) - {name} for name, path in MODULES.items()}
    assert circles(graph) == []


@pytest.mark.parametrize(
    "path", [*product(), *sorted((ROOT / "docs").glob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_and_functions_are_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, f"{node.name} in line {node.lineno}"


def test_tests_of_a_floor_use_nothing_of_the_floors_above() -> None:
    above = {"charon_actors": ("actors", "supervisors", "charon_actors.cli"), "actors": ("supervisors", "charon_actors.cli")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for floor, forbidden in above.items()
        for path in sorted((ROOT / "tests" / floor).rglob("*.py"))
        for name in imports(tree_of(path))
        if name.startswith(tuple(f"{package}." for package in forbidden)) or name in forbidden
    ]
    assert wrong == []


def definitions() -> dict[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for name, path in MODULES.items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                found[node.name].append(name)
    return found


# Words of a contract that many rooms have: the room says whose they are.
ROOM_WORDS = {"Message", "Settings", "Peer"}


def test_classes_have_a_name_of_their_own() -> None:
    classes: Counter[Any] = Counter()
    places = defaultdict[str, list[str]](list)
    for name, path in MODULES.items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name] += 1
                places[node.name].append(name)
    assert {name: places[name] for name, count in classes.items() if count > 1 and name not in ROOM_WORDS} == {}
