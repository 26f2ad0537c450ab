"""Retry schedules by class of error, and the slow schedule of `waiting`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import (
    BY_REASON,
    EndpointUnreachable,
    IntegrityMismatch,
    ObjectError,
    PermissionRefused,
    PreconditionFailed,
    Refused,
    ServerFault,
    SourceArchived,
    StoreTimeout,
    Throttled,
)
from replication.retries import WAIT_INITIAL_S, WAIT_JITTER, WAIT_MAX_S, next_delay, waiting_delay

ERRORS = st.sampled_from(sorted(BY_REASON.values(), key=lambda error: error.reason))


@pytest.mark.parametrize(
    ("error", "delays"),
    [
        (ServerFault, [5.0, 7.5, 11.25, 16.875, 25.3125, None]),
        (IntegrityMismatch, [5.0, 7.5, 11.25, 16.875, 25.3125, None]),
        (Throttled, [5.0, 7.5, 11.25, 16.875, 25.3125, None]),
        (EndpointUnreachable, [5.0, 7.5, 11.25, 16.875, 25.3125, None]),
        (StoreTimeout, [30.0, 45.0, 67.5, None]),
        (PermissionRefused, [None]),
        (SourceArchived, [None]),
        (PreconditionFailed, [None]),
    ],
)
def test_each_class_of_error_has_its_schedule(error: type[ObjectError], delays: list[float | None]) -> None:
    assert [next_delay(error, failures) for failures in range(1, len(delays) + 1)] == delays


@given(ERRORS, st.integers(0, 1_000_000), st.none() | st.floats(0, 1e12))
def test_retries_of_failures_end_and_never_come_at_once(error: type[ObjectError], failures: int, retry_after_s: float | None) -> None:
    delay = next_delay(error, failures, retry_after_s=retry_after_s)
    if error.retry == "turn":
        assert delay == min(retry_after_s or 0.0, WAIT_MAX_S), "it has not failed, and comes when it was told to"
        return
    assert delay is None or 5.0 <= delay <= WAIT_MAX_S
    assert next_delay(error, 6) is None
    if issubclass(error, Refused):
        assert delay is None


def test_retry_after_is_a_floor_within_bounds() -> None:
    assert next_delay(Throttled, 1, retry_after_s=2.0) == 5.0
    assert next_delay(Throttled, 1, retry_after_s=40.0) == 40.0
    assert next_delay(Throttled, 1, retry_after_s=1e9) == WAIT_MAX_S
    assert next_delay(Throttled, 6, retry_after_s=40.0) is None


def test_waiting_doubles_to_a_quarter_of_an_hour() -> None:
    assert [waiting_delay(rests, 0.0) for rests in range(1, 8)] == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0]


def test_waiting_for_an_archive_doubles_to_more_than_an_hour() -> None:
    delays = [waiting_delay(rests, 0.0, reason="source-archived") for rests in range(1, 9)]
    assert waiting_delay(9, 1.0, reason="source-archived") == 3600.0
    assert delays == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3840.0, 4500.0]


def test_waiting_honours_retry_after() -> None:
    assert waiting_delay(1, 0.5, retry_after_s=300.0) == 300.0
    assert waiting_delay(1, 0.0, retry_after_s=1.0) == 60.0


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_jitter_only_shortens_and_by_a_fifth_at_most(rests: int, fraction: float) -> None:
    full = waiting_delay(rests, 0.0)
    assert WAIT_INITIAL_S * (1 - WAIT_JITTER) <= full * (1 - WAIT_JITTER) <= waiting_delay(rests, fraction) <= full <= WAIT_MAX_S
    assert waiting_delay(rests, fraction) == waiting_delay(rests, fraction)
