"""How `charon show` looks: a description (`show.py`) as aligned lines; on a terminal its lists as tables.

Every text of a file goes through `one_line`, so no control character or escape sequence reaches the terminal.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from charon_actors.cli.door import one_line
from charon_actors.cli.verification.files import eth_text
from charon_actors.cli.verification.report import is_utf8_terminal, say

NOT_VERIFIED: Final = "not verified; `charon verify` does that"
SHORT: Final = 24  # longer keys and ENRs are cut in their middle, without --verbose
MAX_YEAR_S: Final = 253402300799  # the end of 9999

Rows = Sequence[Sequence[str]]


def print_description(description: Mapping[str, Any], *, is_verbose: bool) -> None:
    """Simple values first, then a table for each list."""

    def short(text: str | None) -> str:
        if not text:
            return "-"
        return text if is_verbose or len(text) <= SHORT else f"{text[:12]}…{text[-8:]}"

    kind = description["kind"]
    say(f"{kind}, {NOT_VERIFIED}" if kind != "ENR" else f"{kind}, its signature is right")
    _print_lines(_summary(description))
    for title, head, rows in _tables(description, short):
        _print_table(f"{title} ({len(rows)})", head, rows)


def _summary(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in description.items():
        if name == "kind" or (isinstance(value, list) and name != "deposit_amounts_gwei"):
            continue
        match name:
            case "threshold":
                lines.append(("threshold", f"{value} of {description['num_operators']} operators"))
            case "num_operators" | "num_validators" | "num_node_signatures" | "fork_version":
                pass
            case "network":
                lines.append((name, f"{value or 'unknown'}, fork version {description['fork_version']}"))
            case "deposit_amounts_gwei":
                lines.append(("deposit amounts", ", ".join(map(eth_text, value)) or "the defaults"))
            case "total_gwei":
                lines.append(("total", eth_text(value)))
            case "has_signature_aggregate":
                aggregate = "an aggregate of all key shares" if value else "no aggregate"
                lines.append(("signatures", f"{aggregate}, {description['num_node_signatures']} of nodes"))
            case "creator":
                signed = "signed" if value["is_signed"] else "not signed"
                lines.append((name, f"{value['address']}, {signed}" if value["address"] else "none"))
            case "consensus_protocol":
                lines.append(("consensus protocol", value or "automatic"))
            case _:
                lines.append((name.replace("_", " "), _plain(value)))
    return lines


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)


def _tables(description: Mapping[str, Any], short: Any) -> list[tuple[str, Sequence[str], Rows]]:
    tables: list[tuple[str, Sequence[str], Rows]] = []
    if "operators" in description:
        rows = [
            [
                str(each["index"]),
                str(each["share_index"]),
                each["peer_name"] or "- (no valid ENR)",
                each["address"] or "-",
                "yes" if each["is_signed"] else "no",
                short(each["peer_id"]),
                short(each["enr"]),
            ]
            for each in description["operators"]
        ]
        tables.append(("operators", ("index", "share", "peer name", "address", "signed", "peer id", "ENR"), rows))
    validators = description.get("validators", [])
    if validators and "public_key" in validators[0]:
        rows = [
            [
                str(each["index"]),
                short(each["public_key"]),
                each["fee_recipient_address"] or "-",
                each["withdrawal_address"] or "-",
                ", ".join(eth_text(deposit["amount_gwei"]) for deposit in each["deposits"]) or "-",
                _plain(each["gas_limit"]),
            ]
            for each in validators
        ]
        head = ("index", "public key", "fee recipient", "withdrawal address", "deposits", "gas limit")
        tables.append(("validators", head, rows))
    elif "validators" in description:
        rows = [[str(v["index"]), v["fee_recipient_address"] or "-", v["withdrawal_address"] or "-"] for v in validators]
        tables.append(("validators", ("index", "fee recipient", "withdrawal address"), rows))
    if "deposits" in description:
        rows = [
            [short(each["public_key"]), eth_text(each["amount_gwei"]), each["withdrawal_credentials"]]
            for each in description["deposits"]
        ]
        tables.append(("deposits", ("public key", "amount", "withdrawal credentials"), rows))
    if "registrations" in description:
        rows = [
            [short(each["public_key"]), each["fee_recipient"], str(each["gas_limit"]), _moment(each["registered_at_s"])]
            for each in description["registrations"]
        ]
        tables.append(("registrations", ("public key", "fee recipient", "gas limit", "registered at"), rows))
    return tables


def _moment(seconds: int) -> str:
    if seconds > MAX_YEAR_S:
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _print_lines(lines: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        say(value, f"  {name:{width}}  ")


def _print_table(title: str, head: Sequence[str], rows: Rows) -> None:
    say("")
    say(title)
    shown = [[one_line(cell) for cell in row] for row in rows]
    if is_utf8_terminal():
        _print_rich(head, shown)
        return
    widths = [max(len(row[column]) for row in [head, *shown]) for column in range(len(head))]
    for row in [head, *shown]:
        cells = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        say("", f"  {cells.rstrip()}")


def _print_rich(head: Sequence[str], rows: Rows) -> None:
    from rich.console import Console  # 0.1 s
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
