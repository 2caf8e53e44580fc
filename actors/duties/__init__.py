"""The duties of the cluster's validators: when they are due, how each lives, what was decided."""

from actors.duties.actor import Duties, Settings
from actors.duties.facts import BlockFetched, DecisionRefused, DutyEnded, SlotStarted
from actors.duties.kinds.attester import AttesterAt, AwaitAttestationData, PubkeyOfAttester
from actors.duties.kinds.proposer import AwaitProposal, ProposalsInHand, ProposerOf
from actors.duties.messages import ChainReorganised, GroupArrived, Message, NoDuty, NotReady, UnknownValidator

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
    "SlotStarted",
    "UnknownValidator",
]
