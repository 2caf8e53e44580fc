"""The commands as their users meet them: files, stdout, one line for every mistake."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from charon_actors.cli.options.values import parse_duration
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.verify import verify_definition
from charon_actors.crypto.bls import public_key
from charon_actors.crypto.keystore import decode_keystore, decrypt_keystore
from charon_actors.crypto.threshold import recover_secret
from charon_actors.enr import decode_enr
from charon_actors.eth2.networks import Network
from charon_actors.files.data_directory import load_lock
from charon_actors.files.identity import load_key_file
from charon_actors.files.keystore_files import read_keystores
from tests.cli.conftest import Charon

VECTORS = Path(__file__).parent.parent / "vectors"
ADDRESS = "0x000000000000000000000000000000000000dEaD"
OTHER = "0x52908400098527886E0F7030069857D2E4169EE7"
ADDRESSES = ("--fee-recipient-addresses", ADDRESS, "--withdrawal-addresses", ADDRESS)
CLUSTER = ("create", "cluster", "--name", "test", "--network", "hoodi", "--insecure-keys", "--cluster-dir", "out")
SMALL = (*CLUSTER, *ADDRESSES, "--nodes", "3", "--num-validators", "1")
CHARON = [sys.executable, "-m", "charon_actors.cli.main"]
LAB = Network("lab", 1337, bytes.fromhex("00000001"), 1700000000, b"")
TESTNET = ("--testnet-name=lab", "--testnet-chain-id=1337", "--testnet-fork-version=0x00000001")


def silent(text: str) -> None:
    raise AssertionError(text)


def tree(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()
    }


# --- the root --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["create"], ["create", "--help"], ["create", "dkg", "--help"]])
def test_help_goes_to_stdout_with_status_zero(charon: Charon, arguments: list[str]) -> None:
    outcome = charon(*arguments)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("Usage: charon")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nope"], 'charon: unknown command "nope" for "charon"; see `charon --help`'),
        (["create", "nope"], 'charon create: unknown command "nope" for "charon create"; see `charon create --help`'),
        (["--nope"], "charon: unknown flag: --nope; see `charon --help`"),
        (["create", "--nope"], "charon create: unknown flag: --nope; see `charon create --help`"),
        (["enr", "--nope"], "charon enr: unknown flag: --nope; see `charon enr --help`"),
        (["enr", "stray"], 'charon enr: unknown command "stray" for "charon enr"; it takes flags only, see `charon enr --help`'),
        (["create", "cluster", "--clean"], "charon create cluster: unknown flag: --clean; see `charon create cluster --help`"),
        (["nope\n\x1b[31mError: forged"], 'charon: unknown command "nope ?[31mError: forged" for "charon"; see `charon --help`'),
    ],
)
def test_unknown_flags_and_commands_are_errors_also_when_nested(charon: Charon, arguments: list[str], error: str) -> None:
    outcome = charon(*arguments)
    assert outcome.error == error
    assert outcome.stdout == ""


def test_version_is_one_line(charon: Charon) -> None:
    outcome = charon("version")
    assert re.fullmatch(r"v\d+\.\d+\.\d+ \[.*\]\n", outcome.stdout)
    assert "Consensus protocols:\n\t/charon/consensus/qbft/2.0.0\n" in charon("version", "--verbose").stdout


def test_flags_of_the_commands_are_charons_with_type_and_default() -> None:
    from charon_actors.cli.commands import create_cluster, create_dkg, create_enr, dkg, enr, version

    reference = json.loads((VECTORS / "monitoring/cli_flags.json").read_text())["commands"]
    modules = {
        "create cluster": create_cluster,
        "create dkg": create_dkg,
        "create enr": create_enr,
        "dkg": dkg,
        "enr": enr,
        "version": version,
    }
    for name, module in modules.items():
        ours = {flag.name: flag for flag in module.command.flags}
        assert set(reference[name]["flags"]) <= set(ours), name
        for flag_name, row in reference[name]["flags"].items():
            if flag_name in ours:
                default, expected = ours[flag_name].default, row["default"]
                expected = parse_duration(expected) if row["type"] == "duration" else expected
                assert ours[flag_name].kind.value == row["type"] or ours[flag_name].inert, flag_name
                assert (list(default) if isinstance(default, tuple) else default) == expected, flag_name


def test_light_commands_do_not_load_the_heavy_machinery(tmp_path: Path) -> None:
    script = (
        "import sys; from charon_actors.cli.main import main; assert main(['create', 'enr']) == 0; assert main(['enr']) == 0;"
        "assert main(['version']) == 0;"
        "print([m for m in ('trio', 'httpx', 'starlette', 'rich', 'structlog', 'yaml', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHARON_")}
    return {**clean, "PYTHONPATH": str(Path(__file__).parent.parent.parent), **more}


# --- create enr, enr -------------------------------------------------------------------------------------------------


def test_create_enr_then_enr_prints_the_same_line_twice(charon: Charon) -> None:
    created = charon("create", "enr")
    (enr,) = [line for line in created.stdout.splitlines() if line.startswith("enr:")]
    assert created.stdout.startswith("Created ENR private key: .charon/charon-enr-private-key\n" + enr + "\n")
    assert charon("enr").stdout == charon("enr", "--data-dir=.charon").stdout == enr + "\n"
    key = load_key_file(Path(".charon/charon-enr-private-key"), silent)
    assert key.hex() not in created.stdout + created.stderr
    verbose = charon("enr", "--verbose").stdout
    assert decode_enr(enr).public_key.hex() in verbose
    assert sum(line.startswith("enr:") for line in verbose.splitlines()) == 1


def test_create_enr_never_overwrites(charon: Charon) -> None:
    charon("create", "enr", CHARON_DATA_DIR="mine")
    before = Path("mine/charon-enr-private-key").read_bytes()
    error = charon("create", "enr", "--data-dir", "mine").error
    assert error.startswith("mine/charon-enr-private-key: charon-enr-private-key already exists")
    Path("mine/charon-enr-private-key").write_text("0x" + before.decode())
    assert "already exists" in charon("create", "enr", "--data-dir", "mine").error
    assert "malformed private key" in charon("enr", "--data-dir", "mine").error


def test_enr_without_a_key_says_how_to_make_one(charon: Charon) -> None:
    error = charon("enr").error
    assert error == ".charon/charon-enr-private-key: private key not found; create one with `charon create enr`"


def test_alpha_flags_of_create_enr_are_accepted_with_a_notice(charon: Charon) -> None:
    outcome = charon("create", "enr", "--p2p-external-ip", "1.2.3.4")
    assert outcome.status == 0
    assert "has no effect" in outcome.stderr


# --- create dkg ------------------------------------------------------------------------------------------------------


def without_repeats(arguments: Sequence[str]) -> list[str]:
    """With an address for each list that `arguments` don't give: a list that is given twice is one longer list."""
    lists = ("--fee-recipient-addresses", "--withdrawal-addresses")
    missing = [name for name in lists if not any(argument.startswith(name) for argument in arguments)]
    return [*(f"{name}={ADDRESS}" for name in missing), *arguments]


@pytest.fixture
def enrs(charon: Charon) -> list[str]:
    return [charon("create", "enr", f"--data-dir=op{i}").stdout.splitlines()[1] for i in range(4)]


def test_create_dkg_from_the_environment_writes_a_definition_that_verifies(charon: Charon, enrs: list[str]) -> None:
    outcome = charon("create", "dkg", "--network=hoodi", *ADDRESSES, CHARON_OPERATOR_ENRS=", ".join(enrs))
    assert (outcome.status, outcome.stdout) == (0, "")
    path = Path(".charon/cluster-definition.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    definition = decode_definition(path.read_bytes())
    verify_definition(definition)
    assert [operator.enr for operator in definition.operators] == enrs
    assert (definition.threshold, definition.version, definition.fork_version.hex()) == (3, "v1.10.0", "10000910")
    assert re.fullmatch(r"[0-9A-F]{8}-[0-9A-F]{4}-4[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}", definition.uuid)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", definition.timestamp)


def test_create_dkg_writes_everything_that_was_asked_for(charon: Charon, enrs: list[str]) -> None:
    Path("charon.yaml").write_text("operator-enrs:\n" + "".join(f"  - {enr}\n" for enr in enrs) + "name: from file\n")
    outcome = charon(
        *("create", "dkg", "-t", "4", "--num-validators=2", "--withdrawal-addresses", f"{ADDRESS},{OTHER}"),
        *("--fee-recipient-address", OTHER.lower(), "--deposit-amounts=8,24", "--compounding", "--output-dir=a/b"),
        *("--target-gas-limit=45_000_000", "--consensus-protocol=QBFT", "--schema-version=v1.11.0"),
        *(*TESTNET, "--testnet-genesis-timestamp=1700000000"),
    )
    assert outcome.status == 0
    assert "not the standard 3" in outcome.stderr
    definition = decode_definition(Path("a/b/cluster-definition.json").read_bytes())
    verify_definition(definition, (LAB,))
    assert definition.deposit_amounts_gwei == (8 * 10**9, 24 * 10**9)
    assert [row.withdrawal_address for row in definition.validators] == [ADDRESS, OTHER]
    assert [row.fee_recipient_address for row in definition.validators] == [OTHER.lower()] * 2
    assert (definition.name, definition.compounding, definition.target_gas_limit) == ("from file", True, 45_000_000)
    assert (definition.threshold, definition.fork_version.hex()) == (4, "00000001")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--threshold=0"], "--threshold: threshold below minimum"),
        (["--threshold=1"], "--threshold: threshold below minimum"),
        (["--threshold=5"], "--threshold: threshold exceeds number of nodes"),
        (["--network=nonet"], "--network: invalid network specified"),
        (["--deposit-amounts=1"], "sum of partial deposit amounts must be at least 32ETH"),
        (["--deposit-amounts=0,32"], "each partial deposit amount must be greater than 1ETH"),
        (["--deposit-amounts=33"], "single partial deposit amount is too large"),
        (["--deposit-amounts=-5,40"], "each partial deposit amount must be greater than 1ETH"),
        (["--deposit-amounts=1.5"], "invalid argument"),
        (["--consensus-protocol=abft"], "unsupported consensus protocol"),
        (["--num-validators=3", f"--fee-recipient-addresses={ADDRESS},{ADDRESS}"], "mismatching --num-validators and --fee"),
        (["--num-validators=0"], "--num-validators: is out of range"),
        (["--num-validators=65537"], "--num-validators: is out of range"),
        ([f"--withdrawal-addresses={ADDRESS.lower()}"], f"if it is right, write {ADDRESS}"),
        (["--withdrawal-addresses=0x12"], "invalid ethereum address: '0x12'"),
        (["--withdrawal-addresses=0x" + "0" * 40, "--network=mainnet"], "zero address forbidden on this network"),
        (["--fee-recipient-addresses=" + "0x" + "g" * 40], "--fee-recipient-addresses: invalid ethereum address"),
        (["--target-gas-limit=0"], "target gas limit not set"),
        (["--dkg-algorithm=magic"], "unknown algorithm"),
        (["--name=" + "x" * 257], "string too long"),
        (["--name=\udcff"], "--name: the name is no valid text"),
        (["--schema-version=v1.9.0"], "unsupported definition version"),
        (["--testnet-name=lab"], "lacks --testnet-chain-id, --testnet-fork-version, --testnet-genesis-timestamp"),
        ([*TESTNET[:2], "--testnet-fork-version=0X01", "--testnet-genesis-timestamp=1"], "invalid fork version"),
        (["--testnet-name=hoodi", *TESTNET[1:], "--testnet-genesis-timestamp=1"], "name of a built-in network"),
        (
            [*TESTNET[:2], "--testnet-fork-version=0x00000000", "--testnet-genesis-timestamp=1"],
            "fork version of a built-in network",
        ),
    ],
)
def test_create_dkg_refuses_and_writes_nothing(charon: Charon, enrs: list[str], arguments: list[str], error: str) -> None:
    given = ["--network=hoodi", *without_repeats(arguments)]
    assert error in charon("create", "dkg", "--operator-enrs", ",".join(enrs), *given).error
    assert not Path(".charon").exists()


def test_create_dkg_checks_the_enrs(charon: Charon, enrs: list[str]) -> None:
    def error_for(*operators: str) -> str:
        return charon("create", "dkg", "--network=hoodi", *ADDRESSES, CHARON_OPERATOR_ENRS=",".join(operators)).error

    assert "number of operators is below minimum (2)" in error_for(*enrs[:2])
    assert "duplicate peer ids (operators 1 and 3)" in error_for(*enrs[:3], enrs[1])
    assert "operator 2" in error_for(*enrs[:2], enrs[2][:-3] + "AAA")
    assert "operator 0" in error_for("enr:", *enrs[:3])
    assert "too many operators (256); the most is 255" in error_for(*enrs * 64)  # 04 §5.1
    assert "duplicate peer ids" in error_for(*enrs * 63, *enrs[:3])
    assert 'required flag(s) "operator-enrs" not set' in charon("create", "dkg", CHARON_OPERATOR_ENRS="").error
    assert not Path(".charon").exists()


def test_create_dkg_refuses_an_existing_definition(charon: Charon, enrs: list[str]) -> None:
    arguments = ["create", "dkg", "--network=hoodi", *ADDRESSES, "--operator-enrs", ",".join(enrs)]
    assert charon(*arguments).status == 0
    before = Path(".charon/cluster-definition.json").read_bytes()
    assert "existing cluster-definition.json found" in charon(*arguments).error
    assert Path(".charon/cluster-definition.json").read_bytes() == before


# --- create cluster --------------------------------------------------------------------------------------------------


def check_cluster(directory: Path, nodes: int, networks: tuple[Network, ...] = ()) -> list[bytes]:
    """Every node's files belong together; the group secrets that the shares recover to."""
    recovered: list[dict[int, bytes]] = []
    for index in range(nodes):
        node = directory / f"node{index}"
        lock = load_lock(node / "cluster-lock.json", silent, networks_extra=networks)
        key = load_key_file(node / "charon-enr-private-key", silent)
        from charon_actors.crypto.secp256k1 import k1_public_key

        assert decode_enr(lock.definition.operators[index].enr).public_key == k1_public_key(key)
        keystores = read_keystores(node / "validator_keys")
        opened = [decrypt_keystore(decode_keystore(k.content), k.password) for k in keystores]
        assert [public_key(secret) for secret in opened] == [v.public_shares[index] for v in lock.validators]
        recovered = recovered or [{} for _ in opened]
        for of_validator, secret in zip(recovered, opened, strict=True):
            of_validator[index + 1] = secret
    group = [recover_secret(dict(list(of.items())[: lock.definition.threshold])) for of in recovered]
    assert [public_key(secret) for secret in group] == [v.public_key for v in lock.validators]
    return group


def golden_files(name: str) -> set[str]:
    listed = json.loads((VECTORS / "monitoring/create-cluster" / f"TestCreateCluster_{name}_files.golden").read_text())
    return {entry for entry in listed if "/" in entry}


@pytest.mark.parametrize(
    ("name", "nodes", "amounts"),
    [("simnet", 4, ""), ("two_partial_deposits", 4, "1,31"), ("four_partial_deposits", 4, "8,8,8,8"), ("goerli", 3, "")],
)
def test_create_cluster_writes_charons_files_and_they_belong_together(
    charon: Charon, name: str, nodes: int, amounts: str
) -> None:
    outcome = charon(*CLUSTER, *ADDRESSES, f"--nodes={nodes}", "--num-validators=2", f"--deposit-amounts={amounts}")
    assert outcome.status == 0, outcome
    listed = {path for path in tree(Path("out")) if path.count("/") == 1}
    listed |= {f"node{index}/validator_keys" for index in range(nodes)}
    assert listed == golden_files(name)
    check_cluster(Path("out"), nodes)
    golden = (VECTORS / "monitoring/create-cluster" / f"TestCreateCluster_{name}_output.golden").read_text()
    assert outcome.stdout.strip() == golden.replace("charon/\n", "out/\n").strip()


def test_names_and_modes_are_those_of_real_charon(charon: Charon) -> None:
    arguments = [argument for argument in CLUSTER if argument != "--insecure-keys"]
    old = os.umask(0o022)
    try:
        assert charon(*arguments, *ADDRESSES, "--nodes", "4", "--num-validators", "1").status == 0
    finally:
        os.umask(old)
    with tarfile.open(VECTORS / "live/clusters/1.10.3-n4v1-secure.tar.gz") as tar:
        real = {member.name: member.mode for member in tar if member.isfile()}
    assert tree(Path("out")) == real
    for keystore in read_keystores(Path("out/node0/validator_keys")):
        assert json.loads(keystore.content)["crypto"]["kdf"]["params"]["c"] == 262144


def test_create_cluster_on_a_custom_network_with_all_options(charon: Charon) -> None:
    outcome = charon(
        *("create", "cluster", "--name=x", "--cluster-dir=out", "--nodes=4", "--num-validators=2", "--threshold=4"),
        *("--insecure-keys", "--compounding", "--deposit-amounts=8,24,32", "--target-gas-limit=36000000"),
        *("--withdrawal-addresses", f"{ADDRESS},{OTHER}", "--fee-recipient-addresses", OTHER),
        *("--schema-version=v1.11.0", *TESTNET, "--testnet-genesis-timestamp=1700000000"),
    )
    assert outcome.status == 0, outcome
    check_cluster(Path("out"), 4, (LAB,))
    lock = load_lock(Path("out/node3/cluster-lock.json"), silent, networks_extra=(LAB,))
    assert (lock.definition.threshold, lock.definition.version) == (4, "v1.11.0")
    for validator in lock.validators:
        assert (validator.registration.gas_limit, validator.registration.timestamp_s) == (36000000, 1700000000)
        assert [deposit.withdrawal_credentials[0] for deposit in validator.deposits] == [2, 2, 2]
    rows = json.loads(Path("out/node0/deposit-data-24eth.json").read_text())
    assert {row["network_name"] for row in rows} == {"lab"}


def test_create_cluster_from_a_definition_file(charon: Charon, enrs: list[str]) -> None:
    charon("create", "dkg", "--name=def", "--network=hoodi", *ADDRESSES, "--operator-enrs", ",".join(enrs))
    base = ("create", "cluster", "--insecure-keys", "--cluster-dir=out", "--definition-file")
    assert charon(*base, ".charon/cluster-definition.json").status == 0
    check_cluster(Path("out"), 4)
    lock = load_lock(Path("out/node0/cluster-lock.json"), silent)
    original = decode_definition(Path(".charon/cluster-definition.json").read_bytes())
    assert lock.definition.config_hash == original.config_hash
    assert lock.definition.uuid == original.uuid
    error = charon(*base, ".charon/cluster-definition.json", "--nodes=5").error
    assert error == "--nodes: the definition file already says that; leave the flag out"
    assert "definition not found" in charon(*base, "nowhere.json").error
    assert "is not a URL" in charon(*base, "ftp://127.0.0.1/d").error
    signed = VECTORS / "cluster/signed-v1_11_0/cluster-definition.json"
    assert "operators have addresses or signatures" in charon(*base, str(signed)).error
    Path("broken.json").write_bytes(signed.read_bytes().replace(b'"threshold": 3', b'"threshold": 2'))
    assert "verify definition hashes: invalid config hash" in charon(*base, "broken.json").error


def write_interop_keystores(directory: Path, count: int) -> list[bytes]:
    import random

    from charon_actors.crypto.keystore import encode_keystore, encrypt_keystore

    directory.mkdir(parents=True)
    group = [(1000 + index).to_bytes(32, "big") for index in range(count)]
    for index, secret in enumerate(group):
        keystore = encrypt_keystore(secret, f"pass{index}", random.Random(index).randbytes, iterations=16)
        (directory / f"keystore-{index}.json").write_bytes(encode_keystore(keystore))
        (directory / f"keystore-{index}.txt").write_text(f"pass{index}\n")
    return group


def test_split_keeps_keys_and_their_order(charon: Charon) -> None:
    group = write_interop_keystores(Path("keys/deep"), 12)
    arguments = (*CLUSTER, *ADDRESSES, "--nodes=4", "--split-existing-keys", "--split-keys-dir")
    before = time.time()
    outcome = charon(*arguments, "keys")
    assert outcome.status == 0, outcome
    assert "WARNING: Splitting keys" in outcome.stdout
    assert check_cluster(Path("out"), 4) == group
    for secret in group:
        assert f"0x{public_key(secret).hex()} {ADDRESS} {ADDRESS}" in outcome.stderr
        assert secret.hex() not in outcome.stderr + outcome.stdout
    lock = load_lock(Path("out/node0/cluster-lock.json"), silent)
    assert before - 1 <= lock.validators[0].registration.timestamp_s <= time.time()
    assert tree(Path("out")).keys() >= {"node0/deposit-data.json", "node0/deposit-data-1eth.json"}


def test_split_with_different_addresses_needs_numbered_keystores(charon: Charon) -> None:
    group = write_interop_keystores(Path("keys"), 2)
    base = (*CLUSTER, "--nodes=3", "--split-existing-keys", "--split-keys-dir=keys", "--fee-recipient-addresses", ADDRESS)
    assert charon(*base, "--withdrawal-addresses", f"{ADDRESS},{OTHER}").status == 0
    assert check_cluster(Path("out"), 3) == group
    Path("keys/keystore-0.json").rename("keys/keystore-7.json")
    Path("keys/keystore-0.txt").rename("keys/keystore-7.txt")
    assert "out of sequence" in charon(*base, "--withdrawal-addresses", f"{ADDRESS},{OTHER}", "--cluster-dir=x").error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("password", "keys/keystore-1.json: keystore decryption: "),
        ("no password", "keys/keystore-1.txt: password file not found"),
        ("garbage", "keys/keystore-1.json: keystore decryption: "),
        ("twice", "the same key twice"),
        ("empty", "keys: no keys found"),
        ("count", "can't be given when keys are split"),
        ("no directory", "--split-keys-dir: missing"),
    ],
)
def test_split_refuses_what_it_cannot_open(charon: Charon, change: str, error: str) -> None:
    write_interop_keystores(Path("keys"), 2)
    arguments = [*CLUSTER, *ADDRESSES, "--nodes=3", "--split-existing-keys", "--split-keys-dir=keys"]
    keystore, password = Path("keys/keystore-1.json"), Path("keys/keystore-1.txt")
    match change:
        case "password":
            password.write_text("wrong-password-1234")
        case "no password":
            password.unlink()
        case "garbage":
            keystore.write_bytes(b"\xff" * 100)
        case "twice":
            keystore.write_bytes(Path("keys/keystore-0.json").read_bytes())
            password.write_text("pass0")
        case "empty":
            for path in Path("keys").iterdir():
                path.unlink()
        case "count":
            arguments.append("--num-validators=2")
        case "no directory":
            arguments.pop()
    outcome = charon(*arguments)
    assert error in outcome.error
    assert "wrong-password-1234" not in outcome.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("create", "cluster"), "missing --nodes"),
        ((*CLUSTER, *ADDRESSES, "--nodes=3"), "missing --num-validators"),
        ((*CLUSTER, *ADDRESSES, "--nodes=2", "--num-validators=1"), "number of operators is below minimum (2)"),
        ((*CLUSTER, *ADDRESSES, "--nodes=-1", "--num-validators=1"), "number of operators is below minimum (-1)"),
        ((*CLUSTER, *ADDRESSES, "--nodes=257", "--num-validators=1"), "too many operators"),
        ((*SMALL, "--name="), "name not provided"),
        ((*SMALL, "--network=mainnet"), "insecure keys not supported on mainnet"),
        ((*SMALL, "--num-validators=0"), "--num-validators: is out of range"),
        ((*SMALL, "--split-keys-dir=keys"), "given without --split-existing-keys"),
        ((*SMALL, "--threshold=4"), "threshold exceeds number of nodes"),
        (
            (*CLUSTER, "--nodes=3", "--num-validators=1", *without_repeats(["--withdrawal-addresses=" + ADDRESS.lower()])),
            "invalid checksummed address",
        ),
        ((*SMALL, "--cluster-dir=/proc/nowhere"), "/proc/nowhere: cannot write"),
    ],
)
def test_create_cluster_refuses_and_leaves_nothing(charon: Charon, arguments: tuple[str, ...], error: str) -> None:
    assert error in charon(*arguments).error
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("in_the_way", ["node0/cluster-lock.json", "node2/charon-enr-private-key"])
def test_create_cluster_never_touches_an_existing_node(charon: Charon, in_the_way: str) -> None:
    path = Path("out") / in_the_way
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert "existing node directory found" in charon(*SMALL).error
    assert tree(Path("out")).keys() == {in_the_way}
    assert path.read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_create_cluster_leaves_nothing_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    arguments = [a for a in SMALL if a != "--insecure-keys"]
    arguments[arguments.index("--num-validators") + 1] = "100"  # keystores alone take some ten seconds
    process = subprocess.Popen(
        [*CHARON, *arguments], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "Encrypting keystores: 300\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = f"{' '.join(CHARON)} version --verbose | true"
    done = subprocess.run(  # noqa: PLW1510
        ["sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


def test_entry_point_exit_status(tmp_path: Path) -> None:
    def status(*arguments: str) -> Any:
        done = subprocess.run(  # noqa: PLW1510
            [*CHARON, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        return done.returncode, done.stderr.count("\n")

    assert status("version") == (0, 0)
    assert status("enr") == (1, 1)
    assert status("create", "foo") == (1, 1)
