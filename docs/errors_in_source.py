"""The texts of errors, read from the source. Part of generate_errors.py, which says what for.

A text is read like the interpreter would, as far as that goes: `…` stands for what only the moment knows.

    expression                              is read as
    constants, also imported ones           their value
    f"…", +, str(…), x if y else z          its parts; each branch is a way of its own, equal tests go the same way
    a local name                            what is assigned to it before; several assignments are several ways
    a parameter                             what each caller passes, up to MAX_DEPTH callers away
    a call of a function that returns str   what it returns
    error of `except … as error`            UNKNOWN, and the entry says which exception classes it shows
    everything else                         UNKNOWN

Nothing is left out in silence. `Unreadable`, with the place in the source, is raised for a text without any word that can be read, for
a class of exceptions that is used where it could be called unseen, and for more than MAX_FORKS ways to read one call.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from source_code import (
    FUNCTIONS,
    Code,
    Function,
    Module,
    Scope,
    argument_of,
    assignments,
    handled_by,
    name_of,
    owner_of,
    parameters,
    value_of,
)

MAX_FORKS: Final = 400
MAX_DEPTH: Final = 4
UNKNOWN: Final = "…"


class Unreadable(Exception):
    """The source says something in a way that this program can't read, or that nobody has put into words."""


class Fork(Exception):
    """There are several ways to go on; whoever evaluates goes all of them. The same key always gets the same answer."""

    def __init__(self, key: tuple[Any, ...], options: Sequence[Any]) -> None:
        self.key, self.options = key, options


class Entry(NamedTuple):
    """One error. shows: the exception classes whose texts it repeats."""

    module: str
    line: int
    name: str
    where: str
    what: str
    remedy: str
    shows: frozenset[str]


class Spoken(NamedTuple):
    """What a person says about a call that can't be read. code: that call or its caller, as `ast.unparse` writes it."""

    code: str
    where: str
    what: str
    remedy: str
    shows: frozenset[str]


class Wanted(NamedTuple):
    """classes: exceptions to look for. plain: others, by module path and name, with the place of the text in their arguments.

    text_parameters: which parameter of a class's `__init__` is the text, where that makes more of it.
    """

    classes: frozenset[str]
    plain: Mapping[str, Mapping[str, int]] = {}
    text_parameters: Mapping[str, str] = {}
    readings: Sequence[Spoken] = ()


def errors_of(code: Code, wanted: Wanted) -> list[Entry]:
    """Every error that is wanted, in the order of the source. Raises Unreadable."""
    found: dict[Entry, None] = {}
    spoken: set[str] = set()
    for module in code.modules:
        for node in module.parents:
            if isinstance(node, ast.Name | ast.Attribute) and name_of(node) in wanted.classes:
                check_use(module, node)
            made = _made(code, module, node, wanted)
            if made is None:
                continue
            found.update(dict.fromkeys(Reading(code, module, *made, wanted, spoken).entries()))
    unused = {each.code for each in wanted.readings} - spoken
    if unused:
        raise Unreadable(f"nothing in the source makes {min(unused)!r}; the words for it are of no use")
    return sorted(found, key=lambda entry: (entry.module, entry.line))


def _made(code: Code, module: Module, node: ast.AST, wanted: Wanted) -> tuple[ast.Call, str, list[ast.expr]] | None:
    """Call, class and texts, where `node` makes an exception: a call of the class, or in its `__init__`, if it has one."""
    if not isinstance(node, ast.Call):
        return None
    name = name_of(node.func)
    if name in wanted.classes and not has_own_text(code.exceptions.get(name)):
        return node, name, node.args
    if name in wanted.plain.get(module.path, {}):
        texts = node.args[wanted.plain[module.path][name] :][:1]
        return (node, name, texts) if texts else None
    if name == "__init__" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "super()":
        owner = next((each for each in module.above(node) if isinstance(each, ast.ClassDef)), None)
        if owner is not None and owner.name in wanted.classes and has_own_text(code.exceptions.get(owner.name)):
            parameter = wanted.text_parameters.get(owner.name)
            texts = [each for each in ast.walk(node) if isinstance(each, ast.Name) and each.id == parameter]
            return node, owner.name, [texts[0]] if texts else node.args
    if isinstance(node.func, ast.Call) and name_of(node.func.func) == "type":  # raise type(error)(f"…: {error}")
        classes = [name for name in handled_by(module, node.func.args[0]) if name in wanted.classes]
        if classes:
            return node, classes[0], node.args
    return None


def has_own_text(kind: type[Exception] | None) -> bool:
    """Whether the class makes its text itself. `UserError` does, but it is what all others come to: three texts."""
    return kind is not None and kind.__name__ != "UserError" and any("__init__" in vars(each) for each in own_classes(kind))


def own_classes(kind: type[Exception]) -> list[type]:
    return [each for each in kind.__mro__ if each.__module__ != "builtins" and each.__name__ != "UserError"]


def check_use(module: Module, node: ast.expr) -> None:
    """An exception class that stands where it isn't called, caught, tested or named as a type could be made there unseen."""
    child: ast.AST = node
    for parent in module.above(node):
        if isinstance(parent, ast.ExceptHandler | ast.ClassDef | ast.arg | ast.AnnAssign | ast.match_case | ast.alias):
            return
        if isinstance(parent, ast.Call) and (
            child is parent.func or name_of(parent.func) in ("isinstance", "issubclass", "suppress")
        ):
            return
        if isinstance(parent, FUNCTIONS) and (child is parent.returns or parent.name == "__reduce__"):
            return
        child = parent
    raise Unreadable(f"{module.place(node)}: {ast.unparse(node)} is used in a way that could make an error unseen")


class Reading:
    """One call that makes an exception, read in all the ways it can go."""

    def __init__(
        self,
        code: Code,
        module: Module,
        node: ast.Call,
        name: str,
        arguments: Sequence[ast.expr],
        wanted: Wanted,
        spoken: set[str],
    ) -> None:
        """spoken: takes the code of readings that were needed."""
        self.code, self.module, self.node, self.name, self.arguments = code, module, node, name, arguments
        self.wanted, self.spoken = wanted, spoken
        self.ways: dict[tuple[Any, ...], Any] = {}
        self.shows: set[str] = set()

    def entries(self) -> Iterator[Entry]:
        waiting: list[dict[tuple[Any, ...], Any]] = [{}]
        for _ in range(MAX_FORKS):
            if not waiting:
                return
            self.ways, self.shows = waiting.pop(), set()
            try:
                yield from self._read()
            except Fork as fork:
                waiting += [{**self.ways, fork.key: option} for option in reversed(fork.options)]
        raise Unreadable(f"{self.module.place(self.node)}: more than {MAX_FORKS} ways to read {ast.unparse(self.node)}")

    def _read(self) -> list[Entry]:
        scope = Scope(self.module, self.module.function(self.node))
        texts = [text for argument in self.arguments for text in self._several(argument, scope)]
        kind = self.code.exceptions.get(self.name, Exception)
        is_user_error = issubclass(kind, self.code.exceptions["UserError"]) and len(texts) == 3
        where, what, remedy = texts if is_user_error else ("", *texts[:1], "")
        callers = [way for key, way in self.ways.items() if key[0] == "caller"]
        codes = {ast.unparse(call) for call in (self.node, *(call for _, call in callers))}
        spoken = [each for each in self.wanted.readings if each.code in codes]
        if spoken:
            self.spoken |= codes
            told = [each for each in spoken if is_user_error or each.what != UNKNOWN]
            return [self._entry(each.where, each.what, each.remedy, each.shows) for each in told]
        if not is_user_error and (what == "" or (what == UNKNOWN and self.shows and self.shows <= self.wanted.classes)):
            return []  # no fault; or another fault's text alone, which has an entry of its own
        has_remedy = not is_user_error or remedy == "" or re.search(r"\w", remedy) or "UserError" in self.shows
        if has_remedy and (re.search(r"\w", what) or (is_user_error and self.shows)):
            return [self._entry(where, what, remedy, self.shows)]
        place = ", called from ".join([self.module.place(self.node), *(module.place(call) for module, call in callers)])
        raise Unreadable(f"{place}: no text can be read from {ast.unparse(self.node)}")

    def _entry(self, where: str, what: str, remedy: str, shows: Iterable[str]) -> Entry:
        return Entry(self.module.path, self.node.lineno, self.name, where, what, remedy, frozenset(shows))

    def _several(self, argument: ast.expr, scope: Scope) -> list[str]:
        if not isinstance(argument, ast.Starred):
            return [self.text(argument, scope)]
        value = value_of(argument.value, scope)
        return [str(each) for each in value] if isinstance(value, tuple) else [UNKNOWN]

    def text(self, node: ast.expr, scope: Scope) -> str:
        """What the expression says; UNKNOWN for what can't be read. Raises Fork."""
        match node:
            case ast.Constant(value=value):
                return UNKNOWN if value is None else str(value)
            case ast.JoinedStr(values=values):
                near = scope._replace(depth=max(scope.depth, MAX_DEPTH - 1))  # for a part of a text one caller away is enough
                return squeezed("".join(self.text(each, near) for each in values))
            case ast.FormattedValue(value=value):
                return self.text(value, scope)
            case ast.BinOp(left=left, op=ast.Add(), right=right) if not isinstance(right, ast.Constant) or isinstance(
                right.value, str
            ):
                return squeezed(self.text(left, scope) + self.text(right, scope))
            case ast.BoolOp(op=ast.Or(), values=values):
                return self.text(self._way(("or", node), values), scope)
            case ast.IfExp():
                return self.text(self._branch(node, scope), scope)
            case ast.Name():
                return self._name(node, scope)
            case ast.Subscript(value=value, slice=ast.Slice()):  # cut to a length
                return self.text(value, scope)
            case ast.Attribute(value=value, attr=attribute):
                return self._attribute(node, value, attribute, scope)
            case ast.Call(func=function, args=arguments):
                return self._call(node, function, arguments, scope)
            case _:
                return UNKNOWN

    def _branch(self, node: ast.IfExp, scope: Scope) -> ast.expr:
        if isinstance(node.test, ast.Name):
            said = self.text(node.test, scope)
            if UNKNOWN not in said:
                return node.body if said else node.orelse
        return node.body if self._way(("if", ast.unparse(node.test), scope.function), (True, False)) else node.orelse

    def _name(self, node: ast.Name, scope: Scope) -> str:
        classes = handled_by(scope.module, node)
        if classes:
            self.shows.update(name for name in classes if name in self.code.exceptions)
            return UNKNOWN
        function = scope.function
        if function is not None:
            if node.id in parameters(function):
                return self._parameter(node.id, scope)
            assigned = list(assignments(scope.module, function, node))
            if assigned:
                return self._assigned(node.id, assigned, scope)
        value = value_of(node, scope)
        return str(value) if isinstance(value, str | int | float) else UNKNOWN

    def _parameter(self, name: str, scope: Scope) -> str:
        """What the callers pass: all of them are asked."""
        function = scope.function
        assert function is not None
        owner = owner_of(scope.module, function)
        callers = self.code.callers(scope.module, function)
        if not callers or scope.depth == MAX_DEPTH or name == "self":
            return UNKNOWN
        caller, call = self._way(("caller", function), callers)
        argument = argument_of(call, function, name, is_method=owner is not None) if isinstance(call, ast.Call) else None
        if argument is None:
            return UNKNOWN
        if argument in ast.walk(function.args):  # its default
            return self.text(argument, Scope(scope.module, None, scope.depth))
        return self.text(argument, Scope(caller, caller.function(call), scope.depth + 1))

    def _assigned(self, name: str, assigned: Sequence[tuple[ast.expr, int | None]], scope: Scope) -> str:
        value, position = assigned[0] if len(assigned) == 1 else self._way(("value", name, scope.function), assigned)
        if isinstance(value, ast.IfExp):
            value = self._branch(value, scope)
        yielded = list(self._yielded(value, scope)) if position is not None else []
        if yielded:
            module, function, value = self._way(("yield", scope.function, value), yielded)
            scope = Scope(module, function, scope.depth + 1)
        if position is not None:
            if not isinstance(value, ast.Tuple | ast.List):
                return UNKNOWN
            value = value.elts[position]
        return self.text(value, scope)

    def _yielded(self, value: ast.expr, scope: Scope) -> Iterator[tuple[Module, Function, ast.expr]]:
        """The tuples of functions of the module that return or yield them, where the value is what they give, or a list of that."""
        for each in ast.walk(value):
            if isinstance(each, ast.Call):
                for module, function in self.code.functions.get(name_of(each.func), ()):
                    if module is scope.module:
                        nodes = [node.value for node in ast.walk(function) if isinstance(node, ast.Yield | ast.Return)]
                        yield from ((module, function, node) for node in nodes if isinstance(node, ast.Tuple))
            elif isinstance(each, ast.Name) and scope.function is not None and each.id not in parameters(scope.function):
                for assigned, _ in assignments(scope.module, scope.function, each):
                    yield from self._yielded(assigned, scope)

    def _attribute(self, node: ast.Attribute, value: ast.expr, attribute: str, scope: Scope) -> str:
        if attribute in ("command", "command_path"):
            return f"charon {UNKNOWN}"
        classes = handled_by(scope.module, value)
        if classes and attribute in ("what", "remedy", "reason"):
            self.shows.update(name for name in classes if name in self.code.exceptions)
            return UNKNOWN
        known = value_of(node, scope)
        return str(known) if isinstance(known, str | int | float) else UNKNOWN

    def _call(self, node: ast.Call, function: ast.expr, arguments: Sequence[ast.expr], scope: Scope) -> str:
        name = name_of(function)
        if name == "where" and len(arguments) == 1:  # `Values.where`: the flag, as the command line has it
            flag = self.text(arguments[0], scope)
            return f"--{flag}" if re.fullmatch(f"[a-z0-9{UNKNOWN}-]+", flag) else UNKNOWN
        if name in ("strip", "rstrip") and isinstance(function, ast.Attribute):
            return self.text(function.value, scope)
        if name in ("str", "ascii", "one_line", "masked") and arguments:
            return self.text(arguments[0], scope)
        found = self.code.functions.get(name, []) if isinstance(function, ast.Name) else []
        if len(found) != 1 or scope.depth == MAX_DEPTH:
            return UNKNOWN
        module, called = found[0]
        returned = [each.value for each in ast.walk(called) if isinstance(each, ast.Return) and each.value is not None]
        if not returned or ast.unparse(called.returns or ast.Constant("")) != "str":
            return UNKNOWN
        chosen = returned[0] if len(returned) == 1 else self._way(("return", node), returned)
        return self.text(chosen, Scope(module, called, MAX_DEPTH))  # its own parameters are the moment's

    def _way(self, key: tuple[Any, ...], options: Sequence[Any]) -> Any:
        if key not in self.ways:
            raise Fork(key, options)
        return self.ways[key]


def squeezed(text: str) -> str:
    """One UNKNOWN for several in a row."""
    return re.sub(f"{UNKNOWN}(?:[ .,;]*{UNKNOWN})+", UNKNOWN, text)
