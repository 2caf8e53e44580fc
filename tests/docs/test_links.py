"""Links between the pages of the repository lead somewhere: to a file that is there, and to a heading in it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(page for name in ("docs", "deploy", "tests") for page in (ROOT / name).rglob("*.md"))]
    if "node_modules" not in path.parts
)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """Without fenced code and code in lines, in which brackets are no links."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path: Path) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).strip().lower()).replace(" ", "-") for heading in headings}


def dead(page: Path) -> list[str]:
    found = []
    for target in LINK.findall(prose(page)):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with `code`\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#a-heading-with-code) [b](gone.md) [c](there.md#gone) [d](https://example.org/x) `[e](gone)`\n")
    assert dead(page) == ["gone.md", "there.md#gone"]


def test_the_index_of_the_specification_lists_every_page() -> None:
    specification = ROOT / "docs" / "spec"
    listed = LINK.findall(prose(specification / "README.md"))
    assert sorted(listed) == sorted(path.name for path in specification.glob("[0-9]*.md"))


def test_pages_of_the_specification_that_are_named_by_path_are_there() -> None:
    for page in PAGES:
        for name in re.findall(r"\bspec/\d\d-[\w-]+\.md", page.read_text("utf-8")):
            assert (ROOT / "docs" / name).exists(), f"{page}: {name}"
