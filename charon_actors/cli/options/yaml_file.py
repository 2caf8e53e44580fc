"""YAML as Go's reader takes it: what stands at the top level of a file's first document, as texts with their lines.

PyYAML reads YAML 1.1 and forbids most tabs; Charon's files are read by yaml.v3. What differs, and what is done:

    in the file                                 yaml.v3                            here
    tab after something on its line             white space                        the same
    tab in a line that is blank or a comment    mostly refused                     white space, as YAML 1.2 has it
    tab before content, outside of [ ] and { }  refused                            the same, with the line
    an anchor defined twice                     the later one counts               the same
    `<<: *a`, `<<: [*a, *b]`                    merged; own keys, then `a`, win    the same, in any letter case
    yes, on, 2024-01-01, 1:30                   texts (the date gets a clock)      texts
    ~ null Null NULL, nothing                   null                               null
    010, 0o10, 0x8, 1_000, 3.0, 1e3             numbers; 010 is octal              text, and the number beside it
    !!binary                                    decoded                            the same
    a second document                           not read                           not read, and said
    less indentation than the first key         the rest is not read               refused
    the same key twice, in another letter case  the last one counts                refused

Nothing below the top level is built: values of unknown keys may be anything, and aliases cost nothing.
Source: specification 09-cli-and-config, section 2; YAML 1.2.2; the answers of viper with yaml.v3 in tests/vectors/config.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner, ScannerError

NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
LINE_ENDS: Final = "\0\r\n\x85\u2028\u2029"
EDGES: Final = " \t\r\n\u00a0\u200b\ufeff"  # of a plain scalar: what editors and web pages put there unseen
_TAG: Final = "tag:yaml.org,2002:"
NULL, MERGE, TEXT, BINARY = _TAG + "null", _TAG + "merge", _TAG + "str", _TAG + "binary"
NUMBER: Final = _TAG + "int"
_KINDS: Final = frozenset({"str", "int", "float", "bool", "null", "binary", "timestamp", "merge", "seq", "map"})
_MAYBE_NUMBER: Final = re.compile(r"[-+.0-9]")


class YamlEntry(NamedTuple):
    """A key of the top level. line: from 1. value: None for null, a list's elements."""

    key: str
    line: int
    value: "Text | list[Text | None] | None"


class Text(NamedTuple):
    """is_number: a number may be meant by it (it isn't quoted, nor called a text)."""

    text: str
    is_number: bool


def read_yaml(text: str, wanted: frozenset[str]) -> tuple[list[YamlEntry], bool]:
    """Entries of the wanted keys (in lower case), and whether more documents follow, which count for nothing.

    Raises ValueError, with the line; RecursionError for a file that is nested too deeply.
    """
    try:
        loader = _Loader(text)
        if not loader.check_node():
            return [], False
        top = loader.get_node()
        assert top is not None
        has_more = _has_more(loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}: " if mark else ""
        told = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise ValueError(f"no valid YAML: {at}{told}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"no valid YAML: {error}") from error
    if isinstance(top, ScalarNode) and top.tag == NULL:
        return [], has_more
    if not isinstance(top, MappingNode):
        raise ValueError("the top level is no mapping of flag names to values")
    found: dict[str, YamlEntry] = {}
    for key, node in _pairs(top):
        if key.lower() in wanted and key.lower() not in found:
            found[key.lower()] = YamlEntry(key.lower(), node[0].start_mark.line + 1, _value(key, node[1]))
    return list(found.values()), has_more


def _has_more(loader: "_Loader") -> bool:
    """Raises YAMLError for more that isn't another document. What stands behind `...` need not be YAML at all."""
    try:
        return loader.check_node()
    except yaml.YAMLError:
        if not loader.is_ended:
            raise
        return True


def _pairs(top: MappingNode) -> Iterator[tuple[str, tuple[Node, Node]]]:
    """Keys of a mapping and of what is merged into it; who comes first counts. Each mapping is looked at once."""
    waiting: list[Node] = [top]
    seen: set[int] = set()
    while waiting:
        mapping = waiting.pop()
        if id(mapping) in seen:
            continue
        seen.add(id(mapping))
        if not isinstance(mapping, MappingNode):
            raise ValueError(f"line {mapping.start_mark.line + 1}: << takes a mapping, or a list of mappings")
        lines: dict[str, int] = {}
        merged: list[Node] = []
        for key, value in mapping.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise ValueError(f"line {line}: a key is no text")
            if key.tag == MERGE:
                merged += value.value if isinstance(value, SequenceNode) else [value]
                continue
            name = key.value.strip(EDGES) if key.style is None else key.value
            if name.lower() in lines:
                raise ValueError(f"line {line}: {name} stands twice, first in line {lines[name.lower()]}")
            lines[name.lower()] = line
            yield name, (key, value)
        waiting += reversed(merged)


def _value(name: str, node: Node) -> "Text | list[Text | None] | None":
    if node.tag.startswith(_TAG) and node.tag.removeprefix(_TAG) not in _KINDS:  # `!!python/…` wants to be run
        raise ValueError(f"line {node.start_mark.line + 1}: the value of {name} is neither text nor a list of texts")
    if isinstance(node, SequenceNode):
        return [_scalar(name, element) for element in node.value]
    return _scalar(name, node)


def _scalar(name: str, node: Node) -> Text | None:
    if not isinstance(node, ScalarNode):
        line = node.start_mark.line + 1
        raise ValueError(f"line {line}: the value of {name} is neither text nor a list of texts")
    if node.tag == NULL:
        return None
    if node.tag == BINARY:
        try:
            return Text(base64.b64decode(node.value).decode("utf-8"), is_number=False)
        except ValueError as error:
            raise ValueError(f"line {node.start_mark.line + 1}: the value of {name} is no base64 of a text") from error
    text = node.value.strip(EDGES) if node.style is None else node.value
    return Text(text, node.tag in (NUMBER, _TAG + "float"))


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """From text to nodes. The text must be whole: what stands before a tab on its line is looked up in the buffer."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.is_ended = False  # the document, by `...`

    def parse_document_end(self) -> Any:
        event = super().parse_document_end()
        self.is_ended = bool(event.explicit)
        return event

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is not ScalarNode:
            return _TAG + ("seq" if kind is SequenceNode else "map")
        if not implicit[0]:
            return TEXT
        if value in NULLS:
            return NULL
        if value == "<<":
            return MERGE
        return NUMBER if _MAYBE_NUMBER.match(value) else TEXT

    def compose_node(self, parent: Any, index: Any) -> Any:
        if not self.check_event(yaml.AliasEvent):
            self.anchors.pop(self.peek_event().anchor, None)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def scan_to_next_token(self) -> None:
        while True:
            super().scan_to_next_token()
            if self.peek() != "\t":
                return
            self._eat_tabs()

    def scan_plain_spaces(self, indent: int, start_mark: Any) -> Any:
        """Like the original, with tabs."""
        before = self._eat_blanks()
        if self.peek() not in LINE_ENDS[1:]:
            return [before] if before else []
        line_break = self.scan_line_break()  # type: ignore[no-untyped-call]
        self.allow_simple_key = True
        breaks: list[str] = []
        while not self._is_at_document_mark():
            if self.peek() == " ":
                self.forward()
            elif self.peek() == "\t":
                self._eat_tabs()
            elif self.peek() in LINE_ENDS[1:]:
                breaks.append(self.scan_line_break())  # type: ignore[no-untyped-call]
            else:
                kept = [line_break] if line_break != "\n" else [] if breaks else [" "]
                return kept + breaks
        return None

    def scan_block_scalar_indicators(self, start_mark: Any) -> tuple[bool | None, int | None]:
        """Like the original, with a tab after them: `|-`, `>2`, `|+1`, `>1-`."""
        keep: bool | None = None
        indent: int | None = None
        while self.peek() not in LINE_ENDS + " \t":
            if keep is None and self.peek() in "+-":
                keep = self.peek() == "+"
            elif indent is None and self.peek() in "123456789":
                indent = int(self.peek())
            else:
                raise ScannerError(None, None, "a text block begins with | or > and nothing else on its line", self.get_mark())
            self.forward()
        return keep, indent

    def scan_block_scalar_ignored_line(self, start_mark: Any) -> None:
        self._eat_blanks()
        super().scan_block_scalar_ignored_line(start_mark)

    def scan_directive_ignored_line(self, start_mark: Any) -> None:
        self._eat_blanks()
        super().scan_directive_ignored_line(start_mark)

    def _is_at_document_mark(self) -> bool:
        return self.column == 0 and self.prefix(3) in ("---", "...") and self.peek(3) in LINE_ENDS + " \t"

    def _eat_blanks(self) -> str:
        length = 0
        while self.peek(length) in " \t":
            length += 1
        blanks: str = self.prefix(length)
        self.forward(length)
        return blanks

    def _eat_tabs(self) -> None:
        """Of white space that no block's indentation depends on. Raises ScannerError for the other one."""
        if self.flow_level:
            self._eat_blanks()
            return
        line_before = self.buffer[self.pointer - self.column : self.pointer]
        mark = self.get_mark()
        self._eat_blanks()
        if line_before.strip(" \t"):
            self.allow_simple_key = False
        elif self.peek() not in LINE_ENDS + "#":
            raise ScannerError(None, None, "a tab stands where the line's indentation is; use spaces", mark)
