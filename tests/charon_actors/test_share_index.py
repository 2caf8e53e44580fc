"""Peer index and share index, against the numbering of the FROST vector; and nobody converts on their own."""

import json
import re
from pathlib import Path

from charon_actors.crypto import public_key
from charon_actors.share_index import by_share_index, peer_index_of, share_index_of, share_indices

ROOT = Path(__file__).parents[2]
FROST = json.loads((ROOT / "tests/vectors/dkg/frost_n4_t3.json").read_text())
CONVERSION = re.compile(
    r"\b\w*(peer|share|own|operator)_(index|idx)\)? [+-] 1\b"
    r"|public_shares\[[^]]* - 1\]"
    r"|enumerate\([\w.]*public_shares, "
)


def test_each_number_is_one_operators() -> None:
    assert [share_index_of(peer_index) for peer_index in range(4)] == list(share_indices(4)) == [1, 2, 3, 4]
    assert [peer_index_of(share_index) for share_index in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert by_share_index("abc") == {1: "a", 2: "b", 3: "c"}


def test_the_operators_of_the_vector_have_the_share_indices_that_it_says() -> None:
    for validator in FROST["validators"]:
        operators = validator["participants"]
        assert [share_index_of(place) for place in range(len(operators))] == [operator["id"] for operator in operators]
        shares = by_share_index(public_key(bytes.fromhex(operator["secret_share"])).hex() for operator in operators)
        assert {str(share_index): share for share_index, share in shares.items()} == validator["public_shares"]


def test_no_file_converts_on_its_own() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for floor in ("charon_actors", "actors", "supervisors")
        for path in sorted((ROOT / floor).rglob("*.py"))
        if path.name != "share_index.py"
        for match in CONVERSION.finditer(path.read_text())
    ]
    assert found == []
