"""The Beacon API as the node speaks it: what each call sends, and what its answer means. Pure: bytes to values and back.

A call is a `Call`: method, path, query, headers, body and how long and how large its answer may be. The builders below give the
requests that a beacon node gets from Charon, byte for byte where that matters (order of query parameters, indices as decimal
strings, no `statuses`, never `broadcast_validation`). An answer is decoded by the function of the same name with `decode_` in front.

    rule                                                                                   source
    any 2xx is success; 204 is an empty success                                            08 §2
    the fork stands in the header Eth-Consensus-Version, else in the JSON's `version`      08 §2
    what somebody else has already submitted counts as submitted (`is_repeat`)             20 §2.4
    a failed call may be tried again: lost connections, 429, 502–504, or if the text says  05 §15
    so ("future", "current or previous", "retryable", "syncing", …)
    another (fallback) node is worth asking: the same without 429                           08 §3.1

What a beacon node sends is foreign: every decoder raises AnswerFault and nothing else, in time linear in the size of the answer
(which the caller bounds by `Call.limit_bytes`). Numbers are uint64, as decimal strings (JSON integers are taken, too).

Source: specification 08 §2, §4; 20 §2.4, §3.1; beacon-APIs. Vectors: core/bn_requests.json, lodestar-http/**, eth2/api_examples.json.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from charon_actors.bounded_json import ANSWER, BLOCK, EVENT, JsonKind, decode_foreign_json, list_in, list_of
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.unsigned_data import AttestationData, AttesterDefinition

JSON: Final = "application/json"
SSZ: Final = "application/octet-stream"
EVENT_STREAM: Final = "text/event-stream"
PREFER_SSZ: Final = f"{SSZ};q=1,{JSON};q=0.9"
VERSION_HEADER: Final = "Eth-Consensus-Version"

MIB: Final = 2**20


class AnswerFault(Exception):
    """A beacon node's answer is not what the Beacon API says it is."""


class Call(msgspec.Struct, frozen=True):
    """One request. path: starts with a slash, no query. query: encoded, without question mark. name: of the call, in errors.

    limit_bytes: the longest answer that is read, by its kind in `bounded_json.py`.
    """

    name: str
    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = (("Accept", JSON),)
    body: bytes = b""
    limit_bytes: int = ANSWER.max_bytes


class Answer(msgspec.Struct, frozen=True):
    """A whole answer with a success status. headers: names in lower case, of repeated ones the first."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_ssz(self) -> bool:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == SSZ


# -- addresses and flags ------------------------------------------------------------------------------------------------------


def _get(name: str, path: str, query: str = "", **rest: Any) -> Call:
    return Call(name, "GET", path, query, **rest)


def _post_json(name: str, path: str, body: object, headers: tuple[tuple[str, str], ...] = (), **rest: Any) -> Call:
    all_headers = (("Accept", JSON), ("Content-Type", JSON), *headers)
    return Call(name, "POST", path, headers=all_headers, body=msgspec.json.encode(body), **rest)


def _decimals(numbers: Iterable[int]) -> list[str]:
    return [str(number) for number in numbers]


GENESIS: Final = _get("genesis", "/eth/v1/beacon/genesis")
SPEC: Final = _get("spec", "/eth/v1/config/spec")
FORK_SCHEDULE: Final = _get("fork_schedule", "/eth/v1/config/fork_schedule")
SYNCING: Final = _get("node_syncing", "/eth/v1/node/syncing")
PEER_COUNT: Final = _get("node_peer_count", "/eth/v1/node/peer_count")
NODE_VERSION: Final = _get("node_version", "/eth/v1/node/version")
FINALITY: Final = _get("finality", "/eth/v1/beacon/states/head/finality_checkpoints")


def validators(state_id: str, ids: Sequence[str]) -> Call:
    """Validators by 0x-key or decimal index; `state_id`: a slot in decimal or `head` (any text is escaped)."""
    path = f"/eth/v1/beacon/states/{quote(state_id, safe='')}/validators"
    return _post_json("validators", path, {"ids": list(ids)}, limit_bytes=list_of(len(ids)).max_bytes)


def attester_duties(epoch: int, indices: Sequence[int]) -> Call:
    path = f"/eth/v1/validator/duties/attester/{epoch}"
    return _post_json("attester_duties", path, _decimals(indices), limit_bytes=list_of(len(indices)).max_bytes)


def proposer_duties(epoch: int, version: int = 1) -> Call:
    """version 2 differs in the dependent root only: that of the shuffling since Fulu (07 §5.2)."""
    return _get("proposer_duties", f"/eth/v{version}/validator/duties/proposer/{epoch}")


def sync_duties(epoch: int, indices: Sequence[int]) -> Call:
    path = f"/eth/v1/validator/duties/sync/{epoch}"
    return _post_json("sync_committee_duties", path, _decimals(indices), limit_bytes=list_of(len(indices)).max_bytes)


def attestation_data(slot: int, committee_index: int) -> Call:
    query = f"slot={slot}&committee_index={committee_index}"
    return _get("attestation_data", "/eth/v1/validator/attestation_data", query)


def produce_block(slot: int, randao: bytes, graffiti: bytes, builder_boost: int) -> Call:
    """randao: 96 bytes; graffiti: 32 bytes; builder_boost: uint64."""
    query = f"randao_reveal=0x{randao.hex()}&graffiti=0x{graffiti.hex()}&builder_boost_factor={builder_boost}"
    accept = (("Accept", PREFER_SSZ),)
    return _get("proposal", f"/eth/v3/validator/blocks/{slot}", query, headers=accept, limit_bytes=BLOCK.max_bytes)


def submit_attestations(fork_label: str, attestations: Sequence[object]) -> Call:
    """attestations: JSON objects; from Electra on SingleAttestation, before Attestation."""
    version = ((VERSION_HEADER, fork_label),)
    return _post_json("submit_attestations", "/eth/v2/beacon/pool/attestations", list(attestations), version)


def submit_block(fork_label: str, body: bytes) -> Call:
    """body: SSZ of SignedBeaconBlock, or SignedBlockContents from Deneb on."""
    headers = (("Accept", JSON), ("Content-Type", SSZ), (VERSION_HEADER, fork_label))
    return Call("submit_proposal", "POST", "/eth/v2/beacon/blocks", headers=headers, body=body)


def submit_block_json(fork_label: str, block: object) -> Call:
    """The same as JSON, for nodes that answer 415 to SSZ."""
    return _post_json("submit_proposal", "/eth/v2/beacon/blocks", block, ((VERSION_HEADER, fork_label),))


def submit_blinded_block(fork_label: str, block: object) -> Call:
    """block: JSON of SignedBlindedBeaconBlock."""
    version = ((VERSION_HEADER, fork_label),)
    return _post_json("submit_blinded_proposal", "/eth/v2/beacon/blinded_blocks", block, version)


def prepare_proposers(preparations: Iterable[tuple[int, str]]) -> Call:
    """preparations: (validator index, fee recipient as 0x-text)."""
    body = [{"validator_index": str(index), "fee_recipient": recipient} for index, recipient in preparations]
    return _post_json("submit_proposal_preparations", "/eth/v1/validator/prepare_beacon_proposer", body)


def register_validators(registrations: Sequence[object]) -> Call:
    """registrations: JSON objects of SignedValidatorRegistration."""
    return _post_json("submit_validator_registrations", "/eth/v1/validator/register_validator", list(registrations))


def events(topics: Sequence[str]) -> Call:
    query = urlencode([("topics", topic) for topic in topics])
    return _get("events", "/eth/v1/events", query, headers=(("Accept", EVENT_STREAM),))


# -- answers ------------------------------------------------------------------------------------------------------------------


def decode_json(body: bytes, kind: JsonKind) -> Any:
    """Parsed JSON. Raises: AnswerFault (not JSON, nested too deeply, more than its kind may have)."""
    try:
        return decode_foreign_json(body, kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise AnswerFault(f"not JSON: {str(error)[:100]}") from None


def decode_answer_object(body: bytes, kind: JsonKind) -> dict[str, Any]:
    """A JSON object. Raises: AnswerFault."""
    return as_object(decode_json(body, kind), "answer")


def decode_data(body: bytes, kind: JsonKind) -> Any:
    """The `data` of the envelope `{"data": …}`. Raises: AnswerFault."""
    answer = decode_answer_object(body, kind)
    if "data" not in answer:
        raise AnswerFault("the answer has no data")
    return answer["data"]


def as_object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AnswerFault(f"{where} is not a JSON object")
    return value


def as_list(value: object, where: str) -> list[Any]:
    """A JSON list; null counts as empty (07 §7.3 #6)."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise AnswerFault(f"{where} is not a JSON list")
    return value


def uint_of(value: object, where: str) -> int:
    """A uint64 as decimal string or JSON integer. Raises: AnswerFault."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise AnswerFault(f"{where} is not a uint64")
    return value


def hex_of(value: object, size: int, where: str) -> bytes:
    """`size` bytes as 0x and hex digits. Raises: AnswerFault."""
    if isinstance(value, str) and len(value) == 2 + 2 * size and value.startswith("0x"):
        try:
            raw = bytes.fromhex(value[2:])
        except ValueError:
            raw = b""
        if len(raw) == size:  # bytes.fromhex skips blanks
            return raw
    raise AnswerFault(f"{where} is not 0x and {2 * size} hex digits")


def _field_uint(fields: Mapping[str, Any], key: str) -> int:
    return uint_of(fields.get(key), key)


class ProposerDuty(msgspec.Struct, frozen=True):
    """Who proposes in a slot. pubkey: 48 bytes."""

    pubkey: bytes
    validator_index: int
    slot: int


class SyncDuty(msgspec.Struct, frozen=True):
    """A validator's places in the sync committee. pubkey: 48 bytes."""

    pubkey: bytes
    validator_index: int
    positions: tuple[int, ...]


class DutyList(msgspec.Struct, frozen=True):
    """Duties with what the node says about them. dependent_root: 32 bytes, zero if the node gives none (sync duties)."""

    duties: tuple[Any, ...]
    dependent_root: bytes
    execution_optimistic: bool


def _duty_list(body: bytes) -> tuple[list[Any], bytes, bool]:
    answer = decode_answer_object(body, list_in(body))
    if "data" not in answer:
        raise AnswerFault("the answer has no data")
    root = answer.get("dependent_root")
    optimistic = answer.get("execution_optimistic", False)
    if not isinstance(optimistic, bool):
        raise AnswerFault("execution_optimistic is not a boolean")
    dependent_root = bytes(32) if root is None else hex_of(root, 32, "dependent_root")
    return as_list(answer["data"], "data"), dependent_root, optimistic


def _check_epoch(slot: int, epoch: int, slots_per_epoch: int) -> None:
    if slot // slots_per_epoch != epoch:
        raise AnswerFault(f"a duty in slot {slot} is not of epoch {epoch}")


ATTESTER_NUMBERS: Final = (
    "validator_index",
    "committee_index",
    "committee_length",
    "committees_at_slot",
    "validator_committee_index",
    "slot",
)


def decode_attester_duties(body: bytes, epoch: int, slots_per_epoch: int) -> DutyList:
    """Attester duties of that epoch. Raises: AnswerFault, also for a duty of another epoch."""
    entries, root, optimistic = _duty_list(body)
    duties = []
    for entry in entries:
        fields = as_object(entry, "duty")
        duty = AttesterDefinition(
            pubkey=hex_of(fields.get("pubkey"), 48, "pubkey"), **{key: _field_uint(fields, key) for key in ATTESTER_NUMBERS}
        )
        _check_epoch(duty.slot, epoch, slots_per_epoch)
        duties.append(duty)
    return DutyList(tuple(duties), root, optimistic)


def decode_proposer_duties(body: bytes, epoch: int, slots_per_epoch: int) -> DutyList:
    """All proposers of that epoch. Raises: AnswerFault."""
    entries, root, optimistic = _duty_list(body)
    duties = []
    for entry in entries:
        fields = as_object(entry, "duty")
        pubkey = hex_of(fields.get("pubkey"), 48, "pubkey")
        duty = ProposerDuty(pubkey, _field_uint(fields, "validator_index"), _field_uint(fields, "slot"))
        _check_epoch(duty.slot, epoch, slots_per_epoch)
        duties.append(duty)
    return DutyList(tuple(duties), root, optimistic)


def decode_sync_duties(body: bytes) -> DutyList:
    """Sync committee duties. Raises: AnswerFault."""
    entries, root, optimistic = _duty_list(body)
    duties = []
    for entry in entries:
        fields = as_object(entry, "duty")
        positions = as_list(fields.get("validator_sync_committee_indices"), "validator_sync_committee_indices")
        pubkey = hex_of(fields.get("pubkey"), 48, "pubkey")
        places = tuple(uint_of(position, "position") for position in positions)
        duties.append(SyncDuty(pubkey, _field_uint(fields, "validator_index"), places))
    return DutyList(tuple(duties), root, optimistic)


def decode_attestation_data(body: bytes, slot: int, committee_index: int, chain: Chain) -> AttestationData:
    """The vote for that slot and committee. Raises: AnswerFault, also for a vote that nobody may cast there."""
    fields = as_object(decode_data(body, ANSWER), "data")
    source, target = as_object(fields.get("source"), "source"), as_object(fields.get("target"), "target")
    vote = AttestationData(
        _field_uint(fields, "slot"),
        _field_uint(fields, "index"),
        hex_of(fields.get("beacon_block_root"), 32, "beacon_block_root"),
        _field_uint(source, "epoch"),
        hex_of(source.get("root"), 32, "source root"),
        _field_uint(target, "epoch"),
        hex_of(target.get("root"), 32, "target root"),
    )
    if fault := vote.fault(slot, committee_index, chain):
        raise AnswerFault(f"a vote in slot {slot} with {fault}")
    return vote


class Validator(msgspec.Struct, frozen=True):
    """One entry of a validators answer. `raw` is the whole object, as given."""

    index: int
    pubkey: bytes
    status: str
    activation_epoch: int
    raw: dict[str, Any]


def decode_validators(body: bytes) -> tuple[Validator, ...]:
    """The validators of the answer, in its order. Raises: AnswerFault."""
    found = []
    for entry in as_list(decode_data(body, list_in(body)), "data"):
        outer = as_object(entry, "validator")
        inner = as_object(outer.get("validator"), "validator")
        status = outer.get("status")
        if not isinstance(status, str) or len(status) > 64:
            raise AnswerFault("a validator's status is not a text")
        pubkey = hex_of(inner.get("pubkey"), 48, "pubkey")
        activation = _field_uint(inner, "activation_epoch")
        found.append(Validator(_field_uint(outer, "index"), pubkey, status, activation, outer))
    return tuple(found)


ACTIVE_STATUSES: Final = frozenset({"active_ongoing", "active_exiting", "active_slashed"})  # 08 §5.1


class Syncing(msgspec.Struct, frozen=True):
    """How far a node is. `raw` is the whole object, as given."""

    is_syncing: bool
    head_slot: int
    sync_distance: int
    raw: dict[str, Any]

    @property
    def is_synced(self) -> bool:
        """08 §2, row "State": a chain that has only its genesis block counts as synced."""
        return not self.is_syncing or (self.head_slot == 0 and self.sync_distance <= 1)


def decode_syncing(body: bytes) -> Syncing:
    """Raises: AnswerFault."""
    fields = as_object(decode_data(body, ANSWER), "data")
    is_syncing = fields.get("is_syncing")
    if not isinstance(is_syncing, bool):
        raise AnswerFault("is_syncing is not a boolean")
    return Syncing(is_syncing, _field_uint(fields, "head_slot"), _field_uint(fields, "sync_distance"), fields)


def decode_justified_epoch(body: bytes) -> int:
    """The epoch of `current_justified` in an answer to FINALITY. Raises: AnswerFault."""
    checkpoints = as_object(decode_data(body, ANSWER), "data")
    return _field_uint(as_object(checkpoints.get("current_justified"), "current_justified"), "epoch")


def decode_peer_count(body: bytes) -> int:
    """How many peers are connected. Raises: AnswerFault."""
    return _field_uint(as_object(decode_data(body, ANSWER), "data"), "connected")


def decode_node_version(body: bytes) -> str:
    """`Name/version…`, at most 256 characters. Raises: AnswerFault."""
    version = as_object(decode_data(body, ANSWER), "data").get("version")
    if not isinstance(version, str):
        raise AnswerFault("version is not a text")
    return version[:256]


class HeadEvent(msgspec.Struct, frozen=True):
    """The node's head has changed. root: of the block, 32 bytes. The two dependent roots: 32 bytes, None if not given."""

    slot: int
    root: bytes
    current_dependent_root: bytes | None = None
    previous_dependent_root: bytes | None = None


class ReorgEvent(msgspec.Struct, frozen=True):
    """The last `depth` slots before `slot` hold other blocks now."""

    slot: int
    depth: int


class BlockEvent(msgspec.Struct, frozen=True):
    """The node has imported a block (not necessarily its head). root: 32 bytes."""

    slot: int
    root: bytes


ChainEvent = HeadEvent | ReorgEvent | BlockEvent
LISTENED_TOPICS: Final = ("head", "chain_reorg", "block_gossip", "block")  # 08 §10
MINIMAL_TOPICS: Final = ("head", "chain_reorg", "block")  # what every node knows; some answer 400 to block_gossip


def decode_event(topic: str, data: bytes) -> ChainEvent | None:
    """The event, or None for a topic that the node has no use for. Raises: AnswerFault."""
    if topic not in MINIMAL_TOPICS:
        return None
    fields = decode_answer_object(data, EVENT)
    slot = _field_uint(fields, "slot")
    if topic == "chain_reorg":
        depth = _field_uint(fields, "depth")
        if depth > slot:
            raise AnswerFault(f"a reorganisation of {depth} slots in slot {slot}")
        return ReorgEvent(slot, depth)
    root = hex_of(fields.get("block"), 32, "block")
    if topic == "block":
        return BlockEvent(slot, root)
    roots = (fields.get("current_duty_dependent_root"), fields.get("previous_duty_dependent_root"))
    current, previous = (None if text is None else hex_of(text, 32, "duty dependent root") for text in roots)
    return HeadEvent(slot, root, current, previous)


# -- failures -----------------------------------------------------------------------------------------------------------------
