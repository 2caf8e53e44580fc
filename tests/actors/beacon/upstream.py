"""A real HTTP server that stands in for a beacon node: scripted answers, every request recorded."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from tests.vector import vector

Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class Seen:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def uri(self) -> str:
        return self.path + ("?" + self.query if self.query else "")

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Scripted:
    """One answer. A body that is no bytes is sent as JSON; chunks are sent one by one, each after `pause_s`."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    chunks: list[bytes] | None = None
    pause_s: float = 0.0
    is_endless: bool = False
    breaks_off: bool = False


Script = Scripted | Callable[[Seen], Scripted]


class Upstream:
    """`answers` by path; what isn't there is 404. `seen` in order of arrival; `cancelled` counts clients that hung up early."""

    def __init__(self, name: str = "bn") -> None:
        self.name = name
        self.answers: dict[str, Script] = {}
        self.default: Script = Scripted(404, {"code": 404, "message": "unknown"})
        self.seen: list[Seen] = []
        self.cancelled = 0
        self.changed = trio.Event()
        self.url = ""

    def saw(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():
                changed = self.changed
                with trio.move_on_after(0.05):
                    await changed.wait()

    async def app(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only http")  # how an ASGI application says that it has no lifespan events
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        seen = Seen(scope["method"], scope["raw_path"].decode(), scope["query_string"].decode(), headers, bytes(body))
        self.seen.append(seen)
        self._notify()
        script = self.answers.get(seen.path, self.default)
        await self._answer(script(seen) if callable(script) else script, receive, send)

    async def _answer(self, script: Scripted, receive: Any, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            is_done = False

            async def watch() -> None:
                await receive()
                if not is_done:
                    self.cancelled += 1
                    self._notify()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await trio.sleep(script.delay_s)
            headers = dict(script.headers)
            body = script.body
            if not isinstance(body, bytes):
                headers.setdefault("content-type", "application/json")
                body = json.dumps(body, separators=(",", ":")).encode()
            if script.chunks is None and not script.breaks_off:
                headers.setdefault("content-length", str(len(body)))
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": script.status, "headers": raw})
            for chunk in script.chunks or []:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await trio.sleep(script.pause_s)
            if script.is_endless:
                await trio.sleep_forever()
            is_done = True
            if not script.breaks_off:
                await send({"type": "http.response.body", "body": body if script.chunks is None else b"", "more_body": False})
            nursery.cancel_scope.cancel()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Upstream"]:
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.errorlog = None
        config.graceful_timeout = 0
        config.include_server_header = False
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(serve, self.app, config)
            self.url = binds[0]
            yield self
            nursery.cancel_scope.cancel()


GENESIS_ROOT = "0x" + "ab" * 32
KEY = "0x" + "aa" * 48


def chain_answers(upstream: Upstream, *, genesis_time: int = 1_600_000_000, fulu_epoch: int = 0) -> None:
    """A synced node on a chain with 8 slots an epoch and Fulu from `fulu_epoch` on."""
    spec = vector("lodestar-http/fulu/spec.json")["samples"][0]["response"]["data"]
    spec = {**spec, "SLOTS_PER_EPOCH": "8", "FULU_FORK_EPOCH": str(fulu_epoch), "SECONDS_PER_SLOT": "12"}
    spec.pop("SLOT_DURATION_MS", None)
    spec["SYNC_COMMITTEE_SIZE"], spec["MAX_COMMITTEES_PER_SLOT"], spec["MAX_WITHDRAWALS_PER_PAYLOAD"] = "512", "64", "16"
    upstream.answers |= {
        "/eth/v1/beacon/genesis": Scripted(
            body={
                "data": {
                    "genesis_time": str(genesis_time),
                    "genesis_validators_root": GENESIS_ROOT,
                    "genesis_fork_version": "0x00000001",
                }
            }
        ),
        "/eth/v1/config/spec": Scripted(body={"data": spec}),
        "/eth/v1/config/fork_schedule": Scripted(
            body={
                "data": [
                    {"previous_version": "0x00000001", "current_version": "0x00000001", "epoch": "0"},
                    {"previous_version": "0x00000001", "current_version": "0x06000001", "epoch": str(fulu_epoch)},
                ]
            }
        ),
        "/eth/v1/node/syncing": syncing(False),
        "/eth/v1/node/peer_count": Scripted(body={"data": {"connected": "50"}}),
        "/eth/v1/node/version": Scripted(body={"data": {"version": "Fake/v1"}}),
        "/eth/v1/events": Scripted(404),
    }


def syncing(is_syncing: bool, distance: int = 0) -> Scripted:
    state = {"head_slot": "100", "sync_distance": str(distance), "is_syncing": is_syncing, "is_optimistic": False}
    return Scripted(body={"data": state})


def attestation_data(slot: int, index: int = 0, epoch: int | None = None, root: str = "0x" + "11" * 32) -> dict[str, Any]:
    target = slot // 8 if epoch is None else epoch
    return {
        "data": {
            "slot": str(slot),
            "index": str(index),
            "beacon_block_root": root,
            "source": {"epoch": str(max(target - 1, 0)), "root": "0x" + "22" * 32},
            "target": {"epoch": str(target), "root": "0x" + "33" * 32},
        }
    }
