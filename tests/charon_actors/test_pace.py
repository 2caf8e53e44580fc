"""Buckets of tokens."""

from hypothesis import given
from hypothesis import strategies as st

from charon_actors.pace import Bucket


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 5)), max_size=60), st.floats(5, 20), st.floats(0.1, 5))
def test_a_bucket_lets_no_more_through_than_it_says(steps: list[tuple[float, float]], burst: float, per_s: float) -> None:
    bucket, now, passed = Bucket(burst, per_s), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        passed += cost if bucket.take(now, cost) else 0.0
        assert passed <= (burst + per_s * now) * (1 + 1e-9) + 1e-6


def test_who_spends_more_than_there_is_waits_for_all_of_it() -> None:
    bucket = Bucket(10, 2)
    assert [bucket.spend(0.0, 10), bucket.spend(0.0, 4), bucket.spend(1.0, 2), bucket.spend(4.0, 4)] == [0.0, 2.0, 2.0, 1.0]
    assert not bucket.take(3.0), "a clock that steps back gives nothing"
