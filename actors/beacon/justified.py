"""Which epoch our beacon nodes hold justified just now: asked when a vote goes from a later one than they said a moment ago.

Two questions a node, at the same time, for either may be behind what the node knows:

    question                why it alone is not enough
    attestation data        some clients keep the answer for a slot, whatever they import after it
    finality checkpoints    of the head's state, which in an epoch's first slots may still be one of the epoch before

The later of both holds: a node that calls an epoch justified will never vote from an earlier one again on that chain. The asker has
the answer as soon as one node says `at_least`; the calls still under way are cancelled. Nodes that say they are syncing aren't asked,
fallback nodes only when no primary answers. Limits: two calls a node, `limit_s` each. Source: consensus-specs phase0,
`get_current_justified_checkpoint` as of `process_attestation`; Beacon API `getStateFinalityCheckpoints`.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from actors.beacon.messages import JustifiedEpoch
from actors.beacon.node import BeaconNode, CallFailed
from actors.beacon.race import AllFailed
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import Answer, AnswerFault, Call
from charon_actors.eth2.chain import Chain

Ask = Callable[[BeaconNode, Call, float], Awaitable[Answer]]


async def justified_epoch(
    request: JustifiedEpoch,
    primaries: Sequence[BeaconNode],
    fallbacks: Sequence[BeaconNode],
    ask: Ask,
    chain: Chain,
    limit_s: float,
) -> int:
    """primaries, fallbacks: those to be asked, synced. ask: sends one call to one node, raising CallFailed. limit_s: of each call.

    Raises: BeaconFault.
    """
    failures: list[CallFailed] = []
    for nodes in (primaries, fallbacks):
        latest = await _latest(request, nodes, ask, chain, limit_s, failures)
        if latest is not None:
            return latest
    nobody = CallFailed("beacon nodes", None, "none is synced and on the right network (syncing)", retryable=True, worthy=True)
    raise AllFailed(failures or [nobody]).as_fault("finality")


async def _latest(
    request: JustifiedEpoch,
    nodes: Sequence[BeaconNode],
    ask: Ask,
    chain: Chain,
    limit_s: float,
    failures: list[CallFailed],
) -> int | None:
    def of_vote(answer: Answer) -> int:
        return api.decode_attestation_data(answer.body, request.slot, 0, chain).source_epoch

    def of_head(answer: Answer) -> int:
        return api.decode_justified_epoch(answer.body)

    latest: int | None = None

    async def question(node: BeaconNode, call: Call, decode: Callable[[Answer], int]) -> None:
        nonlocal latest
        try:
            epoch = decode(await ask(node, call, limit_s))
        except AnswerFault as fault:
            failures.append(node.failed(f"{call.name}: {fault}", retryable=False))
        except CallFailed as failure:
            failures.append(failure)
        else:
            latest = epoch if latest is None else max(latest, epoch)
            if latest >= request.at_least:
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(question, node, api.attestation_data(request.slot, 0), of_vote)
            nursery.start_soon(question, node, api.FINALITY, of_head)
    return latest
