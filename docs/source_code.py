"""Source code as data: modules, who calls what, what a name is bound to. Part of generate_errors.py.

Modules are imported as well as parsed, so constants and classes are asked for, not computed anew. Nothing here knows of errors.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Module:
    path: str  # as shown: charon_actors/cli/commands/run.py
    name: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._imports: dict[Function, dict[str, str]] = {}
        self.namespace = vars(importlib.import_module(self.name))

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> Function | None:
        return next((each for each in self.above(node) if isinstance(each, FUNCTIONS)), None)

    def imported_in(self, function: Function) -> dict[str, str]:
        """Module by name, of the imports inside a function."""
        if function not in self._imports:
            imports = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
            self._imports[function] = {alias.name: node.module or "" for node in imports for alias in node.names}
        return self._imports[function]

    def place(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 0)}"


class Scope(NamedTuple):
    """Where an expression stands. depth: how many callers away from the call that is read."""

    module: Module
    function: Function | None
    depth: int = 0


class Code:
    """All modules of some packages below `root`, and who calls what in them."""

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        self.modules: list[Module] = []
        for path in sorted(each for package in packages for each in (root / package).rglob("*.py")):
            relative = path.relative_to(root)
            if not path.stem.endswith("_pb2"):
                name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
                self.modules.append(Module(relative.as_posix(), name, ast.parse(path.read_text("utf-8"))))
        self.calls: dict[str, list[tuple[Module, ast.Call]]] = {}
        self.functions: dict[str, list[tuple[Module, Function]]] = {}
        self.exceptions: dict[str, type[Exception]] = {}
        self.uses: dict[str, list[tuple[Module, ast.Name]]] = {}  # of names, other than in calls
        self._callers: dict[Function, list[tuple[Module, ast.expr]]] = {}
        for module in self.modules:
            for node in module.parents:
                if isinstance(node, ast.Call):
                    self.calls.setdefault(name_of(node.func), []).append((module, node))
                elif isinstance(node, ast.Name) and getattr(module.parents[node], "func", None) is not node:
                    self.uses.setdefault(node.id, []).append((module, node))
                elif isinstance(node, FUNCTIONS):
                    self.functions.setdefault(node.name, []).append((module, node))
                elif isinstance(node, ast.ClassDef) and node in module.tree.body:
                    value = module.namespace[node.name]
                    if issubclass(value, Exception):
                        self.exceptions[node.name] = value

    def callers(self, module: Module, function: Function) -> list[tuple[Module, ast.expr]]:
        """The calls of a function of that module, and where it is passed on to a caller that isn't known.

        Of a method only its name and its parameters are known; `__init__` is called as its class, or as one that inherits it.
        """
        if function in self._callers:
            return self._callers[function]
        owner = owner_of(module, function)
        names = [function.name]
        if owner is not None and function.name == "__init__":
            heirs = [kind.__name__ for kind in self.exceptions.values() if owner.name in {each.__name__ for each in kind.__mro__}]
            names = heirs or [owner.name]
        found: list[tuple[Module, ast.expr]] = []
        for where, call in (each for name in names for each in self.calls.get(name, ())):
            if function.name.startswith("_") and function.name != "__init__" and where is not module:
                continue
            if any(isinstance(each, ast.Starred) for each in call.args) or any(each.arg is None for each in call.keywords):
                is_call = True  # perhaps; what it passes can't be read, so it can't be missed either
            elif owner is not None:
                wanted = parameters(function)[1:]
                fits = {keyword.arg for keyword in call.keywords} <= set(wanted) and len(call.args) <= len(wanted)
                is_call = fits and all(argument_of(call, function, each, is_method=True) is not None for each in wanted)
            else:
                is_call = value_of(call.func, Scope(where, where.function(call))) is module.namespace.get(function.name)
            if is_call:
                found.append((where, call))
        for where, use in self.uses.get(function.name, ()):
            if owner is None and value_of(use, Scope(where, where.function(use))) is module.namespace.get(function.name):
                found.append((where, use))
        self._callers[function] = found
        return found


def name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def handled_by(module: Module, node: ast.AST) -> list[str]:
    """The exception classes that a name bound by `except … as name` may be of; none for other names."""
    if not isinstance(node, ast.Name):
        return []
    for each in module.above(node):
        if isinstance(each, ast.ExceptHandler) and each.name == node.id and each.type is not None:
            return [name_of(kind) for kind in (each.type.elts if isinstance(each.type, ast.Tuple) else [each.type])]
    return []


def value_of(node: ast.expr, scope: Scope) -> Any:
    """A constant of the module, or of another one that it (or the function) imports; None for everything else."""
    if isinstance(node, ast.Attribute):
        base = value_of(node.value, scope)
        return getattr(base, node.attr, None) if inspect.ismodule(base) or isinstance(base, msgspec.Struct) else None
    if not isinstance(node, ast.Name):
        return None
    source = scope.module.imported_in(scope.function).get(node.id) if scope.function is not None else None
    if source is not None:
        return vars(importlib.import_module(source)).get(node.id)
    return scope.module.namespace.get(node.id)


def owner_of(module: Module, function: Function) -> ast.ClassDef | None:
    """The class of a method."""
    return next((each for each in module.above(function) if isinstance(each, ast.ClassDef)), None)


def parameters(function: Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def argument_of(call: ast.Call, function: Function, name: str, *, is_method: bool) -> ast.expr | None:
    """What a call passes for a parameter, or its default."""
    arguments = function.args
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    given = positional[1:] if is_method else positional
    if name in given and given.index(name) < len(call.args) and not any(isinstance(each, ast.Starred) for each in call.args):
        return call.args[given.index(name)]
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    defaults = dict(zip(reversed(positional), reversed(arguments.defaults), strict=False))
    only = {each.arg: value for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is not None}
    return {**defaults, **only}.get(name)


def assignments(module: Module, function: Function, use: ast.Name) -> Iterator[tuple[ast.expr, int | None]]:
    """What a local name may be bound to where it is used: values, with the position in a tuple that is taken apart.

    From the use upwards: the nearest assignment that is always made ends the search, those in branches before it are possible too.
    """
    child: ast.AST = use
    for parent in module.above(use):
        if isinstance(parent, ast.For | ast.AsyncFor) and child is not parent.iter:
            yield from loop_values(parent, use.id)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(parent, name, None)
            if not isinstance(block, list) or child not in block:
                continue
            for statement in reversed(block[: block.index(child)]):
                if isinstance(statement, ast.Assign | ast.AnnAssign):
                    found = list(targets(statement, use.id))
                    if found:
                        yield from found
                        return
                elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.AsyncWith):
                    yield from (each for inner in ast.walk(statement) for each in targets(inner, use.id))
        if parent is function:
            return
        child = parent


def targets(statement: ast.AST, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    if isinstance(statement, ast.AugAssign) and name_of(statement.target) == name:
        yield ast.BinOp(statement.target, ast.Add(), statement.value), None
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return
    for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
        if name_of(target) == name and isinstance(target, ast.Name):
            yield statement.value, None
        elif isinstance(target, ast.Tuple):
            yield from ((statement.value, place) for place, each in enumerate(target.elts) if name_of(each) == name)


def loop_values(loop: ast.For | ast.AsyncFor, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    """The elements of a literal list that a loop goes through."""
    elements = loop.iter.elts if isinstance(loop.iter, ast.Tuple | ast.List) else [loop.iter]
    if name_of(loop.target) == name:
        yield from ((each, None) for each in elements)
    elif isinstance(loop.target, ast.Tuple):
        places = [place for place, each in enumerate(loop.target.elts) if name_of(each) == name]
        yield from ((each, place) for place in places for each in elements)
