"""Writes docs/errors.md: every error that an operator can meet, found in the source, and what it means, said by people.

    python docs/generate_errors.py            writes the page
    python docs/generate_errors.py --check    ends with 1 when the page is stale, and shows where

Where the words come from:

    texts of errors, what to do    the source (errors_in_source.py): each call of `UserError`, of a class made from it, and of the
                                   faults that it shows
    subjects, introductions        docs/errors.toml
    what a fault means             docs/errors.toml; one explanation for one or several texts, `*` stands for anything

It stops, with the place, when anything would be missing: a text that can't be read, a class of exceptions that is neither a fault of
the page nor hidden on purpose, a module without a subject, a fault without an explanation, an explanation without a fault.
"""

import argparse
import difflib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from errors_in_source import UNKNOWN, Entry, Spoken, Unreadable, Wanted, errors_of  # noqa: E402
from source_code import Code  # noqa: E402

PAGE: Final = ROOT / "docs" / "errors.md"
WORDS: Final = ROOT / "docs" / "errors.toml"
PACKAGES: Final = ("charon_actors", "actors", "supervisors")
USER_ERROR: Final = "UserError"
MAX_REMEDIES: Final = 3  # of one text; where callers have more, the page says that the message tells


def page(code: Code, words: dict[str, Any]) -> str:
    """The whole page. words: docs/errors.toml. Raises Unreadable."""
    user_errors = {name for name, kind in code.exceptions.items() if issubclass(kind, code.exceptions[USER_ERROR])}
    faults = {name: section for section in words["fault"] for name in section["classes"]}
    check_classes(set(code.exceptions) - user_errors, {name for name in faults if name in code.exceptions}, set(words["hidden"]))
    readings = [
        Spoken(row["code"], row.get("where", ""), row["what"], row.get("remedy", ""), frozenset(row.get("shows", ())))
        for row in words["reading"]
    ]
    classes = frozenset(user_errors | (set(faults) & set(code.exceptions)))
    entries = errors_of(code, Wanted(classes, words["plain"], words["text_parameters"], readings))
    errors = [entry for entry in entries if entry.name in user_errors]
    check_modules(code, errors, words["subject"])
    links = {name: link(section["title"], section["link"]) for name, section in faults.items()}
    lines = [f"<!-- Written by docs/generate_errors.py from the source and docs/errors.toml. -->\n\n{words['head'].strip()}\n"]
    lines.append("## Contents\n")
    lines += [f"- {link(section['title'])}" for section in words["subject"]]
    lines += [f"- {link(words['faults_title'])}", *(f"  - {link(section['title'])}" for section in words["fault"])]
    for subject in words["subject"]:
        lines.append(f"\n## {subject['title']}\n\n{subject['introduction'].strip()}\n")
        of_subject = [entry for path in subject["modules"] for entry in errors if entry.module == path]
        lines += error_lines(of_subject, links)
    lines.append(f"\n## {words['faults_title']}\n\n{words['faults_introduction'].strip()}")
    for section in words["fault"]:
        lines.append(f"\n### {section['title']}\n\n{section['introduction'].strip()}\n")
        texts = [entry.what for entry in entries if entry.name in section["classes"]]
        lines += fault_lines(section["title"], texts, section["explanation"])
    return "\n".join(lines) + "\n"


def check_classes(found: set[str], shown: set[str], hidden: set[str]) -> None:
    for name in sorted(found - shown - hidden):
        raise Unreadable(f"{WORDS.name}: exception {name} is neither a fault of the page nor hidden")
    for name in sorted(((shown | hidden) - found) | (shown & hidden)):
        raise Unreadable(f"{WORDS.name}: {name} is no exception of the source, or is shown and hidden")


def check_modules(code: Code, errors: Sequence[Entry], subjects: Sequence[dict[str, Any]]) -> None:
    listed = [path for subject in subjects for path in subject["modules"]]
    for entry in errors:
        if entry.module not in listed:
            raise Unreadable(f"{entry.module}:{entry.line}: the module has errors, but no subject in {WORDS.name}")
    known = {module.path for module in code.modules}
    for path in listed:
        if path not in known or listed.count(path) > 1:
            raise Unreadable(f"{WORDS.name}: {path} is no module, or stands in two subjects")


def error_lines(entries: Iterable[Entry], links: dict[str, str]) -> Iterator[str]:
    """One line a text: places that share text and remedy together, remedies of one text together."""
    places: dict[tuple[str, str, frozenset[str]], dict[str, None]] = {}
    for entry in entries:
        where = entry.where if re.search(r"\w", entry.where) else ""
        places.setdefault((entry.what, entry.remedy, entry.shows), {})[where] = None
    remedies: dict[tuple[tuple[str, ...], str, frozenset[str]], list[str]] = {}
    for (what, remedy, shows), found in places.items():
        if remedy or not any(
            other == what and said for other, said, _ in places
        ):  # a caller that throws the error away says nothing
            remedies.setdefault((tuple(found), what, shows), []).append(remedy)
    for (where_all, what, shows), said_all in remedies.items():
        linked = sorted({links[name] for name in shows if name in links}) + ["another error of this page"] * (USER_ERROR in shows)
        if re.search(r"\w", what):
            told = f" ({UNKNOWN} is {' or '.join(linked)})" if linked else ""
            yield f"- {error_text(where_all, what)} — {remedy_text(what, said_all)}{told}"
        else:
            place = "" if "" in where_all else ", ".join(map(span, where_all)) + ": "
            yield f"- {place}{' or '.join(linked)} — {remedy_text(what, said_all)}"


def error_text(where_all: Sequence[str], what: str) -> str:
    """where_all: "" for a place that only the moment knows, such as a path."""
    if "" in where_all:
        return span(what)
    if len(where_all) == 1:
        return span(f"{where_all[0]}: {what}")
    return f"{', '.join(map(span, where_all))}: {span(what)}"


def remedy_text(what: str, remedies: Sequence[str]) -> str:
    if not all(remedies):
        raise Unreadable(f"nobody says what to do about {what!r}")
    if len(remedies) > MAX_REMEDIES:
        return "*the line itself says what to do*"
    return " *or* ".join("*what that error says*" if remedy == UNKNOWN else markdown(remedy) for remedy in remedies)


def fault_lines(title: str, texts: Sequence[str], explanations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line an explanation, with the texts that it is for. Raises Unreadable when texts and explanations don't match."""
    told: set[str] = set()
    for explanation in explanations:
        for pattern in explanation["texts"]:
            if not any(fnmatchcase(text, pattern) for text in texts):
                raise Unreadable(f"{WORDS.name}, {title}: no fault in the source says {pattern!r}")
        meant = [text for text in dict.fromkeys(texts) if any(fnmatchcase(text, each) for each in explanation["texts"])]
        shown = dict.fromkeys(re.sub(rf"^{UNKNOWN}(?:: |(?=\w))|^: ", "", text) for text in meant if text not in told)
        yield f"- {' · '.join(map(span, shown))} — {explanation['means'].strip()}"
        told.update(meant)
    missing = [text for text in dict.fromkeys(texts) if text not in told]
    if missing:
        raise Unreadable(f"{WORDS.name}, {title}: nobody has explained {missing}")


def link(title: str, text: str = "") -> str:
    """To a heading of the page; its anchor as GitHub makes it."""
    return f"[{text or title}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')})"


def span(text: str) -> str:
    """As code, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def markdown(text: str) -> str:
    """As it stands, code spans included, without accidental emphasis or markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[])", r"\\\1", part) for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/errors.md.")
    parser.add_argument("--check", action="store_true", help="only compare; 1 when the page is stale")
    is_check = parser.parse_args().check
    try:
        text = page(Code(ROOT, PACKAGES), tomllib.loads(WORDS.read_text("utf-8")))
    except Unreadable as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if not is_check:
        PAGE.write_text(text, "utf-8")
        return 0
    old = PAGE.read_text("utf-8") if PAGE.exists() else ""
    changes = list(difflib.unified_diff(old.splitlines(), text.splitlines(), "docs/errors.md", "the source", lineterm=""))
    if changes:
        print("\n".join(changes))
        print("docs/errors.md is stale; run `python docs/generate_errors.py`", file=sys.stderr)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
