"""What the beacon nodes say of the chain and of themselves: read at the start, and again and again while the node runs.

    when                                            what is read                          what follows
    the node starts                                 genesis, spec, fork schedule of all   the chain is known, or a UserError
    every STATE_INTERVAL_S, RETRY_MOST_S if down    syncing                               is_synced
    every CHAIN_INTERVAL_S, and when it comes back  genesis, spec, fork schedule          the chain is replaced, if that is believed
                                                                                          (`chain_facts.py`)
    before its first other answer counts            genesis                               another network: refused, an ERROR

A node that can't be asked for its genesis is not admitted: its calls fail until it can be.
Limits: one check of a node's network at a time; each question STATE_TIMEOUT_S. Source: specification 08 §2, §13.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from actors.beacon.messages import LoadChain
from actors.beacon.node import BeaconNode, CallFailed
from actors.change_log import ChangeLog
from actors.log import get_logger
from charon_actors.beacon.chain_facts import (
    CHANGE_INTERVAL_S,
    CHANGES,
    forks_known,
    forks_text,
    is_believed,
    is_same_network,
    newest_chain,
)
from charon_actors.bounded_json import ANSWER
from charon_actors.errors import UserError
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import Answer, AnswerFault, Call
from charon_actors.eth2.chain import Chain, ChainFault, chain_from_answers
from charon_actors.pace import Bucket

log = get_logger("beacon")

STATE_INTERVAL_S: Final = 30.0  # 08 §2
CHAIN_INTERVAL_S: Final = 300.0  # 08 §2
STATE_TIMEOUT_S: Final = 2.0
REPORT_INTERVAL_S: Final = 15.0
RETRY_FIRST_S: Final = 0.25
RETRY_MOST_S: Final = 3.0


class KnownChain:
    """The chain's facts, once a beacon node has told them. Make one for all incarnations of the actor."""

    def __init__(self) -> None:
        self.chain: Chain | None = None


class ChainWatch:
    """ask: sends one of the static calls to one node, admitted or not. on_chain: told of each chain that replaces a known one.

    best: all nodes on our network, the best first.
    """

    def __init__(
        self,
        known: KnownChain,
        primaries: Sequence[BeaconNode],
        fallbacks: Sequence[BeaconNode],
        ask: Callable[[BeaconNode, Call, float], Awaitable[Answer]],
        timeout_s: float,
        on_chain: Callable[[Chain], None],
        best: Callable[[], list[BeaconNode]],
    ) -> None:
        self._known, self._primaries, self._fallbacks = known, primaries, fallbacks
        self._ask, self._timeout_s, self._on_chain = ask, max(timeout_s, STATE_TIMEOUT_S), on_chain
        self._best, self._changes = best, Bucket(CHANGES, 1 / CHANGE_INTERVAL_S)
        self._doubts = ChangeLog()

    async def watch(self, node: BeaconNode) -> None:
        """Ask the node how it is, for as long as it is on our network."""
        while not node.is_wrong_network:
            await self.check_state(node)
            if node.is_synced is None:
                node.described_at = -float("inf")
            elif self._known.chain is not None and trio.current_time() - node.described_at >= CHAIN_INTERVAL_S:
                await self._read_again(node, self._known.chain)
            is_settled = node.is_synced is not None and node.chain is not None
            await trio.sleep(STATE_INTERVAL_S if is_settled else RETRY_MOST_S)

    async def check_state(self, node: BeaconNode) -> None:
        """Ask whether the node is synced."""
        try:
            is_synced = api.decode_syncing((await self._ask(node, api.SYNCING, STATE_TIMEOUT_S)).body).is_synced
        except (CallFailed, AnswerFault):
            node.is_synced = None
            return
        if node.is_synced is not None and node.is_synced != is_synced:
            log.info("Beacon node is synced" if is_synced else "Beacon node is syncing", node=node.label)
        node.is_synced = is_synced

    async def admit(self, node: BeaconNode) -> None:
        """Return if the node is on our network, or nobody can tell yet which that is. Raises: CallFailed."""
        async with node.network_lock:
            known = self._known.chain
            if known is not None and not (node.is_network_checked or node.is_wrong_network):
                await self._check_genesis(node, known)
        if node.is_wrong_network:
            raise CallFailed(node.label, None, "is on another network", retryable=False, worthy=True)

    async def load(self, request: LoadChain) -> Chain:
        """The chain, as soon as a node describes it. Raises: UserError (a node is on another network)."""
        delay_s, reported_at = RETRY_FIRST_S, -REPORT_INTERVAL_S
        while self._known.chain is None:
            failures: list[str] = []
            chains: dict[BeaconNode, Chain] = {}
            for nodes in (self._primaries, self._fallbacks):
                if not chains:
                    await self._ask_for_chain(nodes, request, chains, failures)
            if chains:
                self._known.chain = max(chains.values(), key=forks_known)
                for node, chain in chains.items():
                    self._take(node, chain)
                break
            now = trio.current_time()
            if now - reported_at >= REPORT_INTERVAL_S:
                reported_at = now
                log.warning("Waiting for a beacon node", errors="; ".join(failures), hint="see --beacon-node-endpoints")
            await trio.sleep(delay_s)
            delay_s = min(delay_s * 1.6, RETRY_MOST_S)
        return self._known.chain

    async def _ask_for_chain(
        self, nodes: Sequence[BeaconNode], request: LoadChain, chains: dict[BeaconNode, Chain], failures: list[str]
    ) -> None:
        """Ask all of them, stop when one has answered and the others had the same time again. Raises: UserError."""
        mismatches: list[UserError] = []

        async def ask(node: BeaconNode) -> None:
            try:
                chain = await self._describe(node, request.capella_fork_version)
            except CallFailed as failure:
                failures.append(str(failure))
            except (AnswerFault, ChainFault) as fault:
                failures.append(f"{node.label}: {fault}")
            else:
                if not any(entry.version == request.genesis_fork_version for entry in chain.fork_schedule):
                    mismatches.append(_mismatch(node, request, chain))
                else:
                    chains[node] = chain

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        if mismatches:
            raise mismatches[0]
        told = list(chains.values())
        if not all(is_same_network(chain, told[0]) for chain in told):
            labels = ", ".join(node.label for node in nodes)
            flag = "--beacon-node-endpoints" if nodes is self._primaries else "--fallback-beacon-node-endpoints"
            raise UserError(f"{flag} ({labels})", "these beacon nodes are on different networks", "correct the addresses")

    async def _describe(self, node: BeaconNode, capella_fork_version: bytes) -> Chain:
        """Raises: CallFailed, AnswerFault, ChainFault."""
        facts = [
            api.decode_answer_object((await self._ask(node, call, self._timeout_s)).body, ANSWER)
            for call in (api.GENESIS, api.SPEC, api.FORK_SCHEDULE)
        ]
        return chain_from_answers(facts[0], facts[1], facts[2], capella_fork_version)

    async def _read_again(self, node: BeaconNode, known: Chain) -> None:
        try:
            chain = await self._describe(node, known.capella_fork_version)
        except (CallFailed, AnswerFault, ChainFault) as fault:
            log.debug("Beacon node does not describe its chain", node=node.label, reason=str(fault)[:200])
        else:
            self._take(node, chain)

    def _take(self, node: BeaconNode, chain: Chain) -> None:
        """A node has described its chain: is it ours, and does it know more of it than we do?"""
        known = self._known.chain
        assert known is not None
        if not is_same_network(chain, known):
            self._refuse(node, chain.genesis_validators_root, chain.genesis_time_s, slots=_slots_text(chain))
            return
        node.chain, node.described_at, node.is_network_checked = chain, trio.current_time(), True
        primaries, fallbacks = (
            [node.chain for node in nodes if not node.is_wrong_network] for nodes in (self._primaries, self._fallbacks)
        )
        newest = newest_chain(known, primaries, fallbacks)
        if newest is known:
            return
        told = [other.chain for other in self._best() if other.chain is not None]
        if not is_believed(newest, told):
            if self._doubts.is_due(forks_text(newest), trio.current_time()):
                log.warning(
                    "One beacon node alone announces other forks; if they are right, upgrade the other beacon nodes",
                    node=node.label,
                    known=forks_text(known),
                    announced=forks_text(newest),
                )
        elif not self._changes.take(trio.current_time()):
            if self._doubts.is_due(forks_text(newest), trio.current_time()):
                log.warning("Beacon nodes announce other forks again and again, this is not followed now", node=node.label)
        else:
            log.info("The chain's forks have changed", node=node.label, were=forks_text(known), now=forks_text(newest))
            self._known.chain = newest
            self._on_chain(newest)

    async def _check_genesis(self, node: BeaconNode, known: Chain) -> None:
        try:
            answer = await self._ask(node, api.GENESIS, STATE_TIMEOUT_S)
            genesis = api.as_object(api.decode_data(answer.body, ANSWER), "genesis")
            root = api.hex_of(genesis.get("genesis_validators_root"), 32, "genesis_validators_root")
            time_s = api.uint_of(genesis.get("genesis_time"), "genesis_time")
        except AnswerFault as fault:
            raise node.failed(f"genesis: {fault}", retryable=False) from None
        if (time_s, root) == (known.genesis_time_s, known.genesis_validators_root):
            node.is_network_checked = True
        else:
            self._refuse(node, root, time_s)

    def _refuse(self, node: BeaconNode, root: bytes, genesis_time_s: float, **more: str) -> None:
        node.is_wrong_network = True
        log.error(
            "Beacon node is on another network; it is not used",
            node=node.label,
            genesis_validators_root=f"0x{root.hex()}",
            genesis_time=int(genesis_time_s),
            **more,
        )


def _slots_text(chain: Chain) -> str:
    return f"{chain.slot_duration_s:g} s, {chain.slots_per_epoch} an epoch"


def _mismatch(node: BeaconNode, request: LoadChain, chain: Chain) -> UserError:
    versions = ", ".join(f"0x{entry.version.hex()}" for entry in chain.fork_schedule)
    return UserError(
        f"beacon node {node.label}",
        "mismatch between lock file fork version and beacon node fork schedule"
        f" (lock 0x{request.genesis_fork_version.hex()}, beacon node {versions})",
        "make sure that the beacon node is on the right network",
    )
