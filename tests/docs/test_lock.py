"""requirements/*.lock and pyproject.toml say the same: every requirement is locked to a version that it allows, with hashes, nothing is
locked that nobody needs, and what is used with its internals has an upper bound. `.ci/lock` mends what this finds."""

import ast
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; ([^\\]+?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
WANTED = {
    "run": PROJECT["project"]["dependencies"],
    "build": PROJECT["build-system"]["requires"],
    "dev": [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
        *PROJECT["build-system"]["requires"],
    ],
}
# Modules that their packages don't promise to keep, and the distribution whose upper bound that asks for.
INTERNALS = {
    "coincurve.ecdsa": "coincurve",
    "prometheus_client.utils": "prometheus-client",
    "google.protobuf.internal": "protobuf",
}
ALSO_BOUNDED = {"h11", "httpx", "pyblst"}  # 0.x, on open ports or under signatures
OF_PACKAGE = {
    "h11": "h11",
    "httpx": "httpx",
    "trio": "trio",
    "hypercorn": "hypercorn",
    "click": "click",
    "structlog": "structlog",
}


def text(lock: str) -> str:
    return (ROOT / f"requirements/{lock}.lock").read_text()


def pins(lock: str) -> dict[str, Version]:
    return {name: Version(version) for name, version, _, _ in PIN.findall(text(lock))}


@pytest.mark.parametrize("lock", WANTED)
def test_every_line_is_a_pin_with_hashes_and_nothing_else(lock: str) -> None:
    first, *rest = PIN.sub("", text(lock)).strip().splitlines()
    assert first.startswith("# Made by .ci/lock")
    assert not rest
    assert "://" not in text(lock), "where packages come from is each machine's own matter"


@pytest.mark.parametrize(("lock", "requirement"), [(lock, each) for lock, wanted in WANTED.items() for each in wanted])
def test_every_requirement_is_locked_to_a_version_that_it_allows(lock: str, requirement: str) -> None:
    wanted = Requirement(requirement)
    locked = pins(lock)
    assert canonicalize_name(wanted.name) in locked, "run .ci/lock"
    assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)], prereleases=True), "run .ci/lock"


def test_the_locks_agree_with_one_another() -> None:
    assert pins("run").items() | pins("build").items() <= pins("dev").items()


@pytest.mark.parametrize("lock", WANTED)
def test_nothing_is_locked_that_nobody_needs(lock: str) -> None:
    """As far as this interpreter has it installed: what other platforms need stands there with a marker."""
    reached, left = set[str](), [Requirement(each) for each in WANTED[lock]]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        reached.add(name)
        for each in map(Requirement, needs):
            is_needed = each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras))
            if is_needed and canonicalize_name(each.name) not in reached:
                left.append(each)
    unconditional = {name for name, _, marker, _ in PIN.findall(text(lock)) if not marker}
    installed = {canonicalize_name(found.name) for found in importlib.metadata.distributions()}
    assert not (unconditional & installed) - reached, "run .ci/lock"


def bounded() -> set[str]:
    wanted = map(Requirement, WANTED["dev"])
    return {canonicalize_name(each.name) for each in wanted if any(part.operator in ("<", "<=", "==") for part in each.specifier)}


def imports() -> Iterator[tuple[Path, str]]:
    """Every module that our own code imports, and each name that it takes from it, as dotted paths."""
    for folder in ("charon_actors", "actors", "supervisors"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((path, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def test_what_is_used_with_its_internals_has_an_upper_bound() -> None:
    ours = ("charon_actors", "actors", "supervisors", "__future__")
    used = set[str]()
    for path, name in imports():
        if name.startswith(ours):
            continue
        for module, distribution in INTERNALS.items():
            if name == module or name.startswith(f"{module}."):
                used.add(distribution)
        if any(part.startswith("_") for part in name.split(".")):
            assert name.split(".")[0] in OF_PACKAGE, f"{path}: {name} is nobody's promise; bound its package and say so here"
            used.add(OF_PACKAGE[name.split(".")[0]])
    assert used >= set(INTERNALS.values()), "an entry of INTERNALS that nobody uses"
    assert used | ALSO_BOUNDED <= bounded()
    assert "hypercorn" in bounded()
