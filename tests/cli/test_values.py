"""Value syntax, as Charon's flag parser has it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.cli.options.values import Kind, Value, ValueFault, duration_text, parse_value, strip_quotes


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.TEXT, " a,b ", " a,b "),
        (Kind.TEXTS, "a, b ,c", ("a", "b", "c")),
        (Kind.TEXTS, '"a,b",c', ("a,b", "c")),
        (Kind.TEXTS, "a,\n b", ("a", "b")),
        (Kind.TEXTS, "", ()),
        (Kind.TEXTS, "a,,b", ("a", "", "b")),
        (Kind.NUMBER, "10", 10),
        (Kind.NUMBER, "010", 8),
        (Kind.NUMBER, "0o10", 8),
        (Kind.NUMBER, "0x1F", 31),
        (Kind.NUMBER, "0b101", 5),
        (Kind.NUMBER, "1_000", 1000),
        (Kind.NUMBER, "-0x10", -16),
        (Kind.NUMBER, "0", 0),
        (Kind.NATURAL, "0x1_0", 16),
        (Kind.NATURAL, "18446744073709551615", 2**64 - 1),
        (Kind.NATURAL, "017", 15),
        (Kind.NUMBERS, "1, 31", (1, 31)),
        (Kind.NUMBERS, "010", (10,)),
        (Kind.NATURALS, "", ()),
        (Kind.SWITCH, "TRUE", True),
        (Kind.SWITCH, "f", False),
        (Kind.DURATION, "1h30m", 5400.0),
        (Kind.DURATION, "1.5s", 1.5),
        (Kind.DURATION, "300ms", 0.3),
        (Kind.DURATION, "2us", 2e-6),
        (Kind.DURATION, "2µs", 2e-6),
        (Kind.DURATION, "-1m", -60.0),
        (Kind.DURATION, "0", 0.0),
        (Kind.DURATION, ".5s", 0.5),
    ],
)
def test_good_values(kind: Kind, text: str, value: Value) -> None:
    assert parse_value(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Kind.NUMBER, text) for text in ("", " 1", "1.0", "08", "0x", "1__0", "_1", "abc", "9" * 5000, str(2**63), "１")),
        *((Kind.NATURAL, text) for text in ("-1", "+1", "", str(2**64), "09")),
        *((Kind.NUMBERS, text) for text in ("1,,2", "0x1", "a", "1.5", str(2**63))),
        (Kind.NATURALS, "1,-1"),
        *((Kind.SWITCH, text) for text in ("", "yes", "no", "on", "tRUE", " true")),
        *((Kind.DURATION, text) for text in ("", "30", "1d", "1 s", "s", "1m-2s", "9" * 30 + "h", "1h" * 100, "１s", "-")),
        (Kind.TEXTS, '"a'),
        (Kind.TEXT, "x" * (1 << 20) + "x"),
    ],
)
def test_bad_values(kind: Kind, text: str) -> None:
    with pytest.raises(ValueFault):
        parse_value(kind, text)


@given(st.sampled_from(list(Kind)), st.text(max_size=200))
def test_any_text_is_a_value_or_a_value_fault(kind: Kind, text: str) -> None:
    with contextlib.suppress(ValueFault):
        parse_value(kind, text)


@given(st.integers(0, 10**6))
def test_durations_are_written_as_they_are_read(seconds: int) -> None:
    assert parse_value(Kind.DURATION, duration_text(float(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "stripped"),
    [('"a,b"', "a,b"), ("'a'", "a"), (' "a" ', "a"), ('"a","b"', '"a","b"'), ('"', '"'), ("", ""), ("a", "a")],
)
def test_quotes_that_docker_leaves_are_taken_away(text: str, stripped: str) -> None:
    assert strip_quotes(text) == stripped
