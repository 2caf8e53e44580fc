"""Signatures: collects partial signatures of a duty until a threshold of shares makes a group signature.

Accepts     SubmitPartials, AwaitGroupSignature (ask) · PeerPartials (tell)
Emits       GroupSigned to the `on_group` it was made with, each validator of a duty once
Owns        partial signatures by duty, group public key and share index, until the duty's deadline
May touch   the peer mesh (own partials go to every peer), the slashing guard, the verifier of signatures, whoever knows the proposers
            and the decided blocks. Not: the beacon node
Mailbox     1024, policy `wait`; the peers' messages move on at once into queues of their own (`peers.py`)
Cancelled   a verification that is cut off leaves nothing behind; what was stored stays stored
Restart     starts empty: partials of duties in flight are lost with the incarnation, askers get ActorDown and may ask again
Source      specification 05-core-workflow §9 to §12, 07 §4.1

The way of a partial signature, own or a peer's, is the same, and every step fails closed:

    1 gate      the duty's type is one that this node performs, its epoch at most two ahead (a block's slot one), its deadline not passed
    2 match     the validator is in the lock, the share is its sender's, the object can be one of that duty (`partial.py`), a block is
                the one that the cluster has decided (`blocks.py`)
    3 verify    the signature, against that share's public key
    4 guard     own signatures only: the slashing record of this share is on disk before anything leaves
    5 store     the first one of a share stays; an equal repeat is ignored, a different one refused
    6 combine   `threshold` shares with one signing root: interpolate, verify against the group public key, record it for the group
                in the slashing guard, emit; what comes later is counted and not verified any more

A validator's fault never touches another validator of the same message, nor a peer's fault another peer.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar, assert_never

import trio

from actors.change_log import ChangeLog
from actors.crypto_workers import Recovery, recover_chunk
from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Address, Inbox, Reply
from actors.off_loop import Elsewhere, OffLoop
from actors.signatures.blocks import AgreedBlock, Blocks
from actors.signatures.facts import PartialsStored
from actors.signatures.messages import (
    REFUSALS,
    AwaitGroupSignature,
    Collected,
    DutyExpired,
    GroupSigned,
    InvalidPartial,
    Message,
    PeerPartials,
    Settings,
    SubmitPartials,
)
from actors.signatures.peers import Peers, Verifier
from actors.slashing import AttestationEntry, BlockEntry, Guard, Listening, SlashableFault
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.duty import ROWS, Duty, is_over, refusal
from charon_actors.eth2.signed_data import SignedData, SignedProposal, VersionedAttestation
from charon_actors.signatures.partial import UNREADABLE, Partial, carrier, with_root
from charon_actors.signatures.wire import PROTOCOL, encode_partials_message

log = get_logger("sigagg")
T = TypeVar("T")

MAX_DUTIES: Final = 4096  # two epochs of all performed types, with room for a chain of long epochs
TRIM_INTERVAL_S: Final = 1.0
RETRY_S: Final = 0.1
WARN_INTERVAL_S: Final = 10.0  # of the same reason to wait: a full disk would fill the log as well

Recoverer = Callable[[Sequence[Recovery]], Awaitable[Sequence[bytes | None]]]


async def recover_here(recoveries: Sequence[Recovery]) -> Sequence[bytes | None]:
    """In the event loop: some 2 ms each."""
    return recover_chunk(recoveries)


async def nobody_can_tell(slot: int, pubkey: bytes) -> bool:
    """Takes every validator of the lock for a possible proposer."""
    return True


class Signatures:
    """One incarnation. verify_all, recover: for a batch, off the event loop or on it. broadcast: queues bytes for every peer.

    may_propose(slot, group public key): whether that validator proposes there; True while nobody can tell.
    agreed_block: of a slot, waits for it, None if there will be none, may raise Retryable.
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
        agreed_block: AgreedBlock,
        off_loop: OffLoop | None = None,
        may_propose: Callable[[int, bytes], Awaitable[bool]] = nobody_can_tell,
        on_fact: OnFact = unheard,
    ) -> None:
        self._settings, self._chain = settings, settings.chain
        self._verify_all, self._recover, self._guard, self._broadcast = verify_all, recover, guard, broadcast
        self._on_group, self._wall_clock, self._on_fact = on_group, wall_clock, on_fact
        self._blocks = Blocks(settings.chain, agreed_block, off_loop or Elsewhere(), self._is_over)
        self._collected: dict[Duty, dict[bytes, Collected]] = {}
        self._warnings = ChangeLog(repeat_s=WARN_INTERVAL_S)
        self._peers = Peers(
            settings,
            gate=self._gate,
            is_over=self._is_over,
            collected=lambda duty, pubkey: self._collected.get(duty, {}).get(pubkey),
            store=self._store,
            verify_all=verify_all,
            may_propose=may_propose,
            blocks=self._blocks,
            on_fact=on_fact,
        )
        self._nursery: trio.Nursery

    async def run(self, inbox: Inbox[Message]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._trim)
            async for mail in inbox:
                match mail.message:
                    case SubmitPartials() as own:
                        nursery.start_soon(partial(mail.reply_to(own).answer, self._submit, own, errors=REFUSALS))
                    case PeerPartials(peer_index, message):
                        self._peers.put(peer_index, message, nursery)
                    case AwaitGroupSignature() as request:
                        self._await_group(request, mail.reply_to(request))
                    case unknown:
                        assert_never(unknown)
            nursery.cancel_scope.cancel()

    async def _submit(self, own: SubmitPartials) -> None:
        self._gate(own.duty)
        share_index = self._settings.own_share_index
        partials = {pubkey: await self._own_partial(own.duty, pubkey, signed) for pubkey, signed in own.partials.items()}
        checks = [Check(self._public_share(pubkey), item.signing_root, item.signature) for pubkey, item in partials.items()]
        for pubkey, is_valid in zip(partials, await self._verify_all(checks), strict=True):
            if not is_valid:
                raise InvalidPartial(pubkey, "the partial signature does not verify against this node's share of the key")
        await self._record(own.duty, {self._public_share(pubkey): item for pubkey, item in partials.items()})
        self._broadcast((PROTOCOL,), encode_partials_message(own.duty, share_index, own.partials))
        self._store(own.duty, share_index, partials)

    async def _own_partial(self, duty: Duty, pubkey: bytes, signed: SignedData) -> Partial:
        share_index = self._settings.own_share_index
        validator = self._settings.validators.get(pubkey)
        if validator is None:
            raise InvalidPartial(pubkey, "the validator is not in the lock")
        if share_index not in validator.public_shares:
            raise InvalidPartial(pubkey, f"the lock has no share {share_index}")
        collected = self._collected.get(duty, {}).get(pubkey, Collected())
        if share_index in collected.partials and collected.partials[share_index].signed != signed:
            raise InvalidPartial(pubkey, f"this share has signed something else for duty {duty} before")
        try:
            if isinstance(signed, SignedProposal):
                return await self._blocks.own(signed, duty)
            return with_root(signed, duty, self._chain)
        except UNREADABLE as fault:
            raise InvalidPartial(pubkey, str(fault)) from None

    def _gate(self, duty: Duty) -> None:
        if (reason := refusal(duty, self._chain, self._settings.profile, self._wall_clock())) is not None:
            raise DutyExpired(reason)
        ahead = ROWS[duty.type].signed_slots_ahead
        if ahead is not None and duty.slot > self._chain.slot_at(self._wall_clock()) + ahead:
            raise DutyExpired(f"{duty}: nothing is agreed on before its slot")
        if duty not in self._collected and len(self._collected) >= MAX_DUTIES:
            raise DutyExpired(f"{duty}: {MAX_DUTIES} duties are being collected already")

    def _is_over(self, duty: Duty) -> bool:
        return is_over(duty, self._chain, self._settings.profile, self._wall_clock())

    def _public_share(self, pubkey: bytes) -> bytes:
        return self._settings.validators[pubkey].public_shares[self._settings.own_share_index]

    async def _record(self, duty: Duty, signed_by_key: Mapping[bytes, Partial]) -> None:
        """Have the slashing guard record what these keys sign, on disk. Raises: SlashableFault."""
        entries: list[BlockEntry | AttestationEntry] = []
        for key, item in signed_by_key.items():
            root = item.signing_root
            match item.signed:
                case SignedProposal():
                    entries.append(BlockEntry(pubkey=key, signing_root=root, slot=duty.slot))
                case VersionedAttestation(data=data):
                    entries.append(
                        AttestationEntry(
                            pubkey=key, signing_root=root, source_epoch=data.source_epoch, target_epoch=data.target_epoch
                        )
                    )
        if entries:
            await self._guard.ask(Guard(entries=tuple(entries)))

    def _store(self, duty: Duty, share_index: int, partials: Mapping[bytes, Partial]) -> None:
        if not partials:
            return
        self._on_fact(PartialsStored(duty, share_index, len(partials)))
        log.debug("Partial signatures stored", duty=str(duty), share_index=share_index, validators=len(partials))
        ready: dict[bytes, tuple[Partial, Recovery]] = {}
        for pubkey, mine in partials.items():
            collected = self._collected.setdefault(duty, {}).setdefault(pubkey, Collected())
            if collected.partials.setdefault(share_index, mine) is not mine or collected.is_combined:
                continue
            root = mine.signing_root
            agreeing = {index: other for index, other in sorted(collected.partials.items()) if other.signing_root == root}
            if len(agreeing) >= self._settings.threshold:
                collected.is_combined = True
                recovery = Recovery(pubkey, root, {index: other.signature for index, other in agreeing.items()})
                ready[pubkey] = (Partial(carrier(agreeing, self._settings.own_share_index), root), recovery)
        if ready:
            self._nursery.start_soon(self._combine, duty, ready)

    async def _combine(self, duty: Duty, ready: Mapping[bytes, tuple[Partial, Recovery]]) -> None:
        """Make group signatures, each verified against its group public key; record them; release them."""
        recoveries = [recovery for _, recovery in ready.values()]
        try:
            signatures = await self._until_done(duty, lambda: self._recover(recoveries))
            await self._release(duty, ready, signatures)
        except Listening as listening:  # others release it, who know what was signed before
            log.info("A group signature is not released by this node", duty=str(duty), reason=str(listening))
        except Retryable as moment:
            log.error("A group signature was not released in time", duty=str(duty), reason=str(moment))

    async def _release(
        self, duty: Duty, ready: Mapping[bytes, tuple[Partial, Recovery]], signatures: Sequence[bytes | None]
    ) -> None:
        combined: dict[bytes, Partial] = {}
        for (pubkey, (carrying, _)), signature in zip(ready.items(), signatures, strict=True):
            if signature is None:
                log.error("Valid partial signatures do not combine: not released", duty=str(duty), pubkey=short(pubkey))
            else:
                combined[pubkey] = Partial(carrying.signed.with_signature(signature), carrying.signing_root)
        signed = await self._recorded(duty, combined)
        if not signed:
            return
        groups = {pubkey: item.signed for pubkey, item in signed.items()}
        for pubkey, group in groups.items():
            collected = self._collected.get(duty, {}).get(pubkey, Collected())
            collected.group = group
            while collected.waiting:
                collected.waiting.pop().send(group)
        self._on_group(GroupSigned(duty, groups))

    async def _recorded(self, duty: Duty, signed: Mapping[bytes, Partial]) -> Mapping[bytes, Partial]:
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

        Raises: SlashableFault, Listening; the last Retryable once the duty's deadline has passed.
        """
        while True:
            try:
                return await attempt()
            except Listening:
                raise
            except Retryable as moment:
                if self._is_over(duty):
                    raise
                if self._warnings.is_due(str(moment), trio.current_time()):
                    log.warning("A group signature has to wait", duty=str(duty), reason=str(moment))
            await trio.sleep(RETRY_S)

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
            self._peers.trim()
            self._blocks.trim()
            for duty in [duty for duty in self._collected if self._is_over(duty)]:
                for collected in self._collected.pop(duty).values():
                    for reply in collected.waiting:
                        reply.fail(DutyExpired(f"the deadline of {duty} has passed"))


def short(pubkey: bytes) -> str:
    """`b82_97f`: how logs name a validator (05 §1)."""
    text = pubkey.hex()
    return f"{text[:3]}_{text[-3:]}"
