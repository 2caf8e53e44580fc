"""`charon enr --verbose`: the lines of 02 §1.4, in their order."""

from pathlib import Path

from charon_actors.enr import new_record
from charon_actors.files.identity import load_key_file
from tests.cli.conftest import Charon


def test_the_lines_of_verbose(charon: Charon) -> None:
    charon("create", "enr")
    record = new_record(load_key_file(Path(".charon/charon-enr-private-key"), lambda text: None))
    assert charon("enr", "--verbose").stdout.split("\n") == [
        record.text,
        "",
        "***************** Decoded ENR (see https://enr-viewer.com/ for additional fields) **********************",
        f"secp256k1 pubkey: 0x{record.public_key.hex()}",
        f"signature: 0x{record.signature.hex()}",
        "*" * 104,
        "",
        "",
    ]
