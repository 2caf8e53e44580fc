"""What the routes of the validator API do: one method a row of `routes.py`. Source: specification 07 §4, §5.

Keys go out as this node's public shares and come in as such. Signed objects name their validator by index; who that is says the
duties actor. Every partial signature goes to the signatures actor, which verifies it, records it for slashing protection and
stores it before a request is answered; a fault in one object refuses the whole request.

Answered differently from Charon, each allowed by the specification ("improvement", "ours", "do"):

    client faults                                400 with a message that names them (§2)
    attestation data without a duty              404 at once (§5.5); `committee_index` defaults to 0
    duties too far ahead                         the beacon node's own 400 (§7.3 #3)
    proposer duties v2                           with v2's dependent root (§5.2)
    blocks                                       as SSZ for who prefers that (08 §7.3)
    validators without ids                       those of the cluster (§5.4)
    node health, node syncing                    of the best beacon node (§7.3 #9)
    blobs of a submitted block                   not read: the agreed ones go out (they are not signed)
    a block when none can be signed              404 before its body is read; 413 if it is far longer than the agreed one

A submitted block is compared with the agreed one and not decoded (`charon_actors/eth2/proposal.py`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from actors.beacon import (
    AttesterDuties,
    BeaconFault,
    BeaconUnavailable,
    ClusterValidators,
    DutiesAnswer,
    LookUpValidators,
    ProposerDuties,
    SyncDuties,
    SyncStatus,
    ValidatorInfo,
)
from actors.beacon import Message as BeaconMessage
from actors.duties import AttesterAt, AwaitAttestationData, AwaitProposal, ProposalsInHand, ProposerOf, PubkeyOfAttester
from actors.duties import Message as DutiesMessage
from actors.log import get_logger
from actors.mailbox import Address
from actors.off_loop import JSON_BYTES_A_MS, Elsewhere, OffLoop, json_ms
from actors.signatures import DutyExpired, SubmitPartials
from actors.signatures import Message as SignaturesMessage
from actors.validator_api.http import (
    PARSE_FAILED,
    SSZ,
    ApiAnswer,
    ApiError,
    ApiRequest,
    Headers,
    json_answer,
    parse_request_json,
    prefers_ssz,
)
from charon_actors.bounded_json import BLOCK, KIB, JsonKind, list_of
from charon_actors.eth2.beacon_api import ATTESTER_NUMBERS, AnswerFault, hex_of, uint_of
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork, UnknownFork, fork_from_label
from charon_actors.eth2.proposal import cut_signed, cut_signed_json
from charon_actors.eth2.signed_data import EncodingFault, SignedData, SignedRandao, VersionedAttestation
from charon_actors.eth2.unsigned_data import Proposal
from charon_actors.validator_api.share_keys import KeyShares, UnknownKey

log = get_logger("vapi")

MAX_ITEMS: Final = 100_000  # of one request
JSON_BYTES_A_BYTE: Final = 4  # of SSZ: hex digits are two, a number of eight bytes has up to 23 characters; spaces
SPARE_BYTES: Final = 64 * KIB
MESSAGE_HEAD_BYTES: Final = 84  # slot, proposer, two roots, the body's offset
MAX_SLOT: Final = 2**40  # nothing real is near it; keeps slot arithmetic away from the ends of uint64
VALUE: Final = b"1"  # execution and consensus value: not part of what the nodes agree on, so the same constant on all (07 §5.7)


class Handlers:
    """chain: gives the chain once it is known. version: what `node/version` says. off_loop: for blocks as JSON.

    list_kind: of the bodies that are lists. admit_by_name: of some routes; says before a body is read how long it may be, or refuses.
    """

    def __init__(
        self,
        shares: KeyShares,
        chain: Callable[[], Chain | None],
        beacon: Address[BeaconMessage],
        duties: Address[DutiesMessage],
        signatures: Address[SignaturesMessage],
        version: str,
        off_loop: OffLoop | None = None,
    ) -> None:
        self._off_loop = off_loop or Elsewhere()
        self.list_kind = list_of(len(shares.groups))
        self.admit_by_name: Mapping[str, Callable[[ApiRequest], Awaitable[int]]] = {
            "attester_duties": self._admit_indices,
            "sync_duties": self._admit_indices,
            "submit_block": self._admit_block,
            "submit_blinded_block": self._admit_block,
        }
        self._shares, self._chain_source, self._version = shares, chain, version
        self._beacon, self._duties, self._signatures = beacon, duties, signatures
        self.by_name: Mapping[str, Callable[[ApiRequest], Awaitable[ApiAnswer]]] = {
            "attester_duties": self._attester_duties,
            "proposer_duties": self._proposer_duties,
            "proposer_duties_v2": self._proposer_duties_v2,
            "sync_duties": self._sync_duties,
            "attestation_data": self._attestation_data,
            "submit_attestations": self._submit_attestations,
            "validators": self._validators,
            "validator": self._validator,
            "propose_block": self._propose_block,
            "submit_block": self._submit_block,
            "submit_blinded_block": self._submit_blinded_block,
            "node_version": self._node_version,
            "node_health": self._node_health,
            "node_syncing": self._node_syncing,
        }

    def _chain(self) -> Chain:
        chain = self._chain_source()
        if chain is None:
            raise BeaconUnavailable(None, "the node is starting: no beacon node has told the chain's parameters yet")
        return chain

    # -- before the body --------------------------------------------------------------------------------------------------------

    async def _admit_indices(self, request: ApiRequest) -> int:
        self._epoch(request)
        return self.list_kind.max_bytes

    async def _admit_block(self, request: ApiRequest) -> int:
        _fork(request)
        agreed = await self._duties.ask(ProposalsInHand())
        if not agreed:  # one is just being agreed on
            return BLOCK.max_bytes
        longest = max(len(proposal.body) for proposal in agreed)
        return min(BLOCK.max_bytes, SPARE_BYTES + longest * (1 if request.is_ssz else JSON_BYTES_A_BYTE))

    # -- duties -----------------------------------------------------------------------------------------------------------------

    async def _attester_duties(self, request: ApiRequest) -> ApiAnswer:
        epoch = self._epoch(request)
        answer = await self._beacon.ask(AttesterDuties(epoch, self._indices(request)))
        data = [
            {
                "pubkey": self._share_text(duty.pubkey, duty.validator_index),
                **{name: str(getattr(duty, name)) for name in ATTESTER_NUMBERS},
            }
            for duty in answer.duties
        ]
        return _duties_answer(answer, data)

    async def _proposer_duties(self, request: ApiRequest, version: int = 1) -> ApiAnswer:
        answer = await self._beacon.ask(ProposerDuties(self._epoch(request), version))
        data = [
            {
                "pubkey": self._share_text(duty.pubkey, duty.validator_index),
                "validator_index": str(duty.validator_index),
                "slot": str(duty.slot),
            }
            for duty in answer.duties
        ]
        return _duties_answer(answer, data)

    async def _proposer_duties_v2(self, request: ApiRequest) -> ApiAnswer:
        return await self._proposer_duties(request, version=2)

    async def _sync_duties(self, request: ApiRequest) -> ApiAnswer:
        answer = await self._beacon.ask(SyncDuties(self._epoch(request), self._indices(request)))
        data = [
            {
                "pubkey": self._share_text(duty.pubkey, duty.validator_index),
                "validator_index": str(duty.validator_index),
                "validator_sync_committee_indices": [str(position) for position in duty.positions],
            }
            for duty in answer.duties
        ]
        return json_answer({"execution_optimistic": False, "data": data})

    def _epoch(self, request: ApiRequest) -> int:
        epoch = request.uint_param("epoch")
        if epoch > MAX_SLOT:
            raise ApiError(400, f"epoch {epoch} is too far ahead")
        return epoch

    def _share_text(self, group: bytes, validator_index: int) -> str:
        share = self._share_of(group, validator_index)
        return f"0x{share.hex()}"

    def _share_of(self, group: bytes, validator_index: int) -> bytes:
        share = self._shares.share_of(group)
        if share is None:
            raise ApiError(400, f"pubshare not found: validator {validator_index} is not one of this cluster")
        return share

    def _indices(self, request: ApiRequest) -> tuple[int, ...]:
        """A list of validator indices, as texts or numbers; null counts as empty, which means all of the cluster."""
        values = request.json(self.list_kind)
        if values is None:
            return ()
        if not isinstance(values, list) or len(values) > MAX_ITEMS:
            raise ApiError(400, PARSE_FAILED)
        try:
            return tuple(uint_of(value, "index") for value in values)
        except AnswerFault:
            raise ApiError(400, PARSE_FAILED) from None

    # -- attestations -----------------------------------------------------------------------------------------------------------

    async def _attestation_data(self, request: ApiRequest) -> ApiAnswer:
        slot = _slot(request.uint_query("slot"))
        committee_index = request.uint_query("committee_index", default=0)
        data = await self._duties.ask(AwaitAttestationData(slot, committee_index))
        return json_answer({"data": data.to_json()})

    async def _submit_attestations(self, request: ApiRequest) -> ApiAnswer:
        fork = _fork(request)
        items = request.json(self.list_kind)
        if items is None:
            items = []
        if not isinstance(items, list) or len(items) > MAX_ITEMS:
            raise ApiError(400, PARSE_FAILED)
        by_slot: dict[int, dict[bytes, SignedData]] = {}
        for item in items:
            attestation = _attestation(fork, item)
            slot = _slot(attestation.data.slot)
            pubkey = await self._attester(attestation)
            partials = by_slot.setdefault(slot, {})
            if partials.setdefault(pubkey, attestation) != attestation:
                raise ApiError(400, f"two different attestations of validator 0x{pubkey.hex()} in slot {slot}")
        for slot, partials in by_slot.items():
            await self._submit(Duty(slot, DutyType.ATTESTER), partials)
        return ApiAnswer()

    async def _attester(self, attestation: VersionedAttestation) -> bytes:
        """The group key of the attestation's validator: by its index, or before Electra by its one aggregation bit."""
        slot, committee_index = attestation.data.slot, attestation.attestation.committee_index
        if committee_index is None:
            raise ApiError(400, "an attestation of several committees")
        if attestation.validator_index is not None:
            return await self._duties.ask(PubkeyOfAttester(slot, committee_index, attestation.validator_index))
        bits = int.from_bytes(attestation.attestation.aggregation_bits, "little")
        position = (bits ^ (1 << bits.bit_length() - 1)).bit_length() - 1 if bits.bit_count() == 2 else -1  # and the delimiter
        if position < 0:
            raise ApiError(400, "an attestation must have exactly one aggregation bit")
        definition = await self._duties.ask(AttesterAt(slot, committee_index, position))
        return definition.pubkey

    async def _submit(self, duty: Duty, partials: Mapping[bytes, SignedData]) -> None:
        """Hand partial signatures on. An expired duty is no fault of the client: it is told success, as by Charon (07 §4.1)."""
        try:
            await self._signatures.ask(SubmitPartials(duty, partials))
        except DutyExpired:
            log.info("Partial signatures came too late", duty=str(duty), validators=len(partials))

    # -- blocks -----------------------------------------------------------------------------------------------------------------

    async def _propose_block(self, request: ApiRequest) -> ApiAnswer:
        slot = _slot(request.uint_param("slot"))
        randao = request.hex_query("randao_reveal", 96)
        epoch = self._chain().epoch_of(slot)
        pubkey = await self._duties.ask(ProposerOf(slot))
        await self._submit(Duty(slot, DutyType.RANDAO), {pubkey: SignedRandao(epoch, randao)})
        proposal = await self._duties.ask(AwaitProposal(slot))
        headers: Headers = (
            (b"eth-consensus-version", proposal.fork.label.encode()),
            (b"eth-execution-payload-blinded", b"true" if proposal.blinded else b"false"),
            (b"eth-execution-payload-value", VALUE),
            (b"eth-consensus-block-value", VALUE),
        )
        if prefers_ssz(request.headers.get("accept", "")):
            return ApiAnswer(200, ((b"content-type", SSZ), *headers), proposal.body)
        expected_ms = 2 * len(proposal.body) / JSON_BYTES_A_MS
        body = {
            "version": proposal.fork.label,
            "execution_payload_blinded": proposal.blinded,
            "execution_payload_value": VALUE.decode(),
            "consensus_block_value": VALUE.decode(),
            "data": msgspec.Raw(await self._off_loop(expected_ms, json_of, proposal)),
        }
        return json_answer(body, headers)

    async def _submit_block(self, request: ApiRequest) -> ApiAnswer:
        return await self._submit_proposal(request, blinded=False)

    async def _submit_blinded_block(self, request: ApiRequest) -> ApiAnswer:
        return await self._submit_proposal(request, blinded=True)

    async def _submit_proposal(self, request: ApiRequest, *, blinded: bool) -> ApiAnswer:
        fork = _fork(request)
        signature, message = await self._cut(request, fork, blinded)
        slot = _slot(int.from_bytes(message[:8], "little"))
        pubkey = await self._duties.ask(ProposerOf(slot))
        agreed = await self._duties.ask(AwaitProposal(slot))
        if (fork, blinded, message) != (agreed.fork, agreed.blinded, agreed.message):
            difference = _difference(fork, blinded, message, agreed)
            raise ApiError(400, "consensus proposal and VC-submitted one do not match" + difference)
        # Blobs and proofs are not signed: what goes on are those that the cluster agreed on, whatever the client sent back.
        await self._submit(Duty(slot, DutyType.PROPOSER), {pubkey: agreed.signed(signature)})
        return ApiAnswer()

    async def _cut(self, request: ApiRequest, fork: Fork, blinded: bool) -> tuple[bytes, bytes]:
        """Signature and message of the block in the body. Raises: ApiError."""
        if not request.body:
            raise ApiError(400, "empty request body")
        try:
            if not request.is_ssz:
                return await self._off_loop(json_ms(request.body), cut_json, (fork, blinded, request.body))
            signature, message = cut_signed(fork, blinded, request.body)
            if len(message) < MESSAGE_HEAD_BYTES:
                raise EncodingFault(f"a block of {len(message)} bytes")
            return signature, bytes(message)
        except EncodingFault as fault:
            kind = "ssz" if request.is_ssz else "json"
            raise ApiError(400, f"failed parsing {kind} request body: {fault}") from None

    # -- validators -------------------------------------------------------------------------------------------------------------

    async def _validators(self, request: ApiRequest) -> ApiAnswer:
        found = await self._find(request.params["state_id"], _validator_ids(request, self.list_kind))
        return json_answer({"execution_optimistic": False, "finalized": False, "data": found})

    async def _validator(self, request: ApiRequest) -> ApiAnswer:
        found = await self._find(request.params["state_id"], [request.params["validator_id"]])
        if not found:
            raise ApiError(404, "NotFound")
        return json_answer({"execution_optimistic": False, "finalized": False, "data": found[0]})

    async def _find(self, state: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        if not ids:
            return [self._with_share(v) for v in await self._beacon.ask(ClusterValidators(state))]
        if ids[0].startswith(("0x", "0X")):
            groups = [self._shares.group_of(_key(text)) for text in ids]
            found = await self._beacon.ask(ClusterValidators(state, tuple(dict.fromkeys(groups))))
            return [self._with_share(validator) for validator in found]
        wanted = list(dict.fromkeys(_index(text) for text in ids))
        ours = {validator.index: validator for validator in await self._beacon.ask(ClusterValidators(state))}
        rest = tuple(str(index) for index in wanted if index not in ours)
        others = await self._beacon.ask(LookUpValidators(state, rest)) if rest else ()
        return [self._with_share(v) for v in (*(ours[index] for index in wanted if index in ours), *others)]

    def _with_share(self, validator: ValidatorInfo) -> dict[str, Any]:
        """The validator's object with our share for its key; the cached object stays as it is."""
        share = self._share_of(validator.pubkey, validator.index)
        return {**validator.raw, "validator": {**validator.raw["validator"], "pubkey": f"0x{share.hex()}"}}

    # -- node -------------------------------------------------------------------------------------------------------------------

    async def _node_version(self, _: ApiRequest) -> ApiAnswer:
        return json_answer({"data": {"version": self._version}})

    async def _node_health(self, request: ApiRequest) -> ApiAnswer:
        syncing_status = request.uint_query("syncing_status", default=206)
        if not 100 <= syncing_status <= 599:
            raise ApiError(400, f"invalid uint path parameter syncing_status [{syncing_status}]")
        if self._chain_source() is None:
            return ApiAnswer(503)
        try:
            state = await self._beacon.ask(SyncStatus())
        except BeaconFault:
            return ApiAnswer(503)
        return ApiAnswer(max(syncing_status, 200) if state.is_syncing else 200)

    async def _node_syncing(self, _: ApiRequest) -> ApiAnswer:
        return json_answer({"data": (await self._beacon.ask(SyncStatus())).raw})


def _fork(request: ApiRequest) -> Fork:
    label = request.headers.get("eth-consensus-version")
    if label is None:
        raise ApiError(400, "missing header Eth-Consensus-Version")
    try:
        return fork_from_label(label.strip())
    except UnknownFork as fault:
        raise ApiError(400, f"Eth-Consensus-Version: {fault}") from None


def _slot(slot: int) -> int:
    if slot > MAX_SLOT:
        raise ApiError(400, f"slot {slot} is too far ahead")
    return slot


def _attestation(fork: Fork, item: object) -> VersionedAttestation:
    try:
        if fork >= Fork.ELECTRA:
            return VersionedAttestation.from_single_attestation_json(fork, item)
        return VersionedAttestation.from_attestation_json(fork, item)
    except EncodingFault as fault:
        raise ApiError(400, f"{PARSE_FAILED}: {fault}") from None


def cut_json(of: tuple[Fork, bool, bytes]) -> tuple[bytes, bytes]:
    """For another thread or process: signature and message of a block's JSON. Raises: EncodingFault."""
    fork, blinded, text = of
    return cut_signed_json(fork, blinded, text, BLOCK)


def json_of(proposal: Proposal) -> bytes:
    """Likewise: the JSON of an agreed block."""
    return msgspec.json.encode(proposal.to_json())


def _difference(fork: Fork, blinded: bool, message: bytes, agreed: Proposal) -> str:
    signed = {"fork": fork, "blinded": blinded, "proposer_index": int.from_bytes(message[8:16], "little")}
    for name, value in signed.items():
        if value != getattr(agreed, name):
            return f": {name} is {value}, agreed {getattr(agreed, name)}"
    return ": the block differs"


def _validator_ids(request: ApiRequest, kind: JsonKind) -> list[str]:
    """Ids of the query, else of the body (07 §5.4). Raises: ApiError."""
    ids = [part.strip() for name, value in request.query_fields() if name == "id" for part in value.split(",")]
    if not ids and request.body:
        body = parse_request_json(request.body, kind)
        listed = body.get("ids") if isinstance(body, dict) else 0
        if listed is None:
            listed = []
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise ApiError(400, PARSE_FAILED)
        ids = [text.strip() for text in listed]
    if len(ids) > MAX_ITEMS:
        raise ApiError(400, f"more than {MAX_ITEMS} ids")
    return ids


def _key(text: str) -> bytes:
    try:
        return hex_of("0x" + text[2:], 48, "validator id")
    except AnswerFault:
        raise ApiError(400, f"invalid validator id [{text[:100]}]: not a 48-byte key in hex") from None


def _index(text: str) -> int:
    try:
        return uint_of(text, "validator id")
    except AnswerFault:
        raise ApiError(400, f"invalid validator id [{text[:100]}]: not a validator index") from None


def _duties_answer(answer: DutiesAnswer, data: list[dict[str, str]]) -> ApiAnswer:
    root = f"0x{answer.dependent_root.hex()}"
    return json_answer({"dependent_root": root, "execution_optimistic": answer.execution_optimistic, "data": data})


__all__ = ["Handlers", "UnknownKey"]
