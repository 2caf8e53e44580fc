"""`charon create dkg`: the definition that all operators of a ceremony start from. Source: specification 01, section 2.2; 11, section 1.

without --publish    written to disk. The leader sends it to everybody; nobody has signed it: what binds the operators is that the
                     ceremony compares its hash
with --publish       sent to the Obol API, and nothing is written. Its creator is an account made for this one call, which accepts
                     Obol's terms and signs the config hash; the link that is shown leads the operators to it
operators            by ENR, whose order is that of the key shares; when published also by address: they join on the launchpad
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from charon_actors.cli.door import notice
from charon_actors.cli.inputs.terms import check_operator_count, definition_from_flags
from charon_actors.cli.options.flag import Flag, environment_name
from charon_actors.cli.options.flags import EXECUTION_CLIENT, PUBLISH_ADDRESS, TERMS, words
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.cli.services.http_request import HttpFault, wait_for
from charon_actors.cli.services.obol_api import ObolApi, obol_api
from charon_actors.cluster.definition import Creator, Definition, Operator
from charon_actors.cluster.definition_json import encode_definition
from charon_actors.cluster.eip712 import creator_config_digest, terms_digest
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.peers import of_consensus_clients
from charon_actors.crypto import CryptoFault, checksum_address, ethereum_address, k1_generate, k1_public_key, k1_sign_recoverable
from charon_actors.dkg.frost import MAX_PARTICIPANTS
from charon_actors.enr import EnrFault, decode_enr
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network
from charon_actors.files.data_directory import DEFINITION_FILE, PUBLIC
from charon_actors.files.staging import is_taken, staging

ALGORITHMS = ("default", "frost", "pedersen")
LAUNCHPAD_HOSTS = {"hoodi": "hoodi.", "sepolia": "sepolia."}


def run(values: Values) -> int:
    operators = _operators(values)
    if values.text("dkg-algorithm") not in ALGORITHMS:
        raise UserError(values.where("dkg-algorithm"), "unknown algorithm", f"choose one of {', '.join(ALGORITHMS)}")
    api = obol_api(values)
    definition, network = definition_from_flags(
        values,
        operators=operators,
        num_validators=values.number("num-validators"),
        dkg_algorithm=values.text("dkg-algorithm"),
        moment=datetime.now(UTC).astimezone(),
        uuid=secrets.token_bytes(16),
    )
    if api is None:
        _write(values, definition)
    else:
        _publish(api, values.where("publish-address"), definition, network)
    return 0


def _operators(values: Values) -> list[Operator]:
    """From ENRs, or from addresses when the definition is published. Raises UserError."""
    enrs, addresses = values.texts("operator-enrs"), values.texts("operator-addresses")
    if enrs and addresses:
        raise UserError(values.where("operator-addresses"), "given together with --operator-enrs", "give one of both")
    if addresses and not values.switch("publish"):
        what = "operators are known by address only where they can join, on the launchpad"
        raise UserError(values.where("operator-addresses"), what, "add --publish, or give --operator-enrs")
    if not enrs and not addresses:
        remedy = f"pass --operator-enrs or set {environment_name('operator-enrs')}"
        raise UserError(values.command, 'required flag(s) "operator-enrs" not set', remedy)
    where = values.where("operator-enrs" if enrs else "operator-addresses")
    check_operator_count(where, len(enrs or addresses), MAX_PARTICIPANTS)
    if enrs:
        _check_enrs(where, enrs)
        operators = [Operator(enr=enr) for enr in enrs]
        for warning in of_consensus_clients(operators):
            notice(f"{where}: {warning}")
        return operators
    return [Operator(address=address) for address in _checksummed(where, addresses)]


def _check_enrs(where: str, enrs: Sequence[str]) -> None:
    operator_of: dict[bytes, int] = {}
    for operator, enr in enumerate(enrs):
        try:
            key = decode_enr(enr).public_key
        except EnrFault as error:
            remedy = "ask that operator for `charon enr`, and copy all of it"
            raise UserError(where, f"invalid ENR: {error} (operator {operator})", remedy) from error
        if key in operator_of:
            what = f"definition contains duplicate peer ids (operators {operator_of[key]} and {operator})"
            raise UserError(where, what, "every operator needs an identity of its own")
        operator_of[key] = operator


def _checksummed(where: str, addresses: Sequence[str]) -> list[str]:
    """In the text of EIP-55. Without upper or without lower case there is no checksum to be wrong. Raises UserError."""
    checksummed: list[str] = []
    for operator, address in enumerate(addresses):
        try:
            text = checksum_address(address)
        except CryptoFault as error:
            what = f"invalid ethereum address (operator {operator})"
            raise UserError(where, what, "write 0x and 40 hex digits") from error
        if address[2:] not in (address[2:].lower(), address[2:].upper()) and address != text:
            raise UserError(where, f"invalid checksummed address: {address}", f"if it is right, write {text}")
        if text in checksummed:
            what = f"the same address twice (operators {checksummed.index(text)} and {operator})"
            raise UserError(where, what, "every operator needs an account of its own")
        checksummed.append(text)
    return checksummed


def _write(values: Values, definition: Definition) -> None:
    directory = values.path("output-dir")
    path = directory / DEFINITION_FILE
    if is_taken(path):
        raise UserError(str(path), f"existing {DEFINITION_FILE} found", "try again after deleting it")
    with staging(directory) as stage:
        stage.write(DEFINITION_FILE, encode_definition(definition), PUBLIC)
        stage.commit()
    notice(f"wrote {path}; send it to all operators. definition hash 0x{definition.definition_hash.hex()}")


def _publish(api: ObolApi, where: str, definition: Definition, network: Network) -> None:
    key = k1_generate(secrets.token_bytes)
    signed = signed_by_creator(definition, key, network.chain_id)

    async def publish() -> None:
        terms = k1_sign_recoverable(key, terms_digest())
        await api.accept_terms(signed.creator.address, signed.fork_version, terms)
        await api.publish_definition(signed)

    try:
        wait_for(publish)
    except HttpFault as fault:
        what = f"publish definition: {fault}"
        raise UserError(f"{where} ({api.service.label})", what, "try again, or leave out --publish and send the file") from None
    notice(f"published the definition; hash 0x{signed.definition_hash.hex()}")
    if signed.operators[0].enr:
        notice(f"send this command to all operators: charon dkg --definition-file={api.definition_link(signed)}")
    else:
        notice(f"send this link to all operators: {launchpad_link(signed, network)}")


def signed_by_creator(definition: Definition, key: bytes, chain_id: int) -> Definition:
    """The definition with the account of a private key (32 bytes) as its creator, whose address is part of the config hash."""
    address = ethereum_address(k1_public_key(key))
    created = with_definition_hashes(replace(definition, creator=Creator(address)))
    signature = k1_sign_recoverable(key, creator_config_digest(created.config_hash, chain_id))
    return with_definition_hashes(replace(created, creator=Creator(address, signature)))


def launchpad_link(definition: Definition, network: Network) -> str:
    """Where operators that are known by address join."""
    return f"https://{LAUNCHPAD_HOSTS.get(network.name, '')}launchpad.obol.org/dv#0x{definition.config_hash.hex()}"


command = charon_command(
    "dkg",
    "Write the cluster definition for a ceremony. One operator does this and sends the file to the others.",
    run,
    [
        Flag("operator-enrs", Kind.TEXTS, (), "ENRs of all operators; their order is that of the key shares"),
        Flag("operator-addresses", Kind.TEXTS, (), "Instead, with --publish: Ethereum addresses of all operators"),
        Flag("num-validators", Kind.NUMBER, 1, "Number of validators to make keys for"),
        Flag("threshold", Kind.NUMBER, 0, "Operators needed to sign; standard is two thirds, rounded up", short="t"),
        Flag("output-dir", Kind.TEXT, ".charon", "Directory that cluster-definition.json is written to"),
        Flag(
            "dkg-algorithm",
            Kind.TEXT,
            "default",
            "Algorithm of the ceremony: default, frost or pedersen",
            words=words(*ALGORITHMS),
            has_more_words=True,
        ),
        Flag("publish", Kind.SWITCH, False, "Publish the definition to the Obol API instead of writing it to disk"),
        PUBLISH_ADDRESS,
        *TERMS,
        replace(EXECUTION_CLIENT, inert="nobody but the creator has signed a new definition"),
    ],
    example="charon create dkg --name Sol --operator-enrs enr:-…,enr:-…,enr:-… --network hoodi "
    "--withdrawal-addresses 0x… --fee-recipient-addresses 0x…",
)
