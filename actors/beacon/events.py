"""Event streams of the beacon nodes: the one we listen to ourselves, and those that validator clients hold open through us.

Ours: one connection to every primary, for as long as the node runs. Whatever ends it (a clean end, an error status, nonsense in an
event, silence) it is opened again: at once after a stream that lived, else after a delay that grows from RETRY_FIRST_S to
RETRY_MOST_S. Which of the events count, and that each is passed on once, is decided by `chain_events.py`.

A validator client's: one connection to the primary that wins most, of the synced ones if there are any, and to the next one when
that breaks off; the client keeps its own stream meanwhile (07 §7.3 #10). A node that answers 400 doesn't know some topic: it is asked
again for those of the topics that every node knows. Some nodes send the head of a stream only with its first event: the client isn't
kept waiting for that longer than for any other answer.

A node sends as fast as it likes; we read as fast as we like. What arrives is taken in pieces of at most PIECE_BYTES, each costs its
bytes, PIECE_COST, and LINE_COST for each line. When a bucket is empty nothing is read, so what fills up is the node's own connection:

    bucket          burst     a second   of                           an honest node
    OUR_PACE        512 KiB   64 KiB     a node's own stream          1 KiB a slot; 75 events a second while it catches up
    PASSING_PACE    4 MiB     512 KiB    all client streams of it     an attestation event costs 0.8 KiB, a head event as much

Limits: MAX_STREAMS streams of clients; SILENCE_S without a byte ends a connection (a healthy chain has a head event every slot).
Source: specification 08 §3.3, §10, 07 §6.2, §7.3 #10.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode

import trio

from actors.beacon.client_tasks import ClientTasks
from actors.beacon.facts import EventDropped
from actors.beacon.forwarding import CHUNKS_AHEAD, MAX_FORWARDS, end_to_end, stream_of
from actors.beacon.messages import BeaconFault, BeaconUnavailable, ByteStream, ForwardAnswer, OpenEvents
from actors.beacon.node import HTTP_SUCCESS, MAX_PASSING_CONNECTIONS, USER_AGENT, BeaconNode, CallFailed
from actors.beacon.race import AllFailed
from actors.change_log import ChangeLog
from actors.facts import OnFact
from actors.log import get_logger
from charon_actors.eth2.beacon_api import EVENT_STREAM, LISTENED_TOPICS, MINIMAL_TOPICS, AnswerFault, ChainEvent, decode_event
from charon_actors.eth2.chain_events import RATES, EventIntake, Witnesses
from charon_actors.eth2.event_stream import Event, EventFault, EventParser, encode_event
from charon_actors.pace import Bucket

if TYPE_CHECKING:
    import httpx

log = get_logger("sse")

RETRY_FIRST_S: Final = 0.25
RETRY_MOST_S: Final = 5.0
LIVED_S: Final = 5.0  # a connection that held that long is opened again at once
SILENCE_S: Final = 60.0
MAX_STREAMS: Final = 64
assert MAX_STREAMS + MAX_FORWARDS + 1 < MAX_PASSING_CONNECTIONS  # our own stream and short requests find a connection always
MAX_QUERY_FIELDS: Final = 100
STALL_S: Final = 30.0
PIECE_BYTES: Final = 2048
LINE_COST: Final = 32  # bytes that are as much work as a line
PIECE_COST: Final = 256  # as a piece: an HTTP chunk may have one byte
OUR_PACE: Final = (512.0 * 1024, 64.0 * 1024)
PASSING_PACE: Final = (4.0 * 1024 * 1024, 512.0 * 1024)
FLOOD_REPORT_S: Final = 600.0
SURE_TOPICS: Final = frozenset({"head", "block", "chain_reorg", "finalized_checkpoint", "attestation", "voluntary_exit"})


class Events:
    """tasks: where streams of clients are kept up. primaries: those on the right network, best first.

    on_fact: must return at once.
    """

    def __init__(
        self,
        tasks: ClientTasks,
        primaries: Callable[[], list[BeaconNode]],
        timeout_s: float,
        on_fact: OnFact,
    ) -> None:
        self._tasks, self._primaries, self._timeout_s, self._on_fact = tasks, primaries, timeout_s, on_fact
        self._witnesses, self._listened = Witnesses(), set[BeaconNode]()
        self._passing: defaultdict[BeaconNode, Bucket] = defaultdict(lambda: Bucket(*PASSING_PACE))
        self._streams = 0

    # -- ours ---------------------------------------------------------------------------------------------------------------

    async def listen(self, node: BeaconNode, publish: Callable[[ChainEvent], None]) -> None:
        """Publish this node's events that count, for ever (until it turns out to be on another network)."""
        topics: Sequence[str] = LISTENED_TOPICS
        delay_s = RETRY_FIRST_S
        ear = Ear(node)
        while not node.is_wrong_network:
            started = trio.current_time()
            try:
                response = await self._connect(node, urlencode([("topics", topic) for topic in topics]).encode())
                self._listened.add(node)
                async with aclosing(_events(response, ear.pace)) as events:
                    async for event in events:
                        if node.is_wrong_network:
                            return
                        self._take(ear, event, publish)
            except CallFailed as failure:
                if failure.status == 400 and topics is LISTENED_TOPICS:
                    topics = MINIMAL_TOPICS
                    continue
                log.debug("Event stream lost", node=node.label, reason=failure.text)
            finally:
                self._listened.discard(node)
            for counting in self._witnesses.chosen_changed(self._chosen(), trio.current_time()):
                publish(counting)
            delay_s = RETRY_FIRST_S if trio.current_time() - started >= LIVED_S else min(delay_s * 1.6, RETRY_MOST_S)
            await trio.sleep(delay_s)

    def _chosen(self) -> BeaconNode | None:
        """The best of the nodes that are listened to."""
        return next((node for node in self._primaries() if node in self._listened), None)

    def _take(self, ear: "Ear", event: Event, publish: Callable[[ChainEvent], None]) -> None:
        node, now = ear.node, trio.current_time()
        if event.topic not in RATES:
            return
        if not ear.intake.admits(event.topic, now):
            self._on_fact(EventDropped(node.label, event.topic, "rate"))
            if ear.floods.is_due(event.topic, now):
                log.warning(
                    "Beacon node sends more events than a chain has, the rest is left out", node=node.label, topic=event.topic
                )
            return
        try:
            decoded = decode_event(event.topic, event.data)
        except AnswerFault as fault:
            self._on_fact(EventDropped(node.label, event.topic, "nonsense"))
            log.warning("Event that makes no sense", node=node.label, topic=event.topic, reason=str(fault))
            return
        if decoded is not None:
            for counting in self._witnesses.heard(node, decoded, self._chosen(), now):
                publish(counting)

    # -- those of validator clients -------------------------------------------------------------------------------------------

    async def open(self, request: OpenEvents) -> ForwardAnswer:
        """Raises: BeaconFault, if within the time limit all nodes turn out to have no stream."""
        if self._streams >= MAX_STREAMS:
            raise BeaconUnavailable(None, f"{MAX_STREAMS} event streams are open already")
        send, receive = trio.open_memory_channel[bytes | None](CHUNKS_AHEAD)
        first, source = FirstHead(), trio.CancelScope()
        self._streams += 1
        self._tasks.start_soon(self._keep_up, request.query, first, send, source)
        is_taken = False
        try:
            with trio.move_on_after(self._timeout_s):
                await first.is_here.wait()
            if first.fault is not None:
                raise first.fault
            is_taken = first.other is None
        finally:
            if not is_taken:
                source.cancel()
                receive.close()
        if first.other is not None:
            return first.other
        return ForwardAnswer(200, (("content-type", EVENT_STREAM), ("cache-control", "no-cache")), ByteStream(receive, source))

    async def _keep_up(
        self, query: bytes, first: "FirstHead", send: "trio.MemorySendChannel[bytes | None]", source: trio.CancelScope
    ) -> None:
        """Pass on one stream after the other, until the client has left."""
        delay_s = RETRY_FIRST_S
        last: BeaconNode | None = None
        try:
            with source, send:
                while True:
                    started = trio.current_time()
                    try:
                        last, upstream = await self._next_stream(query, after=last)
                        await self._pass_on(last, upstream, first, send)
                    except AllFailed as failed:
                        if not first.is_here.is_set():
                            first.fault = failed.as_fault("events")
                            return
                    except CallFailed as failure:
                        log.debug("A client's event stream lost its upstream", reason=failure.text)
                    lived = trio.current_time() - started >= LIVED_S
                    delay_s = RETRY_FIRST_S if lived else min(delay_s * 1.6, RETRY_MOST_S)
                    await trio.sleep(0 if lived else delay_s)
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # the client has left, or doesn't read
        finally:
            self._streams -= 1
            first.is_here.set()

    async def _pass_on(
        self, node: BeaconNode, upstream: "httpx.Response", first: "FirstHead", send: "trio.MemorySendChannel[bytes | None]"
    ) -> None:
        if not _is_event_stream(upstream):
            other = await _whole(node, upstream, self._timeout_s)
            if not first.is_here.is_set():
                first.other = other
                first.is_here.set()
            return
        first.is_here.set()
        async with aclosing(_events(upstream, self._passing[node])) as events:
            async for event in events:
                with trio.fail_after(STALL_S):
                    await send.send(encode_event(event))

    async def _next_stream(self, query: bytes, after: BeaconNode | None) -> "tuple[BeaconNode, httpx.Response]":
        """The stream of the next node that has one; the node whose stream just broke off comes last. Raises: AllFailed."""
        failures: list[CallFailed] = []
        for node in sorted(self._primaries(), key=lambda node: node is after):
            try:
                return node, await self._connect_or_reduce(node, query)
            except CallFailed as failure:
                failures.append(failure)
        raise AllFailed(
            failures or [CallFailed("beacon nodes", None, "none is on the right network", retryable=True, worthy=True)]
        )

    async def _connect_or_reduce(self, node: BeaconNode, query: bytes) -> "httpx.Response":
        try:
            return await self._connect(node, query)
        except CallFailed as failure:
            reduced = _known_topics(query)
            if failure.status != 400 or reduced is None:
                raise
            return await self._connect(node, reduced)

    async def _connect(self, node: BeaconNode, query: bytes) -> "httpx.Response":
        """The head of a stream. Some nodes send it only with the first event, so it may take as long as an event."""
        headers = (
            ("Accept", EVENT_STREAM),
            ("Accept-Encoding", "identity"),
            ("Cache-Control", "no-cache"),
            ("User-Agent", USER_AGENT),
        )
        try:
            with trio.fail_after(SILENCE_S):
                response = await node.send("GET", b"/eth/v1/events", query, headers, b"")
        except trio.TooSlowError:
            raise node.failed(f"no event stream within {SILENCE_S:g} s") from None
        if response.status_code not in HTTP_SUCCESS:
            raise await node.read_error(response, self._timeout_s)
        return response


class Ear:
    """What bounds a node's own stream, however often it is opened."""

    def __init__(self, node: BeaconNode) -> None:
        self.node, self.intake, self.pace = node, EventIntake(), Bucket(*OUR_PACE)
        self.floods = ChangeLog(FLOOD_REPORT_S, FLOOD_REPORT_S)


class FirstHead:
    """What the first node that was asked for a stream has said. Nothing within the time limit means: a stream without events yet.

    fault: no node has a stream. other: an answer that is no event stream, passed on as it is.
    """

    def __init__(self) -> None:
        self.is_here = trio.Event()
        self.fault: BeaconFault | None = None
        self.other: ForwardAnswer | None = None


async def _events(response: "httpx.Response", pace: Bucket) -> AsyncGenerator[Event, None]:
    """The events of a stream until its end, no faster than `pace`. Closes it.

    Raises: CallFailed, when it breaks off, is silent or no event stream.
    """
    import httpx

    parser = EventParser()
    lost = "silent"
    try:
        chunks = response.aiter_raw()
        while True:
            with trio.move_on_after(SILENCE_S) as silence:
                chunk = await anext(chunks, None)
            if silence.cancelled_caught:
                break
            if chunk is None:
                return
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                cost = len(piece) + PIECE_COST + LINE_COST * piece.count(b"\n")
                await trio.sleep(pace.spend(trio.current_time(), cost))
                for event in parser.feed(piece):
                    yield event
    except (httpx.HTTPError, httpx.StreamError, EventFault) as error:
        lost = f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        with trio.CancelScope(shield=True):
            await response.aclose()
    raise CallFailed("event stream", None, lost, retryable=True, worthy=False)


def _is_event_stream(response: "httpx.Response") -> bool:
    return bool(response.headers.get("content-type", "").lower().startswith(EVENT_STREAM))


async def _whole(node: BeaconNode, response: "httpx.Response", timeout_s: float) -> ForwardAnswer:
    """A 2xx answer that is no event stream, as it is."""
    failed = await node.read_error(response, timeout_s)
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
    headers = [(name, value) for name, value in end_to_end(pairs) if name != "content-length"]
    return ForwardAnswer(response.status_code, tuple(headers), stream_of(failed.body))


def _known_topics(query: bytes) -> bytes | None:
    """The query with only the topics that every node knows; None if that changes nothing or nothing is left, or it has too many."""
    try:
        fields = parse_qsl(query.decode("latin-1"), max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return None
    wanted = [topic for name, value in fields if name == "topics" for topic in value.split(",")]
    sure = [topic for topic in wanted if topic in SURE_TOPICS]
    if not sure or len(sure) == len(wanted):
        return None
    return "&".join(f"topics={quote(topic)}" for topic in sure).encode()
