"""Agreement of the cluster on the unsigned data of a duty (QBFT)."""

from actors.consensus.actor import PROTOCOL, Consensus, Flags
from actors.consensus.facts import ConsensusDecided, ConsensusFailed, ConsensusTimedOut, InsufficientRoundChanges
from actors.consensus.handler import consensus_handler
from actors.consensus.messages import (
    Agree,
    Agreed,
    Broadcaster,
    DeadlinePassed,
    Message,
    ProposeValue,
    QbftReceived,
    UnsupportedDuty,
)
from actors.consensus.participation import ParticipationFile, ParticipationStore

__all__ = [
    "PROTOCOL",
    "Agree",
    "Agreed",
    "Broadcaster",
    "Consensus",
    "ConsensusDecided",
    "ConsensusFailed",
    "ConsensusTimedOut",
    "DeadlinePassed",
    "Flags",
    "InsufficientRoundChanges",
    "Message",
    "ParticipationFile",
    "ParticipationStore",
    "ProposeValue",
    "QbftReceived",
    "UnsupportedDuty",
    "consensus_handler",
]
