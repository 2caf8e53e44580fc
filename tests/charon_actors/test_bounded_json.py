import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.bounded_json import (
    BLOCK,
    CLUSTER_FILE,
    MAX_DEPTH,
    OBJECT,
    PEER_BLOCK,
    JsonKind,
    TooDeep,
    TooMuch,
    check_depth,
    check_size,
    decode_foreign_json,
    decode_json_file,
    list_in,
    list_of,
)
from charon_actors.eth2 import containers
from charon_actors.eth2.forks import Fork
from tests.charon_actors.eth2.vectors import raw

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text('ab{}[]"\\ é', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("k{}", max_size=2), inner, max_size=4),
    max_leaves=30,
)


@given(JSON)
def test_what_is_not_deep_decodes_as_ever(value: object) -> None:
    assert decode_foreign_json(msgspec.json.encode(value), OBJECT) == value


@given(st.binary(max_size=200) | st.text('[]{}":,1 ', max_size=200).map(str.encode))
def test_hostile_bytes_raise_a_value_error_or_decode(data: bytes) -> None:
    try:
        decode_foreign_json(data, OBJECT)
    except ValueError:
        return
    assert msgspec.json.decode(data) is not NotImplemented


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":[', b"[1,{},"])
def test_deep_nesting_is_refused_whatever_the_recursion_limit(opening: bytes) -> None:
    with pytest.raises(TooDeep):
        decode_foreign_json(opening * 100_000, CLUSTER_FILE)
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        nested = b"[" * depth + b"]" * depth
        if depth <= MAX_DEPTH:
            decode_foreign_json(nested, OBJECT)
        else:
            with pytest.raises(TooDeep):
                check_depth(b"[" + nested * 100 + b"]")


def test_a_program_with_a_raised_recursion_limit_survives() -> None:
    """Without the check this ends in a segmentation fault, which no test could catch: hence a process of its own."""
    code = (
        "import sys; sys.setrecursionlimit(10**6)\n"
        "from charon_actors.eth2.beacon_api import AnswerFault, decode_json\n"
        "from charon_actors.bounded_json import HISTORY\n"
        "try: decode_json(b'[' * 10**6, HISTORY)\n"
        "except AnswerFault: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "refused", done.stderr


@pytest.mark.parametrize("short", [b'{"a":1},', b"[],", b"0,"])
def test_a_file_of_very_many_short_values_is_refused_before_it_costs_memory(short: bytes) -> None:
    with pytest.raises(ValueError, match="more than 4000000 values"):
        decode_json_file(b"[" + short * CLUSTER_FILE.max_values + b"0]", CLUSTER_FILE)


def signs(text: bytes) -> int:
    return sum(text.count(sign) for sign in (b",", b"{", b"[")) + 1


@given(JSON, st.integers(1, 60))
def test_whatever_has_more_values_than_its_kind_is_refused_and_nothing_that_has_fewer_signs(value: object, most: int) -> None:
    text = msgspec.json.encode(value)

    def values(of: object) -> int:
        inner = of.values() if isinstance(of, dict) else of if isinstance(of, list) else ()
        return 1 + sum(map(values, inner))

    try:
        check_size(text, JsonKind("test", 10_000, most))
    except TooMuch:
        assert signs(text) > most or text.count(b"}") + text.count(b"]") > most
    else:
        assert values(value) <= signs(text) <= most


def test_length_is_looked_at_first_and_counting_ends_with_the_first_value_too_many() -> None:
    kind = JsonKind("test", 1000, 10)
    with pytest.raises(TooMuch, match="1001 bytes"):
        check_size(b"[" * 1001, kind)
    with pytest.raises(TooMuch, match="more than 10 values"):
        check_size(b"]" * 11, kind)
    endless = Counted(b"[" + b"{}," * 10_000_000)
    with pytest.raises(TooMuch):
        check_size(endless, JsonKind("test", 2**30, 1000))
    assert endless.read < 2**17


class Counted(bytes):
    """Counts how much of it is sliced off."""

    read = 0

    def __getitem__(self, key: Any) -> Any:
        self.read += key.stop - key.start
        return super().__getitem__(key)


def test_honest_blocks_are_far_below_the_limits_of_their_kinds() -> None:
    """As many blobs as Fulu's second blob fork allows; then everything that makes values, at the most that the gas limit allows."""
    with_blobs = json_of(blobs=21, proofs=21 * 128, transactions=[bytes(1000)] * 300)
    assert 5_900_000 < len(with_blobs) < PEER_BLOCK.max_bytes
    assert 2 * len(with_blobs) < BLOCK.max_bytes
    slashed = json_of(blobs=21, proofs=21 * 128, transactions=[bytes(100)] * 2800, slashed=32_000, deposits=1500)
    for kind in (BLOCK, PEER_BLOCK):
        check_size(slashed, kind)
        assert 4 * signs(slashed) < 3 * kind.max_values


def json_of(*, blobs: int, proofs: int, transactions: list[bytes], slashed: int = 0, deposits: int = 0) -> bytes:
    schema = containers.block_contents(Fork.FULU)
    block = containers.beacon_block(Fork.FULU).decode(raw("eth2/fulu_beacon_block.ssz"))
    block["body"]["execution_payload"]["transactions"] = transactions
    vote = {"slot": 1, "index": 0, "beacon_block_root": bytes(32), "source": {"epoch": 0, "root": bytes(32)}}
    indexed = {
        "attesting_indices": list(range(1_000_000, 1_000_000 + slashed)),
        "data": {**vote, "target": {"epoch": 1, "root": bytes(32)}},
        "signature": bytes(96),
    }
    block["body"]["attester_slashings"] = [{"attestation_1": indexed, "attestation_2": indexed}] if slashed else []
    deposit = {"pubkey": bytes(48), "withdrawal_credentials": bytes(32), "amount": 32 * 10**9, "signature": bytes(96), "index": 1}
    block["body"]["execution_requests"]["deposits"] = [deposit] * deposits
    contents = {"block": block, "kzg_proofs": [bytes(48)] * proofs, "blobs": [bytes(131072)] * blobs}
    return msgspec.json.encode(schema.to_json(contents))


@pytest.mark.parametrize("validators", [1, 100, 1000])
def test_honest_lists_are_at_most_half_of_what_their_kind_allows(validators: int) -> None:
    """What specification 07 and the Beacon API have of each validator, with the longest numbers that there are."""
    vote = {"slot": "9" * 20, "index": "9" * 20, "beacon_block_root": "0x" + "00" * 32}
    point = {"epoch": "9" * 20, "root": "0x" + "00" * 32}
    attestation = {
        "committee_index": "9" * 20,
        "attester_index": "9" * 20,
        "data": {**vote, "source": point, "target": point},
        "signature": "0x" + "00" * 96,
    }
    registration = {
        "message": {"fee_recipient": "0x" + "00" * 20, "gas_limit": "9" * 20, "timestamp": "9" * 20, "pubkey": "0x" + "00" * 48},
        "signature": "0x" + "00" * 96,
    }
    state = {
        "index": "9" * 20,
        "balance": "9" * 20,
        "status": "withdrawal_possible",
        "validator": {
            "pubkey": "0x" + "00" * 48,
            "withdrawal_credentials": "0x" + "00" * 32,
            "effective_balance": "9" * 20,
            "slashed": False,
            "activation_eligibility_epoch": "9" * 20,
            "activation_epoch": "9" * 20,
            "exit_epoch": "9" * 20,
            "withdrawable_epoch": "9" * 20,
        },
    }
    for item in (attestation, registration, state, "9" * 20, "0x" + "00" * 48):
        text = msgspec.json.encode([item] * validators)
        kind = list_of(validators)
        assert 2 * len(text) <= kind.max_bytes
        assert 2 * signs(text) <= kind.max_values
        check_size(text, list_in(text))


DECODERS = re.compile(r"json\.loads?\(|msgspec\.json\.decode\(|json\.Decoder\(|JSONDecoder\(|\.raw_decode\(")
BOUNDED_THEMSELVES = {
    "charon_actors/bounded_json.py",
    "charon_actors/eth2/proposal.py",  # into types of its own, after `check_foreign_json`
    "charon_actors/dkg/signature_exchange.py",  # one text of ENTRY_BYTES
    "charon_actors/cluster/repair.py",  # what has been decoded once
    "charon_actors/cli/options/config_file.py",  # the operator's own, 256 KiB
    "charon_actors/p2p/peer_id.py",  # a file of ours
    "supervisors/simulation/beacon_mock.py",  # the simulation's
}


def test_nobody_else_decodes_json() -> None:
    root = Path(__file__).parents[2]
    sources = [path for room in ("charon_actors", "actors", "supervisors") for path in (root / room).rglob("*.py")]
    found = {str(path.relative_to(root)) for path in sources if DECODERS.search(path.read_text("utf-8"))}
    assert found == BOUNDED_THEMSELVES
