"""The actors of a node, each made of the node's settings and what its neighbours are called.

`NodeActors` knows who needs whom; what an actor does stands in its room. Those that need the chain's parameters are made of them.
"""

import platform
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, Final

import actors.beacon as beacon_room
import actors.consensus as consensus_room
import actors.duties as duties_room
import actors.identity as identity_room
import actors.signatures as signatures_room
import actors.slashing as slashing_room
import actors.validator_api as validator_api_room
from actors import crypto_workers as crypto_room
from actors.facts import OnFact
from actors.mesh import Mesh
from actors.off_loop import Elsewhere
from charon_actors.cluster.peers import peers_of
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.beacon_api import ChainEvent, ReorgEvent
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.unsigned_data import Proposal
from charon_actors.share_index import by_share_index, share_index_of
from charon_actors.validator_api.share_keys import KeyShares
from supervisors.chain_facts import ChainFacts
from supervisors.graffiti import Graffiti
from supervisors.mailboxes import Mailboxes
from supervisors.node_config import NodeConfig
from supervisors.supervisor import Life

GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # the version text has Go's names (07 §5.15)
SLASHING_FILE: Final = "slashing-protection.sqlite"
RECORDS: Final = (SLASHING_FILE, "slashing-protection.trace")  # never left behind when the state moves
PARTICIPATION_FILE: Final = "consensus-participation"
LISTEN_EPOCHS: Final = 2  # after a loss of records; as long as an edited cluster has to wait (01 §1.2)


class NodeActors:
    """Of one node. listening_port: of the first peer-to-peer socket, if there is one."""

    def __init__(
        self,
        config: NodeConfig,
        mailboxes: Mailboxes,
        *,
        chain: ChainFacts,
        mesh: Mesh,
        graffiti: Graffiti,
        listening_port: int | None,
        wall_clock: Callable[[], float],
        on_fact: OnFact,
    ) -> None:
        self._config, self._lock, self._peers = config, config.lock, peers_of(config.lock.definition)
        self._mailboxes, self._chain, self._mesh, self._graffiti = mailboxes, chain, mesh, graffiti
        self._listening_port, self._clock, self._on_fact = listening_port, wall_clock, on_fact
        self._off_loop = Elsewhere(self._in_process)
        self.make_beacon = beacon_room.beacon_factory(
            beacon_room.Settings(
                primaries=config.beacon_nodes,
                fallbacks=config.fallback_beacon_nodes,
                headers=config.beacon_headers,
                timeout_s=config.beacon_timeout_s,
                submit_timeout_s=config.beacon_submit_timeout_s,
                cluster_keys=tuple(validator.public_key for validator in config.lock.validators),
            ),
            on_event=self._chain_event,
            on_chain=chain.replace,
            on_fact=on_fact,
            wall_clock=wall_clock,
            off_loop=self._off_loop,
        )

    def identity(self) -> identity_room.Identity:
        config = self._config
        port = self._listening_port if config.p2p_external_ip else None
        endpoint = identity_room.Endpoint(config.p2p_external_ip or None, port)
        return identity_room.Identity(config.private_key, config.state_dir, endpoint)

    def crypto_workers(self) -> crypto_room.CryptoWorkers:
        return crypto_room.CryptoWorkers(on_fact=self._on_fact)

    def slashing(self, chain: Chain) -> slashing_room.SlashingGuard:
        return slashing_room.SlashingGuard(
            self._config.state_dir / SLASHING_FILE,
            chain.genesis_validators_root,
            is_lost=self._config.is_slashing_record_lost,
            listen_s=LISTEN_EPOCHS * chain.slots_per_epoch * chain.slot_duration_s,
            on_fact=self._on_fact,
        )

    def consensus(self, chain: Chain) -> consensus_room.Consensus:
        return consensus_room.Consensus(
            mesh=self._mesh,
            own_index=self._config.own_index,
            private_key=self._config.private_key,
            public_keys=[peer.public_key for peer in self._peers],
            validators=len(self._lock.validators),
            chain=chain,
            profile=self._config.profile,
            wall_clock=self._clock,
            on_fact=self._on_fact,
            peer_names=[peer.name for peer in self._peers],
            store=consensus_room.ParticipationFile(self._config.state_dir / PARTICIPATION_FILE, chain.genesis_validators_root),
        )

    def signatures(self, chain: Chain) -> signatures_room.Signatures:
        lock = self._lock
        shares = {
            validator.public_key: signatures_room.ValidatorShares(by_share_index(validator.public_shares))
            for validator in lock.validators
        }
        return signatures_room.Signatures(
            signatures_room.Settings(
                validators=shares,
                own_share_index=share_index_of(self._config.own_index),
                threshold=lock.definition.threshold,
                chain=chain,
                profile=self._config.profile,
            ),
            verify_all=self._verify_all,
            recover=self._recover,
            guard=self._mailboxes.slashing,
            broadcast=self._mesh.broadcast,
            on_group=lambda group: self._mailboxes.duties.tell(duties_room.GroupArrived(group)),
            wall_clock=self._clock,
            agreed_block=self._agreed_block,
            off_loop=self._off_loop,
            may_propose=self._may_propose,
            on_fact=self._on_fact,
        )

    def duties(self, chain: Chain) -> duties_room.Duties:
        lock = self._lock
        fee_recipients = {
            validator.public_key: addresses.fee_recipient_address
            for validator, addresses in zip(lock.validators, lock.definition.validators, strict=True)
        }
        return duties_room.Duties(
            duties_room.Settings(
                chain=chain,
                fee_recipients=fee_recipients,
                graffiti=self._graffiti.of,
                profile=self._config.profile,
                allow_foreign_fee_recipient=self._config.allow_foreign_fee_recipient,
                peer_names=[peer.name for peer in self._peers],
            ),
            beacon=self._mailboxes.beacon,
            consensus=self._mailboxes.consensus,
            signatures=self._mailboxes.signatures,
            wall_clock=self._clock,
            on_fact=self._on_fact,
            verify_all=self._verify_all,
            off_loop=self._off_loop,
        )

    async def validator_api(self, listening: socket, life: Life) -> None:
        life.started()
        lock, config = self._lock, self._config
        shares = KeyShares(
            share_index_of(config.own_index), [(validator.public_key, validator.public_shares) for validator in lock.validators]
        )
        machine = f"{GO_ARCHITECTURES.get(platform.machine(), platform.machine())}-{platform.system().lower()}"
        await validator_api_room.ValidatorApi(
            listening,
            shares,
            lambda: self._chain.known,
            self._mailboxes.beacon,
            self._mailboxes.duties,
            self._mailboxes.signatures,
            version=f"charon-actors/charon/{config.profile.version_text}-unknown/{machine}",
            tls=config.validator_api_tls,
            off_loop=Elsewhere(self._in_process),
            on_fact=self._on_fact,
        ).run(life.stopping)

    async def _verify_all(self, checks: Sequence[Check]) -> list[bool]:
        return await self._mailboxes.crypto_workers.ask(crypto_room.VerifyAll(checks)) if checks else []

    async def _in_process(self, function: Callable[[Any], Any], item: Any) -> Any:
        return await self._mailboxes.crypto_workers.ask(crypto_room.LongWork(function, item))

    async def _recover(self, recoveries: Sequence[crypto_room.Recovery]) -> Sequence[bytes | None]:
        return await self._mailboxes.crypto_workers.ask(crypto_room.RecoverSignatures(recoveries))

    async def _agreed_block(self, slot: int) -> Proposal | None:
        """The decided block of that slot, once it is; None when nobody of ours proposes there, or there will be none any more."""
        try:
            proposal = await self._mailboxes.duties.ask(duties_room.AwaitProposal(slot))
        except duties_room.NoDuty:
            return None
        return proposal

    async def _may_propose(self, slot: int, pubkey: bytes) -> bool:
        """Whether that validator proposes in that slot; True while its epoch's duties aren't known."""
        try:
            proposer = await self._mailboxes.duties.ask(duties_room.ProposerOf(slot))
        except duties_room.NoDuty:
            return False
        except (duties_room.NotReady, Retryable):
            return True
        return proposer == pubkey

    def _chain_event(self, event: ChainEvent) -> None:
        chain = self._chain.known
        if isinstance(event, ReorgEvent) and chain is not None:
            epoch = chain.epoch_of(max(event.slot - event.depth, 0))
            self._mailboxes.duties.tell(duties_room.ChainReorganised(epoch))
