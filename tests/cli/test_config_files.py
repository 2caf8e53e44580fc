"""Configuration files: what Charon's reader finds in them, we find; where we differ, it is written down here.

tests/vectors/config/viper.json holds what viper, the library that reads Charon's files, answered (viper.go.txt asked it).
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.cli.options.config_file import read_config_file
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import Values, resolve
from charon_actors.cli.options.values import Kind, ValueFault, parse_value
from charon_actors.errors import UserError

VECTORS = Path(__file__).parent.parent / "vectors" / "config" / "viper.json"
CASES = json.loads(VECTORS.read_text())["cases"]
FLAGS = (
    Flag("name", Kind.TEXT, "", "Name"),
    Flag("threshold", Kind.NUMBER, 0, "Threshold"),
    Flag("builder-api", Kind.SWITCH, False, "Builder"),
    Flag("zipped", Kind.SWITCH, False, "Zipped"),
    Flag("timeout", Kind.DURATION, 1.0, "Timeout"),
    Flag("operator-enrs", Kind.TEXTS, (), "ENRs"),
)
KINDS = {flag.name: flag.kind for flag in FLAGS}

# Where viper turns a text into something else on the way, we keep the text: `--name 0123` is "0123", too.
STAYS_AS_WRITTEN: Final[Mapping[str, Mapping[str, str]]] = {
    "name: 2024-01-01\n": {"name": "2024-01-01"},
    "name: 1.10\n": {"name": "1.10"},
    "name: 0x00000001\n": {"name": "0x00000001"},  # a fork version
    "name: 1e3\n": {"name": "1e3"},
    "name: 0123\n": {"name": "0123"},
    "name: \u00a0a\n": {"name": "a"},  # what editors and web pages leave unseen
    "name: a\u00a0\n": {"name": "a"},
    "name: \ufeffa\n": {"name": "a"},
    "name: a\n\ufeffthreshold: 3\n": {"name": "a", "threshold": "3"},
    "threshold: 6e7\n": {"threshold": "60000000"},  # %v of Go's floats makes 6e+07, which no flag takes
    '{"threshold":60000000}': {"threshold": "60000000"},
    "threshold = 6e7\n": {"threshold": "60000000"},
}
# What viper takes, and nobody can have meant.
REFUSED: Final = {
    "name: a\nNAME: b\n",  # which one?
    '{"name":"a","NAME":"b"}',
    '{"name":"a","name":"b"}',
    'name = "a"\nNAME = "b"\n',
    "name: {a: b}\n",  # map[a:b]
    "name: [a, b]\n",  # [a b]
    '{"name":{"a":1}}',
    'name = {a = "b"}\n',
    "operator-enrs: [1, 2.0, true, null, 'x']\n",  # <nil>
    "operator-enrs: [[a]]\n",
    "  name: a\nthreshold: 3\n",  # viper stops at the second line
    b'{"name":"\xe9"}',
}
# What viper refuses though the format, or an editor, has it so.
TAKEN: Final[Mapping[str | bytes, Mapping[str, str]]] = {
    "name: a\n\t\nthreshold: 3\n": {"name": "a", "threshold": "3"},  # tabs where YAML 1.2 has them
    "name: a\n\t# c\nthreshold: 3\n": {"name": "a", "threshold": "3"},
    "operator-enrs:\n-\ta\n-\tb\n": {"operator-enrs": "[a b]"},
    "operator-enrs: [\n\ta,\n\tb\n\t]\n": {"operator-enrs": "[a b]"},
    "%YAML 1.2\n---\nname: a\n": {"name": "a"},
    'name: "\\u00e9\\x41\\t\\/\\e"\n': {"name": "éA\t/\x1b"},  # `\/` of YAML 1.2
    'name: "\\ud83d\\ude00"\n': {"name": "😀"},  # JSON's way to write it
    '\ufeff{"name":"a"}': {"name": "a"},
    '\ufeffname = "a"\n': {"name": "a"},
    'name = "a"\rthreshold = 3\r': {"name": "a", "threshold": "3"},
    **{
        mark + text.encode(encoding): {"name": "a"}
        for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
        for text in ('{"name":"a"}', 'name = "a"\n')
    },
}


def content_of(case: Mapping[str, Any]) -> bytes:
    return bytes.fromhex(case["hex"]) if "hex" in case else case["text"].encode()


def values_of(directory: Path, name: str, content: bytes) -> Values:
    (directory / name).write_bytes(content)
    return resolve("charon test", FLAGS, {}, {}, directory)


def text_or_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode() if b"\0" not in content else content
    except UnicodeDecodeError:
        return content


@pytest.mark.parametrize("case", CASES, ids=[f"{case['file'][7:]}-{content_of(case)[:40]!r}" for case in CASES])
def test_a_file_is_read_as_charons_library_reads_it(tmp_path: Path, case: Mapping[str, Any]) -> None:
    content = content_of(case)
    key: Any = text_or_bytes(content)
    expected = STAYS_AS_WRITTEN.get(key, TAKEN.get(key, case.get("values")))
    if expected is None or key in REFUSED:
        with pytest.raises(UserError, match=r"^charon"):
            values_of(tmp_path, case["file"], content)
        return
    try:
        wanted = {
            name: text if text.startswith("[") else parse_value(KINDS[name], text.rstrip("\n")) for name, text in expected.items()
        }
    except ValueFault:
        with pytest.raises(UserError, match="invalid argument"):
            values_of(tmp_path, case["file"], content)
        return
    values = values_of(tmp_path, case["file"], content)
    found = {name: values._raw(name) for name in KINDS if values.is_set(name)}
    as_go_shows_lists = {name: f"[{' '.join(values.texts(name))}]" for name, text in wanted.items() if str(text).startswith("[")}
    assert {**found, **as_go_shows_lists} == wanted


def test_all_differences_are_of_cases_that_there_are() -> None:
    there = {text_or_bytes(content_of(case)) for case in CASES}
    assert set(STAYS_AS_WRITTEN) | REFUSED | set(TAKEN) <= there
    assert len(CASES) > 250


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("charon.yaml", "# c\n\nname: a\nthreshold: x\n", 4),
        ("charon.yaml", "\ufeff# c\r\nthreshold:\r\n  x\r\n", 2),
        ("charon.yaml", "base: &b\n  threshold: x\n<<: *b\n", 2),
        ("charon.yaml", "{name: a,\n\n  threshold: x}", 3),
        ("charon.toml", '# c\nname = """\nthreshold = 3\n"""\n"threshold" = "x"\n[run]\nthreshold = 3\n', 5),
        ("charon.toml", "[run]\nname = 'a'\n", 0),
        ("charon.json", '{\n "run": {"threshold": 3,\n "a": "}"},\n\n "Threshold"\n : "x"}', 5),
        ("charon.json", '{"threshold": "x"}', 1),
    ],
)
def test_errors_name_the_line_of_the_key(tmp_path: Path, name: str, content: str, line: int) -> None:
    if not line:
        assert not values_of(tmp_path, name, content.encode()).is_set("name")
        return
    with pytest.raises(UserError) as caught:
        values_of(tmp_path, name, content.encode())
    assert str(caught.value).startswith(f"{name}:{line} (threshold): invalid argument")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("charon.yaml", b"name: a\n\tthreshold: 3\n", "line 2: a tab stands where the line's indentation is; use spaces"),
        ("charon.yaml", b"name: a\nb: c: d\n", "line 2: "),
        ("charon.yaml", b"name: a\nthreshold: \xe9\n", "line 2 is neither UTF-8 nor UTF-16"),
        ("charon.yaml", "name: a\n".encode("utf-16-le"), "zero bytes"),
        ("charon.yaml", b"name: a\nx: 1\nName: b\n", "line 3: Name stands twice, first in line 1"),
        ("charon.yaml", b"<<: a\n", "line 1: << takes a mapping"),
        ("charon.yaml", b"[a]: b\n", "line 1: a key is no text"),
        ("charon.yaml", b"name: *nobody\n", "line 1: found undefined alias"),
        ("charon.yaml", b"- " * 100_000 + b"a", "charon.yaml: read config"),
        ("charon.json", b"", "is empty"),
        ("charon.json", b'{"name": 1,\n}', "line 2"),
        ("charon.toml", b"name = a\n", "line 1"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_in_one_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(UserError) as caught:
        values_of(tmp_path, name, content)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


def test_more_documents_are_noticed_and_what_is_in_them_does_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rest in ("---\nname: b\n", "---\n[\n", "...\n\tx: : [\n"):
        assert values_of(tmp_path, "charon.yaml", f"name: a\n{rest}".encode()).text("name") == "a"
        assert capsys.readouterr().err == "Notice: charon.yaml has more than one document; only the first one counts\n"
    assert values_of(tmp_path, "charon.yaml", b"---\nname: a\n...\n").text("name") == "a"
    assert capsys.readouterr().err == ""


def test_aliases_of_aliases_cost_nothing(tmp_path: Path) -> None:
    """2^40 elements, if anybody built them; and as many merges."""
    lists = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" if n else "a0: &a0 [x]\n" for n in range(40))
    merges = "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}\n" if n else "m0: &m0 {name: a}\n" for n in range(40))
    began = time.process_time()
    assert values_of(tmp_path, "charon.yaml", f"{lists}{merges}<<: *m39\n".encode()).text("name") == "a"
    assert time.process_time() - began < 20
    loop = b"a: &a {<<: *a, name: b}\n<<: *a\n"
    assert values_of(tmp_path, "charon.yaml", loop).text("name") == "b"


def test_a_long_file_is_read_in_time(tmp_path: Path) -> None:
    """Tabs, keys inside of texts: nothing is looked at again and again. Both took minutes when it was."""
    began = time.process_time()
    tabs = b"operator-enrs: [" + b"\tx," * 10_000 + b"]\nname: a\n"
    assert len(values_of(tmp_path, "charon.yaml", tabs).texts("operator-enrs")) == 10_000
    (tmp_path / "charon.yaml").unlink()
    inside = b'x = """\n' + b"name = 1\n" * 25_000 + b'"""\nname = "a"\n'
    assert values_of(tmp_path, "charon.toml", inside).text("name") == "a"
    assert time.process_time() - began < 60


PIECES = st.sampled_from(
    [
        *"\t\n\r :-?[]{}#&*!|>'\"%@,",
        "name",
        "threshold",
        ": ",
        "\n  ",
        "\n\t",
        "<<: ",
        "&a ",
        "*a",
        "---\n",
        "...\n",
        "0x1",
        "\ufeff",
        "\x85",
    ]
)


@given(st.lists(PIECES, max_size=25).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_yaml_is_values_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    directory = tmp_path_factory.mktemp("config")
    (directory / "charon.yaml").write_bytes(content.encode())
    try:
        _, values = read_config_file(directory, ["name", "threshold"])
    except UserError as error:
        told = str(error)
    else:
        told = "charon.yaml: read config: " * (values.keys() <= {"name", "threshold"})
    assert told.startswith("charon.yaml: read config: ")


@given(
    st.dictionaries(st.sampled_from(["name", "threshold", "x", "y"]), st.text(max_size=8) | st.integers() | st.none(), max_size=4)
)
@settings(max_examples=100, deadline=None)
def test_json_is_the_same_in_a_yaml_file(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    directory = tmp_path_factory.mktemp("config")
    (directory / "charon.yaml").write_text(json.dumps(values))
    _, from_yaml = read_config_file(directory, ["name", "threshold"])
    (directory / "charon.json").write_text(json.dumps(values))
    assert read_config_file(directory, ["name", "threshold"]) == ("charon.json", from_yaml)
