"""Requests as Charon sends them, answers of a real beacon node, and whatever else a server may send."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.bounded_json import ANSWER
from charon_actors.errors import UserError
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2 import beacon_errors, beacon_urls
from charon_actors.eth2.beacon_api import Answer, AnswerFault, Call
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.event_stream import MAX_DATA, Event, EventFault, EventParser, encode_event
from tests.vector import vector

SENT_BY_CHARON = {entry["call"]: entry for entry in vector("core/bn_requests.json")["requests"]}
KEY_AA = "0xaa" + "00" * 47


def body_of(call: str) -> Any:
    return SENT_BY_CHARON[call]["body"]


ATTESTATIONS = "submit attestations (fulu; second one without validator index is left out)"
OUR_REQUESTS: dict[str, Call] = {
    "fork schedule": api.FORK_SCHEDULE,
    "node peer count": api.PEER_COUNT,
    "validators by key at a slot": api.validators("320", [KEY_AA]),
    "validators by index at head": api.validators("head", ["7", "8"]),
    "proposer duties": api.proposer_duties(10),
    "sync duties": api.sync_duties(10, [7, 8]),
    "attestation data": api.attestation_data(321, 0),
    "proposal, builder api on": api.produce_block(321, b"\x07" * 96, b"ab".ljust(32, b"\0"), 2**64 - 1),
    ATTESTATIONS: api.submit_attestations("fulu", body_of(ATTESTATIONS)),
    "submit registrations": api.register_validators(body_of("submit registrations")),
    "submit preparations": api.prepare_proposers([(7, "0x" + "00" * 20)]),
    "submit block contents (fulu)": api.submit_block(
        "fulu", bytes.fromhex(SENT_BY_CHARON["submit block contents (fulu)"]["body_hex"])
    ),
}


@pytest.mark.parametrize("name", OUR_REQUESTS)
def test_requests_equal_charons(name: str) -> None:
    ours, theirs = OUR_REQUESTS[name], SENT_BY_CHARON[name]
    assert (ours.method, ours.path + ("?" + ours.query if ours.query else "")) == (theirs["method"], theirs["uri"])
    headers = dict(ours.headers)
    for header in ("Accept", "Content-Type", "Eth-Consensus-Version"):
        assert headers.get(header) == theirs["headers"].get(header)
    if "body_hex" in theirs:
        assert ours.body.hex() == theirs["body_hex"]
    else:
        assert (json.loads(ours.body) if ours.body else None) == theirs.get("body")


def test_the_first_duties_request_equals_charons() -> None:  # the file has two entries of that name
    theirs = next(entry for entry in vector("core/bn_requests.json")["requests"] if entry["call"] == "attester duties")
    ours = api.attester_duties(10, [7, 8])
    assert (ours.path, json.loads(ours.body)) == (theirs["uri"], theirs["body"])


def samples(*names: str) -> list[Any]:
    return [
        pytest.param(sample, id=f"{name}-{number}")
        for name in names
        for number, sample in enumerate(vector(f"lodestar-http/{name}.json")["samples"])
        if sample.get("status") == 200 and isinstance(sample.get("response"), dict)
    ]


def raw(sample: Any) -> bytes:
    return json.dumps(sample["response"]).encode()


@pytest.mark.parametrize("sample", samples("duties_attester", "fulu/duties_attester"))
def test_attester_duties_of_a_real_node(sample: Any) -> None:
    epoch = int(sample["path"].rsplit("/", 1)[1])
    answer = api.decode_attester_duties(raw(sample), epoch, 8)
    assert [(duty.slot, "0x" + duty.pubkey.hex()) for duty in answer.duties] == [
        (int(entry["slot"]), entry["pubkey"]) for entry in sample["response"]["data"]
    ]
    assert "0x" + answer.dependent_root.hex() == sample["response"]["dependent_root"]
    with pytest.raises(AnswerFault, match="not of epoch"):
        api.decode_attester_duties(raw(sample), epoch + 1, 8)


@pytest.mark.parametrize("sample", samples("duties_proposer", "fulu/duties_proposer"))
def test_proposer_duties_of_a_real_node(sample: Any) -> None:
    answer = api.decode_proposer_duties(raw(sample), int(sample["path"].rsplit("/", 1)[1]), 8)
    assert len(answer.duties) == len(sample["response"]["data"]) > 0


@pytest.mark.parametrize("sample", samples("duties_sync", "fulu/duties_sync"))
def test_sync_duties_of_a_real_node(sample: Any) -> None:
    answer = api.decode_sync_duties(raw(sample))
    assert [list(map(str, duty.positions)) for duty in answer.duties] == [
        entry["validator_sync_committee_indices"] for entry in sample["response"]["data"]
    ]


def chain_of(slots_per_epoch: int) -> Chain:
    """Before Electra."""
    return Chain(0.0, bytes(32), 12.0, slots_per_epoch, (), {}, bytes(4))


@pytest.mark.parametrize("sample", samples("attestation_data", "fulu/attestation_data"))
def test_attestation_data_of_a_real_node(sample: Any) -> None:
    query = dict(item.split("=") for item in sample["query"].split("&"))
    slot, committee = int(query["slot"]), int(query.get("committee_index", 0))
    data = api.decode_attestation_data(raw(sample), slot, committee, chain_of(8))
    assert data.to_json() == sample["response"]["data"]
    with pytest.raises(AnswerFault):
        api.decode_attestation_data(raw(sample), slot + 1, committee, chain_of(8))


LISTS = [entry for entry in samples("validators", "fulu/validators") if entry.values[0]["path"].endswith("/validators")]


@pytest.mark.parametrize("sample", LISTS)
def test_validators_of_a_real_node(sample: Any) -> None:
    assert [validator.raw for validator in api.decode_validators(raw(sample))] == sample["response"]["data"]


def test_node_facts_of_a_real_node() -> None:
    by_path = {sample["path"]: sample for sample in vector("lodestar-http/node.json")["samples"]}
    assert api.decode_syncing(raw(by_path["/eth/v1/node/syncing"])).is_synced
    assert api.decode_node_version(raw(by_path["/eth/v1/node/version"])).startswith("Lodestar/")
    assert api.decode_peer_count(raw(by_path["/eth/v1/node/peer_count"])) >= 0


@pytest.mark.parametrize("name", ["events", "fulu/events"])
def test_events_of_a_real_node(name: str) -> None:
    entries = vector(f"lodestar-http/{name}.json")["samples"]
    lines = [entry["event_lines"] for entry in entries if "event_lines" in entry]
    stream = b"".join(("\n".join(some) + "\n\n").encode() for some in lines)
    events = EventParser().feed(stream)
    assert len(events) == len(lines) > 0
    assert b"".join(map(encode_event, events)) == stream
    heads = [api.decode_event(event.topic, event.data) for event in events if event.topic == "head"]
    assert heads
    assert all(isinstance(head, api.HeadEvent) and head.current_dependent_root for head in heads)


def test_the_apis_own_examples() -> None:
    def response(call: str) -> bytes:
        return json.dumps(vector("eth2/api_examples.json")[call]["response"]).encode()

    (attester,) = api.decode_attester_duties(response("POST /eth/v1/validator/duties/attester/{epoch}"), 0, 32).duties
    (proposer,) = api.decode_proposer_duties(response("GET /eth/v1/validator/duties/proposer/{epoch}"), 0, 32).duties
    (sync,) = api.decode_sync_duties(response("POST /eth/v1/validator/duties/sync/{epoch}")).duties
    assert attester.pubkey == proposer.pubkey == sync.pubkey
    assert (attester.committee_index, proposer.slot, sync.positions) == (1, 1, (1,))
    with pytest.raises(AnswerFault, match="target epoch 1 instead of 0"):  # the example's target is not its slot's epoch
        api.decode_attestation_data(response("GET /eth/v1/validator/attestation_data"), 1, 1, chain_of(32))
    with pytest.raises(AnswerFault, match="source epoch 1 is the target epoch"):  # nor can its source be justified already
        api.decode_attestation_data(response("GET /eth/v1/validator/attestation_data"), 1, 1, chain_of(1))
    possible = json.loads(response("GET /eth/v1/validator/attestation_data"))
    possible["data"]["source"]["epoch"] = "0"
    assert api.decode_attestation_data(json.dumps(possible).encode(), 1, 1, chain_of(1)).index == 1


ERRORS = vector("lodestar-http/errors.json")["duplicate"]


def test_repeated_submissions_count_as_success() -> None:
    def lodestar(message: str) -> bytes:
        return json.dumps({"statusCode": 500, "error": "Internal Server Error", "message": message}).encode()

    assert beacon_errors.is_repeat(lodestar(ERRORS["POST /eth/v1/beacon/pool/attestations"][1]))
    assert beacon_errors.is_repeat(lodestar("PublishError.Duplicate"))
    assert beacon_errors.is_repeat(lodestar("BLOCK_ERROR_ALREADY_KNOWN"))
    assert beacon_errors.is_repeat(
        lodestar("Multiple errors on publishContributionAndProofs\nPublishError.Duplicate\nX_ALREADY_KNOWN")
    )
    assert beacon_errors.is_repeat(
        json.dumps({"code": 400, "message": "e", "failures": [{"index": 0, "message": "PriorAttestationKnown"}]}).encode()
    )


def test_a_fault_among_repeats_is_no_success() -> None:
    bad = {"index": 1, "message": "invalid signature"}
    repeat = {"index": 0, "message": "AlreadyKnown"}
    assert not beacon_errors.is_repeat(json.dumps({"message": "AlreadyKnown", "failures": [repeat, bad]}).encode())
    assert not beacon_errors.is_repeat(json.dumps({"message": "Multiple errors\nALREADY_KNOWN\nINVALID_SIGNATURE"}).encode())
    assert not beacon_errors.is_repeat(b'{"message": "ATTESTATION_ERROR_INVALID_SIGNATURE"}')
    assert not beacon_errors.is_repeat(b"")


@pytest.mark.parametrize(
    ("status", "text", "retryable", "worthy"),
    [  # 08 §3.1 (executed cases), 05 §15
        (502, "", True, True),
        (503, "", True, True),
        (504, "", True, True),
        (400, "beacon node is syncing", True, True),
        (500, "HeadBlockNotFullyVerified", True, True),
        (400, "", False, False),
        (404, "", False, False),
        (429, "", True, False),
        (500, "", False, False),
        (500, "Requested slot 104 is in the future", True, False),
    ],
)
def test_what_is_tried_again(status: int, text: str, retryable: bool, worthy: bool) -> None:
    assert (beacon_errors.is_retryable(status, text), beacon_errors.is_fallback_worthy(status, text)) == (retryable, worthy)


def test_node_urls() -> None:
    url = beacon_urls.decode_node_url("https://user:p%40ss@example.org:8443/base/?key=1")
    assert (url.base, url.query) == ("https://example.org:8443/base", "key=1")
    assert url.authorization == "Basic dXNlcjpwQHNz"
    assert "p@ss" not in repr(url)
    assert "p%40ss" not in repr(url)
    assert "base" not in url.label
    assert beacon_urls.decode_node_url("127.0.0.1:5052").base == "http://127.0.0.1:5052"
    assert beacon_urls.decode_node_url("http://[::1]:5052/").base == "http://[::1]:5052"
    for bad in ("", "ftp://x", "http://", "http://host:port", "http://a b"):
        with pytest.raises(UserError, match="beacon-node-endpoints"):
            beacon_urls.decode_node_url(bad)


def test_header_flag() -> None:
    assert beacon_urls.decode_header_flag("a=b=c,X-Y=1") == (("a", "b=c"), ("X-Y", "1"))
    assert beacon_urls.decode_header_flag("") == ()
    for bad in ("secretvalue", "=b", "a=", "a=b,", "a b=c", "a=b\r\nc: d"):
        with pytest.raises(UserError, match="http headers must be comma separated values formatted as header=value") as caught:
            beacon_urls.decode_header_flag(bad)
        assert "secretvalue" not in str(caught.value)


DECODERS: list[Callable[[bytes], object]] = [
    lambda body: api.decode_attester_duties(body, 1, 8),
    lambda body: api.decode_proposer_duties(body, 1, 8),
    api.decode_sync_duties,
    lambda body: api.decode_attestation_data(body, 8, 0, chain_of(8)),
    api.decode_validators,
    api.decode_syncing,
    api.decode_peer_count,
    api.decode_node_version,
    lambda body: api.decode_event("head", body),
    lambda body: api.decode_event("chain_reorg", body),
]
LEAVES = st.none() | st.booleans() | st.integers(-1, 2**70) | st.text(max_size=8) | st.just("0x" + "00" * 32) | st.just("1")
ANSWER_NAMES = ("data", "dependent_root", "execution_optimistic", "pubkey", "slot", "index", "validator", "status", "is_syncing")
EVENT_NAMES = ("source", "target", "root", "epoch", "block", "depth", "head_slot", "connected", "version", "validator_index", "x")
NAMES = st.sampled_from((*ANSWER_NAMES, *EVENT_NAMES))
JSON_VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)


@given(st.binary(max_size=64) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_hostile_answers_raise_nothing_but_answer_faults(body: bytes) -> None:
    for decode in DECODERS:
        with suppress(AnswerFault):
            decode(body)
    beacon_errors.error_text(body)
    beacon_errors.is_repeat(body)


def test_deep_nesting_is_refused() -> None:
    for deep in (b"[" * 200_000, b'{"data":' * 100_000):
        with pytest.raises(AnswerFault):
            api.decode_data(deep, ANSWER)
        assert len(beacon_errors.error_text(deep)) <= beacon_errors.MAX_ERROR_TEXT


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_hostile_event_streams_raise_nothing_but_event_faults(chunks: list[bytes]) -> None:
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)


@given(
    st.lists(
        st.tuples(st.text("abcdefgh_", min_size=1, max_size=10), st.binary(min_size=1, max_size=50)), min_size=1, max_size=5
    ),
    st.lists(st.integers(1, 30), max_size=50),
    st.booleans(),
)
def test_events_survive_any_cut_of_the_stream(events: list[tuple[str, bytes]], cuts: list[int], crlf: bool) -> None:
    sent = [Event(topic, data.replace(b"\r", b" ")) for topic, data in events]
    stream = b"".join(encode_event(event) for event in sent)
    if crlf:
        stream = stream.replace(b"\n", b"\r\n")
    parser, received = EventParser(), []
    for cut in [*cuts, len(stream)]:
        received += parser.feed(stream[:cut])
        stream = stream[cut:]
    received += parser.feed(stream)
    assert received == sent


def test_an_event_is_bounded() -> None:
    with pytest.raises(EventFault):
        EventParser().feed(b"data: " + b"x" * (2**20 + 1))
    line = b"data: " + b"x" * 2**19 + b"\n"
    parser = EventParser()
    for _ in range(MAX_DATA // 2**19 - 1):
        parser.feed(line)
    with pytest.raises(EventFault):
        parser.feed(line + line)


def test_retry_and_comments() -> None:
    (event,) = EventParser().feed(b": hello\nretry: 2500\nevent: head\ndata: a\ndata: b\n\n")
    assert event == Event("head", b"a\nb")
    assert EventParser().feed(b"event: head\n\n") == []


def test_an_ssz_answer_is_told_by_its_content_type() -> None:
    assert Answer(200, {"content-type": "application/octet-stream; x=y"}, b"").is_ssz
    assert not Answer(200, {"content-type": "application/json"}, b"").is_ssz
