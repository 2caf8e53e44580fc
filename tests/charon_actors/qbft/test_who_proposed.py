"""Who is named for a decided value: whoever proposed it first, by signatures, never an honest leader that had to repeat it."""

import pytest

from charon_actors.crypto import k1_public_key
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.profile import Profile
from charon_actors.qbft.machine import Broadcast, Message, MessageType
from charon_actors.qbft.messages import Verifier, encode_message, encode_value, sign_message
from charon_actors.qbft.session import Allowance, Decided, Session
from charon_actors.qbft.timers import round_timer

PRIVATE_KEYS = [bytes([i]) * 32 for i in range(1, 5)]
VERIFIER = Verifier([k1_public_key(key) for key in PRIVATE_KEYS])
DUTY = Duty(4, DutyType.PROPOSER)  # led by 2 in round 1, by 3 in round 2, by 0 in round 3
OWN = 1
SET = {"0x" + "ab" * 48: b"a value of some bytes, so that it has a hash"}
NAMED, VALUE = encode_value(SET)


def signed(source: int, kind: MessageType, round_: int, *justification: Message) -> Message:
    return sign_message(PRIVATE_KEYS[source], DUTY, source, Broadcast(kind, round_, NAMED, justification=justification))


def decided(*messages: Message, is_listening: bool = False) -> Decided:
    """What the session says after these messages, in their order, and a proof that the others have decided in round 2."""
    session = Session(
        DUTY,
        nodes=4,
        own_index=OWN,
        private_key=PRIVATE_KEYS[OWN],
        timer=round_timer(DUTY.type, 0.0, Profile.V1_11),
        allowance=Allowance(4),
        is_listening=is_listening,
    )
    if not is_listening:
        session.start(0.0)
    proof = signed(0, MessageType.DECIDED, 2, *(signed(source, MessageType.COMMIT, 2) for source in (0, 2, 3)))
    for message in (*messages, proof):
        session.offer(VERIFIER.decode(encode_message(message, {NAMED: VALUE})))
    while session.decided is None and session.has_work(0.0):
        session.step(0.0)
    assert session.decided is not None
    assert (session.decided.round, session.decided.leader_index, session.decided.unsigned_data) == (2, 3, SET)
    return session.decided


PREPARED = tuple(signed(source, MessageType.PREPARE, 1) for source in (0, 2, 3))


@pytest.mark.parametrize("is_listening", [False, True])
@pytest.mark.parametrize(
    ("messages", "proposer"),
    [
        ((signed(2, MessageType.PRE_PREPARE, 1),), 2),  # seen in round 1, whatever came of it
        ((signed(3, MessageType.PRE_PREPARE, 2),), 3),
        ((signed(3, MessageType.PRE_PREPARE, 2), signed(2, MessageType.PRE_PREPARE, 1)), 2),
        ((signed(2, MessageType.PRE_PREPARE, 1), signed(3, MessageType.PRE_PREPARE, 2)), 2),
        ((signed(3, MessageType.PRE_PREPARE, 2, *PREPARED),), 2),  # it had to: a quorum had prepared it (J2)
        ((signed(3, MessageType.PRE_PREPARE, 2, *PREPARED[:2]),), 3),  # two may be the liar and somebody misled: no proof
        ((signed(3, MessageType.PRE_PREPARE, 2, *PREPARED[:2], PREPARED[1]),), 3),
        ((signed(0, MessageType.PRE_PREPARE, 1), signed(0, MessageType.PRE_PREPARE, 2)), None),  # didn't lead
        ((PREPARED[0],), None),
        ((), None),  # we have only heard of the decision
    ],
)
def test_the_first_leader_that_proposed_the_value_is_named(
    messages: tuple[Message, ...], proposer: int | None, is_listening: bool
) -> None:
    assert decided(*messages, is_listening=is_listening).proposer_index == proposer


def test_a_decision_of_round_1_has_one_possible_proposer() -> None:
    session = Session(
        DUTY,
        nodes=4,
        own_index=OWN,
        private_key=PRIVATE_KEYS[OWN],
        timer=round_timer(DUTY.type, 0.0, Profile.V1_11),
        allowance=Allowance(4),
        is_listening=True,
    )
    for source in (0, 2, 3):
        session.offer(VERIFIER.decode(encode_message(signed(source, MessageType.COMMIT, 1), {NAMED: VALUE})))
        session.step(0.0)
    assert session.decided is not None
    assert session.decided.proposer_index == 2
