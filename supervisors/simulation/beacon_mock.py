"""Beacon mock: a beacon node over HTTP whose chain is made up, but whose checks are real.

Every validator of the cluster is active from the start, attests once an epoch and proposes in turn, so that each slot has a proposal.
A published attestation or block counts only if the group's signature verifies over exactly the data that this mock handed out;
everything else is refused with 400 and remembered. So a duty that this mock counts as done is one that a chain would count.

    data            value
    fork            fulu from genesis on, mainnet's sizes, SLOTS_PER_EPOCH of the settings
    block root      SHA-256 of the slot: every node that asks for one slot gets the same answer
    block           empty body, randao and graffiti as asked for, fee recipient as told before

Limits: answers about the slots of the last KEPT_SLOTS. Source: specification 08 §4 and §12.1 (what a node asks).
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import trio

from charon_actors.crypto import verify
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.ssz import Container, EncodingFault
from charon_actors.eth2.unsigned_data import AttestationData
from charon_actors.eth2.zero_value import zero_value

KEPT_SLOTS: Final = 512
KEPT_BLOCKS: Final = 8
GENESIS_VALIDATORS_ROOT: Final = hashlib.sha256(b"charon-actors simnet").digest()
FORK: Final = Fork.FULU
SYNC_COMMITTEE_SIZE: Final = 512

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(Exception):
    """An HTTP error of the mock. status: 400, 404, 501 or 503."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BeaconSettings(msgspec.Struct, frozen=True):
    """validators: group public keys, 48 bytes, in the lock's order; their index is their place. fork_version: 4 bytes, genesis'."""

    validators: tuple[bytes, ...]
    genesis_time_s: float
    slot_duration_s: float
    slots_per_epoch: int
    fork_version: bytes


def chain_of(settings: BeaconSettings) -> Chain:
    """The chain that the mock describes."""
    version = fork_version(settings, FORK)
    return Chain(
        genesis_time_s=settings.genesis_time_s,
        genesis_validators_root=GENESIS_VALIDATORS_ROOT,
        slot_duration_s=settings.slot_duration_s,
        slots_per_epoch=settings.slots_per_epoch,
        fork_schedule=(ForkEntry(0, settings.fork_version), ForkEntry(0, version)),
        fork_epochs=dict.fromkeys(Fork, 0),
        capella_fork_version=fork_version(settings, Fork.CAPELLA),
    )


def fork_version(settings: BeaconSettings, fork: Fork) -> bytes:
    return bytes([settings.fork_version[0] + fork]) + settings.fork_version[1:]


class Health(msgspec.Struct):
    """What the mock says about itself; a test may change it at any time. is_down: every request is answered 503."""

    is_down: bool = False
    is_syncing: bool = False
    sync_distance: int = 0
    peers: int = 80


class Arrival(msgspec.Struct, frozen=True):
    """The first accepted submission of a duty. kind: attester or proposer; late_s: after the slot's start."""

    kind: str
    slot: int
    validator_index: int
    late_s: float


class BeaconMock:
    """An ASGI application. wall_clock: Unix seconds.

    justified: the epoch that votes of an epoch go from; a test may put another function there, for a chain that doesn't finalise.
    pays: whom blocks pay, 20 bytes; None: whom the proposer's node has told.
    """

    def __init__(self, settings: BeaconSettings, wall_clock: Callable[[], float]) -> None:
        self._settings, self._clock, self._chain = settings, wall_clock, chain_of(settings)
        self._index = {pubkey: index for index, pubkey in enumerate(settings.validators)}
        self._blocks: dict[int, bytes] = {}
        self._fee_recipients: dict[int, bytes] = {}
        self._made: dict[tuple[int, str, str, bytes], Block] = {}
        self.health = Health()
        self.justified: Callable[[int], int] = lambda epoch: max(epoch - 1, 0)
        self.pays: bytes | None = None
        self.arrivals: dict[tuple[str, int, int], Arrival] = {}
        self.repeats = 0
        self.refused: dict[str, int] = {}
        self.requests: dict[str, int] = {}

    # what is due

    def attester_slot(self, epoch: int, index: int) -> int:
        """Validators are spread over the slots of an epoch."""
        return self._chain.first_slot(epoch) + index % self._settings.slots_per_epoch

    def proposer(self, slot: int) -> int:
        return slot % len(self._settings.validators)

    def expected(self, slot: int) -> list[tuple[str, int]]:
        """(kind, validator index) of all duties of a slot."""
        epoch = self._chain.epoch_of(slot)
        attesters = [index for index in range(len(self._settings.validators)) if self.attester_slot(epoch, index) == slot]
        proposers = [("proposer", self.proposer(slot))] if slot > 0 else []
        return [*proposers, *(("attester", index) for index in attesters)]

    # HTTP

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = parse_qs(scope["query_string"].decode())
        if scope["path"] == "/eth/v1/events" and not self.health.is_down:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stream_events, send)
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()
            return
        status, answer = 200, b""
        extra: dict[str, str] = {}
        content_type = "application/json"
        try:
            if self.health.is_down:
                raise Refused(503, "down")
            result = self._answer(scope["method"], scope["path"].strip("/").split("/"), query, headers, body)
            if isinstance(result, Block):
                extra = result.headers
                if "octet-stream" in headers.get("accept", ""):
                    content_type, answer = "application/octet-stream", result.ssz
                else:
                    answer = json.dumps(result.to_json()).encode()
            elif result is not None:
                answer = json.dumps(result).encode()
        except Refused as refused:
            status, answer = refused.status, json.dumps({"code": refused.status, "message": str(refused)}).encode()
        except (EncodingFault, KeyError, ValueError, TypeError, IndexError) as fault:
            status, answer = 400, json.dumps({"code": 400, "message": repr(fault)}).encode()
        names = {"content-type": content_type, "content-length": str(len(answer)), **extra}
        raw = [(name.encode(), value.encode()) for name, value in names.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": answer})

    async def _stream_events(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send(
            {"type": "http.response.body", "body": b":\n\n", "more_body": True}
        )  # servers send the head with the first bytes
        while True:
            slot = self._chain.slot_at(self._clock()) + 1
            await trio.sleep(max(self._chain.slot_start_s(slot) + self._settings.slot_duration_s / 6 - self._clock(), 0))
            root = "0x" + self.block_root(slot).hex()
            data = {
                "slot": str(slot),
                "block": root,
                "state": root,
                "epoch_transition": slot % self._settings.slots_per_epoch == 0,
                "execution_optimistic": False,
                "current_duty_dependent_root": "0x" + bytes(32).hex(),
                "previous_duty_dependent_root": "0x" + bytes(32).hex(),
            }
            await send(
                {"type": "http.response.body", "body": f"event: head\ndata: {json.dumps(data)}\n\n".encode(), "more_body": True}
            )

    def _answer(self, method: str, path: list[str], query: dict[str, list[str]], headers: Mapping[str, str], body: bytes) -> Any:
        match method, path:
            case "GET", ["eth", "v1", "beacon", "genesis"]:
                return self._data(
                    genesis_time=str(int(self._settings.genesis_time_s)),
                    genesis_validators_root="0x" + GENESIS_VALIDATORS_ROOT.hex(),
                    genesis_fork_version="0x" + self._settings.fork_version.hex(),
                )
            case "GET", ["eth", "v1", "config", "spec"]:
                return {"data": self._spec()}
            case "GET", ["eth", "v1", "config", "fork_schedule"]:
                return {
                    "data": [
                        {"previous_version": "0x" + old.hex(), "current_version": "0x" + new.hex(), "epoch": "0"}
                        for old, new in self._schedule()
                    ]
                }
            case "GET", ["eth", "v1", "config", "deposit_contract"]:
                return self._data(chain_id="0", address="0x" + bytes(20).hex())
            case "GET", ["eth", _, "node", "version"]:
                return self._data(version="charon-actors/beacon_mock")
            case "GET", ["eth", "v1", "node", "syncing"]:
                slot = str(max(self._chain.slot_at(self._clock()), 0))
                return self._data(
                    head_slot=slot,
                    sync_distance=str(self.health.sync_distance),
                    is_syncing=self.health.is_syncing,
                    is_optimistic=False,
                    el_offline=False,
                )
            case "GET", ["eth", "v1", "node", "health"]:
                return None
            case "GET", ["eth", "v1", "node", "identity"]:
                return self._data(peer_id="16Uiu2HAm1234567890abcdefghijklmnopqrstuvwxyz", enr="", p2p_addresses=[])
            case "GET", ["eth", "v1", "node", "peer_count"]:
                return self._data(connected=str(self.health.peers), connecting="0", disconnected="0", disconnecting="0")
            case _:
                return self._answer_about_duties(method, path, query, headers, body)

    def _answer_about_duties(
        self, method: str, path: list[str], query: dict[str, list[str]], headers: Mapping[str, str], body: bytes
    ) -> Any:
        match method, path:
            case "POST", ["eth", "v1", "beacon", "states", _, "validators"]:
                wanted = json.loads(body).get("ids") or []
                return {"execution_optimistic": False, "finalized": False, "data": self._validators(wanted)}
            case "GET", ["eth", "v1", "beacon", "states", _, "validators"]:
                wanted = [each for value in query.get("id", []) for each in value.split(",")]
                return {"execution_optimistic": False, "finalized": False, "data": self._validators(wanted)}
            case "POST", ["eth", "v1", "validator", "duties", "attester", epoch]:
                return self._duties([self._attester_duty(int(epoch), int(index)) for index in json.loads(body)])
            case "GET", ["eth", _, "validator", "duties", "proposer", epoch]:
                first = self._chain.first_slot(int(epoch))
                last = first + self._settings.slots_per_epoch
                return self._duties([self._proposer_duty(slot) for slot in range(max(first, 1), last)])  # genesis has no proposer
            case "POST", ["eth", "v1", "validator", "duties", "sync", _]:
                return self._duties([])
            case "GET", ["eth", "v1", "beacon", "states", "head", "finality_checkpoints"]:
                return self._data(current_justified={"epoch": str(self.attestation_data(self._head_slot()).source_epoch)})
            case "GET", ["eth", "v1", "validator", "attestation_data"]:
                data = self.attestation_data(int(query["slot"][0]))
                return {"data": data.to_json()}
            case "GET", ["eth", "v3", "validator", "blocks", slot]:
                return self._block(int(slot), query)
            case "POST", ["eth", "v2", "beacon", "pool", "attestations"]:
                return self._take_attestations(json.loads(body))
            case "POST", ["eth", "v2", "beacon", "blocks"]:
                return self._take_block(headers, body)
            case "POST", ["eth", "v1", "validator", "prepare_beacon_proposer"]:
                for preparation in json.loads(body):
                    index, recipient = int(preparation["validator_index"]), preparation["fee_recipient"]
                    if 0 <= index < len(self._settings.validators):
                        self._fee_recipients[index] = bytes.fromhex(recipient.removeprefix("0x"))
                return None
            case "POST", ["eth", "v1", "validator", "beacon_committee_subscriptions" | "sync_committee_subscriptions"]:
                return None
            case _:
                raise Refused(404, "NotFound")

    @staticmethod
    def _data(**values: Any) -> dict[str, Any]:
        return {"data": values}

    def _schedule(self) -> list[tuple[bytes, bytes]]:
        versions = [fork_version(self._settings, fork) for fork in Fork]
        return list(zip([versions[0], *versions], versions, strict=False))

    def _spec(self) -> dict[str, str]:
        spec = {
            "CONFIG_NAME": "charon-actors-simnet",
            "SECONDS_PER_SLOT": str(max(int(self._settings.slot_duration_s), 1)),
            "SLOT_DURATION_MS": str(round(self._settings.slot_duration_s * 1000)),
            "SLOTS_PER_EPOCH": str(self._settings.slots_per_epoch),
            "EPOCHS_PER_SYNC_COMMITTEE_PERIOD": "256",
            "SYNC_COMMITTEE_SIZE": str(SYNC_COMMITTEE_SIZE),
            "SYNC_COMMITTEE_SUBNET_COUNT": "4",
            "TARGET_AGGREGATORS_PER_COMMITTEE": "16",
            "TARGET_AGGREGATORS_PER_SYNC_SUBCOMMITTEE": "16",
            "MIN_GENESIS_TIME": str(int(self._settings.genesis_time_s)),
            "GENESIS_FORK_VERSION": "0x" + self._settings.fork_version.hex(),
        }
        for fork in list(Fork)[1:]:
            spec[f"{fork.name}_FORK_EPOCH"] = "0"
            spec[f"{fork.name}_FORK_VERSION"] = "0x" + fork_version(self._settings, fork).hex()
        return spec

    def _validators(self, wanted: list[str]) -> list[dict[str, Any]]:
        found = []
        for pubkey, index in self._index.items():
            text = "0x" + pubkey.hex()
            if wanted and text not in wanted and str(index) not in wanted:
                continue
            validator = {
                "pubkey": text,
                "withdrawal_credentials": "0x01" + bytes(31).hex(),
                "effective_balance": "32000000000",
                "slashed": False,
                "activation_eligibility_epoch": "0",
                "activation_epoch": "0",
                "exit_epoch": str(2**64 - 1),
                "withdrawable_epoch": str(2**64 - 1),
            }
            found.append({"index": str(index), "balance": "32000000000", "status": "active_ongoing", "validator": validator})
        return found

    @staticmethod
    def _duties(duties: list[dict[str, str]]) -> dict[str, Any]:
        return {"dependent_root": "0x" + bytes(32).hex(), "execution_optimistic": False, "data": duties}

    def _attester_duty(self, epoch: int, index: int) -> dict[str, str]:
        return {
            "pubkey": "0x" + self._settings.validators[index].hex(),
            "validator_index": str(index),
            "committee_index": "0",
            "committee_length": str(len(self._settings.validators)),
            "committees_at_slot": "1",
            "validator_committee_index": str(index),
            "slot": str(self.attester_slot(epoch, index)),
        }

    def _proposer_duty(self, slot: int) -> dict[str, str]:
        index = self.proposer(slot)
        return {"pubkey": "0x" + self._settings.validators[index].hex(), "validator_index": str(index), "slot": str(slot)}

    # the made-up chain

    def block_root(self, slot: int) -> bytes:
        return hashlib.sha256(b"block" + slot.to_bytes(8, "little")).digest()

    def _head_slot(self) -> int:
        return max(self._chain.slot_at(self._clock()), 0)

    def attestation_data(self, slot: int) -> AttestationData:
        if slot > self._chain.slot_at(self._clock()):
            raise Refused(400, "the slot is in the future")
        epoch = self._chain.epoch_of(slot)
        source = self.justified(epoch)
        return AttestationData(
            slot=slot,
            index=0,
            beacon_block_root=self.block_root(slot),
            source_epoch=source,
            source_root=self.block_root(self._chain.first_slot(source)),
            target_epoch=epoch,
            target_root=self.block_root(self._chain.first_slot(epoch)),
        )

    def _block(self, slot: int, query: dict[str, list[str]]) -> "Block":
        """The same for all that ask with the same randao and graffiti, as nodes of one cluster do, while the recipient is the same."""
        asked = (
            slot,
            query["randao_reveal"][0],
            query.get("graffiti", [""])[0],
            self._fee_recipients.get(self.proposer(slot), b""),
        )
        if asked not in self._made:
            if len(self._made) >= KEPT_BLOCKS:
                del self._made[next(iter(self._made))]
            self._made[asked] = self._make_block(slot, query)
        return self._made[asked]

    def _make_block(self, slot: int, query: dict[str, list[str]]) -> "Block":
        randao = bytes.fromhex(query["randao_reveal"][0].removeprefix("0x"))
        proposer = self.proposer(slot)
        epoch = self._chain.epoch_of(slot)
        root = self._chain.signing_root(epoch.to_bytes(32, "little"), DomainType.RANDAO, epoch)
        if not verify(self._settings.validators[proposer], root, randao):
            self._refuse("randao does not verify")
        contents = containers.block_contents(FORK)
        value = zero_value(contents)
        block = value["block"]
        block["slot"], block["proposer_index"], block["parent_root"] = slot, proposer, self.block_root(max(slot - 1, 0))
        block["body"]["randao_reveal"] = randao
        block["body"]["graffiti"] = bytes.fromhex(query.get("graffiti", [""])[0].removeprefix("0x")).ljust(32, b"\0")[:32]
        pays = self._fee_recipients.get(proposer, bytes(20)) if self.pays is None else self.pays
        block["body"]["execution_payload"]["fee_recipient"] = pays
        block["body"]["sync_aggregate"]["sync_committee_signature"] = b"\xc0" + bytes(95)
        self._blocks[slot] = containers.beacon_block(FORK).hash_tree_root(block)
        for old in [known for known in self._blocks if known < slot - KEPT_SLOTS]:
            del self._blocks[old]
        return Block(contents, value)

    # what comes in

    def _take_attestations(self, attestations: list[Any]) -> None:
        for attestation in attestations:
            single = containers.SINGLE_ATTESTATION.from_json(attestation)
            data, index = AttestationData.from_value(single["data"]), single["attester_index"]
            if index >= len(self._settings.validators) or self.attester_slot(data.target_epoch, index) != data.slot:
                self._refuse("attestation of a validator without a duty in that slot")
            if data != self.attestation_data(data.slot):
                self._refuse("attestation of data that was not handed out")
            root = self._chain.signing_root(data.hash_tree_root(), DomainType.BEACON_ATTESTER, data.target_epoch)
            self._take("attester", data.slot, index, root, single["signature"])

    def _take_block(self, headers: Mapping[str, str], body: bytes) -> None:
        if headers.get("eth-consensus-version") != FORK.label:
            self._refuse("block without its consensus version")
        contents = containers.signed_block_contents(FORK)
        value = (
            contents.decode(body) if "octet-stream" in headers.get("content-type", "") else contents.from_json(json.loads(body))
        )
        signed = value["signed_block"]
        block = signed["message"]
        object_root = containers.beacon_block(FORK).hash_tree_root(block)
        if self._blocks.get(block["slot"]) != object_root:
            self._refuse("block that was not handed out")
        root = self._chain.signing_root(object_root, DomainType.BEACON_PROPOSER, self._chain.epoch_of(block["slot"]))
        self._take("proposer", block["slot"], block["proposer_index"], root, signed["signature"])

    def _take(self, kind: str, slot: int, index: int, signing_root: bytes, signature: bytes) -> None:
        if (kind, slot, index) in self.arrivals:
            self.repeats += 1
            return
        if not verify(self._settings.validators[index], signing_root, signature):
            self._refuse(f"{kind} signature does not verify")
        late_s = self._clock() - self._chain.slot_start_s(slot)
        self.arrivals[kind, slot, index] = Arrival(kind, slot, index, late_s)

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        raise Refused(400, reason)


class Block:
    """An unsigned block, in both forms."""

    headers: Final = {
        "eth-consensus-version": FORK.label,
        "eth-execution-payload-blinded": "false",
        "eth-execution-payload-value": "1",
        "eth-consensus-block-value": "1",
    }

    def __init__(self, type_: Container, value: Any) -> None:
        self._type, self._value = type_, value

    @cached_property
    def ssz(self) -> bytes:
        return self._type.encode(self._value)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": FORK.label,
            "execution_payload_blinded": False,
            "execution_payload_value": "1",
            "consensus_block_value": "1",
            "data": self._type.to_json(self._value),
        }
