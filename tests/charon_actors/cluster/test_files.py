"""Definitions and locks against Charon's goldens and against what real Charon wrote: read, hash, write, verify."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from charon_actors.cluster.definition_json import decode_definition, encode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import (
    config_hash,
    definition_hash,
    definition_leaves,
    lock_hash,
    operator_leaves,
    validator_leaves,
    with_definition_hashes,
)
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.merkle import container
from charon_actors.cluster.schema import SCHEMAS, schema_of
from charon_actors.cluster.verify import verify_definition, verify_lock
from charon_actors.eth2.networks import Network
from tests.charon_actors.cluster.vectors import CLUSTER, load, real_files

LAB = Network("lab", 1337, bytes.fromhex("00000001"), 1, b"")  # of the archives with custom network flags
DEFINITIONS = [*CLUSTER.glob("golden/cluster_definition_*.json"), CLUSTER / "signed-v1_11_0/cluster-definition.json"]
DEFINITIONS += CLUSTER.glob("examples/cluster-definition-*.json")
LOCKS = [*CLUSTER.glob("golden/cluster_lock_*.json"), *CLUSTER.glob("examples/cluster-lock-*.json")]
LOCKS += [CLUSTER / "signed-v1_11_0/cluster-lock.json", CLUSTER / "cli-files/cluster-lock.json"]
MODIFIED = CLUSTER / "examples/cluster-lock-v1_0_0-modified.json"
LOCKS.remove(MODIFIED)  # its hashes are wrong on purpose
VERIFYING_LOCKS = [path for path in LOCKS if "golden" not in str(path) and "hash-only" not in path.name]


def _assert_same_file(ours: bytes, theirs: bytes) -> None:
    """Byte for byte, except for files that others than Charon laid out: then the same values."""
    if theirs.startswith(b"{\n  "):
        assert _values(json.loads(ours)) == _values(json.loads(theirs))
    else:
        assert ours == theirs.removesuffix(b"\n")


def _values(value: Any) -> Any:
    """Without what says nothing: null and empty texts."""
    if isinstance(value, dict):
        return {key: _values(inner) for key, inner in value.items() if inner not in (None, "")}
    return [_values(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.name)
def test_definitions_are_read_hashed_and_written_byte_for_byte(path: Path) -> None:
    content = path.read_bytes()
    definition = decode_definition(content)
    assert (config_hash(definition), definition_hash(definition)) == (definition.config_hash, definition.definition_hash)
    _assert_same_file(encode_definition(definition), content)
    assert decode_definition(encode_definition(definition)) == definition


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_are_read_hashed_and_written_byte_for_byte(path: Path) -> None:
    content = path.read_bytes()
    lock = decode_lock(content)
    assert lock_hash(lock) == lock.lock_hash
    _assert_same_file(encode_lock(lock), content)
    assert decode_lock(encode_lock(lock)) == lock


@pytest.mark.parametrize("path", VERIFYING_LOCKS, ids=lambda path: path.name)
def test_signed_locks_verify(path: Path) -> None:
    verify_lock(decode_lock(path.read_bytes()))


def test_a_modified_lock_fails_and_keeps_the_hash_of_the_file() -> None:
    lock = decode_lock(MODIFIED.read_bytes())
    assert lock.lock_hash.hex().startswith("4073fe5423f22cee")
    with pytest.raises(ClusterFault, match="invalid definition: invalid config hash"):
        verify_lock(lock)


@pytest.mark.parametrize("path", [path for path in DEFINITIONS if "golden" not in str(path)], ids=lambda path: path.name)
def test_signed_definitions_verify(path: Path) -> None:
    verify_definition(decode_definition(path.read_bytes()))


def test_all_locks_that_real_charon_wrote_verify_and_are_written_byte_for_byte() -> None:
    for name, content in real_files("cluster-lock.json"):
        lock = decode_lock(content)
        assert encode_lock(lock) == content, name
        if "node0" in name:  # the lock of all nodes is the same
            verify_lock(lock, (LAB,))


def test_all_definitions_that_real_charon_wrote_verify_and_are_written_byte_for_byte() -> None:
    for name, content in real_files("cluster-definition.json"):
        definition = decode_definition(content)
        assert encode_definition(definition) == content, name
        verify_definition(definition)


@pytest.mark.parametrize("version", list(SCHEMAS))
def test_every_leaf_is_the_traced_one(version: str) -> None:
    trace = load("hash-trace.json")[version]
    lock = decode_lock((CLUSTER / f"golden/cluster_lock_{version.replace('.', '_')}.json").read_bytes())
    traced = {name: [bytes.fromhex(chunk) for chunk in chunks] for name, chunks in trace["definition_leaves"]}
    for full in (False, True):
        for name, chunks in definition_leaves(lock.definition, full=full):
            variant = "definition_hash" if full else "config_hash"
            key = next(key for key in (name, f"{name}({variant})", f"{name}({variant} only)") if key in traced)
            assert chunks == traced[key], key
    schema = schema_of(version)
    operator = [chunk for leaf in operator_leaves(schema, lock.definition.operators[0], full=True) for chunk in leaf]
    if not schema.is_legacy_hashed:
        assert operator == traced["operators[0] leaves (informative)"]
    leaves = [chunk.hex() for leaf in validator_leaves(schema, lock.validators[0]) for chunk in leaf]
    assert leaves == _flat(trace["validator[0] leaves"])
    assert container(*validator_leaves(schema, lock.validators[0]))[0].hex() == trace["validator[0] root"]
    assert lock.lock_hash.hex() == trace["lock_hash"]


def _flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if len(value) == 64 else []
    return [chunk for element in value for chunk in _flat(element)]


@pytest.mark.parametrize("case", load("edge-hashes.json")["cases"], ids=lambda case: case["name"])
def test_edge_hashes(case: dict[str, Any]) -> None:
    content = json.dumps(case["definition"]).encode()
    definition = with_definition_hashes(decode_definition(content))
    assert definition.config_hash.hex() == case["config_hash"]
    assert definition.definition_hash.hex() == case["definition_hash"]


def test_go_escapes_html_characters_in_strings() -> None:
    golden = decode_definition((CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes())
    name = "<a & b>\u2028é\x01\b"
    content = encode_definition(replace(golden, name=name))
    assert b'"name": "\\u003ca \\u0026 b\\u003e\\u2028\xc3\xa9\\u0001\\b"' in content
    assert decode_definition(content).name == name


def test_reading_is_as_lenient_as_go_where_that_cannot_hurt() -> None:
    golden = json.loads((CLUSTER / "golden/cluster_definition_v1_10_0.json").read_text())
    expected = decode_definition(json.dumps(golden).encode())
    golden["NAME"] = golden.pop("name")
    golden["config_hash"] = golden["config_hash"].removeprefix("0x").upper()
    golden["unknown"] = {"x": [1.5]}
    assert decode_definition(json.dumps(golden).encode() + b"  \n") == expected


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (b'{"version": "v1.10.0", "VERSION": "v1.11.0"}', "twice"),
        (b'\xef\xbb\xbf{"version": "v1.10.0"}', "no valid JSON"),
        (b'{"version": "v1.10.0"} x', "no valid JSON"),
        (b'{"version": "v1.10.0", "name": "\xff"}', "no UTF-8"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "name": "\\ud800"}', "no valid Unicode"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "threshold": 3.0}', "whole number"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "threshold": "3"}', "whole number"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "threshold": true}', "whole number"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "threshold": -1}', "out of range"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "threshold": 18446744073709551616}', "out of range"),
        (b'{"version": "v1.10.0", "fork_version": "0X00000000"}', "hex digits"),
        (b'{"version": "v1.10.0", "fork_version": "0x000"}', "hex digits"),
        (b'{"version": "v1.10.0", "fork_version": "0x000000"}', "invalid fork version"),
        (b'{"version": "v1.10.0", "fork_version": "0x00000000", "deposit_amounts": [32000000000]}', "a text"),
        (b'{"version": "v1.12.0"}', "unsupported definition version"),
        (b"[]", "no JSON object"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"threshold": ' + b"9" * 5000 + b"}", "no valid JSON"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_hostile_definitions_are_refused_with_the_reason(change: bytes, fault: str) -> None:
    with pytest.raises(ClusterFault, match=fault):
        decode_definition(change)


def test_a_file_above_the_limit_is_not_parsed() -> None:
    with pytest.raises(ClusterFault, match="larger than"):
        decode_lock(b" " * ((64 << 20) + 1))
