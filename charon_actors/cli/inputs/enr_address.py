"""`--enr-address`: a fixed address in the ENR, of commands that print one. Ours: Charon's ENRs hold the key only.

A flag of its own, not `--p2p-external-ip`: that one stands in many operators' environments for `run`, and must not change their ENR.
"""

import ipaddress

from charon_actors.cli.options.flags import ENR_ADDRESS
from charon_actors.cli.options.table import Values
from charon_actors.enr import Record, new_record
from charon_actors.errors import UserError


def record_of(key: bytes, values: Values) -> Record:
    """The ENR of an identity key (32 bytes), with the address of the flag if it is given. Raises: UserError."""
    text = values.text(ENR_ADDRESS.name)
    if not text:
        return new_record(key)
    host, _, port = text.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError
    except ValueError as error:
        raise UserError(values.where(ENR_ADDRESS.name), f"{text!r} is not ip:port", "write for example 192.0.2.1:3610") from error
    if ip.is_unspecified or ip.is_multicast:
        raise UserError(values.where(ENR_ADDRESS.name), f"nobody can reach {ip}", "give the address that peers see")
    return new_record(key, ip=str(ip), tcp=int(port))
