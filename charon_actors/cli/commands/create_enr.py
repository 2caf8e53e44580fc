"""`charon create enr`: a new identity key and its ENR. Source: specification 01, section 1.1; 09, section 1.

The ENR is the only line of stdout that begins with `enr:`, so that scripts find it.
"""

import secrets

from charon_actors.cli.inputs.enr_address import record_of
from charon_actors.cli.options.flags import DATA_DIR, ENR_ADDRESS, FORMER_ENR
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.crypto import k1_generate
from charon_actors.files.identity import KEY_FILE, write_identity


def run(values: Values) -> int:
    key = k1_generate(secrets.token_bytes)
    record = record_of(key, values)
    path = write_identity(values.path("data-dir"), key)
    print(f"Created ENR private key: {path}")
    print(record.encode())
    lines = [
        f"Back up {KEY_FILE}: without it this node",
        "can never be part of its cluster again. The file is",
        str(path),
    ]
    width = max(map(len, lines))
    print()
    print("*" * (width + 4))
    for line in lines:
        print(f"* {line.ljust(width)} *")
    print("*" * (width + 4))
    return 0


command = charon_command(
    "enr",
    "Create an identity key and its ENR. The key is what makes this node an operator of its cluster.",
    run,
    [DATA_DIR, ENR_ADDRESS, *FORMER_ENR],
    example="charon create enr --data-dir .charon",
)
