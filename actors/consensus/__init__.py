"""Agreement of the cluster on the unsigned data of a duty (QBFT)."""

from actors.consensus.actor import PROTOCOL, Consensus, Flags
from actors.consensus.handler import consensus_handler
from actors.consensus.messages import (
    Agree,
    Agreed,
    Broadcaster,
    DeadlinePassed,
    Message,
    Metrics,
    NoMetrics,
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
    "DeadlinePassed",
    "Flags",
    "Message",
    "Metrics",
    "NoMetrics",
    "ParticipationFile",
    "ParticipationStore",
    "ProposeValue",
    "QbftReceived",
    "UnsupportedDuty",
    "consensus_handler",
]
