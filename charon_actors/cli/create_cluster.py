"""`charon create cluster`: a whole cluster made on this machine, or existing keys split. Source: specification 01, section 10.1.

    definition      from flags, or a file of `--definition-file` whose operators have not signed yet
    secrets         new ones, or those below `--split-keys-dir`
    output          <cluster-dir>/node0 … nodeN-1, each with key, lock, deposit files and validator_keys

Nothing appears before everything is there and our own verification has accepted the lock. Whoever runs this knows all keys:
operators who don't trust one machine run `charon dkg`.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from charon_actors.cli.custom_network import custom_networks
from charon_actors.cli.door import notice
from charon_actors.cli.flags import TERMS
from charon_actors.cli.keystore_workers import decrypt_all, encrypt_all
from charon_actors.cli.options import Flag, Values, charon_command
from charon_actors.cli.terms import (
    GUARDED_NETWORKS,
    check_operator_count,
    check_withdrawal_addresses,
    definition_from_flags,
)
from charon_actors.cli.values import Kind
from charon_actors.cluster.data_directory import (
    LOCK_FILE,
    PUBLIC,
    SECRET,
    find_keystores,
    load_definition,
    read_keystores,
    stage_keystores,
)
from charon_actors.cluster.dealer import Dealt, deal
from charon_actors.cluster.definition import Definition, Operator
from charon_actors.cluster.deposit import encode_deposit_files
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.identity import KEY_FILE, PRIVATE
from charon_actors.cluster.lock import encode_lock
from charon_actors.cluster.staging import check_no_leftovers, is_empty_directory, is_taken, staging
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto.bls import generate_secret, public_key
from charon_actors.crypto.faults import CryptoFault
from charon_actors.crypto.secp256k1 import k1_generate
from charon_actors.enr import new_record
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network, network_by_fork_version


def run(values: Values) -> int:
    supplied = _supplied_definition(values)
    nodes = len(supplied.operators) if supplied else values.number("nodes")
    if supplied is None and not values.is_set("nodes"):
        raise UserError(values.command, "missing --nodes", "give the number of nodes, at least 3")
    check_operator_count(values.where("definition-file" if supplied else "nodes"), nodes)
    directory = values.path("cluster-dir")
    _check_free(directory, nodes)
    is_split = values.switch("split-existing-keys")
    group_secrets = _existing_secrets(values, supplied) if is_split else _new_secrets(values, supplied)

    identity_keys = [k1_generate(secrets.token_bytes) for _ in range(nodes)]
    operators = tuple(Operator(enr=new_record(key).encode()) for key in identity_keys)
    moment = datetime.now(UTC)
    if supplied is None:
        definition, network = definition_from_flags(
            values,
            operators=operators,
            num_validators=len(group_secrets),
            dkg_algorithm="default",
            moment=moment.astimezone(),
            uuid=secrets.token_bytes(16),
        )
    else:
        definition = with_definition_hashes(replace(supplied, operators=operators))
        network = _network_of(definition, values)
    if not definition.name:
        raise UserError(values.where("name"), "name not provided", "give the cluster a name")
    if values.switch("insecure-keys") and network.name in GUARDED_NETWORKS:
        raise UserError(values.where("insecure-keys"), "insecure keys not supported on mainnet", "leave it out")
    if is_split:
        _show_split(group_secrets, definition)
    registered_at_s = int(moment.timestamp()) if is_split else network.genesis_time_s
    try:
        dealt = deal(definition, group_secrets, identity_keys, registered_at_s=registered_at_s, entropy=secrets.token_bytes)
        verify_lock(dealt.lock, (network,))
    except (ClusterFault, CryptoFault) as error:
        raise UserError(values.command, str(error), "correct the definition or the keys") from error
    _write(directory, dealt, identity_keys, network, is_insecure=values.switch("insecure-keys"))
    _print_summary(directory, nodes, is_split=is_split)
    return 0


def _supplied_definition(values: Values) -> Definition | None:
    if not values.text("definition-file"):
        return None
    where = values.where("definition-file")
    if values.text("definition-file").startswith(("http://", "https://")):
        raise UserError(where, "definitions by URL are not supported by this build", "download the file and pass its path")
    for name in _DECIDED_BY_DEFINITION:
        if values.is_set(name):
            raise UserError(values.where(name), "the definition file already says that", "leave the flag out")
    path = values.path("definition-file")
    definition = load_definition(path, notice, networks_extra=custom_networks(values), can_bypass=False)
    if any(operator.address or operator.config_signature for operator in definition.operators):
        what = "its operators have addresses or signatures, which new identity keys would make worthless"
        raise UserError(str(path), what, "use it with `charon dkg`, or create a cluster without it")
    check_withdrawal_addresses(str(path), definition.validators, _network_of(definition, values))
    if definition.target_gas_limit == 0:
        raise UserError(str(path), "target gas limit not set", "create the definition anew")
    if not 2 <= definition.threshold <= len(definition.operators):
        raise UserError(str(path), "threshold below minimum or above the number of operators", "create the definition anew")
    return definition


_DECIDED_BY_DEFINITION = (
    "nodes",
    "num-validators",
    "threshold",
    "name",
    "network",
    "fee-recipient-addresses",
    "withdrawal-addresses",
    "deposit-amounts",
    "compounding",
    "target-gas-limit",
    "consensus-protocol",
    "schema-version",
)


def _network_of(definition: Definition, values: Values) -> Network:
    network = network_by_fork_version(definition.fork_version, custom_networks(values))
    if network is None:
        raise UserError(values.where("definition-file"), "invalid fork version", "give the --testnet flags of its network")
    return network


def _check_free(directory: Path, nodes: int) -> None:
    check_no_leftovers(directory)
    for index in range(nodes):
        node = directory / f"node{index}"
        if is_taken(node) and not is_empty_directory(node):
            raise UserError(str(node), "existing node directory found", "please delete or move it before running this command")


def _new_secrets(values: Values, supplied: Definition | None) -> list[bytes]:
    if values.is_set("split-keys-dir"):
        raise UserError(values.where("split-keys-dir"), "given without --split-existing-keys", "give both, or none")
    if supplied is None and not values.is_set("num-validators"):
        raise UserError(values.command, "missing --num-validators", "give the number of validators")
    count = supplied.num_validators if supplied else values.number("num-validators")
    if not 1 <= count <= 65536:
        raise UserError(values.where("num-validators"), "is out of range", "give 1 to 65536")
    return [generate_secret(secrets.token_bytes) for _ in range(count)]


def _existing_secrets(values: Values, supplied: Definition | None) -> list[bytes]:
    """In a fixed order: by index where addresses differ between validators, else by path."""
    if values.is_set("num-validators"):
        raise UserError(values.where("num-validators"), "can't be given when keys are split", "their number decides")
    if not values.text("split-keys-dir"):
        raise UserError("--split-keys-dir", "missing", "give the directory of the keystores to split")
    if supplied:
        order_matters = len(set(supplied.validators)) > 1
    else:
        order_matters = any(len(values.texts(f"{name}-addresses")) > 1 for name in ("fee-recipient", "withdrawal"))
    directory = values.path("split-keys-dir")
    keystores = read_keystores(directory) if order_matters else find_keystores(directory)
    if supplied and len(keystores) != supplied.num_validators:
        what = f"number of keys read from disk differs from cluster definition: {len(keystores)}, {supplied.num_validators}"
        raise UserError(str(directory), what, "put exactly the keys of the definition there")
    group_secrets = decrypt_all(keystores)
    if len(set(group_secrets)) != len(group_secrets):
        raise UserError(str(directory), "the same key twice", "keep one keystore a validator")
    return group_secrets


def _show_split(group_secrets: Sequence[bytes], definition: Definition) -> None:
    notice("splitting these validators, with their fee recipient and withdrawal address:")
    for secret, addresses in zip(group_secrets, definition.validators, strict=True):
        key = public_key(secret).hex()
        notice(f"0x{key} {addresses.fee_recipient_address} {addresses.withdrawal_address}")
    notice("the deposit files must not be used for validators that are active already")


def _write(directory: Path, dealt: Dealt, identity_keys: Sequence[bytes], network: Network, *, is_insecure: bool) -> None:
    definition = dealt.lock.definition
    deposits = [deposit for validator in dealt.lock.validators for deposit in validator.deposits]
    try:
        deposit_files = encode_deposit_files(deposits, network.name, definition.fork_version)
    except ClusterFault as error:
        raise UserError(str(directory), str(error), "please report this") from error
    lock = encode_lock(dealt.lock)
    nodes, validators = len(identity_keys), len(dealt.shares)
    keystores = encrypt_all([shares[index] for index in range(1, nodes + 1) for shares in dealt.shares], is_insecure=is_insecure)
    with staging(directory) as stage:
        for index, key in enumerate(identity_keys):
            stage.write(f"node{index}/{KEY_FILE}", key.hex().encode("ascii"), PRIVATE)
            stage_keystores(stage, f"node{index}/", keystores[index * validators : (index + 1) * validators])
            for name, content in deposit_files.items():
                stage.write(f"node{index}/{name}", content, PUBLIC)
            stage.write(f"node{index}/{LOCK_FILE}", lock, SECRET)
        stage.commit()


def _print_summary(directory: Path, nodes: int, *, is_split: bool) -> None:
    if is_split:
        print(_SPLIT_WARNING)
    print("Created charon cluster:")
    print(f" --split-existing-keys={'true' if is_split else 'false'}")
    print()
    print(f"{directory}/")
    print(f"├─ node[0-{nodes - 1}]/\t\t\tDirectory for each node")
    print("│  ├─ charon-enr-private-key\tCharon networking private key for node authentication")
    print("│  ├─ cluster-lock.json\t\tCluster lock defines the cluster lock file which is signed by all nodes")
    print("│  ├─ deposit-data-*.json\tDeposit data files are used to activate a Distributed Validator on the DV Launchpad")
    print("│  ├─ validator_keys\t\tValidator keystores and password")
    print("│  │  ├─ keystore-*.json\tValidator private share key for duty signing")
    print("│  │  ├─ keystore-*.txt\t\tKeystore password files for keystore-*.json")


_SPLIT_WARNING = """
***************** WARNING: Splitting keys **********************
 Please make sure any existing validator has been shut down for
 at least 2 finalized epochs before starting the charon cluster,
 otherwise slashing could occur.                               \n\
****************************************************************
"""

command = charon_command(
    "cluster",
    "Create a whole cluster on this machine: for tests, for one operator, or to split existing keys.",
    run,
    [
        Flag("nodes", Kind.NUMBER, 0, "Number of nodes, at least 3"),
        Flag("num-validators", Kind.NUMBER, 0, "Number of validators to make keys for"),
        Flag("threshold", Kind.NUMBER, 0, "Nodes needed to sign; standard is two thirds, rounded up"),
        Flag("cluster-dir", Kind.TEXT, "./", "Directory that node0, node1 … are written to"),
        Flag("definition-file", Kind.TEXT, "", "Cluster definition to take all of the above and below from"),
        Flag("split-existing-keys", Kind.SWITCH, False, "Split the keys of existing validators"),
        Flag("split-keys-dir", Kind.TEXT, "", "Directory of the keystores to split, with their passwords"),
        Flag("insecure-keys", Kind.SWITCH, False, "Cheap keystores, for tests only; not on mainnet and gnosis"),
        *TERMS,
    ],
    example="charon create cluster --name test --nodes 4 --num-validators 1 --network hoodi "
    "--withdrawal-addresses 0x… --fee-recipient-addresses 0x…",
)
