"""A beacon node that lies, as a program of its own: everything it is asked it takes from an honest one, but its events are a flood.

    python lying_beacon_node.py HONEST_PORT KIND GENESIS_S SLOT_S

prints its port and serves until its stdin is closed. A process of its own, so that what it costs to lie isn't taken from the node.
"""

import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

BATCH = 1000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(topic: str, **fields: object) -> bytes:
    return f"event: {topic}\ndata: {json.dumps(fields)}\n\n".encode()


def reorgs(slot: Callable[[], int]) -> Iterator[bytes]:
    """No two alike; each goes back to the epoch before, so that every duty to come is in doubt."""
    for n in itertools.count():
        now = slot()
        yield b"".join(
            event("chain_reorg", slot=str(now + k), depth=str(min(k + 8, now + k))) for k in range(n * BATCH, (n + 1) * BATCH)
        )


def heads(slot: Callable[[], int]) -> Iterator[bytes]:
    """Each with other dependent roots."""
    for n in itertools.count():
        now = slot()
        roots = ["0x" + (n * BATCH + k).to_bytes(32, "big").hex() for k in range(BATCH)]
        yield b"".join(
            event("head", slot=str(now), block=root, current_duty_dependent_root=root, previous_duty_dependent_root=root)
            for root in roots
        )


FLOODS: dict[str, Callable[[Callable[[], int]], Iterator[bytes]]] = {
    "reorgs": reorgs,
    "heads": heads,
    "nonsense": lambda slot: itertools.repeat(event("head", slot="x") * BATCH),
    "comments": lambda slot: itertools.repeat(b":\n" * BATCH * 20),
    "one-byte-chunks": lambda slot: itertools.repeat(b"1\r\n:\r\n" * BATCH * 10),
    "ends-at-once": lambda slot: iter(()),
}


def serve(client: socket.socket, honest_port: int, kind: str, slot: Callable[[], int]) -> None:
    with client, socket.create_connection(("127.0.0.1", honest_port)) as honest:
        try:
            asked = client.recv(65536)
            if b" /eth/v1/events" in asked.split(b"\r\n", 1)[0]:
                client.sendall(CHUNKED if kind == "one-byte-chunks" else HEAD)
                for part in FLOODS[kind](slot):
                    client.sendall(part)
                return
            honest.sendall(asked)
            threading.Thread(target=pipe, args=(client, honest), daemon=True).start()
            pipe(honest, client)
        except OSError:
            pass


def pipe(source: socket.socket, target: socket.socket) -> None:
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def main() -> None:
    honest_port, kind, genesis_s, slot_s = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)  # noqa: T201

    def slot() -> int:
        return max(int((time.time() - genesis_s) / slot_s), 0)

    def accept() -> None:
        while True:
            client, _ = listening.accept()
            threading.Thread(target=serve, args=(client, honest_port, kind, slot), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
