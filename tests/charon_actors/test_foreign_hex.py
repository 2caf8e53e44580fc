"""Hex in files of others is the same value with 0x and without, at every reader."""

import json
import re
from collections.abc import Callable

import pytest

from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.deposit import decode_deposit_file
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.registration import decode_overrides
from charon_actors.crypto.keystore import decode_keystore, decrypt_keystore
from charon_actors.slashing import decode_interchange
from tests.charon_actors.cluster.vectors import CLUSTER
from tests.charon_actors.slashing.test_rules import EIP_EXAMPLE

PASSWORD = (CLUSTER / "keystores/keystore-insecure-0.txt").read_text()
READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "definition": (decode_definition, (CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes()),
    "lock": (decode_lock, (CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes()),
    "deposit data": (decode_deposit_file, (CLUSTER / "signed-v1_11_0/deposit-data.json").read_bytes()),
    "registrations": (decode_overrides, (CLUSTER / "cli-files/builder_registrations_overrides.json").read_bytes()),
    "keystore": (
        lambda content: decrypt_keystore(decode_keystore(content), PASSWORD),
        (CLUSTER / "keystores/keystore-insecure-0.json").read_bytes(),
    ),
    "slashing history": (decode_interchange, json.dumps(EIP_EXAMPLE).encode()),
}
HEX = re.compile(rb'"(?:0x)?((?:[0-9a-f]{2}){21,})"')  # no decimals, and no addresses: their text is kept as it stands


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("prefix", [b"", b"0x"])
def test_hex_is_read_with_0x_and_without(reader: str, prefix: bytes) -> None:
    read, content = READERS[reader]
    written = HEX.sub(lambda match: b'"' + prefix + match[1] + b'"', content)
    assert HEX.search(content)
    assert read(written) == read(content)
