"""Signatures: collects partial signatures of a duty until a threshold of shares makes a group signature.

Accepts     SubmitPartials, AwaitGroupSignature (ask) · PeerPartials (tell)
Emits       GroupSigned to the `on_group` it was made with, each validator of a duty once
Owns        partial signatures by duty, group public key and share index, until the duty's deadline
May touch   the peer mesh (own partials go to every peer), the slashing guard, the verifier of signatures. Not: the beacon node
Mailbox     1024, policy `reject`: a peer that floods is refused and counted, nothing accepted is dropped
Cancelled   a verification that is cut off leaves nothing behind; what was stored stays stored
Restart     starts empty: partials of duties in flight are lost with the incarnation, askers get ActorDown and may ask again
Source      specification 05-core-workflow §9 to §12, 07 §4.1

The way of a partial signature, own or a peer's, is the same, and every step fails closed:

    1 gate      the duty's type is one that this node performs, its epoch at most two ahead, its deadline not passed
    2 match     the validator is in the lock, the share index one of its shares (own: ours), the data belongs to the duty's slot
    3 verify    the signature, against that share's public key
    4 guard     own signatures only: the slashing record of this share is on disk before anything leaves
    5 store     the first one of a share stays; an equal repeat is ignored, a different one refused
    6 combine   `threshold` shares with one object root: interpolate, verify against the group public key, record it for the group
                in the slashing guard, emit; what comes later is counted and not verified any more

A validator's fault never touches another validator of the same message.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar, assert_never

import msgspec
import structlog
import trio
from google.protobuf.message import DecodeError

from actors.crypto_workers import Recovery, recover_chunk
from actors.mailbox import Address, Inbox, Reply, Request
from actors.slashing import AttestationEntry, BlockEntry, Guard, SlashableFault
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType, deadline_s
from charon_actors.eth2.signed_data import (
    EncodingFault,
    SignedData,
    SignedProposal,
    VersionedAttestation,
    decode_signed_data,
)
from charon_actors.p2p.protobuf.core_pb2 import ParSigExMsg
from charon_actors.profile import Profile

log = structlog.get_logger(topic="sigagg")
T = TypeVar("T")

PROTOCOL: Final = "/charon/parsigex/2.0.0"
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024  # 05 §10: an unreleased Charon caps it here; what we send is far below
PERFORMED: Final = frozenset({DutyType.PROPOSER, DutyType.ATTESTER, DutyType.RANDAO})
MAX_EPOCHS_AHEAD: Final = 2  # 05 §4
MAX_DUTIES: Final = 4096  # two epochs of all performed types, with room for a chain of long epochs
TRIM_INTERVAL_S: Final = 1.0
VERIFY_RETRY_S: Final = 0.1
MAX_UNVERIFIED: Final = 1024  # sets of peers that wait for the verifier


class SubmitPartials(Request[None], frozen=True):
    """Our validator client signed: verify, record, store, and pass on to the peers.

    partials: by group public key (48 bytes). Returns when everything is stored and queued for the peers.
    Raises: InvalidPartial (nothing of the request was stored), SlashableFault (likewise), DutyExpired, MailboxFull, ActorDown.
    Cancellation: nothing was stored, or all of it.
    """

    duty: Duty
    partials: Mapping[bytes, SignedData]


class PeerPartials(msgspec.Struct, frozen=True):
    """A peer's ParSigExMsg as it came off the wire."""

    peer_index: int
    message: bytes


class AwaitGroupSignature(Request[SignedData], frozen=True):
    """The group's signature of a duty; answered as soon as `threshold` shares have signed the same root.

    pubkey: group public key, 48 bytes. Reply: the signed object, its signature verified against the group public key.
    Raises: DutyExpired at the duty's deadline; ActorDown, ask again; MailboxFull.
    Cancellation: at any time; the partial signatures stay, others may be waiting for them.
    """

    duty: Duty
    pubkey: bytes


class GroupSigned(msgspec.Struct, frozen=True):
    """What a threshold has signed, ready for the beacon node. signed: by group public key (48 bytes)."""

    duty: Duty
    signed: Mapping[bytes, SignedData]


class InvalidPartial(Exception):
    """A partial signature that this node doesn't accept. pubkey: the group public key (48 bytes) it was submitted for."""

    def __init__(self, pubkey: bytes, reason: str) -> None:
        super().__init__(f"validator 0x{pubkey.hex()}: {reason}")
        self.pubkey, self.reason = pubkey, reason


class DutyExpired(Exception):
    """The duty's deadline has passed."""


REFUSALS: Final = (InvalidPartial, SlashableFault, DutyExpired, Retryable)
Message = SubmitPartials | PeerPartials | AwaitGroupSignature


class Shares(msgspec.Struct, frozen=True):
    """The shares of one validator. public_shares: by share index (from 1), 48 bytes each."""

    public_shares: Mapping[int, bytes]


class Settings(msgspec.Struct, frozen=True):
    """validators: by group public key. own_share_index: from 1. threshold: from the lock, not the consensus quorum."""

    validators: Mapping[bytes, Shares]
    own_share_index: int
    threshold: int
    chain: Chain
    profile: Profile = Profile.V1_10


class Collected(msgspec.Struct):
    """Of one duty and one group public key."""

    partials: dict[int, SignedData] = {}
    waiting: list[Reply[SignedData]] = []
    group: SignedData | None = None
    is_combined: bool = False


class Unverified(msgspec.Struct, frozen=True):
    """What a peer sent and nobody has verified yet."""

    peer_index: int
    duty: Duty
    share_index: int
    partials: Mapping[bytes, SignedData]


Verifier = Callable[[Sequence[Check]], Awaitable[Sequence[bool]]]
Recoverer = Callable[[Sequence[Recovery]], Awaitable[Sequence[bytes | None]]]


async def recover_here(recoveries: Sequence[Recovery]) -> Sequence[bytes | None]:
    """In the event loop: some 2 ms each."""
    return recover_chunk(recoveries)


class Signatures:
    """One incarnation. verify_all, recover: for a batch, off the event loop or on it. broadcast: queues bytes for every peer.

    observe: (duty, share_index, number of validators) for each stored set, for metrics.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        verify_all: Verifier,
        recover: Recoverer = recover_here,
        guard: Address[Guard],
        broadcast: Callable[[tuple[str, ...], bytes], None],
        on_group: Callable[[GroupSigned], None],
        wall_clock: Callable[[], float],
        observe: Callable[[Duty, int, int], None] = lambda duty, share_index, count: None,
    ) -> None:
        self._settings, self._chain = settings, settings.chain
        self._verify_all, self._recover, self._guard, self._broadcast = verify_all, recover, guard, broadcast
        self._on_group, self._wall_clock, self._observe = on_group, wall_clock, observe
        self._collected: dict[Duty, dict[bytes, Collected]] = {}
        self._unverified: list[Unverified] = []
        self._came = trio.Event()
        self._nursery: trio.Nursery

    async def run(self, inbox: Inbox[Message]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._trim)
            nursery.start_soon(self._verify_what_came)
            async for mail in inbox:
                match mail.message:
                    case SubmitPartials() as own:
                        nursery.start_soon(partial(mail.reply_to(own).answer, self._submit, own, errors=REFUSALS))
                    case PeerPartials(peer_index, message):
                        self._receive(peer_index, message)
                    case AwaitGroupSignature() as request:
                        self._await_group(request, mail.reply_to(request))
                    case unknown:
                        assert_never(unknown)
            nursery.cancel_scope.cancel()

    async def _submit(self, own: SubmitPartials) -> None:
        self._gate(own.duty)
        share_index = self._settings.own_share_index
        for pubkey, signed in own.partials.items():
            if reason := self._mismatch(own.duty, pubkey, share_index, signed) or self._conflict(
                own.duty, pubkey, share_index, signed
            ):
                raise InvalidPartial(pubkey, reason)
        verdicts = await self._verify_all([self._check(pubkey, share_index, signed) for pubkey, signed in own.partials.items()])
        for (pubkey, _), is_valid in zip(own.partials.items(), verdicts, strict=True):
            if not is_valid:
                raise InvalidPartial(pubkey, "the partial signature does not verify against this node's share of the key")
        await self._record(own.duty, {self._public_share(pubkey, share_index): signed for pubkey, signed in own.partials.items()})
        self._broadcast((PROTOCOL,), encode_message(own.duty, share_index, own.partials))
        self._store(own.duty, share_index, own.partials)

    def _receive(self, peer_index: int, message: bytes) -> None:
        try:
            duty, share_index, partials = decode_message(message)
            self._gate(duty)
        except (EncodingFault, DutyExpired, InvalidPartial) as fault:
            log.debug("Partial signatures of a peer refused", peer_index=peer_index, reason=str(fault))
            return
        fitting: dict[bytes, SignedData] = {}
        late = 0
        for pubkey, signed in partials.items():
            if reason := self._mismatch(duty, pubkey, share_index, signed):
                log.warning("Partial signature of a peer refused", peer_index=peer_index, duty=str(duty), reason=reason)
            elif (collected := self._collected.get(duty, {}).get(pubkey)) and share_index in collected.partials:
                if collected.partials[share_index] != signed:
                    log.warning(
                        "A peer signed two different things", peer_index=peer_index, duty=str(duty), share_index=share_index
                    )
            elif collected is not None and collected.is_combined:
                late += 1  # the group has signed: nobody needs this one, so its pairing is saved
            else:
                fitting[pubkey] = signed
        if late:
            self._observe(duty, share_index, late)
        if len(self._unverified) >= MAX_UNVERIFIED:
            log.warning(
                "Too many partial signatures wait to be verified, a set is dropped", peer_index=peer_index, duty=str(duty)
            )
        elif fitting:
            self._unverified.append(Unverified(peer_index, duty, share_index, fitting))
            self._came.set()

    async def _verify_what_came(self) -> None:
        """Check the peers' sets. Those that come while a batch is being checked make the next batch: many of them have one message."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            sets, self._unverified = self._unverified, []
            checks = [self._check(key, each.share_index, signed) for each in sets for key, signed in each.partials.items()]
            try:
                verdicts = iter(await self._verify_all(checks))
            except Retryable as moment:  # the workers are just being restarted; the peers don't repeat themselves
                log.warning("Partial signatures could not be verified, trying again", reason=str(moment))
                self._unverified = sets + self._unverified
                self._came.set()
                await trio.sleep(VERIFY_RETRY_S)
                continue
            for each in sets:
                valid = {key: signed for key, signed in each.partials.items() if next(verdicts)}
                if len(valid) < len(each.partials):
                    log.warning(
                        "Invalid partial signature of a peer",
                        peer_index=each.peer_index,
                        duty=str(each.duty),
                        share_index=each.share_index,
                    )
                self._store(each.duty, each.share_index, valid)

    def _gate(self, duty: Duty) -> None:
        if duty.type not in PERFORMED:
            raise DutyExpired(f"{duty}: this node does not perform {duty.type.label} duties")
        now = self._wall_clock()
        if self._chain.epoch_of(duty.slot) > self._chain.epoch_of(max(self._chain.slot_at(now), 0)) + MAX_EPOCHS_AHEAD:
            raise DutyExpired(f"{duty} is more than {MAX_EPOCHS_AHEAD} epochs ahead")
        deadline = deadline_s(duty, self._chain, self._settings.profile)
        if deadline is not None and deadline <= now:
            raise DutyExpired(f"the deadline of {duty} has passed")
        if duty not in self._collected and len(self._collected) >= MAX_DUTIES:
            raise DutyExpired(f"{duty}: {MAX_DUTIES} duties are being collected already")

    def _mismatch(self, duty: Duty, pubkey: bytes, share_index: int, signed: SignedData) -> str | None:
        """Why this can't be a partial signature of that share for that duty; None when it can."""
        validator = self._settings.validators.get(pubkey)
        if validator is None:
            return "the validator is not in the lock"
        if share_index not in validator.public_shares:
            return f"the lock has no share {share_index}"
        return None if signed.belongs_to(duty, self._chain) else f"the signed object does not belong to duty {duty}"

    def _conflict(self, duty: Duty, pubkey: bytes, share_index: int, signed: SignedData) -> str | None:
        collected = self._collected.get(duty, {}).get(pubkey)
        if collected is None or collected.partials.get(share_index, signed) == signed:
            return None
        return f"this share has signed something else for duty {duty} before"

    def _public_share(self, pubkey: bytes, share_index: int) -> bytes:
        return self._settings.validators[pubkey].public_shares[share_index]

    def _check(self, pubkey: bytes, share_index: int, signed: SignedData) -> Check:
        return Check(self._public_share(pubkey, share_index), signed.signing_root(self._chain), signed.signature)

    async def _record(self, duty: Duty, signed_by_key: Mapping[bytes, SignedData]) -> None:
        """Have the slashing guard record what these keys sign, on disk. Raises: SlashableFault."""
        entries: list[BlockEntry | AttestationEntry] = []
        for key, signed in signed_by_key.items():
            match signed:
                case SignedProposal():
                    entries.append(BlockEntry(pubkey=key, signing_root=signed.signing_root(self._chain), slot=duty.slot))
                case VersionedAttestation():
                    root, data = signed.signing_root(self._chain), signed.data
                    entries.append(
                        AttestationEntry(
                            pubkey=key, signing_root=root, source_epoch=data.source_epoch, target_epoch=data.target_epoch
                        )
                    )
        if entries:
            await self._guard.ask(Guard(entries=tuple(entries)))

    def _store(self, duty: Duty, share_index: int, partials: Mapping[bytes, SignedData]) -> None:
        if not partials:
            return
        self._observe(duty, share_index, len(partials))
        log.debug("Partial signatures stored", duty=str(duty), share_index=share_index, validators=len(partials))
        ready: dict[bytes, tuple[SignedData, Recovery]] = {}
        for pubkey, mine in partials.items():
            collected = self._collected.setdefault(duty, {}).setdefault(pubkey, Collected())
            if collected.partials.setdefault(share_index, mine) is not mine or collected.is_combined:
                continue
            root = mine.object_root()
            agreeing = {index: other for index, other in sorted(collected.partials.items()) if other.object_root() == root}
            if len(agreeing) >= self._settings.threshold:
                collected.is_combined = True
                ready[pubkey] = (carrier(list(agreeing.values())), self._recovery(pubkey, agreeing))
        if ready:
            self._nursery.start_soon(self._combine, duty, ready)

    def _recovery(self, pubkey: bytes, agreeing: Mapping[int, SignedData]) -> Recovery:
        signing_root = next(iter(agreeing.values())).signing_root(self._chain)
        return Recovery(pubkey, signing_root, {index: signed.signature for index, signed in agreeing.items()})

    async def _combine(self, duty: Duty, ready: Mapping[bytes, tuple[SignedData, Recovery]]) -> None:
        """Make group signatures, each verified against its group public key; record them; release them."""
        recoveries = [recovery for _, recovery in ready.values()]
        try:
            signatures = await self._until_done(duty, lambda: self._recover(recoveries))
            await self._release(duty, ready, signatures)
        except Retryable as moment:
            log.error("A group signature was not released in time", duty=str(duty), reason=str(moment))

    async def _release(
        self, duty: Duty, ready: Mapping[bytes, tuple[SignedData, Recovery]], signatures: Sequence[bytes | None]
    ) -> None:
        combined: dict[bytes, SignedData] = {}
        for (pubkey, (first, _)), signature in zip(ready.items(), signatures, strict=True):
            if signature is None:
                log.error("Valid partial signatures do not combine: not released", duty=str(duty), pubkey=short(pubkey))
            else:
                combined[pubkey] = first.with_signature(signature)
        signed = await self._recorded(duty, combined)
        if not signed:
            return
        for pubkey, group in signed.items():
            collected = self._collected.get(duty, {}).get(pubkey, Collected())
            collected.group = group
            while collected.waiting:
                collected.waiting.pop().send(group)
        self._on_group(GroupSigned(duty, signed))

    async def _recorded(self, duty: Duty, signed: Mapping[bytes, SignedData]) -> Mapping[bytes, SignedData]:
        """Those of `signed` that are on the slashing record now; the others must not be released."""
        if not signed:
            return signed
        try:
            await self._until_done(duty, lambda: self._record(duty, signed))
        except SlashableFault as fault:
            if len(signed) > 1:  # one of them: the others are not to blame
                parts = [await self._recorded(duty, {pubkey: group}) for pubkey, group in signed.items()]
                return {pubkey: group for part in parts for pubkey, group in part.items()}
            log.error("A threshold signed something slashable: not released", duty=str(duty), reason=str(fault))
            return {}
        return signed

    async def _until_done(self, duty: Duty, attempt: Callable[[], Awaitable[T]]) -> T:
        """The workers or the slashing record may just be restarting: what a threshold has signed is worth asking again.

        Raises: SlashableFault; the last Retryable once the duty's deadline has passed.
        """
        while True:
            try:
                return await attempt()
            except Retryable as moment:
                deadline = deadline_s(duty, self._chain, self._settings.profile)
                if deadline is not None and deadline <= self._wall_clock():
                    raise
                log.warning("A group signature has to wait", duty=str(duty), reason=str(moment))
            await trio.sleep(VERIFY_RETRY_S)

    def _await_group(self, request: AwaitGroupSignature, reply: Reply[SignedData]) -> None:
        if request.pubkey not in self._settings.validators:
            reply.fail(InvalidPartial(request.pubkey, "the validator is not in the lock"))
            return
        try:
            self._gate(request.duty)
        except DutyExpired as expired:
            reply.fail(expired)
            return
        collected = self._collected.setdefault(request.duty, {}).setdefault(request.pubkey, Collected())
        if collected.group is not None:
            reply.send(collected.group)
        else:
            collected.waiting = [waiting for waiting in collected.waiting if not waiting.is_over]
            collected.waiting.append(reply)

    async def _trim(self) -> None:
        while True:
            await trio.sleep(TRIM_INTERVAL_S)
            now = self._wall_clock()
            for duty in list(self._collected):
                deadline = deadline_s(duty, self._chain, self._settings.profile)
                if deadline is not None and deadline <= now:
                    for collected in self._collected.pop(duty).values():
                        for reply in collected.waiting:
                            reply.fail(DutyExpired(f"the deadline of {duty} has passed"))


def encode_message(duty: Duty, share_index: int, partials: Mapping[bytes, SignedData]) -> bytes:
    """ParSigExMsg with a deterministic map order. Source: 05 §10."""
    message = ParSigExMsg()
    message.duty.slot, message.duty.type = duty.slot, duty.type
    message.data_set.SetInParent()
    for pubkey, signed in partials.items():
        entry = message.data_set.set["0x" + pubkey.hex()]
        entry.data, entry.signature, entry.share_idx = signed.encode(), signed.signature, share_index
    return message.SerializeToString(deterministic=True)


def decode_message(encoded: bytes) -> tuple[Duty, int, dict[bytes, SignedData]]:
    """Duty, share index and signed objects by group public key. One share index a message, as every Charon sends it.

    Raises: EncodingFault, also when a required sub-message is absent (06 §4.3) or the duty type is unknown.
    """
    message = ParSigExMsg()
    try:
        message.ParseFromString(encoded)
    except DecodeError as error:
        raise EncodingFault("ParSigExMsg: not a protobuf message") from error
    if not (message.HasField("duty") and message.HasField("data_set")):
        raise EncodingFault("ParSigExMsg: duty or data set is missing")
    try:
        duty = Duty(message.duty.slot, DutyType(message.duty.type))
    except ValueError as error:
        raise EncodingFault(f"ParSigExMsg: unknown duty type {message.duty.type}") from error
    if duty.type not in PERFORMED:
        raise EncodingFault(f"{duty}: this node does not perform {duty.type.label} duties")
    partials: dict[bytes, SignedData] = {}
    share_indices = {entry.share_idx for entry in message.data_set.set.values()}
    if len(share_indices) != 1:
        raise EncodingFault(f"ParSigExMsg: {len(share_indices)} share indices in one message")
    for key, entry in message.data_set.set.items():
        try:
            pubkey = bytes.fromhex(key.removeprefix("0x"))
        except ValueError as error:
            raise EncodingFault("ParSigExMsg: a key is not hexadecimal") from error
        if len(pubkey) != 48:
            raise EncodingFault("ParSigExMsg: a key is not a public key of 48 bytes")
        partials[pubkey] = decode_signed_data(duty.type, entry.data)
    return duty, share_indices.pop(), partials


def carrier(agreeing: Sequence[SignedData]) -> SignedData:
    """The one whose place the group signature takes: an attestation that has its validator index, which some old peers leave out
    and without which it can't be broadcast (05 §11); else the first."""
    for signed in agreeing:
        if isinstance(signed, VersionedAttestation) and signed.validator_index is not None:
            return signed
    return agreeing[0]


def short(pubkey: bytes) -> str:
    """`b82_97f`: how logs name a validator (05 §1)."""
    text = pubkey.hex()
    return f"{text[:3]}_{text[-3:]}"
