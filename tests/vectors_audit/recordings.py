"""HTTP recordings of real Charon nodes and of validator clients in front of them, one exchange a line (tests/vectors/live/http)."""

import gzip
import json
from functools import lru_cache
from typing import Any

from charon_actors.eth2.chain import Chain, chain_from_answers
from tests.vector import ROOT

BEACON = ("bn-1.10.3-fulu-start", "bn-1.10.3-builder", "bn-1.10.3-lodestar-capella", "bn-main-fulu-start")
CLIENT = (
    "vc-1.10.3-fulu",
    "vc-1.10.3-builder",
    "vc-1.10.3-lodestar-capella",
    "vc-main-fulu",
    "vc-mixed-on-1.10.3",
    "vc-mixed-on-main",
)
CHARONS_AGENTS = ("Go-http-client", "go-eth2-client")


@lru_cache
def recording(name: str) -> list[dict[str, Any]]:
    content = (ROOT / f"live/http/{name}.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(content).splitlines()]


def is_charons(line: dict[str, Any]) -> bool:
    """Asked by the node itself; the rest of a recording was passed on for its client, or is one event of a stream."""
    return str(line.get("request_headers", {}).get("user-agent", "")).startswith(CHARONS_AGENTS)


def body_of(value: Any) -> bytes:
    """The bytes of a request or an answer: binary ones are recorded as 0x-hex."""
    if value is None:
        return b""
    if isinstance(value, str):
        return bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode()
    return json.dumps(value).encode()


def answer_to(lines: list[dict[str, Any]], path: str) -> Any:
    return next(line["response"] for line in lines if line["path"] == path and line["status"] == 200)


def fork_schedule_of(spec: Any) -> list[dict[str, str]]:
    """What the beacon node's schedule must have been, for recordings in which nobody asked."""
    data = spec["data"]
    forks = [("GENESIS", "0")] + [
        (f, data.get(f"{f}_FORK_EPOCH")) for f in ("ALTAIR", "BELLATRIX", "CAPELLA", "DENEB", "ELECTRA", "FULU")
    ]
    named = [(data[f"{fork}_FORK_VERSION"], epoch) for fork, epoch in forks if epoch is not None and epoch != str(2**64 - 1)]
    return [{"previous_version": version, "current_version": version, "epoch": epoch} for version, epoch in named]


def chain_of(name: str) -> Chain:
    lines = recording(name)
    spec = answer_to(lines, "/eth/v1/config/spec")
    schedule = [line["response"] for line in lines if line["path"] == "/eth/v1/config/fork_schedule"] or [fork_schedule_of(spec)]
    return chain_from_answers(answer_to(lines, "/eth/v1/beacon/genesis"), spec, schedule[0], b"")
