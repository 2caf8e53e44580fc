import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.bounded_json import (
    CLUSTER_FILE,
    MAX_DEPTH,
    OBJECT,
    TooDeep,
    check_depth,
    decode_foreign_json,
    decode_json_file,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text('ab{}[]"\\ é', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("k{}", max_size=2), inner, max_size=4),
    max_leaves=30,
)


@given(JSON)
def test_what_is_not_deep_decodes_as_ever(value: object) -> None:
    assert decode_foreign_json(msgspec.json.encode(value), OBJECT) == value


@given(st.binary(max_size=200) | st.text('[]{}":,1 ', max_size=200).map(str.encode))
def test_hostile_bytes_raise_a_value_error_or_decode(data: bytes) -> None:
    try:
        decode_foreign_json(data, OBJECT)
    except ValueError:
        return
    assert msgspec.json.decode(data) is not NotImplemented


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":[', b"[1,{},"])
def test_deep_nesting_is_refused_whatever_the_recursion_limit(opening: bytes) -> None:
    with pytest.raises(TooDeep):
        decode_foreign_json(opening * 100_000, CLUSTER_FILE)
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        nested = b"[" * depth + b"]" * depth
        if depth <= MAX_DEPTH:
            decode_foreign_json(nested, OBJECT)
        else:
            with pytest.raises(TooDeep):
                check_depth(b"[" + nested * 100 + b"]")


def test_a_program_with_a_raised_recursion_limit_survives() -> None:
    """Without the check this ends in a segmentation fault, which no test could catch: hence a process of its own."""
    code = (
        "import sys; sys.setrecursionlimit(10**6)\n"
        "from charon_actors.eth2.beacon_api import AnswerFault, decode_json\n"
        "from charon_actors.bounded_json import HISTORY\n"
        "try: decode_json(b'[' * 10**6, HISTORY)\n"
        "except AnswerFault: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "refused", done.stderr


@pytest.mark.parametrize("short", [b'{"a":1},', b"[],", b"0,"])
def test_a_file_of_very_many_short_values_is_refused_before_it_costs_memory(short: bytes) -> None:
    with pytest.raises(ValueError, match="more than 4000000 values"):
        decode_json_file(b"[" + short * CLUSTER_FILE.max_values + b"0]", CLUSTER_FILE)
