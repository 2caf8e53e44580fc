"""The house as it is meant to be: no circles, no floors mixed, files and functions that one reads in a sitting, one thing for one name.

import      from its own room: from the module that defines it; from another room: from that room's face, its `__init__.py`.
            Rooms whose face lists nothing have none, and each of their modules is the face of what it defines
name        a class or function of the product is called like no other, but for the words below
size        a file of at most 500 lines, a function of at most 60; one that is longer says why in a comment on its first line
"""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.docs.product import MODULES, ROOT, imported_names, tree_of

MAX_LINES, MAX_FUNCTION_LINES = 500, 60

# Words of a contract that many rooms have: the room says whose they are.
ROOM_WORDS = {
    "Settings": "what an actor is made with",
    "run": "a command's body, one a module of cli/commands",
    "define": "a step of a kind of duty, one a module of duties/kinds",
    "fetch": "a step of a kind of duty",
    "submit": "a step of a kind of duty",
}


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
    graph = {name: {other for other, _ in imported_names(tree_of(path))} - {name} for name, path in MODULES.items()}
    assert circles(graph) == []


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def faces() -> set[str]:
    """Rooms whose `__init__.py` says what others may use."""
    return {name for name, path in MODULES.items() if path.name == "__init__.py" and "\n__all__ = " in path.read_text("utf-8")}


def test_a_name_is_imported_on_one_path() -> None:
    with_face = faces()
    wrong = []
    for name, path in MODULES.items():
        for module, imported in imported_names(tree_of(path)):
            room = room_of(module)
            if room not in with_face or not imported or name == room:
                continue
            if room_of(name) == room and module == room:
                wrong.append(f"{name} imports {imported} from the face of its own room")
            elif room_of(name) != room and module != room:
                wrong.append(f"{name} imports {imported} from inside of {room}")
    assert wrong == []


def test_a_face_lists_what_its_room_defines() -> None:
    for room in faces():
        tree = tree_of(MODULES[room])
        foreign = [module for module, _ in imported_names(tree) if room_of(module) != room_of(room)]
        assert foreign == [] or room_of(room) != room, f"{room} passes on what {foreign} define"


def first_line_says_why(lines: list[str], number: int) -> bool:
    return "  # long: " in lines[number - 1]


@pytest.mark.parametrize(
    "path", [*MODULES.values(), *sorted((ROOT / "docs").glob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_and_functions_are_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MAX_LINES or first_line_says_why(lines, 1)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES or first_line_says_why(lines, node.lineno), f"{node.name}: {length} lines"


def test_tests_of_a_floor_use_nothing_of_the_floors_above() -> None:
    above = {"charon_actors": ("actors", "supervisors", "charon_actors.cli"), "actors": ("supervisors", "charon_actors.cli")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for floor, forbidden in above.items()
        for path in sorted((ROOT / "tests" / floor).rglob("*.py"))
        for name in modules_of(tree_of(path))
        if any(f"{name}.".startswith((f"{package}.", f"tests.{package.split('.')[-1]}.")) for package in forbidden)
    ]
    assert wrong == []


def modules_of(tree: ast.AST) -> set[str]:
    """All that it imports anywhere, ours or not; a name of a module counts as a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_classes_and_functions_have_a_name_of_their_own() -> None:
    places = defaultdict[str, list[str]](list)
    for name, path in MODULES.items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in shared.items() if name not in ROOM_WORDS} == {}
    assert ROOM_WORDS.keys() <= shared.keys(), "words that only one room uses now are names like any other"
