"""core/parsigex_messages.json through the actor that receives such messages: what is stored, what makes a group signature, and what of
the negatives is refused; and our own messages, byte for byte those that two Charon versions decode."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio.testing

from actors.facts import Fact
from actors.mailbox import Address, Inbox, Mailbox, open_actor
from actors.signatures import (
    AwaitGroupSignature,
    GroupSigned,
    Message,
    PartialsStored,
    PeerPartials,
    Settings,
    Signatures,
    ValidatorShares,
)
from actors.slashing.actor import Guard
from charon_actors.crypto import Check, public_key, recover_secret, sign, verify_all
from charon_actors.eth2.duty import PERFORMED, Duty, DutyType
from charon_actors.eth2.signed_data import EncodingFault, SignedData, decode_signed_data
from charon_actors.p2p.protobuf.core_pb2 import ParSigExMsg
from charon_actors.signatures.wire import decode_message, encode_partials_message
from tests.actors.beacon.vector import vector
from tests.charon_actors.eth2.test_encodings import MAINNET

VECTOR = vector("core/parsigex_messages.json")
CLUSTER = VECTOR["cluster"]
VALIDATORS = {
    bytes.fromhex(v["group_pubkey"][2:]): ValidatorShares(
        {int(index): bytes.fromhex(key[2:]) for index, key in v["pubshares"].items()}
    )
    for v in CLUSTER["validators"]
}
SLOT = 13440007
BUILT = [message for message in VECTOR["messages"] if DutyType(message["duty"]["type"]) in PERFORMED]
NOT_BUILT = [message for message in VECTOR["messages"] if message not in BUILT]


def wire(entry: Any) -> bytes:
    return bytes.fromhex(entry["parsigexmsg_hex"])


class Everything:
    """A slashing guard that records whatever it is asked to."""

    async def run(self, inbox: Inbox[Guard]) -> None:
        async for mail in inbox:
            mail.reply_to(mail.message).send(None)


class Node:
    def __init__(self) -> None:
        self.stored: list[tuple[Duty, int, int]] = []
        self.groups: list[GroupSigned] = []
        self.address: Address[Message]

    def hear(self, fact: Fact) -> None:
        if isinstance(fact, PartialsStored):
            self.stored.append((fact.duty, fact.share_index, fact.validators))

    async def tell(self, message: bytes, share_index: int = 2) -> None:
        """From the peer of that share; the vectors' own messages are share 2's."""
        self.address.tell(PeerPartials(share_index - 1, message))
        await trio.testing.wait_all_tasks_blocked()


async def nothing_agreed(slot: int) -> None:
    return None


@asynccontextmanager
async def node() -> AsyncIterator[Node]:
    this = Node()

    async def verify(checks: Any) -> list[bool]:
        return verify_all(checks, Random(1).randbytes)

    async with open_actor(Mailbox[Guard]("slashing"), Everything) as guard:
        settings = Settings(VALIDATORS, own_share_index=1, threshold=CLUSTER["threshold"], chain=MAINNET)
        actor = Signatures(
            settings,
            verify_all=verify,
            guard=guard,
            broadcast=lambda protocols, message: None,
            on_group=this.groups.append,
            agreed_block=nothing_agreed,
            wall_clock=lambda: MAINNET.slot_start_s(SLOT) + 1.0,
            on_fact=lambda fact: (
                this.stored.append((fact.duty, fact.share_index, fact.validators)) if isinstance(fact, PartialsStored) else None
            ),
        )
        async with open_actor(Mailbox[Message]("signatures"), lambda: actor) as this.address:
            yield this


def decode(message: bytes) -> tuple[Duty, int, dict[bytes, SignedData]]:
    duty, share_index, entries = decode_message(message)
    return duty, share_index, {key: decode_signed_data(duty.type, data) for key, data in entries.items()}


def by_share(message: Any, share_index: int) -> SignedData:
    signed = decode_signed_data(
        DutyType(message["duty"]["type"]), ParSigExMsg.FromString(wire(message)).data_set.set.popitem()[1].data
    )
    return signed.with_signature(bytes.fromhex(message["partial_signatures"][str(share_index)]))


def group_key(message: Any) -> bytes:
    return bytes.fromhex(CLUSTER["validators"][message["validator"]]["group_pubkey"][2:])


def test_what_is_built_has_vectors() -> None:
    assert {message["duty"]["name"] for message in BUILT} == {"attester", "randao"}


@pytest.mark.parametrize("validator", CLUSTER["validators"], ids=lambda validator: validator["index"])
def test_the_keys_of_the_vectors_cluster_belong_together(validator: Any) -> None:
    shares = {int(index): int(secret, 16).to_bytes(32) for index, secret in validator["share_secrets"].items()}
    assert {index: "0x" + public_key(secret).hex() for index, secret in shares.items()} == {
        int(index): key for index, key in validator["pubshares"].items()
    }
    secret = recover_secret({index: shares[index] for index in (1, 2, 4)})
    assert int.from_bytes(secret) == int(validator["group_secret"], 16)
    assert "0x" + public_key(secret).hex() == validator["group_pubkey"]


@pytest.mark.parametrize("message", BUILT, ids=lambda message: message["duty"]["name"])
def test_messages_are_read_and_written_byte_for_byte(message: Any) -> None:
    duty, share_index, partials = decode(wire(message))
    assert (duty.slot, duty.type, share_index) == (message["duty"]["slot"], message["duty"]["type"], message["share_idx"])
    assert set(partials) == {group_key(message)}
    assert encode_partials_message(duty, share_index, partials) == wire(message)


@pytest.mark.parametrize("message", VECTOR["messages"], ids=lambda message: message["duty"]["name"])
def test_the_vectors_partial_signatures_are_made_by_its_shares(message: Any) -> None:
    validator = CLUSTER["validators"][message["validator"]]
    for index, signature in message["partial_signatures"].items():
        secret = int(validator["share_secrets"][index], 16).to_bytes(32)
        assert sign(secret, bytes.fromhex(message["signing_root"])).hex() == signature


@pytest.mark.parametrize("message", NOT_BUILT, ids=lambda message: message["duty"]["name"])
def test_messages_of_duties_that_this_node_does_not_perform_are_refused(message: Any) -> None:
    with pytest.raises(EncodingFault, match="does not perform"):
        decode_message(wire(message))


@pytest.mark.parametrize("message", BUILT, ids=lambda message: message["duty"]["name"])
async def test_the_shares_of_the_vector_make_its_group_signature(message: Any) -> None:
    duty = Duty(message["duty"]["slot"], DutyType(message["duty"]["type"]))
    async with node() as this:
        for share_index in message["aggregate_of_shares"]:
            await this.tell(
                encode_partials_message(duty, share_index, {group_key(message): by_share(message, share_index)}), share_index
            )
        signed = await this.address.ask(AwaitGroupSignature(duty, group_key(message)))
        assert signed.signature.hex() == message["aggregate_signature"]
        assert [group.signed for group in this.groups] == [{group_key(message): signed}]


async def test_a_message_with_two_validators_is_stored_for_both() -> None:
    message = VECTOR["multi_validator_message"]
    async with node() as this:
        await this.tell(wire(message), message["share_idx"])
        ((duty, share_index, count),) = this.stored
    assert (share_index, count) == (message["share_idx"], 2)
    assert encode_partials_message(*decode(wire(message))) == wire(message)
    assert duty.type is DutyType.ATTESTER


@pytest.mark.parametrize("case", VECTOR["negative"], ids=lambda case: case["name"])
async def test_negatives_store_nothing_and_harm_nobody(case: Any) -> None:
    good = BUILT[0]
    async with node() as this:
        await this.tell(wire(case))
        assert this.stored == []
        await this.tell(wire(good))
        assert [count for _, _, count in this.stored] == [1]


@pytest.mark.parametrize("name", ["no duty", "no data_set", "empty set", "unknown duty type", "deprecated builder_proposer"])
def test_negatives_of_form_are_refused_by_the_decoder(name: str) -> None:
    (case,) = [case for case in VECTOR["negative"] if case["name"] == name]
    with pytest.raises(EncodingFault):
        decode_message(wire(case))


def test_checks_are_made_for_the_right_share() -> None:
    """The vectors' wrong share index is one for which the signature is not: only verification can tell."""
    (case,) = [case for case in VECTOR["negative"] if case["name"] == "wrong share index"]
    _, share_index, partials = decode(wire(case))
    for key, signed in partials.items():
        keys = VALIDATORS[key].public_shares
        checks = [Check(keys[index], signed.signing_root(MAINNET), signed.signature) for index in sorted(keys)]
        verdicts = dict(zip(sorted(keys), verify_all(checks, Random(1).randbytes), strict=True))
        assert not verdicts.pop(share_index)
        assert any(verdicts.values())
