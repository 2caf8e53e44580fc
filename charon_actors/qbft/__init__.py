"""Consensus by QBFT v2.0: the machine, its timers, its messages, and one duty's session over them. Sans-IO."""

from charon_actors.qbft.machine import Instance, faulty, leader, quorum
from charon_actors.qbft.messages import MessageFault, Verifier
from charon_actors.qbft.session import Allowance, Session
from charon_actors.qbft.timers import round_timer

__all__ = ["Allowance", "Instance", "MessageFault", "Session", "Verifier", "faulty", "leader", "quorum", "round_timer"]
