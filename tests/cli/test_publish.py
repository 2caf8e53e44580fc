"""The Obol API and definitions by URL: what is sent, and what becomes of refusals. A real server stands for the API."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from charon_actors.cli.inputs import definition_file
from charon_actors.cli.services import obol_api
from charon_actors.cli.services.http_request import service_of, wait_for
from charon_actors.cli.services.obol_api import ObolApi, Style, try_to_publish_lock
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import decode_definition, encode_definition
from charon_actors.cluster.foreign_json import encode_compact
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import verify_definition, verify_definition_hashes
from charon_actors.crypto.secp256k1 import ethereum_address, k1_recover
from charon_actors.enr import new_record
from charon_actors.files.data_directory import load_lock
from tests.charon_actors.dkg.cluster import definition, prepare_directory, private_key
from tests.cli.conftest import Charon
from tests.cli.loopback import Asked, Loopback, Reply, hanging, loopback

VECTORS = Path(__file__).parent.parent / "vectors/cluster"
REQUESTS = json.loads((VECTORS / "cli-files/api_requests.json").read_text())["requests"]
LOCK = decode_lock((VECTORS / "cli-files/cluster-lock.json").read_bytes())
ADDRESS = "0x000000000000000000000000000000000000dEaD"
OPERATORS = ("0x52908400098527886E0F7030069857D2E4169EE7", "0x8617E340B3D01FA5F11F306F4090FD50E238070D", ADDRESS.lower())
TERMS = ("--name=test", "--network=hoodi", f"--withdrawal-addresses={ADDRESS}", f"--fee-recipient-addresses={ADDRESS}")
CREATE_DKG = ("create", "dkg", *TERMS)
CREATE_CLUSTER = ("create", "cluster", "--insecure-keys", "--cluster-dir=out")
ENRS = "--operator-enrs=" + ",".join(new_record(private_key(index)).encode() for index in range(3))


@pytest.fixture
def api() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


def with_status(status: int, body: bytes = b"") -> Any:
    return lambda asked: Reply(status, body)


# --- the client ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda row: f"{row['method']}{row['path'][:30]}")
def test_requests_are_byte_for_byte_those_of_charon(api: Loopback, request_: Any) -> None:
    """The recorded ones replace the path of the base URL; whatever calls the API goes through the same client."""
    text = request_["body_text"]
    body = encode_compact(json.loads(text)) if text else b""
    bearer = (request_["authorization"] or "").removeprefix("Bearer ")
    client = ObolApi(service_of(f"{api.url}/v1", "--publish-address"), 5.0)
    wait_for(lambda: client.call(request_["method"], request_["path"], Style.REPLACE, body=body, bearer=bearer))
    (asked,) = api.asked
    assert (asked.method, asked.path, asked.body.decode()) == (request_["method"], request_["path"], text)
    assert asked.headers.get("authorization") == request_["authorization"]
    assert asked.headers.get("content-type") == request_["content_type"]


@pytest.mark.parametrize(("base", "expected"), [("/v1", "/v1/x"), ("/v1/", "/v1/x"), ("", "/x"), ("/a/b?k=v", "/a/b/x?k=v")])
def test_paths_that_are_appended(api: Loopback, base: str, expected: str) -> None:
    client = ObolApi(service_of(api.url + base, "--publish-address"), 5.0)
    wait_for(lambda: client.publish("/x", Style.APPEND, b"{}"))
    assert api.asked[0].path == expected


def publish_lock(server: Loopback, timeout_s: float = 5.0) -> tuple[bool, str]:
    client = ObolApi(service_of(f"{server.url}/v1", "--publish-address"), timeout_s)
    return wait_for(lambda: try_to_publish_lock(client, LOCK))


def test_a_lock_is_published_as_compact_json_in_the_order_of_the_file(api: Loopback) -> None:
    is_published, told = publish_lock(api)
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("POST", "/lock")
    assert "authorization" not in asked.headers
    file = json.loads((VECTORS / "cli-files/cluster-lock.json").read_bytes())
    assert asked.body.decode() == json.dumps(file, separators=(",", ":"), ensure_ascii=False)
    assert is_published
    assert told.endswith(f": {api.url}/lock/0x{LOCK.lock_hash.hex().upper()}/launchpad")


def test_a_duplicate_is_a_success(api: Loopback) -> None:
    api.answer = with_status(409)
    is_published, told = publish_lock(api)
    assert is_published
    assert told.startswith("Obol API has the lock file already: ")


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (302, 1), (404, 1), (500, 3), (503, 3)])
def test_a_lock_is_tried_again_only_where_that_can_help(
    api: Loopback, monkeypatch: pytest.MonkeyPatch, status: int, attempts: int
) -> None:
    monkeypatch.setattr(obol_api, "PUBLISH_PAUSE_S", 0.0)
    api.answer = with_status(status, b"try\nlater")
    is_published, told = publish_lock(api)
    assert not is_published
    assert told.startswith(
        f"Couldn't publish lock file to Obol API: http status {status} try later; the cluster is good without;"
    )
    assert told.endswith(f"POST cluster-lock.json to {api.url}/lock")
    assert len(api.asked) == attempts


def test_a_lock_gets_through_at_the_second_attempt(api: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obol_api, "PUBLISH_PAUSE_S", 0.0)
    api.answer = lambda asked: Reply(503 if len(api.asked) == 1 else 201)
    assert publish_lock(api)[0]
    assert len(api.asked) == 2


def test_all_attempts_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging() as silent:
        assert "no complete answer within 0.2 s" in publish_lock(silent, timeout_s=0.2)[1]
        assert len(silent.asked) == 1


# --- create dkg --publish --------------------------------------------------------------------------------------------


def test_a_definition_is_published_after_the_terms_and_nothing_is_written(charon: Charon, api: Loopback) -> None:
    outcome = charon(*CREATE_DKG, ENRS, "--num-validators=2", "--publish", f"--publish-address={api.url}/v1")
    assert (outcome.status, outcome.stdout) == (0, "")
    terms, published = api.asked
    assert (terms.method, terms.path) == ("POST", "/v1/termsAndConditions")
    assert (published.method, published.path) == ("POST", "/v1/definition")

    made = decode_definition(published.body)
    verify_definition(made)  # its creator's signature included
    assert [operator.enr for operator in made.operators] == ENRS.removeprefix("--operator-enrs=").split(",")
    assert published.body == encode_compact(json.loads(encode_definition(made)))
    assert published.headers["authorization"] == "Bearer 0x" + made.creator.config_signature.hex()
    assert published.headers["content-type"] == terms.headers["content-type"] == "application/json"

    vector = json.loads((VECTORS / "eip712.json").read_text())["terms_and_conditions"]
    assert terms.body.decode() == (
        f'{{"address":"{made.creator.address}","version":{vector["version"]},'
        f'"terms_and_conditions_hash":"{vector["hash_string"]}","fork_version":"0x10000910"}}'
    )
    signature = bytes.fromhex(terms.headers["authorization"].removeprefix("Bearer 0x"))
    assert ethereum_address(k1_recover(bytes.fromhex(vector["digest"]), signature)) == made.creator.address

    assert list(Path().iterdir()) == []
    assert f"charon dkg --definition-file={api.url}/v1/definition/0x{made.config_hash.hex()}\n" in outcome.stderr


def test_the_link_of_the_default_address_is_the_one_of_the_specification() -> None:
    client = ObolApi(service_of("https://api.obol.tech/v1", "--publish-address"), 1.0)
    of = replace(definition(3, 2, 1), config_hash=bytes(32))
    assert client.definition_link(of) == "https://api.obol.tech/v1/definition/0x" + "00" * 32


@pytest.mark.parametrize(("network", "host"), [("hoodi", "hoodi."), ("sepolia", "sepolia."), ("mainnet", "")])
def test_operators_by_address_get_a_link_to_the_launchpad(charon: Charon, api: Loopback, network: str, host: str) -> None:
    arguments = (*CREATE_DKG, f"--network={network}", f"--operator-addresses={','.join(OPERATORS)}", "--threshold=3")
    outcome = charon(*arguments, "--publish", f"--publish-address={api.url}/v1")
    assert outcome.status == 0
    made = decode_definition(api.asked[1].body)
    verify_definition_hashes(made)
    assert [(operator.address, operator.enr) for operator in made.operators] == [
        (OPERATORS[0], ""),
        (OPERATORS[1], ""),
        (ADDRESS, ""),
    ]
    assert made.threshold == 3
    assert f"https://{host}launchpad.obol.org/dv#0x{made.config_hash.hex()}\n" in outcome.stderr


def test_each_call_has_a_creator_of_its_own(charon: Charon, api: Loopback) -> None:
    for _ in range(2):
        assert charon(*CREATE_DKG, ENRS, "--publish", f"--publish-address={api.url}").status == 0
    creators = [decode_definition(asked.body).creator.address for asked in api.asked if asked.path == "/definition"]
    assert len(set(creators)) == 2


@pytest.mark.parametrize(("refused", "posts"), [("/termsAndConditions", 1), ("/definition", 2)])
@pytest.mark.parametrize("status", [401, 500])
def test_a_refusal_ends_the_command(charon: Charon, api: Loopback, refused: str, posts: int, status: int) -> None:
    api.answer = lambda asked: Reply(status if asked.path == refused else 200, b"terms not signed")
    error = charon(*CREATE_DKG, ENRS, "--publish", f"--publish-address={api.url}").error
    assert error.startswith(f"--publish-address ({api.url}): publish definition: http status {status} terms not signed; ")
    assert len(api.asked) == posts
    assert list(Path().iterdir()) == []


def test_a_duplicate_definition_is_a_success(charon: Charon, api: Loopback) -> None:
    api.answer = with_status(409)
    assert charon(*CREATE_DKG, ENRS, "--publish", f"--publish-address={api.url}").status == 0


def test_credentials_in_the_address_are_not_shown(charon: Charon, api: Loopback) -> None:
    api.answer = with_status(500)
    outcome = charon(*CREATE_DKG, ENRS, "--publish", f"--publish-address=http://me:hunter2@{api.host}/v1")
    assert "hunter2" not in outcome.error + outcome.stderr
    assert outcome.stderr.startswith(f"Notice: --publish-address: {api.url}/… is plain http")
    assert api.asked[0].headers["authorization"].startswith("Bearer 0x")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], 'required flag(s) "operator-enrs" not set'),
        (["--publish"], 'required flag(s) "operator-enrs" not set'),
        ([ENRS, f"--operator-addresses={ADDRESS}", "--publish"], "given together with --operator-enrs; give one of both"),
        ([f"--operator-addresses={','.join(OPERATORS)}"], "add --publish, or give --operator-enrs"),
        (["--publish", f"--operator-addresses={ADDRESS}"], "number of operators is below minimum (1)"),
        (["--publish", "--operator-addresses=0x1,0x2,0x3"], "invalid ethereum address (operator 0)"),
        (
            ["--publish", f"--operator-addresses={','.join(OPERATORS[:2])},{OPERATORS[0].lower()}"],
            "same address twice (operators 0 and 2)",
        ),
        (
            ["--publish", f"--operator-addresses={','.join(OPERATORS[:2])},{ADDRESS.replace('E', 'e')}"],
            "invalid checksummed address",
        ),
        (["--publish", f"--operator-addresses={','.join(OPERATORS)}", "--threshold=4"], "threshold exceeds number of nodes"),
        (["--publish", ENRS, "--publish-address=api.obol.tech"], "--publish-address: is no URL"),
        (["--publish", ENRS, "--publish-address=ftp://host"], "--publish-address: an address is not a URL"),
    ],
)
def test_mistakes_are_one_line_and_send_nothing(charon: Charon, arguments: list[str], error: str) -> None:
    assert error in charon(*CREATE_DKG, *arguments).error
    assert list(Path().iterdir()) == []


# --- create cluster --publish ----------------------------------------------------------------------------------------


def test_create_cluster_publishes_the_lock_that_it_wrote(charon: Charon, api: Loopback) -> None:
    arguments = (*CREATE_CLUSTER, *TERMS, "--nodes=3", "--num-validators=1", "--publish", f"--publish-address={api.url}/v1")
    outcome = charon(*arguments)
    assert outcome.status == 0
    (asked,) = api.asked
    assert asked.path == "/lock"
    assert json.loads(asked.body) == json.loads(Path("out/node0/cluster-lock.json").read_bytes())
    lock_hash = load_lock(Path("out/node0/cluster-lock.json"), print).lock_hash
    assert f"{api.url}/lock/0x{lock_hash.hex().upper()}/launchpad\n" in outcome.stderr
    assert outcome.stdout.startswith("Created charon cluster:")


def test_a_cluster_that_can_not_be_published_is_a_cluster(charon: Charon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obol_api, "PUBLISH_PAUSE_S", 0.0)
    arguments = (*CREATE_CLUSTER, *TERMS, "--nodes=3", "--num-validators=1", "--publish")
    outcome = charon(*arguments, "--publish-address=http://127.0.0.1:1")
    assert outcome.status == 0
    assert "Notice: Couldn't publish lock file to Obol API: " in outcome.stderr
    assert Path("out/node2/cluster-lock.json").exists()


def test_what_ends_before_the_files_are_there_publishes_nothing(charon: Charon, api: Loopback) -> None:
    Path("out/node1").mkdir(parents=True)
    Path("out/node1/mine").touch()
    arguments = (*CREATE_CLUSTER, *TERMS, "--nodes=3", "--num-validators=1", "--publish", f"--publish-address={api.url}/v1")
    assert "existing node directory found" in charon(*arguments).error
    assert api.asked == []


# --- definitions by URL ----------------------------------------------------------------------------------------------


def unsigned() -> Definition:
    return definition(3, 2, 2)


def test_create_cluster_takes_a_definition_from_a_url(charon: Charon, api: Loopback) -> None:
    content = encode_definition(unsigned())
    api.answer = lambda asked: Reply(200, content) if asked.path == "/d?k=v" else Reply(307, headers={"location": "/d?k=v"})
    outcome = charon(*CREATE_CLUSTER, f"--definition-file={api.url}/first")
    assert outcome.status == 0, outcome
    assert [asked.path for asked in api.asked] == ["/first", "/d?k=v"]
    assert f"Notice: --definition-file: {api.url}/… is plain http" in outcome.stderr
    lock = load_lock(Path("out/node0/cluster-lock.json"), print)
    assert lock.definition.config_hash == unsigned().config_hash


@pytest.fixture
def operator(charon: Charon) -> Path:
    """A data directory in the working directory, as `charon dkg` wants it, without a definition."""
    directory = prepare_directory(Path(".charon"), 0, unsigned())
    (directory / "cluster-definition.json").unlink()
    return directory


def test_dkg_takes_a_definition_from_a_url(charon: Charon, operator: Path, api: Loopback) -> None:
    api.answer = with_status(200, encode_definition(definition(3, 4, 1)))
    error = charon("dkg", "--log-level=error", f"--definition-file={api.url}/v1/definition/0x12").error
    assert error.startswith(f"--definition-file ({api.url}/…): threshold exceeds number of operators: 4 > 3")


@pytest.mark.parametrize("command", [CREATE_CLUSTER, ("dkg", "--log-level=error")], ids=["create cluster", "dkg"])
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(404, b"no such definition"), "cannot fetch the definition: http status 404 no such definition; check the URL"),
        (Reply(302, headers={"location": "/"}), "cannot fetch the definition: more than 5 redirects"),
        (Reply(200, b"<html>"), "unmarshal cluster-definition.json: "),
        (Reply(200, b""), "unmarshal cluster-definition.json: "),
        (
            Reply(200, encode_definition(unsigned()).replace(b'"test"', b'"tost"')),
            "verify definition hashes: invalid config hash",
        ),
    ],
    ids=["404", "circle", "html", "empty", "changed"],
)
def test_a_url_that_has_no_good_definition(
    charon: Charon, operator: Path, api: Loopback, command: tuple[str, ...], reply: Reply, words: str
) -> None:
    api.answer = lambda asked: reply
    error = charon(*command, f"--definition-file=http://me:hunter2@{api.host}/d").error
    assert error.startswith(f"--definition-file ({api.url}/…): {words}")
    assert "hunter2" not in error
    assert sorted(path.name for path in operator.iterdir()) == ["charon-enr-private-key"]
    assert not Path("out").exists()


def test_a_definition_without_end_is_refused_at_its_limit(charon: Charon, api: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for part in itertools.repeat(b" " * (1 << 20)):
            sent += len(part)
            yield part

    api.answer = lambda asked: Reply(parts=endless())
    error = charon(*CREATE_CLUSTER, f"--definition-file={api.url}").error
    assert f"the answer is larger than {16 << 20} bytes" in error
    assert sent < 32 << 20


def test_a_slow_definition_is_given_up(charon: Charon, monkeypatch: pytest.MonkeyPatch) -> None:
    assert definition_file.FETCH_TIMEOUT_S == 10.0
    monkeypatch.setattr(definition_file, "FETCH_TIMEOUT_S", 0.2)
    with hanging() as silent:
        error = charon(*CREATE_CLUSTER, f"--definition-file={silent.url}").error
    assert "cannot fetch the definition: no complete answer within 0.2 s" in error


def test_no_verify_softens_a_fetched_definition_like_a_file(charon: Charon, operator: Path, api: Loopback) -> None:
    changed = encode_definition(with_definition_hashes(replace(unsigned(), threshold=4))).replace(b'"test"', b'"tost"')
    api.answer = with_status(200, changed)
    outcome = charon("dkg", "--log-level=error", "--no-verify", f"--definition-file={api.url}")
    assert "ignoring failed definition hashes verification due to --no-verify flag" in outcome.stderr
    assert "threshold exceeds" in outcome.error


def test_asked_is_exact(api: Loopback) -> None:
    """The server of these tests itself: it must see what is sent."""
    import httpx

    httpx.post(f"{api.url}/a?b", content=b"body", headers={"X-Y": "z"}, trust_env=False)
    assert api.asked == [Asked("POST", "/a?b", api.asked[0].headers, b"body")]
    assert api.asked[0].headers["x-y"] == "z"
