"""From flags to the terms of a new cluster: what `create dkg` and `create cluster` check alike.

Checks in Charon's order (specification 01, section 2.2), all of them for both commands: Charon checks names, checksums and zero
addresses only for some ways to give them. Errors carry Charon's texts, which people search for.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from charon_actors.cli.door import notice
from charon_actors.cli.inputs.custom_network import chosen_network
from charon_actors.cli.options.table import Values
from charon_actors.cluster.definition import Creator, Definition, Operator, ValidatorAddresses
from charon_actors.cluster.deposit import GWEI_PER_ETH, check_deposit_amounts
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.schema import WRITTEN_VERSIONS
from charon_actors.cluster.threshold import MIN_OPERATORS, default_threshold
from charon_actors.crypto import CryptoFault, checksum_address
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network
from charon_actors.file_kinds import MAX_FILE_BYTES

MAX_OPERATORS = 256
MAX_VALIDATORS = 65536
LOCK_BYTES_A_VALIDATOR, LOCK_BYTES_A_SHARE, LOCK_BYTES_A_DEPOSIT = 3000, 120, 500  # a little more than they are
ZERO_ADDRESS = "0x" + "00" * 20
GUARDED_NETWORKS = ("mainnet", "gnosis")


def chosen_threshold(values: Values, operators: int) -> int:
    """The explicit threshold, checked, or ceil(2n/3). Raises UserError."""
    standard = default_threshold(operators)
    if not values.is_set("threshold"):
        return standard
    threshold, where = values.number("threshold"), values.where("threshold")
    if threshold < 2:
        raise UserError(where, "threshold below minimum", "the least is 2; leave it out for the standard")
    if threshold > operators:
        raise UserError(where, "threshold exceeds number of nodes", f"there are {operators}; leave it out for the standard")
    if threshold != standard:
        effect = "safety" if threshold < standard else "availability"
        notice(f"threshold {threshold} of {operators} is not the standard {standard}; it weakens the cluster's {effect}")
    return threshold


def check_operator_count(where: str, operators: int, most: int = MAX_OPERATORS) -> None:
    """Raises UserError below 3 or above `most`."""
    if operators < MIN_OPERATORS:
        raise UserError(where, f"number of operators is below minimum ({operators})", f"give at least {MIN_OPERATORS}")
    if operators > most:
        raise UserError(where, f"too many operators ({operators})", f"the most is {most}")


def definition_from_flags(
    values: Values, *, operators: Sequence[Operator], num_validators: int, dkg_algorithm: str, moment: datetime, uuid: bytes
) -> tuple[Definition, Network]:
    """The definition, unsigned, with its hashes. moment: local time with offset. uuid: 16 random bytes. Raises UserError."""
    threshold = chosen_threshold(values, len(operators))
    if values.text("schema-version") not in WRITTEN_VERSIONS:
        raise UserError(
            values.where("schema-version"), "unsupported definition version", f"choose one of {', '.join(WRITTEN_VERSIONS)}"
        )
    network = chosen_network(values)
    amounts = deposit_amounts_gwei(values)
    protocol = values.text("consensus-protocol")
    if protocol and protocol.lower() != "qbft":
        raise UserError(values.where("consensus-protocol"), "unsupported consensus protocol", "leave it out, or say qbft")
    if not 1 <= num_validators <= MAX_VALIDATORS:
        raise UserError(values.where("num-validators"), "is out of range", f"give 1 to {MAX_VALIDATORS}")
    most = MAX_FILE_BYTES // (LOCK_BYTES_A_VALIDATOR + LOCK_BYTES_A_SHARE * len(operators) + LOCK_BYTES_A_DEPOSIT * len(amounts))
    if num_validators > most:
        what = f"a lock of {num_validators} validators and {len(operators)} operators is larger than any that can be read"
        raise UserError(values.where("num-validators"), what, f"give {most} at most, and make several clusters")
    validators = _addresses(values, num_validators)
    check_withdrawal_addresses(values.where("withdrawal-addresses"), validators, network)
    if values.number("target-gas-limit") == 0:
        raise UserError(values.where("target-gas-limit"), "target gas limit not set", "leave it out for 60000000")
    try:
        definition = with_definition_hashes(
            Definition(
                name=_name(values),
                creator=Creator(),
                operators=tuple(operators),
                uuid=str(UUID(bytes=uuid, version=4)).upper(),
                version=values.text("schema-version"),
                timestamp=moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
                num_validators=num_validators,
                threshold=threshold,
                validators=validators,
                dkg_algorithm=dkg_algorithm,
                fork_version=network.genesis_fork_version,
                deposit_amounts_gwei=amounts,
                consensus_protocol=protocol,
                target_gas_limit=values.number("target-gas-limit"),
                compounding=values.switch("compounding"),
            )
        )
    except ClusterFault as error:
        raise UserError(values.command, str(error), "correct it") from error
    return definition, network


def deposit_amounts_gwei(values: Values) -> tuple[int, ...]:
    """The amounts of `--deposit-amounts`, checked; empty when the flag is absent. Raises UserError."""
    amounts = tuple(amount * GWEI_PER_ETH for amount in values.numbers("deposit-amounts"))
    try:
        check_deposit_amounts(amounts, compounding=values.switch("compounding"))
    except ClusterFault as error:
        raise UserError(values.where("deposit-amounts"), str(error), "give whole ETH, such as 1,31") from error
    return amounts


def check_withdrawal_addresses(where: str, validators: Sequence[ValidatorAddresses], network: Network) -> None:
    """Exact EIP-55 text, and not zero where that burns real money. Raises UserError."""
    for address in dict.fromkeys(validator.withdrawal_address for validator in validators):
        try:
            checksummed = checksum_address(address)
        except CryptoFault as error:
            raise UserError(where, f"invalid ethereum address: {_shown(address)}", "write 0x and 40 hex digits") from error
        if address == ZERO_ADDRESS and network.name in GUARDED_NETWORKS:
            raise UserError(where, "zero address forbidden on this network", "give an address that you control")
        if address != checksummed:
            raise UserError(where, f"invalid checksummed address: {address}", f"if it is right, write {checksummed}")


def _addresses(values: Values, num_validators: int) -> tuple[ValidatorAddresses, ...]:
    lists = []
    for name in ("fee-recipient-addresses", "withdrawal-addresses"):
        addresses = values.texts(name)
        if len(addresses) not in (1, num_validators):
            raise UserError(
                values.where(name),
                f"mismatching --num-validators and --{name}: {num_validators} validators, {len(addresses)} addresses",
                "give one address for all, or one each",
            )
        lists.append(addresses * num_validators if len(addresses) == 1 else addresses)
    for address in dict.fromkeys(lists[0]):
        where = values.where("fee-recipient-addresses")
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", address, flags=re.ASCII):
            raise UserError(where, f"invalid ethereum address: {_shown(address)}", "write 0x and 40 hex digits")
        is_mixed = address[2:] not in (address[2:].lower(), address[2:].upper())
        if is_mixed and address != checksum_address(address):
            notice(f"{where}: {address} has a wrong EIP-55 checksum; check that every digit is right")
    return tuple(ValidatorAddresses(fee, withdrawal) for fee, withdrawal in zip(*lists, strict=True))


def _name(values: Values) -> str:
    name = values.text("name")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(values.where("name"), "the name is no valid text", "write it as UTF-8") from error
    return name


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
