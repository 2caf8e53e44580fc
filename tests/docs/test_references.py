"""Every reference to the specification leads to a heading of docs/spec, from code and docs and from page to page."""

import re
from pathlib import Path

import pytest

from tests.docs.references import Page, Reference, references, references_of

ROOT = Path(__file__).parents[2]
SPECIFICATION = ROOT / "docs" / "spec"
PAGES = {path.name[:2]: Page(path.read_text("utf-8")) for path in sorted(SPECIFICATION.glob("[0-9]*.md"))}
NAMES = {path.name[:2]: path.stem for path in sorted(SPECIFICATION.glob("[0-9]*.md"))}
SUFFIXES = {".py", ".md", ".toml", ".proto", ".sh", ".mjs", ".yml", ".yaml", ".service"}
ABOUT_REFERENCES = {"tests/docs/references.py", "tests/docs/test_references.py", "docs/spec/README.md"}  # full of examples


def texts() -> list[Path]:
    """The files of the repository in which somebody may refer to the specification; its own pages are left out."""
    folders = ("charon_actors", "actors", "supervisors", "tests", "docs", "deploy")
    found = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    inside = {path: path.relative_to(ROOT).as_posix() for path in found if path.suffix in SUFFIXES and path.is_file()}
    return sorted(
        path
        for path, name in inside.items()
        if name not in ABOUT_REFERENCES
        and path.parent != SPECIFICATION
        and "node_modules" not in path.parts
        and "_pb2" not in name
    )


def faults(path: Path, found: list[Reference]) -> list[str]:
    place = path.relative_to(ROOT).as_posix()
    wrong = []
    for line, page, number, item in found:
        if not page:
            wrong.append(f"{place}:{line}: §{number} of which page?")
        elif page not in PAGES:
            wrong.append(f"{place}:{line}: there is no page {page}")
        elif not PAGES[page].has(number, item):
            wrong.append(f"{place}:{line}: {NAMES[page]} has no {number}" + (f", item {item}" if item else ""))
    return wrong


def test_every_reference_of_code_and_docs_leads_to_a_heading() -> None:
    found = {path: references_of(path) for path in texts()}
    assert sum(map(len, found.values())) > 600, "the scanner has become blind"
    assert [fault for path, each in found.items() for fault in faults(path, each)] == []


@pytest.mark.parametrize("page", sorted(NAMES))
def test_every_reference_of_a_page_leads_to_a_heading(page: str) -> None:
    path = SPECIFICATION / f"{NAMES[page]}.md"
    assert faults(path, references_of(path, own=page)) == []


def test_references_to_the_architecture_lead_to_its_headings() -> None:
    page = Page((ROOT / "docs" / "architecture.md").read_text("utf-8"))
    for path in texts():
        for number in re.findall(r"\barchitecture §(\d+)", path.read_text("utf-8")):
            assert page.has(number), f"{path}: architecture §{number}"


def test_files_that_the_architecture_names_are_there() -> None:
    for name in re.findall(
        r"`((?:charon_actors|actors|supervisors)/[\w./]+)`", (ROOT / "docs" / "architecture.md").read_text("utf-8")
    ):
        assert (ROOT / name).exists(), name


def test_pages_are_called_by_their_names() -> None:
    """`03-p2p` in a reference is the name of a page, or the beginning of it."""
    called = re.compile(r"(?:[Ss]pecification |, |Source: |\()((?:0[1-9]|1[0-2]|20)-[a-z][a-z0-9-]*)(?=,? sections? | §| \d)")
    for path in texts():
        for name in called.findall(path.read_text("utf-8")):
            assert NAMES.get(name[:2], "").startswith(name), f"{path}: {name}"


def test_vectors_that_pages_name_are_there() -> None:
    for path in SPECIFICATION.glob("*.md"):
        for name in re.findall(r"tests/vectors/[\w./*{},-]*\w/?", path.read_text("utf-8")):
            assert list(ROOT.glob(name)), f"{path.name}: {name}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see 05 §10.1", ["05 10.1"]),
        ("(05 §5, §7)", ["05 5", "05 7"]),
        ("Source: specification 06 §8, 05 §4.", ["06 8", "05 4"]),
        ("Source: specification 06 §4,\n§5. Vectors: core", ["06 4", "06 5"]),
        ("specification 03-p2p, section 11.4; RFC 9112 §3.2, §6", ["03 11.4"]),
        ("specification 03-p2p, sections 2.1, 9 and 11.1 to 11.4", ["03 2.1", "03 9", "03 11.1", "03 11.4"]),
        ("specification 01, §§5.1, 6, 7.2, 12.", ["01 5.1", "01 6", "01 7.2", "01 12"]),
        ("12 §§1–5", ["12 1", "12 5"]),
        ("08 §2 to §5, §10; 20 §2.4", ["08 2", "08 5", "08 10", "20 2.4"]),
        ("specification 01, section 2.2; 11, section 1.", ["01 2.2", "11 1"]),
        ("04-dkg 3.2; Charon v0.17", ["04 3.2"]),
        ("01-cluster-files section 7.1; EIP-2335", ["01 7.1"]),
        ("what Δ1.10 of 05 §2 says", ["05 2"]),
        ("`specification 07` (§2)", ["07 2"]),
        ("07 §7.3 #16", ["07 7.3", "07 7.3 16"]),
        ("(specification 03-p2p, section 14, checks 9, 10)", ["03 14", "03 14 9", "03 14 10"]),
        ("04 §3.3.4", ["04 3.3.4"]),
        ("08 §2 (required keys), §6", ["08 2", "08 6"]),
        ("RFC 9110 §7.2 (Host), §15; specification 07 §1", ["07 1"]),
        ("§9", [" 9"]),
        ("a 12-byte header, 20 slots, 10.5 s, architecture §3, 2026-08-19, within 05, sections of text", []),
    ],
)
def test_how_references_are_read(text: str, expected: list[str]) -> None:
    assert [f"{each.page} {each.number} {each.item}".rstrip() for each in references(text, 1)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see 5.2; section 4, and 05 §4, §5. Then §6", ["01 5.2", "01 4", "05 4", "05 5", "01 6"]),
        ("(3.10) costs 2.5 s (spec 09 section 2, document 11, 2.1)", ["01 3.10", "09 2", "11 2.1"]),
    ],
)
def test_how_references_are_read_on_a_page(text: str, expected: list[str]) -> None:
    assert [f"{each.page} {each.number}" for each in references(text, 1, own="01")] == expected


def test_a_bare_section_belongs_to_the_first_page_of_the_docstring() -> None:
    unit = "Source: specification 07 §4, §5.\n\nblocks: as SSZ (08 §7.3)\nvalidators: those of the cluster (§5.4)"
    assert [f"{each.page} {each.number}" for each in references(unit, 1, default="07")] == ["07 4", "07 5", "08 7.3", "07 5.4"]


def test_lines_are_those_of_the_reference() -> None:
    assert list(references("specification 06 §4,\n  §5", 10)) == [Reference(10, "06", "4"), Reference(11, "06", "5")]


def test_what_is_wrong_is_found() -> None:
    page = Page("## 1. One\n### 1.1 A\n1. item\n| 7* | row |\n## 2. Two\n")
    assert page.has("1.1")
    assert page.has("1.1.1")
    assert page.has("1.1", "7")
    assert not page.has("1", "7")
    assert not page.has("2", "7")
    assert not page.has("1.2")
    assert not page.has("3")
