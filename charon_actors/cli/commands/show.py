"""`charon show`: what a file of the cluster says, as a person wants to read it. It verifies nothing; `charon verify` does that.

`--json` for programs; these keys stay (numbers are numbers, bytes are 0x-hex, indices count from 0 and share indices from 1):

    all            kind: "cluster lock", "cluster definition", "ENR", "deposit data", "keystore" or "builder registrations"
    lock,          name, uuid, version, timestamp, network (null when unknown), fork_version, threshold, num_operators,
    definition     num_validators, dkg_algorithm, consensus_protocol, target_gas_limit, compounding, deposit_amounts_gwei,
                   creator {address, is_signed}, operators [{index, share_index, peer_name, peer_id, public_key, address, is_signed,
                   enr}] (peer_name, peer_id, public_key null without a valid ENR), validators [{index, fee_recipient_address,
                   withdrawal_address}], config_hash, definition_hash
    lock           also: lock_hash, num_node_signatures, has_signature_aggregate; its validators also public_key, public_shares,
                   deposits [{amount_gwei, withdrawal_credentials}], gas_limit and registered_at_s (null without registration)
    ENR            enr, peer_name, peer_id, public_key, node_id, seq, ip, tcp, udp
    deposit data   network, fork_version, total_gwei, deposits [{public_key, amount_gwei, withdrawal_credentials}]
    keystore       public_key, path, uuid, description, kdf, version: never what is encrypted
    registrations  registrations [{public_key, fee_recipient, gas_limit, registered_at_s}]

Source: specification 01-cluster-files, sections 1, 2, 5, 6, 7 and 9; 02-enr-discovery, section 1.
"""

import json
from collections.abc import Mapping
from typing import Any

from charon_actors.cli.commands.show_text import print_description
from charon_actors.cli.inputs.cluster_file import read_cluster_file
from charon_actors.cli.inputs.custom_network import custom_networks
from charon_actors.cli.options import flags
from charon_actors.cli.options.flag import Argument, Flag
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.deposit import decode_deposit_file
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import hex_or_empty
from charon_actors.cluster.lock import NO_REGISTRATION, Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.registration import decode_overrides
from charon_actors.crypto import KeystoreFault, decode_keystore, named_public_key
from charon_actors.enr import EnrFault, Record, decode_enr
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network, network_by_fork_version
from charon_actors.file_kinds import FileKind
from charon_actors.p2p.peer_id import peer_id_of, peer_id_text, peer_name
from charon_actors.share_index import share_index_of

MAX_SHOWN_CHARACTERS = 256  # of a keystore's texts

Description = dict[str, Any]


def run(values: Values) -> int:
    where, content, kind = read_cluster_file(values.text("file"))
    try:
        description = {"kind": kind.value, **_describe(where, kind, content, custom_networks(values))}
    except (ClusterFault, EnrFault, KeystoreFault) as error:
        raise UserError(where, str(error), "`charon verify` looks for what is wrong with it") from error
    if values.switch("json"):
        print(json.dumps(description, indent=2))  # ASCII: no control character of the file reaches a terminal
    else:
        print_description(description, is_verbose=values.switch("verbose"))
    return 0


def _describe(where: str, kind: FileKind, content: bytes, networks: tuple[Network, ...]) -> Description:
    if kind is FileKind.LOCK:
        return _lock(decode_lock(content), networks)
    if kind is FileKind.DEFINITION:
        return _definition(decode_definition(content), networks)
    if kind is FileKind.ENR:
        return _enr(decode_enr(content.decode("utf-8", "replace")))
    if kind is FileKind.DEPOSITS:
        file = decode_deposit_file(content)
        return {
            "network": file.network_name,
            "fork_version": hex_or_empty(file.fork_version),
            "total_gwei": sum(deposit.amount_gwei for deposit in file.deposits),
            "deposits": [
                {
                    "public_key": hex_or_empty(deposit.pubkey),
                    "amount_gwei": deposit.amount_gwei,
                    "withdrawal_credentials": hex_or_empty(deposit.withdrawal_credentials),
                }
                for deposit in file.deposits
            ],
        }
    if kind is FileKind.OVERRIDES:
        return {
            "registrations": [
                {
                    "public_key": hex_or_empty(each.pubkey),
                    "fee_recipient": hex_or_empty(each.fee_recipient),
                    "gas_limit": each.gas_limit,
                    "registered_at_s": each.timestamp_s,
                }
                for each in decode_overrides(content)
            ]
        }
    if kind is FileKind.KEYSTORE:
        return _keystore(content)
    raise UserError(where, "holds a private key, which is not shown", "`charon enr` prints its ENR")


def _definition(definition: Definition, networks: tuple[Network, ...]) -> Description:
    network = network_by_fork_version(definition.fork_version, networks)
    return {
        "name": definition.name,
        "uuid": definition.uuid,
        "version": definition.version,
        "timestamp": definition.timestamp,
        "network": network.name if network else None,
        "fork_version": hex_or_empty(definition.fork_version),
        "threshold": definition.threshold,
        "num_operators": len(definition.operators),
        "num_validators": definition.num_validators,
        "dkg_algorithm": definition.dkg_algorithm,
        "consensus_protocol": definition.consensus_protocol,
        "target_gas_limit": definition.target_gas_limit,
        "compounding": definition.compounding,
        "deposit_amounts_gwei": list(definition.deposit_amounts_gwei),
        "creator": {"address": definition.creator.address, "is_signed": bool(definition.creator.config_signature)},
        "operators": [
            {
                "index": index,
                "share_index": share_index_of(index),
                **_identity(operator.enr),
                "address": operator.address,
                "is_signed": bool(operator.config_signature and operator.enr_signature),
                "enr": operator.enr,
            }
            for index, operator in enumerate(definition.operators)
        ],
        "validators": [
            {
                "index": index,
                "fee_recipient_address": row.fee_recipient_address,
                "withdrawal_address": row.withdrawal_address,
            }
            for index, row in enumerate(definition.validators)
        ],
        "config_hash": hex_or_empty(definition.config_hash),
        "definition_hash": hex_or_empty(definition.definition_hash),
    }


def _lock(lock: Lock, networks: tuple[Network, ...]) -> Description:
    description = _definition(lock.definition, networks)
    rows: list[Mapping[str, Any]] = description["validators"]
    nothing = {"fee_recipient_address": "", "withdrawal_address": ""}
    description["validators"] = [
        {
            **(rows[index] if index < len(rows) else {"index": index, **nothing}),
            "public_key": hex_or_empty(validator.public_key),
            "public_shares": [hex_or_empty(share) for share in validator.public_shares],
            "deposits": [
                {
                    "amount_gwei": deposit.amount_gwei,
                    "withdrawal_credentials": hex_or_empty(deposit.withdrawal_credentials),
                }
                for deposit in validator.deposits
            ],
            "gas_limit": None if validator.registration == NO_REGISTRATION else validator.registration.gas_limit,
            "registered_at_s": None if validator.registration == NO_REGISTRATION else validator.registration.timestamp_s,
        }
        for index, validator in enumerate(lock.validators)
    ]
    return {
        **description,
        "lock_hash": hex_or_empty(lock.lock_hash),
        "num_node_signatures": len(lock.node_signatures),
        "has_signature_aggregate": bool(lock.signature_aggregate),
    }


def _enr(record: Record) -> Description:
    return {
        "enr": record.encode().strip(),
        **_identity(record.encode()),
        "node_id": hex_or_empty(record.node_id),
        "seq": record.seq,
        "ip": record.ip,
        "tcp": record.tcp,
        "udp": record.udp,
    }


def _identity(enr: str) -> Description:
    try:
        public_key = decode_enr(enr).public_key
    except EnrFault:
        return {"peer_name": None, "peer_id": None, "public_key": None}
    peer_id = peer_id_of(public_key)
    return {"peer_name": peer_name(peer_id), "peer_id": peer_id_text(peer_id), "public_key": hex_or_empty(public_key)}


def _keystore(content: bytes) -> Description:
    keystore, named = decode_keystore(content), named_public_key(content)
    crypto = keystore.get("crypto")
    kdf = crypto.get("kdf") if isinstance(crypto, dict) else None
    function = kdf.get("function") if isinstance(kdf, dict) else None
    texts = {name: _text(keystore.get(name)) for name in ("path", "uuid", "description")}
    version = keystore.get("version")
    return {
        "public_key": hex_or_empty(named) if named else None,
        **texts,
        "kdf": _text(function),
        "version": version if isinstance(version, int) else None,
    }


def _text(value: object) -> str | None:
    return value[:MAX_SHOWN_CHARACTERS] if isinstance(value, str) else None


command = charon_command(
    "show",
    "Show what a file of the cluster says: a lock, a definition, a deposit file, a keystore (without its secret), builder "
    "registrations or an ENR. FILE is a path, `-` for standard input, or an ENR itself. Verifies nothing; `charon verify` does.",
    run,
    [
        Flag("json", Kind.SWITCH, False, "Print JSON, for programs"),
        Flag("verbose", Kind.SWITCH, False, "Print keys and ENRs in full"),
        *flags.TESTNET,
    ],
    arguments=[Argument("file", "What to show: a path, - for standard input, or an ENR", required=True)],
    example="charon show .charon/cluster-lock.json",
)
