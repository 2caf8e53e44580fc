"""Where a flag's value comes from: command line, environment, file, default; and what is said when one is wrong."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.cli.options.config_file import read_config_file
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import Values, charon_command, resolve
from charon_actors.cli.options.values import Kind
from charon_actors.errors import UserError

FLAGS = (
    Flag("operator-enrs", Kind.TEXTS, (), "ENRs", required=True),
    Flag("threshold", Kind.NUMBER, 0, "Threshold", short="t"),
    Flag("timeout", Kind.DURATION, 120.0, "Timeout"),
    Flag("builder-api", Kind.SWITCH, False, "Builder", aliases=("builder",)),
    Flag("deposit-amounts", Kind.NUMBERS, (), "Amounts"),
    Flag("name", Kind.TEXT, "", "Name"),
    Flag("relay-urls", Kind.TEXTS, ("https://a", "https://b"), "Relays"),
    Flag("old", Kind.TEXT, "", "", inert="gone"),
)


def values_for(arguments: list[str], environment: dict[str, str], directory: Path) -> Values:
    command = charon_command("test", "A test", lambda values: 0, FLAGS, example="charon test")
    with command.make_context("charon test", list(arguments)) as context:
        return resolve("charon test", FLAGS, context.params, environment, directory)


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    expected = {"flag": 5, "environment": 4, "file": 3}
    for count in range(4):
        for used in itertools.combinations(expected, count):
            (tmp_path / "charon.yaml").write_text("threshold: 3" if "file" in used else "{}")
            values = values_for(
                ["--operator-enrs", "x", *(["--threshold", "5"] if "flag" in used else [])],
                {"CHARON_THRESHOLD": "4"} if "environment" in used else {},
                tmp_path,
            )
            winner = next((source for source in expected if source in used), None)
            assert values.number("threshold") == (expected[winner] if winner else 0)
            assert values.is_set("threshold") == (winner is not None)


def test_the_place_of_a_value_is_known(tmp_path: Path) -> None:
    (tmp_path / "charon.toml").write_text('timeout = "5m"')
    values = values_for(["--operator-enrs=x", "-t", "2"], {"CHARON_NAME": "n"}, tmp_path)
    places = [values.where(name) for name in ("threshold", "name", "timeout", "builder-api")]
    assert places == ["--threshold", "CHARON_NAME", "charon.toml:1 (timeout)", "--builder-api"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("charon.yaml", 'operator-enrs: "enr:a, enr:b"'),
        ("charon.yaml", "operator-enrs: [enr:a, enr:b]"),
        ("charon.yml", "Operator-ENRs:\n  - enr:a\n  - 'enr:b '\nunknown: {a: 1}\nname:"),
        ("charon.json", '{"operator-enrs": ["enr:a", "enr:b"], "name": null}'),
        ("charon.json", '{"operator-enrs": "enr:a,enr:b"}'),
        ("charon.toml", 'operator-enrs = ["enr:a", "enr:b"]'),
    ],
)
def test_lists_and_comma_text_in_files_are_equal_and_null_is_unset(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    values = values_for([], {}, tmp_path)
    assert values.texts("operator-enrs") == ("enr:a", "enr:b")
    assert not values.is_set("name")


def test_yaml_scalars_are_the_text_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "charon.yaml").write_text("operator-enrs: x\nname: 0123\nbuilder-api: true\ndeposit-amounts: [1, 31]")
    values = values_for([], {}, tmp_path)
    assert values.text("name") == "0123"
    assert values.switch("builder-api")
    assert values.numbers("deposit-amounts") == (1, 31)
    (tmp_path / "charon.yaml").write_text("operator-enrs: x\nbuilder-api: yes")
    with pytest.raises(UserError, match=r"charon\.yaml:2 \(builder-api\): invalid argument \"yes\""):
        values_for([], {}, tmp_path)


def test_only_the_first_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "charon.yaml").write_text("operator-enrs: yaml\nthreshold: 9")
    (tmp_path / "charon.json").write_text('{"operator-enrs": "json"}')
    values = values_for([], {}, tmp_path)
    assert (values.texts("operator-enrs"), values.number("threshold")) == (("json",), 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("charon.json", b"{"),
        ("charon.json", b"[]"),
        ("charon.json", b"[" * 100_000),
        ("charon.json", b'{"name": {"a": 1}}'),
        ("charon.json", b"\xff"),
        ("charon.toml", b"="),
        ("charon.yaml", b"a: ["),
        ("charon.yaml", b"!!python/object/apply:os.system [true]"),
        ("charon.yaml", b"name: [[1]]"),
        ("charon.yaml", b"x" * (2 << 20)),
    ],
)
def test_files_that_cannot_be_read_are_user_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        values_for(["--operator-enrs", "x"], {}, tmp_path)


@given(st.sampled_from(["json", "toml", "yaml"]), st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_file_is_values_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("config")
    (directory / f"charon.{ending}").write_bytes(content)
    try:
        _, values = read_config_file(directory, ["name", "a", ""])
    except UserError:
        return
    assert all(isinstance(value, str | tuple) for value in values.values())


def test_empty_environment_is_unset_and_quotes_are_stripped(tmp_path: Path) -> None:
    values = values_for([], {"CHARON_OPERATOR_ENRS": '"enr:a,enr:b"', "CHARON_TIMEOUT": "", "CHARON_BUILDER_API": "  "}, tmp_path)
    assert values.texts("operator-enrs") == ("enr:a", "enr:b")
    assert values.seconds("timeout") == 120.0
    assert not values.is_set("builder-api")


def test_lists_may_be_repeated_and_the_first_use_replaces_the_default(tmp_path: Path) -> None:
    arguments = ["--operator-enrs", "a,b", "--operator-enrs=c", "--relay-urls", "https://x", "--deposit-amounts", "1,31"]
    values = values_for(arguments, {}, tmp_path)
    assert values.texts("operator-enrs") == ("a", "b", "c")
    assert values.texts("relay-urls") == ("https://x",)
    assert values.numbers("deposit-amounts") == (1, 31)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--builder-api"], True),
        (["--builder-api=false"], False),
        (["--builder-api=1"], True),
        (["--builder-api", "--name", "--builder-api"], True),  # the second one is the name
        (["--builder"], True),
    ],
)
def test_switches(tmp_path: Path, arguments: list[str], expected: bool) -> None:
    values = values_for(["--operator-enrs", "x", *arguments], {}, tmp_path)
    assert values.switch("builder-api") is expected


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], 'charon test: required flag(s) "operator-enrs" not set; pass --operator-enrs or set CHARON_OPERATOR_ENRS'),
        (["--operator-enrs=x", "--nope"], "unknown flag: --nope"),
        (["--operator-enrs=x", "--operator-enr=y"], "unknown flag: --operator-enr"),
        (["--operator-enrs=x", "-x"], "unknown flag: -x"),
        (["--operator-enrs=x", "--builder-api", "true"], 'unexpected "true" after --builder-api'),
        (["--operator-enrs=x", "stray"], 'unknown command "stray" for "charon test"'),
        (["--operator-enrs=x", "--timeout=30"], 'invalid argument "30" for "--timeout" flag: expected a duration'),
        (["--operator-enrs=x", "--threshold"], "requires an argument"),
    ],
)
def test_wrong_usage_is_a_user_error(tmp_path: Path, arguments: list[str], error: str) -> None:
    with pytest.raises(UserError) as caught:
        values_for(arguments, {}, tmp_path)
    assert error in str(caught.value)


def test_older_names_work_and_say_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = values_for(["--operator-enrs=x", "--builder", "--old", "y"], {"CHARON_BUILDER": "false"}, tmp_path)
    assert values.switch("builder-api")
    notices = capsys.readouterr().err.splitlines()
    assert notices == ["Notice: --builder is now called --builder-api", "Notice: --old has no effect: gone"]
    wrong_below = values_for(["--operator-enrs=x", "--threshold=3"], {"CHARON_THRESHOLD": "x"}, tmp_path)
    assert wrong_below.number("threshold") == 3
    assert not values_for(["--operator-enrs=x"], {"CHARON_BUILDER": "false"}, tmp_path).switch("builder-api")


SECRETS = (
    Flag("keymanager-auth-token", Kind.TEXT, "", "Token"),
    Flag("beacon-node-endpoints", Kind.TEXTS, (), "Nodes"),
    Flag("beacon-node-headers", Kind.TEXTS, (), "Headers"),
    Flag("passphrase", Kind.NUMBER, 0, "Secret", secret=True),
    Flag("timeout", Kind.DURATION, 90.0, "Timeout"),
)


def test_nothing_secret_reaches_the_log_or_an_error(tmp_path: Path) -> None:
    arguments = {
        "flag_keymanager_auth_token": ("hunter2",),
        "flag_beacon_node_endpoints": (
            "http://me:hunter2@host:5052,http://plain,https://node/v3/hunter2,http://node?key=hunter2,http://me:p@node/hunter2",
        ),
        "flag_beacon_node_headers": ("Authorization=hunter2",),
    }
    values = resolve("charon test", SECRETS, arguments, {}, tmp_path)
    shown = values.for_log()
    assert "hunter2" not in str(shown)
    assert shown["beacon-node-endpoints"] == (
        "[http://xxxxx@host:5052,http://plain,https://node/xxxxx,http://node/xxxxx,http://xxxxx@node/xxxxx]"
    )
    assert shown["beacon-node-headers"] == "[Authorization=xxxxx]"
    assert (shown["timeout"], list(shown)) == ("1m30s", sorted(shown))
    with pytest.raises(UserError) as caught:
        resolve("charon test", SECRETS, {"flag_passphrase": ("hunter2",)}, {}, tmp_path)
    assert "hunter2" not in str(caught.value)
