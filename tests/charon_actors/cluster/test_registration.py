"""The overrides file of builder registrations, as `feerecipient fetch` of real Charon wrote it."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.registration import decode_overrides, encode_overrides, verify_registrations
from tests.charon_actors.cluster.vectors import CLUSTER

FILE = (CLUSTER / "cli-files/builder_registrations_overrides.json").read_bytes()
LOCK = decode_lock((CLUSTER / "cli-files/cluster-lock.json").read_bytes())


def test_a_file_of_real_charon_is_read_verified_and_written_byte_for_byte() -> None:
    registrations = decode_overrides(FILE)
    assert [each.pubkey for each in registrations] == [LOCK.validators[0].public_key]
    verify_registrations(registrations, LOCK.definition.fork_version)
    assert encode_overrides(registrations) == FILE


def test_registrations_of_locks_verify_as_well_and_wrong_ones_are_named() -> None:
    registrations = [validator.registration for validator in LOCK.validators]
    verify_registrations(registrations, LOCK.definition.fork_version)
    assert decode_overrides(encode_overrides(registrations)) == tuple(registrations)
    wrong = replace(registrations[1], gas_limit=registrations[1].gas_limit + 1)
    with pytest.raises(ClusterFault, match=f"not verified .validator 0x{wrong.pubkey.hex()}"):
        verify_registrations([registrations[0], wrong], LOCK.definition.fork_version)
    verify_registrations([], LOCK.definition.fork_version)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: row.update(version="v2"), r"overrides\[0\].version: expected v1"),
        (lambda row: row["v1"].update(signature="0x00"), r"v1.signature: expected 96 bytes, not 1"),
        (lambda row: row["v1"]["message"].update(pubkey=""), r"pubkey: expected 48 bytes, not 0"),
        (lambda row: row["v1"]["message"].update(gas_limit=60000000), "gas_limit: expected a text"),
        (lambda row: row["v1"]["message"].update(timestamp="-1"), "timestamp: expected a decimal number in quotes"),
        (lambda row: row["v1"]["message"].update(fee_recipient="0x12"), "fee_recipient: expected 20 bytes"),
        (lambda row: row.pop("v1"), "expected 20 bytes, not 0"),
    ],
)
def test_other_files_are_refused_with_the_field(change: Any, fault: str) -> None:
    rows = json.loads(FILE)
    change(rows[0])
    with pytest.raises(ClusterFault, match=fault):
        decode_overrides(json.dumps(rows).encode())
