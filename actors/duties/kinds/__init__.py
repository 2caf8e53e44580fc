"""The kinds of duties that this node performs by its slot clock: one file and one line each.

Kinds without a file here are either an ingredient of another (a randao reveal: `GroupGoesTo.OUR_NODE`) or not built yet; the rows in
`charon_actors/eth2/duty.py` say which.
"""

from collections.abc import Mapping
from typing import Any, Final

from actors.duties.kinds.attester import ATTESTER
from actors.duties.kinds.kind import DutyKind
from actors.duties.kinds.proposer import PROPOSER
from charon_actors.eth2.duty import DutyType

Kinds = Mapping[DutyType, DutyKind[Any]]

KINDS: Final[Kinds] = {kind.duty_type: kind for kind in (ATTESTER, PROPOSER)}
