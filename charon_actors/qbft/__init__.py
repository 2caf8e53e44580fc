"""Consensus by QBFT v2.0: the machine, its timers, its messages, and one duty's session over them. Sans-IO."""

from charon_actors.qbft.machine import Instance, RoundChanged, faulty, leader, quorum
from charon_actors.qbft.messages import BLOCK_BYTES, MESSAGE_BYTES, MessageFault, Steps, Verifier
from charon_actors.qbft.participation import Participation, ParticipationFault, decode_participation, encode_participation
from charon_actors.qbft.session import Allowance, Comparison, Decided, Differs, Output, Send, Session
from charon_actors.qbft.timers import round_timer

__all__ = [
    "BLOCK_BYTES",
    "MESSAGE_BYTES",
    "Allowance",
    "Comparison",
    "Decided",
    "Differs",
    "Instance",
    "MessageFault",
    "Output",
    "Participation",
    "ParticipationFault",
    "RoundChanged",
    "Send",
    "Session",
    "Steps",
    "Verifier",
    "decode_participation",
    "encode_participation",
    "faulty",
    "leader",
    "quorum",
    "round_timer",
]
