"""Keystores that go to key managers instead of the disk: what is sent, what is left on disk, and that no share is ever lost."""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from charon_actors.cli.commands.ceremony_results import Results
from charon_actors.cli.services import keymanager
from charon_actors.cli.services.http_request import HttpFault, service_of, wait_for
from charon_actors.cli.services.keymanager import KeyManager
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto import decode_keystore, decrypt_keystore, public_key
from charon_actors.errors import UserError
from charon_actors.files.data_directory import load_lock
from charon_actors.files.keystore_files import Keystore
from supervisors.ceremony import CeremonyConfig, run_ceremony
from tests.charon_actors.dkg.cluster import check_results, definition, prepare_directory
from tests.cli.conftest import Charon
from tests.cli.loopback import Asked, Loopback, Reply, hanging, loopback
from tests.supervisors.test_ceremony_programs import config_of, free_ports, start

ADDRESS = "0x000000000000000000000000000000000000dEaD"
_CREATE = ("create", "cluster", "--name=test", "--network=hoodi", "--insecure-keys", "--cluster-dir=out", "--nodes=3")
CREATE = (*_CREATE, f"--withdrawal-addresses={ADDRESS}", f"--fee-recipient-addresses={ADDRESS}", "--num-validators=2")
TOKENS = ("hunter-zero", "hunter-one", "hunter-two")
STATUS = st.one_of(
    st.sampled_from(["imported", "duplicate", "error"]), st.none(), st.integers(), st.text(max_size=5), st.lists(st.none())
)
KEYSTORES = [Keystore(b'{\n "pubkey": "00"\n}', "pass-0"), Keystore(b"{}", "pass-1")]


@pytest.fixture
def managers() -> Iterator[list[Loopback]]:
    with ExitStack() as stack:
        yield [stack.enter_context(loopback()) for _ in range(3)]


def flags(managers: Sequence[Loopback], tokens: Sequence[str] = TOKENS, path: str = "") -> list[str]:
    addresses = ",".join(manager.url + path for manager in managers)
    return [f"--keymanager-addresses={addresses}", f"--keymanager-auth-tokens={','.join(tokens)}"]


def manager_at(url: str) -> KeyManager:
    return KeyManager(service_of(url, "--keymanager-address"), "--keymanager-address", "hunter-zero")


def status(code: int, body: bytes = b"") -> Callable[[Asked], Reply]:
    return lambda asked: Reply(code, body)


def check_shares(asked: Asked, lock: Lock, node: int) -> None:
    """The request has a keystore of each validator, in order, and its password opens it to that node's share."""
    body = json.loads(asked.body)
    assert list(body) == ["keystores", "passwords"]
    assert len(body["keystores"]) == len(body["passwords"]) == len(lock.validators)
    assert all(re.fullmatch("[0-9a-f]{64}", password) for password in body["passwords"])
    for validator, content, password in zip(lock.validators, body["keystores"], body["passwords"], strict=True):
        assert isinstance(content, str)
        secret = decrypt_keystore(decode_keystore(content.encode()), password)
        assert public_key(secret) == validator.public_shares[node]


# --- one push --------------------------------------------------------------------------------------------------------


def test_the_request_of_a_push() -> None:
    with loopback() as server:
        wait_for(lambda: manager_at(f"{server.url}/base/").push(KEYSTORES))
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/base/eth/v1/keystores")
    assert asked.headers["authorization"] == "Bearer hunter-zero"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == rb'{"keystores":["{\n \"pubkey\": \"00\"\n}","{}"],"passwords":["pass-0","pass-1"]}'


def push_fault(answer: Callable[[Asked], Reply]) -> str:
    with loopback(answer) as server, pytest.raises(HttpFault) as caught:
        wait_for(lambda: manager_at(server.url).push(KEYSTORES))
    return str(caught.value)


@pytest.mark.parametrize("code", [302, 400, 401, 403, 409, 500])
def test_any_other_status_than_2xx_is_a_fault(code: int) -> None:
    assert push_fault(status(code, b"because")) == f"http status {code} because"


def test_a_fault_repeats_neither_token_nor_passwords() -> None:
    fault = push_fault(lambda asked: Reply(400, asked.headers["authorization"].encode() + asked.body))
    for secret in ("hunter-zero", "pass-0", "pass-1"):
        assert secret not in fault
    answer = json.dumps({"data": [{"status": "error", "message": "wrong password pass-1"}]}).encode()
    assert push_fault(status(200, answer)).endswith("because: wrong password xxxxx")


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (b"", 0),
        (b"OK", 0),
        (b"[1]", 0),
        (b'{"data":5}', 0),
        (b'{"data":[5,{}]}', 0),
        (b"[" * 100_000, 0),
        (b'{"data":[{"status":"imported"},{"status":"duplicate"}]}', 0),
        (b'{"data":[{"status":"imported"},{"status":"error","message":"no space"}]}', 1),
        (b'{"data":[7,{"status":"error"}]}', 1),
        (b'{"data":[{"status":"error"},{"status":"error"}]}', 2),
    ],
)
def test_an_answer_that_refuses_a_keystore_is_a_fault(answer: bytes, refused: int) -> None:
    if refused:
        assert f"did not import {refused} of 2 keystores" in push_fault(status(200, answer))
        return
    with loopback(status(200, answer)) as server:
        wait_for(lambda: manager_at(server.url).push(KEYSTORES))


@given(
    st.one_of(
        st.binary(max_size=50),
        st.lists(st.fixed_dictionaries({}, optional={"status": STATUS, "message": STATUS}) | STATUS, max_size=4).map(
            lambda rows: json.dumps({"data": rows}).encode()
        ),
    )
)
def test_whatever_is_answered_refuses_a_number_of_keystores(answer: bytes) -> None:
    told = keymanager._refused(answer, ["imported"])
    assert all(line.isprintable() and "imported" not in line for line in told)


def test_time_is_limited_by_the_number_of_keystores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keymanager.TIMEOUT_PER_KEY_S == 2.0
    monkeypatch.setattr(keymanager, "TIMEOUT_PER_KEY_S", 0.1)
    with hanging() as silent, pytest.raises(HttpFault, match=r"no complete answer within 0\.2 s"):
        wait_for(lambda: manager_at(silent.url).push(KEYSTORES))


def test_nobody_there_is_found_by_dialing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--keymanager-address: cannot reach .*127\.0\.0\.1:1: Connection refused; start it"):
        manager_at("http://127.0.0.1:1").dial()
    monkeypatch.setattr(keymanager, "DIAL_TIMEOUT_S", 0.1)
    with pytest.raises(UserError, match="cannot reach the key manager"):
        manager_at("http://a..b:1").dial()
    assert "hunter-zero" not in repr(manager_at("https://me:hunter-zero@host:1"))


# --- create cluster --------------------------------------------------------------------------------------------------


def test_each_node_gets_its_own_shares_and_the_disk_gets_none(charon: Charon, managers: list[Loopback]) -> None:
    outcome = charon(*CREATE, *flags(managers, path="/base"))
    assert outcome.status == 0, outcome
    lock = load_lock(Path("out/node0/cluster-lock.json"), print)
    for node, manager in enumerate(managers):
        (asked,) = manager.asked
        assert asked.path == "/base/eth/v1/keystores"
        assert asked.headers["authorization"] == f"Bearer {TOKENS[node]}"
        check_shares(asked, lock, node)
        assert sorted(path.name for path in Path(f"out/node{node}").iterdir()) == [
            "charon-enr-private-key",
            "cluster-lock.json",
            "deposit-data-1eth.json",
            "deposit-data.json",
        ]
        assert f"Notice: --keymanager-addresses: {manager.url}/… is plain http" in outcome.stderr
    assert "keystore-*.json" not in outcome.stdout
    assert not any(token in outcome.stdout + outcome.stderr for token in TOKENS)


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("zipped", [[], ["--zipped"]])
def test_one_that_fails_midway_leaves_nothing_and_names_the_others(
    charon: Charon, managers: list[Loopback], failing: int, zipped: list[str]
) -> None:
    managers[failing].answer = lambda asked: Reply(500, b"disk full, " + asked.headers["authorization"].encode())
    error = charon(*CREATE, *flags(managers), *zipped).error
    url = managers[failing].url
    assert error.startswith(f"--keymanager-addresses ({url}): post keys to keymanager failed for node{failing}: http status 500 ")
    assert not any(token in error for token in TOKENS)
    nodes = f"node0 to node{failing}" if failing else "node0"
    assert f"remove the keys of this attempt from the key managers of {nodes}, they belong to no cluster" in error
    assert [len(manager.asked) for manager in managers] == [1] * (failing + 1) + [0] * (2 - failing)
    assert list(Path().iterdir()) == []


def test_nobody_is_asked_before_all_listen(charon: Charon, managers: list[Loopback]) -> None:
    addresses = f"{managers[0].url},{managers[1].url},http://127.0.0.1:1"
    arguments = [f"--keymanager-addresses={addresses}", f"--keymanager-auth-tokens={','.join(TOKENS)}"]
    assert "cannot reach the key manager at http://127.0.0.1:1" in charon(*CREATE, *arguments).error
    assert all(manager.asked == [] for manager in managers)
    assert list(Path().iterdir()) == []


def test_what_is_in_the_way_on_disk_is_found_before_keys_leave(charon: Charon, managers: list[Loopback]) -> None:
    Path("out/node1").mkdir(parents=True)
    Path("out/node1/mine").touch()
    assert "existing node directory found" in charon(*CREATE, *flags(managers)).error
    assert all(manager.asked == [] for manager in managers)


@pytest.mark.parametrize(
    ("addresses", "tokens", "error"),
    [
        (
            "http://a:1,http://b:1,http://c:1",
            "x,y",
            "number of --keymanager-addresses does not match number of --keymanager-auth-tokens",
        ),
        ("", "x", "number of --keymanager-addresses does not match number of --keymanager-auth-tokens"),
        ("http://a:1", "x", "number of keymanager addresses does not match number of operators: 1, 3"),
        ("a:1,b:1,c:1", "x,y,z", "--keymanager-addresses: is no URL"),
        ("http://a:1,http://b:1,http://c:1", "hunter-zero,,z", "a token is empty or has characters that no header can hold"),
        ("http://a:1,http://b:1,http://c:1", "hunter-zero,a b,z", "a token is empty or has characters that no header can hold"),
        (
            "http://a:1,http://b:1,http://c:1",
            "hunter-zero,\u00fc,z",
            "a token is empty or has characters that no header can hold",
        ),
    ],
)
def test_mistakes_in_the_flags(charon: Charon, addresses: str, tokens: str, error: str) -> None:
    found = charon(*CREATE, f"--keymanager-addresses={addresses}", f"--keymanager-auth-tokens={tokens}").error
    assert error in found
    assert "hunter-zero" not in found
    assert list(Path().iterdir()) == []


# --- dkg -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--keymanager-address=http://127.0.0.1:1"], "--keymanager-address provided but --keymanager-auth-token not set"),
        (["--keymanager-auth-token=hunter-zero"], "--keymanager-auth-token provided but --keymanager-address not set"),
        (["--keymanager-address=http://127.0.0.1:1", "--keymanager-auth-token=hunter-zero"], "cannot reach the key manager"),
        (["--keymanager-address=127.0.0.1:1", "--keymanager-auth-token=hunter-zero"], "--keymanager-address: is no URL"),
    ],
)
def test_dkg_checks_its_key_manager_before_the_ceremony(charon: Charon, tmp_path: Path, arguments: list[str], error: str) -> None:
    directory = config_of(tmp_path, 0, definition(3, 2, 1), 0).options.data_directory
    path = f"--definition-file={directory}/cluster-definition.json"
    outcome = charon("dkg", "--log-level=error", f"--data-dir={directory}", path, *arguments)
    assert error in outcome.error
    assert "hunter-zero" not in outcome.stderr
    assert not (directory / "charon-enr-private-key.lock").exists()


def test_dkgs_banner_shows_no_token(charon: Charon, tmp_path: Path) -> None:
    arguments = ["--keymanager-auth-token=hunter-zero", "--keymanager-address=http://me:hunter-one@127.0.0.1:1"]
    arguments += ["--publish-address=hunter:two@host", "--execution-client-rpc-endpoint=https://host/hunter-three"]
    outcome = charon("dkg", *arguments)
    assert "Parsed config" in outcome.stderr
    assert "hunter" not in outcome.stderr


class Ceremony:
    """Three operators in this process. The first delivers its keystores somewhere."""

    def __init__(self, folder: Path, deliver: Callable[[Sequence[Keystore]], Awaitable[bool]]) -> None:
        ports = free_ports(3)
        self.definition = definition(3, 2, 2, ports=ports)
        self.configs = [config_of(folder, index, self.definition, port) for index, port in enumerate(ports)]
        first = self.configs[0]
        self.configs[0] = replace(first, options=replace(first.options, deliver_keystores=deliver))
        self.directories = [config.options.data_directory for config in self.configs]
        self.errors: list[BaseException] = []

    async def run(self, meanwhile: Callable[[trio.CancelScope], Awaitable[None]] | None = None) -> None:
        """meanwhile: gets the scope of the first operator."""
        scope = trio.CancelScope()

        async def take_part(config: CeremonyConfig) -> None:
            with scope if config is self.configs[0] else trio.CancelScope():
                try:
                    await run_ceremony(config)
                except Exception as error:
                    self.errors.append(error)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for config in self.configs:
                    nursery.start_soon(take_part, config)
                if meanwhile is not None:
                    nursery.start_soon(meanwhile, scope)


def results(directory: Path, url: str) -> Results:
    return Results(directory, manager_at(url), None, is_zipped=False)


async def test_a_ceremony_delivers_its_keystores(tmp_path: Path) -> None:
    with loopback() as server:
        ending = results(tmp_path, server.url)
        ceremony = Ceremony(tmp_path, ending.deliver)
        await ceremony.run()
        assert ceremony.errors == []
        (asked,) = server.asked
    lock = decode_lock((ceremony.directories[0] / "cluster-lock.json").read_bytes())
    verify_lock(lock)
    check_shares(asked, lock, 0)
    assert not (ceremony.directories[0] / "validator_keys").exists()
    assert (ceremony.directories[0] / "deposit-data.json").exists()
    await ending.finish(lock)


async def test_a_key_manager_that_fails_costs_neither_shares_nor_the_ceremony(tmp_path: Path) -> None:
    with loopback(status(503, b"hunter-zero is locked")) as server:
        ending = results(tmp_path, server.url)
        ceremony = Ceremony(tmp_path, ending.deliver)
        await ceremony.run()
        assert ceremony.errors == []
    check_results(ceremony.directories, ceremony.definition)  # all three, with keystores
    with pytest.raises(UserError) as caught:
        await ending.finish(decode_lock((ceremony.directories[0] / "cluster-lock.json").read_bytes()))
    assert str(caught.value) == (
        f"--keymanager-address ({server.url}): post keys to keymanager failed: http status 503 xxxxx is locked; "
        "the keystores are with the other results instead: import them into this one validator client, nowhere else"
    )


async def test_stopping_while_keystores_are_delivered_keeps_them(tmp_path: Path) -> None:
    with hanging() as server:
        ending = results(tmp_path, server.url)
        ceremony = Ceremony(tmp_path, ending.deliver)

        async def stop(scope: trio.CancelScope) -> None:
            while not server.asked:  # a fact of another thread
                await trio.sleep(0.01)
            scope.cancel()

        await ceremony.run(stop)
    first = ceremony.directories[0]
    lock = decode_lock((first / "cluster-lock.json").read_bytes())
    verify_lock(lock)
    for index, validator in enumerate(lock.validators):
        content = (first / f"validator_keys/keystore-{index}.json").read_bytes()
        password = (first / f"validator_keys/keystore-{index}.txt").read_text()
        assert public_key(decrypt_keystore(decode_keystore(content), password)) == validator.public_shares[0]
    assert len(ceremony.errors) == 2  # the others were told


async def test_a_disk_that_fails_after_the_delivery_says_where_the_keys_are(tmp_path: Path) -> None:
    async def deliver(keystores: Sequence[Keystore]) -> bool:
        (ceremony.directories[0] / "cluster-lock.json").mkdir()
        (ceremony.directories[0] / "cluster-lock.json/in-the-way").touch()
        return True

    ceremony = Ceremony(tmp_path, deliver)
    await ceremony.run()
    (error,) = [error for error in ceremony.errors if "the keystores were delivered" in str(error)]
    assert "cluster-lock.json: already exists; the keystores were delivered; copy lock and deposit files" in str(error)


@pytest.mark.slow
def test_three_processes_with_a_key_manager_an_archive_and_publishing(tmp_path: Path) -> None:
    ports = free_ports(3)
    of = definition(3, 2, 1, ports=ports)
    directories = [prepare_directory(tmp_path / f"node{index}", index, of) for index in range(3)]
    content = (directories[0] / "cluster-definition.json").read_bytes()
    with loopback() as server, loopback(lambda asked: Reply(200, content if asked.method == "GET" else b"")) as api:
        flags = [
            [f"--keymanager-address={server.url}", "--keymanager-auth-token=hunter-zero"],
            ["--zipped", "--publish", f"--publish-address={api.url}/v1"],
            [f"--definition-file={api.url}/v1/definition/0x{of.config_hash.hex()}"],
        ]
        processes = [start(directory, ports[index], *flags[index]) for index, directory in enumerate(directories)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    lock = decode_lock((directories[0] / "cluster-lock.json").read_bytes())
    check_shares(server.asked[0], lock, 0)
    assert not (directories[0] / "validator_keys").exists()
    assert sorted(path.name for path in directories[1].iterdir()) == ["charon-enr-private-key.lock", "dkg.tar.gz"]
    assert [(asked.method, asked.path) for asked in api.asked] == [
        ("GET", f"/v1/definition/0x{of.config_hash.hex()}"),
        ("POST", "/lock"),
    ]
    assert f"{api.url}/lock/0x{lock.lock_hash.hex().upper()}/launchpad".encode() in outputs[1][1]
    assert (directories[2] / "validator_keys/keystore-0.json").exists()
    assert all(b"hunter-zero" not in out + err for out, err in outputs)
