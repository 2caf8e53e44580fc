"""`create cluster` for every parameter set that Charon's own tests have: the same files, the same summary."""

import json
from pathlib import Path

import pytest

from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import verify_lock
from charon_actors.eth2.networks import Network
from tests.cli.conftest import Charon
from tests.cli.loopback import Asked, Reply, loopback
from tests.cli.test_commands import ADDRESS, ADDRESSES, OTHER, VECTORS, check_cluster, golden_files, tree, write_interop_keystores

GOLDENS = VECTORS / "monitoring/create-cluster"
EXAMPLES = VECTORS / "cluster/examples"
SOLO = EXAMPLES / "cluster-definition-006.json"
LAB = Network("obolnet", 1337, bytes.fromhex("00000101"), 1700000000, b"")
LAB_FLAGS = (
    "--testnet-name=obolnet",
    "--testnet-chain-id=1337",
    "--testnet-fork-version=0x00000101",
    "--testnet-genesis-timestamp=1700000000",
)
INSECURE = ("create", "cluster", "--insecure-keys", "--cluster-dir=out")
NEW = (*INSECURE, "--name=test", "--nodes=4", "--num-validators=2")
HOODI = (*NEW, "--network=hoodi", *ADDRESSES)

SETS: dict[str, tuple[str, ...]] = {
    "custom_target_gas_limit": (*HOODI, "--target-gas-limit=36000000"),
    "custom_testnet_flags": (*NEW, *ADDRESSES, *LAB_FLAGS),
    "four_partial_deposits": (*HOODI, "--deposit-amounts=8,8,8,8"),
    "goerli": (*INSECURE, "--name=test", "--nodes=3", "--num-validators=2", "--network=goerli", *ADDRESSES),
    "simnet": HOODI,
    "solo_flow_definition_from_disk": (*INSECURE, f"--definition-file={SOLO}"),
    "solo_flow_definition_from_network": (*INSECURE, "--definition-file=URL"),
    "splitkeys": (
        *INSECURE,
        "--name=test",
        "--nodes=4",
        "--network=hoodi",
        *ADDRESSES,
        "--split-existing-keys",
        "--split-keys-dir=keys",
    ),
    "splitkeys_with_cluster_definition": (
        *(*INSECURE, f"--definition-file={SOLO}"),
        *("--split-existing-keys", "--split-keys-dir=keys"),
    ),
    "test_with_fee_recipient_and_withdrawal_addresses": (
        *(*INSECURE, "--name=test", "--nodes=3", "--num-validators=2", "--network=hoodi"),
        *("--fee-recipient-addresses", f"{ADDRESS},{OTHER}"),
        *("--withdrawal-addresses", f"{OTHER},{ADDRESS}"),
    ),
    "two_partial_deposits": (*HOODI, "--deposit-amounts=1,31"),
}


def made_lock() -> Lock:
    return decode_lock(Path("out/node0/cluster-lock.json").read_bytes())


def test_every_golden_has_its_parameter_set() -> None:
    names = {
        path.name.removeprefix("TestCreateCluster_").removesuffix("_output.golden") for path in GOLDENS.glob("*_output.golden")
    }
    assert names == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_files_and_summary_are_charons(charon: Charon, name: str) -> None:
    keys = write_interop_keystores(Path("keys"), 2)
    with loopback(lambda asked: Reply(body=SOLO.read_bytes())) as server:
        arguments = [argument.replace("URL", f"{server.url}/v1/definition/0x00") for argument in SETS[name]]
        outcome = charon(*arguments)
    assert outcome.status == 0, outcome
    nodes = json.loads((GOLDENS / f"TestCreateCluster_{name}_files.golden").read_text())
    count = sum("/" not in entry for entry in nodes)
    listed = {path for path in tree(Path("out")) if path.count("/") == 1} | {
        f"node{index}/validator_keys" for index in range(count)
    }
    assert listed == golden_files(name)
    golden = (GOLDENS / f"TestCreateCluster_{name}_output.golden").read_text()
    assert outcome.stdout.strip() == golden.replace("charon/\n", "out/\n").strip()
    made = check_cluster(Path("out"), count, (LAB,))
    assert (made == keys) == name.startswith("splitkeys")


def test_the_terms_of_the_flags_are_in_the_lock(charon: Charon) -> None:
    charon(*SETS["custom_target_gas_limit"])
    lock = made_lock()
    assert lock.definition.target_gas_limit == 36_000_000
    assert {validator.registration.gas_limit for validator in lock.validators} == {36_000_000}
    charon(*SETS["test_with_fee_recipient_and_withdrawal_addresses"], "--cluster-dir=two")
    lock = decode_lock(Path("two/node0/cluster-lock.json").read_bytes())
    assert [row.withdrawal_address for row in lock.definition.validators] == [OTHER, ADDRESS]
    assert [validator.registration.fee_recipient.hex() for validator in lock.validators] == [
        address[2:].lower() for address in (ADDRESS, OTHER)
    ]


@pytest.mark.parametrize(
    ("number", "gas_limit", "deposits"),
    [
        ("002", 0, ["deposit-data.json"]),  # v1.4.0 has no place for deposits and registrations
        ("004", 30_000_000, ["deposit-data.json"]),  # v1.7.0
        ("005", 30_000_000, ["deposit-data-1eth.json", "deposit-data.json"]),  # v1.8.0
        ("006", 30_000_000, ["deposit-data-1eth.json", "deposit-data.json"]),  # v1.10.0
    ],
)
def test_a_definition_keeps_its_version(charon: Charon, number: str, gas_limit: int, deposits: list[str]) -> None:
    path = EXAMPLES / f"cluster-definition-{number}.json"
    outcome = charon(*INSECURE, f"--definition-file={path}")
    assert outcome.status == 0, outcome
    lock = made_lock()
    verify_lock(lock)
    assert lock.definition.version == json.loads(path.read_bytes())["version"]
    check_cluster(Path("out"), 4)
    assert ("have no gas limit; builders are told 30000000" in outcome.stderr) == (number in ("004", "005"))
    assert {validator.registration.gas_limit for validator in lock.validators} == {gas_limit}
    assert sorted(path.name for path in Path("out/node0").glob("deposit-data*")) == deposits


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("000", "operators have addresses or signatures"),
        ("001", "operators have addresses or signatures"),
        ("003", "invalid checksummed address: 0xac78bb58e615c380444f2413fe990511e38010d6"),
    ],
)
def test_old_definitions_that_cannot_become_a_cluster_are_refused(charon: Charon, number: str, error: str) -> None:
    assert error in charon(*INSECURE, f"--definition-file={EXAMPLES / f'cluster-definition-{number}.json'}").error
    assert not Path("out").exists()


def test_a_definition_by_url_is_asked_for_once(charon: Charon) -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return Reply(body=SOLO.read_bytes())

    with loopback(answer) as server:
        assert charon(*INSECURE, f"--definition-file={server.url}/v1/definition/0x00").status == 0
    assert [(request.method, request.path) for request in asked] == [("GET", "/v1/definition/0x00")]
