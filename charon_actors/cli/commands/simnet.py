"""`charon simnet`: a whole cluster in one process, for a look and for a smoke test. Ours, not Charon's."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from charon_actors.cli.door import run_program
from charon_actors.cli.log import set_up_log
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.flags import LEVEL_WORDS
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.errors import UserError

if TYPE_CHECKING:
    from supervisors.simnet import SimnetView

MIN_SLOT_S: Final = 0.5
MAX_SLOT_S: Final = 60.0

FLAGS: Final = (
    Flag("nodes", Kind.NUMBER, 4, "Number of nodes, 3 to 16"),
    Flag("validators", Kind.NUMBER, 2, "Number of validators, 1 to 64"),
    Flag("slots", Kind.NUMBER, 0, "End after that many slots; 0 runs until Ctrl-C"),
    Flag("slot-duration", Kind.DURATION, 1.0, "Length of a slot, 500ms to 1m"),
    Flag("seed", Kind.NUMBER, 0, "Keys and identities are made from it"),
    Flag("report", Kind.TEXT, "", "Write a JSON report to this file at the end"),
    Flag(
        "log-level",
        Kind.TEXT,
        "error",
        "Least level of the nodes' log lines that are shown: debug, info, warn or error",
        words=LEVEL_WORDS,
    ),
)


def run(values: Values) -> int:
    """Run it; 0 only if every duty expected after readiness succeeded on every node."""
    from supervisors.simnet import MAX_NODES, MAX_VALIDATORS, MIN_NODES, SimnetSettings, SimnetView, run_simnet

    nodes, validators, slots = values.number("nodes"), values.number("validators"), values.number("slots")
    slot_s = values.seconds("slot-duration")
    _within(values, "nodes", nodes, MIN_NODES, MAX_NODES)
    _within(values, "validators", validators, 1, MAX_VALIDATORS)
    _within(values, "slots", slots, 0, 1_000_000)
    if not MIN_SLOT_S <= slot_s <= MAX_SLOT_S:
        raise UserError(values.where("slot-duration"), "is out of range", "give 500ms to 1m")
    set_up_log("console", values.text("log-level"), "auto")
    report = values.path("report") if values.text("report") else None
    if report is not None:
        _check_writable(report, values.where("report"))

    view, screen = SimnetView([]), _Screen()

    def show(now: SimnetView) -> None:
        nonlocal view
        view = now
        if view.counted:
            screen.show(view)

    async def program(directory: Path) -> None:
        settings = SimnetSettings(directory, nodes, validators, slots or None, slot_s, values.number("seed"))
        print(f"simnet: {nodes} nodes, {validators} validators, slots of {slot_s:g} s; Ctrl-C ends it", flush=True)
        await run_simnet(settings, on_change=show)

    with tempfile.TemporaryDirectory(prefix="charon-simnet-") as directory, screen:
        run_program(lambda: program(Path(directory)))
    _print_summary(view, slot_s)
    if report is not None:
        try:
            report.write_text(json.dumps(view.report(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise _cannot_write(report, values.where("report"), error) from error
    return 0 if view.is_ok else 1


class _Screen:
    """A live table on a terminal, a line a slot elsewhere."""

    def __init__(self) -> None:
        self._live: Any = None
        self._last_line = ""

    def __enter__(self) -> "_Screen":
        import sys

        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: "SimnetView") -> None:
        if self._live is not None:
            self._live.update(_table(view), refresh=True)
            return
        duties = " ".join(
            f"{kind} {sum(node.succeeded[kind] for node in view.nodes)}/{sum(node.expected[kind] for node in view.nodes)}"
            for kind in view.nodes[0].expected
        )
        peers = ",".join(str(node.peers) for node in view.nodes)
        rtts = [node.rtt_ms for node in view.nodes if node.rtt_ms is not None]
        rtt = f" rtt {max(rtts):.1f} ms" if rtts else ""
        line = f"slot {view.slot:4}  {duties}  peers {peers}"
        if line != self._last_line:  # the last slot is shown once more, complete, when it is over
            print(line + rtt, flush=True)
        self._last_line = line


def _table(view: "SimnetView") -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    failures = [f"node {node.index} last missed {node.failures[-1]}" for node in view.nodes if node.failures]
    title = f"slot {view.slot}, {view.counted} counted"
    table = Table(title=title, caption="\n".join(failures), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("node", "name", "ready", "peers", "rtt", "proposer", "attester", "p50"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for node in view.nodes:
        latencies = sorted(seconds for kind in node.latencies_s.values() for seconds in kind)
        table.add_row(
            str(node.index),
            node.name,
            "-" if node.ready_s is None else f"{node.ready_s:.1f} s",
            str(node.peers),
            "-" if node.rtt_ms is None else f"{node.rtt_ms:.1f} ms",
            *(f"{node.succeeded[kind]}/{node.expected[kind]}" for kind in ("proposer", "attester")),
            f"{1000 * latencies[len(latencies) // 2]:.0f} ms" if latencies else "-",
        )
    return table


def _print_summary(view: "SimnetView", slot_s: float) -> None:
    for node in view.report()["nodes"]:
        if node["ready_s"] is None:
            print(f"node {node['index']}: not ready yet")
            continue
        duties = ", ".join(f"{kind} {counts['succeeded']}/{counts['expected']}" for kind, counts in node["duties"].items())
        latencies = "".join(
            f"; {kind} p50 {each['p50']} p99 {each['p99']} ms"
            for kind, each in node["latency_ms"].items()
            if each["p50"] is not None
        )
        print(f"node {node['index']}: ready after {node['ready_s']} s; {duties}{latencies}")
    for reason, count in view.refused.items():
        print(f"the beacon mock refused {count} times: {reason}")
    for seen in view.nodes:
        for failure in seen.failures[:5]:
            print(f"node {seen.index}: {failure}")
    failures = [failure for node in view.nodes for failure in node.failures]
    if failures and all(failure.endswith(("in time", "before its deadline")) for failure in failures):
        print(f"Late, not wrong: this machine may be too busy for slots of {slot_s:g} s, try --slot-duration {4 * slot_s:g}s")
    if view.counted:
        print(f"simnet: {'ok' if view.is_ok else 'NOT ok'} after {view.counted} slots")
    else:
        print("simnet: NOT ok, it ended before the first slot was over")


def _within(values: Values, name: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise UserError(values.where(name), f"{number} is out of range", f"give {least} to {most}")


def _check_writable(path: Path, where: str) -> None:
    """Before a long run, not after it. Leaves nothing behind."""
    is_new = not path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise _cannot_write(path, where, error) from error


def _cannot_write(path: Path, where: str, error: OSError) -> UserError:
    return UserError(where, f"{path} can't be written ({error.strerror})", "choose another file")


command = charon_command(
    "simnet",
    "Run a whole cluster in one process, with mocks of the beacon node and the validator clients",
    run,
    FLAGS,
    example="charon simnet --nodes 4 --validators 2 --slots 20",
)
