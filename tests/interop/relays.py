"""js-libp2p and the go-libp2p daemon as circuit relays, from the cache that `libp2p/install.sh` fills."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from charon_actors.crypto import k1_public_key
from charon_actors.p2p.peer_id import peer_id_of, peer_id_text

CACHE = Path(
    os.environ.get("CHARON_LIBP2P_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "charon-actors" / "libp2p"
)
KINDS = ("js", "go")


def require(kind: str) -> None:
    """Skip, with the reason, where the relay is not installed."""
    if kind == "js" and not ((CACHE / "node_modules").is_dir() and shutil.which("node")):
        pytest.skip("js-libp2p is not installed: run tests/interop/libp2p/install.sh")
    if kind == "go" and not (CACHE / "p2pd").exists():
        pytest.skip("the go-libp2p daemon is not installed: run tests/interop/libp2p/install.sh")


async def free_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = int(listener.socket.getsockname()[1])
    await listener.aclose()
    return port


def relay_command(kind: str, private_key: bytes, port: int, folder: Path, *, limit_bytes: int = 1 << 25) -> list[str]:
    """How to start a relay that listens on `port`. Its standard input must stay open. The go daemon ignores limit_bytes: 128 KiB."""
    require(kind)
    if kind == "js":
        script = CACHE / "charon-actors-relay.mjs"
        shutil.copy(Path(__file__).with_name("relay.mjs"), script)
        return ["node", "--require", str(CACHE / "preload.cjs"), str(script), private_key.hex(), str(port), str(limit_bytes)]
    key_file = folder / f"relay-{port}.key"
    (folder / f"p2pd-{port}.sock").unlink(missing_ok=True)
    key_file.write_bytes(bytes.fromhex("08021220") + private_key)
    return [
        str(CACHE / "p2pd"),
        *("-listen", f"/unix{folder}/p2pd-{port}.sock", "-hostAddrs", f"/ip4/127.0.0.1/tcp/{port}", "-id", str(key_file)),
        *("-natPortMap=0", "-b=0", "-dht=0", "-q", "-relayService=1", "-forceReachabilityPublic"),
        f"-relayDataLimit={limit_bytes}",
    ]


@asynccontextmanager
async def open_relay_process(
    kind: str, private_key: bytes, port: int, folder: Path, *, limit_bytes: int = 1 << 25
) -> AsyncIterator[trio.Process]:
    """A running relay that accepts connections on `port`; killed at the end of the block."""
    process = await trio.lowlevel.open_process(
        relay_command(kind, private_key, port, folder, limit_bytes=limit_bytes),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with trio.fail_after(30):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None, f"the relay ended with {process.returncode}"
                    await trio.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


def entry_of(private_key: bytes, port: int) -> str:
    """What goes into `--p2p-relays`."""
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id_text(peer_id_of(k1_public_key(private_key)))}"


def list_of(entries: list[str]) -> bytes:
    """The body of a relay's HTTP answer."""
    return json.dumps(entries).encode()
