"""Nothing stands in the product that only tests reach.

A declaration is a class, function, method, constant of a module, or field of a class. It is reached when its name is used by what a
module does when it is imported, or by the body of another declaration that is reached; who imports it, or lists it in a face, has not
used it yet. Names are all that is compared, so a method is reached when any method of that name is. What is left has its reason below.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.docs.product import MODULES, tree_of

EXCEPTIONS: dict[str, str] = {}


class Declaration(NamedTuple):
    place: str
    name: str
    uses: frozenset[str]
    owner: str  # the class that it stands in


def names_in(node: ast.AST) -> set[str]:
    """Everything that is read: variables, attributes, fields in patterns, names as texts of annotations."""
    found: set[str] = set()
    for part in ast.walk(node):
        match part:
            case ast.Name(name, ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                found.add(name)
            case ast.MatchClass(kwd_attrs=names):
                found |= set(names)
                found |= positional_fields(part)
            case ast.Call(ast.Name("getattr" | "hasattr"), [_, ast.Constant(str(name)), *_]):
                found.add(name)
    return found


def fields_of() -> dict[str, list[str]]:
    """Fields of each class, in the order of their positions in a pattern."""
    return {
        node.name: [each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
        for path in MODULES.values()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }


FIELDS = fields_of()


def positional_fields(pattern: ast.MatchClass) -> set[str]:
    name = pattern.cls.attr if isinstance(pattern.cls, ast.Attribute) else getattr(pattern.cls, "id", "")
    bound = zip(FIELDS.get(name, []), pattern.patterns, strict=False)
    return {field for field, part in bound if not (isinstance(part, ast.MatchAs) and part.name is None and part.pattern is None)}


def declarations() -> tuple[list[Declaration], set[str]]:
    """All of them, and what modules use when they are imported."""
    found: list[Declaration] = []
    at_import: set[str] = set()

    def visit(module: str, body: list[ast.stmt], owner: str) -> None:
        for node in body:
            place = f"{module}.{owner}." if owner else f"{module}."
            match node:
                case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                    found.append(Declaration(place + name, name, frozenset(names_in(node)), owner))
                case ast.ClassDef(name):
                    head = {used for part in [*node.bases, *node.keywords, *node.decorator_list] for used in names_in(part)}
                    found.append(Declaration(place + name, name, frozenset(head), owner))
                    visit(module, node.body, f"{owner}.{name}" if owner else name)
                case ast.AnnAssign(ast.Name(name), annotation, value):
                    uses = names_in(annotation) | (names_in(value) if value else set())
                    found.append(Declaration(place + name, name, frozenset(uses), owner))
                case ast.Assign(targets, value):
                    for target in targets:
                        for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                            if isinstance(each, ast.Name):
                                found.append(Declaration(place + each.id, each.id, frozenset(names_in(value)), owner))
                            else:
                                at_import.update(names_in(value))
                case ast.If(body=inner, orelse=rest) if not owner:
                    at_import.update(names_in(node.test))
                    visit(module, inner, owner)
                    visit(module, rest, owner)
                case ast.Import() | ast.ImportFrom():
                    pass
                case _:
                    at_import.update(names_in(node))

    for module, path in MODULES.items():
        visit(module, tree_of(path).body, "")
    return found, at_import


def unreached() -> Iterator[str]:
    found, reached = declarations()
    by_name = defaultdict[str, list[Declaration]](list)
    for each in found:
        by_name[each.name].append(each)
    reached |= {"main"}
    waiting = list(reached)
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        for each in by_name[name]:
            waiting += each.uses - done
            own = f"{each.owner}.{name}" if each.owner else name
            waiting += [  # of a class that is reached: what Python itself calls
                inner.name for inner in found if inner.owner == own and is_special(inner.name) and inner.name not in done
            ]
    for each in found:
        if each.name not in done and not is_special(each.name):
            yield each.place


def is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def test_nothing_stands_in_the_product_that_only_tests_reach() -> None:
    assert set(unreached()) == EXCEPTIONS.keys()
