"""Peers that flood, repeat themselves or lie: what they can cost the others, and the log."""

from collections.abc import Sequence

import pytest
import structlog.testing
import trio
import trio.testing

from actors.mailbox import ActorDown
from actors.signatures import PeerPartials, SubmitPartials
from actors.signatures.peers import QUEUED_BYTES, QUEUED_MESSAGES, VARIANTS, WARNING_INTERVAL_S, Queue
from charon_actors.crypto import Check, public_key
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed_data import SignedData
from charon_actors.signatures.wire import encode_partials_message
from tests.actors.signatures.rig import node, settle, tell, verify_here
from tests.charon_actors.signatures.signed import DUTY, SLOT, attestation, keys


def message(share_index: int, signed: SignedData, *, duty: Duty = DUTY) -> bytes:
    return encode_partials_message(duty, share_index, {keys()[0]: signed})


def forged(number: int, *, share_index: int = 4) -> SignedData:
    """Different each time, and none of them valid."""
    return attestation(share_index, sign_with=1, validator_index=number)


def share_of(share_index: int) -> bytes:
    return public_key(keys()[1][share_index])


async def test_a_peer_whose_verification_hangs_delays_nobody_else() -> None:
    async def hangs_for_share_4(checks: Sequence[Check]) -> Sequence[bool]:
        if any(check.public_key == share_of(4) for check in checks):
            await trio.sleep_forever()
        return await verify_here(checks)

    async with node() as this:
        this.verifier = hangs_for_share_4
        for number in range(2000):
            this.address.tell(PeerPartials(3, message(4, forged(number % 3, share_index=4))))
            if number % 100 == 0:
                await trio.testing.wait_all_tasks_blocked()
        await tell(this, 2, attestation(2))
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        await tell(this, 3, attestation(3))
        assert len(this.groups) == 1


async def test_repeats_and_too_many_variants_are_not_looked_at() -> None:
    checked: list[bytes] = []

    async def counting(checks: Sequence[Check]) -> Sequence[bool]:
        checked.extend(check.signature for check in checks)
        return await verify_here(checks)

    async with node() as this:
        this.verifier = counting
        for number in [0] * 50 + list(range(20)) * 3:
            this.address.tell(PeerPartials(3, message(4, forged(number))))
        await settle(this)
        assert len(checked) == VARIANTS
        await tell(this, 4, attestation(4))  # a peer that lied so often is not listened to in this duty,
        assert this.stored == []
        other = Duty(SLOT + 1, DutyType.ATTESTER)  # but in others it is
        await tell(this, 4, attestation(4, slot=SLOT + 1), duty=other)
        assert [duty for duty, _, _ in this.stored] == [other]


async def test_a_repeat_of_what_was_accepted_is_nothing_to_talk_about() -> None:
    async with node() as this:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await tell(this, 2, attestation(2))
        assert this.stored == [(DUTY, 2, 1)]
        assert [line for line in logs if line["log_level"] == "warning"] == []


async def test_what_was_seen_is_forgotten_with_the_duty(autojump_clock: trio.testing.MockClock) -> None:
    async with node() as this:
        for number in range(VARIANTS):
            await tell(this, 4, forged(number))
        now, this.now = this.now, this.now + 400 * 12
        await trio.sleep(2)  # a duty that nothing was stored for is trimmed as well
        this.now = now
        await tell(this, 4, attestation(4))
        assert this.stored == [(DUTY, 4, 1)]


async def test_warnings_about_a_peer_are_few_and_say_what_they_left_out(autojump_clock: trio.testing.MockClock) -> None:
    def warnings(logs: Sequence[structlog.typing.EventDict]) -> list[tuple[int, str, int]]:
        return [(line["peer_index"], line["event"], line["left_out"]) for line in logs if line["log_level"] == "warning"]

    async with node() as this:
        with structlog.testing.capture_logs() as logs:
            for _ in range(100):
                this.address.tell(PeerPartials(3, b"no message"))
            this.address.tell(PeerPartials(2, b"no message"))
            await settle(this)
        unreadable = "Partial signatures of a peer can't be read"
        assert sorted(warnings(logs)) == [(2, unreadable, 0), (3, unreadable, 0)]
        await trio.sleep(WARNING_INTERVAL_S)
        with structlog.testing.capture_logs() as logs:
            this.address.tell(PeerPartials(3, b"no message"))
            await settle(this)
        assert warnings(logs) == [(3, unreadable, 99)]


async def test_duties_that_this_node_does_not_perform_are_nothing_to_warn_about() -> None:
    async with node() as this:
        with structlog.testing.capture_logs() as logs:
            await tell(this, 2, attestation(2), duty=Duty(SLOT, DutyType.AGGREGATOR))
            await tell(this, 2, attestation(2, slot=SLOT - 24), duty=Duty(SLOT - 24, DutyType.ATTESTER))
        assert {line["log_level"] for line in logs} == {"debug"}


async def test_verification_is_tried_again_while_the_workers_are_being_restarted(autojump_clock: trio.testing.MockClock) -> None:
    failures = 5

    async def moody(checks: Sequence[Check]) -> Sequence[bool]:
        nonlocal failures
        if failures:
            failures -= 1
            raise ActorDown("crypto_workers")
        return await verify_here(checks)

    async with node() as this:
        this.verifier = moody
        await tell(this, 2, attestation(2))
        await trio.sleep(1)
        assert this.stored == [(DUTY, 2, 1)]


async def test_verification_ends_with_the_deadline_and_the_next_duty_is_served(autojump_clock: trio.testing.MockClock) -> None:
    async def down(checks: Sequence[Check]) -> Sequence[bool]:
        raise ActorDown("crypto_workers")

    async with node() as this:
        this.verifier = down
        await tell(this, 2, attestation(2))
        this.now += 400 * 12
        await trio.sleep(1)
        this.verifier = verify_here
        later = SLOT + 400
        await tell(this, 2, attestation(2, slot=later), duty=Duty(later, DutyType.ATTESTER))
        assert [duty.slot for duty, _, _ in this.stored] == [later]


async def test_the_time_of_each_sets_verification_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(checks: Sequence[Check]) -> Sequence[bool]:
        await trio.sleep(0.25)
        return await verify_here(checks)

    async with node() as this:
        this.verifier = slow
        await tell(this, 2, attestation(2))
        await tell(this, 3, attestation(3, sign_with=1))
        await trio.sleep(1)
        assert [duty_type for duty_type, _ in this.verified] == [DutyType.ATTESTER] * 2
        assert [seconds for _, seconds in this.verified] == pytest.approx([0.25] * 2)


async def test_what_comes_one_by_one_is_verified_together() -> None:
    batches: list[int] = []

    async def counting(checks: Sequence[Check]) -> Sequence[bool]:
        batches.append(len(checks))
        await trio.testing.wait_all_tasks_blocked()
        return await verify_here(checks)

    async with node(validators=6) as this:
        this.verifier = counting
        for validator in range(6):
            signed = attestation(2, validator=validator)
            this.address.tell(PeerPartials(1, encode_partials_message(DUTY, 2, {keys(validator)[0]: signed})))
        await settle(this)
        assert sum(count for _, _, count in this.stored) == 6
        assert len(batches) <= 2


async def test_a_full_queue_takes_nothing_more_until_something_is_taken() -> None:
    queue = Queue()
    assert [queue.put(b"x") for _ in range(QUEUED_MESSAGES + 1)] == [True] * QUEUED_MESSAGES + [False]
    assert await queue.take() == b"x"
    assert queue.put(b"y")
    large = Queue()
    half = bytes(QUEUED_BYTES // 2)
    assert [large.put(half) for _ in range(3)] == [True, True, False]
    assert large.take_nowait() == half
    assert large.put(half)
    assert queue.take_nowait() == b"x"
    assert Queue().take_nowait() is None


async def test_an_unknown_validator_does_not_spoil_the_others_of_a_message() -> None:
    async with node() as this:
        both = {keys(v)[0]: attestation(2, validator=v) for v in (0, 7)}
        this.address.tell(PeerPartials(1, encode_partials_message(DUTY, 2, both)))
        await settle(this)
        assert this.stored == [(DUTY, 2, 1)]
