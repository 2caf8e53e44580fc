"""`charon create dkg`: write the definition that all operators of a ceremony start from. Source: specification 01, section 2.2.

The leader runs it once with the ENRs of all operators, in the order that becomes the order of key shares, and sends the file to
everybody. Nobody has signed it yet: what binds the operators is that the ceremony compares its hash.
"""

import secrets
from datetime import UTC, datetime

from charon_actors.cli.door import notice
from charon_actors.cli.flags import TERMS
from charon_actors.cli.options import Flag, Values, charon_command
from charon_actors.cli.terms import check_operator_count, definition_from_flags
from charon_actors.cli.values import Kind
from charon_actors.cluster.data_directory import DEFINITION_FILE, PUBLIC
from charon_actors.cluster.definition import Operator, encode_definition
from charon_actors.cluster.staging import is_taken, staging
from charon_actors.enr import EnrFault, decode_enr
from charon_actors.errors import UserError

ALGORITHMS = ("default", "frost", "pedersen")


def run(values: Values) -> int:
    enrs, where = values.texts("operator-enrs"), values.where("operator-enrs")
    check_operator_count(where, len(enrs))
    _check_enrs(where, enrs)
    if values.text("dkg-algorithm") not in ALGORITHMS:
        raise UserError(values.where("dkg-algorithm"), "unknown algorithm", f"choose one of {', '.join(ALGORITHMS)}")
    definition, _ = definition_from_flags(
        values,
        operators=[Operator(enr=enr) for enr in enrs],
        num_validators=values.number("num-validators"),
        dkg_algorithm=values.text("dkg-algorithm"),
        moment=datetime.now(UTC).astimezone(),
        uuid=secrets.token_bytes(16),
    )
    directory = values.path("output-dir")
    path = directory / DEFINITION_FILE
    if is_taken(path):
        raise UserError(str(path), f"existing {DEFINITION_FILE} found", "try again after deleting it")
    with staging(directory) as stage:
        stage.write(DEFINITION_FILE, encode_definition(definition), PUBLIC)
        stage.commit()
    notice(f"wrote {path}; send it to all operators. definition hash 0x{definition.definition_hash.hex()}")
    return 0


def _check_enrs(where: str, enrs: tuple[str, ...]) -> None:
    operator_of: dict[bytes, int] = {}
    for operator, enr in enumerate(enrs):
        try:
            key = decode_enr(enr).public_key
        except EnrFault as error:
            raise UserError(where, f"invalid ENR: {error} (operator {operator})", "ask that operator for `charon enr`") from error
        if key in operator_of:
            what = f"definition contains duplicate peer ids (operators {operator_of[key]} and {operator})"
            raise UserError(where, what, "every operator needs an identity of its own")
        operator_of[key] = operator


command = charon_command(
    "dkg",
    "Write the cluster definition for a ceremony. One operator does this and sends the file to the others.",
    run,
    [
        Flag("operator-enrs", Kind.TEXTS, (), "ENRs of all operators; their order is that of the key shares", required=True),
        Flag("num-validators", Kind.NUMBER, 1, "Number of validators to make keys for"),
        Flag("threshold", Kind.NUMBER, 0, "Operators needed to sign; standard is two thirds, rounded up", short="t"),
        Flag("output-dir", Kind.TEXT, ".charon", "Directory that cluster-definition.json is written to"),
        Flag("dkg-algorithm", Kind.TEXT, "default", "Algorithm of the ceremony: default, frost or pedersen"),
        *TERMS,
    ],
    example="charon create dkg --name Sol --operator-enrs enr:-…,enr:-…,enr:-… --network hoodi "
    "--withdrawal-addresses 0x… --fee-recipient-addresses 0x…",
)
