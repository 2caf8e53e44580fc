"""Blocks in the answers of beacon nodes, and as they are submitted. Source: specification 08 §2, §4; beacon-APIs `produceBlockV3`."""

from typing import Any, Final

import msgspec

from charon_actors.bounded_json import BLOCK
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import Answer, AnswerFault
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.containers import proposal_type, signed_proposal_type
from charon_actors.eth2.forks import UnknownFork, fork_from_label
from charon_actors.eth2.preset import Preset
from charon_actors.eth2.signed_data import EncodingFault, SignedProposal
from charon_actors.eth2.ssz import SszFault
from charon_actors.eth2.unsigned_data import Proposal

RANDAO_IN_MESSAGE: Final = slice(84, 180)  # of a BeaconBlock: after slot, proposer, two roots and the body's offset


def decode_wanted_proposal(answer: Answer, *, chain: Chain, slot: int, randao: bytes) -> Proposal:
    """`decode_proposal`, and whether it is the block that was asked for. Raises: AnswerFault."""
    proposal = decode_proposal(answer, chain)
    if proposal.slot != slot:
        raise AnswerFault(f"a block of slot {proposal.slot} instead of {slot}")
    if proposal.message[RANDAO_IN_MESSAGE] != randao:
        raise AnswerFault("a block with another randao reveal than ours")
    return proposal


def json_of_signed(of: tuple[SignedProposal, Preset]) -> bytes:
    """The Beacon API's JSON of a signed block. Raises: SszFault, for one that isn't of the preset."""
    proposal, preset = of
    schema = signed_proposal_type(proposal.fork, proposal.blinded, preset)
    return msgspec.json.encode(schema.to_json(schema.decode(proposal.body)))


def decode_proposal(answer: Answer, chain: Chain) -> Proposal:
    """The unsigned block of an answer of `/eth/v3/validator/blocks/{slot}`, SSZ or JSON. Raises: AnswerFault."""
    try:
        if answer.is_ssz:
            fields: dict[str, Any] = {}
        else:
            fields = api.decode_answer_object(answer.body, BLOCK)
        label = answer.headers.get(api.VERSION_HEADER.lower(), fields.get("version"))
        blinded = answer.headers.get("eth-execution-payload-blinded", fields.get("execution_payload_blinded"))
        if not isinstance(label, str) or str(blinded).lower() not in ("true", "false"):
            raise AnswerFault("the answer doesn't say its fork, or whether the block is blinded")
        fork, is_blinded = fork_from_label(label), str(blinded).lower() == "true"
        schema = proposal_type(fork, is_blinded, chain.preset)
        body = answer.body if answer.is_ssz else schema.encode(schema.from_json(fields.get("data")))
        if answer.is_ssz:
            schema.check(memoryview(body))
        return Proposal(fork, is_blinded, body)
    except (UnknownFork, SszFault, EncodingFault) as fault:
        raise AnswerFault(str(fault)) from None
