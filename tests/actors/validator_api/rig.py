"""A validator API on a real socket, in front of the real beacon actor and real HTTP servers; small actors stand in for duties and
signatures. The stand-in for signatures verifies, as the real one does, and records what it accepts."""

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from actors.beacon import Beacon, KnownChain, Settings
from actors.beacon import Message as BeaconMessage
from actors.duties import (
    AttesterAt,
    AwaitAttestationData,
    AwaitProposal,
    NoDuty,
    NotReady,
    ProposalsInHand,
    ProposerOf,
    PubkeyOfAttester,
    UnknownValidator,
)
from actors.duties import Message as DutiesMessage
from actors.mailbox import Address, Inbox, Mailbox, Reply, open_actor
from actors.signatures import InvalidPartial, SubmitPartials
from actors.signatures import Message as SignaturesMessage
from actors.validator_api import RequestSeen, ValidatorApi
from charon_actors.crypto import public_key, split_secret, verify
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.eth2.chain import Chain, chain_from_answers
from charon_actors.eth2.duty import Duty
from charon_actors.eth2.signed_data import SignedData
from charon_actors.eth2.unsigned_data import AttestationData, AttesterDefinition, Proposal
from charon_actors.validator_api.share_keys import KeyShares
from tests.actors.beacon.upstream import Scripted, Seen, Upstream, chain_answers

VERSION = "charon-actors/charon/v1.10.3-0000000/amd64-linux"
VALIDATOR_INDEX = 7
SECRET = bytes(31) + b"\x2a"
SHARES = split_secret(SECRET, 3, 4, lambda n: bytes(range(1, n + 1)))  # a fixed polynomial
GROUP = public_key(SECRET)
PUBSHARES = tuple(public_key(SHARES[i]) for i in range(1, 5))
FOREIGN = public_key(bytes(31) + b"\x07")


@dataclass
class Duties:
    """Stands in for the duties actor: what isn't given is NoDuty; a slot in `undecided` waits for ever."""

    attestations: dict[tuple[int, int], AttestationData] = field(default_factory=dict)
    proposals: dict[int, Proposal] = field(default_factory=dict)
    attesters: dict[tuple[int, int, int], bytes] = field(default_factory=dict)
    definitions: dict[tuple[int, int, int], AttesterDefinition] = field(default_factory=dict)
    proposers: dict[int, bytes] = field(default_factory=dict)
    undecided: set[int] = field(default_factory=set)
    unresolved: set[int] = field(default_factory=set)
    waiting: list[Reply[Any]] = field(default_factory=list)

    async def run(self, inbox: Inbox[DutiesMessage]) -> None:
        async for mail in inbox:
            match mail.message:
                case AwaitAttestationData() as request:
                    self._answer(
                        mail.reply_to(request), request.slot, self.attestations.get((request.slot, request.committee_index))
                    )
                case AwaitProposal() as request:
                    self._answer(mail.reply_to(request), request.slot, self.proposals.get(request.slot))
                case ProposalsInHand() as request:
                    if self.proposals or self.proposers or self.undecided:
                        mail.reply_to(request).send(tuple(self.proposals.values()))
                    else:
                        mail.reply_to(request).fail(NoDuty("no validator of this cluster proposes now"))
                case ProposerOf() as request:
                    self._answer(mail.reply_to(request), -1, self.proposers.get(request.slot), request.slot)
                case PubkeyOfAttester() as request:
                    key = (request.slot, request.committee_index, request.validator_index)
                    reply = mail.reply_to(request)
                    if key in self.attesters:
                        reply.send(self.attesters[key])
                    else:
                        reply.fail(UnknownValidator(f"no attester {key}"))
                case AttesterAt() as request:
                    place = mail.reply_to(request)
                    definition = self.definitions.get((request.slot, request.committee_index, request.position))
                    if definition is None:
                        place.fail(UnknownValidator("nobody there"))
                    else:
                        place.send(definition)
                case _:
                    raise AssertionError("not used here")

    def _answer(self, reply: Reply[Any], waits_in: int, value: object, slot: int = -1) -> None:
        if slot in self.unresolved:
            reply.fail(NotReady(f"the duties of slot {slot} are not known yet"))
        elif waits_in in self.undecided:
            self.waiting.append(reply)
        elif value is None:
            reply.fail(NoDuty("no validator of this cluster has that duty"))
        else:
            reply.send(value)


@dataclass
class Signatures:
    """Stands in for the signatures actor: verifies against the public share, all or nothing, and records."""

    share_of: Mapping[bytes, bytes]
    chain: Chain
    accepted: list[tuple[Duty, dict[bytes, SignedData]]] = field(default_factory=list)
    refuse_with: Exception | None = None

    async def run(self, inbox: Inbox[SignaturesMessage]) -> None:
        async for mail in inbox:
            assert isinstance(mail.message, SubmitPartials)
            reply = mail.reply_to(mail.message)
            if self.refuse_with is not None:
                reply.fail(self.refuse_with)
                continue
            for pubkey, signed in mail.message.partials.items():
                if not verify(self.share_of[pubkey], signed.signing_root(self.chain), signed.signature):
                    reply.fail(InvalidPartial(pubkey, "signature does not verify"))
                    break
            else:
                self.accepted.append((mail.message.duty, dict(mail.message.partials)))
                reply.send(None)


@dataclass
class Rig:
    client: httpx.AsyncClient
    duties: Duties
    signatures: Signatures
    chain: Chain
    listening: socket.socket
    requests: list[RequestSeen]
    beacon: Address[BeaconMessage]

    @property
    def url(self) -> str:
        host, port = self.listening.getsockname()
        return f"http://{host}:{port}"


def listen() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    return listening


def chain_of(upstream: Upstream) -> Chain:
    facts = [upstream.answers[path] for path in ("/eth/v1/beacon/genesis", "/eth/v1/config/spec", "/eth/v1/config/fork_schedule")]
    bodies = [fact.body for fact in facts if isinstance(fact, Scripted)]
    return chain_from_answers(bodies[0], bodies[1], bodies[2], bytes.fromhex("03000001"))


@asynccontextmanager
async def rig_of(
    primaries: Sequence[Upstream],
    fallbacks: Sequence[Upstream] = (),
    *,
    slot: int = 40,
    timeout_s: float = 1.0,
    request_timeout_s: float = 10.0,
    suffix: str = "",
    user_info: str = "",
    validators: Sequence[tuple[bytes, Sequence[bytes]]] = ((GROUP, PUBSHARES),),
    is_starting: bool = False,
    wall_clock: Callable[[], float] | None = None,
) -> AsyncIterator[Rig]:
    for upstream in (*primaries, *fallbacks):
        if "/eth/v1/beacon/genesis" not in upstream.answers:
            chain_answers(upstream)
    facts = Upstream()
    chain_answers(facts)
    chain = chain_of(facts)
    known = KnownChain()
    known.chain = None if is_starting else chain
    shares = KeyShares(1, validators)
    async with AsyncExitStack() as stack:
        for upstream in (*primaries, *fallbacks):
            await stack.enter_async_context(upstream.serving())

        def url(upstream: Upstream) -> Any:
            return decode_node_url(upstream.url.replace("http://", f"http://{user_info}") + suffix)

        settings = Settings(
            primaries=tuple(map(url, primaries)),
            fallbacks=tuple(map(url, fallbacks)),
            headers=(("X-Bn-Auth", "secret"),),
            timeout_s=timeout_s,
            submit_timeout_s=timeout_s,
            cluster_keys=shares.groups,
        )
        clock = wall_clock or (lambda: chain.slot_start_s(slot) + 1.0)
        beacons: Mailbox[BeaconMessage] = Mailbox("beacon")
        beacon = await stack.enter_async_context(open_actor(beacons, lambda: Beacon(settings, known, wall_clock=clock)))
        duties, signatures = Duties(), Signatures({group: keys[0] for group, keys in validators}, chain)
        duties_mail: Mailbox[DutiesMessage] = Mailbox("duties")
        signatures_mail: Mailbox[SignaturesMessage] = Mailbox("signatures")
        duties_address = await stack.enter_async_context(open_actor(duties_mail, lambda: duties))
        signatures_address = await stack.enter_async_context(open_actor(signatures_mail, lambda: signatures))
        listening = stack.enter_context(listen())
        requests: list[RequestSeen] = []
        api = ValidatorApi(
            listening,
            shares,
            lambda: known.chain,
            beacon,
            duties_address,
            signatures_address,
            version=VERSION,
            on_fact=lambda fact: requests.append(fact) if isinstance(fact, RequestSeen) else None,
            request_timeout_s=request_timeout_s,
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(api.run)
        host, port = listening.getsockname()
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=15, trust_env=False))
        yield Rig(client, duties, signatures, chain, listening, requests, beacon)
        nursery.cancel_scope.cancel()


def validators_answer(seen: Seen) -> Scripted:
    """The one validator of the cluster, and validator 99 of others."""
    known = {VALIDATOR_INDEX: GROUP, 99: FOREIGN}
    data = [
        {
            "index": str(index),
            "balance": "32000000000",
            "status": "active_ongoing",
            "validator": {
                "pubkey": "0x" + key.hex(),
                "withdrawal_credentials": "0x" + "00" * 32,
                "effective_balance": "32000000000",
                "slashed": False,
                "activation_eligibility_epoch": "0",
                "activation_epoch": "0",
                "exit_epoch": str(2**64 - 1),
                "withdrawable_epoch": str(2**64 - 1),
            },
        }
        for index, key in known.items()
        if str(index) in seen.json["ids"] or "0x" + key.hex() in seen.json["ids"]
    ]
    return Scripted(body={"data": data, "execution_optimistic": False, "finalized": False})
