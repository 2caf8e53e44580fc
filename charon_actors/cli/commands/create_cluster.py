"""`charon create cluster`: a whole cluster made on this machine, or existing keys split. Source: specification 01, section 10.1.

    definition      from flags, or a file of `--definition-file` whose operators have not signed yet
    secrets         new ones, or those below `--split-keys-dir`
    output          <cluster-dir>/node0 … nodeN-1, each with key, lock, deposit files and validator_keys
                    with `--keymanager-…` the keystores go to the nodes' key managers, and there is no validator_keys
                    with `--zipped` all of it is in <cluster-dir>/cluster.tar.gz

Nothing appears before everything is there, our own verification has accepted the lock, and all key managers have their keystores.
Publishing comes last; that it fails is a warning. Whoever runs this knows all keys: operators who don't trust one machine run
`charon dkg`.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from charon_actors.cli.door import notice
from charon_actors.cli.forked import forked_map
from charon_actors.cli.inputs.custom_network import custom_networks
from charon_actors.cli.inputs.definition_file import supplied_definition
from charon_actors.cli.inputs.terms import (
    GUARDED_NETWORKS,
    check_operator_count,
    check_withdrawal_addresses,
    definition_from_flags,
)
from charon_actors.cli.keystore_workers import decrypt_all, encrypt_all
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.flags import EXECUTION_CLIENT, PUBLISH_ADDRESS, TERMS
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Blank, Kind
from charon_actors.cli.services.execution_client import ExecutionClient, execution_client
from charon_actors.cli.services.http_request import HttpFault, wait_for
from charon_actors.cli.services.keymanager import KeyManager, key_managers
from charon_actors.cli.services.obol_api import obol_api, try_to_publish_lock
from charon_actors.cluster.dealer import Dealt, deal
from charon_actors.cluster.definition import Definition, Operator
from charon_actors.cluster.deposit import encode_deposit_files
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.lock_json import encode_lock
from charon_actors.cluster.registration import LEGACY_GAS_LIMIT
from charon_actors.cluster.schema import schema_of
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto import CryptoFault, generate_secret, k1_generate, public_key
from charon_actors.enr import new_record
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network, network_by_fork_version
from charon_actors.files.archive import CLUSTER_ARCHIVE, pack
from charon_actors.files.data_directory import LOCK_FILE, PUBLIC, SECRET
from charon_actors.files.identity import KEY_FILE, PRIVATE
from charon_actors.files.keystore_files import (
    KEY_MANAGER_PASSWORD_BYTES,
    PASSWORD_BYTES,
    Keystore,
    find_keystores,
    read_keystores,
    stage_keystores,
)
from charon_actors.files.staging import check_no_leftovers, is_empty_directory, is_taken, staging
from charon_actors.share_index import share_indices


def run(values: Values) -> int:
    client, api, is_zipped = execution_client(values), obol_api(values), values.switch("zipped")
    supplied = _supplied_definition(values, client)
    nodes = len(supplied.operators) if supplied else values.number("nodes")
    if supplied is None and not values.is_set("nodes"):
        raise UserError(values.command, "missing --nodes", "give the number of nodes, at least 3")
    check_operator_count(values.where("definition-file" if supplied else "nodes"), nodes)
    directory = values.path("cluster-dir")
    managers = _key_managers(values, nodes)
    _check_free(directory, nodes, is_zipped=is_zipped)
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
        dealt = deal(
            definition,
            group_secrets,
            identity_keys,
            registered_at_s=registered_at_s,
            entropy=secrets.token_bytes,
            run=forked_map,
        )
        verify_lock(dealt.lock, (network,), client, lambda checks: [check in dealt.verified for check in checks])
    except (ClusterFault, CryptoFault) as error:
        raise UserError(values.command, str(error), "correct the definition or the keys") from error
    is_insecure = values.switch("insecure-keys")
    _write(directory, dealt, identity_keys, network, managers, is_insecure=is_insecure, is_zipped=is_zipped)
    if api is not None:
        notice(wait_for(lambda: try_to_publish_lock(api, dealt.lock))[1])
    _print_summary(directory, nodes, is_split=is_split, is_zipped=is_zipped, has_keystores=not managers)
    return 0


def _supplied_definition(values: Values, client: ExecutionClient | None) -> Definition | None:
    if not values.text("definition-file"):
        return None
    for name in _DECIDED_BY_DEFINITION:
        if values.is_set(name):
            raise UserError(values.where(name), "the definition file already says that", "leave the flag out")
    networks = custom_networks(values)
    where, definition = supplied_definition(values, can_bypass=False, networks_extra=networks, contract=client)
    if any(operator.address or operator.config_signature for operator in definition.operators):
        what = "its operators have addresses or signatures, which new identity keys would make worthless"
        raise UserError(where, what, "use it with `charon dkg`, or create a cluster without it")
    check_withdrawal_addresses(where, definition.validators, _network_of(definition, values))
    schema = schema_of(definition.version)
    if definition.target_gas_limit == 0 and schema.has_gas_limit:
        raise UserError(where, "target gas limit not set", "create the definition anew")
    if schema.has_registrations and not schema.has_gas_limit:
        notice(f"{where}: definitions of {definition.version} have no gas limit; builders are told {LEGACY_GAS_LIMIT}")
    if not 2 <= definition.threshold <= len(definition.operators):
        raise UserError(where, "threshold below minimum or above the number of operators", "create the definition anew")
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


def _key_managers(values: Values, nodes: int) -> list[KeyManager]:
    """One a node, all of them there; or none."""
    flag, token_flag = "keymanager-addresses", "keymanager-auth-tokens"
    managers = key_managers(values, values.texts(flag), values.texts(token_flag), flag, token_flag)
    if managers and len(managers) != nodes:
        what = f"number of keymanager addresses does not match number of operators: {len(managers)}, {nodes}"
        raise UserError(values.where(flag), what, "give one key manager a node")
    for manager in managers:
        manager.dial()
    return managers


def _check_free(directory: Path, nodes: int, *, is_zipped: bool) -> None:
    check_no_leftovers(directory)
    if is_zipped and is_taken(directory / CLUSTER_ARCHIVE):
        raise UserError(
            str(directory / CLUSTER_ARCHIVE), "already exists", "please delete or move it before running this command"
        )
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
        raise UserError(values.where("split-keys-dir"), "missing", "give the directory of the keystores to split")
    if supplied:
        order_matters = len(set(supplied.validators)) > 1
    else:
        order_matters = any(len(values.texts(f"{name}-addresses")) > 1 for name in ("fee-recipient", "withdrawal"))
    directory = values.path("split-keys-dir")
    keystores = read_keystores(directory) if order_matters else find_keystores(directory, notice)
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


def _write(
    directory: Path,
    dealt: Dealt,
    identity_keys: Sequence[bytes],
    network: Network,
    managers: Sequence[KeyManager],
    *,
    is_insecure: bool,
    is_zipped: bool,
) -> None:
    try:
        fork_version = dealt.lock.definition.fork_version
        deposit_files = encode_deposit_files(dealt.deposits, network.name, fork_version, are_verified=True)  # by the dealer
    except ClusterFault as error:
        raise UserError(str(directory), str(error), "please report this") from error
    lock = encode_lock(dealt.lock)
    password_bytes = KEY_MANAGER_PASSWORD_BYTES if managers else PASSWORD_BYTES
    keystores = _encrypt_shares(dealt, len(identity_keys), is_insecure=is_insecure, password_bytes=password_bytes)
    with staging(directory) as stage:
        for index, key in enumerate(identity_keys):
            stage.write(f"node{index}/{KEY_FILE}", key.hex().encode("ascii"), PRIVATE)
            for name, content in deposit_files.items():
                stage.write(f"node{index}/{name}", content, PUBLIC)
            stage.write(f"node{index}/{LOCK_FILE}", lock, SECRET)
        if not managers:
            for index, of_node in enumerate(keystores):
                stage_keystores(stage, f"node{index}/", of_node)
        if is_zipped:
            pack(stage, CLUSTER_ARCHIVE)
        for index, manager in enumerate(managers):  # last, so that a full disk is found before
            _push(manager, keystores[index], index)
        stage.commit()


def _encrypt_shares(dealt: Dealt, nodes: int, *, is_insecure: bool, password_bytes: int) -> list[list[Keystore]]:
    """The keystores of each node, by validator."""
    validators = dealt.lock.validators
    shares = [of_validator[index] for index in share_indices(nodes) for of_validator in dealt.shares]
    pubkeys = [validator.public_shares[index] for index in range(nodes) for validator in validators]
    keystores = encrypt_all(shares, is_insecure=is_insecure, pubkeys=pubkeys, password_bytes=password_bytes)
    return [keystores[first : first + len(validators)] for first in range(0, len(keystores), len(validators))]


def _push(manager: KeyManager, keystores: Sequence[Keystore], index: int) -> None:
    """Raises UserError; then and when it is interrupted the operator is told where keys of this attempt may be."""
    nodes = "node0" if index == 0 else f"node0 to node{index}"
    left = f"nothing was written; remove the keys of this attempt from the key managers of {nodes}, they belong to no cluster"
    try:
        wait_for(lambda: manager.push(keystores))
    except HttpFault as fault:
        where = f"{manager.where} ({manager.service.label})"
        raise UserError(where, f"post keys to keymanager failed for node{index}: {fault}", f"{left}; then try again") from None
    except KeyboardInterrupt:
        notice(left)
        raise


def _print_summary(directory: Path, nodes: int, *, is_split: bool, is_zipped: bool, has_keystores: bool) -> None:
    if is_split:
        print(_SPLIT_WARNING)
    print("Created charon cluster:")
    print(f" --split-existing-keys={'true' if is_split else 'false'}")
    print()
    print(f"{directory / CLUSTER_ARCHIVE}, with all of:" if is_zipped else f"{directory}/")
    print(f"├─ node[0-{nodes - 1}]/\t\t\tDirectory for each node")
    print("│  ├─ charon-enr-private-key\tCharon networking private key for node authentication")
    print("│  ├─ cluster-lock.json\t\tCluster lock defines the cluster lock file which is signed by all nodes")
    print("│  ├─ deposit-data-*.json\tDeposit data files are used to activate a Distributed Validator on the DV Launchpad")
    if not has_keystores:
        print("The keystores are in the key managers.")
        return
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
        Flag("definition-file", Kind.TEXT, "", "File or URL of a cluster definition to take all of the above and below from"),
        Flag("split-existing-keys", Kind.SWITCH, False, "Split the keys of existing validators"),
        Flag("split-keys-dir", Kind.TEXT, "", "Directory of the keystores to split, with their passwords"),
        Flag("insecure-keys", Kind.SWITCH, False, "Cheap keystores, for tests only; not on mainnet and gnosis"),
        Flag("keymanager-addresses", Kind.TEXTS, (), "URLs of key managers, one a node: they get the keystores, not the disk"),
        Flag(
            "keymanager-auth-tokens",
            Kind.TEXTS,
            (),
            "Access tokens of the key managers, one each",
            secret=True,
            blank=Blank.KEPT,  # key_managers says it together with what else is wrong with a token
        ),
        Flag("zipped", Kind.SWITCH, False, "Write everything into one archive, cluster.tar.gz, and no directories"),
        Flag("publish", Kind.SWITCH, False, "Publish the cluster lock to the Obol API"),
        PUBLISH_ADDRESS,
        *TERMS,
        EXECUTION_CLIENT,
    ],
    example="charon create cluster --name test --nodes 4 --num-validators 1 --network hoodi "
    "--withdrawal-addresses 0x… --fee-recipient-addresses 0x…",
)
