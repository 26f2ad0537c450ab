"""The token bucket over any sequence of requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.rate import Bucket, take


@given(rate=st.integers(1, 10), gaps=st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 5.0]) | st.floats(0, 3), max_size=60))
def test_no_interval_sees_more_than_its_rate_and_one_seconds_worth(rate: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(rate, 0.0), 0.0, list[float]()
    for gap in gaps:
        now += gap
        bucket, wait_s = take(bucket, rate, now)
        taken += [] if wait_s else [now]
        assert wait_s <= 1 / rate
        assert wait_s == 0 or take(bucket, rate, now + wait_s * (1 + 1e-9) + 1e-9)[1] == 0, "the told wait is enough"
    for first, since in enumerate(taken):
        for last, until in enumerate(taken[first:], 1):
            assert last <= rate * (until - since + 1) + 1e-6
