"""Operators as they really are: found through a relay only, no address in their ENRs, nothing listening.

The relays are js-libp2p and the go-libp2p daemon, their URL is a small HTTP server here. Every node is a process of its own.
Source: specification 03 §2.3, §3, §12; 04 §1.3.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from charon_actors.crypto import k1_public_key
from charon_actors.enr import new_record
from charon_actors.p2p.peer_id import peer_id_of, peer_name
from tests.actors.mesh.rig import key_of
from tests.interop.relays import entry_of, list_of, relay_command
from tests.interop.rig import ADDRESS, Bench, Operators, Rig, charon, free_ports, wait_for
from tests.interop.test_operators_path import SLOT_S, SLOTS_PER_EPOCH, Tally

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

VALIDATORS = 4
EVERYBODY = range(4)
LINE = re.compile(r"^\S+ (?P<level>[A-Z]{4}) \S+ +(?P<message>.*?) +(?P<fields>\{.*\})$")


class RelaySite:
    """A relay with the URL that operators give to `--p2p-relays`. requests: the headers that came, in order."""

    def __init__(self, rig: Rig, kind: str, url: str, requests: list[dict[str, str]], pages: dict[str, bytes]) -> None:
        self.rig, self.kind, self.url, self.requests, self.pages = rig, kind, url, requests, pages
        self.key = key_of(500)
        self.name = peer_name(peer_id_of(k1_public_key(self.key)))
        [self.port] = free_ports(1)
        self.pages["/"] = list_of([entry_of(self.key, self.port)])

    def answer_with_enr(self) -> None:
        self.pages["/"] = new_record(self.key, ip="127.0.0.1", tcp=self.port).text.encode()

    def start(self) -> None:
        self.rig.start("relay", *relay_command(self.kind, self.key, self.port, self.rig.folder), stdin=subprocess.PIPE)

    def kill(self) -> None:
        self.rig.stop("relay", signal.SIGKILL)


@contextmanager
def open_site(rig: Rig, kind: str) -> Iterator[RelaySite]:
    """The URL answers, the relay itself isn't started yet."""
    requests: list[dict[str, str]] = []
    pages: dict[str, bytes] = {}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(dict(self.headers.items()))
            body = pages.get(self.path, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield RelaySite(rig, kind, f"http://127.0.0.1:{server.server_address[1]}/", requests, pages)
    finally:
        server.shutdown()
        server.server_close()


def records(log: str, message: str) -> list[dict[str, Any]]:
    """Fields of the log's lines with that message, and their level."""
    found = [match for match in map(LINE.match, log.splitlines()) if match and match["message"] == message]
    return [{"level": match["level"], **json.loads(match["fields"])} for match in found]


def wait_for_each(what: str, ask: Callable[[int], bool], seconds: float, indices: Iterable[int] = EVERYBODY) -> None:
    for index in indices:
        wait_for(f"{what}: node {index}", partial(ask, index), seconds)


def assert_one_cluster(operators: Operators) -> None:
    homes = [folder / ".charon" for folder in operators.folders]
    assert len({(home / "cluster-lock.json").read_bytes() for home in homes}) == 1
    assert len({(home / "deposit-data.json").read_bytes() for home in homes}) == 1


def reserved(operators: Operators, index: int, site: RelaySite) -> bool:
    return operators.metrics(index)[f'p2p_relay_connections{{peer="{site.name}"}}'] == 1


def answering(operators: Operators, index: int) -> list[float]:
    """Of each other node, 1 or 0, by a node's own numbers."""
    return [value for name, value in operators.metrics(index).items() if name.startswith("p2p_ping_success")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    """Four operators behind a js relay with the files of their ceremony, and the headers that the ceremony sent."""
    with Rig(tmp_path_factory.mktemp("cluster")) as rig, open_site(rig, "js") as site:
        operators = Operators(rig, relays=site.url, hidden=EVERYBODY)
        operators.create_dkg(operators.create_enrs(), VALIDATORS)
        site.start()
        operators.dkg()
        yield operators


@pytest.mark.parametrize(("kind", "profile"), [("js", "v1.10"), ("go", "v1.11")])
def test_a_ceremony_of_operators_that_meet_at_a_relay(kind: str, profile: str, tmp_path: Path) -> None:
    """The relay comes up after the nodes did; js is found by a list of addresses, go by an ENR."""
    with Rig(tmp_path) as rig, open_site(rig, kind) as site:
        if kind == "go":
            site.answer_with_enr()
        operators = Operators(rig, relays=site.url, hidden=EVERYBODY)
        operators.create_dkg(operators.create_enrs(), VALIDATORS)
        operators.start_dkg("--profile", profile)
        wait_for("all nodes at the URL", lambda: len(site.requests) >= 4, 30)
        site.start()
        operators.end_dkg()
        assert_one_cluster(operators)
        definition = json.loads((operators.folders[0] / ".charon/cluster-definition.json").read_text())
        for request in site.requests:
            assert request["Charon-Cluster"] == definition["definition_hash"].removeprefix("0x")
            assert request["Cluster-Uuid"] == definition["uuid"]
        for index in EVERYBODY:
            connected = records(rig.log(f"dkg{index}"), "Connected to peer")
            assert len({each["peer"] for each in connected}) == 3
            assert all(each["type"] == "relay" for each in connected)


def test_a_ceremony_of_two_who_listen_and_two_who_do_not(tmp_path: Path) -> None:
    """Those who don't listen dial the others directly and meet each other at the relay, which comes up late."""
    with Rig(tmp_path) as rig, open_site(rig, "js") as site:
        operators = Operators(rig, relays=site.url, hidden=(2, 3))
        operators.create_dkg(operators.create_enrs(), VALIDATORS)
        operators.start_dkg()
        met = lambda index: bool(records(rig.log(f"dkg{index}"), "Connected to peer 2 of 3"))  # noqa: E731
        wait_for_each("both who listen", met, 30, (2, 3))
        site.start()
        operators.end_dkg()
        assert_one_cluster(operators)
        names = [records(rig.log(f"dkg{index}"), "Starting the ceremony")[0]["peer"] for index in EVERYBODY]
        for hidden, other in ((2, 3), (3, 2)):
            connected = records(rig.log(f"dkg{hidden}"), "Connected to peer")
            types = {each["peer"]: each["type"] for each in connected}
            assert types[names[0]] == types[names[1]] == "direct"
            assert {each["type"] for each in connected if each["peer"] == names[other]} == {"relay"}


def test_nodes_behind_a_relay_do_their_duties_and_outlive_it(cluster: Operators, tmp_path: Path) -> None:
    with Rig(tmp_path) as rig, open_site(rig, "js") as site:
        operators = cluster.elsewhere(rig)
        operators.relays = site.url
        site.start()
        bench = Bench(rig, fork="fulu", keys=operators.folders[0] / ".charon/deposit-data.json", slot_seconds=SLOT_S)
        for index in EVERYBODY:
            operators.run(index, bench.url)
        wait_for_each("ready", operators.is_ready, 60)
        for index in EVERYBODY:
            url = f"http://127.0.0.1:{operators.api[index]}"
            bench.client(f"vc{index}", url, operators.folders[index] / ".charon/validator_keys")
        tally = Tally(bench, operators)
        first = SLOTS_PER_EPOCH  # epoch 1: every client has read its duties
        wait_for("epoch 1 and a half", lambda: tally.slot() > first + SLOTS_PER_EPOCH // 2 + 1, 120)
        assert tally.missed(first, tally.slot() - 2) == set()
        lock = json.loads((operators.folders[0] / ".charon/cluster-lock.json").read_text())
        for request in site.requests:
            assert request["Charon-Cluster"] == lock["lock_hash"].removeprefix("0x")[:7]
            assert request["Cluster-Uuid"] == lock["cluster_definition"]["uuid"]
        for index in EVERYBODY:
            assert reserved(operators, index, site)
            assert not records(rig.log(f"node{index}"), "Relay does not work, trying again")

        site.kill()
        wait_for_each("the loss", lambda index: not reserved(operators, index, site), 10)
        time.sleep(2 * SLOT_S)
        assert all(answering(operators, index) == [0, 0, 0] for index in EVERYBODY)
        site.start()
        wait_for_each("all peers again", lambda index: answering(operators, index) == [1, 1, 1], 60)
        back = tally.slot() + 2
        wait_for("an epoch with the relay again", lambda: tally.slot() > back + SLOTS_PER_EPOCH, 60)
        assert tally.missed(back, tally.slot() - 2) == set()
        assert bench.stats()["rejected"] == {}
        for index in EVERYBODY:
            assert operators.is_ready(index)
            assert rig.processes[f"node{index}"].poll() is None
            log = rig.log(f"node{index}")
            [warning] = records(log, "Relay does not work, trying again")
            assert (warning["relay"], warning["peer"], warning["level"]) == (site.url, site.name, "WARN")
            assert len(records(log, "Reserved a place at the relay")) == 2
            assert "Traceback" not in log


def test_without_any_relay_nodes_say_why_and_end(tmp_path: Path) -> None:
    """Every way in which a URL leads nowhere; `run` and `dkg` end after a minute with one line that names them all."""
    with Rig(tmp_path) as rig, open_site(rig, "js") as site:
        other = entry_of(key_of(501), site.port)
        site.pages |= {
            "/html": b"<!DOCTYPE html><title>Welcome to nginx!</title>",
            "/two": list_of([entry_of(site.key, site.port), other]),
            "/huge": b" " * 70_000,
            "/ids": list_of(["/ip4/127.0.0.1/tcp/3610", "relay"]),
        }
        [nobody] = free_ports(1)
        reasons = {
            f"http://127.0.0.1:{nobody}/": "refused",
            f"{site.url}html": "neither an ENR nor a JSON list of multiaddrs",
            f"{site.url}two": "more than one relay",
            f"{site.url}huge": "larger than 65536 bytes",
            f"{site.url}ids": "no address of a relay",
            f"{site.url}missing": "404",
        }
        operators = Operators(rig, relays=",".join(reasons), hidden=EVERYBODY)
        operators.create_dkg(operators.create_enrs(), VALIDATORS)
        done = charon(
            *("create", "cluster", "--nodes", "4", "--num-validators", "1", "--name", "stranded", "--network", "hoodi"),
            *("--withdrawal-addresses", ADDRESS, "--fee-recipient-addresses", ADDRESS, "--insecure-keys"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        start = time.monotonic()
        command = [sys.executable, "-m", "charon_actors.cli.main"]
        processes = {
            "dkg": rig.start("dkg", *command, "dkg", *operators.p2p_flags(0), *operators.genesis_flags, cwd=operators.folders[0]),
            "run": rig.start(
                "run",
                *(*command, "run", *operators.p2p_flags(0), "--beacon-node-endpoints", f"http://127.0.0.1:{nobody}"),
                *("--lock-file", "node0/cluster-lock.json", "--private-key-file", "node0/charon-enr-private-key"),
                *("--validator-api-address", "127.0.0.1:0", "--monitoring-address", "127.0.0.1:0"),
            ),
        }
        for name, process in processes.items():
            assert process.wait(90) == 1, rig.log(name)
            assert 59 < time.monotonic() - start < 75
            log = rig.log(name)
            [line] = [line for line in log.splitlines() if line.startswith("Error: ")]
            assert log.rstrip().endswith(line), "nothing comes after it"
            assert line.startswith("Error: --p2p-relays: no relay could be found within 60 s")
            warnings = records(log, "Relay does not work, trying again")
            for url, reason in reasons.items():
                assert re.search(rf"{re.escape(url)}: [^;]*{reason}", line), line
                [warning] = [each for each in warnings if each["relay"] == url]
                assert warning["level"] == "WARN"
                assert reason in warning["error"]
            assert "Traceback" not in log
