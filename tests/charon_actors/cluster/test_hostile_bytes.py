"""Whatever stands in a file: the parser answers with a value or with its one documented fault."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.cluster.definition_json import decode_definition, encode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import config_hash
from charon_actors.cluster.key_lock import decode_key_lock, encode_key_lock
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.verify import verify_definition, verify_lock_signatures
from tests.charon_actors.cluster.vectors import CLUSTER

LOCK = (CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes()
DOCUMENT = json.loads(LOCK)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=80)
    | st.sampled_from(["", "0x", "0x00", "v1.10.0", "enr:", "0x" + "ff" * 48, "0x" + "c0" + "00" * 47, "9" * 30])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [prefix, *(path for key, child in children for path in paths(child, (*prefix, key)))]


PATHS = [path for path in paths(DOCUMENT) if path]


@st.composite
def mutated_locks(draw: st.DrawFn) -> bytes:
    """The real lock with some values replaced by anything, or taken away."""
    document = json.loads(LOCK)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        target = document
        try:
            for key in path[:-1]:
                target = target[key]
            if draw(st.booleans()):
                target[path[-1]] = draw(anything)
            else:
                del target[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken that path away
    return json.dumps(document).encode("utf-8", "surrogatepass")


@given(mutated_locks())
@settings(max_examples=300, deadline=None)
def test_mutated_locks_end_in_a_value_or_a_fault(content: bytes) -> None:
    try:
        lock = decode_lock(content)
        encode_lock(lock)
        verify_lock_signatures(lock)
    except ClusterFault:
        pass


@given(anything.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")) | st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_anything_ends_in_a_value_or_a_fault(content: bytes) -> None:
    for decode in (decode_definition, decode_lock, decode_key_lock):
        with contextlib.suppress(ClusterFault):
            decode(content)


@given(mutated_locks())
@settings(max_examples=100, deadline=None)
def test_a_definition_that_was_read_is_written_so_that_it_reads_the_same(content: bytes) -> None:
    inner = json.dumps(json.loads(content).get("cluster_definition")).encode()
    try:
        definition = decode_definition(inner)
        written = encode_definition(definition)
    except ClusterFault:
        return
    again = decode_definition(written)
    assert encode_definition(again) == written
    assert config_hash(again) == again.config_hash
    with contextlib.suppress(ClusterFault):
        verify_definition(again)


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps({"timestamp": text}).encode()),
)
def test_key_locks_end_in_a_value_or_a_fault(content: bytes) -> None:
    try:
        found = decode_key_lock(content)
    except ClusterFault:
        return
    assert abs(decode_key_lock(encode_key_lock(found)).timestamp_s - found.timestamp_s) < 1e-3
