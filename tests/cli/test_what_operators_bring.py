"""Environments, files and habits of operators who come from Charon: what started there starts here, and errors name where a word came from.

Expected names, kinds and defaults are those of tests/vectors/monitoring/cli_flags.json (Charon's flags, v1.10.3 and v1.11).
"""

import functools
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from charon_actors.cli.commands import run as run_module
from charon_actors.cli.main import COMMANDS, root
from charon_actors.cli.options.flag import Flag, Unbuilt
from charon_actors.cli.options.table import CharonCommand, Values, charon_command, resolve
from charon_actors.cli.options.unbuilt import UNBUILT
from charon_actors.cli.options.values import Blank, Kind, parse_duration
from charon_actors.errors import UserError
from supervisors.simnet import SimnetSettings, make_cluster
from tests.cli.conftest import Charon
from tests.cli.test_run import BAD_FLAGS, CHARON, TESTNET, VECTORS, data, flags, free_ports, refused

__all__ = ["data"]  # a fixture

REFERENCE = json.loads((VECTORS / "monitoring/cli_flags.json").read_text())["commands"]
OF_RUN = {flag.name: flag for flag in run_module.FLAGS}
REFUSED = {"simnet-beacon-mock", "simnet-beacon-mock-fuzz", "simnet-validator-mock"}
BEACON = {"CHARON_BEACON_NODE_ENDPOINTS": "http://127.0.0.1:5052"}


@pytest.fixture(scope="module")
def dealt() -> Any:
    return make_cluster(SimnetSettings(Path(), nodes=4, validators=1, seed=3))


# what starts with real Charon: arguments and environment, beside the addresses of the node itself
STARTS: Mapping[str, tuple[list[str], dict[str, str]]] = {
    "builder": (["--builder-api"], BEACON),
    "several": (
        [
            "--builder-api=true",
            "--feature-set=stable",
            "--feature-set-enable=json_requests",
            "--loki-service=x",
            "--synthetic-block-proposals=false",
        ],
        BEACON,
    ),
    "comma before": ([], {"CHARON_BEACON_NODE_ENDPOINTS": ",http://127.0.0.1:5052"}),
    "comma behind": ([], {"CHARON_BEACON_NODE_ENDPOINTS": "http://127.0.0.1:5052,"}),
    "only a comma": ([], {**BEACON, "CHARON_FALLBACK_BEACON_NODE_ENDPOINTS": ","}),
    **{f"level {word}": ([], {**BEACON, "CHARON_LOG_LEVEL": word}) for word in ("INFO", "Warning", "warning", "DPANIC", "fatal")},
    "all interfaces": ([], {**BEACON, "CHARON_VALIDATOR_API_ADDRESS": ":PORT"}),
    "web socket": ([], {**BEACON, "CHARON_EXECUTION_CLIENT_RPC_ENDPOINT": "ws://127.0.0.1:8546"}),
    "template of compose": (
        [],
        {
            **BEACON,
            "CHARON_BEACON_NODE_HEADERS": "",
            "CHARON_BUILDER_API": "true",
            "CHARON_FEATURE_SET_ENABLE": "",
            "CHARON_LOKI_ADDRESSES": "http://loki:3100/loki/api/v1/push",
            "CHARON_LOKI_SERVICE": "charon",
            "CHARON_OTLP_ADDRESS": "",
            "CHARON_CONSENSUS_PROTOCOL": "QBFT",
            "CHARON_PROC_DIRECTORY": "/host/proc",
        },
    ),
}


def arguments_of(case: str, monitoring: int = 0) -> tuple[list[str], dict[str, str]]:
    given, environment = STARTS[case]
    environment = {name: value.replace("PORT", "0") for name, value in environment.items()}
    taken = "--validator-api-address=127.0.0.1:0"
    addresses = [
        f"--monitoring-address=127.0.0.1:{monitoring}",
        *([] if "CHARON_VALIDATOR_API_ADDRESS" in environment else [taken]),
    ]
    return ["run", "--p2p-relays=", *addresses, *TESTNET, *given], environment


@pytest.mark.parametrize("case", STARTS)
def test_what_started_with_charon_has_no_error_in_it(
    charon: Charon, data: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(run_module, "run_program", lambda program: 0)
    arguments, environment = arguments_of(case)
    outcome = charon(*arguments, **environment)
    assert outcome.status == 0, outcome


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in STARTS if case not in ("level INFO", "level Warning", "level fatal")])
def test_what_started_with_charon_starts(data: Path, case: str) -> None:
    (port,) = free_ports(1)
    arguments, environment = arguments_of(case, port)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHARON_")}
    process = subprocess.Popen(
        [*CHARON, *arguments], cwd=data.parent, env={**clean, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        ends_at = time.monotonic() + 60
        while time.monotonic() < ends_at:
            assert process.poll() is None, process.communicate()[0]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("it does not listen")
    finally:
        process.kill()
        process.communicate(timeout=30)


# --- flags and commands that aren't built ----------------------------------------------------------------------------


def command_of(path: str) -> CharonCommand | None:
    import click

    context, command = click.Context(root, info_name="charon"), root
    for name in path.split():
        found = command.get_command(context, name)
        if not isinstance(found, click.Group):
            return found if isinstance(found, CharonCommand) else None
        command = found  # type: ignore[assignment]
    return None


@pytest.mark.parametrize("path", [path for path in REFERENCE if path in COMMANDS])
def test_every_flag_of_charon_is_known_with_its_kind_and_default(path: str) -> None:
    command = command_of(path)
    assert command is not None
    ours = {flag.name: flag for flag in command.flags}
    for name, row in REFERENCE[path]["flags"].items():
        flag = ours[name]
        if flag.inert:
            continue
        expected = parse_duration(row["default"]) if row["type"] == "duration" else row["default"]
        assert flag.kind.value == row["type"], name
        is_empty = name in ("private-key-file", "lock-file") and not flag.default
        assert is_empty or (list(flag.default) if isinstance(flag.default, tuple) else flag.default) == expected, name


def test_commands_that_are_not_built_say_so(charon: Charon) -> None:
    assert {path for path in REFERENCE if path in COMMANDS} >= {"run", "dkg", "combine", "enr", "create dkg", "create cluster"}
    for path in [*(path for path in REFERENCE if path not in COMMANDS), "alpha", "alpha test", "exit", "deposit", "test peers"]:
        error = charon(*path.split(), "--some-flag", "value").error
        assert error.startswith(f"charon {path}: this version has no such command yet; "), path
    assert "unknown command" in charon("add-validators").error
    assert charon("help", "create", "dkg").stdout == charon("create", "dkg", "--help").stdout
    assert charon("help").stdout == charon("--help").stdout


def example(flag: Flag) -> str:
    """A value that is not the default."""
    if flag.words:
        return next(word for word in flag.words if word != flag.default)
    return {Kind.SWITCH: "true", Kind.TEXT: "x", Kind.TEXTS: "a,b", Kind.DURATION: "7s"}[flag.kind]


def default_in_words(flag: Flag) -> str:
    default = REFERENCE["run"]["flags"][flag.name]["default"]
    return str(default).lower() if isinstance(default, bool) else ",".join(default) if isinstance(default, list) else default


def sources(directory: Path, name: str, text: str) -> Iterator[tuple[str, dict[str, tuple[str]], dict[str, str]]]:
    """The same value on the command line, in the environment, in each kind of file: place, arguments, environment."""
    variable = "CHARON_" + name.upper().replace("-", "_")
    yield f"--{name}", {"flag_" + name.replace("-", "_"): (text,)}, {}
    yield variable, {}, {variable: text}
    for ending, content in (("json", json.dumps({name: text})), ("toml", f"{name} = '{text}'"), ("yaml", f"{name}: '{text}'")):
        path = directory / f"charon.{ending}"
        path.write_text(content)
        yield f"charon.{ending}:1 ({name})", {}, {}
        path.unlink()


@pytest.mark.parametrize("flag", UNBUILT, ids=lambda flag: flag.name)
def test_a_flag_that_is_not_built_is_treated_alike_in_all_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: Flag
) -> None:
    assert flag.unbuilt is not None
    required = {"flag_beacon_node_endpoints": ("http://127.0.0.1:5052",)}

    def told(text: str) -> Iterator[tuple[str, str]]:
        for place, arguments, environment in sources(tmp_path, flag.name, text):
            try:
                resolve("charon run", run_module.FLAGS, {**required, **arguments}, environment, tmp_path)
            except UserError as error:
                yield place, f"Error: {error}"
            else:
                yield place, capsys.readouterr().err

    for place, line in told(example(flag)):
        if flag.name in REFUSED:
            assert line == f"Error: {place}: this version has no --{flag.name} yet; {flag.unbuilt.means}; {flag.unbuilt.remedy}"
        else:
            assert line == f"Notice: {place} has no effect: this version has no --{flag.name} yet; {flag.unbuilt.means}\n"
    for _, line in told(default_in_words(flag)):
        assert line == ""
    if flag.kind in (Kind.SWITCH, Kind.DURATION) or flag.words:
        for place, line in told("neither"):
            assert line.startswith(f'Error: {place}: invalid argument "neither" for "--{flag.name}" flag: ')


def test_which_flags_must_not_be_ignored() -> None:
    assert {flag.name for flag in UNBUILT if flag.unbuilt and flag.unbuilt.remedy} == REFUSED
    assert all(flag.is_hidden and not flag.help for flag in UNBUILT)


def test_a_mock_is_refused_before_beacon_nodes_are_asked_for(charon: Charon, data: Path) -> None:
    assert charon("run", CHARON_SIMNET_BEACON_MOCK="true").error.startswith("CHARON_SIMNET_BEACON_MOCK: this version has no")
    assert charon("run", "--simnet-beacon-mock=false").error.startswith("charon run: required flag(s)")


def test_flags_that_are_not_built_are_not_in_help_nor_in_the_log(charon: Charon, tmp_path: Path) -> None:
    assert "--builder-api" not in charon("run", "--help").stdout
    values = resolve("charon run", run_module.FLAGS, {"flag_beacon_node_endpoints": ("http://x",)}, {}, tmp_path)
    assert not set(values.for_log()) & {flag.name for flag in UNBUILT}


def test_builder_registrations_that_charon_would_use_are_noticed(
    charon: Charon, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "run_program", lambda program: 0)
    (data / "builder_registrations_overrides.json").write_text("{}")
    notices = charon(*flags()).stderr
    assert "Notice: .charon/builder_registrations_overrides.json has no effect: " in notices


# --- empty elements --------------------------------------------------------------------------------------------------

LISTS = (
    Flag("urls", Kind.TEXTS, ("http://default",), "", blank=Blank.DROPPED),
    Flag("addresses", Kind.TEXTS, (), ""),
    Flag("graffiti", Kind.TEXTS, (), "", blank=Blank.KEPT),
    Flag("amounts", Kind.NUMBERS, (), ""),
)


def in_all_sources(directory: Path, name: str, text: str) -> Iterator[tuple[str, "functools.partial[Values]"]]:
    for place, arguments, environment in sources(directory, name, text):
        yield place, functools.partial(resolve, "charon test", LISTS, arguments, environment, directory)


@pytest.mark.parametrize(
    "text", [",http://a,http://b", "http://a,http://b,", "http://a,,http://b", " , http://a,http://b, ,", '"",http://a,http://b']
)
def test_empty_elements_of_lists_of_urls_are_dropped(tmp_path: Path, text: str) -> None:
    for place, values in in_all_sources(tmp_path, "urls", text):
        assert values().texts("urls") == ("http://a", "http://b"), place


def test_real_lists_of_files_may_have_empty_elements_too(tmp_path: Path) -> None:
    for ending, content in (
        ("yaml", "urls: ['', http://a]"),
        ("json", '{"urls": ["http://a", " "]}'),
        ("toml", 'urls = ["", "http://a"]'),
    ):
        path = tmp_path / f"charon.{ending}"
        path.write_text(content)
        assert resolve("charon test", LISTS, {}, {}, tmp_path).texts("urls") == ("http://a",)
        path.write_text(content.replace("urls", "addresses"))
        with pytest.raises(UserError, match=r"^charon\.\w+:1 \(addresses\): .* element [12] is empty"):
            resolve("charon test", LISTS, {}, {}, tmp_path)
        path.unlink()


def test_nothing_but_commas_in_the_environment_is_unset(tmp_path: Path) -> None:
    assert resolve("charon test", LISTS, {}, {"CHARON_URLS": " ,, "}, tmp_path).texts("urls") == ("http://default",)


@pytest.mark.parametrize(("text", "place"), [(",a,b", 1), ("a,,b", 2), ("a,b,", 3)])
def test_other_lists_say_which_element_is_empty(tmp_path: Path, text: str, place: int) -> None:
    for name, written in (("addresses", text), ("amounts", text.replace("a", "1").replace("b", "2"))):
        for where, values in in_all_sources(tmp_path, name, written):
            with pytest.raises(UserError) as caught:
                values()
            assert str(caught.value).startswith(
                f'{where}: invalid argument "{written}" for "--{name}" flag: element {place} is empty'
            )


def test_no_graffiti_for_one_validator_is_a_choice(tmp_path: Path) -> None:
    assert resolve("charon test", LISTS, {}, {"CHARON_GRAFFITI": "a,,b"}, tmp_path).texts("graffiti") == ("a", "", "b")


@pytest.mark.parametrize("source", ["argument", "environment", "file"])
def test_no_beacon_node_among_the_commas_is_not_set(charon: Charon, data: Path, source: str) -> None:
    arguments = [argument for argument in flags() if not argument.startswith("--beacon-node-endpoints")]
    environment = {"CHARON_BEACON_NODE_ENDPOINTS": ","} if source == "environment" else {}
    if source == "argument":
        arguments.append("--beacon-node-endpoints=,")
    if source == "file":
        (data.parent / "charon.yaml").write_text("beacon-node-endpoints: ','")
    assert 'required flag(s) "beacon-node-endpoints" not set' in refused(charon, data, arguments, **environment)


# --- words of enumerations -------------------------------------------------------------------------------------------

WORDS = {  # spec 09 §3.1 to §3.11; ours: profile, simnet
    ("run", "log-level"): ("debug", "info", "warn", "warning", "error", "dpanic", "panic", "fatal"),
    ("run", "log-format"): ("console", "logfmt", "json"),
    ("run", "log-color"): ("auto", "force", "disable"),
    ("run", "feature-set"): ("alpha", "beta", "stable"),
    ("run", "consensus-protocol"): ("qbft",),
    ("dkg", "log-level"): ("debug", "info", "warn", "warning", "error", "dpanic", "panic", "fatal"),
    ("dkg", "log-format"): ("console", "logfmt", "json"),
    ("dkg", "log-color"): ("auto", "force", "disable"),
    ("dkg", "profile"): ("v1.10", "v1.11"),
    ("simnet", "log-level"): ("debug", "info", "warn", "warning", "error", "dpanic", "panic", "fatal"),
    ("create dkg", "network"): ("mainnet", "goerli", "prater", "gnosis", "chiado", "sepolia", "hoodi", "holesky"),
    ("create dkg", "consensus-protocol"): ("qbft",),
    ("create dkg", "dkg-algorithm"): ("default", "frost", "pedersen"),
    ("create dkg", "schema-version"): ("v1.10.0", "v1.11.0"),
    ("create cluster", "network"): ("mainnet", "goerli", "prater", "gnosis", "chiado", "sepolia", "hoodi", "holesky"),
    ("create cluster", "consensus-protocol"): ("qbft",),
    ("create cluster", "schema-version"): ("v1.10.0", "v1.11.0"),
}
MEANT = {"warning": "warn", "dpanic": "error", "panic": "error", "fatal": "error"}


def test_the_flags_with_a_fixed_set_of_words_are_these() -> None:
    found = {(path, flag.name) for path in COMMANDS if (command := command_of(path)) for flag in command.flags if flag.words}
    assert found == set(WORDS)


@pytest.mark.parametrize(("path", "name"), WORDS)
def test_words_are_known_in_any_letter_case(tmp_path: Path, path: str, name: str) -> None:
    command = command_of(path)
    assert command is not None
    (flag,) = [flag for flag in command.flags if flag.name == name]
    for word in WORDS[path, name]:
        for written in (word, word.upper(), word.title(), f" {word} "):
            for place, arguments, environment in sources(tmp_path, name, written):
                values = resolve(f"charon {path}", (flag,), arguments, environment, tmp_path)
                assert values.text(name) == MEANT.get(word, word), place
    if not flag.has_more_words:
        for place, arguments, environment in sources(tmp_path, name, "nonsense"):
            with pytest.raises(UserError) as caught:
                resolve(f"charon {path}", (flag,), arguments, environment, tmp_path)
            assert str(caught.value).startswith(
                f'{place}: invalid argument "nonsense" for "--{name}" flag: it is not known; use one'
            )


def test_an_empty_level_is_info_as_in_charon(tmp_path: Path) -> None:
    assert resolve("charon run", (OF_RUN["log-level"],), {"flag_log_level": ("",)}, {}, tmp_path).text("log-level") == "info"


def test_arguments_with_a_fixed_set_of_words_too(charon: Charon) -> None:
    assert charon("completion", "BASH").stdout == charon("completion", "bash").stdout


# --- errors name the source ------------------------------------------------------------------------------------------

# What is checked below the table of flags, mostly by rooms that don't know of sources. No flag of Charon can be without a value.
CHECKED = [flag for flag in BAD_FLAGS if "=" in flag and not flag.endswith("=")]


@pytest.mark.parametrize("bad", CHECKED)
def test_a_bad_value_is_named_by_the_place_it_came_from(charon: Charon, data: Path, bad: str) -> None:
    name, _, value = bad.removeprefix("--").partition("=")
    arguments = [argument for argument in flags() if not argument.startswith(f"--{name}=")]
    variable = "CHARON_" + name.upper().replace("-", "_")
    in_environment = refused(charon, data, arguments, **{variable: value})
    assert variable in in_environment.split(": ")[0], in_environment
    assert f"--{name}:" not in in_environment
    (data.parent / "charon.yaml").write_text(f"# of mine\n{name}: {json.dumps(value)}\n")
    in_file = refused(charon, data, arguments)
    assert f"charon.yaml:2 ({name})" in in_file, in_file
    assert BAD_FLAGS[bad] in in_file


@pytest.mark.parametrize(
    ("variable", "value", "start"),
    [
        ("CHARON_LOCK_FILE", "nowhere.json", "nowhere.json (CHARON_LOCK_FILE): "),
        ("CHARON_LOCK_FILE", "./a/../nowhere.json", "a/../nowhere.json (CHARON_LOCK_FILE): "),
        ("CHARON_PRIVATE_KEY_FILE", "nokey", "nokey (CHARON_PRIVATE_KEY_FILE): "),
        ("CHARON_DATA_DIR", "nowhere", "nowhere/charon-enr-private-key (CHARON_DATA_DIR): "),
    ],
)
def test_a_file_that_a_variable_named_is_shown_with_it(charon: Charon, data: Path, variable: str, value: str, start: str) -> None:
    assert refused(charon, data, flags(), **{variable: value}).startswith(start)


def test_tls_files_of_the_environment_are_shown_with_it(charon: Charon, data: Path) -> None:
    environment = {"CHARON_VC_TLS_CERT_FILE": "c.pem", "CHARON_VC_TLS_KEY_FILE": "k.pem"}
    error = refused(charon, data, flags(), **environment)
    assert error.startswith("c.pem, k.pem (CHARON_VC_TLS_CERT_FILE, CHARON_VC_TLS_KEY_FILE): ")


def test_the_place_is_named_inside_of_groups_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: Values) -> int:
        error = UserError("--p2p-tcp-address 1.2.3.4:5", "what", "remedy")
        raise ExceptionGroup("nursery", [ExceptionGroup("nursery", [error]), UserError("lock.json", "what", "remedy")])

    command = charon_command("test", "A test", fail, [Flag("p2p-tcp-address", Kind.TEXTS, (), "")], example="charon test")
    monkeypatch.setenv("CHARON_P2P_TCP_ADDRESS", "1.2.3.4:5")
    with pytest.raises(ExceptionGroup) as caught:
        command.main([], standalone_mode=False)
    inner, alone = caught.value.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert str(inner.exceptions[0]) == "CHARON_P2P_TCP_ADDRESS 1.2.3.4:5: what; remedy"
    assert str(alone) == "lock.json: what; remedy"


# --- all interfaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CHARON_VALIDATOR_API_ADDRESS", "CHARON_MONITORING_ADDRESS"])
def test_a_port_of_all_interfaces_that_is_taken_names_the_variable(charon: Charon, data: Path, name: str) -> None:
    flag = "--" + name.removeprefix("CHARON_").lower().replace("_", "-")
    arguments = [argument for argument in flags() if not argument.startswith(flag)]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused(charon, data, arguments, **{name: f":{port}"}).startswith(f"{name}: another program listens on :{port}")


def test_peers_need_an_address_as_in_charon(charon: Charon, data: Path) -> None:
    arguments = [argument for argument in flags() if not argument.startswith("--p2p-tcp-address")]
    error = refused(charon, data, arguments, CHARON_P2P_TCP_ADDRESS=":3610")
    assert error.startswith("CHARON_P2P_TCP_ADDRESS: ':3610' is no address")
    assert error.endswith("for example 0.0.0.0:3610")


def test_unbuilt_says_what_ignoring_means() -> None:
    assert all(isinstance(flag.unbuilt, Unbuilt) and flag.unbuilt.means for flag in UNBUILT)
