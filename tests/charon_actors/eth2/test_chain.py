"""Slots, forks, domains, duties and networks against the tables and vectors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.crypto import verify
from charon_actors.eth2.aggregation import is_aggregator, is_sync_committee_aggregator
from charon_actors.eth2.chain import Chain, ChainFault, ForkEntry, chain_from_answers
from charon_actors.eth2.duty import ROWS, STARTS_SINCE, Agreement, Duty, DutyType, deadline_s, refusal, start_s
from charon_actors.eth2.forks import Fork, UnknownFork, fork_from_label, fork_from_number
from charon_actors.eth2.networks import NETWORKS, Network, network_by_fork_version, network_by_name
from charon_actors.eth2.preset import GNOSIS, MAINNET, MINIMAL, preset_from_spec
from charon_actors.eth2.signing import (
    DomainType,
    builder_domain,
    compute_domain,
    compute_signing_root,
    deposit_domain,
    fork_data_root,
)
from charon_actors.profile import Profile
from tests.charon_actors.eth2.vectors import load, unhex

FULU_SPEC = load("lodestar-http/fulu/spec.json")["samples"][0]["response"]
FULU_GENESIS = load("lodestar-http/fulu/genesis.json")["samples"][0]["response"]
SCHEDULE = {
    "data": [{"previous_version": "0x00000001", "current_version": f"0x0{number}000001", "epoch": "0"} for number in range(7)]
}
CAPELLA = unhex("03000001")


def bench_chain(**changes: Any) -> Chain:
    spec = {**FULU_SPEC["data"], **changes}
    return chain_from_answers(FULU_GENESIS, {k: v for k, v in spec.items() if v is not None}, SCHEDULE, CAPELLA)


def test_a_test_chain_with_all_forks_at_epoch_zero() -> None:
    chain = bench_chain()
    assert (chain.slots_per_epoch, chain.slot_duration_s, chain.genesis_time_s) == (8, 3.0, 1795202563.0)
    assert chain.fork_at(0) is Fork.FULU
    assert chain.fork_version_at(0) == unhex("06000001"), "the last of several forks at one epoch wins"
    assert chain.preset == MINIMAL
    assert chain.spec["GLOAS_FORK_EPOCH"] == "18446744073709551615"
    assert (chain.epoch_of(17), chain.first_slot(2)) == (2, 16)


@pytest.mark.parametrize("item", load("lodestar-http/fulu/signing.json")["items"], ids=lambda item: item["kind"])
def test_objects_signed_on_a_test_chain_verify(item: dict[str, str]) -> None:
    domain_type = next(kind for kind in DomainType if kind.value == unhex(item["domain"])[:4])
    root = bench_chain().signing_root(unhex(item["object_root"]), domain_type, 0)
    assert root == unhex(item["signing_root"])
    assert verify(unhex(item["pubkey"]), root, unhex(item["signature"]))


@pytest.mark.parametrize(
    ("changes", "slot_s"),
    [
        ({"SLOT_DURATION_MS": "2500", "SECONDS_PER_SLOT": "12"}, 2.5),
        ({"SLOT_DURATION_MS": None, "SECONDS_PER_SLOT": "4"}, 4.0),
        ({"SLOT_DURATION_MS": "6000", "SECONDS_PER_SLOT": None}, 6.0),
    ],
)
def test_either_name_of_the_slot_duration(changes: dict[str, str | None], slot_s: float) -> None:
    assert bench_chain(**changes).slot_duration_s == slot_s


@pytest.mark.parametrize(
    "changes",
    [
        {"SLOTS_PER_EPOCH": "0"},
        {"SLOTS_PER_EPOCH": None},
        {"SLOTS_PER_EPOCH": 8},
        {"SLOT_DURATION_MS": "0"},
        {"SLOT_DURATION_MS": None, "SECONDS_PER_SLOT": None},
        {"FULU_FORK_EPOCH": "-1"},
        {"FULU_FORK_EPOCH": "18446744073709551616"},
        {"SYNC_COMMITTEE_SIZE": "33"},
        {"MAX_WITHDRAWALS_PER_PAYLOAD": "9999999"},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ChainFault):
        bench_chain(**changes)


def test_an_old_node_without_later_forks() -> None:
    spec = {"SLOTS_PER_EPOCH": "8", "SECONDS_PER_SLOT": "3", "ALTAIR_FORK_EPOCH": "0", "CAPELLA_FORK_EPOCH": "5"}
    chain = chain_from_answers(FULU_GENESIS["data"], spec, SCHEDULE["data"][:4], CAPELLA)
    assert [chain.fork_at(epoch) for epoch in (0, 4, 5, 10**9)] == [Fork.ALTAIR, Fork.ALTAIR, Fork.CAPELLA, Fork.CAPELLA]


def test_a_mock_whose_schedule_and_spec_disagree() -> None:
    answers = load("eth2/beaconmock_static_v1_10_3.json")
    genesis, spec = answers["/eth/v1/beacon/genesis"], answers["/eth/v1/config/spec"]
    chain = chain_from_answers(genesis, spec, answers["/eth/v1/config/fork_schedule"], unhex("40000910"))
    # 08 §12.1: signatures follow the schedule, containers the epochs of the spec.
    fork = "69ae0e9900d509b38350c53915fccde15c6ef44214aa1b5bdec34d3a"
    assert chain.domain(DomainType.RANDAO, 10**6).hex() == "02000000" + fork
    assert (chain.fork_at(0), chain.fork_at(2048), chain.fork_at(10**6)) == (Fork.DENEB, Fork.ELECTRA, Fork.ELECTRA)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["0x00000000", "1", "0x" + 64 * "0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "epoch", "current_version", "genesis_time", "SLOTS_PER_EPOCH"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(JSON, JSON, JSON)
def test_hostile_answers_are_chain_faults(genesis: object, spec: object, schedule: object) -> None:
    with pytest.raises(ChainFault):
        chain_from_answers(genesis, spec, schedule, CAPELLA)


def schedule(*entries: tuple[int, str]) -> Chain:
    forks = tuple(ForkEntry(epoch, unhex(version)) for epoch, version in entries)
    return Chain(0.0, bytes(32), 12.0, 32, forks, {Fork.PHASE0: 0}, unhex("03000000"))


@pytest.mark.parametrize(
    ("epoch", "version"), [(0, "01000000"), (9, "01000000"), (10, "03000000"), (11, "03000000"), (2**64, "03000000")]
)
def test_the_last_entry_not_after_the_epoch_wins(epoch: int, version: str) -> None:
    chain = schedule((0, "00000000"), (0, "01000000"), (10, "02000000"), (10, "03000000"), (2**64 - 1 + 10, "04000000"))
    assert chain.fork_version_at(epoch) == unhex(version)


def test_exits_and_registrations_ignore_the_fork_of_the_day() -> None:
    chain = schedule((0, "00000001"), (5, "05000001"))
    for epoch in (0, 4, 5, 10**6):
        assert chain.domain(DomainType.VOLUNTARY_EXIT, epoch) == compute_domain(
            DomainType.VOLUNTARY_EXIT, unhex("03000000"), bytes(32)
        )
        assert chain.domain(DomainType.APPLICATION_BUILDER, epoch) == builder_domain(unhex("00000001"))
    with pytest.raises(ValueError, match="offline"):
        chain.domain(DomainType.DEPOSIT, 0)
    with pytest.raises(ChainFault):
        schedule((3, "00000000")).domain(DomainType.RANDAO, 2)


@given(
    st.floats(0, 2e9),
    st.sampled_from([0.1, 0.25, 1.0, 2.5, 3.0, 12.0, 1 / 3]),
    st.integers(-1000, 10**9),
)
def test_slot_at_is_the_inverse_of_slot_start(genesis_s: float, slot_s: float, slot: int) -> None:
    chain = Chain(genesis_s, bytes(32), slot_s, 32, (), {}, bytes(4))
    assert chain.slot_at(chain.slot_start_s(slot)) == slot


DOMAINS = load("eth2/domains.json")


def test_domain_types() -> None:
    assert {f"DOMAIN_{kind.name}": "0x" + kind.value.hex() for kind in DomainType} == DOMAINS["domain_types"]


@pytest.mark.parametrize("name", DOMAINS["networks"])
def test_domains_of_networks(name: str) -> None:
    expected = DOMAINS["networks"][name]
    versions = {fork: unhex(text) for fork, text in expected["fork_versions"].items()}
    network = network_by_name(name)
    assert network is not None
    assert network == network_by_fork_version(versions["phase0"])
    assert (network.chain_id, network.genesis_time_s) == (expected["chain_id"], expected["genesis_time"])
    assert network.capella_fork_version == versions["capella"]
    root = unhex(expected["genesis_validators_root"])
    assert deposit_domain(versions["phase0"]) == unhex(expected["deposit_domain"])
    assert builder_domain(versions["phase0"]) == unhex(expected["builder_domain"])
    schedule = tuple(ForkEntry(10 * number, versions[fork.label]) for number, fork in enumerate(Fork))
    chain = Chain(0.0, root, 12.0, 32, schedule, {}, versions["capella"])
    exit_domain = unhex(expected["voluntary_exit_domain_capella_eip7044"])
    for fork_label, domains in expected["domains"].items():
        epoch = 10 * fork_from_label(fork_label)
        assert chain.domain(DomainType.VOLUNTARY_EXIT, epoch) == exit_domain
        for domain_name, domain in domains.items():
            assert chain.domain(DomainType[domain_name.removeprefix("DOMAIN_")], epoch) == unhex(domain)


@pytest.mark.parametrize("case", load("eth2/signing_roots.json")["cases"], ids=lambda case: case["name"])
def test_signing_roots(case: dict[str, Any]) -> None:
    domain_type = DomainType[case["domain_name"].removeprefix("DOMAIN_")]
    domain = compute_domain(domain_type, unhex(case["fork_version"]), unhex(case["genesis_validators_root"]))
    assert domain == unhex(case["domain"])
    root = compute_signing_root(unhex(case["object_root"]), domain)
    assert root == unhex(case["signing_root"])
    assert verify(unhex(load("eth2/signing_roots.json")["public_key"]), root, unhex(case["signature"]))


def test_fork_data_roots() -> None:
    external = load("eth2/signing_roots.json")["external"]
    for case in next(item for item in external if item["name"].startswith("fork_data_roots"))["cases"]:
        assert fork_data_root(unhex(case["current_version"]), unhex(case["genesis_validators_root"])) == unhex(case["root"])


TIMERS = load("core/timers_deadlines_leaders.json")


@pytest.mark.parametrize("profile", list(Profile))
def test_duty_deadlines(profile: Profile) -> None:
    expected = dict(TIMERS["duty_deadlines"]["deadline_ms"])
    if profile is Profile.V1_10:
        expected.update(TIMERS["v1_10_3"]["duty_deadline_ms"])
    chain = Chain(1000.0, bytes(32), 12.0, 32, (), {}, bytes(4))
    for duty_type in DutyType:
        seconds = deadline_s(Duty(7, duty_type), chain, profile)
        milliseconds = expected.pop(duty_type.label)
        assert seconds == (None if milliseconds is None else 1000 + 7 * 12 + milliseconds / 1000)
    assert not expected


def test_deadlines_follow_the_epoch_length() -> None:
    chain = Chain(0.0, bytes(32), 3.0, 8, (), {}, bytes(4))
    assert deadline_s(Duty(0, DutyType.ATTESTER), chain, Profile.V1_11) == 24.25
    assert deadline_s(Duty(0, DutyType.PREPARE_AGGREGATOR), chain, Profile.V1_11) == 48.25


@pytest.mark.parametrize("kind", [DutyType.ATTESTER, DutyType.PROPOSER])
def test_the_gate(kind: DutyType) -> None:
    chain = Chain(0.0, bytes(32), 12.0, 32, (), {}, bytes(4))
    for profile in Profile:
        deadline = deadline_s(Duty(64, kind), chain, profile)
        assert deadline is not None
        assert refusal(Duty(64, kind), chain, profile, deadline - 0.001) is None
        assert refusal(Duty(64, kind), chain, profile, deadline) == f"the deadline of 64/{kind.label} has passed"
        assert refusal(Duty(95, kind), chain, profile, 0.0) is None, "two epochs ahead"
        assert (
            refusal(Duty(96, kind), chain, profile, -5.0) == f"96/{kind.label} is too far in the future, more than 2 epochs ahead"
        )
        assert refusal(Duty(96, kind), chain, profile, 32 * 12.0) is None
        assert refusal(Duty(64, kind), chain, profile, 64 * 12.0, {DutyType.EXIT}) is not None
    assert refusal(Duty(0, DutyType.EXIT), chain, Profile.V1_10, 1e12, {DutyType.EXIT}) is None, "never over"
    assert refusal(Duty(0, DutyType.EXIT), chain, Profile.V1_10, 0.0) == "0/exit: this node does not perform exit duties"


def test_duties() -> None:
    assert [int(kind) for kind in DutyType] == list(range(1, 14))
    assert str(Duty(123, DutyType.ATTESTER)) == "123/attester"
    assert min([Duty(2, DutyType.PROPOSER), Duty(1, DutyType.RANDAO)]).slot == 1
    chain = Chain(0.0, bytes(32), 12.0, 32, (), {}, bytes(4))
    offsets = {kind: begin_s for kind in DutyType if (begin_s := start_s(Duty(0, kind), chain))}
    assert offsets == {DutyType.ATTESTER: 4.0, DutyType.AGGREGATOR: 8.0, DutyType.SYNC_CONTRIBUTION: 8.0}
    agreed = {kind for kind in DutyType if ROWS[kind].agreement is not Agreement.NONE}
    assert {int(kind) for kind in agreed} == {1, 2, 9, 12, 13}


def test_a_fork_that_moves_starts_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers of Gloas (12 §2.2) on forks that are known: 25 and 50 % of the slot; what comes later stands on both rows."""
    chain = Chain(1000.0, bytes(32), 12.0, 8, (), {Fork.DENEB: 0, Fork.ELECTRA: 10, Fork.FULU: 20}, bytes(4))
    monkeypatch.setitem(STARTS_SINCE, Fork.ELECTRA, {DutyType.ATTESTER: 3, DutyType.AGGREGATOR: 6, DutyType.SYNC_CONTRIBUTION: 6})
    monkeypatch.setitem(STARTS_SINCE, Fork.FULU, {DutyType.ATTESTER: 9})

    def starts(slot: int) -> list[float]:
        kinds = (DutyType.ATTESTER, DutyType.AGGREGATOR, DutyType.SYNC_CONTRIBUTION, DutyType.PROPOSER)
        return [start_s(Duty(slot, kind), chain) - chain.slot_start_s(slot) for kind in kinds]

    assert starts(10 * 8 - 1) == [4.0, 8.0, 8.0, 0.0]
    assert starts(10 * 8) == starts(20 * 8 - 1) == [3.0, 6.0, 6.0, 0.0]
    assert starts(20 * 8) == [9.0, 6.0, 6.0, 0.0]
    for profile in Profile:  # deadlines stay (12 §2.2)
        assert deadline_s(Duty(80, DutyType.PROPOSER), chain, profile) == chain.slot_start_s(80) + 5.0


def test_networks() -> None:
    assert len({network.genesis_fork_version for network in NETWORKS}) == len(NETWORKS) == 7
    assert network_by_name("prater") == network_by_name("goerli")
    assert network_by_name("kurtosis") is None
    custom = Network("kurtosis", 1337, unhex("10000038"), 1, unhex("40000038"))
    assert network_by_name("kurtosis", [custom]) == network_by_fork_version(unhex("10000038"), [custom]) == custom
    impostor = Network("mainnet", 2, unhex("10000039"), 1, unhex("40000038"))
    found = network_by_name("mainnet", [impostor])
    assert found is not None
    assert found.chain_id == 1, "built-in names come first"
    assert {network.slot_duration_s for network in NETWORKS if network.name in ("gnosis", "chiado")} == {5.0}


def test_forks_by_label_and_number() -> None:
    assert [fork_from_label(fork.label.upper()) for fork in Fork] == list(Fork)
    assert [fork_from_number(number) for number in range(7)] == list(Fork)
    for unknown in ("gloas", "", "fulu "):
        with pytest.raises(UnknownFork):
            fork_from_label(unknown)
    for number in (-1, 7, 2**64 - 1):
        with pytest.raises(UnknownFork):
            fork_from_number(number)


def test_presets() -> None:
    assert preset_from_spec({}) == MAINNET
    assert preset_from_spec({"MAX_WITHDRAWALS_PER_PAYLOAD": "8"}) == GNOSIS


@pytest.mark.parametrize("name", ["eth2/signing_roots.json"])
def test_aggregator_selection(name: str) -> None:
    selection = load(name)["aggregator_selection"]
    for case in selection["is_attestation_aggregator"]:
        assert is_aggregator(unhex(case["selection_proof"]), case["committee_length"]) == case["result"]
    for case in selection["is_sync_aggregator"]:
        assert is_sync_committee_aggregator(unhex(case["selection_proof"])) == case["result"]


def test_a_custom_networks_capella_version_comes_from_the_spec_when_nobody_gave_it() -> None:
    chain = chain_from_answers(FULU_GENESIS, FULU_SPEC, SCHEDULE, b"")
    assert chain.capella_fork_version == unhex(FULU_SPEC["data"]["CAPELLA_FORK_VERSION"])
    without = {key: value for key, value in FULU_SPEC["data"].items() if key != "CAPELLA_FORK_VERSION"}
    with pytest.raises(ChainFault, match="Capella"):
        chain_from_answers(FULU_GENESIS, without, SCHEDULE, b"")
