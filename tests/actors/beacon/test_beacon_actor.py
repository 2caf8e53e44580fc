"""The beacon actor in front of real HTTP servers: races, submissions, fallbacks, caches, events, forwarding."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, get_args

import httpx
import pytest
import trio

from actors.beacon import (
    AttesterDuties,
    Beacon,
    BeaconFault,
    BeaconUnavailable,
    CacheSeen,
    CallSeen,
    ClusterValidators,
    EventDropped,
    FetchAttestationData,
    Forward,
    KnownChain,
    LoadChain,
    Message,
    NodeVersion,
    OpenEvents,
    PrepareProposers,
    ProposerDuties,
    Settings,
    SubmitAttestations,
    SyncDuties,
    SyncStatus,
)
from actors.facts import Fact, OnFact, unheard
from actors.mailbox import Address, Mailbox, open_actor
from charon_actors.beacon.blocks import RANDAO_IN_MESSAGE, decode_proposal
from charon_actors.errors import UserError
from charon_actors.eth2.beacon_api import Answer, ChainEvent, HeadEvent, ReorgEvent
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.eth2.chain import Chain, chain_from_answers
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import VersionedAttestation
from tests.actors.beacon.upstream import Scripted, Seen, Upstream, attestation_data, chain_answers, syncing
from tests.vector import vector

DATA = "/eth/v1/validator/attestation_data"
POOL = "/eth/v2/beacon/pool/attestations"
GENESIS = "/eth/v1/beacon/genesis"
SPEC = "/eth/v1/config/spec"
SCHEDULE = "/eth/v1/config/fork_schedule"
SYNCING = "/eth/v1/node/syncing"
LOAD = LoadChain(bytes.fromhex("03000001"), bytes.fromhex("00000001"))
GENESIS_TIME = 1_600_000_000
KEYS = tuple(bytes([n]) * 48 for n in (1, 2))


class Clock:
    """A wall clock that stands in the given slot of the 12 s chain of `chain_answers`."""

    def __init__(self, slot: int) -> None:
        self.slot = slot

    def __call__(self) -> float:
        return GENESIS_TIME + 12 * self.slot + 1.0


class Told:
    """What the actor tells for metrics."""

    def __init__(self) -> None:
        self.calls: list[CallSeen] = []
        self.caches: list[CacheSeen] = []


@asynccontextmanager
async def beacon_of(
    primaries: Sequence[Upstream],
    fallbacks: Sequence[Upstream] = (),
    *,
    slot: int = 40,
    load: bool = True,
    on_event: Callable[[ChainEvent], None] = lambda _: None,
    on_chain: Callable[[Chain], None] = lambda _: None,
    on_fact: OnFact = unheard,
    told: Told | None = None,
    clock: Clock | None = None,
    timeout_s: float = 1.0,
    suffix: str = "",
    headers: tuple[tuple[str, str], ...] = (("X-Bn-Auth", "secret"),),
    user_info: str = "",
) -> AsyncIterator[Address[Message]]:
    async with AsyncExitStack() as stack:
        for upstream in (*primaries, *fallbacks):
            await stack.enter_async_context(upstream.serving())

        def url(upstream: Upstream) -> Any:
            return decode_node_url(upstream.url.replace("http://", f"http://{user_info}") + suffix)

        settings = Settings(
            primaries=tuple(map(url, primaries)),
            fallbacks=tuple(map(url, fallbacks)),
            headers=headers,
            timeout_s=timeout_s,
            submit_timeout_s=1.0,
            cluster_keys=KEYS,
        )
        mailbox: Mailbox[Message] = Mailbox("beacon")
        numbers = told or Told()

        def hear(fact: Fact) -> None:
            on_fact(fact)
            match fact:
                case CallSeen():
                    numbers.calls.append(fact)
                case CacheSeen():
                    numbers.caches.append(fact)

        factory = lambda: Beacon(  # noqa: E731
            settings,
            KnownChain(),
            on_event=on_event,
            on_fact=hear,
            on_chain=on_chain,
            wall_clock=clock or Clock(slot),
        )
        async with open_actor(mailbox, factory) as address:
            if load:
                await address.ask(LOAD)
            yield address


def node(name: str = "bn") -> Upstream:
    upstream = Upstream(name)
    chain_answers(upstream)
    return upstream


# -- chain ---------------------------------------------------------------------------------------------------------------------


async def test_the_chain_is_read_and_credentials_go_along() -> None:
    bn = node()
    async with beacon_of([bn], user_info="user:pw@") as beacon:
        chain = await beacon.ask(LOAD)
    assert (chain.slots_per_epoch, chain.slot_duration_s, chain.fork_at(0)) == (8, 12.0, Fork.FULU)
    assert all(seen.headers["authorization"] == "Basic dXNlcjpwdw==" for seen in bn.seen)
    assert all(seen.headers["x-bn-auth"] == "secret" for seen in bn.seen)


async def test_a_base_path_is_kept() -> None:
    bn = Upstream()
    bn.default = Scripted(body={"data": {"version": "Fake/v1"}})
    async with beacon_of([bn], load=False, suffix="/base/") as beacon:
        assert await beacon.ask(NodeVersion()) == "Fake/v1"
    assert {seen.path for seen in bn.seen} >= {"/base/eth/v1/node/version", "/base/eth/v1/events"}


async def test_another_network_is_the_operators_fault() -> None:
    async with beacon_of([node()], load=False) as beacon:
        with pytest.raises(UserError, match="mismatch between lock file fork version and beacon node fork schedule"):
            await beacon.ask(LoadChain(bytes(4), bytes.fromhex("10000910")))


async def test_one_wrong_node_among_two_is_the_operators_fault() -> None:
    right, wrong = node(), node()
    wrong.answers["/eth/v1/config/fork_schedule"] = Scripted(
        body={"data": [{"previous_version": "0x10000910", "current_version": "0x10000910", "epoch": "0"}]}
    )
    async with beacon_of([right, wrong], load=False) as beacon:
        with pytest.raises(UserError, match="mismatch"):
            await beacon.ask(LOAD)


async def test_a_beacon_node_that_comes_up_late_is_waited_for() -> None:
    bn = node()
    later = bn.answers.copy()
    bn.answers.clear()
    async with beacon_of([bn], load=False) as beacon, trio.open_nursery() as nursery:

        async def come_up() -> None:
            await bn.wait_until(lambda: len(bn.saw("/eth/v1/beacon/genesis")) >= 2)
            bn.answers |= later

        nursery.start_soon(come_up)
        with trio.fail_after(10):
            assert (await beacon.ask(LOAD)).slots_per_epoch == 8


async def test_without_the_chain_requests_are_retryable() -> None:
    async with beacon_of([node()], load=False) as beacon:
        with pytest.raises(BeaconUnavailable):
            await beacon.ask(AttesterDuties(1, (1,)))


# -- reads ---------------------------------------------------------------------------------------------------------------------


async def test_attestation_data() -> None:
    bn = node()
    bn.answers[DATA] = Scripted(body=attestation_data(41))
    async with beacon_of([bn]) as beacon:
        data = await beacon.ask(FetchAttestationData(41, 0))
    assert (data.slot, data.target_epoch, data.beacon_block_root) == (41, 5, b"\x11" * 32)
    assert bn.saw(DATA)[0].query == "slot=41&committee_index=0"


async def test_the_first_good_answer_wins_and_the_slow_one_is_cancelled() -> None:
    fast, slow = node("fast"), node("slow")
    fast.answers[DATA] = Scripted(404, {"message": "not me"})
    slow.answers[DATA] = Scripted(body=attestation_data(41), delay_s=0.2)
    async with beacon_of([fast, slow]) as beacon:
        assert (await beacon.ask(FetchAttestationData(41, 0))).slot == 41
        fast.answers[DATA] = Scripted(body=attestation_data(41))
        slow.answers[DATA] = Scripted(body=attestation_data(41), delay_s=0.9)
        started = trio.current_time()
        await beacon.ask(FetchAttestationData(41, 0))
        assert trio.current_time() - started < 0.5
        await slow.wait_until(lambda: slow.cancelled == 1)


async def test_an_answer_that_makes_no_sense_loses_against_one_that_does() -> None:
    mad, good = node("mad"), node("good")
    mad.answers[DATA] = Scripted(body=attestation_data(40))  # another slot
    good.answers[DATA] = Scripted(body=attestation_data(41), delay_s=0.1)
    async with beacon_of([mad, good]) as beacon:
        assert (await beacon.ask(FetchAttestationData(41, 0))).slot == 41
        good.answers[DATA] = Scripted(404)
        with pytest.raises(BeaconFault, match="slot 40 instead of 41"):
            await beacon.ask(FetchAttestationData(41, 0))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nope",
        b"[]",
        b'{"data":null}',
        b'{"data":{"slot":1}}',
        b"\xff" * 100,
        b"[" * 5000,
        json.dumps(attestation_data(41, epoch=4)).encode(),
    ],
)
async def test_nonsense_is_a_fault_and_nothing_else(body: bytes) -> None:
    bn = node()
    bn.answers[DATA] = Scripted(body=body)
    async with beacon_of([bn]) as beacon:
        with pytest.raises(BeaconFault) as caught:
            await beacon.ask(FetchAttestationData(41, 0))
        assert not caught.value.retryable
        assert await beacon.ask(NodeVersion())  # the actor lives


async def test_answers_are_bounded_and_never_unpacked() -> None:
    bn = node()
    bn.answers[DATA] = Scripted(body=b'{"data":"' + b"x" * (2**20) + b'"}')
    async with beacon_of([bn]) as beacon:
        with pytest.raises(BeaconFault, match="more than"):
            await beacon.ask(FetchAttestationData(41, 0))
        bn.answers[DATA] = Scripted(body=b"\x1f\x8b", headers={"content-encoding": "gzip"})
        with pytest.raises(BeaconFault, match="gzip"):
            await beacon.ask(FetchAttestationData(41, 0))


@pytest.mark.parametrize(
    ("script", "status", "retryable", "asks_fallback"),
    [
        (Scripted(400, {"message": "bad"}), 400, False, False),
        (Scripted(404), 404, False, False),
        (Scripted(500, {"message": "Internal Server Error"}), 500, False, False),
        (Scripted(503, {"message": "Beacon node is currently syncing"}), 503, True, True),
        (Scripted(delay_s=3), None, True, True),
        (Scripted(breaks_off=True, headers={"content-length": "5"}), None, True, True),
    ],
)
async def test_what_a_failure_is_and_when_the_fallback_is_asked(
    script: Scripted, status: int | None, retryable: bool, asks_fallback: bool
) -> None:
    bn, fallback = node(), node("fallback")
    bn.answers[DATA] = script
    fallback.answers[DATA] = Scripted(404)
    async with beacon_of([bn], [fallback]) as beacon:
        with pytest.raises(BeaconFault) as caught:
            await beacon.ask(FetchAttestationData(41, 0))
        assert bool(fallback.saw(DATA)) == asks_fallback
        assert (caught.value.status, caught.value.retryable) == (404 if asks_fallback else status, retryable)
        fallback.answers[DATA] = Scripted(body=attestation_data(41))
        if asks_fallback:
            assert (await beacon.ask(FetchAttestationData(41, 0))).slot == 41


async def test_a_refused_connection_is_retryable_and_named() -> None:
    bn = node()
    async with bn.serving():
        url = bn.url
    settings = Settings(primaries=(decode_node_url(url),), timeout_s=1.0)
    async with open_actor(Mailbox("beacon"), lambda: Beacon(settings, KnownChain())) as beacon:
        with pytest.raises(BeaconUnavailable, match=url.rsplit(":", 1)[1]):
            await beacon.ask(NodeVersion())


async def test_a_syncing_primary_makes_the_fallback_work() -> None:
    bn, fallback = node(), node("fallback")
    bn.answers["/eth/v1/node/syncing"] = syncing(True, 400)
    for upstream in (bn, fallback):
        upstream.answers[DATA] = Scripted(body=attestation_data(41))
    async with beacon_of([bn], [fallback]) as beacon:
        await bn.wait_until(lambda: bool(bn.saw("/eth/v1/node/syncing")))
        await trio.sleep(0.05)
        await beacon.ask(FetchAttestationData(41, 0))
        assert not bn.saw(DATA)
        assert fallback.saw(DATA)
        bn.answers["/eth/v1/node/syncing"] = syncing(False)
        await beacon.ask(FetchAttestationData(41, 0))
        assert bn.saw(DATA)


async def test_sync_status_is_that_of_the_synced_node() -> None:
    one, two = node(), node()
    one.answers["/eth/v1/node/syncing"] = syncing(True, 400)
    async with beacon_of([one, two]) as beacon:
        state = await beacon.ask(SyncStatus())
        assert (state.is_syncing, state.peers) == (False, 50)


async def test_if_all_are_syncing_that_is_an_answer_too() -> None:
    bn = node()
    bn.answers["/eth/v1/node/syncing"] = syncing(True, 400)
    async with beacon_of([bn]) as beacon:
        state = await beacon.ask(SyncStatus())
        assert (state.is_syncing, state.sync_distance) == (True, 400)


async def test_an_asker_that_leaves_cancels_its_call_at_once() -> None:
    bn = node()
    bn.answers[DATA] = Scripted(delay_s=0.9)
    async with beacon_of([bn]) as beacon:
        with trio.move_on_after(0.2):
            await beacon.ask(FetchAttestationData(41, 0))
        started = trio.current_time()
        await bn.wait_until(lambda: bn.cancelled == 1)
        assert trio.current_time() - started < 0.3
        bn.answers[DATA] = Scripted(body=attestation_data(41))
        assert (await beacon.ask(FetchAttestationData(41, 0))).slot == 41


async def test_a_slow_call_does_not_hold_up_others() -> None:
    bn = node()
    bn.answers[DATA] = Scripted(delay_s=0.9, body=attestation_data(41))
    async with beacon_of([bn]) as beacon, trio.open_nursery() as nursery:
        nursery.start_soon(beacon.ask, FetchAttestationData(41, 0))
        await bn.wait_until(lambda: bool(bn.saw(DATA)))
        with trio.fail_after(0.5):
            await beacon.ask(NodeVersion())
        nursery.cancel_scope.cancel()


# -- duties and validators -----------------------------------------------------------------------------------------------------


def attester_answer(seen: Seen) -> Scripted:
    """One duty for every odd index."""
    epoch = int(seen.path.rsplit("/", 1)[1])
    if epoch > 20:
        return Scripted(400, {"message": "Cannot get duties for epoch more than one ahead"})
    duties = [
        {
            "pubkey": "0x" + "aa" * 48,
            "validator_index": index,
            "committee_index": "1",
            "committee_length": "9",
            "committees_at_slot": "2",
            "validator_committee_index": "3",
            "slot": str(epoch * 8 + 1),
        }
        for index in seen.json
        if int(index) % 2
    ]
    return Scripted(body={"data": duties, "dependent_root": "0x" + "0d" * 32, "execution_optimistic": True})


def proposer_answer(seen: Seen) -> Scripted:
    epoch = int(seen.path.rsplit("/", 1)[1])
    keys = [KEYS[0].hex(), "ee" * 48, KEYS[1].hex()]
    duties = [{"pubkey": "0x" + key, "validator_index": str(n), "slot": str(epoch * 8 + n)} for n, key in enumerate(keys)]
    root = "0x" + ("02" if "/v2/" in seen.path else "01") * 32
    return Scripted(body={"data": duties, "dependent_root": root, "execution_optimistic": False})


async def test_attester_duties_come_from_memory_and_only_missing_ones_are_asked_for() -> None:
    bn, path = node(), "/eth/v1/validator/duties/attester/5"
    bn.answers[path] = attester_answer
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(AttesterDuties(5, (7, 8)))
        assert ([duty.validator_index for duty in answer.duties], answer.execution_optimistic) == ([7], True)
        await beacon.ask(AttesterDuties(5, (7, 8)))
        answer = await beacon.ask(AttesterDuties(5, (8, 9, 7)))
        assert sorted(duty.validator_index for duty in answer.duties) == [7, 9]
    assert [seen.json for seen in bn.saw(path)] == [["7", "8"], ["9"]]


async def test_equal_questions_at_the_same_time_are_asked_once() -> None:
    bn, path = node(), "/eth/v1/validator/duties/attester/5"
    bn.answers[path] = attester_answer
    async with beacon_of([bn]) as beacon, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(beacon.ask, AttesterDuties(5, (7,)))
    assert len(bn.saw(path)) == 1


async def test_the_beacon_nodes_refusal_comes_through() -> None:
    bn = node()
    bn.answers["/eth/v1/validator/duties/attester/21"] = attester_answer
    async with beacon_of([bn]) as beacon:
        with pytest.raises(BeaconFault, match="more than one ahead") as caught:
            await beacon.ask(AttesterDuties(21, (7,)))
    assert (caught.value.status, caught.value.retryable) == (400, False)


async def test_only_the_clusters_proposers_are_told_and_v2_has_its_own_root() -> None:
    bn = node()
    bn.answers["/eth/v1/validator/duties/proposer/5"] = proposer_answer
    bn.answers["/eth/v2/validator/duties/proposer/5"] = proposer_answer
    async with beacon_of([bn]) as beacon:
        first = await beacon.ask(ProposerDuties(5))
        assert [(duty.slot, duty.pubkey) for duty in first.duties] == [(40, KEYS[0]), (42, KEYS[1])]
        assert first.dependent_root == b"\x01" * 32
        assert (await beacon.ask(ProposerDuties(5, version=2))).dependent_root == b"\x02" * 32
        del bn.answers["/eth/v2/validator/duties/proposer/5"]
        bn.answers["/eth/v1/validator/duties/proposer/6"] = proposer_answer
        assert (await beacon.ask(ProposerDuties(6, version=2))).dependent_root == b"\x01" * 32
    assert len(bn.saw("/eth/v1/validator/duties/proposer/5")) == 1


async def test_proposer_duties_are_read_again_once_their_epoch_has_begun() -> None:
    bn, clock = node(), Clock(39)
    bn.answers["/eth/v1/validator/duties/proposer/5"] = proposer_answer
    async with beacon_of([bn], clock=clock) as beacon:
        await beacon.ask(ProposerDuties(5))
        await beacon.ask(ProposerDuties(5))
        assert len(bn.saw("/eth/v1/validator/duties/proposer/5")) == 1
        clock.slot = 40
        await beacon.ask(ProposerDuties(5))
        await beacon.ask(ProposerDuties(5))
        assert len(bn.saw("/eth/v1/validator/duties/proposer/5")) == 2


def validators_answer(*known: int) -> Callable[[Seen], Scripted]:
    def answer(seen: Seen) -> Scripted:
        return Scripted(
            body={
                "data": [
                    {
                        "index": str(100 + n),
                        "balance": "32000000000",
                        "status": "active_ongoing",
                        "validator": {"pubkey": "0x" + KEYS[n].hex(), "activation_epoch": "0"},
                    }
                    for n in known
                    if "0x" + KEYS[n].hex() in seen.json["ids"]
                ]
            }
        )

    return answer


async def test_the_clusters_validators_are_read_once_an_epoch() -> None:
    bn, clock = node(), Clock(40)
    bn.answers["/eth/v1/beacon/states/40/validators"] = validators_answer(0, 1)
    bn.answers["/eth/v1/beacon/states/head/validators"] = validators_answer(0, 1)
    async with beacon_of([bn], clock=clock) as beacon:
        assert [v.index for v in await beacon.ask(ClusterValidators())] == [100, 101]
        assert [v.index for v in await beacon.ask(ClusterValidators(pubkeys=(KEYS[1],)))] == [101]
        assert len(bn.saw("/eth/v1/beacon/states/40/validators")) == 1
        clock.slot = 48  # its state is not there yet: head for now, its first slot in the next one
        await beacon.ask(ClusterValidators())
        assert len(bn.saw("/eth/v1/beacon/states/head/validators")) == 1
        clock.slot, bn.answers["/eth/v1/beacon/states/48/validators"] = 49, validators_answer(0)
        assert [v.index for v in await beacon.ask(ClusterValidators(pubkeys=(KEYS[0],)))] == [100]
        await beacon.ask(ClusterValidators(pubkeys=(KEYS[0],)))
        assert len(bn.saw("/eth/v1/beacon/states/48/validators")) == 2


async def test_duties_of_nobody_in_particular_are_those_of_the_active_validators() -> None:
    bn = node()
    bn.answers["/eth/v1/beacon/states/40/validators"] = validators_answer(0, 1)
    bn.answers["/eth/v1/validator/duties/attester/5"] = attester_answer
    bn.answers["/eth/v1/validator/duties/sync/5"] = Scripted(body={"data": None, "execution_optimistic": False})
    async with beacon_of([bn]) as beacon:
        assert [duty.validator_index for duty in (await beacon.ask(AttesterDuties(5))).duties] == [101]
        assert (await beacon.ask(SyncDuties(5))).duties == ()
    assert bn.saw("/eth/v1/validator/duties/attester/5")[0].json == ["100", "101"]


# -- submissions ---------------------------------------------------------------------------------------------------------------

SINGLE = next(e for e in vector("core/bn_requests.json")["requests"] if e["uri"] == POOL)["body"][0]
ATTESTATION = VersionedAttestation.from_single_attestation_json(Fork.FULU, SINGLE)


async def test_submissions_reach_every_node_and_return_with_the_first_success() -> None:
    fast, slow = node("fast"), node("slow")
    fast.answers[POOL] = Scripted(200)
    slow.answers[POOL] = Scripted(200, delay_s=0.6)
    async with beacon_of([fast, slow]) as beacon:
        started = trio.current_time()
        await beacon.ask(SubmitAttestations(Fork.FULU, (ATTESTATION,)))
        assert trio.current_time() - started < 0.4
        await trio.sleep(0.7)
    assert slow.cancelled == 0
    for upstream in (fast, slow):
        (seen,) = upstream.saw(POOL)
        assert seen.json == [SINGLE]
        assert seen.headers["eth-consensus-version"] == "fulu"


async def test_a_submission_that_was_known_already_has_succeeded() -> None:
    bn = node()
    bn.answers[POOL] = Scripted(500, {"statusCode": 500, "message": "ATTESTATION_ERROR_ATTESTATION_ALREADY_KNOWN"})
    async with beacon_of([bn]) as beacon:
        await beacon.ask(SubmitAttestations(Fork.FULU, (ATTESTATION,)))
        bn.answers[POOL] = Scripted(500, {"statusCode": 500, "message": "ATTESTATION_ERROR_INVALID_SIGNATURE"})
        with pytest.raises(BeaconFault, match="INVALID_SIGNATURE"):
            await beacon.ask(SubmitAttestations(Fork.FULU, (ATTESTATION,)))


async def test_one_accepting_node_is_enough_and_fallbacks_help() -> None:
    bad, good, fallback = node("bad"), node("good"), node("fallback")
    bad.answers[POOL] = Scripted(400, {"message": "no"})
    good.answers[POOL] = Scripted(200, delay_s=0.2)
    fallback.answers["/eth/v1/validator/prepare_beacon_proposer"] = Scripted(200)
    for upstream in (bad, good):
        upstream.answers["/eth/v1/validator/prepare_beacon_proposer"] = Scripted(503)
    async with beacon_of([bad, good], [fallback]) as beacon:
        await beacon.ask(SubmitAttestations(Fork.FULU, (ATTESTATION,)))
        await beacon.ask(PrepareProposers(((7, "0x" + "00" * 20),)))
    assert not fallback.saw(POOL)
    assert fallback.saw("/eth/v1/validator/prepare_beacon_proposer")[0].json == [
        {"validator_index": "7", "fee_recipient": "0x" + "00" * 20}
    ]


# -- blocks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", vector("lodestar-http/fulu/block_produce.json")["samples"], ids=lambda s: s["form"])
def test_blocks_of_a_real_node(sample: Any) -> None:
    genesis, spec = (vector(f"lodestar-http/fulu/{name}.json")["samples"][0]["response"] for name in ("genesis", "spec"))
    schedule = [{"previous_version": "0x00000001", "current_version": "0x06000001", "epoch": "0"}]
    chain = chain_from_answers(genesis, spec, schedule, bytes(4))
    is_ssz = sample["form"] == "ssz"
    body = bytes.fromhex(sample["response"][2:]) if is_ssz else json.dumps(sample["response"]).encode()
    proposal = decode_proposal(Answer(200, sample["response_headers"], body), chain)
    assert proposal.slot == int(sample["path"].rsplit("/", 1)[1])
    assert "0x" + proposal.message[RANDAO_IN_MESSAGE].hex() in sample["query"]
    assert (proposal.fork, proposal.blinded) == (Fork.FULU, is_ssz)


# -- events --------------------------------------------------------------------------------------------------------------------


def sse(topic: str, **fields: Any) -> bytes:
    return f"event: {topic}\ndata: {json.dumps(fields)}\n\n".encode()


def head(slot: int) -> bytes:
    return sse("head", slot=str(slot), block="0x" + "bb" * 32, state="0x" + "cc" * 32)


def stream(*chunks: bytes, is_endless: bool = True) -> Scripted:
    return Scripted(headers={"content-type": "text/event-stream"}, chunks=list(chunks), is_endless=is_endless)


async def test_events_are_published_once_and_survive_nonsense_and_lost_streams() -> None:
    one, two = node("one"), node("two")
    answers = [stream(head(1), b"event: head\ndata: {}\n\n", head(2), is_endless=False), Scripted(503), stream(head(3))]
    one.answers["/eth/v1/events"] = lambda _: answers.pop(0) if answers else Scripted(503)
    two.answers["/eth/v1/events"] = stream(head(1), head(2), sse("chain_reorg", slot="9", depth="2"))
    events: list[ChainEvent] = []
    async with beacon_of([one, two], on_event=events.append):
        await one.wait_until(lambda: len(events) == 4)
    assert {event.slot for event in events if isinstance(event, HeadEvent)} == {1, 2, 3}
    assert ReorgEvent(9, 2) in events


async def test_a_node_that_does_not_know_a_topic_is_asked_for_fewer() -> None:
    bn = node()
    bn.answers["/eth/v1/events"] = lambda seen: Scripted(400) if "block_gossip" in seen.query else stream(head(1))
    events: list[ChainEvent] = []
    async with beacon_of([bn], on_event=events.append):
        await bn.wait_until(lambda: len(events) == 1)


async def test_what_is_told_for_metrics_is_named_as_the_beacon_nodes_endpoints() -> None:
    bn, fallback, told = node(), node("fallback"), Told()
    bn.answers["/eth/v1/validator/duties/attester/5"] = attester_answer
    bn.answers[DATA] = Scripted(503)
    fallback.answers[DATA] = Scripted(body=attestation_data(41))

    def requests() -> list[tuple[str, bool, bool | None]]:
        """Since the last time, without the regular questions after a node's state."""
        calls: list[tuple[str, bool, bool | None]] = [
            (call.name, call.error is None, call.by_fallback) for call in told.calls if call.by_fallback is not None
        ]
        told.calls.clear()
        return calls

    async with beacon_of([bn], [fallback], told=told) as beacon:
        assert {call.name for call in told.calls} <= {"genesis", "spec", "fork_schedule", "node_syncing"}
        told.calls.clear()
        for _ in range(2):
            await beacon.ask(AttesterDuties(5, (7, 8)))
        assert requests() == [("attester_duties", True, False)], "what memory answers is no request"
        assert [(cache.name, cache.outcome) for cache in told.caches] == [
            ("attester_duties", "misses"),
            ("attester_duties", "hits"),
        ]
        await beacon.ask(FetchAttestationData(41, 0))
        assert requests() == [("attestation_data", True, True)]
        fallback.answers[DATA] = Scripted(404)
        with pytest.raises(BeaconFault):
            await beacon.ask(FetchAttestationData(41, 0))
        assert requests() == [("attestation_data", False, True)]
        await beacon.ask(SyncStatus())
    assert {call.name for call in told.calls} <= {"node_syncing", "node_peer_count"}


async def test_a_reorg_makes_later_duties_be_read_again() -> None:
    bn, path = node(), "/eth/v1/validator/duties/attester/5"
    bn.answers[path] = attester_answer
    seen: list[ChainEvent] = []
    numbers = Told()
    async with beacon_of([bn], on_event=seen.append, told=numbers) as beacon:
        await beacon.ask(AttesterDuties(5, (7,)))
        bn.answers["/eth/v1/events"] = stream(sse("chain_reorg", slot="40", depth="2"))
        await bn.wait_until(lambda: bool(seen))
        await beacon.ask(AttesterDuties(5, (7,)))
    assert len(bn.saw(path)) == 2
    assert CacheSeen("attester_duties", "invalidated_reorg") in numbers.caches


async def test_a_liars_flood_beside_honest_nodes_is_dropped_and_counted_and_the_honest_ones_are_heard() -> None:
    honest, other, liar = node("honest"), node("other"), node("liar")
    flood = b"".join(sse("chain_reorg", slot=str(1000 + n), depth=str(n)) for n in range(2000))
    nonsense = b"event: head\ndata: {}\n\n" * 2000
    is_flooded = trio.Event()
    real = [sse("chain_reorg", slot="40", depth="2"), head(41)]
    honest.answers["/eth/v1/events"] = other.answers["/eth/v1/events"] = Scripted(
        headers={"content-type": "text/event-stream"}, chunks=[b":\n\n", *real], pause_s=0.4, is_endless=True
    )
    liar.answers["/eth/v1/events"] = stream(flood, nonsense)
    events: list[ChainEvent] = []
    dropped: Counter[tuple[str, str]] = Counter()

    def on_fact(fact: Fact) -> None:
        if isinstance(fact, EventDropped):
            dropped[fact.topic, fact.reason] += 1
            is_flooded.set()

    async with beacon_of([honest, other, liar], on_event=events.append, on_fact=on_fact):
        await honest.wait_until(lambda: len(events) >= 2)
        with trio.fail_after(10):
            await is_flooded.wait()
        await liar.wait_until(lambda: ("head", "rate") in dropped)
    assert set(events) == {ReorgEvent(40, 2), HeadEvent(41, b"\xbb" * 32)}
    assert dropped["chain_reorg", "rate"] > 1900
    assert dropped["head", "nonsense"] < 60
    assert set(dropped) == {("chain_reorg", "rate"), ("head", "rate"), ("head", "nonsense")}


@pytest.mark.parametrize("piece", [b":\n" * 100_000, b"\n" * 200_000, b"data: x\n\n" * 20_000])
async def test_a_stream_is_read_no_faster_than_its_pace(piece: bytes) -> None:
    bn = node()
    bn.answers["/eth/v1/events"] = stream(piece, piece, piece, piece, head(1))
    bn.answers["/eth/v1/node/version"] = Scripted(body={"data": {"version": "quick"}})
    events: list[ChainEvent] = []
    async with beacon_of([bn], on_event=events.append) as beacon:
        for _ in range(20):
            assert await beacon.ask(NodeVersion()) == "quick", "other work goes on"
        await trio.sleep(0.5)
    assert not events, "400 000 lines take minutes"


async def test_a_node_that_drips_an_answer_does_not_delay_the_honest_one() -> None:
    honest, liar = node("honest"), node("liar")
    honest.answers[DATA] = Scripted(body=attestation_data(41))
    liar.answers[DATA] = Scripted(chunks=[b" "] * 1000, pause_s=0.05)
    async with beacon_of([liar, honest]) as beacon:
        started = trio.current_time()
        await beacon.ask(FetchAttestationData(41, 0))
        assert trio.current_time() - started < 0.9, "the time limit is a second"


async def test_more_validators_than_were_asked_for_are_not_read() -> None:
    bn = node()
    bn.answers["/eth/v1/validator/duties/attester/5"] = Scripted(
        body={"dependent_root": "0x" + "44" * 32, "data": [{"pubkey": "0x" + "aa" * 48}] * 2000}
    )
    async with beacon_of([bn]) as beacon:
        with pytest.raises(BeaconFault, match="answers with more than"):
            await beacon.ask(AttesterDuties(5, (7,)))


async def test_duties_that_are_dropped_while_others_are_asked_for_are_asked_for_again() -> None:
    """Else whoever asked for two would get one, and believe that the other validator has none."""
    bn, path = node(), "/eth/v1/validator/duties/attester/5"
    bn.answers["/eth/v1/events"] = Scripted(404)

    def answer(seen: Seen) -> Scripted:
        whole = attester_answer(seen)
        if seen.json == ["9"]:  # the reorganisation comes while this one is on its way
            bn.answers["/eth/v1/events"] = stream(sse("chain_reorg", slot="40", depth="2"))
            whole.delay_s = 3.0
        return whole

    bn.answers[path] = answer
    seen: list[ChainEvent] = []
    async with beacon_of([bn], on_event=seen.append, timeout_s=10.0) as beacon:
        await beacon.ask(AttesterDuties(5, (7,)))
        both = await beacon.ask(AttesterDuties(5, (7, 9)))
    assert seen == [ReorgEvent(40, 2)]
    assert sorted(int(duty.validator_index) for duty in both.duties) == [7, 9]


async def test_a_clients_stream_is_held_when_its_upstream_goes() -> None:
    one, two = node("one"), node("two")
    one.answers["/eth/v1/events"] = stream(head(1), is_endless=False)
    two.answers["/eth/v1/events"] = stream(head(2))
    async with beacon_of([one, two]) as beacon:
        answer = await beacon.ask(OpenEvents(b"topics=head"))
        assert dict(answer.headers)["content-type"] == "text/event-stream"
        with trio.fail_after(10):
            received = [await anext(answer.body), await anext(answer.body)]
        assert received == [head(1), head(2)]
        await answer.body.aclose()


async def test_topics_that_a_node_refuses_are_left_out() -> None:
    bn = node()
    bn.answers["/eth/v1/events"] = lambda seen: (
        Scripted(400, {"message": "topic"}) if "head_v2" in seen.query else stream(head(1))
    )
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(OpenEvents(b"topics=head,head_v2"))
        assert await anext(answer.body) == head(1)
        await answer.body.aclose()
        with pytest.raises(BeaconFault) as caught:
            await beacon.ask(OpenEvents(b"topics=head_v2"))
        assert caught.value.status == 400


async def test_no_events_anywhere_is_a_fault() -> None:
    async with beacon_of([node()]) as beacon:
        with pytest.raises(BeaconFault):
            await beacon.ask(OpenEvents(b"topics=head"))


# -- forwarding ----------------------------------------------------------------------------------------------------------------


async def test_a_large_body_is_streamed_and_not_held() -> None:
    bn = node()
    piece = b"x" * 65536
    bn.answers["/big"] = Scripted(headers={"content-type": "application/octet-stream"}, chunks=[piece] * 64)
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(Forward("GET", "/big", b"", (), b""))
        total = 0
        async for chunk in answer.body:
            assert len(chunk) <= 2**17
            total += len(chunk)
        assert total == 64 * len(piece)


async def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    bn = node()
    bn.answers["/big"] = Scripted(chunks=[b"x" * 1000], breaks_off=True)
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(Forward("GET", "/big", b"", (), b""))
        with pytest.raises(BeaconUnavailable):
            async for _ in answer.body:
                pass


async def test_a_taker_that_closes_ends_the_upstream() -> None:
    bn = node()
    bn.answers["/big"] = Scripted(chunks=[b"x" * 65536] * 10_000)
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(Forward("GET", "/big", b"", (), b""))
        await anext(answer.body)
        await answer.body.aclose()
        await bn.wait_until(lambda: bn.cancelled == 1)


async def test_subscriptions_reach_every_node() -> None:
    path = "/eth/v1/validator/beacon_committee_subscriptions"
    fast, slow = node("fast"), node("slow")
    fast.answers[path], slow.answers[path] = Scripted(200), Scripted(200, delay_s=0.4)
    async with beacon_of([fast, slow]) as beacon:
        started = trio.current_time()
        answer = await beacon.ask(Forward("POST", path, b"", (), b"[]", to_all=True))
        assert (answer.status, trio.current_time() - started < 0.3) == (200, True)
        await trio.sleep(0.5)
    assert (slow.cancelled, slow.saw(path)[0].body) == (0, b"[]")


async def test_restart_of_the_actor_leaves_no_task_and_no_connection() -> None:
    bn = node()
    bn.answers[DATA] = Scripted(delay_s=30)
    async with bn.serving():
        settings = Settings(primaries=(decode_node_url(bn.url),), timeout_s=20.0)
        known = KnownChain()
        for life in range(3):
            mailbox: Mailbox[Message] = Mailbox("beacon")
            async with open_actor(mailbox, lambda: Beacon(settings, known, wall_clock=Clock(40))) as beacon:
                await beacon.ask(LOAD)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(beacon.ask, FetchAttestationData(41, 0))
                    await bn.wait_until(lambda life=life: len(bn.saw(DATA)) > life)  # type: ignore[misc]
                    await bn.wait_until(lambda life=life: len(bn.saw(SCHEDULE)) > life)  # type: ignore[misc]
                    await beacon.ask(NodeVersion())  # by then the schedule's answer is read: nothing but the data is under way
                    nursery.cancel_scope.cancel()
        await bn.wait_until(lambda: bn.cancelled == 3)
        async with httpx.AsyncClient() as client:
            assert (await client.get(bn.url + "/eth/v1/node/version")).status_code == 200


def test_every_request_has_a_row_or_a_room_of_its_own() -> None:
    settings = Settings(primaries=(decode_node_url("http://127.0.0.1:1"),))
    handled = set(Beacon(settings, KnownChain())._handlers) | {
        Forward,
        OpenEvents,
    }  # those two come with the incarnation's nursery
    assert handled == set(get_args(Message))
