"""References to the specification, as they are written in code and docs, and what they resolve to.

Theory of operation: a text is cut into units, in which a reference may lean on the one before it: a docstring or other string, a block
of comment lines, a paragraph, a row of a table. A unit is read from left to right as a row of tokens:

    page       `05`, `03-p2p`, `specification 07`, `spec 09`, `page 12`, `document 01`      the page that follows speaks of
    other      `RFC 9112 §…`, `architecture §…`                                             another document, until a page is named
    section    `§10.1`, `§§1–5`, `section 2.1`, `sections 2.1, 9 and 11.1 to 11.4`          one or more headings
    item       ` #16`, `, check 5`, `, checks 9, 10 and 12` behind a section                a row or list item of that heading

A section belongs to the page that stands directly before it, with nothing but other sections and remarks in brackets between ("05 §4, §5 (a
remark), §7"). Else it belongs, on a page of the specification, to that page; in code to the first page that the file's docstring names, or,
without one, to the last page that the unit names. On pages bare numbers in brackets (`(3.10)`) and `see 5.2` count as well.

A number resolves to the heading that has it, or to an item of the list or table below the heading in front of its last dot (`05 §21.1`).
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

NUMBER: Final = r"(?:[1-9]\d?|0)(?:\.\d{1,2})*(?!\d)"
MORE: Final = rf"(?:(?:,\sand\s|\sand\s|\sto\s|,\s|–|-|/){NUMBER}(?![\d.]*,?\s?(?:§|sections?\s)|-[a-z]))*"
TOKEN: Final = re.compile(
    rf"""
    (?P<other>\b(?:RFC\s\d+|[Aa]rchitecture|[Ss]tyle)(?=,?\s+§))
  | (?<![\w.,:+§-])(?:
        (?:[Ss]pec(?:ification)?s?|[Pp]ages?|[Dd]ocuments?)\s(?P<named>0[1-9]|1[0-2]|20)(?:-[a-z][a-z0-9-]*)?(?![\w%]|\.\d)
      | (?P<short>0[1-9]|1[0-2]|20)(?:-[a-z][a-z0-9-]*)?(?=,?\s+(?:§|sections?\s))
      | (?P<slug>0[1-9]|1[0-2]|20)-[a-z][a-z0-9-]*(?=\s\d+\.\d)
    )
  | §§\s?(?P<many>{NUMBER}{MORE})
  | §\s?(?P<one>{NUMBER}(?:(?:–|-){NUMBER})?)
  | \b[Ss]ections?\s(?P<words>{NUMBER}{MORE})
  | (?<![\w.,:+-])(?P<bare>\d{{1,2}}\.\d{{1,2}})(?![\w%]|\.\d)
  | \s?\#(?P<row>\d+)
  | ,\schecks?\s(?P<items>\d+(?:(?:,\s|\sand\s|\sto\s)\d+)*)
    """,
    re.VERBOSE,
)
PAGE_NAMED: Final = re.compile(r"\bspecification (0[1-9]|1[0-2]|20)\b")


class Reference(NamedTuple):
    """line: 1-based. page: two digits. number: of the heading. item: of a row or list item below it, "" for none."""

    line: int
    page: str
    number: str
    item: str = ""


class Page:
    """A page's headings by number, with the items of lists and tables below each."""

    def __init__(self, text: str) -> None:
        self.items: dict[str, set[str]] = {}
        number, fenced = "", False
        for line in text.splitlines():
            fenced ^= line.startswith("```")
            heading = re.match(r"#+ (\d+(?:\.\d+)*)\.? ", line)
            if heading and not fenced:
                number = heading[1]
                self.items[number] = set()
            item = re.match(r"\s*(?:\| *)?(?:\*\*)?(\d+)(?:\. |\*? *\|)", line)
            if item and number:
                self.items[number].add(item[1])

    def has(self, number: str, item: str = "") -> bool:
        if item:
            return item in self.items.get(number, ())
        above, _, last = number.rpartition(".")
        return number in self.items or last in self.items.get(above, ())


def numbers(written: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)*", written)


def is_near(between: str) -> bool:
    """Whether what stands between two tokens keeps them together."""
    return re.sub(r"\([^()]*\)", "", between).strip(" \n,;") in ("", "and", "to")


def references(unit: str, line: int, own: str = "", default: str = "") -> Iterator[Reference]:
    """What a unit refers to. line: of its first character. own: the page of the specification that it stands on; default: the page of
    a section that stands near no page. A page of "" in the result: nothing says which page is meant.
    """
    page, behind, last = own or default, 0, ""
    for token in TOKEN.finditer(unit):
        between = unit[behind : token.start()]
        near = behind > 0 and is_near(between)
        at = line + unit.count("\n", 0, token.end())
        named = token["named"] or token["short"] or token["slug"]
        sections = token["many"] or token["one"] or token["words"]
        if token["bare"]:
            after_a_page = near and not last and between
            in_brackets = unit[: token.start()].endswith(("(", "see ")) and unit[token.end() :].startswith((")", ",", ";", " #"))
            if not (after_a_page or (own and in_brackets)):
                continue
            sections = token["bare"]
        if not near:
            page = own or default or page
        if token["other"] or named:
            page, behind, last = named or "other", token.end(), ""
        elif sections and page != "other" and (page or not token["words"]):
            found = numbers(sections)
            yield from (Reference(at, page, each) for each in found)
            behind, last = token.end(), found[-1]
        elif sections:
            behind, last = token.end(), ""
        elif last and not between:
            yield from (Reference(at, page, last, each) for each in numbers(token["row"] or token["items"]))
            behind = token.end()


def units_of_python(text: str) -> Iterator[tuple[int, str]]:
    """Strings, and blocks of comments, each with the line where it begins."""
    block: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            if block and not (alone and token.start[0] == first + len(block)):
                yield first, "\n".join(block)
                block = []
            first = first if block else token.start[0]
            block.append(token.string.lstrip("#:"))
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.start[0], token.string
    if block:
        yield first, "\n".join(block)


def units_of_prose(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs, and rows of tables, each with the line where it begins. Fenced code is left out."""
    block: list[str] = []
    first = 1
    fenced = False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        if fenced or fence or not line.strip() or line.startswith(("|", "#")):
            if block:
                yield first, "\n".join(block)
                block = []
            if not (fenced or fence) and line.startswith(("|", "#")):
                yield number, line
        else:
            first = first if block else number
            block.append(re.sub(r"^\s*(?://|#)", "", line))
        fenced ^= fence


def references_of(path: Path, own: str = "") -> list[Reference]:
    """What a file refers to. own: as in `references`."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return [each for line, unit in units_of_prose(text) for each in references(unit, line, own)]
    first = PAGE_NAMED.search(ast.get_docstring(ast.parse(text)) or "")
    default = first[1] if first else ""
    return [each for line, unit in units_of_python(text) for each in references(unit, line, default=default)]
