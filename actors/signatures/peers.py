"""The peers' partial signatures, on their way to the store: one queue and one task a peer, so that a peer delays only itself.

Theory of operation. A message waits in its peer's queue; the peer's task takes it out and goes through it, the cheap checks first:

    0 door       not too long for so many validators; a block's duty through the gate, and it is the first one of that peer and slot;
                 else it isn't queued
    1 outside    share and sender belong together, duty through the gate, a proposal only where the cluster proposes
    2 entry      the validator is in the lock; the entry is not a repeat, not one of too many, not one that is needed no more
    3 inside     decoded, of that duty, its root (partial.py); a block is compared with the decided one instead (blocks.py)
    4 signature  of what is in the queue up to CHECKS_A_BATCH as one batch: a peer's bad signatures cost only its own good ones time

A block waits for the decision in a task of its own, one a peer and slot, so that the peer's votes don't wait behind it.

What fails at 1 is refused as a message, what fails at 2 to 4 as an entry. Peers don't repeat themselves, so what couldn't be verified
for the moment (the workers are being restarted) is tried again until its deadline.

A partial signature counts only when its own share's peer sent it. No release passes on what others signed, and whoever did could change
what the signature doesn't cover (partial.py) in all of them.

Limits: QUEUED_MESSAGES and QUEUED_BYTES a peer; VARIANTS different entries a peer, duty and validator; one block a peer and slot, of
MAX_BLOCK_MESSAGE_BYTES; SEEN_A_VALIDATOR times the validators (but SEEN_AT_LEAST) a peer in all; ASK_LIMIT_S; one warning a peer and
kind every WARNING_INTERVAL_S, which counts what it left out.
Source: specification 05 §10.2, §21.2.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from actors.facts import OnFact
from actors.log import get_logger
from actors.signatures.blocks import Blocks
from actors.signatures.facts import PartialsStored, PartialsVerified
from actors.signatures.messages import Collected, DutyExpired, InvalidPartial, Settings
from charon_actors.bounded_json import BLOCK_BYTES, KIB, list_of
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed_data import EncodingFault
from charon_actors.share_index import share_index_of
from charon_actors.signatures.partial import MAX_SMALL_BYTES, UNREADABLE, Partial, read_partial
from charon_actors.signatures.wire import MAX_MESSAGE_BYTES, NotPerformed, decode_message, peek_duty

log = get_logger("parsigex")

QUEUED_MESSAGES: Final = 1024  # some validator clients submit one by one
QUEUED_BYTES: Final = MAX_MESSAGE_BYTES
CHECKS_A_BATCH: Final = 64
ENTRIES_A_PIECE: Final = 16  # decoded between two checkpoints, some 50 µs each
VARIANTS: Final = 4
MAX_BLOCK_MESSAGE_BYTES: Final = BLOCK_BYTES + 4 * KIB  # the block, and a message of one entry around it
SEEN_A_VALIDATOR: Final = 16  # honest: an attestation an epoch, kept for an epoch, and a proposal now and then
SEEN_AT_LEAST: Final = 4096
ASK_LIMIT_S: Final = 0.25  # the duties actor may wait for an epoch that is just being read
SPARE_VALIDATORS: Final = 1024  # of a peer whose cluster has got more validators than our lock
VERIFY_RETRY_S: Final = 0.1
WARNING_INTERVAL_S: Final = 30.0

Verifier = Callable[[Sequence[Check]], Awaitable[Sequence[bool]]]


class ReadSet(msgspec.Struct, frozen=True):
    """What of a peer's message is worth verifying, by group public key."""

    duty: Duty
    share_index: int
    partials: Mapping[bytes, Partial]


class Peers:
    """One incarnation, running inside the actor's nursery.

    gate: raises DutyExpired. is_over: the deadline has passed. collected: what the store has of a duty and validator.
    store: takes what was verified. verify_all, may_propose, on_fact: as of the actor. blocks: the decided ones.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        gate: Callable[[Duty], None],
        is_over: Callable[[Duty], bool],
        collected: Callable[[Duty, bytes], Collected | None],
        store: Callable[[Duty, int, Mapping[bytes, Partial]], None],
        verify_all: Verifier,
        may_propose: Callable[[int, bytes], Awaitable[bool]],
        blocks: Blocks,
        on_fact: OnFact,
    ) -> None:
        self._settings, self._gate, self._is_over = settings, gate, is_over
        self._collected, self._store, self._verify_all, self._may_propose = collected, store, verify_all, may_propose
        self._on_fact, self._blocks = on_fact, blocks
        self._max_list_bytes = list_of(len(settings.validators) + SPARE_VALIDATORS).max_bytes
        self._queues: dict[int, Queue] = {}
        self._seen: dict[int, Seen] = {}
        self._warn = Warnings()

    def put(self, peer_index: int, message: bytes, nursery: trio.Nursery) -> None:
        """Never waits; what finds its peer's queue full is dropped. A peer's task begins in `nursery` with its first message."""
        queue = self._queues.get(peer_index)
        if queue is None:
            queue = self._queues[peer_index] = Queue()
            limit = max(SEEN_AT_LEAST, SEEN_A_VALIDATOR * len(self._settings.validators))
            self._seen[peer_index] = Seen(limit)
            nursery.start_soon(self._serve, peer_index, queue, nursery, name=f"partial signatures of peer {peer_index}")
        duty = peek_duty(message)
        if duty is not None and duty.type is DutyType.PROPOSER:
            if not self._may_enter(peer_index, duty, len(message)):
                return
        elif len(message) > self._max_list_bytes:
            self._warn(peer_index, "Partial signatures of a peer dropped unseen", bytes=len(message))
            return
        if not queue.put(message):
            self._warn(peer_index, "Too many partial signatures of a peer wait, a set is dropped")

    def _may_enter(self, peer_index: int, duty: Duty, size: int) -> bool:
        """Step 0, for a message with a block."""
        try:
            self._gate(duty)
            if size > MAX_BLOCK_MESSAGE_BYTES:
                raise InvalidBlock(f"a block in a message of {size} bytes")
            return self._seen[peer_index].is_first_block(duty, size)
        except DutyExpired as ordinary:
            log.debug("Partial signatures of a peer refused", peer_index=peer_index, reason=str(ordinary))
        except InvalidBlock as fault:
            self._warn(peer_index, "Block of a peer dropped unseen", duty=str(duty), reason=str(fault))
        return False

    def trim(self) -> None:
        """Forget what was seen of duties that are over."""
        for seen in self._seen.values():
            seen.forget(self._is_over)

    async def _serve(self, peer_index: int, queue: "Queue", nursery: trio.Nursery) -> None:
        while True:
            message: bytes | None = await queue.take()
            sets: list[ReadSet] = []
            while message is not None:
                read = await self._read(peer_index, message, nursery)
                if read is not None:
                    sets.append(read)
                message = queue.take_nowait() if sum(len(each.partials) for each in sets) < CHECKS_A_BATCH else None
            await self._verify(peer_index, sets)

    async def _read(self, peer_index: int, message: bytes, nursery: trio.Nursery) -> ReadSet | None:
        """Steps 1 to 3. None: there is nothing to verify, or not yet."""
        try:
            duty, share_index, entries = decode_message(message, len(self._settings.validators) + SPARE_VALIDATORS)
            self._gate(duty)
            if duty.type is DutyType.PROPOSER and duty != peek_duty(message):  # it would have come in by another door
                raise EncodingFault("two duties in one message")
        except (NotPerformed, DutyExpired) as ordinary:
            log.debug("Partial signatures of a peer refused", peer_index=peer_index, reason=str(ordinary))
            return None
        except EncodingFault as fault:
            self._warn(peer_index, "Partial signatures of a peer can't be read", reason=str(fault))
            return None
        if reason := await self._refusal(peer_index, duty, share_index, entries):
            self._warn(peer_index, "Partial signatures of a peer refused", duty=str(duty), reason=reason)
            return None
        if duty.type is DutyType.PROPOSER:
            [(pubkey, data)] = entries.items()
            await self._look(peer_index, duty, share_index, pubkey, data, nursery)
            return None
        partials: dict[bytes, Partial] = {}
        late = 0
        for place, (pubkey, data) in enumerate(entries.items(), 1):
            try:
                self._check_member(pubkey, share_index)
                if not self._seen[peer_index].is_new(duty, pubkey, data):
                    raise NotNeeded
                self._check_needed(duty, pubkey, share_index)
                partials[pubkey] = read_partial(data, duty, self._settings.chain)
            except NotNeeded as why:
                late += why.is_late
            except InvalidPartial as invalid:
                self._warn(peer_index, "Partial signature of a peer refused", duty=str(duty), reason=str(invalid))
            except UNREADABLE as fault:
                self._warn(peer_index, "Partial signature of a peer can't be read", duty=str(duty), reason=str(fault))
            if place % ENTRIES_A_PIECE == 0:
                await trio.lowlevel.checkpoint()
        if late:
            self._on_fact(PartialsStored(duty, share_index, late))
        return ReadSet(duty, share_index, partials) if partials else None

    async def _refusal(self, peer_index: int, duty: Duty, share_index: int, entries: Mapping[bytes, bytes]) -> str | None:
        """Why the message as a whole isn't welcome."""
        if share_index != share_index_of(peer_index):  # 05 §1
            return f"share {share_index} is not this peer's"
        if duty.type is not DutyType.PROPOSER:
            return None
        if len(entries) != 1:
            return f"{len(entries)} validators propose in one slot"
        with trio.move_on_after(ASK_LIMIT_S):
            if not await self._may_propose(duty.slot, next(iter(entries))):
                return "that validator does not propose in this slot"
        return None

    def _check_member(self, pubkey: bytes, share_index: int) -> None:
        """Raises: InvalidPartial."""
        validator = self._settings.validators.get(pubkey)
        if validator is None:
            raise InvalidPartial(pubkey, "the validator is not in the lock")
        if share_index not in validator.public_shares:
            raise InvalidPartial(pubkey, f"the lock has no share {share_index}")

    def _check_needed(self, duty: Duty, pubkey: bytes, share_index: int) -> None:
        """Raises: InvalidPartial, NotNeeded."""
        collected = self._collected(duty, pubkey)
        if collected is None:
            return
        if share_index in collected.partials:
            raise InvalidPartial(pubkey, f"share {share_index} signed two different things")
        if collected.is_combined:
            raise NotNeeded(is_late=True)  # the group has signed: nobody needs this one, so its pairing is saved

    async def _look(
        self, peer_index: int, duty: Duty, share_index: int, pubkey: bytes, data: bytes, nursery: trio.Nursery
    ) -> None:
        """A block: keep what is compared later, forget its bytes."""

        async def match() -> None:
            try:
                found = await self._blocks.match(look, duty, nursery)
                if found is None:
                    return
                self._check_needed(duty, pubkey, share_index)
            except NotNeeded:
                self._on_fact(PartialsStored(duty, share_index, 1))
            except (InvalidPartial, Retryable, *UNREADABLE) as fault:
                self._warn(peer_index, "Block of a peer refused", duty=str(duty), reason=str(fault))
            else:
                await self._verify(peer_index, [ReadSet(duty, share_index, {pubkey: found})])

        try:
            self._check_member(pubkey, share_index)
            self._check_needed(duty, pubkey, share_index)
            look = await self._blocks.look(data, duty)
        except NotNeeded:
            self._on_fact(PartialsStored(duty, share_index, 1))
        except (InvalidPartial, *UNREADABLE) as fault:
            self._warn(peer_index, "Block of a peer can't be read", duty=str(duty), reason=str(fault))
        else:
            nursery.start_soon(match, name=f"block of peer {peer_index}, {duty}")

    async def _verify(self, peer_index: int, sets: Sequence[ReadSet]) -> None:
        """Step 4, and store what is valid."""
        while sets := [each for each in sets if not self._is_over(each.duty)]:
            checks = [
                Check(self._settings.validators[pubkey].public_shares[each.share_index], item.signing_root, item.signature)
                for each in sets
                for pubkey, item in each.partials.items()
            ]
            began_s = trio.current_time()
            try:
                verdicts = iter(await self._verify_all(checks))
            except Retryable as moment:
                self._warn(peer_index, "Partial signatures could not be verified, trying again", reason=str(moment))
                await trio.sleep(VERIFY_RETRY_S)
                continue
            took_s = trio.current_time() - began_s
            for each in sets:
                valid = {pubkey: item for pubkey, item in each.partials.items() if next(verdicts)}
                self._on_fact(PartialsVerified(each.duty.type, took_s))
                if len(valid) < len(each.partials):
                    self._warn(
                        peer_index, "Invalid partial signature of a peer", duty=str(each.duty), share_index=each.share_index
                    )
                self._store(each.duty, each.share_index, valid)
            return


class NotNeeded(Exception):
    """An entry that changes nothing. is_late: the group has signed already."""

    def __init__(self, *, is_late: bool = False) -> None:
        super().__init__()
        self.is_late = is_late


class InvalidBlock(Exception):
    """A block that nobody looks at."""


class Queue:
    """One peer's messages in their order, bounded in number and bytes."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](QUEUED_MESSAGES)
        self._bytes = 0

    def put(self, message: bytes) -> bool:
        """False: there is no room."""
        if self._bytes + len(message) > QUEUED_BYTES:
            return False
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            return False
        self._bytes += len(message)
        return True

    async def take(self) -> bytes:
        """Waits. Cancelled: nothing is lost."""
        message = await self._receive.receive()
        self._bytes -= len(message)
        return message

    def take_nowait(self) -> bytes | None:
        try:
            message = self._receive.receive_nowait()
        except trio.WouldBlock:
            return None
        self._bytes -= len(message)
        return message


class Seen:
    """Which entries of one peer have been looked at, by their hashes: a collision costs that peer alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._count = limit, 0
        self._variants: dict[Duty, dict[bytes, set[int]]] = {}
        self._blocks: dict[Duty, int] = {}  # how long the message was

    def is_new(self, duty: Duty, pubkey: bytes, data: bytes) -> bool:
        """Whether to look at this one; then it counts. Raises: InvalidPartial (too many)."""
        variants = self._variants.get(duty, {}).get(pubkey, set())
        if len(variants) >= VARIANTS or self._count >= self._limit:
            raise InvalidPartial(pubkey, "too many different partial signatures")
        if (fingerprint := hash(data[: MAX_SMALL_BYTES + 1])) in variants:
            return False
        self._variants.setdefault(duty, {}).setdefault(pubkey, variants).add(fingerprint)
        self._count += 1
        return True

    def is_first_block(self, duty: Duty, size: int) -> bool:
        """Whether to look at a message with a block of `size` bytes; then it counts. False for what may be the first one again.

        Raises: InvalidBlock, for a second one.
        """
        known = self._blocks.get(duty)
        if known is None:
            self._blocks[duty] = size
            return True
        if known == size:
            return False
        raise InvalidBlock("there was another one of this peer and slot before")

    def forget(self, is_over: Callable[[Duty], bool]) -> None:
        for duty in [duty for duty in self._blocks if is_over(duty)]:
            del self._blocks[duty]
        for duty in [duty for duty in self._variants if is_over(duty)]:
            self._count -= sum(len(variants) for variants in self._variants.pop(duty).values())


class Warnings:
    """Log lines about peers, one a peer and kind in WARNING_INTERVAL_S; the next one says how many were left out."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, str], tuple[float, int]] = {}

    def __call__(self, peer_index: int, event: str, **details: str | int) -> None:
        last_s, left_out = self._last.get((peer_index, event), (-math.inf, 0))
        if trio.current_time() - last_s < WARNING_INTERVAL_S:
            self._last[peer_index, event] = last_s, left_out + 1
            return
        self._last[peer_index, event] = trio.current_time(), 0
        log.warning(event, peer_index=peer_index, left_out=left_out, **details)
