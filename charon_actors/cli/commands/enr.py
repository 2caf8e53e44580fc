"""`charon enr`: print the ENR of the identity key, alone on one line. Source: specification 02, section 1.4.

With --verbose the lines of Charon follow, to the character: scripts cut keys and signatures out of them.
"""

from typing import Final

from charon_actors.cli.door import notice
from charon_actors.cli.inputs.enr_address import record_of
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.flags import DATA_DIR, ENR_ADDRESS, FORMER_ENR
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.files.identity import KEY_FILE, load_key_file

HEADING: Final = f"{'*' * 17} Decoded ENR (see https://enr-viewer.com/ for additional fields) {'*' * 22}"
RULE: Final = "*" * 104


def run(values: Values) -> int:
    record = record_of(load_key_file(values.path("data-dir") / KEY_FILE, notice), values)
    print(record.encode())
    if values.switch("verbose"):
        print(f"\n{HEADING}")
        print(f"secp256k1 pubkey: 0x{record.public_key.hex()}")
        print(f"signature: 0x{record.signature.hex()}")
        print(f"{RULE}\n")
    return 0


command = charon_command(
    "enr",
    "Print the ENR of the identity key.",
    run,
    [DATA_DIR, ENR_ADDRESS, Flag("verbose", Kind.SWITCH, False, "Also print public key and signature"), *FORMER_ENR],
    example="charon enr",
)
