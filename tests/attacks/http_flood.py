"""A hostile HTTP client as a process of its own, so that what it costs is not taken for what the node spends: asks for one path over
many connections, as fast as it is answered or at a rate, and prints how many whole answers came.

    python http_flood.py PORT PATH CONNECTIONS SECONDS REQUESTS_A_SECOND
"""

import sys
import time

import trio


async def ask(port: int, path: str, until: float, pause_s: float, answers: list[int]) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    while trio.current_time() < until:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                while trio.current_time() < until:
                    began = trio.current_time()
                    await stream.send_all(request)
                    await one_answer(stream)
                    answers[0] += 1
                    await trio.sleep(max(began + pause_s - trio.current_time(), 0))
        except (OSError, trio.BrokenResourceError):
            await trio.sleep(0.01)


async def one_answer(stream: trio.SocketStream) -> None:
    """Read one answer with a content-length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await more(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    size = len(body)
    while size < length:
        size += len(await more(stream))


async def more(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(2**18)
    if not data:
        raise trio.BrokenResourceError
    return bytes(data)


async def main(port: int, path: str, connections: int, seconds: float, rate: float) -> None:
    answers, until = [0], trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = until + 1
        for _ in range(connections):
            nursery.start_soon(ask, port, path, until, connections / rate, answers)
    print(answers[0], time.time())  # noqa: T201


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
