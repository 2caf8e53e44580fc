"""A whole ceremony as one node knows it: what to make, what to sign, what must have come, and the lock in the end. Sans-IO.

Theory of operation: the actor asks for our next message, sends it, hands in what peers send, and goes on when nothing is missing.
Each row ends at a barrier (`step_sync.py`); what a peer does wrong is a CeremonyFault at the moment it is seen.

    step   phase                 ours, in this order                                from each peer
    1      connect               –                                                  –
    2      key generation        make_round1, make_round2, finish_keys              cast, shares; round 2 cast
    3      deposit signatures    for each amount: sign, combine (slots 200 …)       partial signatures
    4      registrations         sign, combine (slot 102)                           partial signatures
    5      lock hash             sign, combine (slot 101)                           partial signatures
    6      node signatures       sign_lock_hash                                     its node signature
    7      artifacts             complete_lock, deposit_files                       –
    8      shutdown              –                                                  –

Signed with the shares: the deposit message of each distinct amount, ascending, and the registration whose timestamp is the
network's genesis time, both under the network's genesis fork version; then the 32 bytes of the lock hash as they are. Everything
that could differ between nodes (amounts, gas limit, addresses, order) is in the lock hash and ends as a bad partial signature.

Nothing here is ever used twice: a new attempt is a new Ceremony with new polynomials.
make_*, finish_keys, sign, combine, complete_lock and deposit_files are long calculations, some ms a validator; they may run in
another thread while messages of peers come in.

Source: specification 04 §2, §5, §6; 01 §5, §6, §9.
"""

import enum
from collections.abc import Mapping, Sequence

from charon_actors.cluster import merkle
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.deposit import (
    Deposit,
    amounts_to_sign,
    deposit_file_name,
    deposit_signing_root,
    encode_deposit_file,
    withdrawal_credentials,
)
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import with_lock_hashes
from charon_actors.cluster.lock import NO_REGISTRATION, DistributedValidator, Lock
from charon_actors.cluster.peers import Peer
from charon_actors.cluster.registration import LEGACY_GAS_LIMIT, Registration, registration_signing_root
from charon_actors.cluster.schema import Deposits, schema_of
from charon_actors.cluster.verify import ContractCheck, verify_lock
from charon_actors.crypto import Entropy
from charon_actors.dkg.bcast import Bcast
from charon_actors.dkg.dialect import NODE_SIGNATURE_ID, ROUND1_CAST_ID, ROUND2_CAST_ID, Dialect
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.frost import MAX_PARTICIPANTS, Frost, Round1, ValidatorKeys
from charon_actors.dkg.node_signatures import NodeSignatures
from charon_actors.dkg.signature_exchange import (
    FIRST_DEPOSIT_SLOT,
    LOCK_HASH_SLOT,
    REGISTRATION_SLOT,
    SignatureExchange,
)
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network

MIN_THRESHOLD = 2
FROST_ALGORITHMS = ("default", "frost")
SHARE_BYTES = 52  # of one FrostRound1ShamirShare on the wire, with its field header


class Phase(enum.Enum):
    """The rows of the table: the step whose barrier ends it, and what the operator reads."""

    CONNECT = (1, "connecting to all peers")
    KEYS = (2, "key generation")
    DEPOSITS = (3, "deposit signatures")
    REGISTRATIONS = (4, "validator registrations")
    LOCK_HASH = (5, "lock hash signatures")
    NODE_SIGNATURES = (6, "node signatures")
    ARTIFACTS = (7, "verifying and writing the results")
    SHUTDOWN = (8, "waiting for all peers to finish")

    @property
    def step(self) -> int:
        return self.value[0]

    @property
    def text(self) -> str:
        return self.value[1]


def check_ceremony_definition(where: str, definition: Definition) -> None:
    """What a ceremony needs of a definition besides right hashes and signatures. Raises UserError."""
    operators = len(definition.operators)
    if schema_of(definition.version).deposits is Deposits.NONE:
        what = f"only v1.6.0 and newer cluster definition versions supported, this is {definition.version}"
        raise UserError(where, what, "make a new definition with `charon create dkg`")
    if definition.dkg_algorithm not in FROST_ALGORITHMS:
        what = f"the key generation algorithm {definition.dkg_algorithm[:40]!r} is not supported"
        raise UserError(where, what, "make a definition with --dkg-algorithm default")
    if definition.threshold < MIN_THRESHOLD:
        raise UserError(where, f"threshold below minimum: {definition.threshold} < {MIN_THRESHOLD}", "make a new definition")
    if definition.threshold > operators:
        what = f"threshold exceeds number of operators: {definition.threshold} > {operators}"
        raise UserError(where, what, "make a new definition")
    if operators > MAX_PARTICIPANTS:
        what = f"too many operators for a ceremony: {operators} > {MAX_PARTICIPANTS}"
        raise UserError(where, what, "make a new definition")
    if operators < MIN_THRESHOLD or definition.num_validators < 1:
        raise UserError(where, "a ceremony needs several operators and at least one validator", "make a new definition")


class Ceremony:
    """One node's part in one attempt. definition: checked by `check_ceremony_definition` and the cluster room.

    peers: all operators. own_index: our place among them. private_key: 32 bytes, secp256k1. network: of the definition's fork
    version. entropy: cryptographic.
    """

    def __init__(
        self,
        definition: Definition,
        peers: Sequence[Peer],
        own_index: int,
        private_key: bytes,
        network: Network,
        dialect: Dialect,
        entropy: Entropy,
    ) -> None:
        self.definition, self.dialect, self.network = definition, dialect, network
        self._entropy = entropy
        self._schema = schema_of(definition.version)
        self.amounts_gwei = amounts_to_sign(self._schema, definition.deposit_amounts_gwei, compounding=definition.compounding)
        self.deposit_slots = tuple(range(FIRST_DEPOSIT_SLOT, FIRST_DEPOSIT_SLOT + len(self.amounts_gwei)))
        public_keys = [peer.public_key for peer in peers]
        self.frost = Frost(
            own_index=own_index,
            operators=len(peers),
            threshold=definition.threshold,
            validators=definition.num_validators,
            entropy=entropy,
        )
        slots = (*self.deposit_slots, REGISTRATION_SLOT, LOCK_HASH_SLOT)
        self.exchange = SignatureExchange(own_index, len(peers), slots, definition.num_validators)
        self.node_signatures = NodeSignatures(own_index, private_key, public_keys)
        checks = {
            ROUND1_CAST_ID: self.frost.check_round1_cast,
            ROUND2_CAST_ID: self.frost.check_round2_cast,
            NODE_SIGNATURE_ID: self.node_signatures.check,
        }
        self.bcast = Bcast(dialect, definition.definition_hash, own_index, private_key, public_keys, checks)
        self.keys: tuple[ValidatorKeys, ...] = ()
        self._combined: dict[int, list[bytes]] = {}
        self._unsigned_lock: Lock | None = None
        self._aggregate = b""

    def __repr__(self) -> str:
        return f"Ceremony({self.definition.definition_hash.hex()})"

    # what peers send

    def sign_broadcast(self, peer_index: int, request: bytes) -> bytes:
        """Our signature for a peer's broadcast. Raises CeremonyFault."""
        return self.bcast.sign(peer_index, request)

    def receive_broadcast(self, peer_index: int, body: bytes) -> None:
        """A peer's complete broadcast: a round 1 cast, a round 2 cast or a node signature. Raises CeremonyFault."""
        message_id, inner = self.bcast.receive(peer_index, body)
        if message_id == ROUND1_CAST_ID:
            self.frost.receive_round1_cast(peer_index, inner)
        elif message_id == ROUND2_CAST_ID:
            self.frost.receive_round2_cast(peer_index, inner)
        else:
            self.node_signatures.receive(peer_index, inner)

    def receive_shares(self, peer_index: int, body: bytes) -> None:
        """A peer's secret shares for us. Raises CeremonyFault."""
        self.frost.receive_shares(peer_index, body)

    def receive_partials(self, peer_index: int, body: bytes) -> None:
        """A peer's partial signatures of one exchange. Raises CeremonyFault."""
        self.exchange.receive(peer_index, body)

    @property
    def shares_limit_bytes(self) -> int:
        """No honest FrostRound1P2P is longer."""
        return 1024 + SHARE_BYTES * self.definition.num_validators

    @property
    def broadcast_limit_bytes(self) -> int:
        """No honest broadcast or signature request is longer (04 §10)."""
        operators, threshold = len(self.definition.operators), self.definition.threshold
        return 4096 + 100 * operators + self.definition.num_validators * (160 + 52 * threshold)

    @property
    def longest_messages_bytes(self) -> int:
        """What a peer may honestly have on the way at once: a message of each kind."""
        return self.shares_limit_bytes + self.broadcast_limit_bytes + self.exchange.limit_bytes

    # key generation

    def make_round1(self) -> Round1:
        return self.frost.round1()

    def make_round2(self) -> bytes:
        return self.frost.round2()

    def finish_keys(self) -> None:
        """All keys exist and all peers have confirmed them. Raises CeremonyFault."""
        keys = self.frost.finish()
        if len({of_validator.group_public_key for of_validator in keys}) != len(keys):
            raise CeremonyFault(None, "two validators came out with the same key; start a new ceremony")
        self.exchange.start(keys)
        self.keys = keys

    # signatures

    def sign(self, slot: int) -> bytes:
        """Our partial signatures of this slot, for every peer."""
        return self.exchange.sign(slot, self._messages(slot))

    def combine(self, slot: int) -> None:
        """Verify everybody's partial signatures of this slot and put them together. Raises CeremonyFault."""
        if slot == LOCK_HASH_SLOT:
            self._aggregate = self.exchange.sum_up(slot, self.lock_hash, self._entropy)
        else:
            messages = self._messages(slot)
            self._combined[slot] = self.exchange.combine(slot, messages, self._entropy)

    @property
    def lock_hash(self) -> bytes:
        """32 bytes. Known once deposits and registrations are combined."""
        if self._unsigned_lock is None:
            self._unsigned_lock = self._assemble()
        return self._unsigned_lock.lock_hash

    def sign_lock_hash(self) -> bytes:
        """Our node signature, to broadcast."""
        return self.node_signatures.sign(self.lock_hash)

    # results

    def complete_lock(
        self, networks_extra: Sequence[Network] = (), *, is_verified: bool = True, contract: ContractCheck | None = None
    ) -> Lock:
        """The lock with all signatures, verified like one that comes from a file. Raises CeremonyFault.

        is_verified: without it the whole-lock check is left out (`--no-verify`); node signatures are always checked. contract: what
        contract wallets have said about the definition's signatures.
        """
        from msgspec.structs import replace

        signatures = self.node_signatures.collect(self.lock_hash)
        if not self._schema.has_registrations:
            signatures = ()  # checked, but locks of that version have no place for them
        assert self._unsigned_lock is not None
        lock = replace(self._unsigned_lock, signature_aggregate=self._aggregate, node_signatures=signatures)
        if is_verified:
            try:
                verify_lock(lock, networks_extra, contract)
            except ClusterFault as error:
                raise CeremonyFault(None, f"the finished lock does not verify: {error}") from error
        return lock

    def deposit_files(self) -> Mapping[str, bytes]:
        """Content by file name, one file an amount; every signature verified again. Raises CeremonyFault."""
        assert self._unsigned_lock is not None, "the lock is assembled"
        files = {}
        for place, amount_gwei in enumerate(self.amounts_gwei):
            deposits = [validator.deposits[place] for validator in self._unsigned_lock.validators]
            try:
                content = encode_deposit_file(deposits, self.network.name, self.definition.fork_version)
            except ClusterFault as error:
                raise CeremonyFault(None, f"{deposit_file_name(amount_gwei)}: {error}") from error
            files[deposit_file_name(amount_gwei)] = content
        return files

    # what is signed

    def _messages(self, slot: int) -> list[bytes]:
        validators = range(len(self.keys))
        fork_version = self.definition.fork_version
        if slot == LOCK_HASH_SLOT:
            return [self.lock_hash for _ in validators]
        if slot == REGISTRATION_SLOT:
            return [registration_signing_root(self._registration(validator), fork_version) for validator in validators]
        amount_gwei = self.amounts_gwei[slot - FIRST_DEPOSIT_SLOT]
        return [deposit_signing_root(self._deposit(validator, amount_gwei), fork_version) for validator in validators]

    def _deposit(self, validator: int, amount_gwei: int, signature: bytes = b"") -> Deposit:
        address = self.definition.validators[validator].withdrawal_address
        credentials = withdrawal_credentials(address, compounding=self.definition.compounding)
        return Deposit(self.keys[validator].group_public_key, credentials, amount_gwei, signature)

    def _registration(self, validator: int, signature: bytes = b"") -> Registration:
        return Registration(
            fee_recipient=merkle.address_bytes(self.definition.validators[validator].fee_recipient_address),
            gas_limit=self.definition.target_gas_limit or LEGACY_GAS_LIMIT,
            timestamp_s=self.network.genesis_time_s,
            pubkey=self.keys[validator].group_public_key,
            signature=signature,
        )

    def _assemble(self) -> Lock:
        validators = []
        for validator, keys in enumerate(self.keys):
            deposits = tuple(
                self._deposit(validator, amount_gwei, self._combined[slot][validator])
                for slot, amount_gwei in zip(self.deposit_slots, self.amounts_gwei, strict=True)
            )
            registration = NO_REGISTRATION
            if self._schema.has_registrations:
                registration = self._registration(validator, self._combined[REGISTRATION_SLOT][validator])
            validators.append(DistributedValidator(keys.group_public_key, keys.public_shares, deposits, registration))
        return with_lock_hashes(Lock(self.definition, tuple(validators)))
