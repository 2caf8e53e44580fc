"""What others ask the beacon actor, and how it fails. Source: specification 08 §4, 07 §6.

Every request is answered in a task of its own; an asker that leaves cancels the HTTP calls made for it, but for submissions, which
run to their own time limit on every beacon node.

    whose fault                     error                what the asker does
    the answer, or the request      BeaconFault          gives up (status and text are the beacon node's)
    the moment's                    BeaconUnavailable    asks again until its deadline; it is a BeaconFault and a Retryable
    the operator's (wrong network)  UserError            LoadChain only
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from actors.mailbox import Request
from charon_actors.errors import Retryable
from charon_actors.eth2.beacon_api import ProposerDuty, SyncDuty, Validator
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedProposal, VersionedAttestation
from charon_actors.eth2.unsigned_data import AttestationData, Proposal

ValidatorInfo = Validator
ProposerDefinition = ProposerDuty
SyncDefinition = SyncDuty


class BeaconFault(Exception):
    """A call failed on every beacon node that was asked.

    status: the HTTP status of the most telling answer, None if there was none. text: one line, naming each node that was asked.
    body, content_type: that answer as it was sent, for whoever passes it on; empty without a status.
    """

    retryable = False

    def __init__(self, status: int | None, text: str, body: bytes = b"", content_type: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.body, self.content_type = status, text, body, content_type


class BeaconUnavailable(BeaconFault, Retryable):
    """The same call may succeed a moment later: connection lost, timeout, node syncing, 502–504, 429."""

    retryable = True


class ForeignFeeRecipient(BeaconFault):
    """A beacon node makes blocks that pay somebody else than it was told; `text` names it and the address."""


class LoadChain(Request[Chain], frozen=True):
    """What chain the beacon nodes are on. Asked once at the start; everything else needs it. Changes go to `on_chain`.

    capella_fork_version: of the lock's network, 4 bytes. genesis_fork_version: the lock's, 4 bytes.
    Waits for a beacon node for as long as the asker does, and says so in the log every 15 s.
    Raises: UserError (a beacon node is on another network).
    """

    capella_fork_version: bytes
    genesis_fork_version: bytes


class FetchAttestationData(Request[AttestationData], frozen=True):
    """The vote that a beacon node proposes. Checked: one that is possible there (`AttestationData.fault`). Raises: BeaconFault."""

    slot: int
    committee_index: int


class JustifiedEpoch(Request[int], frozen=True):
    """The latest epoch that one of our beacon nodes holds justified for a vote in `slot`, asked of all of them afresh.

    Reply: as soon as one says `at_least` or later; else the latest, once all have answered or their time is over: `within_s`, and
    at most what the settings say. May be earlier than `at_least`.
    Raises: BeaconFault, when none answers in time; also when they are syncing.
    """

    slot: int
    at_least: int
    within_s: float


class ProduceBlock(Request[Proposal], frozen=True):
    """An unsigned block, full or blinded. randao: 96 bytes; graffiti: 32 bytes; builder_boost: uint64 (08 §1, `--builder-api`).

    fee_recipient: 20 bytes, whom a block that isn't blinded must pay; empty: anybody.
    Checked: slot and randao of the block, and whom it pays. Raises: ForeignFeeRecipient (every block that came pays somebody else, or
    some do and the other nodes failed); BeaconFault. Has a longer time limit than other reads.
    """

    slot: int
    randao: bytes
    graffiti: bytes
    builder_boost: int
    fee_recipient: bytes = b""


class DutiesAnswer(msgspec.Struct, frozen=True):
    """Duties of one epoch. dependent_root: 32 bytes; a head event with another one makes the duties void."""

    duties: tuple[Any, ...]
    dependent_root: bytes
    execution_optimistic: bool


class AttesterDuties(Request[DutiesAnswer], frozen=True):
    """Where validators attest in an epoch: `AttesterDefinition`s. From the cache where it is still right.

    indices: validator indices; empty means all active validators of the cluster. Raises: BeaconFault (also the node's 400 for an
    epoch too far ahead).
    """

    epoch: int
    indices: tuple[int, ...] = ()


class ProposerDuties(Request[DutiesAnswer], frozen=True):
    """Which of the cluster's validators propose in an epoch: `ProposerDefinition`s, one a slot. From the cache where still right.

    version 2: with the dependent root of the Beacon API's v2 route; a node that doesn't have it answers with v1's (07 §5.2).
    Raises: BeaconFault.
    """

    epoch: int
    version: int = 1


class SyncDuties(Request[DutiesAnswer], frozen=True):
    """Positions in the sync committee: `SyncDefinition`s. indices: as AttesterDuties. Raises: BeaconFault."""

    epoch: int
    indices: tuple[int, ...] = ()


class ClusterValidators(Request[tuple[Validator, ...]], frozen=True):
    """What the chain knows of the cluster's validators; those it doesn't know are missing.

    state: a slot in decimal, or `head`; it matters only for what isn't in the cache, which is refreshed once an epoch.
    pubkeys: group public keys of the lock; empty means all of them. Raises: BeaconFault.
    """

    state: str = "head"
    pubkeys: tuple[bytes, ...] = ()


class LookUpValidators(Request[tuple[Validator, ...]], frozen=True):
    """Any validators of a state, uncached. ids: 0x-keys or decimal indices, at least one. Raises: BeaconFault."""

    state: str
    ids: tuple[str, ...]


class SubmitAttestations(Request[None], frozen=True):
    """Publish group-signed attestations of one fork. One without a place in a committee is left out with a warning (08 §4).

    Returns when one beacon node has accepted them, or knew them already; the others go on. Raises: BeaconFault.
    """

    fork: Fork
    attestations: tuple[VersionedAttestation, ...]


class SubmitProposal(Request[None], frozen=True):
    """Publish a group-signed block, as SubmitAttestations. Raises: BeaconFault."""

    proposal: SignedProposal


class PrepareProposers(Request[None], frozen=True):
    """Tell the beacon nodes the fee recipients: (validator index, 0x-address). Raises: BeaconFault."""

    preparations: tuple[tuple[int, str], ...]


class RegisterValidators(Request[None], frozen=True):
    """Pass group-signed builder registrations (JSON objects) to the beacon nodes. Raises: BeaconFault."""

    registrations: tuple[Mapping[str, Any], ...]


class SyncState(msgspec.Struct, frozen=True):
    """Of the best beacon node. peers: None if it doesn't say. raw: the node's own object."""

    is_syncing: bool
    sync_distance: int
    peers: int | None
    raw: Mapping[str, Any]


class SyncStatus(Request[SyncState], frozen=True):
    """Whether a beacon node is synced: of several the synced one wins. At most 1 s old. Raises: BeaconFault (none answers)."""


class NodeVersion(Request[str], frozen=True):
    """`Lighthouse/v8.0.0-…`, of the first beacon node that answers. Raises: BeaconFault."""


class ByteStream:
    """A body on its way. Iterate it to the end, or `aclose` it: then the upstream connection is closed.

    Raises while iterating: BeaconUnavailable (the beacon node broke off, or the actor went down): the body is not complete.
    """

    def __init__(self, chunks: trio.MemoryReceiveChannel[bytes | None], source: trio.CancelScope | None = None) -> None:
        """chunks: what the source's task sends, None at the end. source: of that task, cancelled when nobody wants the rest."""
        self._chunks, self._source = chunks, source
        self._is_complete = False

    def __aiter__(self) -> "ByteStream":
        return self

    async def __anext__(self) -> bytes:
        if self._is_complete:
            raise StopAsyncIteration
        try:
            chunk = await self._chunks.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise BeaconUnavailable(None, "the beacon node broke off in the middle of a body") from None
        if chunk is None:
            self._is_complete = True
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._chunks.close()
        if self._source is not None:
            self._source.cancel()


class ForwardAnswer(msgspec.Struct, frozen=True):
    """The head of a passed-on answer, with its body to come. headers: end-to-end ones only, names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: ByteStream


class Forward(Request[ForwardAnswer], frozen=True):
    """Pass a request on as it is. headers: end-to-end ones; the operator's headers and credentials are added.

    All primaries are asked; the first answer with a 2xx status wins, the others are cancelled. If none has one: the most telling
    answer as it is (a 4xx before a 5xx), after the fallback nodes were tried. `to_all`: no request is cancelled.
    The taker must read `body` to its end or close it. Raises: BeaconFault without status (no node answered).
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes
    to_all: bool = False


class OpenEvents(Request[ForwardAnswer], frozen=True):
    """An event stream that outlives its upstream: when a beacon node breaks off, the next one takes over.

    query: as the client sent it. A node that refuses the topics with 400 is asked again for those it is sure to know.
    The taker must close `body`. Raises: BeaconFault (no node could be reached now; or, with its status, refused).
    """

    query: bytes


Message = (
    LoadChain
    | FetchAttestationData
    | JustifiedEpoch
    | ProduceBlock
    | AttesterDuties
    | ProposerDuties
    | SyncDuties
    | ClusterValidators
    | LookUpValidators
    | SubmitAttestations
    | SubmitProposal
    | PrepareProposers
    | RegisterValidators
    | SyncStatus
    | NodeVersion
    | Forward
    | OpenEvents
)
