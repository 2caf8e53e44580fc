"""`charon show`: what a file says, for people and for programs; never a secret, never an escape sequence of a file."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charon_actors.cluster.foreign_json import encode_object
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.peers import peers_of
from charon_actors.cluster.registration import encode_overrides
from charon_actors.p2p.peer_id import peer_id_text
from tests.charon_actors.cluster.vectors import CLUSTER, load, real_files
from tests.cli.conftest import Charon, on_a_terminal

SIGNED = CLUSTER / "signed-v1_11_0/cluster-lock.json"
REAL = CLUSTER / "examples/cluster-lock-v1_10_0-dkg-holesky.json"
FILES = sorted(
    path for path in CLUSTER.rglob("*.json") if path.name.startswith(("cluster_", "cluster-", "deposit-data", "keystore"))
)


def described(charon: Charon, *arguments: str) -> Any:
    outcome = charon("show", "--json", *arguments)
    assert (outcome.status, outcome.stderr) == (0, "")
    return json.loads(outcome.stdout)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_vector_can_be_shown_in_both_forms(charon: Charon, path: Path) -> None:
    outcome = charon("show", str(path))
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "not verified; `charon verify` does that" in outcome.stdout.splitlines()[0]
    document = described(charon, str(path))
    assert "verif" not in json.dumps(document)
    stored = json.loads(path.read_text())
    if document["kind"] == "cluster lock":
        definition = stored["cluster_definition"]
        assert len(document["validators"]) == len(stored["distributed_validators"])
        assert [v["public_key"] for v in document["validators"]] == [
            v["distributed_public_key"] for v in stored["distributed_validators"]
        ]
    elif document["kind"] == "cluster definition":
        definition = stored
    else:
        return
    assert [operator["enr"] for operator in document["operators"]] == [operator["enr"] for operator in definition["operators"]]
    assert (document["threshold"], document["num_validators"]) == (definition["threshold"], definition["num_validators"])


def test_the_keys_of_a_lock_are_the_documented_ones(charon: Charon) -> None:
    document = described(charon, str(SIGNED))
    terms = (
        "name uuid version timestamp network fork_version threshold num_operators num_validators dkg_algorithm consensus_protocol"
    )
    terms += " target_gas_limit compounding deposit_amounts_gwei creator operators validators config_hash definition_hash"
    assert list(document) == ["kind", *terms.split(), "lock_hash", "num_node_signatures", "has_signature_aggregate"]
    assert list(document["creator"]) == ["address", "is_signed"]
    operator = "index share_index peer_name peer_id public_key address is_signed enr"
    validator = "index fee_recipient_address withdrawal_address public_key public_shares deposits gas_limit registered_at_s"
    assert all(list(each) == operator.split() for each in document["operators"])
    assert all(list(each) == validator.split() for each in document["validators"])
    assert list(described(charon, str(SIGNED.with_name("cluster-definition.json")))) == ["kind", *terms.split()]


def test_what_is_shown_is_what_the_lock_says(charon: Charon) -> None:
    document, lock, stored = (
        described(charon, str(SIGNED)),
        decode_lock(SIGNED.read_bytes()),
        load("signed-v1_11_0/cluster-lock.json"),
    )
    peers = peers_of(lock.definition)
    assert [(each["index"], each["share_index"], each["peer_name"], each["peer_id"]) for each in document["operators"]] == [
        (peer.index, peer.share_index, peer.name, peer_id_text(peer.peer_id)) for peer in peers
    ]
    assert all(each["is_signed"] for each in document["operators"])
    assert (document["network"], document["lock_hash"]) == ("hoodi", stored["lock_hash"])
    first, row = document["validators"][0], stored["distributed_validators"][0]
    assert first["public_shares"] == row["public_shares"]
    assert [str(deposit["amount_gwei"]) for deposit in first["deposits"]] == [
        each["amount"] for each in row["partial_deposit_data"]
    ]
    assert first["gas_limit"] == row["builder_registration"]["message"]["gas_limit"]
    text = charon("show", str(SIGNED)).stdout
    assert "threshold           3 of 4 operators" in text
    assert "hoodi, fork version 0x10000910" in text
    assert "1 ETH, 32 ETH" in text
    for peer in peers:
        assert peer.name in text


def test_verbose_shows_keys_and_enrs_in_full(charon: Charon) -> None:
    stored = load("signed-v1_11_0/cluster-lock.json")
    enr, key = stored["cluster_definition"]["operators"][0]["enr"], stored["distributed_validators"][1]["distributed_public_key"]
    short, full = charon("show", str(SIGNED)).stdout, charon("show", "--verbose", str(SIGNED)).stdout
    assert enr not in short
    assert key not in short
    assert f"{key[:12]}…{key[-8:]}" in short
    assert enr in full
    assert key in full


def test_an_enr_is_shown_from_the_command_line_and_from_a_file(charon: Charon) -> None:
    known = load("k1-enr.json")
    enr = next(value for value in _texts(known) if value.startswith("enr:"))
    document = described(charon, enr)
    assert document["enr"] == enr
    assert list(document) == ["kind", "enr", "peer_name", "peer_id", "public_key", "node_id", "seq", "ip", "tcp", "udp"]
    Path("enr.txt").write_text(enr + "\n")
    assert described(charon, "enr.txt") == document
    assert charon("show", enr).stdout.startswith("ENR, its signature is right\n")
    assert charon("show", enr[:20] + ("A" if enr[20] != "A" else "B") + enr[21:]).error.startswith("ENR: invalid enr signature; ")


def _texts(node: Any) -> list[str]:
    if isinstance(node, dict | list):
        return [text for child in (node.values() if isinstance(node, dict) else node) for text in _texts(child)]
    return [node] if isinstance(node, str) else []


def test_standard_input_is_shown_too(charon: Charon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(REAL.read_bytes())))
    assert described(charon, "-")["kind"] == "cluster lock"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b" " * (65 << 20))))
    assert charon("show", "-").error.startswith("standard input: larger than 67108864 bytes")


def test_a_deposit_file_is_counted_in_eth(charon: Charon) -> None:
    path = CLUSTER / "signed-v1_11_0/deposit-data.json"
    rows = json.loads(path.read_text())
    document = described(charon, str(path))
    assert document["total_gwei"] == sum(row["amount"] for row in rows)
    assert [each["public_key"] for each in document["deposits"]] == ["0x" + row["pubkey"] for row in rows]
    text = charon("show", str(path)).stdout
    assert f"total    {32 * len(rows)} ETH" in text
    assert rows[0]["withdrawal_credentials"] in text


def test_builder_registrations_are_shown(charon: Charon) -> None:
    registration = decode_lock(SIGNED.read_bytes()).validators[0].registration
    Path("overrides.json").write_bytes(encode_overrides([registration]))
    (row,) = described(charon, "overrides.json")["registrations"]
    assert row["gas_limit"] == registration.gas_limit
    assert str(registration.gas_limit) in charon("show", "overrides.json").stdout


def test_no_secret_is_ever_shown(charon: Charon) -> None:
    (name, key), *_ = real_files("charon-enr-private-key")
    Path("key").write_bytes(key)
    outcome = charon("show", "key")
    assert outcome.error == "key: holds a private key, which is not shown; `charon enr` prints its ENR"
    for path in (CLUSTER / "keystores").glob("keystore*.json"):
        keystore = json.loads(path.read_text())
        for outcome in (charon("show", str(path)), charon("show", str(path), "--json", "--verbose")):
            assert keystore["pubkey"] in outcome.stdout
            for part in ("cipher", "checksum"):
                assert keystore["crypto"][part]["message"] not in outcome.stdout
            assert keystore["crypto"]["kdf"]["params"]["salt"] not in outcome.stdout
    assert key.decode() not in outcome.stdout, name


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(charon: Charon) -> None:
    document = load("signed-v1_11_0/cluster-lock.json")
    evil = "\x1b[2J\x1b]0;title\x07[bold]\r\n\u202eevil\x9b"
    definition = document["cluster_definition"]
    definition.update(name=evil, uuid=evil, timestamp=evil, dkg_algorithm=evil, consensus_protocol=evil)
    definition["operators"][0].update(enr=evil, address=evil)
    definition["validators"][0].update(fee_recipient_address=evil)
    Path("lock.json").write_bytes(encode_object(document))
    for arguments in (["show", "lock.json"], ["show", "lock.json", "--json"], ["verify", "lock.json"]):
        outcome = charon(*arguments)
        printed = outcome.stdout + outcome.stderr
        assert "evil" in printed
        assert not any(not character.isprintable() and character != "\n" for character in printed)
    assert "- (no valid ENR)" in charon("show", "lock.json").stdout
    assert described(charon, "lock.json")["name"] == evil


def test_a_terminal_gets_a_table_with_the_files_text_as_it_is(charon: Charon) -> None:
    document = load("signed-v1_11_0/cluster-lock.json")
    document["cluster_definition"]["validators"][0]["fee_recipient_address"] = "[red]\x1b[31mX"
    Path("lock.json").write_bytes(encode_object(document))
    status, seen = on_a_terminal("show", "lock.json", PYTHONIOENCODING="utf-8", COLUMNS="200", TERM="dumb")
    assert status == 0
    assert b"[red]?[31mX" in seen
    assert b"peer name" in seen


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"hello", b"[" * 100_000, b'{"operators": [3]}', b'{"crypto": {}, "crypto": {}}']
)
def test_what_is_no_file_of_a_cluster_is_one_line(charon: Charon, content: bytes) -> None:
    Path("file").write_bytes(content)
    assert charon("show", "file").error.startswith("file: ")


def test_a_missing_argument_and_a_directory_are_one_line(charon: Charon) -> None:
    assert charon("show").error == "charon show: missing FILE; say which; see `charon show --help`"
    assert charon("show", "").error.startswith("FILE: is empty")
    assert charon("show", ".").error.startswith(".: is a directory, not a file")
    assert 'unexpected argument "b"; besides flags it takes FILE only' in charon("show", "a", "b").error
    assert "unknown flag: --nope" in charon("show", "a", "--nope").error
    shutil.copy(SIGNED, "-lock.json")
    assert charon("show", "--", "-lock.json").status == 0


def test_help_names_the_argument(charon: Charon) -> None:
    text = charon("show", "--help").stdout
    assert text.startswith("Usage: charon show [OPTIONS] FILE\n")
    assert "Arguments:\n  FILE  What to show" in text
    assert charon("verify", "--help").stdout.startswith("Usage: charon verify [OPTIONS] [PATH]\n")
