"""The duties of the cluster's validators: when they are due, how each lives, what was decided."""

from actors.duties.actor import Duties, Settings
from actors.duties.messages import (
    AttesterAt,
    AwaitAttestationData,
    AwaitProposal,
    BlockFetched,
    ChainReorganised,
    DecisionRefused,
    DutyEnded,
    GroupArrived,
    Message,
    NoDuty,
    NotReady,
    ProposalsInHand,
    ProposerOf,
    PubkeyOfAttester,
    UnknownValidator,
)

__all__ = [
    "AttesterAt",
    "AwaitAttestationData",
    "AwaitProposal",
    "BlockFetched",
    "ChainReorganised",
    "DecisionRefused",
    "Duties",
    "DutyEnded",
    "GroupArrived",
    "Message",
    "NoDuty",
    "NotReady",
    "ProposalsInHand",
    "ProposerOf",
    "PubkeyOfAttester",
    "Settings",
    "UnknownValidator",
]
