"""docs/errors.md is what the source says; and the reader of the source loses nothing in silence."""

import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charon_actors.cli.door import INTERRUPTED
from charon_actors.cli.main import main
from charon_actors.errors import UserError

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / "docs" / "generate_errors.py"
SOURCE = "from charon_actors.errors import UserError\n\nNAME = 'the flag'\n\n\nclass ProbeFault(Exception): ...\n\n\n"


@pytest.fixture(scope="module")
def generator() -> Iterator[Any]:
    """docs/generate_errors.py as a module."""
    path = list(sys.path)
    specification = importlib.util.spec_from_file_location("generate_errors", GENERATOR)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture(scope="module")
def code(generator: Any) -> Any:
    return generator.Code(ROOT, generator.PACKAGES)


def test_the_page_is_what_the_source_says(
    generator: Any, code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "Code", lambda *_: code)
    monkeypatch.setattr(sys, "argv", ["generate_errors.py", "--check"])
    status = generator.main()
    assert status == 0, "".join(capsys.readouterr())
    stale = tmp_path / "errors.md"
    stale.write_text(generator.PAGE.read_text("utf-8").replace("private key not found", "private key lost"))
    monkeypatch.setattr(generator, "PAGE", stale)
    assert generator.main() == 1
    assert "+- `private key not found`" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["generate_errors.py"])
    assert generator.main() == 0
    assert "private key not found" in stale.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "`private key not found` — create one with `charon create enr`",  # a parameter, from a caller
        "`--threshold: threshold below minimum` — the least is 2; leave it out for the standard",
        "`--beacon-node-timeout`, `--beacon-node-submit-timeout`: `is not a positive duration`",  # a name that two callers pass
        "is longer than 32 bytes`",  # a constant
        "`keystore field version: not 4`",  # a class that makes its text itself
        "if none runs: it may hold keys that are in use",  # a tuple of texts
        f"| {INTERRUPTED} |",
    ],
)
def test_an_error_that_is_known_to_be_in_the_source_is_on_the_page(text: str) -> None:
    assert text in (ROOT / "docs" / "errors.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise UserError('a', 'the text', 'the remedy')", [("a", "the text", "the remedy")]),
        ("raise UserError(f'--{NAME}', f'{x} of ' + NAME, 'do')", [("--the flag", "… of the flag", "do")]),
        ("what = 'one' if x else 'two'\n    raise UserError('a', what, 'do')", [("a", "one", "do"), ("a", "two", "do")]),
        (
            "for name in ('p', 'q'):\n        raise UserError(name, f'{name} is bad', 'do')",
            [("p", "p is bad", "do"), ("q", "q is bad", "do")],
        ),
        (
            "what = 'one'\n    if x:\n        what = 'two'\n    raise UserError('a', what, 'do')",
            [("a", "two", "do"), ("a", "one", "do")],
        ),
        ("raise ProbeFault('of a probe')", [("", "of a probe", "")]),
        (
            "def inner(text):\n        raise UserError('a', text, 'do')\n    inner('said by the caller')",
            [("a", "said by the caller", "do")],
        ),
    ],
)
def test_a_text_is_read_in_all_ways_that_it_can_go(
    generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: list[tuple[str, str, str]]
) -> None:
    assert probe(generator, tmp_path, monkeypatch, f"def raises(x):\n    {body}\n") == told


@pytest.mark.parametrize(
    "source",
    [
        "def raises(x):\n    raise UserError('a', x, 'do')\n",
        "def raises(x):\n    raise UserError('a', ''.join(x), 'do')\n",
        "def raises(x):\n    raise UserError('a', 'text', x.remedy)\n",
        "def raises(x):\n    raise UserError(*x)\n",
        "def raises(x):\n    raise ProbeFault(str(x))\n",
        "def raises(x):\n    raise ProbeFault(f'{x}: {x}')\n",
        "def raises(x):\n    kind = UserError\n    raise kind('a', 'unseen', 'do')\n",
        "def raises(x):\n    return x(ProbeFault, 'unseen')\n",
        "def raises(x):\n    raises.made = [ProbeFault]\n",
        "def raises(x):\n    raise UserError('a', x, 'do')\n\n\ndef calls(run):\n    raises('seen')\n    run(raises, 'unseen')\n",
        "class Said(ProbeFault):\n    def __init__(self, x):\n        super().__init__(x)\n\n\ndef raises(x):\n    raise Said(*x)\n",
    ],
)
def test_what_cannot_be_read_stops_the_generator_with_the_place(
    generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    with pytest.raises(generator.Unreadable, match=r"^probe_of_errors/said\.py:\d+"):
        probe(generator, tmp_path, monkeypatch, source)


def probe(generator: Any, directory: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> list[tuple[str, str, str]]:
    """Where, what and remedy of the errors in a package with this source."""
    package = directory / "probe_of_errors"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "said.py").write_text(SOURCE + source)
    monkeypatch.syspath_prepend(str(directory))
    for name in [name for name in sys.modules if name.startswith("probe_of_errors")]:
        monkeypatch.delitem(sys.modules, name)
    code = generator.Code(directory, ["probe_of_errors"])
    code.exceptions["UserError"] = UserError
    entries = generator.errors_of(code, generator.Wanted(frozenset(code.exceptions)))
    return [(entry.where, entry.what, entry.remedy) for entry in entries]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('texts = ["invalid lock hash"]', 'texts = ["a text of nobody"]', "no fault in the source says 'a text of nobody'"),
        ('"not a URL: …", ', "", r"nobody has explained \['not a URL: …'\]"),
        ('"actors/slashing/store.py"', "", r"actors/slashing/store\.py:\d+: the module has errors, but no subject"),
        ('"ActorDown", ', "", "ActorDown is neither a fault of the page nor hidden"),
        ('"ActorDown", ', '"ActorDown", "GoneFault", ', "GoneFault is no exception"),
        ('code = "ResolveFault(_reason(error))"', 'code = "ResolveFault(gone)"', r"ResolveFault\(_reason\(error\)\)"),
        ("[plain]", '[[reading]]\ncode = "gone()"\nwhat = "gone"\n\n[plain]', r"nothing in the source makes 'gone\(\)'"),
    ],
)
def test_words_that_do_not_fit_the_source_stop_the_generator(generator: Any, code: Any, old: str, new: str, told: str) -> None:
    words = (ROOT / "docs" / "errors.toml").read_text("utf-8")
    assert words.count(old) == 1
    with pytest.raises(generator.Unreadable, match=told):
        generator.page(code, tomllib.loads(words.replace(old, new)))


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ("enr", {}),
        ("enr", {"charon-enr-private-key": "0x11"}),
        ("enr --enr-address here", {"charon-enr-private-key": "11" * 32}),
        ("create enr", {"charon-enr-private-key": ""}),
        ("create dkg", {}),
        ("create dkg --operator-enrs enr:a,enr:b,enr:c", {}),
        ("create cluster --nodes 2", {}),
        ("create cluster --nodes 4 --num-validators x", {}),
        ("run", {}),
        ("run --beacon-node-endpoints http://127.0.0.1:1 --nickname " + "n" * 33, {}),
        ("run --beacon-node-endpoints http://127.0.0.1:1", {"charon-enr-private-key": "11" * 32, "cluster-lock.json": "{"}),
        ("dkg", {"charon-enr-private-key": "11" * 32, "cluster-definition.json": '{"version": "v9"}'}),
        ("dkg", {"charon-enr-private-key": "11" * 32}),
        ("combine", {}),
        ("verify", {}),
        ("show nothing.json", {}),
        ("enr", {"charon-enr-private-key": "00" * 32}),
        ("nonsense", {}),
        ("run --nonsense", {}),
    ],
)
def test_what_an_operator_sees_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, files: dict[str, str]
) -> None:
    for name in [name for name in os.environ if name.startswith("CHARON_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / ".charon").mkdir(exist_ok=True)
        (tmp_path / ".charon" / name).write_text(content)
    assert main(arguments.split()) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert any(item.fullmatch(line) for item in page_items()), line


def page_items() -> Iterator[re.Pattern[str]]:
    """What each line of the page stands for, whatever `…` is."""
    for line in (ROOT / "docs" / "errors.md").read_text("utf-8").splitlines():
        text, dash, remedies = line.partition(" — ")
        spans = re.findall(r"`` (.*?) ``|`([^`]+)`", text)
        if not dash or not line.startswith("- ") or not spans:
            continue
        what = wildcards("".join(spans[-1]))
        said = re.sub(r" \(… is \[.*|\\(?=[*_<\[])", "", remedies)
        remedy = "|".join("(?:.*)" if each.startswith("*") else wildcards(each) for each in re.split(r" \*or\* ", said))
        yield re.compile(f"Error: (?:.*: )?{what}; (?:{remedy})", re.DOTALL)


def wildcards(text: str) -> str:
    return ".*".join(map(re.escape, re.split(r" ?…", text)))
