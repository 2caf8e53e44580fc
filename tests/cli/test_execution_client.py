"""Contract wallets (ERC-1271): what an execution client is asked, and what its answers do to definitions and locks."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from charon_actors.cli.options.flags import EXECUTION_CLIENT
from charon_actors.cli.options.table import resolve
from charon_actors.cli.services import execution_client
from charon_actors.cli.services.execution_client import MAX_ANSWER_BYTES, ExecutionClient
from charon_actors.cli.services.http_request import service_of
from charon_actors.cluster.definition import Creator, Definition
from charon_actors.cluster.definition_json import encode_definition
from charon_actors.cluster.eip712 import creator_config_digest
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import verify_lock
from charon_actors.errors import UserError
from charon_actors.files.data_directory import read_definition, verified_definition
from supervisors.ceremony import run_ceremony
from tests.charon_actors.dkg.cluster import definition, prepare_directory
from tests.cli.conftest import Charon
from tests.cli.loopback import Asked, Loopback, Reply, hanging, loopback
from tests.supervisors.test_ceremony_programs import config_of, free_ports

WALLET = "0x52908400098527886E0F7030069857D2E4169EE7"
DIGEST = bytes(range(32))
YES = "0x1626ba7e" + "00" * 28
FLAG = "--execution-client-rpc-endpoint"


def asked_for(asked: Asked) -> Any:
    return json.loads(asked.body)


class Chain:
    """An execution client whose wallets answer `result` to whatever they are asked; or the call answers `error`."""

    def __init__(self, server: Loopback) -> None:
        self.server, self.result, self.error = server, YES, None
        server.answer = self.answer

    result: Any
    error: Any

    def answer(self, asked: Asked) -> Reply:
        request = asked_for(asked)
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == "web3_clientVersion":
            answer["result"] = "Loopback/v1"
        elif self.error is not None:
            answer["error"] = self.error
        else:
            answer["result"] = self.result
        return Reply(200, json.dumps(answer).encode())

    @property
    def calls(self) -> list[Any]:
        return [request for request in map(asked_for, self.server.asked) if request["method"] == "eth_call"]


@pytest.fixture
def chain() -> Iterator[Chain]:
    with loopback() as server:
        yield Chain(server)


def client_at(url: str, *, is_required: bool = True) -> ExecutionClient:
    return ExecutionClient(service_of(url, FLAG), FLAG, is_required=is_required)


# --- one question ----------------------------------------------------------------------------------------------------


def test_the_call_is_abi_encoded(chain: Chain) -> None:
    assert client_at(f"{chain.server.url}/rpc/").__call__(WALLET, DIGEST, b"\xaa" * 33)
    assert [asked.path for asked in chain.server.asked] == ["/rpc/", "/rpc/"]
    assert all(asked.headers["content-type"] == "application/json" for asked in chain.server.asked)
    first, second = map(asked_for, chain.server.asked)
    assert (first["method"], first["params"]) == ("web3_clientVersion", [])
    data = (
        "0x1626ba7e"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "0000000000000000000000000000000000000000000000000000000000000040"
        "0000000000000000000000000000000000000000000000000000000000000021"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aa00000000000000000000000000000000000000000000000000000000000000"
    )
    call = {"from": "0x0000000000000000000000000000000000000000", "to": WALLET, "input": data}
    assert second == {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}


@given(st.binary(max_size=2080))
def test_any_signature_fills_whole_words(signature: bytes) -> None:
    data = execution_client._call_data(DIGEST, signature)
    assert (len(data) - 4) % 32 == 0
    assert int.from_bytes(data[68:100], "big") == len(signature)
    assert data[100 : 100 + len(signature)] == signature
    assert not any(data[100 + len(signature) :])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "result", "code", "message"]), inner),
    max_leaves=8,
)


@given(st.one_of(st.binary(max_size=50), JSON_VALUES.map(lambda value: json.dumps(value).encode())))
def test_whatever_is_answered_is_a_result_or_a_fault_of_one_line(answer: bytes) -> None:
    try:
        execution_client._result_of(answer)
    except execution_client.RpcFault as fault:
        told = str(fault)
        assert told.isprintable()


def test_answers_are_remembered_and_connecting_is_once(chain: Chain) -> None:
    client = client_at(chain.server.url)
    assert not client.remembers(WALLET, DIGEST, b"1")
    assert client(WALLET, DIGEST, b"1")
    assert client(WALLET, DIGEST, b"1")
    assert client.remembers(WALLET, DIGEST, b"1")
    assert len(chain.calls) == 1
    chain.result = "0x"
    assert not client(WALLET, DIGEST, b"2")
    assert not client(WALLET, DIGEST, b"2")  # a refusal is asked again
    assert not client.remembers(WALLET, DIGEST, b"2")
    assert len(chain.server.asked) == 4


@pytest.mark.parametrize(
    "result",
    [
        "0x",  # no contract there
        "0x1626ba7e",  # no ABI word
        "0x00000000000000000000000000000000000000000000000000000000" + "1626ba7e",
        "0x1626ba7f" + "00" * 28,
        "0xffffffff" + "00" * 28,
        "0x" + "00" * 32,
    ],
)
def test_only_the_selector_means_yes(chain: Chain, result: str) -> None:
    chain.result = result
    assert not client_at(chain.server.url)(WALLET, DIGEST, b"1")


@pytest.mark.parametrize(
    "error", [{"code": 3, "message": "execution reverted: GS026"}, {"code": -32000, "message": "Execution Reverted"}]
)
def test_a_wallet_that_reverts_does_not_accept(chain: Chain, error: Any) -> None:
    chain.error = error
    assert not client_at(chain.server.url)(WALLET, DIGEST, b"1")


def test_an_address_that_is_none_is_not_asked(chain: Chain) -> None:
    assert not client_at(chain.server.url)("0x" + "zz" * 20, DIGEST, b"1")
    assert chain.server.asked == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"code": -32601, "message": "no such\nmethod"}, "error -32601: no such method"),
        ("bad", "error None: bad"),
        ({}, "error None: None"),
    ],
)
def test_other_errors_name_the_flag(chain: Chain, error: Any, words: str) -> None:
    chain.error = error
    with pytest.raises(UserError) as caught:
        client_at(f"{chain.server.url}/secret-path")(WALLET, DIGEST, b"1")
    text = f"{FLAG} ({chain.server.url}/…): eth_call to {WALLET}: {words}; check the endpoint, and that it is of the cluster's network"
    assert str(caught.value) == text


@pytest.mark.parametrize("result", [None, 5, True, [], {}, "", "1626ba7e", "0x1", "0xzz", YES + "\n"])
def test_results_that_are_no_data(chain: Chain, result: Any) -> None:
    chain.result = result
    with pytest.raises(UserError, match="the answer is no data"):
        client_at(chain.server.url)(WALLET, DIGEST, b"1")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(200, b"<html>"), "the answer is no JSON"),
        (Reply(200, b"[]"), "the answer is no JSON object"),
        (Reply(200, b"[" * 50_000), "the answer is no JSON"),
        (Reply(401, b"no access to 0123456789abcdef-key"), "http status 401 no access to xxxxx"),
        (Reply(302, headers={"location": "/"}), "http status 302"),
    ],
)
def test_what_is_no_execution_client_is_waited_for_and_named(monkeypatch: pytest.MonkeyPatch, reply: Reply, words: str) -> None:
    assert execution_client.CONNECT_TIMEOUT_S == 10.0
    monkeypatch.setattr(execution_client, "CONNECT_TIMEOUT_S", 1.0)  # the first request loads httpx
    monkeypatch.setattr(execution_client, "RETRY_S", 0.05)
    with loopback(lambda asked: reply) as server, pytest.raises(UserError) as caught:
        client_at(f"{server.url}/0123456789abcdef-key")(WALLET, DIGEST, b"1")
    where = f"{FLAG} ({server.url}/…): wait for execution client to connect: eth1 client is not connected: "
    assert str(caught.value).startswith(where + words)
    assert len(server.asked) > 1


def test_one_that_starts_late_is_in_time(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_client, "RETRY_S", 0.01)
    chain.server.answer = lambda asked: Reply(503) if len(chain.server.asked) < 4 else chain.answer(asked)
    assert client_at(chain.server.url)(WALLET, DIGEST, b"1")


def test_time_and_size_of_answers_are_limited(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.result = "0x" + "00" * MAX_ANSWER_BYTES
    with pytest.raises(UserError, match=f"the answer is larger than {MAX_ANSWER_BYTES} bytes"):
        client_at(chain.server.url)(WALLET, DIGEST, b"1")
    chain.server.answer = lambda asked: Reply(parts=itertools.repeat(b"{" * 65536))
    monkeypatch.setattr(execution_client, "CONNECT_TIMEOUT_S", 1.0)
    with pytest.raises(UserError, match="larger than"):
        client_at(chain.server.url)(WALLET, DIGEST, b"1")
    monkeypatch.setattr(execution_client, "CONNECT_TIMEOUT_S", 0.2)
    with hanging() as silent, pytest.raises(UserError, match=r"not connected: no answer within 0\.2 s"):
        client_at(silent.url)(WALLET, DIGEST, b"1")


def test_where_verification_is_bypassed_faults_are_notices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(execution_client, "CONNECT_TIMEOUT_S", 0.1)
    assert not client_at("http://127.0.0.1:1", is_required=False)(WALLET, DIGEST, b"1")
    assert f"Notice: {FLAG} (http://127.0.0.1:1): wait for execution client to connect" in capsys.readouterr().err


# --- in the commands -------------------------------------------------------------------------------------------------


def by_a_wallet(**changes: Any) -> Definition:
    """Its creator is a contract wallet; three owners have signed."""
    creator = Creator(WALLET, b"\x55" * 195)
    return with_definition_hashes(replace(definition(3, 2, 1), **{"version": "v1.11.0", "creator": creator, **changes}))


@pytest.fixture
def data(charon: Charon) -> Path:
    return prepare_directory(Path(".charon"), 0, by_a_wallet())


COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "create cluster": lambda data: (
        *("create", "cluster", "--insecure-keys", "--cluster-dir=out"),
        f"--definition-file={data / 'cluster-definition.json'}",
    ),
    "dkg": lambda data: ("dkg", "--log-level=error", "--definition-file=.charon/cluster-definition.json", "--nickname=me"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_flag_there_is_a_hint(charon: Charon, data: Path, name: str) -> None:
    error = charon(*COMMANDS[name](data)).error
    assert "verify definition signatures: invalid creator config signature; if a contract wallet signed, pass " + FLAG in error


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wallet_that_does_not_accept(charon: Charon, data: Path, chain: Chain, name: str) -> None:
    chain.result = "0x" + "00" * 32
    error = charon(*COMMANDS[name](data), FLAG, chain.server.url).error
    assert "verify definition signatures: invalid creator config signature" in error
    assert len(chain.calls) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_an_execution_client_that_is_down(charon: Charon, data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(execution_client, "CONNECT_TIMEOUT_S", 0.1)
    error = charon(*COMMANDS[name](data), FLAG, "http://me:hunter2@127.0.0.1:1/key").error
    assert error.startswith(f"{FLAG} (http://127.0.0.1:1/…): wait for execution client to connect")
    assert "hunter2" not in error


def test_create_cluster_and_run_accept_what_the_wallet_accepts(charon: Charon, data: Path, chain: Chain) -> None:
    outcome = charon(*COMMANDS["create cluster"](data), FLAG, chain.server.url)
    assert outcome.status == 0, outcome
    (call,) = chain.calls  # the finished lock is verified without asking again
    digest = creator_config_digest(by_a_wallet().config_hash, 560048)
    assert call["params"][0]["to"] == WALLET
    assert call["params"][0]["input"].startswith("0x1626ba7e" + digest.hex())

    node = Path("out/node0")
    arguments = ["run", "--log-level=error", f"--lock-file={node}/cluster-lock.json", "--beacon-node-endpoints=nothing at all"]
    arguments += [f"--private-key-file={node}/charon-enr-private-key"]
    assert "invalid creator config signature; if a contract wallet signed" in charon(*arguments).error
    error = charon(*arguments, FLAG, chain.server.url).error
    assert error.startswith("--beacon-node-endpoints")  # the lock is accepted
    assert len(chain.calls) == 2


def test_no_verify_goes_on_without_an_execution_client(charon: Charon, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_client, "CONNECT_TIMEOUT_S", 0.1)
    path = data / "cluster-definition.json"
    path.write_bytes(encode_definition(by_a_wallet(threshold=4)))
    outcome = charon(*COMMANDS["dkg"](data), "--no-verify", FLAG, "http://127.0.0.1:1")
    assert "ignoring failed definition signatures verification due to --no-verify flag" in outcome.stderr
    assert "threshold exceeds" in outcome.error


async def test_a_ceremony_ends_well_although_the_execution_client_has_gone(tmp_path: Path) -> None:
    """What the wallet has accepted before the ceremony still holds when the finished lock is verified."""
    ports = free_ports(3)
    operators = definition(3, 2, 1, ports=ports).operators
    of = by_a_wallet(operators=operators, version="v1.10.0", creator=Creator(WALLET, b"\x55" * 65))
    configs = [config_of(tmp_path, index, of, port) for index, port in enumerate(ports)]
    path = configs[0].options.data_directory / "cluster-definition.json"
    with loopback() as server:
        Chain(server)
        client = client_at(server.url)
        await trio.to_thread.run_sync(lambda: verified_definition(str(path), read_definition(path), print, contract=client))

    asked: list[str] = []

    def remembered(address: str, digest: bytes, signature: bytes) -> bool:
        asked.append(address)
        return client.remembers(address, digest, signature)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for config in configs:
                nursery.start_soon(run_ceremony, replace(config, options=replace(config.options, contract=remembered)))
    assert asked == [WALLET] * 3
    locks = [(config.options.data_directory / "cluster-lock.json").read_bytes() for config in configs]
    assert len(set(locks)) == 1
    verify_lock(decode_lock(locks[0]), contract=client.remembers)


# --- a URL that is none ----------------------------------------------------------------------------------------------


def test_a_url_that_is_none_is_an_error_only_when_a_wallet_is_to_be_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An execution client that nobody needs is no reason not to start; `ws://` is what many have beside `http://`."""
    for text in ("ws://127.0.0.1:8546", "127.0.0.1:8545", "http://", "/ipc"):
        values = resolve("charon run", (EXECUTION_CLIENT,), {}, {"CHARON_EXECUTION_CLIENT_RPC_ENDPOINT": text}, Path())
        client = execution_client.execution_client(values)
        told = capsys.readouterr().err
        assert told.startswith(
            "Notice: CHARON_EXECUTION_CLIENT_RPC_ENDPOINT is no http or https URL, such as http://127.0.0.1:8545;"
        )
        assert client is not None
        assert not client.remembers(WALLET, DIGEST, b"1")
        with pytest.raises(UserError) as caught:
            client(WALLET, DIGEST, b"1")
        assert str(caught.value).startswith(
            "CHARON_EXECUTION_CLIENT_RPC_ENDPOINT: is no http or https URL, and the contract wallet 0x"
        )
        assert str(caught.value).endswith("; write for example http://127.0.0.1:8545")
        bypassing = execution_client.execution_client(values, is_verified=False)
        assert bypassing is not None
        assert not bypassing(WALLET, DIGEST, b"1")
